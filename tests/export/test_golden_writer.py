"""Golden tensors that exports leave beside their models: where they come from, and what they tell."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ocr_onnx.data import F32Array
from ocr_onnx.errors import DependencyError
from ocr_onnx.golden import NO_LABELS, TOLERANCE, Rehearsal, check_file
from ocr_onnx.golden_file import Answer, path_beside, read
from ocr_onnx.manifest import STAGES, Stage
from ocr_onnx.model_store import embedded_dir, load_manifest
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session
from ocr_onnx_export import golden
from ocr_onnx_export.convert import convert
from ocr_onnx_export.errors import ConversionError
from ocr_onnx_export.from_onnx import convert_onnx
from ocr_onnx_export.paddle_route import PaddleTool, TimedOutput
from ocr_onnx_export.rewrite import FOR_STAGE, rewrite
from ocr_onnx_export.sources import read_source
from tests.export.pir_programs import CHARACTERS, tiny_det, tiny_rec

VARIABLE = "OCR_ONNX_PADDLE_MODELS"  # names the folder that has paddle/OFFICIAL_NAME/


@pytest.fixture
def rec_folder(tmp_path: Path) -> Path:
    folder = tiny_rec().save(tmp_path / "My_rec")
    (folder / "keys.txt").write_text("\n".join(CHARACTERS) + "\n", encoding="utf-8")
    return folder


def rewritten(model: onnx.ModelProto, stage: Stage) -> onnx.ModelProto:
    return rewrite(model, FOR_STAGE[stage])


@dataclass
class FakePaddle:
    """Answers like the stock ONNX file at `path`, off by `error`, and counts what it is asked."""

    path: Path
    error: float = 0.0
    feeds: list[F32Array] = field(default_factory=list)

    def versions(self) -> dict[str, str]:
        return {"paddlepaddle": "1.2.3", "paddle2onnx": "4.5.6"}

    def infer(self, program: Path, params: Path, feeds: Sequence[F32Array]) -> list[TimedOutput]:
        assert program.is_file()
        assert params.is_file()
        self.feeds += feeds
        session = Session(self.path, RuntimeOptions())
        return [TimedOutput(session({"x": feed})[0] + np.float32(self.error), 1.0) for feed in feeds]


def passes(path: Path, stage: Stage) -> bool:
    checks = check_file("m", stage, path)
    return checks is not None and all(check.passed for check in checks)


@pytest.mark.parametrize("stage", ["det", "rec"])
@pytest.mark.parametrize("rewrites", [False, True])
def test_an_export_passes_its_golden_tensors(
    stage: Stage, rewrites: bool, rec_folder: Path, tmp_path: Path
) -> None:
    folder = rec_folder if stage == "rec" else tiny_det().save(tmp_path / "My_det")
    path = convert(folder, tmp_path / "out", rewrite=rewritten if rewrites else None).path
    assert passes(path, stage)
    truth = read(path_beside(path)).truth
    assert truth.startswith("the graph before rewriting, onnxruntime")


def test_a_rewritten_file_is_compared_with_the_graph_before(rec_folder: Path, tmp_path: Path) -> None:
    plain = convert(rec_folder, tmp_path / "plain").path
    other = convert(rec_folder, tmp_path / "other", rewrite=rewritten).path
    assert plain.read_bytes() != other.read_bytes()
    assert path_beside(plain).read_bytes() == path_beside(other).read_bytes()


def test_paddle_is_the_truth_where_it_takes_part(
    rec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = FakePaddle(convert(rec_folder, tmp_path / "plain").path)
    monkeypatch.setattr(PaddleTool, "find", lambda: tool)
    path = convert(rec_folder, tmp_path / "out", verify=True).path
    made = read(path_beside(path))
    assert made.truth == "paddlepaddle 1.2.3 without oneDNN"
    assert any(np.array_equal(feed[0], made.tensor) for feed in tool.feeds)
    assert passes(path, "rec")


def test_a_float32_file_that_differs_is_refused(rec_folder: Path, tmp_path: Path) -> None:
    path = convert(rec_folder, tmp_path / "out").path
    path_beside(path).unlink()
    beside = golden.onnx_truth(path.read_bytes(), "rec")

    def off(inputs: Sequence[Rehearsal]) -> list[Answer]:
        return [answer._replace(probs=answer.probs * np.float32(0.99)) for answer in beside.ask(inputs)]

    with pytest.raises(ConversionError, match=r"differs by .* from another"):
        golden.write_beside(path, "rec", golden.Truth("another", off))
    assert not path_beside(path).exists()
    golden.write_beside(path, "rec", golden.Truth("another", off), "fp16")
    assert TOLERANCE < read(path_beside(path)).tolerance <= 0.0101 * golden.LOWER_PRECISION_SLACK
    assert passes(path, "rec")


def test_lower_precision_may_turn_pixels_near_the_threshold(tiny_det: Path) -> None:
    beside = golden.onnx_truth(tiny_det.read_bytes(), "det")

    def off(inputs: Sequence[Rehearsal]) -> list[Answer]:
        return [answer._replace(probs=answer.probs + np.float32(0.03)) for answer in beside.ask(inputs)]

    golden.write_beside(tiny_det, "det", golden.Truth("another", off), "fp16")
    assert read(path_beside(tiny_det)).tolerance == pytest.approx(0.06, rel=0.01)
    assert passes(tiny_det, "det")


def test_a_model_that_decides_otherwise_gets_none(rec_folder: Path, tmp_path: Path) -> None:
    path = convert(rec_folder, tmp_path / "out").path
    path_beside(path).unlink()
    beside = golden.onnx_truth(path.read_bytes(), "rec")

    def other(inputs: Sequence[Rehearsal]) -> list[Answer]:
        return [answer._replace(labels=(answer.labels + 1) % 4) for answer in beside.ask(inputs)]

    golden.write_beside(path, "rec", golden.Truth("another", other))
    assert not path_beside(path).exists()


def test_the_surest_picture_is_kept() -> None:
    asked: list[Rehearsal] = []

    def ask(inputs: Sequence[Rehearsal]) -> list[Answer]:
        asked.extend(inputs)
        sure = [0.6, 0.7, 0.99, 0.8, 0.6, 0.6]
        return [Answer(np.array([1 - p, p], np.float32), NO_LABELS) for p in sure]

    made = golden.make("cls", golden.Truth("me", ask), ())
    assert len(asked) == len(golden.TEXTS)
    np.testing.assert_array_equal(made.image, asked[2].image)
    assert (made.text, made.truth) == ("180", "me")
    assert made.answer.probs[1] == pytest.approx(0.99, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_pictures_are_drawn_alike_and_have_to_be_resized(stage: Stage) -> None:
    first, second, other = (golden.draw(stage, text) for text in ("ab 12", "ab 12", "cd 34"))
    np.testing.assert_array_equal(first, second)
    assert other.shape != first.shape or (other != first).any()
    assert first.shape[0] in (40, 100)
    assert first.min() < 80
    assert np.median(first) > 200


def test_same_export_gives_the_same_bytes(rec_folder: Path, tmp_path: Path) -> None:
    first, second = (path_beside(convert(rec_folder, tmp_path / name).path) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.export
@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set")
@pytest.mark.parametrize("name", ["ppocrv4-mobile-det", "ppocrv4-mobile-rec", "ppocr-mobile-v2-cls"])
def test_embedded_golden_tensors_can_be_made_again(name: str, tmp_path: Path) -> None:
    spec = load_manifest().model(name)
    source = read_source(Path(os.environ[VARIABLE]) / "paddle" / str(spec.official))
    try:
        truth = golden.paddle_truth(source, spec.stage)
    except DependencyError as error:
        pytest.skip(str(error))
    path = Path(shutil.copy(embedded_dir() / spec.file, tmp_path))
    golden.write_beside(path, spec.stage, truth)
    have, want = read(path_beside(path)), read(path_beside(embedded_dir() / spec.file))
    assert (have.truth, have.text) == (want.truth, want.text)
    np.testing.assert_array_equal(have.answer.labels, want.answer.labels)
    np.testing.assert_allclose(have.answer.probs, want.answer.probs, atol=TOLERANCE)


def test_an_own_onnx_file_gets_golden_tensors(tiny_rec: Path, tmp_path: Path) -> None:
    assert passes(convert_onnx(tiny_rec, tmp_path / "out").path, "rec")


def test_a_file_of_a_fixed_size_gets_none(tmp_path: Path) -> None:
    shape = [1, 3, 64, 64]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], "mean", axes=[1], keepdims=1),
            helper.make_node("Sigmoid", ["mean"], ["map"], "map"),
        ],
        "fixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, 64, 64])],
    )
    path = tmp_path / "fixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    golden.write_beside(path, "det", golden.onnx_truth(path.read_bytes(), "det"))
    assert not path_beside(path).exists()
