"""A published model and its truth in, the file of golden tensors beside it out.

Several pictures are drawn and the clearest is kept: the one whose answer is furthest from a decision
that rounding could turn. Probabilities are rounded to 2**-16, so that the file compresses; that is far
below the tolerance.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ocr_onnx.data import F32Array, ImageBgr
from ocr_onnx.drawing import BUNDLED_FONT
from ocr_onnx.golden import (
    MASK_THRESHOLD,
    NO_LABELS,
    TOLERANCE,
    Rehearsal,
    compare_answers,
    normalise,
    rehearse,
    run_network,
)
from ocr_onnx.golden_file import MAX_TOLERANCE, Answer, Golden, path_beside, to_bytes
from ocr_onnx.manifest import Stage
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.recognize import charset_from, reduce_probabilities
from ocr_onnx.runtime import Session, installed_wheels
from ocr_onnx_export.errors import ConversionError
from ocr_onnx_export.paddle_route import PaddleTool
from ocr_onnx_export.routes import Converted
from ocr_onnx_export.sources import Source

TEXTS = (
    "Gate B7 登机口",
    "No. 1834 发票",
    "total 56.90 元",
    "INVOICE 2024",
    "quick 棕色 fox",
    "ocr@onnx.org",
)
DET_SIZE_WH = (330, 100)  # not multiples of the network's stride, so that the picture is resized
LINE_HEIGHT_PX = 40
# (N, H, W) of what the networks get; rec's lines have different widths, which fits no fixed one
INPUT_SIZES: Mapping[Stage, tuple[int, int, int | None]] = {
    "det": (1, 96, 320),
    "rec": (1, 48, None),
    "cls": (1, 48, 192),
}
PAPER, INK = (240, 236, 225), (25, 30, 70)  # RGB, all channels different
PROB_STEPS = 2**16
# What a lower precision costs here, another device's kernels may cost twice: they round elsewhere.
LOWER_PRECISION_SLACK = 2.0

Ask: TypeAlias = Callable[[Sequence[Rehearsal]], list[Answer]]


@dataclass(frozen=True, slots=True)
class Truth:
    """What the golden answers come from: its name with versions, and how to ask it."""

    name: str
    ask: Ask


def truth_of(source: Source, converted: Converted, *, paddle: bool) -> Truth:
    """Return Paddle where it takes part in the export anyway, else the converted graph before rewriting.

    `paddle` says that it takes part; to read a legacy program it always does.

    Raises
    ------
    DependencyError
        Paddle takes part and is missing.
    """
    if paddle or source.layout == "legacy":
        return paddle_truth(source, converted.label.stage)
    return onnx_truth(converted.plain or converted.data, converted.label.stage)


def paddle_truth(source: Source, stage: Stage) -> Truth:
    """Return Paddle, without oneDNN and graph optimisation, on the model that was converted.

    Raises
    ------
    DependencyError
        There is no Paddle.
    """
    tool = PaddleTool.find()

    def ask(inputs: Sequence[Rehearsal]) -> list[Answer]:
        feeds = [normalise(stage, one.image, one.content_px)[np.newaxis] for one in inputs]
        return [
            _answer(stage, found.output) for found in tool.infer(source.program, source.parameters, feeds)
        ]

    return Truth(f"paddlepaddle {tool.versions()['paddlepaddle']} without oneDNN", ask)


def onnx_truth(plain: bytes, stage: Stage) -> Truth:
    """Return an ONNX graph before any rewriting, given as its file's bytes, on the CPU."""

    def ask(inputs: Sequence[Rehearsal]) -> list[Answer]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plain.onnx"
            path.write_bytes(plain)
            session = Session(path, RuntimeOptions())
            classes = len(_charset(session, stage))
            return [
                run_network("the plain graph", session, stage, one.image, one.content_px, classes)
                for one in inputs
            ]

    wheel = ", ".join(f"{name} {version}" for name, version in installed_wheels().items())
    return Truth(f"the graph before rewriting, {wheel} on the CPU", ask)


