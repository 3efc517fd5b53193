"""A converted float32 model in, one of lower precision out, if it passes its gate on drawn text."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from ocr_onnx import recognize
from ocr_onnx.data import F32Array
from ocr_onnx.manifest import GateResult
from ocr_onnx_export import parity, rendered
from ocr_onnx_export.errors import ConversionError
from ocr_onnx_export.finish import Label, to_bytes
from ocr_onnx_export.precision import (
    MIN_EQUAL_LINES,
    MIN_MASK_IOU,
    Gate,
    gate_lines,
    gate_masks,
    matmul_to_int8,
    store_half,
    to_half,
)
from ocr_onnx_export.routes import Converted

Precision: TypeAlias = Literal["fp32", "fp16", "fp16-storage", "int8"]

REDUCERS: Mapping[Precision, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "fp16": to_half,
    "fp16-storage": store_half,
    "int8": matmul_to_int8,
}
GATE_LINES = 400  # two may differ
GATE_PAGES = 12
BATCH = 8


def reduced(converted: Converted, precision: Precision) -> tuple[Converted, GateResult]:
    """Return the model in a lower precision, named after it, and what its gate measured.

    det: the masks of drawn pages, IoU 0.99 each. rec and cls: the texts and the classes of drawn
    lines, 99.5 % equal.

    Raises
    ------
    ConversionError
        The gate stays shut, or there is nothing in the model that this precision could reduce.
    """
    name = f"{converted.label.name}-{precision}"
    model = REDUCERS[precision](onnx.load_model_from_string(converted.data))
    if precision == "int8" and all(node.op_type != "MatMulInteger" for node in model.graph.node):
        raise ConversionError(
            converted.label.name, "has no matrix product that int8 could speed up", "keep --precision fp32"
        )
    model.graph.name = name
    small = replace(converted, data=to_bytes(model), label=replace(converted.label, name=name))
    gate = _gate(converted, small)
    if not gate.passed:
        bar = f"{MIN_MASK_IOU} each" if converted.label.stage == "det" else f"{MIN_EQUAL_LINES} on average"
        raise ConversionError(
            converted.label.name,
            f"is not good enough in {precision}: {gate.measure} {gate.mean:.4f} on average and "
            f"{gate.worst:.4f} at worst over {gate.samples} samples, where {bar} are wanted",
            "keep --precision fp32, or try fp16-storage",
        )
    return small, GateResult(
        gate.measure, gate.samples, round(float(gate.mean), 6), round(float(gate.worst), 6)
    )


def _gate(reference: Converted, changed: Converted) -> Gate:
    stage = reference.label.stage
    with tempfile.TemporaryDirectory() as folder:
        runners = []
        for converted in (reference, changed):
            path = Path(folder) / f"{converted.label.name}.onnx"
            path.write_bytes(converted.data)
            runners.append(parity.onnx_runner(path, stage))
        # one batch at a time: the probabilities of all lines would fill a gigabyte
        pairs = ([run([batch])[0].output for run in runners] for batch in _pictures(reference.label))
        if stage == "det":
            return gate_masks((before, after) for before, after in pairs)
        texts = ([list(_texts(output, reference.label)) for output in pair] for pair in pairs)
        return gate_lines(both for before, after in texts for both in zip(before, after, strict=True))


def _pictures(label: Label) -> Iterator[NDArray[np.uint8]]:
    if label.stage == "det":
        yield from rendered.pages(GATE_PAGES)[:, np.newaxis]
        return
    pictures = rendered.lines(GATE_LINES, label.dictionary)
    if label.stage == "cls":
        pictures = np.ascontiguousarray(pictures[:, :, :192])
    for at in range(0, len(pictures), BATCH):
        yield pictures[at : at + BATCH]


def _texts(output: F32Array, label: Label) -> Iterator[str]:
    """Give what each line of a batch says: its text, or the class that cls put it in."""
    if label.stage == "cls":
        yield from map(str, output.argmax(axis=1))
        return
    charset = ("", *label.dictionary, " ")
    steps = recognize.reduce_probabilities(output)
    for labels, probs in zip(steps.labels, steps.probs, strict=True):
        yield recognize.decode(recognize.CtcSteps(labels, probs), charset).text
