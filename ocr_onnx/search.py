"""Page -> text regions: at which scale, in which tiles, whether to look again. Pure: inference is passed in.

The detector finds text best where it is some 20 px high, and misses what is much smaller. How high
the text of a page is shows only once some of it was found: hence the second look of "auto".
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ocr_onnx import detect
from ocr_onnx.data import Detections, F32Array, ImageBgr
from ocr_onnx.detect import STRIDE_PX, DetInput, Infer
from ocr_onnx.options import DetOptions

# Heights of regions, in pixels of the network's input: where a quarter of them is below
# SMALL_TEXT_PX, the page is searched once more, at the scale that brings that quarter to GOOD_TEXT_PX.
SMALL_TEXT_PX = 16
GOOD_TEXT_PX = 24
SMALL_SHARE = 0.25
WORTHWHILE = 1.2  # at less than so many times the scale a second look shows the same
MAX_ENLARGEMENT = 2.5  # adds no detail, but the detector needs the pixels; as far as it paid on ICDAR 2015
TILE_OVERLAP_PX = 64  # a tile sees half of it beyond the line where its neighbour takes over


class Found(NamedTuple):
    """The regions of a page, and what the network got to find them in."""

    detections: Detections
    seen: DetInput


class Span(NamedTuple):
    """A stretch of one axis: what a tile covers, and the part of it that counts."""

    covered: slice
    counted: slice  # on the axis

    @property
    def inside(self) -> slice:
        """`counted`, from the start of the tile."""
        return slice(self.counted.start - self.covered.start, self.counted.stop - self.covered.start)


def find(page: ImageBgr, infer: Infer, options: DetOptions) -> Found:
    """Find the regions of a page (H, W, 3) uint8 BGR; they come in the order of `detect.postprocess`.

    With "auto", a page whose text turns out to be small is searched once more at a finer scale, and
    what is found then counts.
    """
    found = _find_in(detect.preprocess(page, options), page, infer, options)
    if options.limit_type != "auto":
        return found
    scale = finer_scale(found, options.limit_side_px / max(page.shape[:2]))
    return found if scale is None else _find_in(detect.resized(page, scale, options), page, infer, options)


def _find_in(seen: DetInput, page: ImageBgr, infer: Infer, options: DetOptions) -> Found:
    prob_map = probability_map(seen.image, infer, options.tile_pixels)
    return Found(detect.postprocess(prob_map, (page.shape[1], page.shape[0]), options), seen)


def finer_scale(found: Found, limit_scale: float) -> float | None:
    """Return the scale at which a page should be searched once more; None where its text is high enough.

    A page is searched at its size at most, a small one at `limit_scale`, which makes it as large as
    the side limit. A small page without any text found may have text that is too small; a large one
    that was searched at less than its size is empty more often than not, and a second look is dear.
    """
    quads: F32Array = found.detections.quads_px * np.array(found.seen.scale_xy, dtype=np.float32)
    seen = max(found.seen.scale_xy)
    if found.seen.bounded or (len(quads) == 0 and seen < 1):
        return None
    sides = np.linalg.norm(quads - np.roll(quads, -1, axis=1), axis=2)
    heights = np.sort(sides.min(axis=1))
    small_px = max(1.0, float(heights[int(SMALL_SHARE * len(heights))])) if len(heights) else 1.0
    if small_px >= SMALL_TEXT_PX:
        return None
    finest = max(1.0, min(MAX_ENLARGEMENT, limit_scale))
    scale = min(seen * GOOD_TEXT_PX / small_px, finest)
    return scale if scale >= WORTHWHILE * seen else None


def probability_map(image: ImageBgr, infer: Infer, tile_pixels: int) -> F32Array:
    """Return the map (h, w) of an image (h, w, 3) uint8, sides multiples of STRIDE_PX.

    An image of more than `tile_pixels` goes through the network in tiles of one size that overlap.
    Their maps are joined along the middle of the overlaps before regions are looked for, so a line
    on a seam is one line.
    """
    height, width = image.shape[:2]
    if height * width <= tile_pixels:
        whole: F32Array = infer(image[np.newaxis])[0]
        return whole
    short = min(height, width, math.isqrt(tile_pixels))
    joined = np.empty((height, width), dtype=np.float32)
    for rows in spans(height, short if height <= width else tile_pixels // short):
        for columns in spans(width, short if width < height else tile_pixels // short):
            tile = np.ascontiguousarray(image[rows.covered, columns.covered])
            joined[rows.counted, columns.counted] = infer(tile[np.newaxis])[0][rows.inside, columns.inside]
    return joined


def spans(length: int, longest: int) -> Iterator[Span]:
    """Cut an axis of `length` into equally long, overlapping spans of at most `longest`.

    Both and the spans are multiples of STRIDE_PX, so a tile's pixels lie on the whole image's grid.
    """
    longest = max(longest // STRIDE_PX * STRIDE_PX, 2 * TILE_OVERLAP_PX)
    count = max(1, math.ceil((length - TILE_OVERLAP_PX) / (longest - TILE_OVERLAP_PX)))
    span = math.ceil((length + (count - 1) * TILE_OVERLAP_PX) / count / STRIDE_PX) * STRIDE_PX
    starts = [
        (length - span) * number // max(1, count - 1) // STRIDE_PX * STRIDE_PX for number in range(count)
    ]
    seams = [0, *((start + before + span) // 2 for before, start in pairwise(starts)), length]
    for start, (first, last) in zip(starts, pairwise(seams), strict=True):
        yield Span(slice(start, start + span), slice(first, last))
