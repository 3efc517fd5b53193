"""THE module that imports ONNX Runtime: a device and a model file in, a session that ran on it out."""

import ctypes
import functools
import importlib
import importlib.metadata
import json
import os
import sys
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ocr_onnx.errors import DependencyError, DeviceError, ModelContractError, OcrError, OptionError
from ocr_onnx.options import Precision, RuntimeOptions
from ocr_onnx.threads import Turns, usable_threads

DeviceKind: TypeAlias = Literal["cpu", "cuda", "tensorrt", "openvino"]
Array: TypeAlias = NDArray[Any]

PROVIDERS: Mapping[DeviceKind, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
EXTRAS: Mapping[DeviceKind, str] = {
    "cpu": "cpu",
    "cuda": "gpu",
    "tensorrt": "tensorrt",
    "openvino": "openvino",
}
ON_PROCESSOR: tuple[DeviceKind, ...] = ("cpu", "openvino")
# Without openvino: wherever it is, the CPU is as well, and reads pages faster (AMD Zen 3, FP32).
AUTO_ORDER: tuple[DeviceKind, ...] = ("cuda", "cpu")
# Distributions that all install the one package `onnxruntime`, each over the other.
WHEELS = (
    "onnxruntime",
    "onnxruntime-directml",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-silicon",
)
# One Identity node, y = x with x float32 (1,), opset 17: the smallest model there is.
PROBE_MODEL = (
    b'\x08\x08:>\n\x13\n\x01x\x12\x01y\x1a\x01n"\x08Identity\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04'
    b"\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
LOG_ERRORS_ONLY = 3
OPENVINO_PRECISIONS: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
OPENVINO_LIBRARIES = ("libopenvino_c.so", "openvino_c.dll", "libopenvino_c.dylib")


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device and, for GPUs, its number."""

    kind: DeviceKind
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.kind in ("cuda", "tensorrt") else self.kind


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """Whether a device works here, seen by running a one-node model on it; `detail` says why not."""

    device: str
    provider: str
    usable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a model. `shape` has None where a size is free."""

    name: str
    dtype: str  # ONNX Runtime's name for it: "tensor(float)"
    shape: tuple[int | None, ...]


class _Opened(NamedTuple):
    """ONNX Runtime's session of one process, and what its runs have to share."""

    session: Any
    turns: Turns
    threads: int  # that a run takes of the turns


class Session:
    """A model opened on the device that was asked for: a callable from named arrays to arrays.

    May be called from many threads at once. Runs on the processor, of all sessions of the process,
    take turns where together they ask for more threads than there are: at once they would be no
    faster and need more memory. Survives a fork (the child opens the model anew, as ONNX Runtime's
    thread pool stays behind) and pickling (the copy does the same).

    Raises DeviceError where the device can't be used, ModelContractError where the file is not an
    ONNX model. There is no quiet change to another device.
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        self.path = path
        self._options = options
        self.device = _honoured(options)
        self.provider = PROVIDERS[self.device.kind]
        # By process: a parent's session is of no use in its child, and destroying it there hangs.
        self._opened: dict[int, _Opened] = {}
        self._by_threads = {options.threads or usable_threads(): self}
        _LIVE.add(self)
        session = self._open().session
        self.inputs = tuple(map(_tensor_info, session.get_inputs()))
        self.outputs = tuple(map(_tensor_info, session.get_outputs()))
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run the model once; return the named outputs, or all in the order of `self.outputs`.

        Raises ModelContractError where the model refuses its input or fails on it.
        """
        opened = self._opened.get(os.getpid()) or self._open()
        try:
            with opened.turns.taken(opened.threads):
                return cast("list[Array]", opened.session.run(outputs, feeds))
        except _ort_errors() as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise ModelContractError(
                str(self.path),
                f"failed on {shapes}: {_first_line(error)}",
                "give a model that takes any size; if memory ran out, lower det.limit_side_px",
            ) from error

    def with_threads(self, threads: int) -> "Session":
        """Return the same model with another number of threads a run, opened when it is first run."""
        if threads not in self._by_threads:
            other = object.__new__(Session)
            vars(other).update(vars(self))
            other._options = replace(self._options, threads=threads)
            other._opened = {}
            _LIVE.add(other)
            self._by_threads.setdefault(threads, other)
        return self._by_threads[threads]

    def __reduce__(self) -> tuple[type["Session"], tuple[Path, RuntimeOptions]]:
        return type(self), (self.path, self._options)

    def _open(self) -> _Opened:
        """Open the model in this process, unless another thread just did."""
        threads = self._options.threads or usable_threads()
        shared = _PROCESSES.setdefault(os.getpid(), _Process(Turns(usable_threads()), threading.Lock()))
        with shared.opening:
            if os.getpid() not in self._opened:
                session = open_session(
                    str(self.path), str(self.path), self.device, threads, self._options.precision
                )
                # a GPU runs the operations of a network one after the other anyway
                turns = shared.turns if self.device.kind in ON_PROCESSOR else Turns(1)
                self._opened[os.getpid()] = _Opened(session, turns, threads)
        return self._opened[os.getpid()]


class _Process(NamedTuple):
    """What the sessions of one process share."""

    turns: Turns  # on the processor
    opening: threading.Lock


_LIVE: weakref.WeakSet[Session] = weakref.WeakSet()
_PROCESSES: dict[int, _Process] = {}  # a forked child must not inherit turns that were taken


def _let_child_end() -> None:
    """Make a forked child able to exit: ONNX Runtime's destructors wait for threads that it does not have.

    The parent's sessions are never destroyed there, and the C library's exit handlers, among them
    ONNX Runtime's own (1.32 hangs in them after a mere import), are cut short. Python's own shutdown
    is over by then. Only glibc has `on_exit`; elsewhere children should leave by `os._exit`.
    """
    if "onnxruntime" not in sys.modules:
        return
    for session in _LIVE:
        for inherited in session._opened.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited.session))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_child_end)


