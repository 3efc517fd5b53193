"""Page and quads -> upright line images. Pure."""

from collections.abc import Iterable
from typing import cast

import cv2
import numpy as np

from ocr_onnx.data import F32Array, ImageBgr, Point, Quad
from ocr_onnx.geometry import min_area_quad
from ocr_onnx.options import CropOptions


def rectangles(quads_px: F32Array) -> F32Array:
    """Fit a rectangle around each quad (N, 4, 2), whole pixels rounded towards zero.

    PaddleX's `get_minarea_rect_crop` does so before it cuts: detected quads are rectangles whose
    corners were rounded, and a pixel matters for small text.
    """
    fitted = [min_area_quad(quad)[0] for quad in quads_px.astype(np.int32)]
    return np.array(fitted, dtype=np.float32).reshape(-1, 4, 2)


def cut(page: ImageBgr, quads_px: F32Array, options: CropOptions) -> list[ImageBgr]:
    """Cut each quad (N, 4, 2) out of the page, as N images (h, w, 3) uint8 BGR of their own sizes.

    As PaddleOCR's `get_rotate_crop_image`: the quad is mapped to an upright rectangle. A crop at
    least `turn_ratio` times as high as wide holds text that runs downwards and is turned a quarter
    counter-clockwise. No side is shorter than 1 px.
    """
    quads = quads_px.astype(np.float32)
    sides = np.linalg.norm(quads - np.roll(quads, -1, axis=1), axis=2)  # (N, 4): top, right, bottom, left
    # truncated, as in the reference's get_rotate_crop_image
    sizes_wh = np.maximum(1, np.maximum(sides[:, :2], sides[:, 2:]).astype(int))
    return [
        _cut_one(page, quad, width, height, options.turn_ratio)
        for quad, (width, height) in zip(quads, sizes_wh.tolist(), strict=True)
    ]


def _cut_one(page: ImageBgr, quad: F32Array, width: int, height: int, turn_ratio: float) -> ImageBgr:
    line = _slice(page, quad, width, height)
    if line is None:
        line = _warp(page, quad, width, height)
    return np.ascontiguousarray(np.rot90(line)) if height / width >= turn_ratio else line


def _slice(page: ImageBgr, quad: F32Array, width: int, height: int) -> ImageBgr | None:
    """Copy an upright quad of whole pixels, which warping would do pixel by pixel; None for any other."""
    x, y = map(int, quad[0].tolist())
    within = 0 <= x <= page.shape[1] - width and 0 <= y <= page.shape[0] - height
    upright = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
    return page[y : y + height, x : x + width].copy() if within and quad.tolist() == upright else None


def _warp(page: ImageBgr, quad: F32Array, width: int, height: int) -> ImageBgr:
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    line = cv2.warpPerspective(
        page,
        cv2.getPerspectiveTransform(quad, corners),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cast("ImageBgr", line)


def as_points(outline_px: F32Array) -> tuple[Point, ...]:
    """Turn an outline (K, 2) into plain Python numbers."""
    return tuple((float(x), float(y)) for x, y in outline_px)


def as_quad(corners_px: Iterable[Iterable[float]]) -> Quad:
    """Turn four corners into plain Python numbers; ValueError for any other count."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = corners_px
    return ((float(ax), float(ay)), (float(bx), float(by)), (float(cx), float(cy)), (float(dx), float(dy)))
