"""FP16 is for GPUs, for FP16 files, and for those that gave FP32's answers there."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ocr_onnx import Engine, agreement, contract, fp16, model_store, recognize, runtime
from ocr_onnx.agreement import Agreement, Subject
from ocr_onnx.errors import ModelError, OptionError
from ocr_onnx.manifest import GateResult, ModelSpec, Stage
from ocr_onnx.model_store import ModelFile, ModelFiles
from ocr_onnx.options import ModelOptions, RuntimeOptions
from ocr_onnx.recognize import CtcSteps
from ocr_onnx.runtime import Device, open_model
from ocr_onnx_export.precision import to_half
from tests.conftest import Run

HALF = RuntimeOptions("cuda:0", precision="fp16")
GATES = (GateResult("drawn", "equal lines", 400, 1.0, 1.0),)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def embedded(stage: Stage) -> ModelFile:
    files = model_store.resolve(ModelOptions(offline=True))
    return {"det": files.det, "rec": files.rec, "cls": files.cls}[stage]


@pytest.fixture
def half(tmp_path: Path) -> Callable[[Stage], ModelFile]:
    """Return a real FP16 file of an embedded model, with the manifest entry that an export writes."""

    def make(stage: Stage) -> ModelFile:
        whole = embedded(stage)
        path = tmp_path / f"{whole.path.stem}-fp16.onnx"
        onnx.save(to_half(onnx.load(whole.path)), path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        spec = replace(whole.spec, file=path.name, precision="fp16", sha256=digest, gates=GATES)
        return ModelFile(path, spec, digest)

    return make


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let cuda:0 be a GPU whose sessions are the processor's; return the files that were opened there."""
    opened: list[str] = []

    def open_there(path: Path, stage: Stage, options: RuntimeOptions) -> Any:
        if options.precision == "fp16":
            opened.append(path.name)
        return open_model(path, stage, RuntimeOptions())

    for name in ("honoured", "find_device"):
        monkeypatch.setattr(runtime, name, lambda _: Device("cuda"))
    monkeypatch.setattr(agreement, "architecture", lambda _: "sm_90")
    monkeypatch.setattr(agreement, "open_model", open_there)
    monkeypatch.setattr(agreement, "LINES", 64)
    return opened


def files_with(det: ModelFile, rec: ModelFile | None = None) -> ModelFiles:
    return ModelFiles(det, rec or embedded("rec"), embedded("cls"))


# What is compared


def test_equal_answers_agree_and_none_at_all_do_not() -> None:
    pages = agreement.drawn_pages(2)
    maps = [np.full((1, 8, 8), value, np.float32) for value in (0.9, 0.1)]
    same = agreement.compare_det(lambda _: maps[0], lambda _: maps[0], pages)
    assert (same.value, same.samples, same.passed) == (1.0, 2, True)
    off = agreement.compare_det(lambda _: maps[0], lambda _: maps[1], pages)
    assert (off.value, off.passed) == (0.0, False)
    assert not agreement.compare_det(lambda _: maps[0], lambda _: maps[0], pages[:0]).passed
    assert not Agreement("x", 1, float("nan"), 0.5).passed


@pytest.mark.parametrize(("differing", "passed"), [(0, True), (2, True), (3, False)])
def test_one_time_step_in_a_thousand_may_differ(differing: int, passed: bool) -> None:
    lines = np.zeros((50, 48, 320, 3), np.uint8)
    calls = {"left": differing}

    def whole(images: Any, _: Any) -> CtcSteps:
        shape = (len(images), 40)
        return CtcSteps(np.zeros(shape, np.int64), np.ones(shape, np.float32))

    def rough(images: Any, widths: Any) -> CtcSteps:
        steps = whole(images, widths)
        steps.labels.ravel()[: calls["left"]] = 1
        calls["left"] = 0
        return steps

    found = agreement.compare_rec(whole, rough, lines)
    assert (found.samples, found.passed) == (2000, passed)


def test_a_line_that_is_turned_in_half_precision_only_does_not_agree() -> None:
    def upright(images: Any, _: Any) -> Any:
        return np.tile(np.array([[0.9, 0.1]], np.float32), (len(images), 1))

    lines = np.zeros((20, 48, 192, 3), np.uint8)
    assert agreement.compare_cls(upright, upright, lines).passed
    found = agreement.compare_cls(upright, lambda *given: upright(*given)[:, ::-1], lines)
    assert (found.value, found.samples) == (0.0, 20)


