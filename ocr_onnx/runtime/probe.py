"""What can be used here and, where something can't, why not and what to do about it."""

import ctypes
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, get_args

import numpy as np

from ocr_onnx.errors import DependencyError, DeviceError, OcrError, OptionError
from ocr_onnx.options import Precision, RuntimeOptions
from ocr_onnx.runtime import driver, libraries, opening, wheels
from ocr_onnx.runtime.device import EXTRAS, ON_PROCESSOR, PROVIDERS, Device, DeviceKind, parse_device
from ocr_onnx.runtime.providers import why_refused

# Without openvino: wherever it is, the CPU is as well, and reads pages faster (AMD Zen 3, FP32).
AUTO_ORDER: tuple[DeviceKind, ...] = ("cuda", "cpu")
# Slower devices that `allow_fallback` may go on with, the best first.
FALLBACKS: Mapping[DeviceKind, tuple[DeviceKind, ...]] = {
    "cpu": (),
    "cuda": ("cpu",),
    "tensorrt": ("cuda", "cpu"),
    "openvino": ("cpu",),
}
# One Conv node, y = x * 1 with x float32 (n, 1, 4, 4), opset 17: a small model of which nothing can be left
# out, and the operation that needs cuDNN.
PROBE_MODEL = (
    b'\x08\x08:i\n\x0f\n\x01x\n\x01w\x12\x01y"\x04Conv\x12\x05probe*\x13\x08\x01\x08\x01\x08\x01\x08\x01'
    b"\x10\x01B\x01wJ\x04\x00\x00\x80?Z\x1c\n\x01x\x12\x17\n\x15\x08\x01\x12\x11\n\x03\x12\x01n\n\x02\x08\x01\n"
    b"\x02\x08\x04\n\x02\x08\x04b\x1c\n\x01y\x12\x17\n\x15\x08\x01\x12\x11\n\x03\x12\x01n\n\x02\x08\x01\n\x02\x08"
    b"\x04\n\x02\x08\x04B\x04\n\x00\x10\x11"
)
FP16_DEVICES: tuple[DeviceKind, ...] = ("cuda", "tensorrt")
OPENVINO_LIBRARIES = ("libopenvino_c.so", "openvino_c.dll", "libopenvino_c.dylib")


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """Whether a device works here, seen by running a one-node model on it; if not, why and what to do."""

    device: str
    provider: str
    usable: bool
    detail: str
    remedy: str = ""


class Granted(NamedTuple):
    """What to run with and, where its device is not the one that was asked for, why: "cuda:0: has ..."."""

    options: RuntimeOptions
    fallback: str


def granted(options: RuntimeOptions) -> Granted:
    """Settle on the device of the options or, with `allow_fallback`, on the next slower one that works.

    Options of GPUs are dropped where the fallback is a processor. Raises what `find_device` does, or
    why the device lacks the precision, which no fallback is for, or can't honour another option.
    """
    asked = _parsed(options.device)
    slower = FALLBACKS[asked.kind] if options.allow_fallback else ()
    refused: list[OcrError] = []
    for device in (
        asked,
        *(replace(asked, kind=kind) if kind == "cuda" else Device(kind) for kind in slower),
    ):
        cause = why_unusable(device)
        if cause is None:
            settled = _settled(options, device, is_fallback=bool(refused))
            cause = why_no_precision(device, options.precision)
            cause = cause or why_refused(device, settled, os.environ.get("NVIDIA_TF32_OVERRIDE"))
            if cause is not None:
                raise refused[0] if refused else cause
            return Granted(settled, _told(refused))
        refused.append(cause)
    raise refused[0]


def _settled(options: RuntimeOptions, device: Device, *, is_fallback: bool) -> RuntimeOptions:
    """Return the options for a device that was found to work."""
    settled = replace(options, device=str(device), allow_fallback=False)
    if is_fallback and device.kind in ON_PROCESSOR:
        return replace(settled, gpu_memory_mib=0, tf32=True)
    return settled


def _told(refused: Sequence[OcrError]) -> str:
    """Return why devices could not be used, a cause that they share once."""
    first = {error.problem: error.subject for error in reversed(refused)}
    return "; ".join(f"{subject}: {problem}" for problem, subject in reversed(first.items()))


