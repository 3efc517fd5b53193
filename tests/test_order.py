"""Reading order: PaddleX's rule in plain loops, and the layouts that "reading" promises to follow."""

import math
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_onnx import order
from ocr_onnx.data import F32Array
from ocr_onnx.order import reading_order

Box = tuple[float, float, float, float]  # left, top, width, height
some = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**32 - 1)
skews = st.floats(-10, 10)


def quads_of(boxes: list[Box], degrees: float = 0.0) -> F32Array:
    """Turn a layout about its middle and label corners as the detector does: by x, then by y."""
    quads = np.array(
        [[[x, y], [x + w, y], [x + w, y + h], [x, y + h]] for x, y, w, h in boxes], np.float64
    ).reshape(-1, 4, 2)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = (quads - 500) @ np.array([[c, s], [-s, c]]) + 500
    labelled = []
    for quad in turned.tolist():
        by_x = sorted(quad)
        (a, d), (b, e) = (sorted(pair, key=lambda corner: corner[1]) for pair in (by_x[:2], by_x[2:]))
        labelled.append([a, b, e, d])
    return np.array(labelled, np.float32).reshape(-1, 4, 2)


def assert_reads_as_written(boxes: list[Box], degrees: float, seed: int) -> None:
    """The boxes are given in reading order; shuffle them and see it come back."""
    quads = quads_of(boxes, degrees)
    shuffled = np.random.default_rng(seed).permutation(len(boxes))
    found = shuffled[reading_order(quads[shuffled], "reading")]
    assert found.tolist() == list(range(len(boxes)))


def prose(x: float, y: float, lines: int, rng: np.random.Generator, width: float = 400) -> list[Box]:
    """Lines of 20 px every 32 px, filling their column but for the ends of paragraphs."""
    return [
        (x, y + 32 * n, width * (0.5 if n % 5 == 4 else rng.uniform(0.93, 1.0)), 20.0) for n in range(lines)
    ]


# --- the reference's rule ------------------------------------------------------------------------


def plain_reference(tops: list[tuple[float, float]]) -> list[int]:
    ranked = sorted(range(len(tops)), key=lambda row: (tops[row][1], tops[row][0]))
    for last in range(1, len(ranked)):
        place = last
        while place > 0:
            (left_x, left_y), (x, y) = tops[ranked[place - 1]], tops[ranked[place]]
            if abs(y - left_y) < 10 and x < left_x:
                ranked[place - 1 : place + 1] = ranked[place], ranked[place - 1]
                place -= 1
            else:
                break
    return ranked


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=25))
def test_reference_order_agrees_with_plain_loops(tops: list[tuple[int, int]]) -> None:
    quads = quads_of([(x, y, 30, 8) for x, y in tops])
    quads.setflags(write=False)
    assert reading_order(quads, "reference").tolist() == plain_reference(list(tops))


def test_reference_rows_are_ten_pixels() -> None:
    assert reading_order(quads_of([(50, 0, 9, 9), (0, 9, 9, 9)]), "reference").tolist() == [1, 0]
    assert reading_order(quads_of([(50, 0, 9, 9), (0, 10, 9, 9)]), "reference").tolist() == [0, 1]


# --- always a permutation ------------------------------------------------------------------------


@some
@given(
    st.lists(st.tuples(*[st.integers(0, 300)] * 4), max_size=40), st.sampled_from(["reading", "reference"])
)
def test_order_is_a_permutation_of_any_boxes(
    boxes: list[tuple[int, int, int, int]], order: Literal["reading", "reference"]
) -> None:
    quads = quads_of([(x, y, w, h) for x, y, w, h in boxes])
    before = quads.copy()
    quads.setflags(write=False)
    found = reading_order(quads, order)
    assert found.dtype == np.intp
    assert sorted(found.tolist()) == list(range(len(boxes)))
    np.testing.assert_array_equal(quads, before)


@some
@given(seeds, st.integers(2, 40), st.sampled_from(["reading", "reference"]))
def test_order_does_not_depend_on_the_order_of_the_input(
    seed: int, count: int, order: Literal["reading", "reference"]
) -> None:
    rng = np.random.default_rng(seed)
    boxes = rng.uniform([0, 0, 10, 8], [900, 900, 300, 40], (count, 4))
    quads = quads_of([(x, y, w, h) for x, y, w, h in boxes.tolist()])
    shuffled = rng.permutation(count)
    assert shuffled[reading_order(quads[shuffled], order)].tolist() == reading_order(quads, order).tolist()


