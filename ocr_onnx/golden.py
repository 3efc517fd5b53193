"""A model file, its golden tensors and a device in; whether every step still gives the same out.

Each step starts from the golden tensors of the step before, so the first that differs is the
culprit and not the victim of an earlier one:

* resize: the picture as the network gets it;
* normalise: the floats a stock file takes (a rewritten file does that itself, as part of the network);
* network: the model on the chosen device;
* decode: boxes, text or angle from the network's answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ocr_onnx import classify, contract, detect, recognize
from ocr_onnx.data import F32Array, ImageBgr
from ocr_onnx.errors import ModelError
from ocr_onnx.golden_file import REMEDY, Answer, Golden, path_beside, read
from ocr_onnx.manifest import Stage
from ocr_onnx.options import ClsOptions, DetOptions, RecOptions, RuntimeOptions
from ocr_onnx.recognize import CtcSteps
from ocr_onnx.runtime import Model, open_model

Step: TypeAlias = Literal["resize", "normalise", "network", "decode"]

# Probabilities of one FP32 network differ by up to 1e-4 between CPUs, GPUs and runtimes, as sums are
# taken in another order; a wrong input or kernel is off by far more.
TOLERANCE = 1e-3
RESIZE_TOLERANCE = 1.0  # grey levels: OpenCV builds round the last bit of an interpolation differently
NORMALISE_TOLERANCE = 1e-5
BOX_TOLERANCE_PX = 1.0
NO_LABELS: NDArray[np.int64] = np.empty(0, np.int64)
MASK_THRESHOLD = 0.3  # where DB post-processing cuts the map


class Deviation(NamedTuple):
    """The largest absolute difference, and the share (0..1) of decisions that are the same."""

    max_abs: float
    agreement: float


class Rehearsal(NamedTuple):
    """What a stage hands to its network for a picture, and what it makes of an answer."""

    image: NDArray[np.uint8]  # (h, w, 3)
    content_px: int
    quads_px: F32Array  # (K, 4, 2), det only
    text: str  # rec: the text, cls: the angle


@dataclass(frozen=True, slots=True)
class StageCheck:
    """How far one step is off.

    `max_abs` is in grey levels (resize), normalised values, probability (network), page pixels or
    characters (decode), and infinite where there is another number of values.
    `agreement` is the share of what the step decides that is the same: mask pixels and best
    classes of the network, else values within the tolerance. `truth` says what the step is compared with.
    """

    model: str
    stage: Step
    max_abs: float
    agreement: float
    passed: bool
    truth: str


def check_file(model: str, stage: Stage, path: Path, device: str = "cpu") -> tuple[StageCheck, ...] | None:
    """Run the golden tensors beside the model file at `path` on `device`; None where there are none.

    Raises
    ------
    ModelError
        The golden tensors are damaged or another model's; ModelContractError for the model itself.
    DeviceError, OptionError
        The device can't be used, or is none.
    """
    beside = path_beside(path)
    if not beside.is_file():
        return None
    golden = read(beside)
    if golden.stage != stage:
        raise ModelError(str(beside), f"belongs to a {golden.stage} model, not a {stage} model", REMEDY)
    return tuple(check(model, open_model(path, golden.stage, RuntimeOptions(device=device)), golden))


def check(model: str, session: Model, golden: Golden) -> Iterator[StageCheck]:
    """Compare every step, in the order of the pipeline; `model` names it in results and errors."""

    def found(step: Step, deviation: Deviation, tolerance: float) -> StageCheck:
        # written so that NaN fails
        passed = deviation.max_abs <= tolerance and deviation.agreement == 1.0
        return StageCheck(model, step, *deviation, passed, golden.truth)

    charset = recognize.charset_from(session.metadata, model) if golden.stage == "rec" else ()
    if golden.answer.labels.max(initial=0) >= max(1, len(charset)):
        raise ModelError(model, "has golden tensors of a model with more classes", REMEDY)
    redone = rehearse(golden.stage, golden.picture, golden.answer, charset)
    resized = compare_values(redone.image, golden.image, RESIZE_TOLERANCE)
    if redone.content_px != golden.content_px:
        resized = Deviation(float("inf"), 0.0)
    yield found("resize", resized, RESIZE_TOLERANCE)
    if session.inputs[0].dtype == "tensor(float)":
        tensor = normalise(golden.stage, golden.image, golden.content_px)
        normalised = compare_values(tensor, golden.tensor, NORMALISE_TOLERANCE)
        yield found("normalise", normalised, NORMALISE_TOLERANCE)
    answer = run_network(model, session, golden.stage, golden.image, golden.content_px, len(charset))
    answered = compare_answers(golden.stage, answer, golden.answer, golden.tolerance)
    yield found("network", answered, golden.tolerance)
    if golden.stage == "det":
        boxes = compare_values(redone.quads_px, golden.quads_px, BOX_TOLERANCE_PX)
        yield found("decode", boxes, BOX_TOLERANCE_PX)
    else:
        yield found("decode", compare_texts(redone.text, golden.text), 0.0)


def rehearse(stage: Stage, picture: ImageBgr, answer: Answer, charset: Sequence[str]) -> Rehearsal:
    """Put a picture through a stage of the pipeline whose network always gives `answer`."""
    if stage == "det":
        scaled = detect.preprocess(picture, DetOptions())
        height, width = picture.shape[:2]
        found = detect.postprocess(answer.probs, (width, height), DetOptions())
        return Rehearsal(scaled.image, scaled.image.shape[1], found.quads_px, "")
    given: list[tuple[NDArray[np.uint8], int]] = []

    def classes(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> F32Array:
        given.append((images[0], int(content_px[0])))
        return answer.probs[np.newaxis]

    def steps(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
        return CtcSteps(answer.labels[np.newaxis], classes(images, content_px))

    if stage == "rec":
        text = recognize.read_lines([picture], steps, charset, RecOptions())[0].text
    else:
        text = str(classify.angles([picture], classes, ClsOptions())[0])
    return Rehearsal(*given[0], np.zeros((0, 4, 2), np.float32), text)


def normalise(stage: Stage, image: NDArray[np.uint8], content_px: int) -> F32Array:
    """(h, w, 3) uint8 BGR -> (3, h, w) float32: what Paddle's network takes."""
    images, widths = image[np.newaxis], np.array([content_px], np.int32)
    tensor = detect.normalise(images) if stage == "det" else recognize.normalise(images, widths)
    return tensor.reshape(tensor.shape[1:])


