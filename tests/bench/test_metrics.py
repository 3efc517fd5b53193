"""The protocol against cases worked by hand, counting of unit cells, and a plain re-implementation."""

import itertools
import random

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from ocr_onnx_bench.metrics import (
    EXACT,
    MARKS,
    NORMALISED,
    OFFICIAL,
    Counts,
    Matching,
    Outline,
    TextRule,
    TextScore,
    edit_distance,
    match,
    score_end_to_end,
    score_texts,
    similarity,
)

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float32)


def matched(truths: list[Outline], ignored: list[bool], found: list[Outline]) -> tuple[int, int, int]:
    counts = match(truths, ignored, found).counts
    return counts.matched, counts.truths, counts.found


# --- one region against one, worked by hand ---


def test_nothing_against_nothing() -> None:
    assert match([], [], []) == Matching((), 0, 0)


def test_a_region_matches_itself() -> None:
    assert match([rectangle(0, 0, 10, 10)], [False], [rectangle(0, 0, 10, 10)]).pairs == ((0, 0),)


@pytest.mark.parametrize(
    ("right", "pairs"),
    [
        (20, ()),  # 100 shared of 200: exactly 0.5 is not above it
        (19, ((0, 0),)),  # 100 of 190
        (5, ()),  # 50 shared of 100
        (6, ((0, 0),)),  # 60 of 100
    ],
)
def test_iou_has_to_be_above_half(right: int, pairs: tuple[tuple[int, int], ...]) -> None:
    assert match([rectangle(0, 0, 10, 10)], [False], [rectangle(0, 0, right, 10)]).pairs == pairs


def test_regions_that_touch_share_nothing() -> None:
    assert matched([rectangle(0, 0, 10, 10)], [False], [rectangle(10, 0, 20, 10)]) == (0, 1, 1)


def test_the_way_round_an_outline_does_not_matter() -> None:
    clockwise = rectangle(0, 0, 10, 10)
    assert matched([clockwise], [False], [clockwise[::-1]]) == (1, 1, 1)


def test_a_turned_square() -> None:
    # The diamond |x| + |y| <= 10 has area 200 and lies in the square of side 20, area 400: IoU
    # exactly 0.5. Of the square of side 18 (area 324) the diamond leaves 4 corners uncovered, each
    # a triangle with legs 8: 324 - 4 * 32 = 196 shared, IoU 196 / (200 + 324 - 196) = 0.598.
    diamond = np.array([[0, -10], [10, 0], [0, 10], [-10, 0]], dtype=np.float32)
    assert matched([rectangle(-10, -10, 10, 10)], [False], [diamond]) == (0, 1, 1)
    assert matched([rectangle(-9, -9, 9, 9)], [False], [diamond]) == (1, 1, 1)


# --- ignored regions ---


@pytest.mark.parametrize(
    ("left", "found"),
    [
        (5, 1),  # 50 of its own 100 inside: exactly half is not more than half, it counts
        (4, 0),  # 60 of 100: left out
    ],
)
def test_more_than_half_inside_an_ignored_region_is_left_out(left: int, found: int) -> None:
    assert matched([rectangle(0, 0, 10, 10)], [True], [rectangle(left, 0, left + 10, 10)]) == (0, 0, found)


def test_the_share_is_of_the_found_region_not_of_the_ignored_one() -> None:
    # a small detection deep inside a huge ignored region: IoU 1 / 100, but all of it is inside
    assert matched([rectangle(0, 0, 100, 100)], [True], [rectangle(0, 0, 10, 10)]) == (0, 0, 0)
    # a huge detection over a small ignored region: covers all of it, but only 1 % of itself
    assert matched([rectangle(0, 0, 10, 10)], [True], [rectangle(0, 0, 100, 100)]) == (0, 0, 1)


def test_one_ignored_region_has_to_hold_more_than_half_alone() -> None:
    # 40 % in each of two ignored regions: 80 % together, yet it counts
    ignored = [rectangle(0, 0, 4, 10), rectangle(6, 0, 10, 10)]
    assert matched(ignored, [True, True], [rectangle(0, 0, 10, 10)]) == (0, 0, 1)