def test_samples_are_alike_every_time_and_different_from_each_other() -> None:
    for draw in (agreement.drawn_pages, agreement.drawn_lines):
        first, again = draw(4), draw(4)
        assert np.array_equal(first, again)
        assert len({picture.tobytes() for picture in first}) == 4


@pytest.mark.parametrize("stage", ["det", "rec"])
def test_real_fp16_files_agree_with_fp32(half: Callable[[Stage], ModelFile], stage: Stage) -> None:
    whole, reduced = (open_model(one.path, stage, RuntimeOptions()) for one in (embedded(stage), half(stage)))
    if stage == "det":
        found = agreement.compare_det(
            contract.det_infer(whole, "whole"), contract.det_infer(reduced, "half"), agreement.drawn_pages(2)
        )
        assert 0.99 < found.value < 1.0
    else:
        charset = recognize.charset_from(whole.metadata, "whole")
        found = agreement.compare_rec(
            contract.rec_infer(whole, "whole", len(charset)),
            contract.rec_infer(reduced, "half", len(charset)),
            agreement.drawn_lines(64, charset),
        )
    assert found.passed


# What is admitted


@pytest.mark.parametrize("device", ["cpu"])
def test_fp16_is_refused_where_there_is_no_gpu(device: str) -> None:
    with pytest.raises(
        OptionError, match=r"precision=fp16: is for NVIDIA GPUs, and this is cpu; use --device"
    ):
        Engine.load(device=device, precision="fp16")
    with pytest.raises(OptionError, match="is for NVIDIA GPUs"):
        open_model(embedded("det").path, "det", RuntimeOptions(device, precision="fp16"))


def test_the_command_line_tells_so_in_one_line(run: Run) -> None:
    outcome = run("run", "tests/data/boarding-pass.png", "--precision", "fp16")
    assert outcome.code == 2
    assert outcome.err.startswith("error: runtime.precision=fp16: is for NVIDIA GPUs")


def test_a_float32_file_is_no_fp16_file(gpu: list[str]) -> None:
    with pytest.raises(
        ModelError, match=r"ppocrv4-mobile-det: is not an FP16 file.*export \S+ppocrv4-mobile-det\.onnx --out"
    ):
        fp16.admit(files_with(embedded("det")), HALF)
    assert gpu == []


def test_an_fp16_file_on_a_gpu_has_to_be_asked_for(
    half: Callable[[Stage], ModelFile], gpu: list[str]
) -> None:
    files = files_with(half("det"))
    with pytest.raises(OptionError, match=r"ppocrv4-mobile-det are FP16 files here; add --precision fp16"):
        fp16.admit(files, RuntimeOptions("cuda:0"))
    assert gpu == []


