"""Session -> the callable of its stage, after checking that the model belongs to that stage."""

from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ocr_onnx import classify, detect, recognize
from ocr_onnx.data import F32Array
from ocr_onnx.errors import ModelContractError
from ocr_onnx.runtime import Session

Images: TypeAlias = NDArray[np.uint8]
Widths: TypeAlias = NDArray[np.int32]


def det_infer(session: Session, model: str) -> detect.Infer:
    """Return the det stage's callable; ModelContractError where `session` holds another stage's model."""
    _check(session, model, "det", (None, 1, None, None))
    return partial(_det, session, session.inputs[0].name)


def cls_infer(session: Session, model: str) -> classify.Infer:
    """Return the cls stage's callable; ModelContractError where `session` holds another stage's model."""
    _check(session, model, "cls", (None, 2))
    return partial(_cls, session, session.inputs[0].name)


def rec_infer(session: Session, model: str, classes: int) -> recognize.Infer:
    """Return the rec stage's callable.

    ModelContractError where `session` holds another stage's model, or one whose output does not
    have `classes` classes: blank, the dictionary's characters and space.
    """
    _check(session, model, "rec", (None, None, None))
    expected = session.outputs[0].shape[2]
    if expected is not None and expected != classes:
        raise ModelContractError(
            model,
            f"has {expected} classes, but its dictionary makes {classes} (characters, blank and space)",
            f"give the dictionary it was trained with, of {expected - 2} lines",
        )
    return partial(_rec, session, session.inputs[0].name)


def _det(session: Session, name: str, images: Images) -> F32Array:
    prob_map: F32Array = session({name: detect.normalise(images)})[0]
    return prob_map[:, 0]


def _cls(session: Session, name: str, images: Images, content_px: Widths) -> F32Array:
    probs: F32Array = session({name: recognize.normalise(images, content_px)})[0]
    return probs


def _rec(session: Session, name: str, images: Images, content_px: Widths) -> recognize.CtcSteps:
    return recognize.reduce_probabilities(session({name: recognize.normalise(images, content_px)})[0])


def _check(session: Session, model: str, stage: str, output: tuple[int | None, ...]) -> None:
    """Compare a model's own word and its shapes with what a stage needs."""
    remedy = f"give a PP-OCR {stage} model"
    own = session.metadata.get("stage", stage)
    if own != stage:
        raise ModelContractError(model, f"is a {own} model, not a {stage} model", remedy)
    if (
        len(session.inputs) != 1
        or session.inputs[0].dtype != "tensor(float)"
        or len(session.inputs[0].shape) != 4
    ):
        inputs = ", ".join(f"{one.name} {one.dtype} {one.shape}" for one in session.inputs)
        raise ModelContractError(model, f"takes {inputs} instead of one float image batch", remedy)
    shape = session.outputs[0].shape
    if len(shape) != len(output) or any(
        want is not None and have is not None and want != have
        for want, have in zip(output, shape, strict=True)
    ):
        raise ModelContractError(model, f"puts out {shape}, which no {stage} model does", remedy)
