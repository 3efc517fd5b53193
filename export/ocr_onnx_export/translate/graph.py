"""What a translation works with: the graph that grows, and one operation's operands and attributes.

Integers are 64 bit throughout, whatever Paddle says: ONNX has its shapes in int64, and the official
programs use integers for nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from ocr_onnx_export.errors import ConversionError, UnsupportedOpError
from ocr_onnx_export.pdiparams import Array
from ocr_onnx_export.pir import Attribute, Op, TensorType

OnnxAttribute: TypeAlias = int | float | str | Sequence[int] | Sequence[float]

REMEDY = "convert it with `--route paddle2onnx`, or open an issue that names this operation and the model"
ELEMENT_TYPES: Mapping[str, int] = {
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "f64": TensorProto.DOUBLE,
    "i32": TensorProto.INT64,
    "i64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
NUMPY_TYPES: Mapping[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "f64": np.float64,
    "i32": np.int64,
    "i64": np.int64,
    "bool": np.bool_,
}
MAX_CONSTANT_ELEMENTS = 1 << 20  # what a program may ask to be filled in; the largest known asks for 4


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value of the program in the graph: ONNX name, declared type, content where it is known."""

    name: str
    type: TensorType
    constant: Array | None = None


Operand: TypeAlias = Tensor | tuple[Tensor, ...]
Result: TypeAlias = str | Array | tuple[str, ...]
"""An ONNX name, a constant, or, for an op that returns a list, several names."""


