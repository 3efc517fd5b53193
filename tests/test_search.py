from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ocr_onnx import detect, search
from ocr_onnx.data import Detections, F32Array, ImageBgr
from ocr_onnx.detect import DetInput
from ocr_onnx.options import DetOptions
from ocr_onnx.search import TILE_OVERLAP_PX, Found

Infer = Callable[[NDArray[np.uint8]], F32Array]


def dark(images: NDArray[np.uint8]) -> F32Array:
    """A network whose answer for a pixel depends on that pixel alone."""
    prob_map: F32Array = (images.mean(axis=3) < 128).astype(np.float32)
    return prob_map


def remembering(sizes: list[tuple[int, int]]) -> Infer:
    def infer(images: NDArray[np.uint8]) -> F32Array:
        sizes.append((images.shape[2], images.shape[1]))
        return dark(images)

    return infer


def page_of_bars(width: int, height: int, bar_px: int) -> ImageBgr:
    """A white page full of black bars, `bar_px` high and eight times as wide."""
    page = np.full((height, width, 3), 255, np.uint8)
    for top in range(2 * bar_px, height - 3 * bar_px, 4 * bar_px):
        for left in range(2 * bar_px, width - 10 * bar_px, 12 * bar_px):
            page[top : top + bar_px, left : left + 8 * bar_px] = 0
    return page


def found_with(heights_px: list[float], scale: float, *, bounded: bool = False) -> Found:
    """Regions so many network px high, found at `scale`."""
    boxes = [[(0, 0), (900, 0), (900, height / scale), (0, height / scale)] for height in heights_px]
    quads = np.array(boxes, np.float32).reshape(-1, 4, 2)
    seen = DetInput(np.zeros((32, 32, 3), np.uint8), (scale, scale), bounded)
    return Found(Detections(quads, np.ones(len(quads), np.float32)), seen)


# --- the first look ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "limit_type", "limit", "scale"),
    [
        ((2480, 3508), "auto", 1600, 1600 / 3508),
        ((1280, 720), "auto", 1600, 1.0),
        ((1280, 720), "auto", 640, 0.5),
        ((1080, 20_000), "auto", 1600, 1600 / 1920),  # a strip is as fine as a screen of its width
        ((20_000, 900), "auto", 1600, 1.0),
        ((1080, 20_000), "max", 1600, 0.08),
        ((400, 300), "max", 960, 1.0),
        ((400, 300), "min", 736, 736 / 300),
        ((4000, 3000), "min", 736, 1.0),
    ],
)
def test_the_first_scale(
    size: tuple[int, int], limit_type: Literal["auto", "max", "min"], limit: int, scale: float
) -> None:
    options = DetOptions(limit_type=limit_type, limit_side_px=limit)
    assert detect.first_scale(*size, options) == pytest.approx(scale)


# --- the second look -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heights", "scale", "size", "wanted"),
    [
        ([12.0] * 4, 0.25, (8000, 6000), 0.5),  # 12 px become 24
        ([4.0] * 4, 0.25, (8000, 6000), 1.0),  # but a large page is not enlarged
        ([8.0] * 4, 1.0, (800, 360), 2.0),  # a small one is, to the side limit of 1600
        ([8.0] * 4, 1.0, (100, 100), 2.5),  # and not beyond 2.5 times
        ([12.0] * 4, 1.0, (720, 500), 2.0),
        ([20.0] * 4, 0.25, (8000, 6000), None),  # high enough
        ([12.0, 40.0, 40.0, 40.0, 40.0], 0.25, (8000, 6000), None),  # so are most
        ([12.0] * 4, 1.0, (2000, 1000), None),  # there is no finer scale
        ([12.0] * 4, 1.0, (1400, 1000), None),  # nor one that is worth it
        ([], 1.0, (800, 360), 2.0),  # nothing seen on a small page
        ([], 0.25, (8000, 6000), None),  # nothing seen on a large one
    ],
)
def test_the_finer_scale(
    heights: list[float], scale: float, size: tuple[int, int], wanted: float | None
) -> None:
    found = search.finer_scale(found_with(heights, scale), 1600 / max(size))
    assert found == (None if wanted is None else pytest.approx(wanted))


