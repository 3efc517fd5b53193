"""A stage and the shape of its input -> the group of shapes it belongs to, and the batch it runs as. Pure.

TensorRT builds an engine for a range of shapes, a warm-up runs through shapes, and a GPU stalls at each
new one: so there are few. A result never depends on the bucket. Pages are not padded at all, as the
detector pools over the whole picture; the rows of a batch do not see each other, so a batch may be
filled up with blank ones whose answers are dropped; widths of lines follow from the line alone, and
groups of them are ranges.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ocr_onnx import classify, recognize
from ocr_onnx.detect import STRIDE_PX
from ocr_onnx.manifest import Stage

Feeds = Mapping[str, NDArray[Any]]

CHANNELS = 3


class Shape(NamedTuple):
    """The size of a batch of images, whatever the layout of the tensor."""

    n: int
    h: int
    w: int


class Bucket(NamedTuple):
    """Where an input goes: to the engine of `group`, as a batch of `batch` images, blank ones included.

    `batch` is less than the input has where that is too many for one run.
    """

    group: str
    batch: int


@dataclass(frozen=True, slots=True)
class Group:
    """A range of shapes, every axis of its own, which one engine serves; `opt` is what it is tuned for."""

    name: str
    min: Shape
    opt: Shape
    max: Shape

    def holds(self, shape: Shape) -> bool:
        """Tell whether every axis of `shape` lies in the range."""
        return all(low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True))


class Profile(NamedTuple):
    """What TensorRT's provider is told about a group: every input with its shape, for each of the three."""

    min: str
    opt: str
    max: str


class Input(Protocol):
    """An input of a model, as `TensorInfo`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int | None, ...]: ...  # noqa: D102


# A page goes in at up to det.tile_pixels (1,000,000) and a side of up to det.limit_side_px (1600): 992 x
# 992 is the largest square, and beyond it one side is below 992. One box around both would have the
# memory of 1600 x 1600. Longer strips and larger limits are outliers.
_SQUARE_PX, _LONG_PX = 992, 1600
_DET = (
    Group("det-std", Shape(1, STRIDE_PX, STRIDE_PX), Shape(1, 736, 736), Shape(1, _SQUARE_PX, _SQUARE_PX)),
    Group("det-wide", Shape(1, STRIDE_PX, _SQUARE_PX), Shape(1, 704, 1280), Shape(1, _SQUARE_PX, _LONG_PX)),
    Group("det-tall", Shape(1, _SQUARE_PX, STRIDE_PX), Shape(1, 1280, 704), Shape(1, _LONG_PX, _SQUARE_PX)),
)


def _lines(name: str, widths_px: tuple[int, int, int], batches: tuple[int, int]) -> Group:
    """Return a group of lines: its least, usual and largest width, the usual and the largest batch."""
    sizes = zip((1, *batches), widths_px, strict=True)
    return Group(name, *(Shape(n, recognize.HEIGHT_PX, width) for n, width in sizes))


# An engine holds the memory of its largest shape: some 32 lines of 320 px, or fewer wider ones.
GROUPS: Mapping[Stage, tuple[Group, ...]] = {
    "det": _DET,
    "rec": (
        _lines("rec-s", (recognize.TIGHT_WIDTH_PX, 320, 320), (16, 32)),
        _lines("rec-m", (320, 640, 640), (8, 16)),
        _lines("rec-l", (640, 1280, 1600), (4, 8)),
        _lines("rec-xl", (1600, 2400, 3200), (1, 4)),
    ),
    "cls": (_lines("cls", (classify.WIDTH_PX,) * 3, (8, 32)),),
}
"""The groups of every stage; the first that holds a shape takes it."""


def bucket_of(stage: Stage, shape: Shape) -> Bucket | None:
    """Return the bucket of an input; None for an outlier, which has no engine.

    Only height and width decide: a batch that is too large goes in several runs.
    """
    group = group_of(stage, shape)
    return None if group is None else Bucket(group.name, padded_batch(shape.n, group.max.n))


def group_of(stage: Stage, shape: Shape) -> Group | None:
    """Return the group of an input of this height and width; None for an outlier."""
    return next((group for group in GROUPS[stage] if group.holds(shape._replace(n=1))), None)


def padded_batch(n: int, most: int) -> int:
    """Return the next of 1, 2, 4, 8, ... that holds `n` images, or `most` where that is less."""
    return min(most, 1 << max(0, n - 1).bit_length())


def in_runs(feeds: Feeds, most: int) -> Iterator[tuple[Feeds, int]]:
    """Cut a batch into runs of at most `most` rows, each filled up; yield each with its rows that count.

    All arrays have the rows as their first axis. Rows that fill up are zeros: a blank image, without
    content.
    """
    count = len(next(iter(feeds.values())))
    for start in range(0, count, most):
        rows = min(most, count - start)
        batch = padded_batch(rows, most)
        yield {name: _rows(array, start, rows, batch) for name, array in feeds.items()}, rows


def joined(answers: Sequence[tuple[Sequence[NDArray[Any]], int]]) -> list[NDArray[Any]]:
    """Put the outputs of runs together, each without the rows beyond those that count."""
    if len(answers) == 1:
        arrays, rows = answers[0]
        return [array[:rows] for array in arrays]
    parts = [[array[:rows] for array in arrays] for arrays, rows in answers]
    return [np.concatenate(of_output) for of_output in zip(*parts, strict=True)]


def shape_of(feeds: Feeds) -> Shape:
    """Return the shape of the images among a stage's inputs: (N, h, w, 3) uint8 or (N, 3, h, w) float."""
    images = next(array for array in feeds.values() if array.ndim == 4)
    n, *rest = images.shape
    h, w = rest[:2] if images.dtype == np.uint8 else rest[1:]
    return Shape(n, h, w)


def profile(group: Group, inputs: Sequence[Input]) -> Profile:
    """Return the profile of a group for a model with these inputs.

    Images are uint8 NHWC or floats NCHW, a second input holds one number per image.
    """
    return Profile(*(_profile_text(shape, inputs) for shape in (group.min, group.opt, group.max)))


def warm_up_shapes(stage: Stage) -> tuple[Shape, ...]:
    """Return the shapes to run before the first page: of every group the least, the usual and the largest.

    For lines also every batch at the usual width, as each is a shape of its own to a GPU. None twice.
    """
    shapes: list[Shape] = []
    for group in GROUPS[stage]:
        sizes = {padded_batch(n, group.max.n) for n in range(1, group.max.n + 1)}
        shapes += [group.min, *(group.opt._replace(n=n) for n in sorted(sizes)), group.opt, group.max]
    return tuple(dict.fromkeys(shapes))


def _rows(array: NDArray[Any], start: int, rows: int, batch: int) -> NDArray[Any]:
    if rows == batch == len(array):
        return array
    filled = np.zeros((batch, *array.shape[1:]), dtype=array.dtype)
    filled[:rows] = array[start : start + rows]
    return filled


def _profile_text(shape: Shape, inputs: Sequence[Input]) -> str:
    return ",".join(f"{one.name}:{'x'.join(map(str, _sizes(shape, one)))}" for one in inputs)


def _sizes(shape: Shape, one: Input) -> tuple[int, ...]:
    if len(one.shape) != 4:
        return (shape.n,)
    if one.dtype == "tensor(uint8)":
        return (shape.n, shape.h, shape.w, CHANNELS)
    return (shape.n, CHANNELS, shape.h, shape.w)
