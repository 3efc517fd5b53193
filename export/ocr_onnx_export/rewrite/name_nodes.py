"""Every node gets a name of its own."""

from dataclasses import replace

from ocr_onnx_export.rewrite.graph import Graph


def name_nodes(graph: Graph) -> Graph:
    """Name nodes by operation and place, "Conv_12".

    ONNX Runtime 1.19 refuses some fusions of nodes without a name, and profiles are unreadable
    without them.
    """
    named = (replace(each, name=f"{each.op}_{place}") for place, each in enumerate(graph.nodes))
    return replace(graph, nodes=tuple(named))