def test_a_gpu_is_asked_once_per_file_architecture_and_version(
    half: Callable[[Stage], ModelFile], gpu: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_with(half("det"), half("rec"))
    fp16.admit(files, HALF)
    assert gpu == ["ppocrv4-mobile-det-fp16.onnx", "ppocrv4-mobile-rec-fp16.onnx"]
    kept = sorted((cache / "fp16").glob("*.json"))
    assert len(kept) == 2
    written = json.loads(kept[0].read_text())
    assert written["subject"]["architecture"] == "sm_90"
    assert all(one["value"] >= one["bar"] for one in written["agreements"])
    fp16.admit(files, HALF)
    assert len(gpu) == 2
    kept[0].write_text("{damaged")  # asked again and written anew
    fp16.admit(files, HALF)
    assert len(gpu) == 3
    assert json.loads(kept[0].read_text()) == written
    monkeypatch.setattr(agreement, "architecture", lambda _: "sm_75")
    fp16.admit(files, HALF)
    assert len(gpu) == 5


def test_each_architecture_of_several_gpus_is_asked_once(
    half: Callable[[Stage], ModelFile], gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "honoured", lambda _: Device("cuda", 0, (1, 2)))
    monkeypatch.setattr(agreement, "architecture", lambda one: "sm_75" if one.index == 1 else "sm_90")
    fp16.admit(files_with(half("det"), half("rec")), replace(HALF, device="cuda:0,1,2"))
    assert len(gpu) == 4


@pytest.mark.usefixtures("gpu")
def test_what_does_not_agree_is_refused_with_the_figures(
    half: Callable[[Stage], ModelFile], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Callable[..., Any] = vars(agreement)["open_model"]  # the processor's, see `gpu`

    class Blind:
        """The detector as a GPU that overflows runs it: it sees nothing."""

        def __init__(self, model: Any) -> None:
            self._model = model

        def __getattr__(self, name: str) -> Any:
            return getattr(self._model, name)

        def __call__(self, *given: Any) -> Any:
            return [array * 0 for array in self._model(*given)]

    def spoilt(path: Path, stage: Stage, options: RuntimeOptions) -> Any:
        model = opened(path, stage, options)
        return Blind(model) if options.precision == "fp16" else model

    monkeypatch.setattr(agreement, "open_model", spoilt)
    told = r"does not agree with float32 on cuda:0 \(sm_90\): mask IoU at worst 0\.0000, and 0\.99 is needed"
    with pytest.raises(ModelError, match=told):
        fp16.admit(files_with(half("det"), half("rec")), HALF)
    assert not list(cache.rglob("*.json"))


@pytest.mark.usefixtures("gpu")
def test_golden_tensors_beside_a_file_count(half: Callable[[Stage], ModelFile]) -> None:
    file = half("det")
    golden = embedded("det").path.with_name("ppocrv4-mobile-det.golden.npz")
    beside = file.path.with_name(f"{file.path.stem}.golden.npz")
    beside.write_bytes(golden.read_bytes())  # whose tolerance is float32's
    model = onnx.load(file.path)
    weight = next(one for one in model.graph.initializer if numpy_helper.to_array(one).ndim == 4)
    spoilt = numpy_helper.to_array(weight) * np.float16(1.02)
    weight.CopyFrom(numpy_helper.from_array(spoilt, weight.name))
    onnx.save(model, file.path)
    with pytest.raises(ModelError, match="golden tensors"):
        agreement.require("det", file, Device("cuda"), HALF, ModelOptions())


def own(file: ModelFile, gates: tuple[GateResult, ...]) -> ModelFile:
    spec = ModelSpec("my-det", "det", file.path.name, sha256=file.sha256, precision="fp16", gates=gates)
    return replace(file, spec=spec)


def test_an_own_model_is_compared_with_itself_on_the_processor_if_its_export_compared_it(
    half: Callable[[Stage], ModelFile], gpu: list[str]
) -> None:
    file = half("det")
    agreement.require("det", own(file, GATES), Device("cuda"), HALF, ModelOptions())
    assert gpu == [file.path.name]
    with pytest.raises(ModelError, match="my-det: has no float32 file on this machine"):
        agreement.require("det", own(file, ()), Device("cuda"), HALF, ModelOptions())


def test_a_cache_that_cannot_be_written_only_warns(
    half: Callable[[Stage], ModelFile], gpu: list[str], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file where a folder should be")
    with caplog.at_level(logging.WARNING, "ocr_onnx.agreement"):
        agreement.require("det", half("det"), Device("cuda"), HALF, ModelOptions())
    assert "compared again next time" in caplog.text
    assert gpu


def test_another_check_or_reference_is_another_subject() -> None:
    subject = Subject("a" * 64, "b" * 64, "sm_90", "1.31.1")
    agreement._remember(subject, ())
    assert agreement._is_remembered(subject)
    for other in (
        subject._replace(reference_sha256="c" * 64),
        subject._replace(check=agreement.CHECK + 1),
        subject._replace(sha256="a" * 63 + "b"),  # the same file name
    ):
        assert not agreement._is_remembered(other)


def test_a_file_of_another_precision_does_not_hide_the_float32_one(
    half: Callable[[Stage], ModelFile], tmp_path: Path
) -> None:
    file = half("det")
    folder = tmp_path / "models"
    folder.mkdir()
    file.path.rename(folder / file.path.name)
    (folder / "manifest.toml").write_text(
        '[[model]]\nname = "ppocrv4-mobile-det"\nstage = "det"\nlicense = "x"\norigin = "test"\n'
        f'precision = "fp16"\nfile = "{file.path.name}"\nsha256 = "{file.sha256}"\n'
    )
    options = ModelOptions(folder=str(folder))
    assert model_store.resolve(options).det.spec.precision == "fp16"
    found = [model_store.at_hand("ppocrv4-mobile-det", name, options) for name in ("fp16", "fp32", "int8")]
    assert [one and one.sha256 for one in found] == [file.sha256, embedded("det").sha256, None]
