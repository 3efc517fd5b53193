"""The installation goes in; a list of checks comes out, each with its state and, if need be, the remedy."""

import os
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal, TypeAlias

import ocr_onnx
from ocr_onnx.errors import OcrError
from ocr_onnx.options import ModelOptions

if TYPE_CHECKING:
    from ocr_onnx.runtime.libraries import Found

State: TypeAlias = Literal["ok", "note", "broken"]

OPTIONAL = {"pypdfium2": "PDF files can't be read without it; install 'ocr-onnx[pdf]'"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. "note" is worth knowing, "broken" keeps pages from being read."""

    topic: str
    name: str
    state: State
    detail: str
    remedy: str = ""


def examine() -> tuple[Check, ...]:
    """Look at everything reading a page needs. No check keeps another from being made."""
    return (*_versions(), *_wheels(), *_gpus(), *_devices(), *_models(), *_threads(), *_cache())


def _versions() -> Iterator[Check]:
    yield Check("system", "ocr-onnx", "ok", ocr_onnx.__version__)
    yield Check("system", "Python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for name in _required():
        version = _version(name)
        if version:
            yield Check("package", name, "ok", version)
        else:
            yield Check("package", name, "broken", "is not installed", "install ocr-onnx again")
    for name, without in OPTIONAL.items():
        version = _version(name)
        yield Check("package", name, "ok" if version else "note", version or f"is not installed: {without}")


def _required() -> Iterator[str]:
    """Yield the distributions that ocr-onnx itself asks for, without those of its extras."""
    for requirement in metadata.requires("ocr-onnx") or ():
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name and ";" not in requirement:
            yield name[0]


def _wheels() -> Iterator[Check]:
    from ocr_onnx.runtime import wheels

    for name, version in wheels.installed_wheels().items():
        yield Check("runtime", name, "ok", version)
    try:
        wheels.onnxruntime()
    except OcrError as error:
        yield _broken("runtime", error)


def _gpus() -> Iterator[Check]:
    """Look at NVIDIA's driver and GPUs and, where ONNX Runtime is built for them, at its libraries."""
    from ocr_onnx.runtime import driver, libraries, wheels

    try:
        found = driver.ask()
        yield Check("driver", "NVIDIA", "ok", f"speaks CUDA up to {found.cuda[0]}.{found.cuda[1]}")
        for number, gpu in enumerate(found.gpus):
            yield Check("gpu", str(number), "ok", driver.described(gpu))
    except OcrError as error:
        yield Check("driver", "NVIDIA", "note", error.problem, error.remedy)
    try:
        ort = wheels.onnxruntime()
    except OcrError:
        return  # told by `_wheels`
    major = libraries.cuda_major(ort)
    if major:
        yield Check("runtime", "CUDA", "ok", f"ONNX Runtime is built for {ort.cuda_version}")
        remedy = f"install 'ocr-onnx[{libraries.extra_for(major)}]'"
        yield from (_library(one, remedy) for one in libraries.find_cuda(ort))
        yield from (_library(one, libraries.TENSORRT_REMEDY) for one in libraries.find_tensorrt())


def _library(found: "Found", remedy: str) -> Check:
    from ocr_onnx.runtime import libraries

    library = found.wanted
    if found.problem:
        detail = found.problem if library.needed else f"{found.problem} (our models run without it)"
        return Check("library", library.file, "note", detail, remedy)
    version = libraries.version(library.wheel)
    return Check("library", library.file, "ok", f"{library.wheel} {version}" if version else "of the system")


def _devices() -> Iterator[Check]:
    from ocr_onnx import runtime

    for report in runtime.device_reports():
        # Reading needs the CPU at least; what else there is depends on the machine and the wheel.
        state: State = "ok" if report.usable else "broken" if report.device == "cpu" else "note"
        yield Check("device", report.device, state, f"{report.provider}: {report.detail}", report.remedy)
        if report.device == "openvino" and report.usable:
            cause = runtime.why_no_bf16(runtime.Device("openvino"))
            detail = "as an explicit choice (--precision bf16)" if cause is None else cause.problem
            yield Check("precision", "bf16", "ok" if cause is None else "note", detail)


def _models() -> Iterable[Check]:
    from ocr_onnx import model_store

    try:
        files = model_store.resolve(ModelOptions(offline=True))
    except OcrError as error:
        return [_broken("model", error)]
    return [
        Check("model", file.spec.name, "ok", f"sha256 {file.sha256} as pinned: {file.path}")
        for file in (files.det, files.rec, files.cls)
    ]


def _threads() -> Iterator[Check]:
    from ocr_onnx import threads

    quota = threads.cgroup_cpus()
    reasons = (
        f"{os.cpu_count()} processors",
        f"{threads.affinity_cpus()} by affinity",
        "no cgroup quota" if quota is None else f"cgroup quota of {quota:g}",
    )
    yield Check("threads", str(threads.usable_threads()), "ok", ", ".join(reasons))


def _cache() -> Iterator[Check]:
    from ocr_onnx import model_store

    folder = model_store.cache_dir()
    # What does not exist yet is made on the first download, in the nearest folder that does.
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        problem = f"can't be made: {nearest} is not a folder"
        yield Check("cache", str(folder), "note", problem, "set OCR_ONNX_CACHE_DIR to another folder")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        problem = "can't be written, so no model can be downloaded"
        yield Check("cache", str(folder), "note", problem, "set OCR_ONNX_CACHE_DIR to another folder")
    else:
        size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        yield Check("cache", str(folder), "ok", f"{size_bytes / 1e6:.1f} MB")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _broken(topic: str, error: OcrError) -> Check:
    return Check(topic, error.subject, "broken", error.problem, error.remedy)
