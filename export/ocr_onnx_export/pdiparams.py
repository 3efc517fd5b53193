"""`inference.pdiparams` in and out: the parameters of a program, sorted by name, one record each.

A record holds no name, only::

    u32 version = 0 | u64 LoD level = 0 | u32 version = 0 | i32 length of the descriptor
    descriptor: protobuf, field 1 the element type, field 2 one varint per dimension
    data: little-endian, row-major

so a file is read against its program, which says what has to come, and nothing in the file decides
how much is read or allocated.
"""

import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ocr_onnx_export.errors import SourceFormatError
from ocr_onnx_export.pir import Parameter

Array: TypeAlias = NDArray[Any]

HEADER = struct.Struct("<IQIi")
# name in PIR -> number in framework.proto's VarType and layout of an element
DTYPES: Mapping[str, tuple[int, str]] = {
    "bool": (0, "|b1"),
    "i32": (2, "<i4"),
    "i64": (3, "<i8"),
    "f16": (4, "<f2"),
    "f32": (5, "<f4"),
    "f64": (6, "<f8"),
    "ui8": (20, "|u1"),
    "i8": (21, "|i1"),
}
REMEDY = "take `inference.json` and `inference.pdiparams` from the same model and download them again"


def read_parameters(path: Path, parameters: Sequence[Parameter]) -> dict[str, Array]:
    """Read the values of `parameters` from `path`; arrays are read-only views of the file's bytes.

    Raises
    ------
    SourceFormatError
        The file is missing, its size is not what the program asks for, or a record's type or shape
        is not that of the parameter whose turn it is.
    """
    in_order = sorted(parameters, key=lambda parameter: parameter.name)
    expected_bytes = sum(len(_head(parameter, path)) + _data_bytes(parameter) for parameter in in_order)
    # a record may spell its descriptor longer than Paddle does, but not without bound
    slack_bytes = 256 * (len(in_order) + 1)
    try:
        size_bytes = path.stat().st_size
        if size_bytes <= expected_bytes + slack_bytes:
            return parse_parameters(path.read_bytes(), in_order, path)
    except OSError as error:
        raise SourceFormatError(str(path), f"can't be read ({error.strerror})", REMEDY) from error
    problem = f"has {size_bytes} bytes where {expected_bytes} belong to the program"
    raise SourceFormatError(str(path), problem, REMEDY)


def parse_parameters(data: bytes, in_order: Sequence[Parameter], path: Path) -> dict[str, Array]:
    """Parse a parameter file's bytes against parameters sorted by name. Raises like `read_parameters`."""
    values: dict[str, Array] = {}
    at = 0
    for index, parameter in enumerate(in_order):
        place = f"{path}, byte {at}, parameter {index + 1} of {len(in_order)} ({parameter.name})"
        type_number, shape, start = _parse_head(data, at, place)
        expected = (_dtype(parameter, path)[0], parameter.type.shape)
        if (type_number, shape) != expected:
            raise SourceFormatError(
                place,
                f"has element type {type_number} and shape {list(shape)}, the program says {expected[0]} and "
                f"{list(expected[1])}",
                REMEDY,
            )
        end = start + _data_bytes(parameter)
        if end > len(data):
            raise SourceFormatError(place, f"is cut off: {end - len(data)} bytes are missing", REMEDY)
        layout = np.dtype(_dtype(parameter, path)[1])
        values[parameter.name] = np.frombuffer(data, layout, prod(shape), start).reshape(shape)
        at = end
    if at != len(data):
        raise SourceFormatError(
            f"{path}, byte {at}",
            f"has {len(data) - at} bytes after the last of {len(in_order)} parameters",
            REMEDY,
        )
    return values


def to_bytes(values: Mapping[str, Array]) -> bytes:
    """Write float32 parameters as Paddle writes them, byte for byte."""
    records: list[bytes] = []
    for name in sorted(values):
        array = np.ascontiguousarray(values[name], dtype="<f4")
        records += [_encode_head(DTYPES["f32"][0], values[name].shape), array.tobytes()]
    return b"".join(records)


def _parse_head(data: bytes, at: int, place: str) -> tuple[int, tuple[int, ...], int]:
    """Return element type, shape and the byte where the data begin."""
    if len(data) - at < HEADER.size:
        raise SourceFormatError(place, "is missing or cut off", REMEDY)
    version, lod_level, inner_version, length = HEADER.unpack_from(data, at)
    if (version, lod_level, inner_version) != (0, 0, 0):
        raise SourceFormatError(place, "does not begin with the header of a plain tensor", REMEDY)
    start = at + HEADER.size
    if not 0 <= length <= len(data) - start:
        raise SourceFormatError(place, f"has a descriptor of {length} bytes that is not there", REMEDY)
    type_number, shape = _parse_descriptor(data[start : start + length], place)
    return type_number, shape, start + length


def _parse_descriptor(descriptor: bytes, place: str) -> tuple[int, tuple[int, ...]]:
    type_number: int | None = None
    shape: list[int] = []
    at = 0
    while at < len(descriptor):
        tag = descriptor[at]
        number, at = _parse_varint(descriptor, at + 1, place)
        if tag == 0x08 and type_number is None:
            type_number = number
        elif tag == 0x10:
            shape.append(number)
        else:
            raise SourceFormatError(place, f"has an unknown field {tag:#04x} in its descriptor", REMEDY)
    if type_number is None:
        raise SourceFormatError(place, "does not say its element type", REMEDY)
    return type_number, tuple(shape)


def _parse_varint(data: bytes, at: int, place: str) -> tuple[int, int]:
    number = 0
    for count, byte in enumerate(data[at : at + 10]):
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return number, at + count + 1
    raise SourceFormatError(place, "has an unreadable number in its descriptor", REMEDY)


def _encode_head(type_number: int, shape: Sequence[int]) -> bytes:
    descriptor = b"\x08" + _encode_varint(type_number)
    descriptor += b"".join(b"\x10" + _encode_varint(size) for size in shape)
    return HEADER.pack(0, 0, 0, len(descriptor)) + descriptor


def _encode_varint(number: int) -> bytes:
    groups = []
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _head(parameter: Parameter, path: Path) -> bytes:
    return _encode_head(_dtype(parameter, path)[0], parameter.type.shape)


def _data_bytes(parameter: Parameter) -> int:
    return prod(parameter.type.shape) * np.dtype(DTYPES[parameter.type.dtype][1]).itemsize


def _dtype(parameter: Parameter, path: Path) -> tuple[int, str]:
    if parameter.type.dtype not in DTYPES:
        raise SourceFormatError(
            f"{path}, parameter {parameter.name}",
            f"has the element type {parameter.type.dtype}, which can't be read",
            "export the model in float32",
        )
    return DTYPES[parameter.type.dtype]
