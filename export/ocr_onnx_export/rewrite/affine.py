"""What several passes share: recognising y = scale * x + shift, per channel, in its many spellings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ocr_onnx_export.rewrite.graph import Graph, Node

F64: TypeAlias = NDArray[np.float64]

KEEPS_CHANNELS = frozenset(
    ("BatchNormalization", "Clip", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Relu", "Sigmoid")
)


@dataclass(frozen=True, eq=False)
class Affine:
    """`scale` and `shift` are (1,) or (C,) float64."""

    scale: F64
    shift: F64

    def then(self, following: "Affine") -> "Affine":
        """Return the one affine that equals this one and then the following one."""
        return Affine(following.scale * self.scale, following.scale * self.shift + following.shift)

    @property
    def size(self) -> int:
        """Number of channels it needs; 1 if any number will do."""
        return max(self.scale.size, self.shift.size)


IDENTITY = Affine(np.ones(1), np.zeros(1))


@dataclass(frozen=True, eq=False)
class Chain:
    """Consecutive nodes that together compute `output` = `affine`(`source`)."""

    source: str
    output: str
    affine: Affine
    nodes: tuple[Node, ...]


def affine_of(graph: Graph, node: Node) -> tuple[str, Affine] | None:
    """Return a node's data input and its affine, if the node is one.

    Seen as one: Mul, Add, Sub and Div with a float32 constant that is a scalar or has the form
    (C, 1, 1) or (1, C, 1, 1), and BatchNormalization for inference. The data is taken to be
    (N, C, H, W): callers make sure of that.
    """
    if node.op == "BatchNormalization":
        return _affine_of_batch_norm(graph, node)
    if node.op not in ("Mul", "Add", "Sub", "Div") or node.domain:
        return None
    left, right = node.inputs
    if (value := _per_channel(graph, right)) is not None and left not in graph.constants:
        return left, _with_constant_right(node.op, value)
    if (value := _per_channel(graph, left)) is not None and right not in graph.constants and node.op != "Div":
        scale = {"Mul": value, "Add": np.ones(1), "Sub": -np.ones(1)}[node.op]
        return right, Affine(scale, np.zeros(1) if node.op == "Mul" else value)
    return None


def chain_after(graph: Graph, tensor: str, channels: int) -> Chain | None:
    """Follow the affines that alone read `tensor`, one after the other."""
    found, output, nodes = IDENTITY, tensor, []
    while (user := graph.only_user(output)) is not None:
        step = affine_of(graph, user)
        if step is None or step[1].size not in (1, channels):
            break
        found, output = found.then(step[1]), user.output
        nodes.append(user)
    return Chain(tensor, output, found, tuple(nodes)) if nodes else None


def chain_before(graph: Graph, tensor: str, accept: Callable[[str, Affine], bool]) -> Chain | None:
    """Go back from `tensor` over the affines that lead to it, while `accept(source, affine)`."""
    found, source, nodes = IDENTITY, tensor, []
    while (producer := graph.producer(source)) is not None:
        step = affine_of(graph, producer)
        if step is None:
            break
        longer = step[1].then(found)
        source = step[0]
        nodes.append(producer)
        found = longer
    if not nodes or not accept(source, found):
        return None
    return Chain(source, tensor, found, tuple(reversed(nodes)))


def channels_of(graph: Graph, tensor: str) -> int | None:
    """Return C if `tensor` is known to be (N, C, H, W) float32 data, from the convolution before it."""
    while (producer := graph.producer(tensor)) is not None and not producer.domain:
        if producer.op in ("Conv", "ConvTranspose"):
            shape = graph.shape(producer.inputs[1])
            if shape is None or len(shape) != 4:
                return None
            return shape[1] * producer.integer("group", 1) if producer.op == "ConvTranspose" else shape[0]
        step = affine_of(graph, producer)
        if step is not None and step[1].size == 1:
            tensor = step[0]
        elif producer.op in KEEPS_CHANNELS:
            tensor = producer.inputs[0]
        else:
            return None
    return None


def per_channel(values: F64, channels: int) -> NDArray[np.float32]:
    """Return (C,) float32 from (1,) or (C,) float64."""
    return np.broadcast_to(values, (channels,)).astype(np.float32)


def _per_channel(graph: Graph, tensor: str) -> F64 | None:
    proto = graph.constants.get(tensor)
    # The size is looked at before the value: most candidates are large weights.
    if proto is None or len(proto.dims) > 4:
        return None
    one_value = all(size == 1 for size in proto.dims)
    channel_form = len(proto.dims) in (3, 4) and tuple(proto.dims[-2:]) == (1, 1)
    if not one_value and not (channel_form and (len(proto.dims) == 3 or proto.dims[0] == 1)):
        return None
    value = graph.float32(tensor)
    return None if value is None else value.reshape(-1).astype(np.float64)


def _with_constant_right(op: str, value: F64) -> Affine:
    match op:
        case "Mul":
            return Affine(value, np.zeros(1))
        case "Div":
            return Affine(1 / value, np.zeros(1))
        case "Sub":
            return Affine(np.ones(1), -value)
    return Affine(np.ones(1), value)


def _affine_of_batch_norm(graph: Graph, node: Node) -> tuple[str, Affine] | None:
    if node.domain or len(node.outputs) != 1 or node.integer("training_mode", 0):
        return None
    parameters = [graph.float32(name) for name in node.inputs[1:5]]
    scale, bias, mean, variance = (None if p is None else p.astype(np.float64) for p in parameters)
    if scale is None or bias is None or mean is None or variance is None:
        return None
    gain = scale / np.sqrt(variance + node.number("epsilon", 1e-5))
    return node.inputs[0], Affine(gain, bias - mean * gain)