def open_session(
    subject: str,
    model: str | bytes,
    device: Device,
    threads: int,
    precision: Precision = "fp32",
    profile: str | None = None,
) -> Any:
    """Open an ONNX Runtime session for a path or a model's bytes; `subject` names it in errors.

    With `profile`, ONNX Runtime writes a trace of every run to a file whose path begins so.
    """
    ort = onnxruntime()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = LOG_ERRORS_ONLY
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = profile
    # Memory patterns are cached for every new shape and pages have many; the arena alone is as
    # flat over time and does not cost speed.
    settings.enable_mem_pattern = False
    # det, cls and rec take turns: an idle session's spinning threads would steal the cores.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device.kind == "cpu":
        _share_arena()
        settings.add_session_config_entry("session.use_env_allocators", "1")
    if device.kind == "openvino":  # fused operations of ONNX Runtime's own are not OpenVINO's
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    provider = PROVIDERS[device.kind]
    try:
        session = ort.InferenceSession(
            model,
            settings,
            providers=[(provider, provider_options(device, threads, precision))],
            enable_fallback=0,
        )
    except _ort_errors() as error:
        problem = f"can't be opened as an ONNX model on {device}: {_first_line(error)}"
        raise ModelContractError(
            subject, problem, "give an ONNX file, complete and not of another format"
        ) from error
    active = session.get_providers()[0]
    if active != provider:
        raise DeviceError(
            str(device),
            f"ONNX Runtime chose {active} instead",
            "run `ocr-onnx doctor` to see what is missing",
        )
    return session


@functools.cache
def _share_arena() -> None:
    """Let all sessions of the process use one arena: what det leaves, rec fills, and both never hold theirs.

    Reading A4 scans takes 305 instead of 350 MiB so. A forked child inherits the arena.
    """
    ort = onnxruntime()
    kind, use = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    defaults = ort.OrtArenaCfg(0, -1, -1, -1)
    ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, use), defaults)


