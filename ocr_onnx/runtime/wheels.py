"""The one place that imports ONNX Runtime, after making sure that it is there once."""

import contextlib
import functools
import importlib
import importlib.metadata
import re
from collections.abc import Iterator
from types import ModuleType

from ocr_onnx.errors import DependencyError

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
EXTRAS = {"onnxruntime-gpu": "gpu", "onnxruntime-openvino": "openvino"}
LOG_WARNINGS, LOG_FATAL = 2, 4


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
    """Import ONNX Runtime; DependencyError says what to do where there is none, or two, or half of one."""
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
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise _damaged(wheels, f"can't be imported ({first_line(error)})") from error
    if not hasattr(module, "InferenceSession"):  # an empty folder is a package as well
        raise _damaged(wheels, "has lost its files, as it does when another ONNX Runtime is uninstalled")
    return module


@contextlib.contextmanager
def quiet(ort: ModuleType) -> Iterator[None]:
    """Keep ONNX Runtime's own log off stderr while a GPU is tried; what is wrong comes as an error.

    A session's severity does not reach the log of a provider that is being loaded. What the process's was
    before can't be asked: it is ONNX Runtime's default (warnings) afterwards.
    """
    ort.set_default_logger_severity(LOG_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(LOG_WARNINGS)


def _damaged(wheels: dict[str, str], problem: str) -> DependencyError:
    [(name, version)] = wheels.items()
    extra = EXTRAS.get(name, "cpu")
    remedy = f"run `pip uninstall -y {name}`, then install 'ocr-onnx[{extra}]' anew"
    return DependencyError(f"{name} {version}", problem, remedy)


@functools.cache
def gpu_errors() -> tuple[type[Exception], ...]:
    """Return which of them are raised when a GPU or its provider fails, rather than the model."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return (RuntimeError, *(getattr(state, name) for name in ["EPFail", "EngineError", "RuntimeException"]))


@functools.cache
def ort_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: classes without a common base but Exception."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = (
        "EPFail EngineError Fail InvalidArgument InvalidGraph InvalidProtobuf ModelLoaded NoModel NoSuchFile "
        "NotImplemented RuntimeException"
    )
    return (RuntimeError, *(getattr(state, name) for name in names.split()))


def first_line(error: Exception) -> str:
    """Return what went wrong out of ONNX Runtime's message; the rest tells where in its source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # before it stands the place, with the whole signature of the function, and behind it that once more
    for pattern in (r"CUDA failure \d+: [^;]*[^; ]", r"(?<=\s)\[ONNXRuntimeError\] :.*"):
        found = re.search(pattern, lines[0])
        if found:
            return found[0]
    return lines[0]
