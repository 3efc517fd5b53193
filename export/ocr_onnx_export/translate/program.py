"""The walk over a program: inputs and outputs, lists, and one look-up in the table per operation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ocr_onnx_export.errors import ConversionError, UnsupportedOpError
from ocr_onnx_export.finish import IR_VERSION, OPSET
from ocr_onnx_export.pdiparams import Array
from ocr_onnx_export.pir import Op, Program, TensorType, Value
from ocr_onnx_export.translate import elementwise, layers, shapes
from ocr_onnx_export.translate.graph import REMEDY, Call, Graph, Operand, Result, Tensor, Translation

TABLE: Mapping[str, Translation] = {**elementwise.TABLE, **layers.TABLE, **shapes.TABLE}
# handled by the walk itself: they move values about and leave no node
PLUMBING = ("pd_op.data", "pd_op.feed", "pd_op.fetch", "builtin.combine", "builtin.split", "builtin.slice")


def supported_ops() -> tuple[str, ...]:
    """Return the names of all operations that have a translation, sorted."""
    return tuple(sorted((*TABLE, *PLUMBING)))


def translate(program: Program, parameters: Mapping[str, Array]) -> onnx.ModelProto:
    """Translate a program with its parameters' values (by name) to ONNX.

    Raises
    ------
    UnsupportedOpError
        An operation, an attribute or the use made of it has no translation; names it and its place.
    ConversionError
        The program has no input or no output, or uses a name for two things.

    The result is not checked here: `onnx.checker` takes bytes, and they are made only once.
    """
    walk = _Walk(program)
    for parameter in program.parameters:
        walk.values[parameter.number] = Tensor(
            parameter.name, parameter.type, _widened(parameters[parameter.name])
        )
    for op in program.ops:
        walk.step(op)
    return walk.model()


@dataclass(slots=True)
class _Walk:
    """The values defined so far, and the graph."""

    program: Program
    graph: Graph = field(default_factory=Graph)
    values: dict[int, Operand] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def step(self, op: Op) -> None:
        """Translate one operation."""
        path = str(self.program.path)
        missing = [number for number in op.inputs if number and number not in self.values]
        operands = tuple(self.values.get(number) for number in op.inputs)
        call = Call(op, operands, self.graph, path)
        if missing:
            raise call.unsupported(f"uses value {missing[0]}, a second result that is not translated")
        if op.name in ("pd_op.data", "pd_op.feed"):
            self.feed(call)
        elif op.name == "pd_op.fetch":
            self.fetch(call)
        elif op.name == "builtin.combine":
            self.define(op.outputs[:1], tuple(call.tensor(index) for index in range(len(operands))))
        elif op.name == "builtin.split":
            for output, part in zip(op.outputs, call.tensors(), strict=False):
                self.define((output,), part)
        elif op.name == "builtin.slice":
            self.define(op.outputs[:1], self.element(call))
        else:
            self.translate(call)
        call.finish()

    def translate(self, call: Call) -> None:
        """Look an operation up in the table and define its first result, the only one ever used."""
        translation = TABLE.get(call.op.name)
        if translation is None:
            named = ", ".join(sorted(set(call.op.attributes) - call.seen)) or "none"
            raise UnsupportedOpError(
                f"{call.path}, {call.op.place}", f"has no translation (its attributes: {named})", REMEDY
            )
        result = translation(call)
        if isinstance(result, tuple):
            parts = tuple(Tensor(name, _type_of_part(call)) for name in result)
            self.define(call.op.outputs[:1], parts)
        else:
            self.define(call.op.outputs[:1], self.tensor(result, call))

    def tensor(self, result: Result, call: Call) -> Tensor:
        """Return the tensor for a name or a constant."""
        if isinstance(result, np.ndarray):
            return Tensor(f"{call.op.name.partition('.')[2]}_{call.op.index}", call.result_type(), result)
        return Tensor(str(result), call.result_type())

    def define(self, outputs: Sequence[Value], operand: Operand) -> None:
        """Bind a result to its value number."""
        for output in outputs:
            self.values[output.number] = operand

    def element(self, call: Call) -> Tensor:
        """Return one tensor of a list."""
        parts, index = call.tensors(), call.integer("index")
        return parts[call.axis(index, len(parts))]

    def feed(self, call: Call) -> None:
        """Make a graph input. Only images come in, and they are float32."""
        call.ignore("col", "shape", "dtype")
        name = _io_name(call, {value.name for value in self.inputs})
        kind = call.result_type()
        if kind.dtype != "f32":
            raise call.unsupported(f"feeds the element type {kind.dtype}; only f32 can be translated")
        self.inputs.append(_value_info(name, kind))
        self.define(call.op.outputs[:1], Tensor(name, kind))

    def fetch(self, call: Call) -> None:
        """Make a graph output."""
        call.ignore("col")
        name = _io_name(call, {value.name for value in (*self.inputs, *self.outputs)})
        kind = call.tensor().type
        if kind.dtype != "f32":
            raise call.unsupported(f"fetches the element type {kind.dtype}; only f32 can be translated")
        self.graph.nodes.append(helper.make_node("Identity", [call.name()], [name]))
        self.outputs.append(_value_info(name, kind))

    def model(self) -> onnx.ModelProto:
        """Return the graph as a model."""
        if not self.inputs or not self.outputs:
            raise ConversionError(str(self.program.path), "has no input or no output", REMEDY)
        graph = helper.make_graph(
            _without_identities(self.graph.nodes),
            "translated",
            self.inputs,
            self.outputs,
            [numpy_helper.from_array(value, name) for name, value in self.graph.constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _io_name(call: Call, taken: set[str]) -> str:
    call.ignore("name")
    name = call.op.attributes.get("name")
    if not isinstance(name, str) or not name or name in taken:
        raise call.unsupported(f"has {name!r} as the name of an input or output")
    return name


def _value_info(name: str, kind: TensorType) -> onnx.ValueInfoProto:
    shape = [None if size < 0 else size for size in kind.shape]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _type_of_part(call: Call) -> TensorType:
    """Return what is known of the parts of a list: the reader keeps no types inside lists."""
    whole = call.tensor().type
    return TensorType(whole.dtype, (-1,) * len(whole.shape))


def _widened(value: Array) -> Array:
    """Return a parameter with integers in 64 bit, as everywhere in the graph."""
    return value.astype(np.int64) if value.dtype == np.int32 else value


def _without_identities(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Let the producer of an output write it under its final name, where it is the only one to do so."""
    produced = {name: node for node in nodes for name in node.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in nodes:
        source = node.input[0] if node.input else ""
        if node.op_type == "Identity" and source in produced and source not in renamed:
            renamed[source] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    return kept
