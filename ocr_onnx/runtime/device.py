"""The text of a device -> its kind and number. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from ocr_onnx.errors import OptionError

DeviceKind: TypeAlias = Literal["cpu", "cuda", "tensorrt", "openvino"]

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


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device and, for GPUs, its number."""

    kind: DeviceKind
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.kind in ("cuda", "tensorrt") else self.kind


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
