"""The crop against a plain inverse mapping, pixel by pixel."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ocr_onnx import crop
from ocr_onnx.data import F32Array, ImageBgr
from ocr_onnx.options import CropOptions

DEFAULTS = CropOptions()
some = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def smooth_page(seed: int, width: int = 120, height: int = 90) -> ImageBgr:
    """Draw coarse colour noise: any sampling that reads the right place gets nearly the same value."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 15 + 1, width // 15 + 1, 3), dtype=np.uint8)
    page = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    page.setflags(write=False)
    return page


def rectangle(x: float, y: float, width: float, height: float, degrees: float = 0.0) -> F32Array:
    """Return the corners of a rectangle, turned about its centre, clockwise from its own top left."""
    half = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners: F32Array = (half @ np.array([[c, s], [-s, c]]) + [x + width / 2, y + height / 2]).astype(
        np.float32
    )
    return corners


def plain_size(quad: F32Array) -> tuple[int, int]:
    a, b, c, d = quad.tolist()
    return (
        max(1, int(max(math.dist(a, b), math.dist(c, d)))),
        max(1, int(max(math.dist(a, d), math.dist(b, c)))),
    )


def plain_crop(page: ImageBgr, quad: F32Array) -> F32Array:
    """Sample a parallelogram's pixels linearly; beyond the page its rim goes on. Not turned."""
    width, height = plain_size(quad)
    a, b, _, d = quad.astype(np.float64)
    bottom, right = page.shape[0] - 1, page.shape[1] - 1
    out = np.empty((height, width, 3), np.float32)
    for v in range(height):
        for u in range(width):
            x, y = a + (b - a) * (u / width) + (d - a) * (v / height)
            x, y = min(max(x, 0), right), min(max(y, 0), bottom)
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, right), min(y0 + 1, bottom)
            upper = page[y0, x0] * (1 - (x - x0)) + page[y0, x1] * (x - x0)
            lower = page[y1, x0] * (1 - (x - x0)) + page[y1, x1] * (x - x0)
            out[v, u] = upper * (1 - (y - y0)) + lower * (y - y0)
    return out


@some
@given(
    seeds,
    st.floats(-20, 100),
    st.floats(-20, 80),
    st.floats(1, 60),
    st.floats(1, 30),
    st.floats(-44, 44),
)
def test_cut_samples_where_the_plain_mapping_does(
    seed: int, x: float, y: float, width: float, height: float, degrees: float
) -> None:
    page, quad = smooth_page(seed), rectangle(x, y, width, height, degrees)
    lengths = [math.dist(quad[k], quad[k - 1]) for k in range(4)]
    assume(all(abs(length - round(length)) > 1e-4 for length in lengths))  # either truncation is right
    found = crop.cut(page, quad[None], CropOptions(turn_ratio=1e9))[0]
    assert found.shape[1::-1] == plain_size(quad)
    assert found.dtype == np.uint8
    # cubic against linear on ramps that bend every 15 px
    assert np.abs(found - plain_crop(page, quad)).max() <= 24
    assert np.abs(found - plain_crop(page, quad)).mean() <= 3


@some
@given(seeds, st.integers(0, 50), st.integers(0, 40), st.integers(1, 60), st.integers(1, 40))
def test_an_upright_quad_is_a_plain_slice(seed: int, x: int, y: int, width: int, height: int) -> None:
    page = np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    found = crop.cut(page, rectangle(x, y, width, height)[None], CropOptions(turn_ratio=1e9))[0]
    np.testing.assert_array_equal(found, page[y : y + height, x : x + width])


@some
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1.0, 1.5, 2.0]))
def test_high_crops_are_turned_counter_clockwise(width: int, height: int, turn_ratio: float) -> None:
    page = smooth_page(3)
    found = crop.cut(page, rectangle(5, 5, width, height)[None], CropOptions(turn_ratio=turn_ratio))[0]
    plain = page[5 : 5 + height, 5 : 5 + width]
    if height >= turn_ratio * width:
        turned = np.empty((width, height, 3), np.uint8)
        for v in range(height):
            for u in range(width):
                turned[width - 1 - u, v] = plain[v, u]  # the top right corner becomes the top left
        plain = turned
    np.testing.assert_array_equal(found, plain)
    assert found.flags.c_contiguous


def reference_crop(page: ImageBgr, quad: F32Array, turn_ratio: float) -> ImageBgr:
    """Warp as PaddleOCR's `get_rotate_crop_image` does, whatever the quad."""
    a, b, c, d = quad
    width = max(1, int(max(np.linalg.norm(a - b), np.linalg.norm(c - d))))
    height = max(1, int(max(np.linalg.norm(a - d), np.linalg.norm(b - c))))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    line = cv2.warpPerspective(
        page,
        cv2.getPerspectiveTransform(quad, corners),
        (width, height),
        borderMode=cv2.BORDER_REPLICATE,
        flags=cv2.INTER_CUBIC,
    )
    return np.asarray(np.rot90(line) if height / width >= turn_ratio else line, np.uint8)


