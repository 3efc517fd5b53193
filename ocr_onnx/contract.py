"""Opened model -> the callable of its stage, after checking that the model belongs to that stage.

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
from ocr_onnx.runtime import Array, Model, TensorInfo

Images: TypeAlias = NDArray[np.uint8]
Widths: TypeAlias = NDArray[np.int32]
LineFeeds: TypeAlias = Callable[[Images, Widths], dict[str, Array]]

IMAGE, VALID_WIDTH = "image", "valid_w"
STEPS = ("index", "prob")
PROBABILITIES = "probs"


def det_infer(session: Model, model: str) -> detect.Infer:
    """Return the det stage's callable; ModelContractError where `session` holds another stage's model."""
    _check_stage(session, model, "det")
    _check_shape(session.outputs[0], model, "det", (None, 1, None, None))
    if _takes_images(session, model, "det", (IMAGE,)):
        _check_free(session.inputs[0], model, (None, None, None, 3))
        return partial(_det_of_images, session, model)
    _check_free(session.inputs[0], model, (None, 3, None, None))
    return partial(_det_of_floats, session, model, session.inputs[0].name)


def cls_infer(session: Model, model: str) -> classify.Infer:
    """Return the cls stage's callable; ModelContractError where `session` holds another stage's model."""
    _check_stage(session, model, "cls")
    _check_shape(session.outputs[0], model, "cls", (None, 2))
    return partial(_cls, session, model, _line_feeds(session, model, "cls", 192))


def rec_infer(session: Model, model: str, classes: int) -> recognize.Infer:
    """Return the rec stage's callable.

    ModelContractError where `session` holds another stage's model, or one whose output does not
    have `classes` classes: blank, the dictionary's characters and space.
    """
    expected = check_rec(session, model)
    if expected is not None and expected != classes:
        raise ModelContractError(
            model,
            f"has {expected} classes, but its dictionary makes {classes} (characters, blank and space)",
            f"give the dictionary it was trained with, of {expected - 2} lines",
        )
    names = [output.name for output in session.outputs]
    read = _rec_of_steps if all(name in names for name in STEPS) else _rec_of_probabilities
    return partial(read, session, model, _line_feeds(session, model, "rec", None))


def check_rec(session: Model, model: str) -> int | None:
    """Return how many classes a rec model puts out; None where its file does not say.

    ModelContractError where `session` holds another stage's model.
    """
    _check_stage(session, model, "rec")
    named = [output for output in session.outputs if output.name == PROBABILITIES]
    output = named[0] if named else session.outputs[0]
    _check_shape(output, model, "rec", (None, None, None))
    return output.shape[2]


def _det_of_images(session: Model, model: str, images: Images) -> F32Array:
    return _map_of(images, session({IMAGE: images})[0], model)


def _det_of_floats(session: Model, model: str, name: str, images: Images) -> F32Array:
    return _map_of(images, session({name: detect.normalise(images)})[0], model)


def _map_of(images: Images, output: F32Array, model: str) -> F32Array:
    """Return the maps (N, h, w), after making sure that they cover the images pixel by pixel."""
    wanted = (len(images), 1, *images.shape[1:3])
    if output.shape != wanted:
        problem = f"made a map of shape {output.shape} where its input asks for {wanted}"
        raise ModelContractError(model, problem, _remedy("det"))
    _check_finite(output, model)
    return output[:, 0]


def _cls(session: Model, model: str, feeds: LineFeeds, images: Images, content_px: Widths) -> F32Array:
    probs: F32Array = session(feeds(images, content_px))[0]
    _check_finite(probs, model)
    return probs


def _rec_of_steps(
    session: Model, model: str, feeds: LineFeeds, images: Images, content_px: Widths
) -> recognize.CtcSteps:
    labels, probs = session(feeds(images, content_px), STEPS)
    _check_finite(probs, model)
    return recognize.CtcSteps(labels, probs)


def _rec_of_probabilities(
    session: Model, model: str, feeds: LineFeeds, images: Images, content_px: Widths
) -> recognize.CtcSteps:
    steps = recognize.reduce_probabilities(session(feeds(images, content_px))[0])
    _check_finite(steps.probs, model)
    return steps


def _line_feeds(session: Model, model: str, stage: str, width_px: int | None) -> LineFeeds:
    if _takes_images(session, model, stage, (IMAGE, VALID_WIDTH)):
        _check_free(session.inputs[0], model, (None, 48, width_px, 3))
        return _image_feeds
    _check_free(session.inputs[0], model, (None, 3, 48, width_px))
    return partial(_float_feeds, session.inputs[0].name)


def _image_feeds(images: Images, content_px: Widths) -> dict[str, Array]:
    return {IMAGE: images, VALID_WIDTH: content_px}


def _float_feeds(name: str, images: Images, content_px: Widths) -> dict[str, Array]:
    return {name: recognize.normalise(images, content_px)}


def _takes_images(session: Model, model: str, stage: str, names: tuple[str, ...]) -> bool:
    """Tell rewritten inputs, called `names`, from the one float input of a stock file; refuse any other."""
    if session.inputs[0].dtype == "tensor(uint8)" and {one.name for one in session.inputs} == set(names):
        return True
    if [(one.dtype, len(one.shape)) for one in session.inputs] == [("tensor(float)", 4)]:
        return False
    inputs = ", ".join(f"{one.name} {one.dtype} {one.shape}" for one in session.inputs)
    raise ModelContractError(model, f"takes {inputs} instead of one batch of images", _remedy(stage))


def _check_stage(session: Model, model: str, stage: str) -> None:
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


def _check_free(taken: TensorInfo, model: str, wanted: tuple[int | None, ...]) -> None:
    """Refuse an input whose size is fixed where `wanted` has None, or fixed to another than `wanted`."""
    if any(have is not None and have != want for want, have in zip(wanted, taken.shape, strict=True)):
        problem = f"takes {taken.name} {taken.shape} only, and pages and lines come in all sizes"
        raise ModelContractError(model, problem, "export it again with free sizes")


def _check_finite(values: F32Array, model: str) -> None:
    if not np.isfinite(values).all():
        raise ModelContractError(
            model, "puts out values that are no numbers (NaN or infinite)", "check how it was converted"
        )


def _remedy(stage: str) -> str:
    return f"give a PP-OCR {stage} model"
