"""x * clip(x + 3, 0, 6) / 6 and x * HardSigmoid(x) become HardSwish."""

import math

from ocr_onnx_export.rewrite.affine import affine_of
from ocr_onnx_export.rewrite.graph import Graph, Node, node, sweep

FIRST_OPSET = 14
SIXTH = 1 / 6


def fuse_hard_swish(graph: Graph) -> Graph:
    """Replace the written-out HardSwish, in any order of its multiplication and division.

    ONNX Runtime >= 1.25 then fuses it into the convolution before it. Files of opset 13 and below
    spell it out; those below 14 have to be converted first. No gain for files that have HardSwish.
    """
    if graph.opset < FIRST_OPSET:
        return graph
    return sweep(sweep(graph, _from_hard_sigmoid), _from_clip)


def _from_hard_sigmoid(graph: Graph, gate: Node) -> Graph | None:
    """Match x * HardSigmoid(x)."""
    if gate.op != "HardSigmoid" or not math.isclose(gate.number("alpha", 0.2), SIXTH, rel_tol=1e-4):
        return None
    product = graph.only_user(gate.output)
    x = gate.inputs[0]
    if gate.number("beta", 0.5) != 0.5 or product is None or product.op != "Mul" or x not in product.inputs:
        return None
    return graph.swap((gate, product), (node("HardSwish", (x,), product.output),))


def _from_clip(graph: Graph, clip: Node) -> Graph | None:
    """Match clip(x + 3, 0, 6), then a multiplication by x and a division by 6 in either order."""
    if clip.op != "Clip" or [_scalar(graph, name) for name in clip.inputs[1:]] != [0.0, 6.0]:
        return None
    add = graph.producer(clip.inputs[0])
    step = None if add is None else affine_of(graph, add)
    if add is None or step is None or graph.only_user(add.output) is not clip:
        return None
    x, affine = step
    if not (affine.size == 1 and affine.scale[0] == 1 and affine.shift[0] == 3):
        return None
    first = graph.only_user(clip.output)
    second = None if first is None else graph.only_user(first.output)
    if first is None or second is None:
        return None
    orders = ((first, second, clip.output, first.output), (second, first, first.output, clip.output))
    for product, sixth, gate, before_sixth in orders:
        gated = product.op == "Mul" and sorted(product.inputs) == sorted((x, gate))
        if gated and _is_sixth(graph, sixth, before_sixth):
            fused = node("HardSwish", (x,), second.output)
            return graph.swap((add, clip, first, second), (fused,))
    return None


def _is_sixth(graph: Graph, candidate: Node, tensor: str) -> bool:
    step = affine_of(graph, candidate)
    if step is None or step[0] != tensor or step[1].size != 1 or step[1].shift[0] != 0:
        return False
    return math.isclose(step[1].scale[0], SIXTH, rel_tol=1e-4)


def _scalar(graph: Graph, tensor: str) -> float | None:
    value = graph.float32(tensor)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None