def node_placement(path: Path, options: RuntimeOptions, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Run a model once and return how many of its operations each execution provider ran.

    What a session lists as its providers is a wish; ONNX Runtime's trace tells where operations went.
    Raises what `Session` does.
    """
    device = _honoured(options)
    with tempfile.TemporaryDirectory() as folder:
        threads = options.threads or usable_threads()
        session = open_session(
            str(path), str(path), device, threads, options.precision, profile=f"{folder}/trace"
        )
        session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return dict(Counter(event["args"]["provider"] for event in ran))


def provider_options(device: Device, threads: int, precision: Precision = "fp32") -> dict[str, str]:
    """Return ONNX Runtime's options for a device; a name that it does not know would lose the provider."""
    if device.kind == "cuda":
        # Every page is a new shape: an exhaustive search for each costs seconds, and doubling
        # arenas never give memory back.
        return {
            "device_id": str(device.index),
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        }
    if device.kind == "openvino":
        properties = {
            # Told nothing, OpenVINO computes in bf16 where the processor has it.
            "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision],
            # It would bind the threads of every session to the same first processors: two sessions
            # of one thread, or two such processes, would share one.
            "ENABLE_CPU_PINNING": "NO",
        }
        return {
            "device_type": "CPU",
            "num_of_threads": str(threads),
            # JSON itself: a file's path, and the option `precision` with bf16, lose the provider
            "load_config": json.dumps({"CPU": properties}),
        }
    return {}


def why_no_bf16(device: Device) -> OcrError | None:
    """Return the error that explains why a usable device can't compute in bf16; None where it can."""
    if device.kind != "openvino":
        problem = f"is for device openvino, and this is {device}"
        return OptionError("runtime.precision=bf16", problem, "use --device openvino, or --precision fp32")
    capabilities = openvino_capabilities()
    if capabilities is None:
        return DeviceError(
            "openvino",
            "does not tell whether this processor has instructions for bf16",
            "install 'ocr-onnx[openvino]' anew, or use --precision fp32",
        )
    if "BF16" not in capabilities:
        problem = f"has no bf16 on this processor, which has {', '.join(capabilities)}"
        return DeviceError("openvino", problem, "use --precision fp32")
    return None


@functools.cache
def openvino_capabilities() -> tuple[str, ...] | None:
    """Ask OpenVINO what this processor computes in ("FP32", "BF16", "INT8"); None where it can't be asked.

    It is the copy inside onnxruntime-openvino that is asked, by its C interface: to import the package
    `openvino` before the first session would load other libraries of the same names, and no session opens.
    """
    folder = Path(str(onnxruntime().__file__)).parent / "capi"
    libraries = [folder / name for name in OPENVINO_LIBRARIES if (folder / name).is_file()]
    if not libraries:
        return None
    openvino = ctypes.CDLL(str(libraries[0]))
    core, text = ctypes.c_void_p(), ctypes.c_char_p()
    if openvino.ov_core_create(ctypes.byref(core)) != 0:
        return None
    name = b"OPTIMIZATION_CAPABILITIES"
    status = openvino.ov_core_get_property(core, b"CPU", name, ctypes.byref(text))
    names = tuple(text.value.decode().split()) if status == 0 and text.value else None
    openvino.ov_free(text)
    openvino.ov_core_free(core)
    return names


def _honoured(options: RuntimeOptions) -> Device:
    """Return the device of the options; raises what `find_device` does, or why it lacks the precision."""
    device = find_device(options.device)
    cause = why_no_bf16(device) if options.precision == "bf16" else None
    if cause is not None:
        raise cause
    return device


def find_device(text: str) -> Device:
    """Parse a device and make sure that it can be used; "auto" takes the fastest that can.

    Raises OptionError for what is no device, DeviceError with the cause for what can't be used.
    """
    if text == "auto":
        device = next(
            (device for device in map(Device, AUTO_ORDER) if why_unusable(device) is None), Device("cpu")
        )
    else:
        device = parse_device(text)
    cause = why_unusable(device)
    if cause is not None:
        raise cause
    return device


def parse_device(text: str) -> Device:
    """Parse "cpu", "cuda[:i]", "tensorrt[:i]" or "openvino"; "gpu:0" is PaddleX's "cuda:0"."""
    kind, colon, number = text.partition(":")
    kind = {"gpu": "cuda", "trt": "tensorrt"}.get(kind, kind)
    remedy = "give cpu, cuda[:i], tensorrt[:i], openvino or auto"
    if kind not in get_args(DeviceKind) or (colon and kind in ("cpu", "openvino")):
        raise OptionError("runtime.device", f"{text!r} is not a device", remedy)
    if "," in number:
        raise OptionError(
            "runtime.device", f"{text!r} asks for several GPUs, which one engine can't use yet", remedy
        )
    if colon and not number.isdecimal():
        raise OptionError("runtime.device", f"{text!r} has no number after the colon", remedy)
    return Device(cast("DeviceKind", kind), int(number or 0))


def why_unusable(device: Device) -> OcrError | None:
    """Return the error that explains why a device can't be used; None where it can."""
    try:
        ort = onnxruntime()
    except DependencyError as error:
        return error
    if PROVIDERS[device.kind] not in ort.get_available_providers():
        wheel = ", ".join(f"{name} {version}" for name, version in installed_wheels().items())
        problem = f"the installed ONNX Runtime ({wheel}) has no {PROVIDERS[device.kind]}"
        other = "" if device.kind == "cpu" else f"uninstall {wheel.split()[0]}, then "
        return DeviceError(str(device), problem, f"{other}install 'ocr-onnx[{EXTRAS[device.kind]}]'")
    if device.kind in ("cuda", "tensorrt"):
        problem = _gpu_problem(device.index)
        if problem:
            return DeviceError(str(device), problem, "check `nvidia-smi`, or use --device cpu")
    if device.kind == "tensorrt":
        return DeviceError("tensorrt", "is not supported yet", "use --device cuda")
    return _probe(device)


def device_reports() -> tuple[DeviceReport, ...]:
    """Try every kind of device."""
    return tuple(_report(Device(kind)) for kind in get_args(DeviceKind))


def installed_wheels() -> dict[str, str]:
    """Return every installed distribution that brings the package `onnxruntime`, with its version."""
    found = {}
    for name in WHEELS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def onnxruntime() -> ModuleType:
    """Import ONNX Runtime; DependencyError says what to install where there is none, or two."""
    wheels = installed_wheels()
    if not wheels:
        raise DependencyError(
            "onnxruntime",
            "is not installed",
            "install 'ocr-onnx[cpu]' or, for an NVIDIA GPU, 'ocr-onnx[gpu]'",
        )
    if len(wheels) > 1:
        raise DependencyError(
            "onnxruntime",
            f"{' and '.join(wheels)} are both installed and overwrite each other",
            f"run `pip uninstall -y {' '.join(wheels)}`, then install exactly one, such as 'ocr-onnx[cpu]'",
        )
    return importlib.import_module("onnxruntime")


@functools.cache
def _ort_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: classes without a common base but Exception."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = (
        "EPFail EngineError Fail InvalidArgument InvalidGraph InvalidProtobuf ModelLoaded NoModel NoSuchFile "
        "NotImplemented RuntimeException"
    )
    return (RuntimeError, *(getattr(state, name) for name in names.split()))