def test_where_max_pixels_bounds_there_is_no_finer_scale() -> None:
    assert search.finer_scale(found_with([12.0], 0.25, bounded=True), 0.2) is None


def test_small_text_on_a_large_page_is_searched_again() -> None:
    page = page_of_bars(3000, 2000, bar_px=10)
    sizes: list[tuple[int, int]] = []
    options = DetOptions(limit_side_px=960, tile_pixels=8_000_000, unclip_ratio=1.0)
    found = search.find(page, remembering(sizes), options)
    assert sizes[0] == (960, 640)
    assert len(sizes) == 2
    assert found.seen.image.shape[1::-1] == sizes[1]
    assert sizes[1][0] > 1.5 * sizes[0][0]
    assert found.seen.scale_xy == (sizes[1][0] / 3000, sizes[1][1] / 2000)
    once = search.find(page, dark, DetOptions(limit_type="max", limit_side_px=sizes[1][0], unclip_ratio=1.0))
    assert len(found.detections.quads_px) == len(once.detections.quads_px) > 500


@pytest.mark.parametrize("limit_type", ["auto", "max", "min"])
def test_large_text_is_searched_once(limit_type: Literal["auto", "max", "min"]) -> None:
    sizes: list[tuple[int, int]] = []
    options = DetOptions(limit_type=limit_type, limit_side_px=640)
    search.find(page_of_bars(1200, 800, bar_px=40), remembering(sizes), options)
    assert len(sizes) == 1 or limit_type == "min"
    sizes.clear()
    if limit_type != "auto":  # what was asked for, whatever is seen
        search.find(page_of_bars(900, 700, bar_px=4), remembering(sizes), options)
        assert len(sizes) == 1


# --- tiles ---------------------------------------------------------------------------------------

multiples = st.integers(1, 300).map(lambda count: 32 * count)


@settings(max_examples=300, deadline=None)
@given(multiples, st.integers(1, 4000))
def test_spans_cover_an_axis(length: int, longest: int) -> None:
    spans = list(search.spans(length, longest))
    assert len({span.covered.stop - span.covered.start for span in spans}) == 1
    assert (spans[0].covered.start, spans[-1].covered.stop) == (0, length)
    assert (spans[0].counted.start, spans[-1].counted.stop) == (0, length)
    for span in spans:
        assert span.covered.start % 32 == span.covered.stop % 32 == 0
        assert span.covered.stop - span.covered.start <= max(longest, 2 * TILE_OVERLAP_PX)
        assert span.covered.start <= span.counted.start < span.counted.stop <= span.covered.stop
        assert span.inside.start == span.counted.start - span.covered.start
    for before, after in pairwise(spans):
        assert before.counted.stop == after.counted.start
        assert before.covered.stop - after.covered.start >= TILE_OVERLAP_PX
        assert before.covered.stop - before.counted.stop >= TILE_OVERLAP_PX // 2
        assert after.counted.start - after.covered.start >= TILE_OVERLAP_PX // 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(256 * 256, 10**6))
def test_joined_maps_are_the_map_of_the_whole(seed: int, rows: int, columns: int, tile_pixels: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (32 * rows, 32 * columns, 3), dtype=np.uint8)
    sizes: list[tuple[int, int]] = []
    joined = search.probability_map(image, remembering(sizes), tile_pixels)
    np.testing.assert_array_equal(joined, dark(image[np.newaxis])[0])
    assert all(width * height <= tile_pixels for width, height in sizes)
    assert len(set(sizes)) == 1
    assert (len(sizes) == 1) == (image.shape[0] * image.shape[1] <= tile_pixels)


def test_a_line_on_a_seam_is_one_line() -> None:
    page = np.full((640, 2400, 3), 255, np.uint8)
    page[300:340, 100:2300] = 0
    cv2.line(page, (200, 50), (2200, 250), (0, 0, 0), 20)
    options = DetOptions(limit_side_px=2400, max_pixels=4_000_000)
    sizes: list[tuple[int, int]] = []
    whole = search.find(page, dark, DetOptions(limit_side_px=2400, tile_pixels=4_000_000))
    tiled = search.find(page, remembering(sizes), options)
    assert len(sizes) > 1
    assert len(tiled.detections.quads_px) == 2
    np.testing.assert_array_equal(tiled.detections.quads_px, whole.detections.quads_px)
