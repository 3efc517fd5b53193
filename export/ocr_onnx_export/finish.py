"""A freshly converted ONNX graph in, the same graph out in the one form every converted file has."""

from dataclasses import dataclass

import onnx

from ocr_onnx.manifest import Stage

OPSET = 17
IR_VERSION = 8  # what opset 17 was published with; the oldest runtimes we meet read it
SPATIAL_NAMES = ("N", "C", "H", "W")


@dataclass(frozen=True, slots=True)
class Label:
    """What a converted file says about itself.

    `name` is the model's name, `stage` its place in the pipeline, `source` the Paddle model it was
    made from, `converter` the tools and their versions, `dictionary` the characters of a rec model
    as published, one entry each, without the CTC blank and without the space the decoder appends.
    """

    name: str
    stage: Stage
    source: str
    converter: str
    dictionary: tuple[str, ...] = ()

    def metadata(self) -> dict[str, str]:
        """Return the file's metadata, in the order it is written."""
        entries = {"stage": self.stage, "source": self.source, "converter": self.converter}
        if self.dictionary:
            entries["character"] = "\n".join(self.dictionary)
        return entries


def finish(model: onnx.ModelProto, label: Label) -> onnx.ModelProto:
    """Return a copy of `model` with constants as initializers, every node named, and `label` attached.

    The graph takes the model's own name: TensorRT keys its caches by it, and Paddle2ONNX gives the
    same one to every file. Nodes without a name are refused by some ONNX Runtime releases. The
    bytes of the result depend on the graph and the label alone.
    """
    finished = onnx.ModelProto()
    finished.CopyFrom(model)
    finished.ir_version = IR_VERSION
    finished.producer_name = "ocr-onnx"
    finished.producer_version = ""
    finished.doc_string = ""
    graph = finished.graph
    graph.name = label.name
    graph.doc_string = ""
    _constants_to_initializers(graph)
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        node.doc_string = ""
    del graph.value_info[:]
    for value in graph.input:
        _name_free_dimensions(value, SPATIAL_NAMES)
    for value in graph.output:
        _name_free_dimensions(value, ("N", f"{value.name}_1", f"{value.name}_2", f"{value.name}_3"))
    onnx.helper.set_model_props(finished, label.metadata())
    return finished


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Serialise a model: the same graph always gives the same bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _name_free_dimensions(value: onnx.ValueInfoProto, names: tuple[str, ...]) -> None:
    for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
        if dimension.WhichOneof("value") != "dim_value" or dimension.dim_value < 0:
            dimension.dim_param = name
