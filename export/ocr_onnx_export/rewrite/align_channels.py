"""Channels between two convolutions: as many as the CPU's vectors hold."""

from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from ocr_onnx_export.rewrite.graph import Graph, Node, sweep

ZERO_FROM_ZERO = frozenset(("Relu", "HardSwish"))
BLOCK = 16  # floats in an AVX-512 register; narrower machines have 8 or 4


def align_channels(graph: Graph) -> Graph:
    """Add channels of zeros where one convolution feeds another and their number is no multiple of 16.

    ONNX Runtime's blocked layout needs whole blocks of channels; the pruned widths of the
    detector's neck (12, 18, 42, 6) make it leave that layout and come back. The second
    convolution multiplies the added channels by zero, so results are the same. Mobile det 0.94 to
    0.98 of the CPU time without, the line classifier 0.95.
    """
    return sweep(graph, _align)


def _align(graph: Graph, first: Node) -> Graph | None:
    shape = _kernel_shape(graph, first)
    if shape is None or shape[0] % BLOCK == 0:
        return None
    second = graph.only_user(first.output)
    while second is not None and second.op in ZERO_FROM_ZERO and not second.domain:
        second = graph.only_user(second.output)
    if second is None or _kernel_shape(graph, second) is None:
        return None
    extra = -shape[0] % BLOCK
    none, added = (0, 0), (0, extra)
    graph, weight = _padded(graph, first.inputs[1], f"{first.output}.weight", (added, none, none, none))
    inputs = [first.inputs[0], weight]
    if len(first.inputs) > 2 and first.inputs[2]:
        graph, bias = _padded(graph, first.inputs[2], f"{first.output}.bias", (added,))
        inputs.append(bias)
    graph, weight = _padded(graph, second.inputs[1], f"{second.output}.weight", (none, added, none, none))
    wide = replace(first, inputs=tuple(inputs))
    fed = replace(second, inputs=(second.inputs[0], weight, *second.inputs[2:]))
    return graph.swap((first,), (wide,)).swap((second,), (fed,))


def _kernel_shape(graph: Graph, conv: Node) -> tuple[int, ...] | None:
    """Return (O, I, h, w) of an ungrouped convolution all of whose parameters are constant."""
    if conv.op != "Conv" or conv.domain or conv.integer("group", 1) != 1:
        return None
    shapes = [graph.shape(name) for name in conv.inputs[1:] if name]
    return shapes[0] if None not in shapes and len(shapes[0] or ()) == 4 else None


def _padded(graph: Graph, tensor: str, wish: str, amounts: tuple[tuple[int, int], ...]) -> tuple[Graph, str]:
    return graph.with_constant(wish, np.pad(numpy_helper.to_array(graph.constants[tensor]), amounts))
