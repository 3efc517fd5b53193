"""Whole exports of tiny networks: what lies in the folder when all went well, and when something did not."""

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from ocr_onnx import model_store
from ocr_onnx.data import F32Array
from ocr_onnx.errors import DependencyError, ModelContractError, ModelError
from ocr_onnx.manifest import (
    InputContract,
    Manifest,
    ModelSource,
    ModelSpec,
    SourceFile,
    Stage,
    read_manifest,
)
from ocr_onnx.options import ModelOptions, RuntimeOptions
from ocr_onnx.runtime import Session
from ocr_onnx_export import parity, publish
from ocr_onnx_export.convert import convert
from ocr_onnx_export.errors import ConversionError, SourceFormatError, UnsupportedOpError
from ocr_onnx_export.paddle_route import PYTHON_VARIABLE, PaddleTool, TimedOutput
from ocr_onnx_export.rewrite import FOR_STAGE, rewrite
from ocr_onnx_export.routes import convert_source
from ocr_onnx_export.sources import read_source
from tests.export.pir_programs import CHARACTERS, PirBuilder, tiny_det, tiny_rec


@pytest.fixture
def rec_folder(tmp_path: Path) -> Path:
    folder = tiny_rec().save(tmp_path / "My_rec")
    (folder / "keys.txt").write_text("\n".join(CHARACTERS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def no_paddle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "no-such-python"))


def test_export_of_a_fine_tuned_model(rec_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    published = convert(rec_folder, out)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "manifest.toml",
        "my-rec.golden.npz",
        "my-rec.onnx",
        "reports/my-rec.json",
        "reports/my-rec.md",
    }
    assert published.path == out / "my-rec.onnx"
    assert published.spec.classes == 4
    assert json.loads((out / "reports" / "my-rec.json").read_text())["comparisons"] == []
    assert "not compared with Paddle" in (out / "reports" / "my-rec.md").read_text()


def test_what_the_file_says_of_itself(rec_folder: Path, tmp_path: Path) -> None:
    published = convert(rec_folder, tmp_path / "out")
    model = onnx.load(published.path)
    assert model.graph.name == "my-rec"
    assert all(node.name for node in model.graph.node)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "stage": "rec",
        "source": "My_rec",
        "converter": "ocr-onnx light route",
        "character": "a\nb",
    }


def test_published_folder_is_a_model_dir(rec_folder: Path, tmp_path: Path) -> None:
    published = convert(rec_folder, tmp_path / "out")
    files = model_store.resolve(ModelOptions(name="my-rec", folder=str(tmp_path / "out"), offline=True))
    assert files.rec.path == published.path
    assert files.det.spec.name == "ppocrv4-mobile-det"


def test_known_model_keeps_its_name_and_licence(rec_folder: Path, tmp_path: Path) -> None:
    sources = (ModelSource("pir", "https://example.org/", (SourceFile("inference.json", "0" * 64, 7),)),)
    known = ModelSpec(
        "known-rec", "rec", "known-rec.onnx", license="MIT", urls=("https://example.org/a",), sources=sources
    )
    published = convert(rec_folder, tmp_path / "out", known=known)
    manifest = read_manifest(tmp_path / "out" / "manifest.toml")
    assert manifest.models == (published.spec,)
    assert (published.spec.license, published.spec.urls, published.spec.sources) == ("MIT", (), sources)
    assert manifest.sets == ()


