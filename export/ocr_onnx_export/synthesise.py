"""A program without weights in, weights out with which it answers as variedly as a trained network does.

They serve tests of structure and speed; nothing about accuracy can be learnt from them. The same program
and seed give the same bytes on one machine; the measured statistics may end otherwise on another.
"""

import tempfile
from collections.abc import Mapping
from math import prod, sqrt
from pathlib import Path

import numpy as np
import onnx

from ocr_onnx.manifest import Stage
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session
from ocr_onnx_export import parity, pdiparams
from ocr_onnx_export.finish import to_bytes
from ocr_onnx_export.pdiparams import Array
from ocr_onnx_export.pir import Parameter, Program
from ocr_onnx_export.routes import STAGE_OF_RANK
from ocr_onnx_export.translate import translate

# Found by trial: with larger gains float32 rounding is amplified beyond 1e-4 (ONNX Runtime then differs from
# itself with its optimiser off), with smaller ones signals die out in the deep nets.
KERNEL_GAIN = 1.2
MATRIX_GAIN = 1.3
SQUARE_GAIN = 0.4  # what attention adds: an average over all places, which with more drowns each one's own
CLASSIFIER_GAIN = 2.5
MAP_GAIN = 3.0
MAP_BIAS = -2.0  # of the logit: a sixth to a third of a page is text, so that equal maps mean something
MEASURED_ON: Mapping[Stage, tuple[int, int, int]] = {
    "det": (2, 320, 320),
    "rec": (8, 48, 320),
    "cls": (8, 48, 192),
}
DET_VARIANCE_FLOOR = (
    0.3  # of a norm's mean square: PP-OCRv4_server_det has 48 in a row, each adds to rounding
)
CHANNEL_AXES = (0, 2, 3)  # a batch norm has one mean and variance per channel of (N, C, H, W)


def synthesise(program: Program, seed: int = 0) -> dict[str, Array]:
    """Return float32 values for every parameter, by name, drawn in the program's order."""
    generator = np.random.default_rng(seed)
    matrices = [one.type.shape for one in program.parameters if len(one.type.shape) == 2]
    classes = max((shape[1] for shape in matrices), default=0)  # no layer is wider than the last
    return {parameter.name: _values(parameter, classes, generator) for parameter in program.parameters}


def synthesise_file(program: Program, seed: int = 0) -> bytes:
    """Return an `inference.pdiparams` for a program that has none, laid out as Paddle would."""
    return pdiparams.to_bytes(measured(program, synthesise(program, seed)))


def measured(program: Program, values: Mapping[str, Array]) -> dict[str, Array]:
    """Return `values` with every batch norm's statistics as they are on drawn text.

    Random layers send all inputs to nearly the same place. A trained batch norm takes that common
    part away again, which is what makes a network tell one input from another; so must these.
    """
    model, statistics = _measuring(translate(program, values))
    if not statistics:
        return dict(values)
    stage = STAGE_OF_RANK[len(model.graph.output[0].type.tensor_type.shape.dim)]
    pictures = next(one.images for one in parity.samples([MEASURED_ON[stage]]) if one.kind == "text")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measuring.onnx"
        path.write_bytes(to_bytes(model))
        session = Session(path, RuntimeOptions())
        feeds = {session.inputs[0].name: parity.normalise(stage, pictures)}
        found = session(feeds, list(statistics.values()))
    measurements = dict(zip(statistics, found, strict=True))
    if stage == "det":
        measurements = _floored(measurements)
    return {**values, **measurements}


def _floored(measurements: Mapping[str, Array]) -> dict[str, Array]:
    """Raise small variances, so that no channel, and no rounding in it, is amplified without bound."""
    raised = dict(measurements)
    for name, mean in measurements.items():
        if name.endswith(".w_1"):
            variance = measurements[f"{name[:-1]}2"]
            floor = DET_VARIANCE_FLOOR * float((mean**2).mean() + variance.mean())
            raised[f"{name[:-1]}2"] = np.maximum(variance, np.float32(floor))
    return raised


def _measuring(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Let every batch norm use its own input's statistics; return also parameter -> tensor that has it."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    del graph.node[:]
    statistics: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            source, name = node.input[0], node.output[0]
            statistics[node.input[3]], statistics[node.input[4]] = f"{name}.mean", f"{name}.variance"
            graph.node.extend(_statistics(source, name))
            node = onnx.NodeProto.FromString(node.SerializeToString())
            node.input[3:5] = [f"{name}.mean", f"{name}.variance"]
        graph.node.append(node)
    graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in statistics.values()
    )
    return changed, statistics


def _statistics(source: str, name: str) -> list[onnx.NodeProto]:
    make = onnx.helper.make_node
    return [
        make("ReduceMean", [source], [f"{name}.mean"], axes=CHANNEL_AXES, keepdims=0),
        make("ReduceMean", [source], [f"{name}.kept"], axes=CHANNEL_AXES, keepdims=1),
        make("Sub", [source, f"{name}.kept"], [f"{name}.centred"]),
        make("Mul", [f"{name}.centred", f"{name}.centred"], [f"{name}.squares"]),
        make("ReduceMean", [f"{name}.squares"], [f"{name}.variance"], axes=CHANNEL_AXES, keepdims=0),
    ]


def _values(parameter: Parameter, classes: int, generator: np.random.Generator) -> Array:
    """Draw by the layer's kind, which Paddle's names tell: batch_norm2d_3.w_2 is a variance."""
    layer, _, kind = parameter.name.rpartition(".")
    shape = parameter.type.shape
    if layer.startswith("batch_norm") and kind == "w_2":
        drawn = generator.uniform(0.5, 1.5, shape)
    elif layer.startswith(("batch_norm", "layer_norm")) and kind == "w_0":
        drawn = generator.uniform(0.8, 1.2, shape)
    elif layer.startswith(("batch_norm", "layer_norm")):
        drawn = generator.normal(0.0, 0.1, shape)
    elif kind.startswith("b_") and shape == (1,):
        drawn = np.full(shape, MAP_BIAS)
    elif kind.startswith("b_") or len(shape) < 2:
        drawn = generator.normal(0.0, 0.05, shape)
    elif len(shape) == 4:
        drawn = _kernel(shape, layer.startswith("conv2d_transpose"), generator)
    else:
        drawn = generator.normal(0.0, _matrix_gain(shape, classes) / sqrt(max(shape[0], 1)), shape)
    return drawn.astype(np.float32)


def _kernel(shape: tuple[int, ...], transposed: bool, generator: np.random.Generator) -> Array:
    """Draw a kernel; that of a map sums to zero over its inputs, or it would be all text or none."""
    inputs_axis, outputs_axis = (0, 1) if transposed else (1, 0)
    if shape[outputs_axis] > 1:
        return generator.normal(0.0, KERNEL_GAIN / sqrt(max(prod(shape[1:]), 1)), shape)
    drawn: Array = generator.normal(0.0, MAP_GAIN / sqrt(max(shape[inputs_axis], 1)), shape)
    drawn -= drawn.mean(axis=inputs_axis, keepdims=True)
    return drawn


def _matrix_gain(shape: tuple[int, ...], classes: int) -> float:
    if shape[-1] == classes:
        return CLASSIFIER_GAIN
    return SQUARE_GAIN if shape[0] == shape[-1] else MATRIX_GAIN
