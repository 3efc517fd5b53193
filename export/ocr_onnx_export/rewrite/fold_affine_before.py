"""Affines in front of a convolution or a global average: moved into or behind it."""

from dataclasses import replace

import numpy as np

from ocr_onnx_export.rewrite.affine import F64, Affine, Chain, chain_before, channels_of
from ocr_onnx_export.rewrite.graph import Graph, Node, node, sweep


def fold_affine_before(graph: Graph) -> Graph:
    """Fold scale and shift into the Conv after them; let a GlobalAveragePool go first.

    Exact up to float32 rounding. Padding zeros stand for values *after* the shift, so a padded
    convolution takes a scale but never a shift. Other readers of the affine keep it: every
    convolution folds for itself, and what nobody reads any more is dead code. Measured together
    with `fold_affine_after`.
    """
    return sweep(graph, _fold)


def _fold(graph: Graph, reader: Node) -> Graph | None:
    if reader.domain:
        return None
    if reader.op == "Conv":
        return _into_conv(graph, reader)
    if reader.op == "GlobalAveragePool":
        return _behind_average(graph, reader)
    return None


def _into_conv(graph: Graph, conv: Node) -> Graph | None:
    shape, group = graph.shape(conv.inputs[1]), conv.integer("group", 1)
    if shape is None or len(shape) != 4:
        return None
    chain = _chain_of_known_width(graph, conv.inputs[0], shape[1] * group)
    if chain is None or (_is_padded(conv) and np.any(chain.affine.shift)):
        return None
    weight = graph.float32(conv.inputs[1])
    has_bias = len(conv.inputs) > 2 and conv.inputs[2] != ""
    bias = graph.float32(conv.inputs[2]) if has_bias else np.float32(0)
    if weight is None or bias is None:
        return None
    wide = weight.astype(np.float64)
    scale, shift = (
        _per_filter_input(part, group, shape) for part in (chain.affine.scale, chain.affine.shift)
    )
    moved = bias + (wide * shift).sum(axis=(1, 2, 3))
    graph, weight_name = graph.with_constant(f"{conv.output}.weight", (wide * scale).astype(np.float32))
    graph, bias_name = graph.with_constant(f"{conv.output}.bias", moved.astype(np.float32))
    return graph.swap((conv,), (replace(conv, inputs=(chain.source, weight_name, bias_name)),))


def _behind_average(graph: Graph, average: Node) -> Graph | None:
    channels = channels_of(graph, average.inputs[0])
    chain = None if channels is None else _chain_of_known_width(graph, average.inputs[0], channels)
    if chain is None:
        return None
    early = replace(average, inputs=(chain.source,), outputs=(graph.unused_name(f"{average.output}.mean"),))
    graph, scale = graph.with_constant(f"{average.output}.scale", _as_constant(chain.affine.scale))
    graph, shift = graph.with_constant(f"{average.output}.shift", _as_constant(chain.affine.shift))
    product = graph.unused_name(f"{average.output}.scaled")
    return graph.swap(
        (average,),
        (early, node("Mul", (early.output, scale), product), node("Add", (product, shift), average.output)),
    )


def _chain_of_known_width(graph: Graph, tensor: str, channels: int) -> Chain | None:
    """Return the affines before `tensor`, if none of them changes its shape by broadcasting."""

    def accept(source: str, affine: Affine) -> bool:
        return affine.size in (1, channels) and channels_of(graph, source) == channels

    return chain_before(graph, tensor, accept)


def _is_padded(conv: Node) -> bool:
    return any(conv.integers("pads", ())) or conv.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID")


def _per_filter_input(values: F64, group: int, weight_shape: tuple[int, ...]) -> F64:
    """Return per-input-channel values in the form (O, I / group, 1, 1) of the weights."""
    outputs, inputs_per_group = weight_shape[:2]
    every = np.broadcast_to(values, (inputs_per_group * group,)).reshape(group, inputs_per_group)
    return np.repeat(every, outputs // group, axis=0)[:, :, np.newaxis, np.newaxis]


def _as_constant(values: F64) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return values.astype(np.float32).reshape(1, -1, 1, 1)
