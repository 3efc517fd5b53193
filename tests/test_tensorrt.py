"""Device tensorrt without one: engines are made up, everything around them is real."""

import ctypes
import logging
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ocr_onnx import runtime
from ocr_onnx.errors import DeviceError, ModelContractError
from ocr_onnx.manifest import Stage
from ocr_onnx.options import Precision, RuntimeOptions
from ocr_onnx.runtime import (
    Device,
    Replicas,
    Session,
    driver,
    open_model,
    opening,
    parse_device,
    probe,
    tensorrt,
)
from ocr_onnx.runtime.buckets import GROUPS
from ocr_onnx.runtime.driver import Driver, Gpu
from ocr_onnx.runtime.engine_cache import MARKER
from ocr_onnx.runtime.providers import TensorRtOptions
from ocr_onnx.runtime.tensorrt import Machine, Surroundings, TensorRtModel
from tests.conftest import Run

MODELS = Path(__file__).parent.parent / "models"
OPTIONS = RuntimeOptions("tensorrt:1", threads=1)
CPU = RuntimeOptions("cpu", threads=1)
MACHINE = Machine("1.31.1", "10.14.1", "sm_90")


class FakeGpu:
    """Opens everything on the CPU, keeps a record, and writes engines as the provider does."""

    def __init__(self, machine: Machine = MACHINE) -> None:
        self.machine = machine
        self.built: list[TensorRtOptions] = []
        self.opened: list[tuple[str, str]] = []  # device, and group of an engine
        self.paths: list[Path] = []
        self.runs: list[tuple[str, tuple[int, ...]]] = []
        self.unloadable = 0
        self.refusal = "TensorRT EP could not deserialize engine from cache"
        self.no_engine = False
        self.failing = False

    def surroundings(self) -> Surroundings:
        return Surroundings(
            lambda options: parse_device(options.device), lambda _: self.machine, self.open, self.build
        )

    def open(self, path: Path, options: RuntimeOptions, engine: TensorRtOptions | None) -> "FakeSession":
        if engine is not None:
            assert engine.timing_folder == ""
            assert list(Path(engine.cache_folder).glob("*.engine"))
            if self.unloadable:
                self.unloadable -= 1
                raise ModelContractError(str(path), self.refusal, "give a file")
        self.opened.append((options.device, engine.prefix if engine else ""))
        self.paths.append(path)
        return FakeSession(path, self, engine.prefix if engine else options.device)

    def build(self, path: Path, options: RuntimeOptions, engine: TensorRtOptions) -> None:
        assert path.is_file()
        assert replace(options, precision="fp32") == OPTIONS
        if self.failing:
            raise ModelContractError(str(path), "can't be opened: no kernel for it", "give a file")
        self.built.append(engine)
        if not self.no_engine:
            (Path(engine.cache_folder) / f"{engine.prefix}_sm90.engine").write_text(engine.max_shapes)


class FakeSession(Session):
    """A session on the CPU that tells which engine it stands for."""

    def __init__(self, path: Path, gpu: FakeGpu, name: str) -> None:
        super().__init__(path, CPU)
        self._fake, self._name = gpu, name

    def __call__(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        self._fake.runs.append((self._name, next(iter(feeds.values())).shape))
        return super().__call__(feeds, outputs)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return tmp_path / "cache" / "tensorrt"


def _model(path: Path, stage: Stage, gpu: FakeGpu, lines: list[str] | None = None) -> TensorRtModel:
    heard = [] if lines is None else lines
    return TensorRtModel(path, stage, OPTIONS, heard.append, gpu.surroundings())


def _lines(n: int, width: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(n).uniform(-1, 1, (n, 3, 48, width)).astype(np.float32)}


def test_the_model_tells_what_its_file_tells_before_any_engine_is_there(tiny_rec: Path) -> None:
    gpu = FakeGpu()
    one, plain = _model(tiny_rec, "rec", gpu), Session(tiny_rec, CPU)
    assert (one.inputs, one.outputs, one.metadata) == (plain.inputs, plain.outputs, plain.metadata)
    assert (str(one.device), one.provider, one.path) == ("tensorrt:1", "TensorrtExecutionProvider", tiny_rec)
    assert one.with_threads(3) is one
    assert not gpu.built


@pytest.mark.parametrize(
    ("n", "width", "expected"),
    [
        (1, 160, [("rec-s", 1)]),
        (3, 320, [("rec-s", 4)]),
        (6, 321, [("rec-m", 8)]),
        (40, 640, [("rec-m", 16), ("rec-m", 16), ("rec-m", 8)]),
        (9, 1600, [("rec-l", 8), ("rec-l", 1)]),
        (2, 3200, [("rec-xl", 2)]),
    ],
)
def test_lines_run_on_the_engine_of_their_width_in_filled_batches(
    tiny_rec: Path, n: int, width: int, expected: list[tuple[str, int]]
) -> None:
    gpu = FakeGpu()
    feeds = _lines(n, width)
    model = _model(tiny_rec, "rec", gpu)
    found = model(feeds)
    assert gpu.runs == [(name, (batch, 3, 48, width)) for name, batch in expected]
    assert model.shapes_seen() == {((batch, 3, 48, width),) for _, batch in expected}
    for one, other in zip(found, Session(tiny_rec, CPU)(feeds), strict=True):
        np.testing.assert_array_equal(one, other)


def test_engines_are_opened_only_when_wanted_and_once(tiny_rec: Path) -> None:
    gpu = FakeGpu()
    one = _model(tiny_rec, "rec", gpu)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda width: one(_lines(1, width)), [160, 192, 640, 160] * 8))
    assert [engine.prefix for engine in sorted(gpu.built, key=lambda built: built.prefix)] == [
        "rec-m",
        "rec-s",
    ]
    assert sorted(gpu.opened) == [("cpu", ""), ("tensorrt:1", "rec-m"), ("tensorrt:1", "rec-s")]
    assert one.outliers == 0