def honoured(options: RuntimeOptions) -> Device:
    """Return the device to run on; raises what `granted` does."""
    return parse_device(granted(options).options.device)


def find_device(text: str) -> Device:
    """Parse a device and make sure that it can be used; "auto" takes the fastest that can.

    Raises OptionError for what is no device, DeviceError with the cause for what can't be used.
    """
    device = _parsed(text)
    cause = why_unusable(device)
    if cause is not None:
        raise cause
    return device


def _parsed(text: str) -> Device:
    if text != "auto":
        return parse_device(text)
    return next((device for device in map(Device, AUTO_ORDER) if why_unusable(device) is None), Device("cpu"))


def why_unusable(device: Device) -> OcrError | None:
    """Return the error that explains why a device can't be used; None where it can.

    Of several GPUs every one has to work.
    """
    if device.more:
        return next(filter(None, map(why_unusable, device.each)), None)
    try:
        ort = wheels.onnxruntime()
    except DependencyError as error:
        return error
    if PROVIDERS[device.kind] not in ort.get_available_providers():
        wheel = ", ".join(f"{name} {version}" for name, version in wheels.installed_wheels().items())
        problem = f"the installed ONNX Runtime ({wheel}) has no {PROVIDERS[device.kind]}"
        other = "" if device.kind == "cpu" else f"uninstall {wheel.split()[0]}, then "
        return DeviceError(str(device), problem, f"{other}install 'ocr-onnx[{EXTRAS[device.kind]}]'")
    if device.kind in ON_PROCESSOR:
        return _probe(device)
    return _why_no_gpu(device, ort)


def why_no_precision(device: Device, precision: Precision) -> OcrError | None:
    """Return the error that explains why a usable device can't compute in a precision; None where it can."""
    if precision == "fp16" and device.kind not in FP16_DEVICES:
        problem = f"is for NVIDIA GPUs, and this is {device}"
        return OptionError("runtime.precision=fp16", problem, "use --device cuda, or --precision fp32")
    return why_no_bf16(device) if precision == "bf16" else None


def device_reports() -> tuple[DeviceReport, ...]:
    """Try every kind of device."""
    return tuple(_report(Device(kind)) for kind in get_args(DeviceKind))


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
    folder = Path(str(wheels.onnxruntime().__file__)).parent / "capi"
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


def _report(device: Device) -> DeviceReport:
    cause = why_unusable(device)
    provider = PROVIDERS[device.kind]
    if cause is not None:
        return DeviceReport(str(device), provider, False, cause.problem, cause.remedy)
    ran = "opened" if device.kind == "tensorrt" else "ran"
    return DeviceReport(str(device), provider, True, f"{ran} a one-node model")


def _why_no_gpu(device: Device, ort: ModuleType) -> OcrError | None:
    """Look for what a GPU needs, the driver first: without one no library need be loaded."""
    if (os.getpid(), device) in _WORKED:
        return None
    try:
        driver.require(device.index, libraries.cuda_major(ort))
        libraries.require_cuda(ort)
        if device.kind == "tensorrt":
            libraries.require_tensorrt()
        cause = _probe(device)
        if cause is not None:
            raise cause
    except DeviceError as error:
        subject = "" if error.subject == str(device) else f"{error.subject} "
        return DeviceError(str(device), f"{subject}{error.problem}", f"{error.remedy}; or use --device cpu")
    _WORKED.add((os.getpid(), device))
    return None


# GPUs that passed, by process: every session of an engine asks, and the answer costs a session of its own.
_WORKED: set[tuple[int, Device]] = set()


def _probe(device: Device) -> DeviceError | None:
    """Run one node on a device; return what went wrong."""
    try:
        session = opening.open_session("the probe model", PROBE_MODEL, device, 1)
        if device.kind != "tensorrt":  # to run would build an engine, which takes seconds
            session.run(None, {"x": np.zeros((1, 1, 4, 4), dtype=np.float32)})
    except OcrError as error:
        return DeviceError(str(device), error.problem, error.remedy)
    except wheels.ort_errors() as error:
        return DeviceError(str(device), wheels.first_line(error), opening.DOCTOR)
    return None
