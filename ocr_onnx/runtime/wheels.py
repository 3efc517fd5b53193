"""The one place that imports ONNX Runtime, after making sure that it is there once."""

import functools
import importlib
import importlib.metadata
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
def ort_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: classes without a common base but Exception."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = (
        "EPFail EngineError Fail InvalidArgument InvalidGraph InvalidProtobuf ModelLoaded NoModel NoSuchFile "
        "NotImplemented RuntimeException"
    )
    return (RuntimeError, *(getattr(state, name) for name in names.split()))


def first_line(error: Exception) -> str:
    """Return the first line of ONNX Runtime's message; the others tell where in its source."""
    return str(error).strip().splitlines()[0]
