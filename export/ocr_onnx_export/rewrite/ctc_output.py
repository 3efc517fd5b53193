"""The recogniser answers with the best class and its probability per time step."""

from dataclasses import replace

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from ocr_onnx_export.rewrite.graph import Graph, Node, node

INDEX = "index"
PROB = "prob"
PROBS = "probs"


def ctc_output(graph: Graph) -> Graph:
    """Replace the one output (N, T, C) by `index` and `prob`, and keep it as a third, `probs`.

    `index` (N, T) int64 is the most probable class, `prob` (N, T) float32 its probability. They
    are a thousandth of `probs` (N, T, C) float32 in size, which is copied out of the session only
    when a caller names it. On a CPU reducing here costs as much as it saves; on a GPU it saves the
    transfer. A graph whose only output is not a softmax over classes comes back
    unchanged.
    """
    softmax = _final_softmax(graph)
    if softmax is None:
        return graph
    old = graph.outputs[0].type
    probs = ValueInfoProto(name=PROBS, type=old)
    batch, time, _ = (d.dim_param or d.dim_value or None for d in old.tensor_type.shape.dim)
    outputs = (
        helper.make_tensor_value_info(INDEX, TensorProto.INT64, [batch, time]),
        helper.make_tensor_value_info(PROB, TensorProto.FLOAT, [batch, time]),
        probs,
    )
    graph, maximum = _maximum(graph)
    steps = (
        replace(softmax, outputs=(PROBS,)),
        node("ArgMax", (PROBS,), INDEX, {"axis": 2, "keepdims": 0}),
        maximum,
    )
    return replace(graph.swap((softmax,), steps), outputs=outputs)


def _maximum(graph: Graph) -> tuple[Graph, Node]:
    """Opset 18 turned the axes of a reduction from an attribute into an input."""
    if graph.opset < 18:
        return graph, node("ReduceMax", (PROBS,), PROB, {"axes": (2,), "keepdims": 0})
    graph, axes = graph.with_constant(f"{PROB}.axes", np.array([2], np.int64))
    return graph, node("ReduceMax", (PROBS, axes), PROB, {"keepdims": 0})


def _final_softmax(graph: Graph) -> Node | None:
    if len(graph.outputs) != 1 or len(graph.outputs[0].type.tensor_type.shape.dim) != 3:
        return None
    name = graph.outputs[0].name
    producer = graph.producer(name)
    if producer is None or producer.op != "Softmax" or producer.domain:
        return None
    default_axis = -1 if graph.opset >= 13 else 1
    return producer if producer.integer("axis", default_axis) in (2, -1) else None
