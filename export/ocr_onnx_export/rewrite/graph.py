"""An immutable view of an ONNX graph that passes can search and edit; a model goes in and comes out."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

AttributeValue: TypeAlias = int | float | str | Sequence[int] | Sequence[float]


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. Two nodes are the same only if they are the same object."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeProto]
    domain: str = ""
    name: str = ""

    @property
    def output(self) -> str:
        """The first output, for the many operations that have one."""
        return self.outputs[0]

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        return self.attributes[name].i if name in self.attributes else default

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """Return an integer list attribute."""
        return tuple(self.attributes[name].ints) if name in self.attributes else tuple(default)

    def number(self, name: str, default: float) -> float:
        """Return a float attribute."""
        return self.attributes[name].f if name in self.attributes else default

    def text(self, name: str, default: str) -> str:
        """Return a string attribute."""
        return self.attributes[name].s.decode() if name in self.attributes else default

    @cached_property
    def captured(self) -> frozenset[str]:
        """Names that bodies of If, Loop and Scan may take from the graph around them."""
        return frozenset(_names_in_bodies(self.attributes.values()))


def node(
    op: str, inputs: Sequence[str], output: str, attributes: Mapping[str, AttributeValue] | None = None
) -> Node:
    """Make a node of the default domain with one output."""
    protos = {name: helper.make_attribute(name, value) for name, value in (attributes or {}).items()}
    return Node(op, tuple(inputs), (output,), protos)


@dataclass(frozen=True, eq=False)
class Graph:
    """The nodes and constants of a model, with the indices that patterns need.

    `header` is the model without nodes and initializers: metadata, opsets, functions, names. It
    passes through every edit untouched. Edits return a new graph; nodes are shared.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, TensorProto]
    inputs: tuple[ValueInfoProto, ...]
    outputs: tuple[ValueInfoProto, ...]
    header: ModelProto

    @classmethod
    def from_model(cls, model: ModelProto) -> "Graph":
        """Read a model.

        `Constant` nodes that hold a tensor become constants, and so do initializers that are
        listed as inputs too: old files list them all, and nobody feeds a network its weights.
        """
        source = model.graph
        constants = {tensor.name: tensor for tensor in source.initializer}
        nodes = []
        for proto in source.node:
            if (tensor := _tensor_of(proto)) is not None:
                constants[proto.output[0]] = tensor
            else:
                nodes.append(_from_proto(proto))
        header = ModelProto()
        header.CopyFrom(model)
        for field in ("node", "initializer", "input", "output", "value_info"):
            header.graph.ClearField(field)
        inputs = tuple(value for value in source.input if value.name not in constants)
        return cls(tuple(nodes), constants, inputs, tuple(source.output), header)

    def to_model(self) -> ModelProto:
        """Write the model: nodes in an order that runs, stable for equal graphs."""
        model = ModelProto()
        model.CopyFrom(self.header)
        model.graph.node.extend(_to_proto(node) for node in _in_running_order(self))
        model.graph.initializer.extend(_named(tensor, name) for name, tensor in self.constants.items())
        model.graph.input.extend(self.inputs)
        model.graph.output.extend(self.outputs)
        return model

    @property
    def opset(self) -> int:
        """Version of the default domain."""
        return next((o.version for o in self.header.opset_import if o.domain in ("", "ai.onnx")), 0)

    @cached_property
    def members(self) -> frozenset[Node]:
        """All nodes, for membership tests while a sweep goes on over an older state."""
        return frozenset(self.nodes)

    @cached_property
    def pinned(self) -> frozenset[str]:
        """Tensors that must keep their name: outputs, and what control-flow bodies may read."""
        outputs = frozenset(value.name for value in self.outputs)
        return outputs.union(*(node.captured for node in self.nodes))

    @cached_property
    def _producers(self) -> dict[str, Node]:
        return {output: node for node in self.nodes for output in node.outputs}

    @cached_property
    def _users(self) -> dict[str, list[Node]]:
        users: dict[str, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                users[name].append(node)
        return users

    @cached_property
    def _taken(self) -> frozenset[str]:
        return frozenset(self._producers) | self.constants.keys() | {value.name for value in self.inputs}

    def producer(self, tensor: str) -> Node | None:
        """Return the node that computes a tensor; None for inputs and constants."""
        return self._producers.get(tensor)

    def users(self, tensor: str) -> tuple[Node, ...]:
        """Return the nodes that read a tensor."""
        return tuple(self._users.get(tensor, ()))

    def only_user(self, tensor: str) -> Node | None:
        """Return the node that alone reads a tensor, so that the tensor may disappear with it."""
        users = self.users(tensor)
        return users[0] if len(users) == 1 and tensor not in self.pinned else None

    def array(self, tensor: str) -> NDArray[Any] | None:
        """Return a constant's value; None for what is computed."""
        proto = self.constants.get(tensor)
        return None if proto is None else numpy_helper.to_array(proto)

    def float32(self, tensor: str) -> NDArray[np.float32] | None:
        """Return a constant's value if it is a float32 one."""
        proto = self.constants.get(tensor)
        return self.array(tensor) if proto is not None and proto.data_type == TensorProto.FLOAT else None

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Return a float32 constant's shape, without unpacking its value."""
        proto = self.constants.get(tensor)
        return tuple(proto.dims) if proto is not None and proto.data_type == TensorProto.FLOAT else None

    def unused_name(self, wish: str) -> str:
        """Return `wish`, numbered if the graph already has a tensor of that name."""
        name, count = wish, 0
        while name in self._taken:
            count += 1
            name = f"{wish}_{count}"
        return name

    def with_constant(self, wish: str, value: NDArray[Any]) -> tuple["Graph", str]:
        """Add a constant under a name like `wish`; return the new graph and that name."""
        name = self.unused_name(wish)
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return replace(self, constants={**self.constants, name: tensor}), name

    def swap(self, old: Collection[Node], new: Sequence[Node]) -> "Graph":
        """Put the nodes `new` where the first of `old` stands, and drop `old`."""
        nodes: list[Node] = []
        waiting: Sequence[Node] = new
        for node in self.nodes:
            if node in old:
                nodes.extend(waiting)
                waiting = ()
            else:
                nodes.append(node)
        return replace(self, nodes=tuple(nodes))

    def rename_uses(self, old: str, new: str) -> "Graph":
        """Let every node that reads `old` read `new`."""
        users = set(self.users(old))
        nodes = tuple(
            replace(node, inputs=tuple(new if name == old else name for name in node.inputs))
            if node in users
            else node
            for node in self.nodes
        )
        return replace(self, nodes=nodes)


Pass: TypeAlias = Callable[[Graph], Graph]
Rule: TypeAlias = Callable[[Graph, Node], Graph | None]


def sweep(graph: Graph, rule: Rule) -> Graph:
    """Offer every node to `rule`, again and again until none changes.

    A rule looks at one node and its surroundings and returns the edited graph, or None if it does
    not apply.
    """
    before: Graph | None = None
    while graph is not before:
        before = graph
        for candidate in graph.nodes:
            if candidate in graph.members:
                graph = rule(graph, candidate) or graph
    return graph


def _tensor_of(proto: NodeProto) -> TensorProto | None:
    """Return what a Constant node holds, if that is a tensor or plain numbers."""
    if proto.op_type != "Constant" or proto.domain not in ("", "ai.onnx"):
        return None
    attribute = proto.attribute[0]
    if attribute.name == "value":
        tensor: TensorProto = attribute.t
        return tensor
    dtypes = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if attribute.name not in dtypes:
        return None
    return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), dtypes[attribute.name]))