def write_beside(model: Path, stage: Stage, truth: Truth, precision: str = "fp32") -> None:
    """Write golden tensors beside the ONNX file `model`, after it has passed them itself.

    A lower precision is allowed a multiple of its own deviation. There are no golden tensors of a
    model that fixes another size than the pictures have, nor of one too undecided to agree in every
    decision: nothing could be told from them elsewhere.

    Raises
    ------
    ConversionError
        A float32 file differs from `truth`, or Paddle can't run it.
    """
    session = Session(model, RuntimeOptions())
    if not _takes_pictures(session, stage):
        return
    charset = _charset(session, stage)
    golden = make(stage, truth, charset)
    answer = run_network(model.stem, session, stage, golden.image, golden.content_px, len(charset))
    deviation = compare_answers(stage, answer, golden.answer)
    if precision != "fp32":
        golden = replace(golden, tolerance=max(TOLERANCE, LOWER_PRECISION_SLACK * deviation.max_abs))
        deviation = compare_answers(stage, answer, golden.answer, golden.tolerance)
    elif not deviation.max_abs <= TOLERANCE:
        raise ConversionError(
            model.stem,
            f"differs by {deviation.max_abs:.1e} from {golden.truth}",
            "export it by the other --route and report the model",
        )
    if deviation.agreement == 1.0 and golden.tolerance <= MAX_TOLERANCE:
        path_beside(model).write_bytes(to_bytes(golden))


def make(stage: Stage, truth: Truth, charset: Sequence[str]) -> Golden:
    """Draw pictures, ask `truth` what they show, and keep the one it is surest of."""
    pictures = [draw(stage, text) for text in TEXTS]
    blank = Answer(np.zeros((32, 32) if stage == "det" else 2, np.float32), np.zeros(2, np.int64))
    inputs = [rehearse(stage, picture, blank, charset) for picture in pictures]
    answers = [_rounded(answer) for answer in truth.ask(inputs)]
    best = max(range(len(pictures)), key=lambda place: _margin(stage, answers[place]))
    picture, given, answer = pictures[best], inputs[best], answers[best]
    read = rehearse(stage, picture, answer, charset)
    return Golden(
        stage=stage,
        truth=truth.name,
        tolerance=TOLERANCE,
        picture=picture,
        image=given.image,
        content_px=given.content_px,
        tensor=normalise(stage, given.image, given.content_px),
        answer=answer,
        quads_px=read.quads_px,
        text=read.text,
    )


def draw(stage: Stage, text: str) -> ImageBgr:
    """Draw dark text on light paper: two lines for det, one for rec, one upside down for cls."""
    font = ImageFont.truetype(BUNDLED_FONT, 28)
    if stage == "det":
        page = Image.new("RGB", DET_SIZE_WH, PAPER)
        pen = ImageDraw.Draw(page)
        pen.text((20, 8), text, INK, font)
        pen.text((90, 56), text[::-1], INK, font)
        return _to_bgr(page)
    line = Image.new("RGB", (round(font.getlength(text)) + 10, LINE_HEIGHT_PX), PAPER)
    ImageDraw.Draw(line).text((5, 3), text, INK, font)
    return _to_bgr(line.rotate(180) if stage == "cls" else line)


def _to_bgr(image: Image.Image) -> ImageBgr:
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


def _charset(session: Session, stage: Stage) -> tuple[str, ...]:
    return charset_from(session.metadata, "the exported model") if stage == "rec" else ()


def _takes_pictures(session: Session, stage: Stage) -> bool:
    """Tell whether the sizes that a file fixes are those of the pictures."""
    shape = session.inputs[0].shape
    fixed = shape[:3] if shape[-1] == 3 else (shape[0], *shape[2:])
    return all(fix in (None, size) for fix, size in zip(fixed, INPUT_SIZES[stage], strict=True))


def _answer(stage: Stage, output: F32Array) -> Answer:
    """Take the one answer out of a stock network's output."""
    if stage == "rec":
        labels, probs = reduce_probabilities(output)
        return Answer(probs[0], labels[0])
    return Answer(output[0, 0] if stage == "det" else output[0], NO_LABELS)


def _rounded(answer: Answer) -> Answer:
    steps = np.round(answer.probs.astype(np.float64) * PROB_STEPS) / PROB_STEPS
    return Answer(steps.astype(np.float32), answer.labels.astype(np.int64))


def _margin(stage: Stage, answer: Answer) -> float:
    """Return how far the least certain decision is from turning: a mask pixel, or the best class."""
    if stage == "det":
        return float(np.abs(answer.probs - MASK_THRESHOLD).min())
    return float(answer.probs.min() if stage == "rec" else answer.probs.max())