def test_several_detections_of_one_ignored_region_are_all_left_out() -> None:
    found = [rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 9), rectangle(0, 0, 5, 5)]
    assert matched([rectangle(0, 0, 10, 10)], [True], found) == (0, 0, 0)


def test_a_detection_that_is_left_out_matches_nothing_else() -> None:
    # It equals the true region, but an ignored one covers 60 % of it: the truth stays unmatched.
    truths = [rectangle(0, 0, 10, 10), rectangle(0, 0, 6, 10)]
    assert matched(truths, [False, True], [rectangle(0, 0, 10, 10)]) == (0, 1, 0)


# --- one to one ---


def test_two_detections_of_one_truth_are_one_match_and_one_false_alarm() -> None:
    found = [rectangle(0, 0, 10, 9), rectangle(0, 0, 10, 10)]
    # the first in order is taken, not the better
    assert match([rectangle(0, 0, 10, 10)], [False], found) == Matching(((0, 0),), 1, 2)


def test_one_detection_of_two_truths_matches_the_first_in_order() -> None:
    truths = [rectangle(0, 0, 10, 8), rectangle(0, 0, 10, 10)]
    assert match(truths, [False, False], [rectangle(0, 0, 10, 9)]) == Matching(((0, 0),), 2, 1)


def test_pairing_is_greedy_in_the_order_of_the_truths() -> None:
    # Truth 0 fits both detections and takes the first; truth 1 fits only that one and goes empty.
    # The best assignment would have matched both: the official script does not look for it.
    truths = [rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 16)]
    found = [rectangle(0, 0, 10, 12), rectangle(0, 0, 10, 6)]
    assert match(truths, [False, False], found).pairs == ((0, 0),)
    assert match(truths[::-1], [False, False], found).pairs == ((0, 0), (1, 1))


def test_a_line_found_in_one_piece_over_two_words_matches_neither() -> None:
    words = [rectangle(0, 0, 10, 10), rectangle(12, 0, 22, 10)]
    assert matched(words, [False, False], [rectangle(0, 0, 22, 10)]) == (0, 2, 1)


# --- degenerate outlines ---


def test_an_outline_without_area_overlaps_nothing() -> None:
    line = np.array([[0, 0], [10, 10], [20, 20], [5, 5]], dtype=np.float32)
    assert matched([line], [False], [line]) == (0, 1, 1)
    assert matched([rectangle(0, 0, 20, 20)], [True], [line]) == (0, 0, 1)


def test_an_outline_that_crosses_itself_covers_both_lobes() -> None:
    # Two triangles with a common tip at (5, 5), left and right, each of area 25.
    bow_tie = np.array([[0, 0], [10, 10], [10, 0], [0, 10]], dtype=np.float32)
    assert matched([bow_tie], [False], [bow_tie]) == (1, 1, 1)
    # both lobes, 50, of the square's 100: exactly half, no match
    assert matched([rectangle(0, 0, 10, 10)], [False], [bow_tie]) == (0, 1, 1)
    # all of the left lobe and 6.25 of the right one lie left of x = 7.5: 31.25 of 50
    assert matched([rectangle(0, 0, 7.5, 10)], [True], [bow_tie]) == (0, 0, 0)


def test_outlines_with_many_corners() -> None:
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * 10).astype(np.float32)
    assert matched([circle], [False], [rectangle(-9, -9, 9, 9)]) == (1, 1, 1)


# --- totals ---


