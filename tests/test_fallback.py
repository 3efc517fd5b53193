"""A device that can't be used is refused, or replaced where that was allowed, and never in silence."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ocr_onnx import Engine, PageResult, doctor, runtime
from ocr_onnx.errors import DependencyError, DeviceError, ModelContractError, OptionError
from ocr_onnx.manifest import Stage
from ocr_onnx.options import ModelOptions, RuntimeOptions
from ocr_onnx.runtime import Device, Granted, driver, libraries, opening, probe, wheels
from ocr_onnx.runtime.driver import Driver, Gpu

PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
GPU = Gpu("Tesla T4", (7, 5), 16 << 30)


class FakeOrt(ModuleType):
    """An ONNX Runtime for GPUs whose sessions land on `active` or raise `error`; keeps what it is told."""

    cuda_version = "13.0"
    __version__ = "1.31.1"
    GraphOptimizationLevel = SimpleNamespace(ORT_DISABLE_ALL=0)

    def __init__(self, active: str = "", error: Exception | None = None) -> None:
        super().__init__("onnxruntime")
        self.active, self.error = active, error
        self.severities: list[int] = []
        self.opened: list[tuple[str, int]] = []
        self.ran = 0

    def SessionOptions(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(add_session_config_entry=lambda *_: None)

    def get_available_providers(self) -> list[str]:
        return PROVIDERS

    def set_default_logger_severity(self, severity: int) -> None:
        self.severities.append(severity)

    def InferenceSession(  # noqa: N802
        self, _model: bytes, _settings: object, *, providers: list[tuple[str, object]], enable_fallback: int
    ) -> SimpleNamespace:
        assert self.severities[-1] == 4
        (provider, _), *behind = providers
        beside = ["CUDAExecutionProvider"] if provider.startswith("Tensorrt") else []
        assert [name for name, _ in behind] == beside
        self.opened.append((provider, enable_fallback))
        if self.error is not None:
            raise self.error
        return SimpleNamespace(get_providers=lambda: [self.active or provider], run=self._run)

    def _run(self, _outputs: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.ran += 1
        return [feeds["x"]]


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch) -> FakeOrt:
    """A machine where a GPU, its driver and its libraries are all there."""
    ort = FakeOrt()
    monkeypatch.setattr(wheels, "onnxruntime", lambda: ort)
    monkeypatch.setattr(driver, "ask", lambda: Driver((13, 0), (GPU,)))
    monkeypatch.setattr(libraries, "_why_not", lambda *_: "")
    monkeypatch.setattr(libraries, "_load_global", lambda *_: "")
    monkeypatch.setattr(probe, "_WORKED", set())
    return ort


def refuse(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    """Let these kinds of device fail, and no other."""

    def why(device: Device) -> DeviceError | None:
        return DeviceError(str(device), f"no {device.kind}", "buy one") if device.kind in kinds else None

    monkeypatch.setattr(probe, "why_unusable", why)


# The probe


def test_a_gpu_that_works_is_probed_once(ort: FakeOrt) -> None:
    for _ in range(3):
        assert runtime.find_device("cuda") == Device("cuda")
    assert ort.opened == [("CUDAExecutionProvider", 0)]
    assert ort.ran == 1


def test_onnxruntimes_log_is_silent_around_the_probe_and_not_after(ort: FakeOrt) -> None:
    runtime.find_device("cuda")
    assert ort.severities == [4, 2]


def test_a_probe_of_tensorrt_builds_no_engine(ort: FakeOrt) -> None:
    assert runtime.find_device("tensorrt") == Device("tensorrt")
    assert ort.opened == [("TensorrtExecutionProvider", 0)]
    assert ort.ran == 0


def _no_driver() -> Driver:
    raise DeviceError("the NVIDIA driver", "was not found", "install it")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_without_a_driver_no_library_is_loaded(
    ort: FakeOrt, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(driver, "ask", _no_driver)
    monkeypatch.setattr(libraries, "find_cuda", lambda _: pytest.fail("a library was loaded"))
    refused = rf"^{device}:0: the NVIDIA driver was not found; install it; or use --device cpu$"
    with pytest.raises(DeviceError, match=refused):
        runtime.find_device(device)
    assert ort.opened == []


def test_missing_libraries_are_refused_before_a_session_is_opened(
    ort: FakeOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "linux":
        monkeypatch.setattr(libraries, "_why_not", lambda file, _: "gone" if "blas" in file else "")
        with pytest.raises(DeviceError, match=r"cuda:0: libcublasLt.so.13 .*can't be loaded: gone; install"):
            runtime.find_device("cuda")
    monkeypatch.setattr(libraries, "_why_not", lambda *_: "")
    monkeypatch.setattr(libraries, "_load_global", lambda *_: "gone")
    with pytest.raises(DeviceError, match=r"tensorrt:0: TensorRT 10 can't be loaded: gone; install"):
        runtime.find_device("tensorrt")
    assert ort.opened == []


CUDA_FAILURE = (
    "/src/cuda_call.cc:154 void CudaCall() CUDA failure 35: driver is insufficient ; GPU=-1 ; line=1"
)
UNKNOWN_OPTION = '/src/info.cc:63 F() [ONNXRuntimeError] : 1 : FAIL : Unknown provider option: "devise_id".'


@pytest.mark.parametrize(
    ("active", "error", "problem"),
    [
        ("CPUExecutionProvider", None, r"chose CPU.* instead: CUDA.* does not load.*options \(device_id, "),
        (
            "",
            RuntimeError(UNKNOWN_OPTION),
            r"does not know the provider option 'devise_id'; install a version",
        ),
        ("", RuntimeError(CUDA_FAILURE), r"the probe model: CUDA failure 35: driver is insufficient; look"),
        ("", RuntimeError("out of luck"), r"the probe model: out of luck; run `ocr-onnx doctor`"),
    ],
)
def test_a_session_that_is_not_what_was_asked_for_is_refused(
    ort: FakeOrt, active: str, error: Exception | None, problem: str
) -> None:
    ort.active, ort.error = active, error
    with pytest.raises(DeviceError, match=f"^cuda:0: .*{problem}"):
        runtime.find_device("cuda")
    assert ort.severities == [4, 2]
    assert not probe._WORKED


def test_a_model_that_is_none_is_not_blamed_on_the_gpu(ort: FakeOrt) -> None:
    [invalid] = [kind for kind in wheels.ort_errors() if kind.__name__ == "InvalidProtobuf"]
    ort.error = invalid("Protobuf parsing failed.")
    with pytest.raises(ModelContractError, match=r"x.onnx: can't be opened as an ONNX model on cuda:0"):
        opening.open_session("x.onnx", b"", Device("cuda"), 1)


def test_a_run_that_fails_is_the_cause(ort: FakeOrt, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_outputs: None, _feeds: object) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(ort, "_run", fail)
    with pytest.raises(DeviceError, match="cuda:0: no kernel image"):
        runtime.find_device("cuda")


# What may take the place of a device


def _granted(device: str, fallback: str) -> Granted:
    return Granted(RuntimeOptions(device), fallback)


@pytest.mark.parametrize(
    ("device", "broken", "granted"),
    [
        ("cuda:1", (), _granted("cuda:1", "")),
        ("cuda:1", ("cuda",), _granted("cpu", "cuda:1: no cuda")),
        ("tensorrt:1", (), _granted("tensorrt:1", "")),
        ("tensorrt:1", ("tensorrt",), _granted("cuda:1", "tensorrt:1: no tensorrt")),
        (
            "tensorrt:1",
            ("tensorrt", "cuda"),
            _granted("cpu", "tensorrt:1: no tensorrt; cuda:1: no cuda"),
        ),
        (
            "tensorrt:2,0",
            ("tensorrt",),
            _granted("cuda:2,0", "tensorrt:2,0: no tensorrt"),
        ),
        ("cuda:0,1", ("cuda",), _granted("cpu", "cuda:0,1: no cuda")),
        ("openvino", ("openvino", "cuda"), _granted("cpu", "openvino: no openvino")),
        ("auto", ("cuda",), _granted("cpu", "")),
        ("cpu", ("cuda",), _granted("cpu", "")),
    ],
)
def test_a_slower_device_is_granted_only_where_that_was_allowed(
    monkeypatch: pytest.MonkeyPatch, device: str, broken: tuple[str, ...], granted: Granted
) -> None:
    refuse(monkeypatch, *broken)
    assert runtime.granted(RuntimeOptions(device, allow_fallback=True)) == granted
    if granted.fallback:
        with pytest.raises(DeviceError, match=f"^{device}: no"):
            runtime.granted(RuntimeOptions(device))
    else:
        assert runtime.granted(RuntimeOptions(device)) == granted


def test_options_of_a_gpu_are_dropped_with_it_and_refused_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = RuntimeOptions("tensorrt", allow_fallback=True, gpu_memory_mib=2048, tf32=False)
    refuse(monkeypatch, "tensorrt")
    kept = RuntimeOptions("cuda:0", gpu_memory_mib=2048, tf32=False)
    assert runtime.granted(asked).options == kept
    refuse(monkeypatch, "tensorrt", "cuda")
    assert runtime.granted(asked).options == RuntimeOptions("cpu")
    with pytest.raises(OptionError, match="gpu_memory_mib: is for GPUs, and this is cpu"):
        runtime.granted(RuntimeOptions("cpu", gpu_memory_mib=2048, allow_fallback=True))


def test_a_shared_cause_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        probe,
        "why_unusable",
        lambda device: None if device.kind == "cpu" else DeviceError(str(device), "no driver", "install it"),
    )
    told = runtime.granted(RuntimeOptions("tensorrt", allow_fallback=True)).fallback
    assert told == "tensorrt:0: no driver"


def test_the_cause_is_that_of_the_device_asked_for_where_nothing_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse(monkeypatch, "tensorrt", "cuda", "cpu")
    with pytest.raises(DeviceError, match=r"^tensorrt:0: no tensorrt"):
        runtime.granted(RuntimeOptions("tensorrt", allow_fallback=True))


def test_a_fallback_is_for_devices_and_not_for_installations(monkeypatch: pytest.MonkeyPatch) -> None:
    error = DependencyError("onnxruntime", "is there twice", "uninstall both")

    def raises() -> ModuleType:
        raise error

    monkeypatch.setattr(wheels, "onnxruntime", raises)
    with pytest.raises(DependencyError, match="is there twice"):
        runtime.granted(RuntimeOptions("cuda", allow_fallback=True))
    with pytest.raises(OptionError, match="is not a device"):
        runtime.granted(RuntimeOptions("tpu", allow_fallback=True))


def test_a_precision_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "openvino")
    with pytest.raises(DeviceError, match=r"^openvino: no openvino"):
        runtime.granted(RuntimeOptions("openvino", precision="bf16", allow_fallback=True))
    refuse(monkeypatch)
    with pytest.raises(OptionError, match="bf16"):
        runtime.granted(RuntimeOptions("cpu", precision="bf16", allow_fallback=True))


# What results say of it


def test_every_model_of_an_engine_takes_the_same_device_and_results_say_which(
    tiny_det: Path, tiny_rec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "cuda", "tensorrt")
    opened: list[RuntimeOptions] = []

    def counted(path: Path, stage: Stage, options: RuntimeOptions) -> runtime.Model:
        opened.append(options)
        return runtime.open_model(path, stage, options)

    monkeypatch.setattr("ocr_onnx.inference.open_model", counted)
    own = ModelOptions(det=str(tiny_det), rec=str(tiny_rec))
    with pytest.raises(DeviceError, match="cuda:0: no cuda"):
        Engine.load(own, device="cuda", threads=1)
    assert opened == []
    result = Engine.load(own, device="cuda", threads=1, allow_fallback=True).read(
        np.zeros((40, 80, 3), np.uint8)
    )
    assert opened == [RuntimeOptions("cpu", 1)] * 2
    assert result.provenance is not None
    assert (result.provenance.device, result.provenance.fallback) == ("cpu", "cuda:0: no cuda")
    assert result.to_dict()["provenance"]["fallback"] == "cuda:0: no cuda"


def test_results_of_older_releases_say_nothing_of_it(tiny_det: Path, tiny_rec: Path) -> None:
    own = ModelOptions(det=str(tiny_det), rec=str(tiny_rec))
    result = Engine.load(own, threads=1).read(np.zeros((40, 80, 3), np.uint8))
    old = result.to_dict()
    assert old["provenance"].pop("fallback") == ""
    assert PageResult.from_dict(old) == result


# What the doctor says of it


def _checks(topics: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
    found = [check for check in doctor._gpus() if check.topic in topics]
    return [(check.topic, check.name, check.state, check.detail) for check in found]


@pytest.mark.usefixtures("ort")
def test_the_doctor_shows_driver_gpus_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "version", lambda wheel: "1.2.3" if "cublas" in wheel else "")
    assert _checks(("driver", "gpu", "runtime")) == [
        ("driver", "NVIDIA", "ok", "speaks CUDA up to 13.0"),
        ("gpu", "0", "ok", "Tesla T4, compute capability 7.5, 16.0 GiB"),
        ("runtime", "CUDA", "ok", "ONNX Runtime is built for 13.0"),
    ]
    if sys.platform == "linux":
        found = _checks(("library",))
        assert found[0] == ("library", "libcublasLt.so.13", "ok", "nvidia-cublas 1.2.3")
        assert found[-1] == ("library", "libnvonnxparser.so.10", "ok", "of the system")


@pytest.mark.skipif(sys.platform != "linux", reason="the names of libraries are those of Linux")
@pytest.mark.usefixtures("ort")
def test_the_doctor_shows_what_is_missing_and_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "ask", _no_driver)
    monkeypatch.setattr(libraries, "_why_not", lambda *_: "gone")
    monkeypatch.setattr(libraries, "_load_global", lambda *_: "gone")
    found = {check.name: check for check in doctor._gpus()}
    assert found["NVIDIA"] == doctor.Check("driver", "NVIDIA", "note", "was not found", "install it")
    assert found["libcudnn.so.9"].remedy == "install 'ocr-onnx[gpu]'"
    assert found["libnvrtc.so.13"].detail == "gone (our models run without it)"
    assert "ocr-onnx[tensorrt]" in found["libnvinfer.so.10"].remedy


def test_the_doctor_goes_on_without_an_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> ModuleType:
        raise DependencyError("onnxruntime", "is not installed", "install it")

    monkeypatch.setattr(wheels, "onnxruntime", missing)
    monkeypatch.setattr(driver, "ask", _no_driver)
    assert [check.name for check in doctor._gpus()] == ["NVIDIA"]


def test_device_reports_tell_cause_and_remedy_apart(ort: FakeOrt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_load_global", lambda *_: "gone")
    reports = {report.device: report for report in map(probe._report, (Device("cuda"), Device("tensorrt")))}
    assert reports["cuda:0"].detail == "ran a one-node model"
    assert reports["tensorrt:0"].remedy.endswith("or use --device cpu")
    monkeypatch.setattr(libraries, "_load_global", lambda *_: "")
    assert probe._report(Device("tensorrt")).detail == "opened a one-node model"
    assert [provider for provider, _ in ort.opened] == ["CUDAExecutionProvider", "TensorrtExecutionProvider"]