def test_outliers_go_to_one_session_on_cuda_and_are_counted(
    tiny_det: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = FakeGpu()
    one = _model(tiny_det, "det", gpu)
    strip = {"x": np.zeros((1, 3, 32, 1632), np.float32)}
    with caplog.at_level(logging.WARNING):
        first = one(strip)
        one(strip)
    one({"x": np.zeros((1, 3, 64, 64), np.float32)})
    assert gpu.opened == [("cpu", ""), ("cuda:1", ""), ("tensorrt:1", "det-std")]
    assert gpu.runs == [("cuda:1", (1, 3, 32, 1632))] * 2 + [("det-std", (1, 3, 64, 64))]
    assert one.outliers == 2
    assert len(caplog.records) == 1
    assert "no engine takes 32 x 1632 px" in caplog.text
    np.testing.assert_array_equal(first[0], Session(tiny_det, CPU)(strip)[0])


def test_the_engine_is_told_its_profile_gpu_and_folder(tiny_det: Path, cache: Path) -> None:
    gpu = FakeGpu()
    prepared = [_model(tiny_det, "det", gpu).prepare(group) for group in GROUPS["det"]]
    assert [one.group for one in prepared] == ["det-std", "det-wide", "det-tall"]
    assert all(one.built and one.folder.parent == cache for one in prepared)
    std = gpu.built[0]
    assert (std.min_shapes, std.opt_shapes, std.max_shapes) == (
        "x:1x3x32x32",
        "x:1x3x736x736",
        "x:1x3x992x992",
    )
    assert (std.device_id, std.prefix, std.workspace_bytes) == (1, "det-std", 0)


def test_a_later_process_finds_the_engines(tiny_det: Path) -> None:
    gpu, lines = FakeGpu(), list[str]()
    group = GROUPS["det"][0]
    first = _model(tiny_det, "det", gpu, lines).prepare(group)
    later = _model(tiny_det, "det", gpu, lines).prepare(group)
    assert (first.built, later.built, later.folder) == (True, False, first.folder)
    assert lines == ["building engine det-std of tiny-det.onnx for TensorRT, once; it takes minutes"]


@pytest.mark.parametrize(
    "machine",
    [
        MACHINE._replace(onnxruntime="1.32.0"),
        MACHINE._replace(tensorrt="10.16.0"),
        MACHINE._replace(architecture="sm_75"),
    ],
)
def test_another_machine_has_other_engines(tiny_det: Path, machine: Machine) -> None:
    group = GROUPS["det"][0]
    one = _model(tiny_det, "det", FakeGpu()).prepare(group)
    other = _model(tiny_det, "det", FakeGpu(machine)).prepare(group)
    assert other.built
    assert one.folder != other.folder


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_half_precision_is_for_files_in_fp16(tiny_det: Path, precision: Precision) -> None:
    gpu = FakeGpu()
    options = replace(OPTIONS, precision=precision)
    model = TensorRtModel(tiny_det, "det", options, print, gpu.surroundings())
    model.prepare(GROUPS["det"][0])
    assert [engine.half for engine in gpu.built] == [precision == "fp16"]


def test_another_model_of_the_same_form_has_another_engine(tiny_det: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin.onnx"
    twin.write_bytes(tiny_det.read_bytes() + b"\x32\x01a")  # ModelProto's doc_string
    group = GROUPS["det"][0]
    gpu = FakeGpu()
    folders = {_model(path, "det", gpu).prepare(group).folder for path in (tiny_det, twin)}
    assert len(folders) == len(gpu.built) == 2


def test_tf32_that_the_environment_forbids_makes_another_engine(
    tiny_det: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, gpu = GROUPS["det"][0], FakeGpu()
    one = _model(tiny_det, "det", gpu).prepare(group)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert _model(tiny_det, "det", gpu).prepare(group).folder != one.folder


def test_an_engine_that_tensorrt_will_not_load_is_built_anew_once(tiny_det: Path) -> None:
    gpu, lines = FakeGpu(), list[str]()
    group = GROUPS["det"][0]
    _model(tiny_det, "det", gpu).prepare(group)
    gpu.unloadable = 1
    assert _model(tiny_det, "det", gpu, lines).prepare(group).built
    assert "can't be loaded; building it anew" in lines[0]
    gpu.unloadable = 2
    with pytest.raises(ModelContractError, match="deserialize"):
        _model(tiny_det, "det", gpu).prepare(group)


def test_an_engine_that_can_not_be_opened_for_another_reason_stays(tiny_det: Path) -> None:
    gpu, group = FakeGpu(), GROUPS["det"][0]
    _model(tiny_det, "det", gpu).prepare(group)
    gpu.unloadable, gpu.refusal = 1, "CUDA failure 2: out of memory"
    with pytest.raises(ModelContractError, match="out of memory"):
        _model(tiny_det, "det", gpu).prepare(group)
    assert not _model(tiny_det, "det", gpu).prepare(group).built


def test_an_engine_that_can_not_be_built_is_a_device_error_and_leaves_nothing(
    tiny_det: Path, cache: Path
) -> None:
    gpu = FakeGpu()
    gpu.failing = True
    with pytest.raises(
        DeviceError, match=r"tensorrt:1: no engine could be built for det-std.*no kernel for it"
    ):
        _model(tiny_det, "det", gpu).prepare(GROUPS["det"][0])
    assert not list(cache.rglob(MARKER))


def test_a_model_that_tensorrt_does_not_take_is_refused(tiny_det: Path, cache: Path) -> None:
    gpu = FakeGpu()
    gpu.no_engine = True
    with pytest.raises(DeviceError, match=r"TensorRT took no part of .*tiny-det\.onnx"):
        _model(tiny_det, "det", gpu).prepare(GROUPS["det"][0])
    assert not list(cache.rglob(MARKER))


def test_a_rewritten_model_is_built_from_a_copy_that_tensorrt_can_read(cache: Path) -> None:
    gpu, path = FakeGpu(), MODELS / "ppocrv4-mobile-rec.onnx"
    one = _model(path, "rec", gpu)
    feeds: dict[str, Any] = {
        "image": np.random.default_rng(0).integers(0, 256, (3, 48, 160, 3), dtype=np.uint8),
        "valid_w": np.array([160, 90, 33], np.int32),
    }
    index, prob = one(feeds, ("index", "prob"))
    assert gpu.built[0].max_shapes == "image:32x48x320x3,valid_w:32"
    assert gpu.paths[0] == path
    assert gpu.paths[1].parent == cache
    expected_index, expected_prob = Session(path, CPU)(feeds, ("index", "prob"))
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(prob, expected_prob, atol=1e-5)
    gpu.paths[1].write_bytes(b"damaged")
    _model(path, "rec", gpu)(feeds, ("index",))
    assert gpu.paths[3] == gpu.paths[1]


def test_a_copy_by_pickling_opens_its_own(tiny_det: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "honoured", lambda options: parse_device(options.device))
    gpu = FakeGpu()
    monkeypatch.setattr(tensorrt, "Session", gpu.open)
    one = _model(tiny_det, "det", gpu)
    copy = pickle.loads(pickle.dumps(one))
    assert (copy.path, copy.device, copy.outliers) == (one.path, one.device, 0)


def test_device_tensorrt_opens_such_a_model(tiny_det: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "honoured", lambda options: parse_device(options.device))
    monkeypatch.setattr(tensorrt, "Session", FakeGpu().open)
    assert isinstance(open_model(tiny_det, "det", OPTIONS), TensorRtModel)
    assert isinstance(open_model(tiny_det, "det", CPU), Session)
    several = open_model(tiny_det, "det", RuntimeOptions("tensorrt:1,0"))
    assert isinstance(several, Replicas)
    assert [str(replica.device) for replica in several.replicas] == ["tensorrt:1", "tensorrt:0"]
    assert all(isinstance(replica, TensorRtModel) for replica in several.replicas)


def test_what_the_device_can_not_honour_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="tensorrt"):
        open_model(tmp_path / "missing.onnx", "det", RuntimeOptions("tensorrt"))


def test_an_engine_is_built_by_opening_a_session(tiny_det: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(opening, "open_session", lambda *arguments, gpu: calls.append((*arguments, gpu)))
    engine = TensorRtOptions("a", "b", "c", "/cache", "det-std", device_id=1)
    tensorrt.build_engine(tiny_det, RuntimeOptions("tensorrt:1", gpu_memory_mib=9), engine)
    (_, path, device, _, precision, gpu) = calls[0]
    assert (path, device, precision) == (str(tiny_det), Device("tensorrt", 1), "fp32")
    assert (gpu.memory_mib, gpu.engine) == (9, engine)


def test_versions_and_architecture_are_asked_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(getInferLibVersion=lambda: 101401))
    gpus = (Gpu("old", (7, 5), 1), Gpu("new", (8, 9), 1))
    monkeypatch.setattr(driver, "ask", lambda: Driver((13, 0), gpus))
    found = tensorrt.machine_of(1)
    assert (found.tensorrt, found.architecture) == ("10.14.1", "sm_89")


@pytest.fixture
def gpu_here(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Let the command line find a GPU with TensorRT."""
    gpu = FakeGpu()
    monkeypatch.setattr(runtime, "find_device", parse_device)
    monkeypatch.setattr(probe, "honoured", lambda options: parse_device(options.device))
    monkeypatch.setattr(tensorrt, "machine_of", lambda _: MACHINE)
    monkeypatch.setattr(tensorrt, "Session", gpu.open)
    monkeypatch.setattr(tensorrt, "build_engine", gpu.build)
    return gpu


def _listed(text: str) -> list[tuple[str, str, str]]:
    """Return verdict, model and group of every line."""
    return [(words[0], words[1], words[2]) for words in map(str.split, text.splitlines())]


def test_the_command_builds_all_engines_of_a_set_and_lists_them(gpu_here: FakeGpu, run: Run) -> None:
    arguments = ("build-engines", "--device", "tensorrt:1", "--set", "runtime.threads=1")
    first, again = run(*arguments), run(*arguments)
    groups = [("ppocrv4-mobile-det", group.name) for group in GROUPS["det"]]
    groups += [("ppocrv4-mobile-rec", group.name) for group in GROUPS["rec"]]
    assert first.code == again.code == 0
    assert _listed(first.out) == [("built", *engine) for engine in groups]
    assert _listed(again.out) == [("kept", *engine) for engine in groups]
    assert "engines: building engine rec-xl of ppocrv4-mobile-rec.onnx" in first.err
    assert again.err == ""
    assert len(gpu_here.built) == len(groups)


def test_gpus_of_one_architecture_share_their_engines(gpu_here: FakeGpu, run: Run) -> None:
    done = run("build-engines", "--device", "tensorrt:1,0", "--set", "runtime.threads=1", "-q")
    verdicts = [verdict for verdict, _, _ in _listed(done.out)]
    groups = [*GROUPS["det"], *GROUPS["rec"]]
    assert (done.code, done.err) == (0, "")
    assert len(verdicts) == 2 * len(groups)
    assert verdicts.count("built") == len(gpu_here.built) == len(groups)


@pytest.mark.usefixtures("gpu_here")
def test_the_classifier_has_an_engine_where_it_is_used(run: Run) -> None:
    done = run(
        "build-engines",
        "--device",
        "tensorrt:1",
        "--set",
        "runtime.threads=1",
        "--set",
        "cls.enabled=true",
        "-q",
    )
    assert ("built", "ppocr-mobile-v2-cls", "cls") in _listed(done.out)
    assert done.err == ""


def test_without_tensorrt_the_command_says_what_is_missing(run: Run) -> None:
    done = run("build-engines")
    assert done.code == 1
    assert done.err.startswith("error: tensorrt:0: the installed ONNX Runtime")
    assert "install 'ocr-onnx[tensorrt]'" in done.err


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "auto"])
def test_other_devices_have_no_engines(run: Run, device: str) -> None:
    done = run("build-engines", "--device", device)
    assert done.code == 2
    assert f"--device: {device!r} has no engines to build" in done.err
