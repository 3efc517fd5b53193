"""A stage -> the shapes that its runs come in. Pure."""

from typing import NamedTuple

from ocr_onnx.manifest import Stage


class Shape(NamedTuple):
    """The size of a batch of images, whatever the layout of the tensor."""

    n: int
    h: int
    w: int


def padded_batch(n: int, most: int) -> int:
    """Return the next of 1, 2, 4, 8, ... that holds `n` images, or `most` where that is less."""
    return min(most, 1 << max(0, n - 1).bit_length())


def warm_up_shapes(stage: Stage) -> tuple[Shape, ...]:
    """Return the shapes that a stage's runs should have seen before the first page comes."""
    if stage == "det":
        return tuple(Shape(1, side, side) for side in (736, 960))
    return tuple(Shape(rows, 48, 192 if stage == "cls" else 320) for rows in (1, 2, 4, 8))