def test_second_export_into_the_same_folder(rec_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(rec_folder, out)
    convert(tiny_det().save(tmp_path / "My_det"), out)
    convert(rec_folder, out)
    manifest = read_manifest(out / "manifest.toml")
    assert [model.name for model in manifest.models] == ["my-rec", "my-det"]
    assert [entry.name for entry in manifest.sets] == ["my-rec", "my-det"]


def test_same_source_gives_the_same_bytes(rec_folder: Path, tmp_path: Path) -> None:
    first, second = (convert(rec_folder, tmp_path / name) for name in ("a", "b"))
    assert first.path.read_bytes() == second.path.read_bytes()


def test_rewrite_is_applied_last(rec_folder: Path, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto, stage: Stage) -> onnx.ModelProto:
        model.graph.name += f"-{stage}"
        return model

    assert onnx.load(convert(rec_folder, tmp_path / "out", rewrite=rename).path).graph.name == "my-rec-rec"


def rewritten(model: onnx.ModelProto, stage: Stage) -> onnx.ModelProto:
    return rewrite(model, FOR_STAGE[stage])


def test_rewritten_export_takes_bytes_and_says_so(rec_folder: Path, tmp_path: Path) -> None:
    plain = convert(rec_folder, tmp_path / "plain")
    other = convert(rec_folder, tmp_path / "out", rewrite=rewritten)
    assert plain.spec.input == InputContract(
        "x", "NCHW", "BGR", (1, 3, 48, 32), (6, 3, 48, 320), (8, 3, 48, 3200)
    )
    assert other.spec.input is not None
    assert (other.spec.input.layout, other.spec.input.opt_shape) == ("NHWC", (6, 48, 320, 3))
    report = parity.compare(
        read_source(rec_folder), "rec", {"rewritten": other.path}, [(2, 48, 64)], tool=FakePaddle(plain.path)
    )
    assert report.passed


def broken_program(folder: Path) -> None:
    (folder / "inference.json").write_text("{")


def truncated(folder: Path) -> None:
    path = folder / "inference.pdiparams"
    path.write_bytes(path.read_bytes()[:-1])


def foreign_dictionary(folder: Path) -> None:
    (folder / "keys.txt").write_text("a\nb\nc\n", encoding="utf-8")


def wrong_stage(folder: Path) -> None:
    (folder / "inference.yml").write_text("PostProcess: {name: DBPostProcess}")


def unknown_op(folder: Path) -> None:
    path = folder / "inference.json"
    path.write_text(path.read_text().replace("1.softmax", "1.hardmax"))


def not_finite(folder: Path) -> None:
    net = tiny_rec()
    net.parameters["linear_0.w_0"][:] = np.nan
    net.save(folder)


@pytest.mark.parametrize(
    ("spoil", "error", "problem"),
    [
        (broken_program, SourceFormatError, "is not JSON"),
        (truncated, SourceFormatError, "bytes are missing"),
        (foreign_dictionary, ModelContractError, "dictionary of 3"),
        (wrong_stage, ModelContractError, "calls itself a det model"),
        (unknown_op, UnsupportedOpError, "hardmax"),
        (not_finite, ConversionError, "not finite"),
    ],
)
def test_failure_leaves_nothing(
    rec_folder: Path, tmp_path: Path, spoil: Callable[[Path], None], error: type[ModelError], problem: str
) -> None:
    spoil(rec_folder)
    with pytest.raises(error, match=problem):
        convert(rec_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failure_leaves_an_older_export_alone(rec_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(rec_folder, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    not_finite(rec_folder)
    with pytest.raises(ConversionError):
        convert(rec_folder, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert {path.name for path in out.iterdir()} == {
        "manifest.toml",
        "my-rec.golden.npz",
        "my-rec.onnx",
        "reports",
    }


def test_disk_full(rec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match="No space left on device"):
        convert(rec_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_out_is_a_file(rec_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ModelError, match="can't be written"):
        convert(rec_folder, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_network_of_no_stage(tmp_path: Path) -> None:
    net = PirBuilder()
    net.fetch(net.op("1.relu", [net.feed([-1])], [-1]), [-1])
    with pytest.raises(ModelContractError, match="1 dimensions"):
        convert(net.save(tmp_path / "net"), tmp_path / "out")


def test_invalid_onnx_is_refused(rec_folder: Path) -> None:
    def spoil(model: onnx.ModelProto, _: Stage) -> onnx.ModelProto:
        model.graph.node[0].op_type = "NoSuchOperator"
        return model

    with pytest.raises(ConversionError, match="invalid ONNX"):
        convert_source(read_source(rec_folder), "m", rewrite=spoil)


@pytest.mark.usefixtures("no_paddle")
@pytest.mark.parametrize("verify", [True, False])
def test_paddle_is_needed_and_missing(rec_folder: Path, tmp_path: Path, verify: bool) -> None:
    route = "light" if verify else "paddle2onnx"
    with pytest.raises(DependencyError, match=PYTHON_VARIABLE):
        convert(rec_folder, tmp_path / "out", route=route, verify=verify)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_paddle")
def test_legacy_program_needs_paddle_on_both_routes(rec_folder: Path, tmp_path: Path) -> None:
    (rec_folder / "inference.json").rename(rec_folder / "inference.pdmodel")
    with pytest.raises(DependencyError, match=PYTHON_VARIABLE):
        convert(rec_folder, tmp_path / "out")


def crashing_python(folder: Path) -> PaddleTool:
    script = folder / "python"
    script.write_text("#!/bin/sh\necho loading\necho Aborted: no such op >&2\nexit 134\n")
    script.chmod(0o755)
    return PaddleTool(str(script))


def test_a_crash_of_paddle_is_an_error_with_its_last_words(rec_folder: Path, tmp_path: Path) -> None:
    tool = crashing_python(tmp_path)
    program, parameters = rec_folder / "inference.json", rec_folder / "inference.pdiparams"
    with pytest.raises(ConversionError, match="Aborted: no such op"):
        tool.convert(program, parameters)
    with pytest.raises(ConversionError, match="Aborted: no such op"):
        tool.upgrade(program, parameters, tmp_path)
    with pytest.raises(ConversionError, match="Aborted: no such op"):
        tool.infer(program, parameters, [np.zeros((1, 3, 48, 8), np.float32)])
    with pytest.raises(DependencyError):
        tool.versions()


@dataclass
class FakePaddle:
    """Answers like the ONNX file at `path`, off by `error` and moved by `shift` classes."""

    path: Path
    error: float = 0.0
    shift: int = 0

    def versions(self) -> dict[str, str]:
        return {"paddlepaddle": "3.2.2"}

    def infer(self, program: Path, params: Path, feeds: Sequence[F32Array]) -> list[TimedOutput]:
        assert program.is_file()
        assert params.is_file()
        session = Session(self.path, RuntimeOptions())
        outputs = (np.roll(session({"x": feed})[0], self.shift, axis=-1) for feed in feeds)
        return [TimedOutput(output + np.float32(self.error), 1.0) for output in outputs]


@pytest.mark.parametrize(
    ("error", "shift", "passed", "verdict"),
    [
        (0.0, 0, True, "equal to Paddle"),
        (5e-5, 0, True, "equal to Paddle"),
        (1e-3, 0, False, "NOT equal"),
        (0.0, 1, False, "NOT equal"),
    ],
)
def test_comparison(
    rec_folder: Path, tmp_path: Path, error: float, shift: int, passed: bool, verdict: str
) -> None:
    path = convert(rec_folder, tmp_path / "out").path
    tool = FakePaddle(path, error, shift)
    report = parity.compare(read_source(rec_folder), "rec", {"light": path}, [(2, 48, 64)], tool=tool)
    assert report.passed is passed
    assert verdict in report.to_markdown()
    assert [one["kind"] for one in json.loads(report.to_json())["comparisons"]] == ["noise", "text"]


def test_comparison_of_det_counts_mask_pixels(tmp_path: Path) -> None:
    folder = tiny_det().save(tmp_path / "det")
    path = convert(folder, tmp_path / "out").path
    report = parity.compare(
        read_source(folder), "det", {"light": path}, [(1, 64, 64)], tool=FakePaddle(path, error=1.0)
    )
    assert report.comparisons[0].agreement < 0.9
    assert report.comparisons[0].max_abs == pytest.approx(1.0, rel=1e-3)


def test_verified_export_fails_where_paddle_differs(
    rec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = convert(rec_folder, tmp_path / "first").path
    monkeypatch.setattr(PaddleTool, "find", lambda: FakePaddle(path, error=0.1))
    with pytest.raises(ConversionError, match=r"differs from Paddle by 1\.0e-01"):
        convert(rec_folder, tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(PaddleTool, "find", lambda: FakePaddle(path))
    assert convert(rec_folder, tmp_path / "out", verify=True).report.passed


def test_outputs_of_different_shape_are_an_error(rec_folder: Path, tmp_path: Path) -> None:
    det = convert(tiny_det().save(tmp_path / "det"), tmp_path / "out").path
    rec = convert(rec_folder, tmp_path / "out").path
    with pytest.raises(ConversionError, match="where Paddle puts out"):
        parity.compare(read_source(rec_folder), "rec", {"light": rec}, [(1, 48, 64)], tool=FakePaddle(det))


def test_drawn_text_is_dark_on_light_and_repeatable() -> None:
    first, second = (parity.samples([(2, 48, 320)], seed=5)[1].images for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.min() < 120
    assert np.median(first) > 190


def test_manifest_comes_back_from_its_toml(tmp_path: Path) -> None:
    spec = ModelSpec(
        'odd "name" \\ 名\t',
        "det",
        "a.onnx",
        official="A",
        sha256="0" * 64,
        license="Apache-2.0",
        origin="somewhere",
        precision="fp32",
        opset=17,
        urls=("https://example.org/a.onnx",),
        sources=(ModelSource("tar", None, (SourceFile("a.tar"),)),),
        input=InputContract("x", "NCHW", "BGR", (1, 3, 32, 32), (1, 3, 64, 64), (1, 3, 96, 96)),
    )
    manifest = Manifest((spec,), (publish.set_with(spec),))
    path = tmp_path / "manifest.toml"
    path.write_text(publish.to_toml(manifest), encoding="utf-8")
    assert read_manifest(path) == manifest


@pytest.mark.parametrize(
    ("text", "name"), [("PP-OCRv4_mobile_det", "pp-ocrv4-mobile-det"), ("../..", "model"), ("我的", "model")]
)
def test_file_names_are_plain(text: str, name: str) -> None:
    assert publish.file_name(text) == name
