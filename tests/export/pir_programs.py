"""Builds PIR programs for the tests, in the JSON that Paddle 3 writes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ocr_onnx_export import pdiparams, pir

Array: TypeAlias = NDArray[Any]


class DType(str):
    """The name of an element type where an attribute holds one."""


class IntArray(tuple[int, ...]):
    """A list of integers where an attribute holds one as a whole."""

    __slots__ = ()


def tensor_type(shape: Sequence[int], dtype: str = "f32") -> dict[str, Any]:
    return {"#": "0.t_dtensor", "D": [{"#": f"0.t_{dtype}"}, list(shape), "NCHW", [], 0]}


def attribute(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"#": "0.a_bool", "D": value}
    if isinstance(value, int):
        return {"#": "0.a_i32", "D": value}
    if isinstance(value, float):
        return {"#": "0.a_f32", "D": value}
    if isinstance(value, DType):
        return {"#": "1.a_dtype", "D": str(value)}
    if isinstance(value, str):
        return {"#": "0.a_str", "D": value}
    if isinstance(value, IntArray):
        return {"#": "1.a_intarray", "D": list(value)}
    return {"#": "0.a_array", "D": [attribute(element) for element in value]}


@dataclass
class PirBuilder:
    """A program that grows op by op; every method returns the number of the value it makes."""

    ops: list[dict[str, Any]] = field(default_factory=list)
    parameters: dict[str, Array] = field(default_factory=dict)
    count: int = 0

    def parameter(self, name: str, value: Array) -> int:
        self.parameters[name] = value
        number = self._number()
        output = {"%": number, "TT": tensor_type(value.shape)}
        self.ops.append({"#": "p", "A": [0, 1, 1, name], "DA": [], "O": output, "OA": [1, 0, 1], "QA": []})
        return number

    def op(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        attributes: Mapping[str, Any] | None = None,
        dtype: str = "f32",
    ) -> int:
        number = self._number()
        self._append(name, inputs, [{"%": number, "TT": tensor_type(shape, dtype)}], attributes or {})
        return number

    def feed(self, shape: Sequence[int], name: str = "x") -> int:
        return self.op("1.feed", [], shape, {"name": name, "col": 0})

    def fetch(self, value: int, shape: Sequence[int], name: str = "y") -> int:
        return self.op("1.fetch", [value], shape, {"name": name, "col": 0})

    def integers(self, *values: int) -> int:
        attributes = {"value": list(values), "dtype": DType("int64")}
        return self.op("1.full_int_array", [], [len(values)], attributes, "i64")

    def number(self, value: float, dtype: str = "float32") -> int:
        attributes = {"shape": IntArray([1]), "value": float(value), "dtype": DType(dtype)}
        return self.op(
            "1.full", [], [1], attributes, {"float32": "f32", "int32": "i32", "int64": "i64"}[dtype]
        )

    def combine(self, *values: int) -> int:
        number = self._number()
        output = {"%": number, "TT": {"#": "0.t_vec", "D": []}}
        self._append("0.combine", values, [output], {})
        return number

    def part(self, vector: int, index: int, shape: Sequence[int]) -> int:
        return self.op("0.slice", [vector], shape, {"index": index})

    def document(self) -> dict[str, Any]:
        block = {"#": "block_0", "args": [], "ops": self.ops}
        program = {"regions": [{"#": "region_0", "blocks": [block]}]}
        return {"base_code": {"magic": "pir", "trainable": True, "version": 1}, "program": program}

    def text(self) -> bytes:
        return json.dumps(self.document()).encode()

    def program(self) -> pir.Program:
        return pir.parse_program(self.text(), Path("inference.json"))

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "inference.json").write_bytes(self.text())
        (folder / "inference.pdiparams").write_bytes(pdiparams.to_bytes(self.parameters))
        return folder

    def _number(self) -> int:
        self.count += 1
        return self.count

    def _append(
        self, name: str, inputs: Sequence[int], outputs: list[dict[str, Any]], attributes: Mapping[str, Any]
    ) -> None:
        entries = [{"N": key, "AT": attribute(value)} for key, value in attributes.items()]
        operands = [{"%": number} for number in inputs]
        self.ops.append({"#": name, "A": entries, "I": operands, "O": outputs, "OA": []})


CONV = {
    "strides": [1, 1],
    "paddings": [1, 1],
    "padding_algorithm": "EXPLICIT",
    "dilations": [1, 1],
    "groups": 1,
    "data_format": "NCHW",
}
POOL = {
    "strides": [2, 2],
    "paddings": [0, 0],
    "ceil_mode": False,
    "exclusive": True,
    "data_format": "NCHW",
    "pooling_type": "avg",
    "global_pooling": False,
    "adaptive": False,
    "padding_algorithm": "EXPLICIT",
}
CHARACTERS = ("a", "b")  # of the tiny rec network: blank, a, b, space


def tiny_det(seed: int = 0) -> PirBuilder:
    """One convolution and a sigmoid: a map of the image's size."""
    generator = np.random.default_rng(seed)
    net = PirBuilder()
    weight = net.parameter("conv2d_0.w_0", generator.normal(0, 0.3, (1, 3, 3, 3)).astype(np.float32))
    bias = net.parameter("conv2d_0.b_0", np.array([0.25], np.float32))
    x = net.feed([-1, 3, -1, -1])
    conv = net.op("1.conv2d", [x, weight], [-1, 1, -1, -1], CONV)
    row = net.op("1.reshape", [bias, net.integers(1, -1, 1, 1)], [1, 1, 1, 1])
    logits = net.op("1.add", [conv, row], [-1, 1, -1, -1])
    net.fetch(net.op("1.sigmoid", [logits], [-1, 1, -1, -1]), [-1, 1, -1, -1])
    return net


def tiny_rec(seed: int = 0, classes: int = len(CHARACTERS) + 2) -> PirBuilder:
    """Columns of 8 px averaged and classified: a softmax per step."""
    generator = np.random.default_rng(seed)
    net = PirBuilder()
    weight = net.parameter("linear_0.w_0", generator.normal(0, 3, (3, classes)).astype(np.float32))
    x = net.feed([-1, 3, 48, -1])
    pool = net.op("1.pool2d", [x, net.integers(48, 8)], [-1, 3, 1, -1], {**POOL, "strides": [48, 8]})
    rows = net.op("1.squeeze", [pool, net.integers(2)], [-1, 3, -1])
    steps = net.op("1.transpose", [rows], [-1, -1, 3], {"perm": [0, 2, 1]})
    product = {"transpose_x": False, "transpose_y": False}
    logits = net.op("1.matmul", [steps, weight], [-1, -1, classes], product)
    net.fetch(net.op("1.softmax", [logits], [-1, -1, classes], {"axis": 2}), [-1, -1, classes])
    return net