def _names_in_bodies(attributes: Collection[AttributeProto]) -> Iterator[str]:
    for attribute in attributes:
        for body in (attribute.g, *attribute.graphs):
            for proto in body.node:
                yield from proto.input
                yield from _names_in_bodies(proto.attribute)
            yield from (value.name for value in body.output)


def _in_running_order(graph: Graph) -> Iterator[Node]:
    """Sort so that every node follows its producers, otherwise in the given order."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    needs = {
        node: {graph.producer(name) for name in (*node.inputs, *node.captured)} - {None}
        for node in graph.nodes
    }
    dependants: dict[Node, list[Node]] = defaultdict(list)
    for dependant, producers in needs.items():
        for producer in producers:
            if producer is not None:
                dependants[producer].append(dependant)
    missing = {node: len(producers) for node, producers in needs.items()}
    ready = [position[node] for node, count in missing.items() if count == 0]
    heapq.heapify(ready)
    while ready:
        current = graph.nodes[heapq.heappop(ready)]
        yield current
        for dependant in dependants[current]:
            missing[dependant] -= 1
            if missing[dependant] == 0:
                heapq.heappush(ready, position[dependant])


def _from_proto(proto: NodeProto) -> Node:
    attributes = {attribute.name: attribute for attribute in proto.attribute}
    return Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes, proto.domain, proto.name)


def _to_proto(node: Node) -> NodeProto:
    proto = NodeProto(op_type=node.op, input=node.inputs, output=node.outputs)
    if node.name:  # setting an empty field would still write it
        proto.name = node.name
    if node.domain:
        proto.domain = node.domain
    proto.attribute.extend(node.attributes.values())
    return proto


def _named(tensor: TensorProto, name: str) -> TensorProto:
    if tensor.name == name:
        return tensor
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy
