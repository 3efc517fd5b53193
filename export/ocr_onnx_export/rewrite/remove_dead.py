"""Nodes and constants that change nothing or that nobody reads: gone."""

from dataclasses import replace

import numpy as np

from ocr_onnx_export.rewrite.affine import affine_of
from ocr_onnx_export.rewrite.graph import Graph, Node, sweep


def remove_identities(graph: Graph) -> Graph:
    """Drop Identity, and Dropout as it is for inference. A graph's output keeps its name."""
    return sweep(graph, _bypass)


def remove_round_trips(graph: Graph) -> Graph:
    """Drop an Unsqueeze and the Squeeze that undoes it, even if a zero is added in between.

    Paddle2ONNX writes the recogniser's last pooling so, and ONNX Runtime leaves its blocked layout
    for it: four reorders less. A graph's output keeps its name.
    """
    return sweep(graph, _shortcut)


def remove_dead(graph: Graph) -> Graph:
    """Drop nodes no output depends on, then constants no node reads."""
    needed = set(graph.pinned)
    pending = [producer for name in sorted(needed) if (producer := graph.producer(name)) is not None]
    seen = set(pending)
    while pending:
        current = pending.pop()
        for name in (*current.inputs, *current.captured):
            needed.add(name)
            producer = graph.producer(name)
            if producer is not None and producer not in seen:
                seen.add(producer)
                pending.append(producer)
    return replace(
        graph,
        nodes=tuple(each for each in graph.nodes if each in seen),
        constants={name: tensor for name, tensor in graph.constants.items() if name in needed},
    )


def _bypass(graph: Graph, candidate: Node) -> Graph | None:
    useless = candidate.op == "Identity" or (candidate.op == "Dropout" and len(candidate.inputs) == 1)
    if not useless or candidate.domain or graph.pinned.intersection(candidate.outputs):
        return None
    if any(graph.users(mask) for mask in candidate.outputs[1:]):
        return None
    return graph.rename_uses(candidate.output, candidate.inputs[0]).swap((candidate,), ())


def _shortcut(graph: Graph, squeeze: Node) -> Graph | None:
    if squeeze.op != "Squeeze" or squeeze.domain or squeeze.output in graph.pinned:
        return None
    unsqueeze = graph.producer(_before_zero(graph, squeeze.inputs[0]))
    if unsqueeze is None or unsqueeze.op != "Unsqueeze" or unsqueeze.domain:
        return None
    if len(squeeze.inputs) != 2 or len(unsqueeze.inputs) != 2:  # before opset 13, or every axis of size 1
        return None
    axes = [graph.array(each.inputs[1]) for each in (squeeze, unsqueeze)]
    if axes[0] is None or axes[1] is None or not np.array_equal(axes[0], axes[1]):
        return None
    return graph.rename_uses(squeeze.output, unsqueeze.inputs[0]).swap((squeeze,), ())


def _before_zero(graph: Graph, tensor: str) -> str:
    """Return what a zero is added to in order to make `tensor`, or `tensor` itself."""
    add = graph.producer(tensor)
    step = None if add is None else affine_of(graph, add)
    if step is None or step[1].size != 1 or step[1].scale[0] != 1 or step[1].shift[0] != 0:
        return tensor
    return step[0]
