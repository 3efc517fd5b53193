"""The network takes the picture as it is: uint8, NHWC, BGR, with normalisation inside the graph."""

from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto, helper

from ocr_onnx_export.rewrite.graph import Graph, Node, Pass, node

IMAGE = "image"
VALID_W = "valid_w"


@dataclass(frozen=True, slots=True)
class Normalisation:
    """(pixel / 255 - mean) / std, for blue, green and red in this order."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


DET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""PaddleOCR gives the detector ImageNet's RGB figures in BGR order."""

LINE = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What recognition and the line classifier were trained with."""


def image_input(normalisation: Normalisation, *, padded: bool) -> Pass:
    """Make the pass that replaces the one float NCHW input.

    The new input is `image` (N, H, W, 3) uint8. With `padded` there is a second one, `valid_w`
    (N,) int32: pixels from that column on count as exactly zero after normalisation, as in the
    reference, which pads lines on the right after normalising them; what they hold is ignored.

    The standard deviation goes into the first convolution. The mean is subtracted in the graph,
    not folded into the bias: that convolution pads with zeros, which stand for the mean.

    Costs 2 % of the network's CPU time and saves the caller's normalisation, 13 % for a page.

    A graph without exactly one input (N, 3, H, W) float32 comes back unchanged.
    """

    def apply(graph: Graph) -> Graph:
        if len(graph.inputs) != 1 or not _is_float_picture(graph):
            return graph
        return _replace_input(graph, normalisation, padded)

    return apply


def _is_float_picture(graph: Graph) -> bool:
    tensor = graph.inputs[0].type.tensor_type
    dims = tensor.shape.dim
    return tensor.elem_type == TensorProto.FLOAT and len(dims) == 4 and dims[1].dim_value == 3


def _replace_input(graph: Graph, normalisation: Normalisation, padded: bool) -> Graph:
    old = graph.inputs[0]
    graph, centred, head = _centred(graph, normalisation)
    if padded:
        graph, centred, masking = _masked(graph, centred)
        head = (*head, *masking)
    scale = 1 / (255 * np.asarray(normalisation.std, np.float64))
    graph, scaled, scaling = _scaled(graph, old.name, centred, scale)
    graph = graph.rename_uses(old.name, scaled)
    batch, _, height, width = (d.dim_param or d.dim_value or None for d in old.type.tensor_type.shape.dim)
    inputs = [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, [batch, height, width, 3])]
    if padded:
        inputs.append(helper.make_tensor_value_info(VALID_W, TensorProto.INT32, [batch]))
    return replace(graph, nodes=(*head, *scaling, *graph.nodes), inputs=tuple(inputs))


def _centred(graph: Graph, normalisation: Normalisation) -> tuple[Graph, str, tuple[Node, ...]]:
    """Return the picture as (N, 3, H, W) float32 minus the mean, in units of pixel values."""
    mean = 255 * np.asarray(normalisation.mean, np.float64)
    graph, mean_name = graph.with_constant(f"{IMAGE}.mean", mean.astype(np.float32).reshape(1, 3, 1, 1))
    planes, floats, centred = (
        graph.unused_name(f"{IMAGE}.{part}") for part in ("planes", "floats", "centred")
    )
    # Transposed while it is still bytes: a quarter of the memory to move.
    steps = (
        node("Transpose", (IMAGE,), planes, {"perm": (0, 3, 1, 2)}),
        node("Cast", (planes,), floats, {"to": TensorProto.FLOAT}),
        node("Sub", (floats, mean_name), centred),
    )
    return graph, centred, steps


def _masked(graph: Graph, picture: str) -> tuple[Graph, str, tuple[Node, ...]]:
    """Multiply by 1 left of `valid_w` and by 0 from there on."""
    constants = {"zero": 0, "one": 1, "width_axis": 2, "column_axes": [1, 2, 3]}
    names = {}
    for wish, value in constants.items():
        graph, names[wish] = graph.with_constant(f"{VALID_W}.{wish}", np.asarray(value, np.int64))
    shape, width, columns, limits, limit, inside, mask, result = (
        graph.unused_name(f"{VALID_W}.{part}")
        for part in ("shape", "width", "columns", "limits", "limit", "inside", "mask", "masked")
    )
    steps = (
        node("Shape", (IMAGE,), shape),
        node("Gather", (shape, names["width_axis"]), width, {"axis": 0}),
        node("Range", (names["zero"], width, names["one"]), columns),
        node("Cast", (VALID_W,), limits, {"to": TensorProto.INT64}),
        node("Unsqueeze", (limits, names["column_axes"]), limit),
        node("Less", (columns, limit), inside),
        node("Cast", (inside,), mask, {"to": TensorProto.FLOAT}),
        node("Mul", (picture, mask), result),
    )
    return graph, result, steps


def _scaled(
    graph: Graph, old_input: str, picture: str, scale: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[Graph, str, tuple[Node, ...]]:
    """Divide by the standard deviation: with the first convolution's weights if it can be."""
    conv = graph.only_user(old_input)
    weight = None if conv is None or conv.op != "Conv" else graph.float32(conv.inputs[1])
    if conv is None or weight is None or weight.shape[1] != 3:
        graph, factor = graph.with_constant(f"{IMAGE}.scale", scale.astype(np.float32).reshape(1, 3, 1, 1))
        result = graph.unused_name(f"{IMAGE}.normalised")
        return graph, result, (node("Mul", (picture, factor), result),)
    scaled = weight.astype(np.float64) * scale.reshape(1, 3, 1, 1)
    graph, name = graph.with_constant(f"{conv.output}.weight", scaled.astype(np.float32))
    fused = replace(conv, inputs=(conv.inputs[0], name, *conv.inputs[2:]))
    return graph.swap((conv,), (fused,)), picture, ()
