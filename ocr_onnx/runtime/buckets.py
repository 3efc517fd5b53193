"""A stage -> the shapes that its runs come in. Pure."""

from typing import TypeAlias

from ocr_onnx.manifest import Stage

Shape: TypeAlias = tuple[int, int, int]
"""(N, h, w) of a batch of images."""


def warm_up_shapes(stage: Stage) -> tuple[Shape, ...]:
    """Return the shapes that a stage's runs should have seen before the first page comes."""
    if stage == "det":
        return tuple((1, side, side) for side in (736, 960))
    return tuple((rows, 48, 192 if stage == "cls" else 320) for rows in (1, 6))