def test_the_official_script_rule_by_rule() -> None:
    """One page, worked by hand, in which every rule of task 1's script decides something.

    Regions are 10 x 10, as (left, top).
    """

    def at(left: float, top: float = 0.0) -> Outline:
        return rectangle(left, top, left + 10, top + 10)

    truths = [
        at(0),  # 0: found twice: the first one counts
        at(100),  # 1: "###"
        at(200),  # 2: found with exactly half of the union
        at(300),  # 3: shares a detection with 4, and comes first
        at(302),  # 4: so this one goes empty
        at(400),  # 5: its detection lies inside an ignored region
        rectangle(398, 0, 408, 10),  # 6: "###", over 80 % of that detection
        at(500),  # 7: not found at all
    ]
    ignored = [False, True, False, False, False, False, True, False]
    found = [
        at(1),  # 0: IoU 9/11 with truth 0
        at(0),  # 1: IoU 1 with truth 0, but too late
        at(104),  # 2: 60 % in an ignored region: left out
        at(105),  # 3: exactly 50 % in it: counts, a false alarm
        rectangle(200, 0, 220, 10),  # 4: IoU exactly 0.5 with truth 2: a false alarm
        at(301),  # 5: IoU 9/11 with truths 3 and 4
        at(400),  # 6: equal to truth 5, yet left out
        at(600),  # 7: on nothing
    ]
    ours = match(truths, ignored, found)
    assert ours == Matching(((0, 0), (3, 5)), truths=6, found=6)
    assert ours.counts.precision == ours.counts.recall == 2 / 6
    assert ours.counts.hmean == pytest.approx(1 / 3)
    # task 4 compares texts after that: a wrong one frees nothing, the second detection stays out
    read = ["EXOT", "EXIT", "", "", "", "OPEN", "", ""]
    texts = ["EXIT", "###", "", "OPEN", "OPEN", "", "###", ""]
    assert score_end_to_end(ours, texts, read) == Counts(1, 6, 6)


def test_a_page_without_regions_that_count_adds_what_was_found_to_the_totals() -> None:
    # The script calls such a page's own recall 1 (and its precision 1 if nothing was found), but sums
    # counts over the set: only the false alarms reach its totals, and so they do here.
    assert matched([rectangle(0, 0, 10, 10)], [True], []) == (0, 0, 0)
    assert matched([rectangle(0, 0, 10, 10)], [True], [rectangle(50, 0, 60, 10)]) == (0, 0, 1)
    assert matched([], [], [rectangle(50, 0, 60, 10)]) == (0, 0, 1)


def test_ratios() -> None:
    counts = Counts(matched=3, truths=4, found=6)
    assert counts.precision == 0.5
    assert counts.recall == 0.75
    assert counts.hmean == pytest.approx(2 * 0.5 * 0.75 / (0.5 + 0.75))


@pytest.mark.parametrize("counts", [Counts(0, 0, 0), Counts(0, 5, 0), Counts(0, 0, 5), Counts(0, 5, 5)])
def test_ratios_without_matches_are_zero(counts: Counts) -> None:
    assert (counts.precision, counts.recall, counts.hmean) == (0.0, 0.0, 0.0)


def test_pages_add_up_before_ratios_are_taken() -> None:
    assert Counts(1, 1, 1) + Counts(0, 3, 1) == Counts(1, 4, 2)


# --- against other implementations ---


def cells(box: Rectangle) -> set[tuple[int, int]]:
    left, top, right, bottom = box
    return set(itertools.product(range(left, right), range(top, bottom)))


def match_cells(
    truths: list[Rectangle], ignored: list[bool], found: list[Rectangle]
) -> tuple[list[tuple[int, int]], int]:
    """The protocol on sets of unit cells: no geometry, no rounding."""
    counted = [
        row
        for row, box in enumerate(found)
        if not any(
            skip and 2 * len(cells(box) & cells(truth)) > len(cells(box))
            for truth, skip in zip(truths, ignored, strict=True)
        )
    ]
    pairs: list[tuple[int, int]] = []
    for truth_row, truth in enumerate(truths):
        for row in counted:
            shared = len(cells(truth) & cells(found[row]))
            union = len(cells(truth) | cells(found[row]))
            free = row not in [pair[1] for pair in pairs]
            if not ignored[truth_row] and free and 2 * shared > union:
                pairs.append((truth_row, row))
                break
    return pairs, len(counted)


def random_rectangle(dice: random.Random) -> Rectangle:
    left, top = dice.randrange(8), dice.randrange(8)
    return left, top, left + dice.randint(1, 6), top + dice.randint(1, 6)


def moved(box: Rectangle, dice: random.Random) -> Rectangle:
    left, top, right, bottom = box
    dx, dy = dice.choice((0, 0, 1)), dice.choice((0, 0, 1))
    return left + dx, top + dy, right + dx, bottom + dice.choice((dy, dy + 1))