def _report(device: Device) -> DeviceReport:
    cause = why_unusable(device)
    detail = "ran a one-node model" if cause is None else f"{cause.problem}; {cause.remedy}"
    return DeviceReport(str(device), PROVIDERS[device.kind], cause is None, detail)


def _probe(device: Device) -> OcrError | None:
    """Run one node on a device; return what went wrong."""
    try:
        session = open_session("probe model", PROBE_MODEL, device, 1)
        session.run(None, {"x": np.zeros(1, dtype=np.float32)})
    except OcrError as error:
        return DeviceError(str(device), error.problem, error.remedy)
    except _ort_errors() as error:
        return DeviceError(str(device), _first_line(error), "run `ocr-onnx doctor` to see what is missing")
    return None


def _gpu_problem(index: int) -> str:
    """Ask the NVIDIA driver, before ONNX Runtime does so loudly; "" where the GPU is there."""
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"no NVIDIA driver was found ({name})"
    status = driver.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver does not start (cuInit returned {status})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value <= index:
        return f"the driver sees {count.value} GPU(s), so there is no number {index}"
    return ""


def _tensor_info(info: Any) -> TensorInfo:
    shape: Sequence[object] = info.shape
    return TensorInfo(info.name, info.type, tuple(size if isinstance(size, int) else None for size in shape))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
