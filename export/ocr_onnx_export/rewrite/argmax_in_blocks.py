"""The best of thousands of classes: first the best block of classes, then the best inside it."""

import math

import numpy as np
from numpy.typing import NDArray

from ocr_onnx_export.rewrite.graph import Graph, Node, node, sweep

MIN_BLOCKS = 8
LAST_AXIS = 2


def argmax_in_blocks(graph: Graph) -> Graph:
    """Find an ArgMax through the maxima of equal blocks, where a ReduceMax reads the same tensor.

    ONNX Runtime's ReduceMax runs on whole vectors, its ArgMax goes number by number: over 6 x 40
    steps of 6,625 classes 0.46 ms against 0.16 ms. Here one ReduceMax over 53 blocks of 125 serves
    both, and ArgMax sees the 53 maxima and then the 125 numbers of one block. The results are the
    same to the bit, and of equal values the first one wins as before, since the first best block
    holds it.

    Acts on what `ctc_output` puts out: a tensor (N, T, C) that is an output itself, of known C
    with a divisor of at least 8. Mobile rec, batch 6: 0.97 to 0.99 of the CPU time without, on a busy
    machine.
    """
    return sweep(graph, _split)


def _split(graph: Graph, best: Node) -> Graph | None:
    values = best.inputs[0] if best.inputs else ""
    if best.op != "ArgMax" or best.domain or best.integer("select_last_index", 0):
        return None
    if best.integer("axis", 0) not in (LAST_AXIS, -1) or best.integer("keepdims", 1):
        return None
    blocks = _block_count(_classes_of(graph, values))
    maximum = next((user for user in graph.users(values) if _is_maximum(graph, user)), None)
    if blocks is None or maximum is None:
        return None
    size = (_classes_of(graph, values) or 0) // blocks
    constants: dict[str, NDArray[np.int64]] = {
        "shape": np.array([0, 0, blocks, size], np.int64),
        "size": np.array(size, np.int64),
        "axis": np.array([LAST_AXIS], np.int64),
        "inner_axis": np.array([LAST_AXIS + 1], np.int64),
    }
    names = {}
    for wish, value in constants.items():
        graph, names[wish] = graph.with_constant(f"{best.output}.{wish}", value)
    parts, maxima, which, block, inside, first, start = (
        graph.unused_name(f"{best.output}.{part}")
        for part in ("blocks", "maxima", "which", "block", "inside", "which_flat", "start")
    )
    steps = (
        node("Reshape", (values, names["shape"]), parts),
        _maximum(graph, parts, names["inner_axis"], LAST_AXIS + 1, maxima),
        _maximum(graph, maxima, names["axis"], LAST_AXIS, maximum.output),
        node("ArgMax", (maxima,), which, {"axis": LAST_AXIS, "keepdims": 1}),
        node("GatherND", (parts, which), block, {"batch_dims": 2}),
        node("ArgMax", (block,), inside, {"axis": LAST_AXIS, "keepdims": 0}),
        node("Squeeze", (which, names["axis"]), first),
        node("Mul", (first, names["size"]), start),
        node("Add", (start, inside), best.output),
    )
    return graph.swap((best, maximum), steps)


def _classes_of(graph: Graph, values: str) -> int | None:
    """Return C of an output (N, T, C), if its file says it."""
    for output in graph.outputs:
        dims = output.type.tensor_type.shape.dim
        if output.name == values and len(dims) == LAST_AXIS + 1:
            return dims[LAST_AXIS].dim_value or None
    return None


def _block_count(classes: int | None) -> int | None:
    """Return the largest divisor up to the root, so that neither step is long."""
    if classes is None:
        return None
    divisors = (count for count in range(math.isqrt(classes), MIN_BLOCKS - 1, -1) if classes % count == 0)
    return next(divisors, None)


def _is_maximum(graph: Graph, reader: Node) -> bool:
    if reader.op != "ReduceMax" or reader.domain or reader.integer("keepdims", 1):
        return False
    axes = reader.integers("axes", ())
    if len(reader.inputs) > 1:
        given = graph.array(reader.inputs[1])
        axes = () if given is None else tuple(given.reshape(-1).tolist())
    return axes in ((LAST_AXIS,), (-1,))


def _maximum(graph: Graph, values: str, axis_name: str, axis: int, output: str) -> Node:
    """Opset 18 turned the axes of a reduction from an attribute into an input."""
    if graph.opset < 18:
        return node("ReduceMax", (values,), output, {"axes": (axis,), "keepdims": 0})
    return node("ReduceMax", (values, axis_name), output, {"keepdims": 0})
