"""The text of a device -> its kind and, for GPUs, its number or numbers. Pure."""

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
MAX_DIGITS = 4  # of a GPU's number


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device and, for GPUs, its number; `more` numbers others that share the work."""

    kind: DeviceKind
    index: int = 0
    more: tuple[int, ...] = ()

    def __str__(self) -> str:
        numbers = ",".join(map(str, (self.index, *self.more)))
        return self.kind if self.kind in ON_PROCESSOR else f"{self.kind}:{numbers}"

    @property
    def each(self) -> tuple["Device", ...]:
        """Every single device that this one stands for, in the order they were given."""
        return tuple(Device(self.kind, index) for index in (self.index, *self.more))


def parse_device(text: str) -> Device:
    """Parse "cpu", "cuda[:i[,j...]]", "tensorrt[:i[,j...]]" or "openvino"; "gpu:0" is PaddleX's "cuda:0"."""
    kind, colon, numbers = text.partition(":")
    kind = {"gpu": "cuda", "trt": "tensorrt"}.get(kind, kind)
    remedy = "give cpu, cuda[:i[,j...]], tensorrt[:i[,j...]], openvino or auto"
    if kind not in get_args(DeviceKind) or (colon and kind in ("cpu", "openvino")):
        raise OptionError("runtime.device", f"{text!r} is not a device", remedy)
    parts = numbers.split(",") if colon else ["0"]
    if not all(part.isdecimal() and len(part) <= MAX_DIGITS for part in parts):
        where = "between its commas" if "," in numbers else "after the colon"
        raise OptionError("runtime.device", f"{text!r} has no number of a GPU {where}", remedy)
    index, *more = map(int, parts)
    if len({index, *more}) < len(parts):
        raise OptionError("runtime.device", f"{text!r} names a GPU twice", "name every GPU once")
    return Device(cast("DeviceKind", kind), index, tuple(more))
