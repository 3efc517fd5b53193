"""The text-line classifier's preprocessing and its vote, with a network the tests can see through."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ocr_onnx import classify
from ocr_onnx.data import F32Array, ImageBgr
from ocr_onnx.options import ClsOptions

some = settings(max_examples=40, deadline=None)
Shapes = list[tuple[int, int]]
shapes: st.SearchStrategy[Shapes] = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 400)), max_size=14)


def lines_of(sizes: Shapes) -> list[ImageBgr]:
    rng = np.random.default_rng(len(sizes))
    lines = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]
    for line in lines:
        line.setflags(write=False)
    return lines


class Recorder:
    """A network that says 180 with the share of bright pixels, and keeps what it saw."""

    def __init__(self) -> None:
        self.images: list[NDArray[np.uint8]] = []
        self.widths: list[int] = []
        self.batches: list[int] = []

    def __call__(self, images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> F32Array:
        self.images.extend(images.copy())
        self.widths.extend(content_px.tolist())
        self.batches.append(len(images))
        turned = np.array(
            [image[:, :width].mean() / 255 for image, width in zip(images, content_px, strict=True)]
        )
        return np.stack([1 - turned, turned], axis=1).astype(np.float32)


@some
@given(shapes, st.integers(1, 16))
def test_preprocessing_is_the_references(sizes: Shapes, batch_size: int) -> None:
    lines, seen = lines_of(sizes), Recorder()
    found = classify.angles(lines, seen, ClsOptions(enabled=True, batch_size=batch_size))
    assert len(found) == len(lines) == len(seen.images)
    assert all(size <= batch_size for size in seen.batches)
    for line, image, width in zip(lines, seen.images, seen.widths, strict=True):
        height_px, width_px = line.shape[:2]
        # PaddleOCR: as wide as the line is at 48 px height, at most 192, the rest black after the
        # normalisation, which is what the width is for
        assert width == min(192, math.ceil(48 * (width_px / height_px)))
        assert image.shape == (48, 192, 3)
        np.testing.assert_array_equal(image[:, :width], cv2.resize(line, (width, 48)))
        assert not image[:, width:].any()


@some
@given(shapes, st.floats(0.5, 1.0))
def test_180_needs_the_threshold_and_no_batch_changes_it(sizes: Shapes, thresh: float) -> None:
    lines = lines_of(sizes)
    one_by_one = [
        classify.angles([line], Recorder(), ClsOptions(enabled=True, thresh=thresh))[0] for line in lines
    ]
    expected = []
    for line in lines:
        seen = Recorder()
        classify.angles([line], seen, ClsOptions(enabled=True))
        share = np.float32(seen.images[0][:, : seen.widths[0]].mean() / 255)
        expected.append(180 if share >= thresh else 0)
    assert one_by_one == expected
    for batch_size in (1, 4, 16):
        options = ClsOptions(enabled=True, thresh=thresh, batch_size=batch_size)
        assert classify.angles(lines, Recorder(), options) == one_by_one
        assert classify.angles(lines[::-1], Recorder(), options) == one_by_one[::-1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_lines(shape: tuple[int, int]) -> None:
    seen = Recorder()
    line = np.full((*shape, 3), 9, np.uint8)
    assert classify.angles([line], seen, ClsOptions(enabled=True)) == [0]
    assert 1 <= seen.widths[0] <= 192


@some
@given(st.integers(1, 30), st.integers(1, 30))
def test_upright_turns_by_half_a_circle(height: int, width: int) -> None:
    line = lines_of([(height, width)])[0]
    assert classify.upright(line, 0) is line
    turned = classify.upright(line, 180)
    assert turned.flags.c_contiguous
    for y in range(height):
        for x in range(width):
            assert (turned[height - 1 - y, width - 1 - x] == line[y, x]).all()
    np.testing.assert_array_equal(classify.upright(turned, 180), line)
