"""Convolution followed by affines (batch norm, bias, learnable scale): one convolution."""

from dataclasses import replace

import numpy as np

from ocr_onnx_export.rewrite.affine import F64, chain_after, channels_of
from ocr_onnx_export.rewrite.graph import Graph, Node, sweep


def fold_affine_after(graph: Graph) -> Graph:
    """Fold scale and shift into the Conv or ConvTranspose before them.

    Exact up to float32 rounding: the products are made in float64 and rounded once. Needs constant
    4-D float32 weights, and a convolution whose result nothing else reads.

    Together with `fold_affine_before`: mobile det 0.75, rec 0.73 of the stock file's CPU time.
    """
    return sweep(graph, _fold)


def _fold(graph: Graph, conv: Node) -> Graph | None:
    if conv.op not in ("Conv", "ConvTranspose") or conv.domain:
        return None
    channels = channels_of(graph, conv.output)
    chain = None if channels is None else chain_after(graph, conv.output, channels)
    if channels is None or chain is None:
        return None
    weight, bias = graph.float32(conv.inputs[1]), _bias(graph, conv, channels)
    if weight is None or bias is None:
        return None
    group, transposed = conv.integer("group", 1), conv.op == "ConvTranspose"
    scale, shift = (np.broadcast_to(part, channels) for part in (chain.affine.scale, chain.affine.shift))
    scaled = _scale_filters(weight.astype(np.float64), scale, group, transposed)
    graph, weight_name = graph.with_constant(f"{chain.output}.weight", scaled.astype(np.float32))
    graph, bias_name = graph.with_constant(f"{chain.output}.bias", (bias * scale + shift).astype(np.float32))
    folded = replace(conv, inputs=(conv.inputs[0], weight_name, bias_name), outputs=(chain.output,))
    return graph.swap((conv, *chain.nodes), (folded,))


def _bias(graph: Graph, conv: Node, channels: int) -> F64 | None:
    if len(conv.inputs) < 3 or not conv.inputs[2]:
        return np.zeros(channels)
    bias = graph.float32(conv.inputs[2])
    return None if bias is None else bias.astype(np.float64)


def _scale_filters(weight: F64, scale: F64, group: int, transposed: bool) -> F64:
    """Scale by output channel: Conv has it first, ConvTranspose second and counted per group."""
    if not transposed:
        return weight * scale.reshape(-1, 1, 1, 1)
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(group, inputs // group, outputs, *kernel)
    return (grouped * scale.reshape(group, 1, outputs, 1, 1)).reshape(weight.shape)