@settings(max_examples=300, deadline=None)
@given(
    seeds,
    st.tuples(st.integers(1, 4000), st.integers(1, 300)),
    st.tuples(st.floats(-0.1, 1), st.floats(-0.1, 1), st.floats(0.001, 1.2), st.floats(0.001, 1.2)),
    st.sampled_from([0.0, 0.0, 0.0, 0.5, 0.25]),
    st.booleans(),
    st.integers(0, 3),
)
def test_slices_are_what_warping_gives_to_the_bit(
    seed: int,
    sides: tuple[int, int],
    share: tuple[float, float, float, float],
    off_px: float,
    high: bool,
    first: int,
) -> None:
    """Whole pixels or not, on the page, at its rim or beyond it, with the corners in any turn."""
    page_height, page_width = sides if high else sides[::-1]
    page = np.random.default_rng(seed).integers(0, 256, (page_height, page_width, 3), dtype=np.uint8)
    left, top = round(share[0] * page_width), round(share[1] * page_height)
    width, height = max(1, round(share[2] * page_width)), max(1, round(share[3] * page_height))
    if share[2] <= 1:
        width = min(width, max(1, page_width - left))
    if share[3] <= 1:
        height = min(height, max(1, page_height - top))
    quad = np.roll(rectangle(left + off_px, top, width, height), first if seed % 4 == 0 else 0, axis=0)
    found = crop.cut(page, quad[None], DEFAULTS)[0]
    np.testing.assert_array_equal(found, reference_crop(page, quad, DEFAULTS.turn_ratio))
    assert found.flags.c_contiguous
    assert not np.shares_memory(found, page)


@pytest.mark.parametrize("corner", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (300, 1), (299, 1), (2, 100), (300, 100)])
def test_slices_at_the_pages_corners(corner: tuple[int, int], size: tuple[int, int]) -> None:
    page = np.random.default_rng(5).integers(0, 256, (100, 300, 3), dtype=np.uint8)
    left, top = corner[0] * (300 - size[0]), corner[1] * (100 - size[1])
    quad = rectangle(left, top, *size)
    found = crop.cut(page, quad[None], DEFAULTS)[0]
    np.testing.assert_array_equal(found, reference_crop(page, quad, DEFAULTS.turn_ratio))


def test_a_trapezium_is_pulled_straight() -> None:
    page = np.zeros((100, 200, 3), np.uint8)
    quad = np.array([[40, 20], [160, 30], [150, 70], [30, 60]], np.float32)
    cv2.fillPoly(page, [quad.astype(np.int32)], (255, 255, 255))
    line = crop.cut(page, quad[None], DEFAULTS)[0]
    assert line.shape == (41, 120, 3)
    assert line[2:-2, 2:-2].min() > 200


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (64, 64)])
@pytest.mark.parametrize(
    "quad",
    [
        [[0, 0]] * 4,
        [[5, 5], [15, 5], [15, 5], [5, 5]],
        [[0, 0], [0, 0], [0, 30], [0, 30]],
        [[0, 0], [10, 10], [10, 10], [0, 0]],
        [[0, 0], [10, 0], [0, 0], [10, 0]],
        [[-50, -50], [500, -50], [500, -20], [-50, -20]],
    ],
)
def test_no_quad_is_too_strange(quad: list[list[float]], shape: tuple[int, int]) -> None:
    page = np.full((*shape, 3), 77, np.uint8)
    line = crop.cut(page, np.array([quad], np.float32), DEFAULTS)[0]
    assert line.ndim == 3
    assert min(line.shape[:2]) >= 1
    assert line.flags.c_contiguous


def test_a_quad_as_long_as_a_very_high_page() -> None:
    shades = (np.arange(40_000) // 200).astype(np.uint8)
    page = np.broadcast_to(shades[:, None, None], (40_000, 8, 3)).copy()
    near_the_end, whole = rectangle(0, 39_980, 8, 10), rectangle(0, 0, 8, 40_000)
    short, long = crop.cut(page, np.array([near_the_end, whole]), DEFAULTS)
    np.testing.assert_array_equal(short, page[39_980:39_990])
    np.testing.assert_array_equal(long, np.rot90(page))


def test_cut_leaves_its_inputs_alone_and_keeps_the_order() -> None:
    page, quads = smooth_page(1), np.array([rectangle(10 * n, 5, 30, 4 + n) for n in range(5)])
    before = quads.copy()
    quads.setflags(write=False)
    lines = crop.cut(page, quads, DEFAULTS)
    assert [line.shape[0] for line in lines] == [4, 5, 6, 7, 8]
    np.testing.assert_array_equal(quads, before)
    assert crop.cut(page, np.empty((0, 4, 2), np.float32), DEFAULTS) == []


def test_points_become_plain_numbers() -> None:
    quad = rectangle(1, 2, 3, 4)
    assert crop.as_points(quad) == crop.as_quad(quad) == ((1, 2), (4, 2), (4, 6), (1, 6))
    assert {type(value) for point in crop.as_quad(quad) for value in point} == {float}
    with pytest.raises(ValueError, match="unpack"):
        crop.as_quad(quad[:3])


@some
@given(st.integers(20, 180), st.integers(20, 180), st.integers(6, 60), st.integers(6, 60), st.floats(-40, 40))
def test_rectangles_refit_what_rounding_bent(x: int, y: int, w: int, h: int, angle: float) -> None:
    exact = cv2.boxPoints(((float(x), float(y)), (float(w), float(h)), angle))
    by_x = sorted(exact.tolist())
    (a, d), (b, c) = (sorted(pair, key=lambda corner: corner[1]) for pair in (by_x[:2], by_x[2:]))
    rounded: F32Array = np.array([a, b, c, d], np.float32).round()
    before = rounded.copy()
    (fitted,) = crop.rectangles(rounded[None])
    np.testing.assert_array_equal(rounded, before)
    edges = fitted - np.roll(fitted, -1, axis=0)
    corners = (edges * np.roll(edges, -1, axis=0)).sum(axis=1)
    np.testing.assert_allclose(corners, 0, atol=0.05)  # right angles again
    # which corner is first is decided anew: near 45 degrees, rounding can change it
    assert min(np.abs(np.roll(fitted, turn, axis=0) - rounded).max() for turn in range(4)) < 3.0


def test_rectangles_of_nothing() -> None:
    assert crop.rectangles(np.empty((0, 4, 2), np.float32)).shape == (0, 4, 2)
