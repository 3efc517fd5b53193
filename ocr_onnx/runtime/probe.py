"""What can be used here and, where something can't, why not and what to do about it."""

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from ocr_onnx.errors import DependencyError, DeviceError, OcrError, OptionError
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import opening, wheels
from ocr_onnx.runtime.device import EXTRAS, PROVIDERS, Device, DeviceKind, parse_device
from ocr_onnx.runtime.providers import why_refused

# Without openvino: wherever it is, the CPU is as well, and reads pages faster (AMD Zen 3, FP32).
AUTO_ORDER: tuple[DeviceKind, ...] = ("cuda", "cpu")
# One Identity node, y = x with x float32 (1,), opset 17: the smallest model there is.
PROBE_MODEL = (
    b'\x08\x08:>\n\x13\n\x01x\x12\x01y\x1a\x01n"\x08Identity\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04'
    b"\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
OPENVINO_LIBRARIES = ("libopenvino_c.so", "openvino_c.dll", "libopenvino_c.dylib")


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """Whether a device works here, seen by running a one-node model on it; `detail` says why not."""

    device: str
    provider: str
    usable: bool
    detail: str


def honoured(options: RuntimeOptions) -> Device:
    """Return the device of the options; raises what `find_device` does, or why it can't honour the others."""
    device = find_device(options.device)
    cause = why_no_bf16(device) if options.precision == "bf16" else None
    cause = cause or why_refused(device, options, os.environ.get("NVIDIA_TF32_OVERRIDE"))
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


def why_unusable(device: Device) -> OcrError | None:
    """Return the error that explains why a device can't be used; None where it can."""
    try:
        ort = wheels.onnxruntime()
    except DependencyError as error:
        return error
    if PROVIDERS[device.kind] not in ort.get_available_providers():
        wheel = ", ".join(f"{name} {version}" for name, version in wheels.installed_wheels().items())
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
    detail = "ran a one-node model" if cause is None else f"{cause.problem}; {cause.remedy}"
    return DeviceReport(str(device), PROVIDERS[device.kind], cause is None, detail)


def _probe(device: Device) -> OcrError | None:
    """Run one node on a device; return what went wrong."""
    try:
        session = opening.open_session("probe model", PROBE_MODEL, device, 1)
        session.run(None, {"x": np.zeros(1, dtype=np.float32)})
    except OcrError as error:
        return DeviceError(str(device), error.problem, error.remedy)
    except wheels.ort_errors() as error:
        return DeviceError(
            str(device), wheels.first_line(error), "run `ocr-onnx doctor` to see what is missing"
        )
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