def run_network(
    model: str, session: Model, stage: Stage, image: NDArray[np.uint8], content_px: int, classes: int
) -> Answer:
    """Run a model on one picture, by the contract its file has; `classes` are rec's."""
    images, widths = image[np.newaxis], np.array([content_px], np.int32)
    if stage == "det":
        return Answer(contract.det_infer(session, model)(images)[0], NO_LABELS)
    if stage == "cls":
        return Answer(contract.cls_infer(session, model)(images, widths)[0], NO_LABELS)
    labels, probs = contract.rec_infer(session, model, classes)(images, widths)
    return Answer(probs[0], labels[0])


def compare_answers(stage: Stage, have: Answer, want: Answer, tolerance: float = TOLERANCE) -> Deviation:
    """Compare probabilities, and what is decided by them: mask pixels or best classes.

    A mask pixel that `tolerance` alone could turn decides nothing. Golden tensors of float32
    models have none: their picture was chosen for it.
    """
    if have.probs.shape != want.probs.shape:
        return Deviation(float("inf"), 0.0)
    same: NDArray[np.bool_]
    if stage == "det":
        same = (have.probs > MASK_THRESHOLD) == (want.probs > MASK_THRESHOLD)
        same |= np.abs(want.probs - MASK_THRESHOLD) <= tolerance
    elif stage == "rec":
        same = have.labels == want.labels
    else:
        same = np.array(have.probs.argmax() == want.probs.argmax())
    return Deviation(compare_values(have.probs, want.probs, tolerance).max_abs, float(same.mean()))


def compare_values(have: NDArray[Any], want: NDArray[Any], tolerance: float) -> Deviation:
    """Compare arrays of one shape; others differ by infinity."""
    if have.shape != want.shape:
        return Deviation(float("inf"), 0.0)
    if have.size == 0:
        return Deviation(0.0, 1.0)
    difference = np.abs(have.astype(np.float64) - want)
    return Deviation(float(difference.max()), float((difference <= tolerance).mean()))


def compare_texts(have: str, want: str) -> Deviation:
    """Count the places at which two texts have different characters."""
    differing = sum(one != other for one, other in zip_longest(have, want))
    return Deviation(float(differing), 1.0 - differing / max(1, len(have), len(want)))
