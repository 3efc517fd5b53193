"""Session -> the callable of its stage, after checking that the model belongs to that stage.

Two kinds of PP-OCR files run. A stock file takes normalised floats (N, 3, h, w); the arithmetic is
done here. A rewritten file takes the picture itself, `image` uint8 (N, h, w, 3), for lines with
`valid_w` int32 (N,), and a rewritten rec file puts out `index` and `prob` per step beside all
probabilities, which then stay where they are.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ocr_onnx import classify, detect, recognize
from ocr_onnx.data import F32Array
from ocr_onnx.errors import ModelContractError
from ocr_onnx.runtime import Array, Session, TensorInfo

Images: TypeAlias = NDArray[np.uint8]
Widths: TypeAlias = NDArray[np.int32]
LineFeeds: TypeAlias = Callable[[Images, Widths], dict[str, Array]]

IMAGE, VALID_WIDTH = "image", "valid_w"
STEPS = ("index", "prob")


def det_infer(session: Session, model: str) -> detect.Infer:
    """Return the det stage's callable; ModelContractError where `session` holds another stage's model."""
    _check_stage(session, model, "det")
    _check_shape(session.outputs[0], model, "det", (None, 1, None, None))
    if _takes_images(session, model, "det", (IMAGE,)):
        return partial(_det_of_images, session)
    return partial(_det_of_floats, session, session.inputs[0].name)


def cls_infer(session: Session, model: str) -> classify.Infer:
    """Return the cls stage's callable; ModelContractError where `session` holds another stage's model."""
    _check_stage(session, model, "cls")
    _check_shape(session.outputs[0], model, "cls", (None, 2))
    return partial(_cls, session, _line_feeds(session, model, "cls"))


def rec_infer(session: Session, model: str, classes: int) -> recognize.Infer:
    """Return the rec stage's callable.

    ModelContractError where `session` holds another stage's model, or one whose output does not
    have `classes` classes: blank, the dictionary's characters and space.
    """
    _check_stage(session, model, "rec")
    names = [output.name for output in session.outputs]
    reduces = all(name in names for name in STEPS)
    probabilities = session.outputs[names.index("probs")] if "probs" in names else session.outputs[0]
    _check_shape(probabilities, model, "rec", (None, None, None))
    expected = probabilities.shape[2]
    if expected is not None and expected != classes:
        raise ModelContractError(
            model,
            f"has {expected} classes, but its dictionary makes {classes} (characters, blank and space)",
            f"give the dictionary it was trained with, of {expected - 2} lines",
        )
    return partial(
        _rec_of_steps if reduces else _rec_of_probabilities, session, _line_feeds(session, model, "rec")
    )


def _det_of_images(session: Session, images: Images) -> F32Array:
    prob_map: F32Array = session({IMAGE: images})[0]
    return prob_map[:, 0]


def _det_of_floats(session: Session, name: str, images: Images) -> F32Array:
    prob_map: F32Array = session({name: detect.normalise(images)})[0]
    return prob_map[:, 0]


def _cls(session: Session, feeds: LineFeeds, images: Images, content_px: Widths) -> F32Array:
    probs: F32Array = session(feeds(images, content_px))[0]
    return probs


def _rec_of_steps(
    session: Session, feeds: LineFeeds, images: Images, content_px: Widths
) -> recognize.CtcSteps:
    return recognize.CtcSteps(*session(feeds(images, content_px), STEPS))


def _rec_of_probabilities(
    session: Session, feeds: LineFeeds, images: Images, content_px: Widths
) -> recognize.CtcSteps:
    return recognize.reduce_probabilities(session(feeds(images, content_px))[0])


def _line_feeds(session: Session, model: str, stage: str) -> LineFeeds:
    if _takes_images(session, model, stage, (IMAGE, VALID_WIDTH)):
        return _image_feeds
    return partial(_float_feeds, session.inputs[0].name)


def _image_feeds(images: Images, content_px: Widths) -> dict[str, Array]:
    return {IMAGE: images, VALID_WIDTH: content_px}


def _float_feeds(name: str, images: Images, content_px: Widths) -> dict[str, Array]:
    return {name: recognize.normalise(images, content_px)}


def _takes_images(session: Session, model: str, stage: str, names: tuple[str, ...]) -> bool:
    """Tell rewritten inputs, called `names`, from the one float input of a stock file; refuse any other."""
    if session.inputs[0].dtype == "tensor(uint8)" and {one.name for one in session.inputs} == set(names):
        return True
    if [(one.dtype, len(one.shape)) for one in session.inputs] == [("tensor(float)", 4)]:
        return False
    inputs = ", ".join(f"{one.name} {one.dtype} {one.shape}" for one in session.inputs)
    raise ModelContractError(model, f"takes {inputs} instead of one batch of images", _remedy(stage))


def _check_stage(session: Session, model: str, stage: str) -> None:
    """Compare a model's own word, where it has one, with what it is wanted for."""
    own = session.metadata.get("stage", stage)
    if own != stage:
        raise ModelContractError(model, f"is a {own} model, not a {stage} model", _remedy(stage))


def _check_shape(output: TensorInfo, model: str, stage: str, wanted: tuple[int | None, ...]) -> None:
    if len(output.shape) != len(wanted) or any(
        want is not None and have is not None and want != have
        for want, have in zip(wanted, output.shape, strict=True)
    ):
        raise ModelContractError(
            model, f"puts out {output.shape}, which no {stage} model does", _remedy(stage)
        )


def _remedy(stage: str) -> str:
    return f"give a PP-OCR {stage} model"
