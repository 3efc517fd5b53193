"""Page -> the det network's input; its probability map -> text regions. Pure: inference is passed in.

The method is DB (Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
AAAI 2020); sizes, constants and rounding follow PaddleX's `DetResizeForTest` and `DBPostProcess`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias, cast

import cv2
import numpy as np
import pyclipper
from numpy.typing import NDArray

from ocr_onnx.data import Detections, F32Array, ImageBgr
from ocr_onnx.geometry import clockwise_corners, min_area_quad
from ocr_onnx.options import DetOptions

Infer: TypeAlias = Callable[[NDArray[np.uint8]], F32Array]
"""(N, h, w, 3) uint8 BGR, sides multiples of STRIDE_PX -> (N, h, w) float32 probabilities."""

STRIDE_PX = 32  # the network halves its input five times
SCREEN_RATIO = 16 / 9  # longer pages are strips: scrolled screens, receipts
MIN_SIDE_PX = 3  # shorter regions of the map are noise
OUTLINE_TOLERANCE = 0.002  # of an outline's length, for thinning its points

# ImageNet's mean and standard deviation. The reference applies them to BGR in this order.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# A channel has 256 values, so its normalisation is a table: exact, and faster than arithmetic.
_NORMALISED = [
    ((np.arange(256, dtype=np.float32) / 255.0 - m) / s).astype(np.float32)
    for m, s in zip(MEAN, STD, strict=True)
]


class DetInput(NamedTuple):
    """What the network gets for one page."""

    image: ImageBgr  # (h, w, 3); h and w are multiples of STRIDE_PX
    scale_xy: tuple[float, float]  # network px per page px
    bounded: bool  # whether max_pixels made it smaller than the side limit asks for


def preprocess(page: ImageBgr, options: DetOptions) -> DetInput:
    """Resize a page to the network's input size.

    `page` is (H, W, 3) uint8 BGR of any size. Both sides are rounded to the stride, so the two
    scales differ slightly: each axis maps back with its own.
    """
    height_px, width_px = page.shape[:2]
    return resized(page, first_scale(width_px, height_px, options), options)


def resized(page: ImageBgr, scale: float, options: DetOptions) -> DetInput:
    """Resize a page (H, W, 3) uint8 BGR to `scale` network px per page px, within `max_pixels`."""
    height_px, width_px = page.shape[:2]
    (w, h), bounded = input_size(width_px, height_px, scale, options.max_pixels)
    image = (
        page if (w, h) == (width_px, height_px) else cv2.resize(page, (w, h), interpolation=cv2.INTER_LINEAR)
    )
    return DetInput(cast("ImageBgr", image), (w / width_px, h / height_px), bounded)


def first_scale(width_px: int, height_px: int, options: DetOptions) -> float:
    """Return the scale, in network px per page px, at which a page of this size is searched (first)."""
    long, short = float(max(width_px, height_px)), min(width_px, height_px)
    if options.limit_type == "min":
        return max(1.0, options.limit_side_px / short)
    if options.limit_type == "auto":  # the text of a strip is as high as that of the screens it is made of
        long = min(long, short * SCREEN_RATIO)
    return min(1.0, options.limit_side_px / long)


def input_size(width_px: int, height_px: int, scale: float, max_pixels: int) -> tuple[tuple[int, int], bool]:
    """Return the network's (width, height) for a page, and whether `max_pixels` shrank it."""
    # int() before round(): the reference truncates first, and golden boxes depend on it
    w, h = (
        max(STRIDE_PX, round(int(side * scale) / STRIDE_PX) * STRIDE_PX) for side in (width_px, height_px)
    )
    if w * h <= max_pixels:
        return (w, h), False
    shrink = (max_pixels / (w * h)) ** 0.5
    short = max(STRIDE_PX, int(min(w, h) * shrink) // STRIDE_PX * STRIDE_PX)
    # a strip can't get thinner than the stride, so its longer side gives way instead
    long = min(int(max(w, h) * shrink), max_pixels // short)
    long = max(STRIDE_PX, long // STRIDE_PX * STRIDE_PX)
    return ((long, short) if w >= h else (short, long)), True


def normalise(images: NDArray[np.uint8]) -> F32Array:
    """(N, h, w, 3) uint8 BGR -> (N, 3, h, w) float32, for models that take floats."""
    n, h, w, _ = images.shape
    tensor = np.empty((n, 3, h, w), dtype=np.float32)
    for image, planes in zip(images, tensor, strict=True):
        for channel, table in enumerate(_NORMALISED):
            np.take(table, image[:, :, channel], out=planes[channel], mode="clip")
    return tensor


def postprocess(prob_map: F32Array, page_size_wh: tuple[int, int], options: DetOptions) -> Detections:
    """Turn a probability map into text regions in page pixels.

    `prob_map` is (h, w) float32 in 0..1 and covers the whole page. Regions come in the order of
    their contours, from the bottom of the page up; `order.py` sorts them.
    """
    mask = (prob_map > options.thresh).view(np.uint8)
    if options.dilate:
        mask = cast("NDArray[np.uint8]", cv2.dilate(mask, np.ones((2, 2), dtype=np.uint8)))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    find = _quads if options.box_type == "quad" else _polygons
    map_wh = np.array(prob_map.shape[::-1], dtype=np.float32)
    page_wh = np.array(page_size_wh, dtype=np.float32)

    def on_page(points: F32Array) -> F32Array:
        return np.clip(np.round(points / map_wh * page_wh), 0, page_wh)

    found = list(find(prob_map, contours[: options.max_candidates], options))
    scores = np.array([score for _, score in found], dtype=np.float32)
    unseen = max(0, len(contours) - options.max_candidates)
    if options.box_type == "quad":
        quads = np.array([quad for quad, _ in found], dtype=np.float32).reshape(-1, 4, 2)
        return Detections(on_page(quads), scores, unseen=unseen)
    outlines = tuple(on_page(outline) for outline, _ in found)
    quads = np.array([min_area_quad(outline)[0] for outline in outlines], dtype=np.float32).reshape(-1, 4, 2)
    return Detections(quads, scores, outlines, unseen)


def _quads(
    prob_map: F32Array, contours: "Sequence[cv2.typing.MatLike]", options: DetOptions
) -> Iterator[tuple[F32Array, float]]:
    """Yield each contour's unclipped quad (4, 2) in map pixels and its score."""
    for contour in contours:
        rectangle = cv2.minAreaRect(contour)
        if min(rectangle[1]) < MIN_SIDE_PX:
            continue
        quad = clockwise_corners(rectangle)
        inside = quad if options.score_mode == "fast" else contour.reshape(-1, 2)
        score = _mean_inside(prob_map, inside)
        if score < options.box_thresh:
            continue
        grown = _unclip(quad, options.unclip_ratio)
        if grown is None:
            continue
        rectangle = cv2.minAreaRect(grown)
        if min(rectangle[1]) >= MIN_SIDE_PX + 2:
            yield clockwise_corners(rectangle), score


def _polygons(
    prob_map: F32Array, contours: "Sequence[cv2.typing.MatLike]", options: DetOptions
) -> Iterator[tuple[F32Array, float]]:
    """Yield each contour's unclipped outline (K, 2) in map pixels and its score."""
    for contour in contours:
        outline = cv2.approxPolyDP(contour, OUTLINE_TOLERANCE * cv2.arcLength(contour, True), True).reshape(
            -1, 2
        )
        if len(outline) < 4:
            continue
        inside = outline if options.score_mode == "fast" else contour.reshape(-1, 2)
        score = _mean_inside(prob_map, inside)
        if score < options.box_thresh:
            continue
        grown = _unclip(outline.astype(np.float32), options.unclip_ratio)
        if grown is not None and min(cv2.minAreaRect(grown)[1]) >= MIN_SIDE_PX + 2:
            yield grown, score


def _mean_inside(prob_map: F32Array, outline: NDArray[np.generic]) -> float:
    """Return the mean probability inside an outline (K, 2), looking only at its bounding window."""
    height, width = prob_map.shape
    points = np.asarray(outline, dtype=np.float32)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    x0, x1 = (min(max(x, 0), width - 1) for x in (math.floor(left), math.ceil(right)))
    y0, y1 = (min(max(y, 0), height - 1) for y in (math.floor(top), math.ceil(bottom)))
    mask = np.zeros((y1 - y0 + 1, x1 - x0 + 1), dtype=np.uint8)
    # truncation, not rounding: the reference's cast
    cv2.fillPoly(mask, [(points - (x0, y0)).astype(np.int32)], 1)
    return cv2.mean(prob_map[y0 : y1 + 1, x0 : x1 + 1], mask)[0]


def _unclip(outline: F32Array, ratio: float) -> F32Array | None:
    """Grow an outline (K, 2) by area * ratio / perimeter, as the shrunk training masks ask for.

    None where nothing can grow (no area, Vatti clipping found no path); the largest path where
    several came out.
    """
    before = np.concatenate((outline[-1:], outline[:-1]))
    perimeter = float(np.linalg.norm(outline - before, axis=1).sum())
    area = abs(cv2.contourArea(outline))
    if area == 0.0 or perimeter == 0.0:
        return None
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(outline.tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    paths = offset.Execute(area * ratio / perimeter)
    if not paths:
        return None
    return np.array(max(paths, key=lambda path: abs(pyclipper.Area(path))), dtype=np.float32)