@pytest.mark.parametrize("seed", range(8))
def test_rectangles_agree_with_counting_cells(seed: int) -> None:
    dice = random.Random(seed)
    some_pairs = 0
    for _ in range(250):
        truths = [random_rectangle(dice) for _ in range(dice.randrange(6))]
        ignored = [dice.random() < 0.3 for _ in truths]
        found = [moved(box, dice) for box in truths if dice.random() < 0.6]
        found += [random_rectangle(dice) for _ in range(dice.randrange(4))]
        dice.shuffle(found)
        ours = match([rectangle(*box) for box in truths], ignored, [rectangle(*box) for box in found])
        pairs, counted = match_cells(truths, ignored, found)
        assert (list(ours.pairs), ours.found) == (pairs, counted)
        some_pairs += len(pairs)
    assert some_pairs > 50  # the cases are worth running


def enclosed(quads: list[Outline]) -> list[shapely.MultiPolygon]:
    """What each quad encloses, cut at its own crossings: none, one or several simple polygons."""
    if not quads:
        return []
    rings = shapely.linestrings(np.stack([quad[[0, 1, 2, 3, 0]] for quad in quads]))
    faces = np.asarray(shapely.polygonize(np.asarray(shapely.node(rings))[:, np.newaxis]))
    return [shapely.MultiPolygon(shapely.get_parts(face).tolist()) for face in faces.tolist()]


def brute_force(
    truths: list[Outline], ignored: list[bool], found: list[Outline]
) -> tuple[list[tuple[int, int]], int]:
    """The protocol as its text says it, every region against every other: no index and no code of ours."""
    shapes, candidates = enclosed(truths), enclosed(found)
    area = shapely.area(candidates)
    rows = np.array(shapes, dtype=object)[:, np.newaxis]
    shared = shapely.area(shapely.intersection(rows, np.array(candidates, dtype=object)))
    union = shapely.area(rows) + area - shared
    skipped = {
        row
        for row in range(len(found))
        for truth, skip in enumerate(ignored)
        if skip and area[row] > 0 and shared[truth, row] / area[row] > 0.5
    }
    pairs: list[tuple[int, int]] = []
    for truth, skip in enumerate(ignored):
        for row in range(len(found)):
            if skip or row in skipped or row in [pair[1] for pair in pairs]:
                continue
            if union[truth, row] > 0 and shared[truth, row] / union[truth, row] > 0.5:
                pairs.append((truth, row))
                break
    return pairs, len(found) - len(skipped)


def area_by_strips(outline: Outline, other: Outline) -> float:
    """The area that two outlines share, without any geometry library.

    Between two neighbouring heights at which a corner or a crossing lies, no edge begins, ends or
    crosses another. So what a strip shares is as wide, on average, as on its middle line.
    """
    edges = [
        (float(x0), float(y0), float(x1), float(y1))
        for corners in (outline, other)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    ]
    heights = {edge[1] for edge in edges}
    for (ax, ay, bx, by), (cx, cy, dx, dy) in itertools.combinations(edges, 2):
        slant = (bx - ax) * (dy - cy) - (by - ay) * (dx - cx)
        if slant:
            along = ((cx - ax) * (dy - cy) - (cy - ay) * (dx - cx)) / slant
            heights.add(ay + along * (by - ay))
    total = 0.0
    for low, high in itertools.pairwise(sorted(heights)):
        middle = (low + high) / 2
        total += (high - low) * shared_width(
            crossings(edges[: len(outline)], middle), crossings(edges[len(outline) :], middle)
        )
    return total


def crossings(edges: list[tuple[float, float, float, float]], y: float) -> list[float]:
    """Where a ray along `y` enters and leaves, in turn."""
    return sorted(x0 + (y - y0) / (y1 - y0) * (x1 - x0) for x0, y0, x1, y1 in edges if (y0 < y) != (y1 < y))


def shared_width(one: list[float], other: list[float]) -> float:
    return sum(
        max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
        for a in zip(one[::2], one[1::2], strict=True)
        for b in zip(other[::2], other[1::2], strict=True)
    )


