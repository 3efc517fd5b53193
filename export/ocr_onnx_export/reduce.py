"""A converted float32 model in, one of lower precision out, if it passes its gate on drawn and real text."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from ocr_onnx import classify, crop, detect, inputs, recognize
from ocr_onnx.data import F32Array
from ocr_onnx.engine import Engine
from ocr_onnx.errors import InputError
from ocr_onnx.manifest import GateResult, GateText, Stage
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
MAX_LINE_STEPS = 100  # of 32 px


def reduced(
    converted: Converted, precision: Precision, gate_images: Path | None = None
) -> tuple[Converted, tuple[GateResult, ...]]:
    """Return the model in a lower precision, named after it, and what its gates measured.

    det: the masks of pages, IoU 0.99 each. rec and cls: the texts and the classes of lines, 99.5 %
    equal. Pages and lines are drawn; those of the pictures in `gate_images`, with the lines that the
    embedded mobile detector finds there, make a second gate.

    Raises
    ------
    ConversionError
        A gate stays shut, or there is nothing in the model that this precision could reduce.
    InputError
        A picture of `gate_images` can't be read, or there is none, or no text in them.
    """
    name = f"{converted.label.name}-{precision}"
    model = REDUCERS[precision](onnx.load_model_from_string(converted.data))
    if precision == "int8" and all(node.op_type != "MatMulInteger" for node in model.graph.node):
        raise ConversionError(
            converted.label.name, "has no matrix product that int8 could speed up", "keep --precision fp32"
        )
    model.graph.name = name
    small = replace(converted, data=to_bytes(model), label=replace(converted.label, name=name))
    results = [_passed(_gate(converted, small, _pictures(converted.label)), "drawn", converted, precision)]
    if gate_images is not None:
        gate = _gate(converted, small, _real_pictures(converted.label.stage, gate_images))
        if not gate.samples:
            raise InputError(str(gate_images), "shows no text", "give a folder of pictures with text")
        results.append(_passed(gate, "real", converted, precision))
    return small, tuple(results)


def _passed(gate: Gate, text: GateText, converted: Converted, precision: Precision) -> GateResult:
    if not gate.passed:
        bar = f"{MIN_MASK_IOU} each" if converted.label.stage == "det" else f"{MIN_EQUAL_LINES} on average"
        raise ConversionError(
            converted.label.name,
            f"is not good enough in {precision}: {gate.measure} {gate.mean:.4f} on average and "
            f"{gate.worst:.4f} at worst over {gate.samples} {text} samples, where {bar} are wanted",
            "keep --precision fp32, or try fp16-storage",
        )
    mean, worst = round(float(gate.mean), 6), round(float(gate.worst), 6)
    return GateResult(text, gate.measure, gate.samples, mean, worst)


def _gate(reference: Converted, changed: Converted, pictures: Iterator[NDArray[np.uint8]]) -> Gate:
    stage = reference.label.stage
    with tempfile.TemporaryDirectory() as folder:
        runners = []
        for converted in (reference, changed):
            path = Path(folder) / f"{converted.label.name}.onnx"
            path.write_bytes(converted.data)
            runners.append(parity.onnx_runner(path, stage))
        # one batch at a time: the probabilities of all lines would fill a gigabyte
        pairs = ([run([batch])[0].output for run in runners] for batch in pictures)
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


def _real_pictures(stage: Stage, folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Give the pages of a folder as det takes them, or their lines one by one as rec and cls do."""
    engine = Engine.load()
    for page in inputs.pages(folder):
        if stage == "det":
            yield detect.preprocess(page.image, engine.options.det).image[np.newaxis]
            continue
        quads_px = crop.rectangles(engine.detect(page).quads_px)
        for line in crop.cut(page.image, quads_px, engine.options.crop):
            height_px, width_px = line.shape[:2]
            # stretched to a whole tensor, as nothing here tells a network where the text ends
            wide_px = classify.WIDTH_PX if stage == "cls" else _line_width_px(width_px, height_px)
            yield np.asarray(cv2.resize(line, (wide_px, recognize.HEIGHT_PX)), np.uint8)[np.newaxis]


def _line_width_px(width_px: int, height_px: int) -> int:
    steps = round(recognize.HEIGHT_PX * width_px / height_px / recognize.WINDOW_STEP_PX)
    return min(max(1, steps), MAX_LINE_STEPS) * recognize.WINDOW_STEP_PX


def _texts(output: F32Array, label: Label) -> Iterator[str]:
    """Give what each line of a batch says: its text, or the class that cls put it in."""
    if label.stage == "cls":
        yield from map(str, output.argmax(axis=1))
        return
    charset = ("", *label.dictionary, " ")
    steps = recognize.reduce_probabilities(output)
    for labels, probs in zip(steps.labels, steps.probs, strict=True):
        yield recognize.decode(recognize.CtcSteps(labels, probs), charset).text