def test_a_very_long_list_and_table() -> None:
    assert_reads_as_written([(50.0, 40.0 * row, 300.0, 20.0) for row in range(1500)], 0, 2)
    cells = [(50.0 + 200 * column, 40.0 * row, 90.0, 20.0) for row in range(800) for column in range(2)]
    assert_reads_as_written(cells, 0, 3)


def test_many_boxes_and_none() -> None:
    rng = np.random.default_rng(5)
    boxes = rng.uniform([0, 0, 5, 5], [3000, 3000, 200, 40], (500, 4))
    assert len(reading_order(quads_of([(x, y, w, h) for x, y, w, h in boxes.tolist()]), "reading")) == 500
    same = np.repeat(quads_of([(1, 2, 30, 4)]), 500, axis=0)
    assert sorted(reading_order(same, "reading").tolist()) == list(range(500))
    assert reading_order(np.empty((0, 4, 2), np.float32), "reading").tolist() == []


# --- layouts -------------------------------------------------------------------------------------


@some
@given(seeds, skews, st.integers(1, 25))
def test_one_column(seed: int, degrees: float, lines: int) -> None:
    assert_reads_as_written(prose(100, 50, lines, np.random.default_rng(seed)), degrees, seed)


@some
@given(seeds, skews, st.integers(4, 18), st.integers(4, 18), st.integers(-15, 15))
def test_two_columns(seed: int, degrees: float, left: int, right: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = prose(60, 100, left, rng) + prose(520, 100 + shift, right, rng)
    assert_reads_as_written(boxes, degrees, seed)


@some
@given(seeds, skews, st.integers(5, 18), st.integers(5, 18), st.integers(16, 60), st.booleans())
def test_two_columns_under_a_header_and_over_a_footer(
    seed: int, degrees: float, left: int, right: int, gap: int, footer: bool
) -> None:
    rng = np.random.default_rng(seed)
    below = 100 + 32 * max(left, right) + gap
    boxes = [(100.0, 100.0 - gap - 30, 780.0, 30.0), *prose(60, 100, left, rng), *prose(520, 100, right, rng)]
    boxes += [(100.0, float(below), 780.0, 20.0)] * footer
    assert_reads_as_written(boxes, degrees, seed)


@some
@given(seeds, skews)
def test_columns_with_a_paragraph_gap_at_the_same_height(seed: int, degrees: float) -> None:
    rng = np.random.default_rng(seed)
    columns = [prose(x, 100, 7, rng) + prose(x, 380, 7, rng) for x in (60, 520)]
    assert_reads_as_written([(100, 40, 780, 30), *columns[0], *columns[1]], degrees, seed)


@some
@given(seeds, skews, st.integers(3, 12), st.integers(2, 5))
def test_a_form_is_read_by_rows(seed: int, degrees: float, rows: int, columns: int) -> None:
    """Cells hold short texts of varied width, as tables and forms do."""
    rng = np.random.default_rng(seed)
    boxes: list[Box] = [
        (40 + 200 * column, 60 + 45 * row, float(rng.uniform(30, 180) if column else rng.uniform(40, 90)), 22)
        for row in range(rows)
        for column in range(columns)
    ]
    assert_reads_as_written(boxes, degrees, seed)


@some
@given(seeds, skews, st.integers(3, 14), st.integers(2, 6))
def test_a_table_of_numbers_is_read_by_rows(seed: int, degrees: float, rows: int, columns: int) -> None:
    """Every cell fills its column, yet the columns are no prose."""
    boxes: list[Box] = [
        (60 + 150 * column, 80 + 36 * row, 90, 22) for row in range(rows) for column in range(columns)
    ]
    assert_reads_as_written(boxes, degrees, seed)


@some
@given(seeds, skews, st.integers(12, 20))
def test_columns_of_lines_set_so_close_that_their_boxes_overlap(
    seed: int, degrees: float, lines: int
) -> None:
    boxes: list[Box] = [(100, 64, 780, 36)]
    boxes += [(x, 96.0 + 32 * n, 400.0, 36.0) for x in (60, 520) for n in range(lines)]
    assert_reads_as_written(boxes, degrees, seed)


@some
@given(seeds, skews, st.integers(1, 6))
def test_mixed_heights_share_a_row(seed: int, degrees: float, rows: int) -> None:
    """Big and small print on one baseline or one middle, as a label beside a value."""
    rng = np.random.default_rng(seed)
    boxes: list[Box] = []
    for row in range(rows):
        for x, height in ((60, 40), (330, 24), (600, 30)):
            y = 100 + 70 * row + (40 - height) * float(rng.uniform(0.4, 0.6))
            boxes.append((x, y, 120, height))
    assert_reads_as_written(boxes, degrees, seed)


@some
@given(seeds, skews, st.integers(2, 12))
def test_vertical_text_is_read_from_the_right(seed: int, degrees: float, columns: int) -> None:
    rng = np.random.default_rng(seed)
    boxes: list[Box] = [
        (900 - 45 * column, 100, 28, float(rng.uniform(500, 600))) for column in range(columns)
    ]
    assert_reads_as_written(boxes, degrees, seed)


@some
@given(seeds, skews, st.integers(1, 8))
def test_vertical_columns_in_two_pieces(seed: int, degrees: float, columns: int) -> None:
    boxes: list[Box] = [
        piece
        for column in range(columns)
        for piece in ((900.0 - 45 * column, 100.0, 28.0, 180.0), (900.0 - 45 * column, 300.0, 28.0, 120.0))
    ]
    assert_reads_as_written(boxes, degrees, seed)


def test_a_steep_line_among_level_ones_does_not_turn_the_page() -> None:
    level = prose(100, 100, 8, np.random.default_rng(0))
    steep = cv2.boxPoints(((700.0, 200.0), (150.0, 20.0), 40.0))
    quads = np.concatenate([quads_of(level), steep[None]]).astype(np.float32)
    found = [row for row in reading_order(quads, "reading").tolist() if row < 8]
    assert found == list(range(8))


@pytest.mark.parametrize("degrees", [0.0, 3.0, -3.0])
def test_a_long_row_stays_a_row_where_the_pixel_rule_breaks_it(degrees: float) -> None:
    boxes: list[Box] = [(60.0 + 110 * n, 100.0 + 40 * row, 100, 24) for row in range(3) for n in range(8)]
    assert_reads_as_written(boxes, degrees, 1)
    by_pixels = reading_order(quads_of(boxes, degrees), "reference").tolist()
    assert (by_pixels == list(range(24))) == (degrees == 0)


@given(seeds, skews)
@some
def test_prose_is_read_before_the_labels_of_a_figure_beside_it(seed: int, degrees: float) -> None:
    left = prose(100, 100, 12, np.random.default_rng(seed))
    labels = [(600.0, 105 + 57.0 * n, 40.0, 18.0) for n in range(7)]
    assert_reads_as_written([*left, *labels], degrees, seed)


@given(seeds, skews)
@some
def test_amounts_are_read_with_the_long_labels_of_their_rows(seed: int, degrees: float) -> None:
    labels = prose(100, 100, 12, np.random.default_rng(seed))
    rows = [(label, (600.0, label[1] + 2, 40.0, 18.0)) for label in labels]
    assert_reads_as_written([box for row in rows for box in row], degrees, seed)


# --- short cuts ----------------------------------------------------------------------------------


def plain_rows(boxes: order.F64Array, members: list[int]) -> list[int]:
    """Let every box ask every row, the lowest first, for its nearest member."""
    centres, heights = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 3] - boxes[:, 1]
    rows: list[list[int]] = []
    for box in sorted(members, key=lambda member: centres[member, 1]):
        for row in reversed(rows):
            near = min(row, key=lambda other: abs(centres[other, 0] - centres[box, 0]))
            if abs(centres[near, 1] - centres[box, 1]) < 0.5 * min(heights[near], heights[box]):
                row.append(box)
                break
        else:
            rows.append([box])
    rows.sort(key=lambda row: np.mean(centres[row, 1]))
    return [box for row in rows for box in sorted(row, key=lambda box: boxes[box, 0])]


@some
@given(seeds, st.integers(1, 60), st.integers(1, 40))
def test_rows_are_those_of_plain_loops(seed: int, count: int, spread: int) -> None:
    """Whole coordinates on little room, so that many boxes are equally near or high."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 10 * spread, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 40, (count, 2))], axis=1).astype(np.float64)
    members = rng.permutation(count)[: rng.integers(1, count + 1)]
    assert order._rows(boxes, members) == plain_rows(boxes, members.tolist())


@some
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=9))
def test_the_median_is_numpys(values: list[tuple[float, float]]) -> None:
    array = np.array(values)
    np.testing.assert_array_equal(order._median(array), np.median(array, axis=0))
    assert order._median(array[:, 0]) == np.median(array[:, 0])
