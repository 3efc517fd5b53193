"""x + x * s becomes x * (1 + s)."""

import numpy as np

from ocr_onnx_export.rewrite.graph import Graph, Node, node, sweep

GATES = frozenset(("HardSigmoid", "Sigmoid"))


def fuse_gate(graph: Graph) -> Graph:
    """Add the one to the gate instead of x to the product.

    The detector's squeeze-excite blocks have a shortcut around them; their gate `s` is one number
    per channel, x a whole feature map. Saves one pass over the map. Differs by rounding only.
    Mobile det 0.93 to 0.97 of the CPU time without.
    """
    return sweep(graph, _fuse)


def _fuse(graph: Graph, add: Node) -> Graph | None:
    if add.op != "Add" or add.domain:
        return None
    for x, y in (add.inputs, add.inputs[::-1]):
        product = graph.producer(y)
        if product is None or product.op != "Mul" or x not in product.inputs or graph.only_user(y) is not add:
            continue
        gate = product.inputs[1 - product.inputs.index(x)]
        before = graph.producer(gate)
        if before is None or before.op not in GATES:
            continue
        graph, one = graph.with_constant(f"{gate}.one", np.ones((1, 1, 1, 1), np.float32))
        more = graph.unused_name(f"{gate}.plus_one")
        return graph.swap(
            (product, add), (node("Add", (gate, one), more), node("Mul", (x, more), add.output))
        )
    return None