@dataclass(slots=True)
class Graph:
    """Nodes in order, and the constants they use."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def emit(
        self,
        op_type: str,
        inputs: Sequence[str],
        attributes: Mapping[str, OnnxAttribute] | None = None,
        outputs: int = 1,
    ) -> tuple[str, ...]:
        """Append a node; return the names of its outputs. An input "" is one left out."""
        names = tuple(f"{op_type}_{len(self.nodes)}.{index}" for index in range(outputs))
        node = helper.make_node(op_type, inputs, names)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in (attributes or {}).items())
        self.nodes.append(node)
        return names

    def constant(self, value: Array, name: str = "") -> str:
        """Return the name of a constant; give `name` for a value that has one already."""
        name = name or f"constant_{len(self.constants)}"
        if self.constants.setdefault(name, value) is not value:
            raise ConversionError(name, "is the name of a parameter and of another constant", REMEDY)
        return name


@dataclass(slots=True)
class Call:
    """One operation of the program, as its translation sees it.

    Every look at an attribute is noted, so that `finish` can refuse what no one looked at.
    """

    op: Op
    operands: tuple[Operand | None, ...]
    graph: Graph
    path: str
    seen: set[str] = field(default_factory=lambda: {"struct_name", "place"})

    def unsupported(self, problem: str) -> UnsupportedOpError:
        """Return the error that says so, with the operation's place."""
        return UnsupportedOpError(f"{self.path}, {self.op.place}", problem, REMEDY)

    def finish(self) -> None:
        """Refuse attributes that the translation did not read."""
        left = sorted(set(self.op.attributes) - self.seen)
        if left:
            shown = ", ".join(f"{name} = {self.op.attributes[name]!r}" for name in left)
            raise self.unsupported(f"has an attribute that has no translation ({shown})")

    # operands

    def has(self, index: int) -> bool:
        """Tell whether operand `index` is there."""
        return index < len(self.operands) and self.operands[index] is not None

    def tensor(self, index: int = 0) -> Tensor:
        """Return operand `index`, which must be a tensor."""
        operand = self.operands[index] if self.has(index) else None
        if not isinstance(operand, Tensor):
            raise self.unsupported(f"lacks a tensor as operand {index}")
        return operand

    def tensors(self, index: int = 0) -> tuple[Tensor, ...]:
        """Return operand `index`, which must be a list of tensors."""
        operand = self.operands[index] if self.has(index) else None
        if not isinstance(operand, tuple) or not operand:
            raise self.unsupported(f"lacks a list of tensors as operand {index}")
        return operand

    def name(self, index: int = 0) -> str:
        """Return the ONNX name of tensor operand `index`."""
        return self.use(self.tensor(index))

    def use(self, tensor: Tensor) -> str:
        """Return a tensor's ONNX name; a constant enters the graph with its first use."""
        if tensor.constant is not None:
            self.graph.constant(tensor.constant, tensor.name)
        return tensor.name

    def constant(self, index: int) -> Array:
        """Return the content of operand `index`, which must be known while translating."""
        content = self.tensor(index).constant
        if content is None:
            raise self.unsupported(f"computes operand {index} where only a constant can be translated")
        return content

    def constant_integers(self, index: int) -> list[int]:
        """Return constant operand `index` as integers."""
        return [int(value) for value in np.ravel(self.constant(index))]

    def constant_integer(self, index: int) -> int:
        """Return constant operand `index` as the one integer it is."""
        values = self.constant_integers(index)
        if len(values) != 1:
            raise self.unsupported(f"has {len(values)} numbers as operand {index} where 1 belongs")
        return values[0]

    def constant_float(self, index: int) -> float:
        """Return constant operand `index` as the one number it is."""
        values = np.ravel(self.constant(index))
        if len(values) != 1:
            raise self.unsupported(f"has {len(values)} numbers as operand {index} where 1 belongs")
        return float(values[0])

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Return the declared shape of operand `index`."""
        return self.tensor(index).type.shape

    def axis(self, axis: int, rank: int) -> int:
        """Return `axis` counted from the front, checked against `rank`."""
        if not -rank <= axis < rank:
            raise self.unsupported(f"names axis {axis} of a tensor with {rank} dimensions")
        return axis % rank

    def result_type(self) -> TensorType:
        """Return the declared type of the first result."""
        found = self.op.outputs[0].type if self.op.outputs else None
        if found is None:
            raise self.unsupported("has no tensor as its first result")
        return found

    # attributes

    def ignore(self, *names: str) -> None:
        """Note attributes that change nothing in the result."""
        self.seen.update(names)

    def flag(self, name: str) -> bool:
        """Return a boolean attribute."""
        value = self._attribute(name)
        if not isinstance(value, bool):
            raise self.unsupported(f"has {value!r} as {name} where true or false belongs")
        return value

    def integer(self, name: str) -> int:
        """Return an integer attribute."""
        return self._as_integer(self._attribute(name), name)

    def integers(self, name: str) -> list[int]:
        """Return an attribute that is a list of integers."""
        value = self._attribute(name)
        if not isinstance(value, tuple):
            raise self.unsupported(f"has {value!r} as {name} where a list belongs")
        return [self._as_integer(element, name) for element in value]

    def number(self, name: str) -> float:
        """Return an attribute that is a number."""
        return self._as_number(self._attribute(name), name)

    def numbers(self, name: str) -> list[float]:
        """Return an attribute that is a list of numbers."""
        value = self._attribute(name)
        if not isinstance(value, tuple):
            raise self.unsupported(f"has {value!r} as {name} where a list belongs")
        return [self._as_number(element, name) for element in value]

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """Return a text attribute that must be one of `allowed`."""
        value = self._attribute(name)
        if not isinstance(value, str) or value not in allowed:
            raise self.unsupported(f"has {value!r} as {name}; {' and '.join(allowed)} can be translated")
        return value

    def _attribute(self, name: str) -> Attribute:
        if name not in self.op.attributes:
            raise self.unsupported(f"lacks the attribute {name}")
        self.seen.add(name)
        return self.op.attributes[name]

    def _as_integer(self, value: Attribute, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.unsupported(f"has {value!r} in {name} where an integer belongs")
        return value

    def _as_number(self, value: Attribute, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.unsupported(f"has {value!r} in {name} where a number belongs")
        return float(value)

    # output

    def emit(
        self, op_type: str, inputs: Sequence[str], attributes: Mapping[str, OnnxAttribute] | None = None
    ) -> str:
        """Append a node with one output; return its name."""
        empty = [
            key for key, value in (attributes or {}).items() if isinstance(value, Sequence) and not value
        ]
        if empty:  # ONNX can't tell the type of an empty list
            raise self.unsupported(f"has no {empty[0]}")
        return self.graph.emit(op_type, inputs, attributes)[0]

    def integers_constant(self, values: Sequence[int]) -> str:
        """Return the name of a new 1-D int64 constant."""
        return self.graph.constant(np.array(values, dtype=np.int64))

    def scalar(self, value: float, like: Tensor) -> str:
        """Return the name of a new 0-D constant of the element type of `like`."""
        dtype = self.numpy_type(like.type.dtype)
        return self.graph.constant(self.checked_array(value, (), dtype))

    def numpy_type(self, dtype: str) -> type[np.generic]:
        """Return the numpy type that stands for a PIR element type."""
        if dtype not in NUMPY_TYPES:
            raise self.unsupported(f"works on the element type {dtype}")
        return NUMPY_TYPES[dtype]

    def checked_array(self, value: float, shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
        """Return an array full of `value`; a value that `dtype` does not hold is refused."""
        with np.errstate(over="ignore", invalid="ignore"):
            element = np.float64(value).astype(dtype)
        if np.issubdtype(dtype, np.integer) and (abs(value) >= 2.0**63 or float(element) != value):
            raise self.unsupported(f"needs {value!r} as an integer")
        return np.full(shape, element, dtype=dtype)


Translation: TypeAlias = Callable[[Call], Result]