def random_quad(dice: random.Random) -> Outline:
    """A rectangle, turned by up to 40 degrees, its corners moved a little: convex."""
    x, y, width, height = dice.uniform(0, 30), dice.uniform(0, 30), dice.uniform(8, 30), dice.uniform(8, 20)
    turn = dice.uniform(-0.7, 0.7)
    corners = rectangle(0, 0, width, height) + [[dice.uniform(-1, 1), dice.uniform(-1, 1)] for _ in range(4)]
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(corners @ rotation + (x, y), dtype=np.float32)


def random_outline(dice: random.Random) -> Outline:
    """A quad of one of the kinds that labels and detectors come up with, most of them ordinary."""
    kind = dice.randrange(10)
    quad = random_quad(dice) if kind < 5 else rectangle(*random_rectangle(dice)) * 4
    if kind == 7:
        quad = quad[[0, 2, 1, 3]]  # crosses itself
    elif kind == 8:
        quad[2] = quad.mean(axis=0) - dice.random()  # dented
    elif kind == 9:
        flat = dice.choice((quad[[0, 1, 0, 1]], quad[[0, 0, 0, 0]], quad[[0, 1, 1, 0]], quad[[0, 1, 2, 2]]))
        quad = flat  # a line, a point, a line, a triangle
    return quad


def random_page(dice: random.Random) -> tuple[list[Outline], list[bool], list[Outline]]:
    """Up to six true regions, overlapping each other, and found ones near them, on them and elsewhere."""
    truths = [random_outline(dice) for _ in range(dice.randrange(7))]
    ignored = [dice.random() < 0.3 for _ in truths]
    found = [truth.copy() for truth in truths if dice.random() < 0.3]
    found += [(truth + dice.uniform(-4, 4)).astype(np.float32) for truth in truths if dice.random() < 0.6]
    found += [random_outline(dice) for _ in range(dice.randrange(4))]
    dice.shuffle(found)
    return truths, ignored, found


def test_10_000_random_pages_agree_with_brute_force() -> None:
    dice = random.Random(2015)
    pairs_seen = skipped_seen = taken_seen = 0
    for number in range(10_000):
        truths, ignored, found = random_page(dice)
        ours = match(truths, ignored, found)
        pairs, counted = brute_force(truths, ignored, found)
        assert (list(ours.pairs), ours.truths, ours.found) == (pairs, ignored.count(False), counted), number
        pairs_seen += len(pairs)
        skipped_seen += len(found) - counted
        taken_seen += ours.truths > len(pairs) > 0
    # the cases are worth running
    assert min(pairs_seen, skipped_seen, taken_seen) > 4_000


def test_the_geometry_of_the_brute_force_is_right_itself() -> None:
    dice = random.Random(4)
    overlapping = 0
    for _ in range(1_000):
        one, other = random_outline(dice), random_outline(dice)
        shape, candidate = enclosed([one, other])
        by_shapely = shape.intersection(candidate).area
        assert by_shapely == pytest.approx(area_by_strips(one, other), abs=1e-3)
        overlapping += by_shapely > 1
    assert overlapping > 200


@given(st.data())
def test_matching_is_one_to_one_and_within_bounds(data: st.DataObject) -> None:
    corner = st.integers(0, 12)
    outlines = st.lists(
        st.lists(st.tuples(corner, corner), min_size=3, max_size=6).map(lambda p: np.array(p, np.float32)),
        max_size=5,
    )
    truths, found = data.draw(outlines), data.draw(outlines)  # most of them cross themselves
    ignored = data.draw(st.lists(st.booleans(), min_size=len(truths), max_size=len(truths)))
    ours = match(truths, ignored, found)
    assert len({truth for truth, _ in ours.pairs}) == len({row for _, row in ours.pairs}) == len(ours.pairs)
    assert not any(ignored[truth] for truth, _ in ours.pairs)
    assert len(ours.pairs) <= min(ours.truths, ours.found)


