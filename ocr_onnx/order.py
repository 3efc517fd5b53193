"""Quads of one page -> the order to read them in. Pure geometry, no pixels."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ocr_onnx.data import F32Array
from ocr_onnx.options import Order

Index: TypeAlias = NDArray[np.intp]
F64Array: TypeAlias = NDArray[np.float64]

REFERENCE_ROW_PX = 10  # PaddleX: tops closer than this are one row, whatever the text's height
VERTICAL_RATIO = 1.5  # higher than this many widths: the text runs downwards
MAX_SKEW_DEGREES = 15.0  # a steeper "skew" is rotated text, not a crooked scan
ROW_OVERLAP = 0.5  # of the lower line's height: centres closer than this share a row
GUTTER_HEIGHTS = 1.0  # of the median line height: columns are at least this far apart
COLUMN_LINES = 3  # fewer lines are not a column of prose
COLUMN_FILL = 0.8  # of a column's width: the median line of prose fills it, the cells of a form do not
ROW_OFFSET = 0.25  # of the median line height: centres closer than this are level by intent...
ROW_SHARE = 0.7  # ...where that many of a part's boxes are, and by chance where fewer are
COLUMN_WIDTH_HEIGHTS = 5.0  # of the median line height: narrower stacks are amounts or labels, not prose
BAND_OVERLAP = 0.25  # of the median line height: the boxes of lines set close overlap by as much


def reading_order(quads_px: F32Array, order: Order) -> Index:
    """Return the permutation that puts quads (N, 4, 2) into reading order.

    "reference" is PaddleX's `SortQuadBoxes`: by top, then rows of 10 px from left to right.
    "reading" measures in line heights instead of pixels, takes out a skew of up to 15 degrees,
    reads columns of prose one after the other, and pages of vertical text from right to left.
    """
    if len(quads_px) < 2:
        return np.arange(len(quads_px), dtype=np.intp)
    if order == "reference":
        return _reference_order(quads_px)
    boxes = _upright_boxes(quads_px.astype(np.float64))
    return np.array(_read(boxes, np.arange(len(boxes), dtype=np.intp)), dtype=np.intp)


def _reference_order(quads_px: F32Array) -> Index:
    tops = quads_px[:, 0]
    ranked = sorted(range(len(tops)), key=lambda row: (tops[row, 1], tops[row, 0]))
    for i in range(len(ranked) - 1):
        for j in range(i, -1, -1):
            upper, lower = tops[ranked[j]], tops[ranked[j + 1]]
            if abs(lower[1] - upper[1]) >= REFERENCE_ROW_PX or lower[0] >= upper[0]:
                break
            ranked[j], ranked[j + 1] = ranked[j + 1], ranked[j]
    return np.array(ranked, dtype=np.intp)


def _upright_boxes(quads: F64Array) -> F64Array:
    """Return boxes (N, 4) as x0, y0, x1, y1 of the page turned straight.

    Where most text runs downwards the page is turned a quarter as well, so that its columns,
    read from the right, become rows read from the top.
    """
    edges = np.roll(quads, -1, axis=1) - quads
    # The detector labels corners by x first, so a high box that leans starts with a long side: let
    # the edge that is nearest to running right be the top.
    first = np.abs(np.arctan2(edges[..., 1], edges[..., 0])).argmin(axis=1)
    corners = (first[:, np.newaxis] + np.arange(4)) % 4
    quads = np.take_along_axis(quads, corners[..., np.newaxis], axis=1)
    top, right = quads[:, 1] - quads[:, 0], quads[:, 2] - quads[:, 1]
    widths, heights = np.linalg.norm(top, axis=1), np.linalg.norm(right, axis=1)
    vertical = heights >= VERTICAL_RATIO * widths
    areas = widths * heights
    if areas[vertical].sum() > areas.sum() / 2:
        # x' = y, y' = -x: down the page becomes along the row, right to left becomes down
        quads = np.stack([quads[..., 1], -quads[..., 0]], axis=-1)
        widths, heights, along, lines = (
            heights,
            widths,
            np.stack([right[:, 1], -right[:, 0]], axis=-1),
            vertical,
        )
    else:
        along, lines = top, ~vertical
    skew = _skew_radians(along[lines], widths[lines], heights[lines])
    turn = np.array([[np.cos(skew), -np.sin(skew)], [np.sin(skew), np.cos(skew)]])
    centres = quads.mean(axis=1) @ turn
    half = np.stack([widths, heights], axis=1) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def _skew_radians(along: F64Array, widths: F64Array, heights: F64Array) -> float:
    """Return the median direction of the lines, each weighted by its length; 0 without long lines."""
    long = widths >= 2 * heights
    if not long.any():
        return 0.0
    angles = np.arctan2(along[long, 1], along[long, 0])
    ranked = np.argsort(angles)
    weight = np.cumsum(widths[long][ranked])
    median = float(angles[ranked[np.searchsorted(weight, weight[-1] / 2)]])
    return median if abs(median) <= np.radians(MAX_SKEW_DEGREES) else 0.0


def _read(boxes: F64Array, members: Index) -> list[int]:
    """Order `members` of `boxes`: columns one by one, or blocks that may hold columns, or rows."""
    if len(members) < 2 * COLUMN_LINES:
        return _rows(boxes, members)
    parts = _columns(boxes, members) or _blocks(boxes, members)
    if len(parts) < 2:
        return _rows(boxes, members)
    return [row for part in parts for row in _read(boxes, part)]


def _columns(boxes: F64Array, members: Index) -> list[Index]:
    """Split at the gutters beside columns of prose; empty where there are none.

    What is no prose itself (a figure's labels) counts as a column unless it shares the prose's
    rows, as the amounts of a form do.
    """
    line_height = _line_height(boxes, members)
    parts = _split_at_gaps(boxes, members, axis=0, min_gap=GUTTER_HEIGHTS * line_height)
    prose = [boxes[part] for part in parts if _is_prose(boxes[part])]
    others = [boxes[part] for part in parts if not _is_prose(boxes[part])]
    if len(parts) < 2 or not prose:
        return []
    rows = np.concatenate(prose)
    return [] if any(_shares_rows(other, rows, line_height) for other in others) else parts


def _blocks(boxes: F64Array, members: Index) -> list[Index]:
    """Cut across the page where gutters end: below a header over both columns, above a footer.

    A block is the longest run of bands, from the top, that have a gutter in common.
    """
    line_height = _line_height(boxes, members)
    blocks: list[Index] = []
    for band in _split_at_gaps(boxes, members, axis=1, min_gap=-BAND_OVERLAP * line_height):
        joined = np.concatenate([*blocks[-1:], band])
        if blocks and len(_split_at_gaps(boxes, joined, axis=0, min_gap=GUTTER_HEIGHTS * line_height)) > 1:
            blocks[-1] = joined
        else:
            blocks.append(band)
    return blocks


def _line_height(boxes: F64Array, members: Index) -> float:
    return float(_median(boxes[members, 3] - boxes[members, 1]))


def _median(values: F64Array) -> F64Array:
    """Return the median of values (N, ...) along N, which is 1 or more.

    As `np.median`, but that loads `numpy.ma` first, which a short run of the program would wait for.
    """
    ranked = np.sort(values, axis=0)
    middle: F64Array = (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
    return middle


def _is_prose(boxes: F64Array) -> bool:
    """Tell whether lines stand below each other, are long, and mostly fill the width they share."""
    if len(boxes) < COLUMN_LINES:
        return False
    width, height = _median(boxes[:, 2:] - boxes[:, :2])
    shared = boxes[:, 2].max() - boxes[:, 0].min()
    return bool(width >= COLUMN_FILL * shared and width >= COLUMN_WIDTH_HEIGHTS * height)


def _shares_rows(boxes: F64Array, rows: F64Array, line_height: float) -> bool:
    """Tell whether most boxes stand at the height of one of the lines `rows`."""
    centres, lines = (boxes[:, 1] + boxes[:, 3]) / 2, (rows[:, 1] + rows[:, 3]) / 2
    offsets = np.abs(centres[:, np.newaxis] - lines).min(axis=1)
    return bool(np.mean(offsets < ROW_OFFSET * line_height) >= ROW_SHARE)


def _split_at_gaps(boxes: F64Array, members: Index, axis: int, min_gap: float) -> list[Index]:
    """Split where the boxes' extents along `axis` leave more than `min_gap` between them.

    A negative `min_gap` splits extents that overlap by less.
    """
    ranked = members[np.argsort(boxes[members, axis], kind="stable")]
    reach = np.maximum.accumulate(boxes[ranked, axis + 2])
    cuts = np.flatnonzero(boxes[ranked[1:], axis] - reach[:-1] > min_gap) + 1
    return list(np.split(ranked, cuts))


def _rows(boxes: F64Array, members: Index) -> list[int]:
    """Order from the top by rows and from the left within them.

    A box joins the row whose nearest member has its centre closer than ROW_OVERLAP of the lower
    of the two heights: neighbours decide, so a row may bend.
    """
    # Lists: every box is compared with those of many rows, one number at a time.
    own = boxes[members]
    x, y = ((own[:, :2] + own[:, 2:]) / 2).T.tolist()
    heights: list[float] = (own[:, 3] - own[:, 1]).tolist()
    left: list[float] = own[:, 0].tolist()
    rows: list[list[int]] = []
    for box in sorted(range(len(own)), key=y.__getitem__):
        reach = ROW_OVERLAP * heights[box]
        for row in reversed(rows):
            if y[box] - y[row[-1]] >= reach:
                continue  # too far below the row's lowest, which it got last
            near = min(row, key=lambda other: abs(x[other] - x[box]))
            if abs(y[near] - y[box]) < ROW_OVERLAP * min(heights[near], heights[box]):
                row.append(box)
                break
        else:
            rows.append([box])
    rows.sort(key=lambda row: float(np.mean([y[box] for box in row])))
    return [int(members[box]) for row in rows for box in sorted(row, key=left.__getitem__)]
