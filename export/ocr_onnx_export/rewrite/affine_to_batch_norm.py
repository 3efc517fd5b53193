"""Affines that no convolution can take, written as batch normalisation."""

import numpy as np

from ocr_onnx_export.rewrite.affine import affine_of, chain_after, channels_of, per_channel
from ocr_onnx_export.rewrite.graph import Graph, Node, node, sweep

EPSILON = 1e-5  # cuDNN refuses less
ACTIVATIONS = frozenset(("Conv", "HardSwish", "Relu"))


def affine_to_batch_norm(graph: Graph) -> Graph:
    """Replace Mul and Add between an activation and the next operation by one BatchNormalization.

    What is left after folding stands before padded depthwise convolutions. ONNX Runtime keeps its
    blocked layout (NCHWc) through BatchNormalization but not through a Mul or Add with a constant,
    where it reorders the tensor twice. The pass over the tensor itself cannot be saved: the shift
    is not linear in the padded border. It is a sixteenth of mobile rec's time (16 of them, 3.7 ms of
    61 at batch 6): giving the convolution before it a padded ring that already holds the right
    value would need one more block of channels and a ring of pixels, which is more work than the
    pass. Mobile det 0.91, rec 0.88 of the CPU time without.
    """
    return sweep(graph, _replace)


def _replace(graph: Graph, first: Node) -> Graph | None:
    step = affine_of(graph, first)
    if step is None or first.op == "BatchNormalization":
        return None
    source = step[0]
    before = graph.producer(source)
    channels = channels_of(graph, source)
    if (
        before is None
        or before.op not in ACTIVATIONS
        or channels is None
        or step[1].size not in (1, channels)
    ):
        return None
    rest = chain_after(graph, first.output, channels)
    affine = step[1] if rest is None else step[1].then(rest.affine)
    output = first.output if rest is None else rest.output
    values = (
        ("scale", per_channel(affine.scale, channels)),
        ("shift", per_channel(affine.shift, channels)),
        ("mean", np.zeros(channels, np.float32)),
        ("variance", np.full(channels, 1 - EPSILON, np.float32)),
    )
    inputs = [source]
    for name, value in values:
        graph, constant = graph.with_constant(f"{output}.{name}", value)
        inputs.append(constant)
    norm = node("BatchNormalization", inputs, output, {"epsilon": EPSILON})
    return graph.swap((first, *(rest.nodes if rest else ())), (norm,))
