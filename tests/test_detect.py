"""The det stage against a plain second implementation of DB's pre- and post-processing."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import cv2
import numpy as np
import pyclipper
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely.geometry import Polygon

from ocr_onnx import detect
from ocr_onnx.data import F32Array, ImageBgr
from ocr_onnx.options import DetOptions

DEFAULTS = DetOptions()
some = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 3000)


def frozen(array: F32Array) -> F32Array:
    """Make writing to an array an error."""
    array.setflags(write=False)
    return array


def random_page(seed: int, width: int, height: int) -> ImageBgr:
    page = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    page.setflags(write=False)
    return page


def blobs(seed: int, width: int = 160, height: int = 128) -> F32Array:
    """Draw turned bars and ellipses of varied certainty over noise, as a det network puts out."""
    rng = np.random.default_rng(seed)
    canvas = rng.uniform(0, 0.21, (height, width)).astype(np.float32)
    for _ in range(rng.integers(1, 9)):
        centre = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        size = (float(rng.uniform(1, width / 2)), float(rng.uniform(1, 24)))
        angle, prob = float(rng.uniform(0, 180)), float(rng.uniform(0.31, 1))
        if rng.random() < 0.7:
            cv2.fillPoly(canvas, [cv2.boxPoints((centre, size, angle)).astype(np.int32)], prob)
        else:
            cv2.ellipse(canvas, (centre, size, angle), prob, -1)
    canvas *= rng.uniform(0.9, 1.0, canvas.shape).astype(np.float32)
    return frozen(canvas)


# --- the second implementation -------------------------------------------------------------------


def plain_input_size(width: int, height: int, limit_type: str, limit: int) -> tuple[int, int]:
    ratio = 1.0
    if limit_type == "max" and max(width, height) > limit:
        ratio = limit / max(width, height)
    if limit_type == "min" and min(width, height) < limit:
        ratio = limit / min(width, height)
    in_strides = [round(int(side * ratio) / 32) for side in (width, height)]
    return max(in_strides[0], 1) * 32, max(in_strides[1], 1) * 32


def plain_resize(page: ImageBgr, width: int, height: int) -> F32Array:
    """Interpolate linearly between pixel centres, in floats."""
    source = page.astype(np.float64)
    for axis, size in ((0, height), (1, width)):
        old = source.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        share = np.expand_dims(place - low, [1 - axis, 2])
        high = np.minimum(low + 1, old - 1)
        source = source.take(low, axis) * (1 - share) + source.take(high, axis) * share
    return source.astype(np.float32)


def plain_rectangle(points: cv2.typing.MatLike) -> tuple[list[list[float]], float]:
    rectangle = cv2.minAreaRect(points)
    corners = sorted(cv2.boxPoints(rectangle).tolist(), key=lambda corner: corner[0])
    left = sorted(corners[:2], key=lambda corner: corner[1])
    right = sorted(corners[2:], key=lambda corner: corner[1])
    return [left[0], right[0], right[1], left[1]], min(rectangle[1])


def plain_score(prob_map: F32Array, points: Sequence[Sequence[float]]) -> float:
    height, width = prob_map.shape
    x0 = min(max(math.floor(min(x for x, _ in points)), 0), width - 1)
    y0 = min(max(math.floor(min(y for _, y in points)), 0), height - 1)
    x1 = min(max(math.ceil(max(x for x, _ in points)), 0), width - 1)
    y1 = min(max(math.ceil(max(y for _, y in points)), 0), height - 1)
    inside = np.zeros(prob_map.shape, np.uint8)
    cv2.fillPoly(inside, [np.array([[int(x - x0) + x0, int(y - y0) + y0] for x, y in points], np.int32)], 1)
    inside[:y0] = inside[y1 + 1 :] = 0
    inside[:, :x0] = inside[:, x1 + 1 :] = 0
    return float((prob_map * inside).sum(dtype=np.float64) / inside.sum())


def plain_distance(points: Sequence[Sequence[float]], ratio: float) -> float:
    doubled_area = perimeter = 0.0
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        doubled_area += ax * by - bx * ay
        perimeter += math.hypot(bx - ax, by - ay)
    return abs(doubled_area) / 2 * ratio / perimeter


def plain_grow(points: Sequence[Sequence[float]], ratio: float) -> list[list[list[int]]]:
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(points, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    grown: list[list[list[int]]] = offset.Execute(plain_distance(points, ratio))
    return grown


def plain_regions(
    prob_map: F32Array, page_wh: tuple[int, int], options: DetOptions
) -> list[tuple[list[list[float]], float]]:
    """Return (outline in page pixels, score) of every region, contour by contour."""
    height, width = prob_map.shape
    mask = np.where(prob_map > options.thresh, 1, 0).astype(np.uint8)
    if options.dilate:
        spread = np.pad(mask, ((1, 0), (1, 0)))
        mask = np.maximum.reduce([spread[1:, 1:], spread[:-1, 1:], spread[1:, :-1], spread[:-1, :-1]])
    found = []
    contours = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    for contour in contours[: options.max_candidates]:
        every_point = contour[:, 0].tolist()
        if options.box_type == "quad":
            outline, short = plain_rectangle(contour)
            if short < 3:
                continue
        else:
            tolerance = 0.002 * cv2.arcLength(contour, True)
            outline = cv2.approxPolyDP(contour, tolerance, True)[:, 0].tolist()
            if len(outline) < 4:
                continue
        score = plain_score(prob_map, outline if options.score_mode == "fast" else every_point)
        assume(abs(score - options.box_thresh) > 1e-5)
        if score < options.box_thresh:
            continue
        grown = plain_grow(outline, options.unclip_ratio)
        if len(grown) != 1:  # the reference skips it; what comes out here has its own test
            assume(not grown)
            continue
        rectangle, short = plain_rectangle(np.array(grown[0], np.float32))
        if short < 5:
            continue
        region = rectangle if options.box_type == "quad" else grown[0]
        on_page = [
            [min(max(round(x / width * page_wh[0]), 0), page_wh[0]) for x, _ in region],
            [min(max(round(y / height * page_wh[1]), 0), page_wh[1]) for _, y in region],
        ]
        found.append(([[float(x), float(y)] for x, y in zip(*on_page, strict=True)], score))
    return found


# --- before the network --------------------------------------------------------------------------


def sized(width: int, height: int, options: DetOptions) -> tuple[tuple[int, int], bool]:
    scale = detect.first_scale(width, height, options)
    return detect.input_size(width, height, scale, options.max_pixels)


@settings(max_examples=150, deadline=None)
@given(sides, sides, st.sampled_from(["max", "min"]), st.integers(32, 2000))
def test_input_size_is_the_references(
    width: int, height: int, limit_type: Literal["max", "min"], limit: int
) -> None:
    options = DetOptions(limit_type=limit_type, limit_side_px=limit, max_pixels=256_000_000)
    size = plain_input_size(width, height, limit_type, limit)
    assume(size[0] * size[1] <= options.max_pixels)
    assert sized(width, height, options) == (size, False)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40_000), st.integers(1, 40_000), st.integers(32, 2000), st.integers(1024, 4_000_000))
@example(width=2641, height=2641, limit=32, max_pixels=1024)
def test_input_never_exceeds_max_pixels(width: int, height: int, limit: int, max_pixels: int) -> None:
    options = DetOptions(limit_type="min", limit_side_px=limit, max_pixels=max_pixels)
    (w, h), bounded = sized(width, height, options)
    wanted = plain_input_size(width, height, "min", limit)
    assert w * h <= max_pixels
    assert w % 32 == h % 32 == 0
    assert min(w, h) >= 32
    assert bounded == (wanted[0] * wanted[1] > max_pixels) == ((w, h) != wanted)
    assert (w >= h) == (wanted[0] >= wanted[1]) or w == h


def test_max_pixels_costs_no_more_than_the_bound_asks() -> None:
    options = DetOptions(limit_type="min", limit_side_px=736, max_pixels=1_000_000)
    (w, h), bounded = sized(4000, 2000, options)
    assert bounded
    assert w * h > 0.9 * options.max_pixels
    assert w / h == pytest.approx(2, rel=0.05)


@some
@given(seeds, st.integers(1, 150), st.integers(1, 150), st.sampled_from([64, 96, 160]))
def test_preprocess_resizes_linearly(seed: int, width: int, height: int, limit: int) -> None:
    page = random_page(seed, width, height)
    found = detect.preprocess(page, DetOptions(limit_type="max", limit_side_px=limit))
    w, h = plain_input_size(width, height, "max", limit)
    assert found.image.shape == (h, w, 3)
    assert found.image.dtype == np.uint8
    assert found.scale_xy == (w / width, h / height)
    assert np.abs(found.image - plain_resize(page, w, h)).max() <= 1.01  # the resize counts in 1/2048


@pytest.mark.parametrize("limit_type", ["max", "min"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 20_000), (20_000, 1), (31, 33)])
def test_preprocess_takes_extreme_pages(width: int, height: int, limit_type: Literal["max", "min"]) -> None:
    options = DetOptions(limit_type=limit_type, limit_side_px=736, max_pixels=100_000)
    page = np.full((height, width, 3), 200, np.uint8)
    image, scale_xy, _ = detect.preprocess(page, options)
    assert image.shape[0] * image.shape[1] <= 100_000
    assert (image == 200).all()
    assert scale_xy == (image.shape[1] / width, image.shape[0] / height)


@some
@given(seeds, st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))
def test_normalise_is_the_references(seed: int, n: int, width: int, height: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    images.setflags(write=False)
    tensor = detect.normalise(images)
    assert tensor.shape == (n, 3, height, width)
    assert tensor.dtype == np.float32
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        plain = (images[..., channel] / 255 - mean) / std
        np.testing.assert_allclose(tensor[:, channel], plain, atol=1e-6)


# --- after the network ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.builds(
        DetOptions,
        thresh=st.sampled_from([0.3, 0.2, 0.5]),
        box_thresh=st.sampled_from([0.6, 0.3, 0.8]),
        unclip_ratio=st.sampled_from([1.5, 0.5, 2.5]),
        score_mode=st.sampled_from(["fast", "slow"]),
        box_type=st.sampled_from(["quad", "polygon"]),
        dilate=st.booleans(),
    ),
)
def test_postprocess_agrees_with_plain_loops(
    seed: int, page_wh: tuple[int, int], options: DetOptions
) -> None:
    prob_map = blobs(seed)
    found = detect.postprocess(prob_map, page_wh, options)
    plain = plain_regions(prob_map, page_wh, options)
    outlines = found.outlines_px if options.box_type == "polygon" else tuple(found.quads_px)
    assert len(found) == len(outlines) == len(plain)
    for outline, score, (plain_outline, plain_mean) in zip(outlines, found.scores, plain, strict=True):
        # a coordinate that falls on a half may round either way
        np.testing.assert_allclose(outline, plain_outline, atol=1.0)
        assert score == pytest.approx(plain_mean, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.floats(30, 150), st.floats(8, 24), st.floats(-40, 40), st.floats(0.5, 3.0), st.floats(0.62, 1.0))
def test_a_bar_grows_by_area_times_ratio_over_perimeter(
    length: float, thickness: float, angle: float, ratio: float, prob: float
) -> None:
    drawn = ((150.0, 140.0), (length, thickness), angle)
    corners = cv2.boxPoints(drawn)
    prob_map = np.zeros((280, 300), np.float32)
    cv2.fillPoly(prob_map, [np.round(corners).astype(np.int32)], prob)
    found = detect.postprocess(
        frozen(prob_map), (600, 840), replace(DEFAULTS, unclip_ratio=ratio, box_thresh=0.3)
    )
    assert len(found) == 1
    assert 0.75 * prob < found.scores[0] <= prob + 1e-6  # a turned bar's rectangle has a rim that is not bar
    # what was drawn, not what was asked for: drawing rounds the corners, and growth multiplies that
    drawn_px = np.argwhere(prob_map > 0)[:, ::-1].astype(np.float32)
    bar = cv2.boxPoints(cv2.minAreaRect(drawn_px))
    grown = Polygon(bar).buffer(plain_distance(bar.tolist(), ratio)).minimum_rotated_rectangle
    quad = Polygon(found.quads_px[0] / [2, 3])
    assert quad.hausdorff_distance(grown) < 2.5


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_polygons_hold_their_quads_and_follow_curves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prob_map = np.zeros((200, 200), np.float32)
    axes = (int(rng.integers(50, 70)), int(rng.integers(50, 70)))
    cv2.ellipse(prob_map, (100, 110), axes, 0, 180, 360, 0.9, int(rng.integers(8, 14)))
    options = replace(DEFAULTS, box_type="polygon", box_thresh=0.3)
    found = detect.postprocess(frozen(prob_map), (200, 200), options)
    assert len(found) == 1
    outline, quad = Polygon(found.outlines_px[0]), Polygon(found.quads_px[0])
    assert quad.buffer(0.5).contains(outline)
    assert outline.area < 0.8 * quad.area  # the arch's inside is no text
    assert len(found.outlines_px[0]) > 8


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from(["quad", "polygon"]), st.tuples(st.integers(1, 900), st.integers(1, 900)))
def test_quads_are_clockwise_from_the_top_left_and_on_the_page(
    seed: int, box_type: Literal["quad", "polygon"], page_wh: tuple[int, int]
) -> None:
    options = replace(DEFAULTS, box_type=box_type, box_thresh=0.3)
    found = detect.postprocess(blobs(seed), page_wh, options)
    assert found.quads_px.shape == (len(found.scores), 4, 2)
    assert found.quads_px.dtype == found.scores.dtype == np.float32
    assert ((found.scores >= 0.3) & (found.scores <= 1)).all()
    for points in (*found.outlines_px, *(found.quads_px if box_type == "quad" else ())):
        assert ((points >= 0) & (points <= page_wh)).all()
    for a, b, c, d in found.quads_px:
        turns = [np.cross([*(q - p), 0], [*(r - q), 0])[2] for p, q, r in ((a, b, c), (b, c, d), (c, d, a))]
        assert min(turns) >= -1e-3
        assert max(a[0], d[0]) <= min(b[0], c[0]) + 1e-3
        assert a[1] <= d[1]
        assert b[1] <= c[1]


@pytest.mark.parametrize("box_type", ["quad", "polygon"])
@pytest.mark.parametrize("score_mode", ["fast", "slow"])
@pytest.mark.parametrize("shape", [(32, 32), (32, 1024), (64, 96)])
@pytest.mark.parametrize("fill", [0.0, 1.0, "noise", "salt", "checkers", "lines"])
def test_no_map_is_too_strange(
    fill: float | str,
    shape: tuple[int, int],
    score_mode: Literal["fast", "slow"],
    box_type: Literal["quad", "polygon"],
) -> None:
    rng = np.random.default_rng(7)
    rows, columns = np.indices(shape)
    maps: dict[float | str, NDArray[Any]] = {
        0.0: np.zeros(shape),
        1.0: np.ones(shape),
        "noise": rng.random(shape),
        "salt": rng.random(shape) > 0.9,
        "checkers": (rows + columns) % 2,
        "lines": rows % 4 == 0,
    }
    prob_map = frozen(maps[fill].astype(np.float32))
    options = replace(
        DEFAULTS, box_type=box_type, score_mode=score_mode, box_thresh=0.0, dilate=fill == "salt"
    )
    for page_wh in ((1, 1), (1, 20_000), (50, 40)):
        found = detect.postprocess(prob_map, page_wh, options)
        assert np.isfinite(found.quads_px).all()
        assert np.isfinite(found.scores).all()
        assert len(found.outlines_px) == (len(found) if box_type == "polygon" else 0)
    if fill in (0.0, 1.0):
        assert len(found) == fill


def test_a_full_map_is_the_whole_page() -> None:
    found = detect.postprocess(frozen(np.ones((64, 96), np.float32)), (300, 200), DEFAULTS)
    assert found.quads_px.tolist() == [[[0, 0], [300, 0], [300, 200], [0, 200]]]
    assert found.scores.tolist() == [1]


def test_specks_and_hairlines_are_noise() -> None:
    prob_map = np.zeros((96, 96), np.float32)
    prob_map[10, 10] = 1.0  # a point
    prob_map[20, 10:80] = 1.0  # a line of one pixel
    prob_map[30:33, 10:80] = 1.0  # a line whose contour is 2 px high
    for box_type in ("quad", "polygon"):
        options = replace(DEFAULTS, box_type=box_type, unclip_ratio=0.1)
        assert len(detect.postprocess(prob_map, (96, 96), options)) == 0


def test_thresholds_are_exclusive_below_and_inclusive_above() -> None:
    prob_map = np.zeros((64, 96), np.float32)
    prob_map[20:40, 20:80] = 0.5
    at = replace(DEFAULTS, thresh=0.5, box_thresh=0.5)
    assert len(detect.postprocess(prob_map, (96, 64), at)) == 0  # a pixel must exceed thresh
    assert len(detect.postprocess(prob_map, (96, 64), replace(at, thresh=0.4))) == 1  # a region may equal it


def test_max_candidates_bounds_the_contours_looked_at() -> None:
    prob_map = np.zeros((256, 256), np.float32)
    for y in range(8, 248, 24):
        prob_map[y : y + 8, 20:200] = 0.9
    every = detect.postprocess(prob_map, (256, 256), DEFAULTS)
    few = detect.postprocess(prob_map, (256, 256), replace(DEFAULTS, max_candidates=4))
    assert len(every) == 10
    np.testing.assert_array_equal(few.quads_px, every.quads_px[:4])


def test_dilation_closes_one_pixel_gaps() -> None:
    prob_map = np.zeros((64, 96), np.float32)
    prob_map[20:40, 10:40] = prob_map[20:40, 41:80] = 0.95
    assert len(detect.postprocess(prob_map, (96, 64), DEFAULTS)) == 2
    assert len(detect.postprocess(prob_map, (96, 64), replace(DEFAULTS, dilate=True))) == 1


def test_slow_score_leaves_the_rectangles_corners_out() -> None:
    prob_map = np.zeros((128, 128), np.float32)
    cv2.ellipse(prob_map, (64, 64), (50, 20), 0, 0, 360, 0.9, -1)
    fast = detect.postprocess(prob_map, (128, 128), DEFAULTS)
    slow = detect.postprocess(prob_map, (128, 128), replace(DEFAULTS, score_mode="slow"))
    assert slow.scores[0] == pytest.approx(0.9, abs=1e-5)
    assert fast.scores[0] == pytest.approx(0.9 * math.pi / 4, abs=0.03)


def test_a_region_that_unclip_would_shrink_to_nothing_is_left_out() -> None:
    prob_map = np.zeros((64, 96), np.float32)
    prob_map[20:24, 20:80] = 0.9  # 3 px high as a contour: too low for the final bound of 5 px
    assert len(detect.postprocess(prob_map, (96, 64), replace(DEFAULTS, unclip_ratio=0.0))) == 0
    assert len(detect.postprocess(prob_map, (96, 64), DEFAULTS)) == 1
