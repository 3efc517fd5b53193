"""The libraries of NVIDIA that ONNX Runtime's GPU providers need: loaded once, or named with their wheel."""

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import io
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ocr_onnx.errors import DeviceError

# ONNX Runtime's wheels link TensorRT 10; TensorRT 11 has libraries of other names.
TENSORRT = ("libnvinfer.so.10", "libnvonnxparser.so.10")
TENSORRT_REMEDY = "install 'ocr-onnx[tensorrt]' with NVIDIA's package index as an extra index"


@dataclass(frozen=True, slots=True)
class Library:
    """A library's file name, and the wheel that brings it. Models run without one that is not `needed`."""

    file: str
    wheel: str
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A library that is wanted, and why it can't be loaded; "" where it is."""

    wanted: Library
    problem: str


def cuda_major(ort: ModuleType) -> int:
    """Return the version of CUDA that ONNX Runtime was built for, 12 or 13; 0 where it was for none."""
    major = str(getattr(ort, "cuda_version", "") or "").partition(".")[0]
    return int(major) if major.isdecimal() else 0


def cuda_libraries(major: int) -> tuple[Library, ...]:
    """Return what ONNX Runtime's CUDA provider takes from NVIDIA, in the order it must be loaded in.

    Known for Linux; elsewhere it is left to ONNX Runtime to find them.
    """
    if os.name == "nt" or not major:
        return ()
    # Wheels of CUDA 13 no longer carry the number. Providers for 12 link cuFFT, those for 13 open it late.
    end = "" if major >= 13 else f"-cu{major}"
    return (
        Library(f"libcublasLt.so.{major}", f"nvidia-cublas{end}"),
        Library(f"libcublas.so.{major}", f"nvidia-cublas{end}"),
        Library("libcurand.so.10", f"nvidia-curand{end}"),
        Library(f"libcudart.so.{major}", f"nvidia-cuda-runtime{end}"),
        Library("libcudnn.so.9", f"nvidia-cudnn-cu{major}"),
        Library(f"libcufft.so.{major - 1}", f"nvidia-cufft{end}", needed=major < 13),
        Library(f"libnvrtc.so.{major}", f"nvidia-cuda-nvrtc{end}", needed=False),
    )


def find_cuda(ort: ModuleType) -> tuple[Found, ...]:
    """Load NVIDIA's libraries into the process, from their wheels or the system, and tell which can't be."""
    chatter = _preload(ort)
    return tuple(
        Found(library, _why_not(library.file, chatter)) for library in cuda_libraries(cuda_major(ort))
    )


def find_tensorrt() -> tuple[Found, ...]:
    """Load TensorRT, which ONNX Runtime leaves to others, for its provider to find; tell what can't be."""
    spec = importlib.util.find_spec("tensorrt_libs")
    folders = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    return tuple(Found(Library(file, "tensorrt-cu13-libs"), _load_global(file, folders)) for file in TENSORRT)


def require_cuda(ort: ModuleType) -> None:
    """Load NVIDIA's libraries; DeviceError names those that are missing, and what brings them."""
    missing = [found for found in find_cuda(ort) if found.problem and found.wanted.needed]
    if missing:
        remedy = f"install 'ocr-onnx[{extra_for(cuda_major(ort))}]'"
        raise DeviceError(_named(missing), f"can't be loaded: {missing[0].problem}", remedy)


def require_tensorrt() -> None:
    """Load TensorRT; DeviceError tells what brings it."""
    missing = [found for found in find_tensorrt() if found.problem]
    if missing:
        raise DeviceError("TensorRT 10", f"can't be loaded: {missing[0].problem}", TENSORRT_REMEDY)


def extra_for(major: int) -> str:
    """Return the extra of ocr-onnx that brings CUDA of a version."""
    return "gpu" if major >= 13 else "gpu-cuda12"


def version(wheel: str) -> str:
    """Return a wheel's version; "" where it is not installed."""
    try:
        return importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _named(missing: list[Found]) -> str:
    return ", ".join(f"{found.wanted.file} (wheel {found.wanted.wheel})" for found in missing)


@functools.cache
def _preload(ort: ModuleType) -> str:
    """Let ONNX Runtime load CUDA and cuDNN from their wheels; return what it prints about that."""
    if not hasattr(ort, "preload_dlls"):
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as chatter:
        ort.preload_dlls()
    return chatter.getvalue()


def _why_not(file: str, chatter: str) -> str:
    """Ask for a library that has been loaded if it can be; return the cause if it can't."""
    try:
        ctypes.CDLL(file)
    except OSError as error:
        # what is wrong with the wheel's own file comes first, that there is no other comes last
        told = (line.partition(": ")[2] for line in chatter.splitlines() if f"{file}: " in line)
        return next(told, str(error))
    return ""


def _load_global(file: str, folders: list[Path]) -> str:
    paths = [str(folder / file) for folder in folders if (folder / file).is_file()]
    try:
        ctypes.CDLL(paths[0] if paths else file, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        others = sorted(
            path.name for folder in folders for path in folder.glob(f"{file.partition('.')[0]}.so.*")
        )
        return f"{error}; the wheel has {', '.join(others)}" if others else str(error)
    return ""
