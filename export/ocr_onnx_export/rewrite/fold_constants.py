"""Everything that depends on constants alone becomes a constant."""

from dataclasses import replace

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ocr_onnx_export.rewrite.graph import Graph, Node

# Operations whose result is no larger than their inputs together (Add and its kin broadcast, so
# the size of what they make is checked). Expand, Tile or ConstantOfShape could make terabytes.
REARRANGING = frozenset(
    ("Cast", "Concat", "Gather", "Identity", "Neg", "Reshape", "Shape", "Slice", "Sqrt")
) | {"Squeeze", "Transpose", "Unsqueeze"}
BROADCASTING = frozenset(("Add", "Div", "Mul", "Pow", "Sub"))


def fold_constants(graph: Graph) -> Graph:
    """Compute constant subgraphs once, with ONNX's numpy reference implementation.

    Paddle2ONNX reshapes each convolution's bias in the graph; only after folding does the bias
    look like one. No gain of its own.
    """
    foldable = _foldable(graph)
    if not foldable:
        return graph
    results = [name for each in foldable for name in each.outputs]
    inside = {name for each in foldable for name in each.inputs if name in graph.constants}
    values = ReferenceEvaluator(_model_of(graph, foldable, results)).run(
        None, {name: numpy_helper.to_array(graph.constants[name]) for name in sorted(inside)}
    )
    folded = {
        name: numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip(results, values, strict=True)
    }
    dropped = frozenset(foldable)
    nodes = tuple(each for each in graph.nodes if each not in dropped)
    return replace(graph, nodes=nodes, constants={**graph.constants, **folded})


def _foldable(graph: Graph) -> list[Node]:
    """Return the nodes that need nothing but constants, in running order."""
    sizes = {name: int(np.prod(tensor.dims, dtype=np.int64)) for name, tensor in graph.constants.items()}
    found = []
    for each in graph.nodes:
        if (
            each.domain
            or each.op not in REARRANGING | BROADCASTING
            or graph.pinned.intersection(each.outputs)
        ):
            continue
        inputs = [name for name in each.inputs if name]
        if not all(name in sizes for name in inputs):
            continue
        counts = [sizes[name] for name in inputs]
        if each.op in BROADCASTING and min(counts) > 1 and counts[0] != counts[1]:
            continue
        sizes[each.output] = sum(counts)
        found.append(each)
    return found


def _model_of(graph: Graph, nodes: list[Node], results: list[str]) -> ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
        for name, tensor in graph.constants.items()
    ]
    part = replace(
        graph,
        nodes=tuple(nodes),
        constants={},
        inputs=tuple(inputs),
        outputs=tuple(ValueInfoProto(name=name) for name in results),
    )
    return part.to_model()