# --- texts ---


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),  # k>s, e>i, +g
        ("flaw", "lawn", 2),  # -f, +n
        ("ab", "ba", 2),  # a swap is two edits
        ("登机牌", "登机口", 1),
    ],
)
def test_edit_distance_by_hand(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == distance


def recursive_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return recursive_distance(a[1:], b[1:])
    shorter = (
        recursive_distance(a[1:], b),
        recursive_distance(a, b[1:]),
        recursive_distance(a[1:], b[1:]),
    )
    return 1 + min(shorter)


SHORT = st.text("ab文", max_size=5)


@given(SHORT, SHORT)
def test_edit_distance_agrees_with_its_recursive_definition(a: str, b: str) -> None:
    assert edit_distance(a, b) == recursive_distance(a, b) == edit_distance(b, a)


@pytest.mark.parametrize(
    ("a", "b", "expected"), [("", "", 1.0), ("", "ab", 0.0), ("abcd", "abce", 0.75), ("ab", "abcd", 0.5)]
)
def test_similarity_is_relative_to_the_longer_text(a: str, b: str, expected: float) -> None:
    assert similarity(a, b) == similarity(b, a) == expected


def test_score_texts() -> None:
    # similarities 1, 3/4 and 0: their mean is 7/12
    score = score_texts(["ab", "abcd", "x"], ["ab", "abce", ""])
    assert (score.lines, score.correct, score.line_accuracy) == (3, 1, 1 / 3)
    assert score.character_accuracy == pytest.approx(7 / 12)
    assert score_texts([], []) == TextScore(0, 0, 0.0, 0.0)


def test_score_texts_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score_texts(["a"], [])


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        (EXACT, "A 文:", "A 文:"),
        (TextRule(nfkc=True), "Ａ文：", "A文:"),
        (TextRule(fold_case=True), "STRASSE ß", "strasse ss"),
        (TextRule(drop_spaces=True), " a\u3000b\tc ", "abc"),
        (NORMALISED, "Ａ\u3000Ｂ：", "ab:"),
    ],
)
def test_text_rules(rule: TextRule, text: str, expected: str) -> None:
    assert rule.apply(text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing_for_ascii(text: str) -> None:
    ascii_text = text.encode("ascii", "ignore").decode()
    assert NORMALISED.apply(NORMALISED.apply(ascii_text)) == NORMALISED.apply(ascii_text)


def test_end_to_end_needs_region_and_text() -> None:
    # Three words, one ignored. Both others are found; one is misread, which costs precision and
    # recall alike: 1 right of 2 true and of 3 that count as found.
    matching = Matching(pairs=((0, 1), (2, 0)), truths=2, found=3)
    truths, read = ["Exit", "###", "A"], ["B", "EXIT", "noise"]
    assert score_end_to_end(matching, truths, read, EXACT) == Counts(0, 2, 3)
    assert score_end_to_end(matching, truths, read, NORMALISED) == Counts(1, 2, 3)


@pytest.mark.parametrize(
    ("truth", "read", "same"),
    [
        ("Exit", "EXIT", True),
        ("Exit", "Exit ", False),
        ("(EXIT)", "exit", True),  # a mark at either end of the truth may be missing
        ("(EXIT)", "(exit", True),
        ("(EXIT)", "exit)", True),
        ("EXIT!!", "EXIT!", True),  # one of them, not two
        ("EXIT!!", "EXIT", False),
        ("EXIT", "EXIT!", False),  # of the truth only: nothing may be added
        ("IT'S", "ITS", False),  # at the ends only
        ("-EXIT", "EXIT", False),  # a hyphen is none of them
        ("Ｅxit", "Exit", False),  # no NFKC
        ("!", "", True),
        ("", "", True),
        ("", "a", False),
        ("straße", "STRASSE", True),  # upper(), as the script
    ],
)
def test_the_official_text_rule(truth: str, read: str, same: bool) -> None:
    assert OFFICIAL.same(truth, read) is same
    assert score_end_to_end(Matching(((0, 0),), 1, 1), [truth], [read], OFFICIAL) == Counts(int(same), 1, 1)


@given(st.text("aA!.'-", max_size=4), st.text("aA!.'-", max_size=4))
def test_the_official_text_rule_agrees_with_trying_all_four_forms(truth: str, read: str) -> None:
    forms = {truth.upper()}
    if truth and truth[0] in MARKS:
        forms |= {form[1:] for form in list(forms)}
    if truth and truth[-1] in MARKS:
        forms |= {truth.upper()[:-1], *([truth.upper()[1:-1]] if truth[0] in MARKS else [])}
    assert OFFICIAL.same(truth, read) is (read.upper() in forms)
