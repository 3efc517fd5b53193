"""Outlines and texts, true and found, go in; counts, ratios and distances come out. Pure.

Detection follows the protocol of ICDAR 2015 Challenge 4 ("Incidental Scene Text"), task 1,
end-to-end reading that of its task 4 without lexicons.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

Outline: TypeAlias = NDArray[np.float32]
"""(K, 2) corners of one region in page pixels, in order around it, K >= 3."""

MIN_IOU = 0.5
MIN_IGNORED_SHARE = 0.5
MARKS = frozenset("!?.:,*\"()·[]/'")


@dataclass(frozen=True, slots=True)
class Counts:
    """Regions that matched, that should have been found and that were found, ignored ones left out.

    A ratio whose denominator is zero is 0.0, as in the official script's totals over a set.
    """

    matched: int = 0
    truths: int = 0
    found: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(self.matched + other.matched, self.truths + other.truths, self.found + other.found)

    @property
    def precision(self) -> float:
        """Share of what was found that is right."""
        return self.matched / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """Share of what should have been found that was."""
        return self.matched / self.truths if self.truths else 0.0

    @property
    def hmean(self) -> float:
        """Harmonic mean of precision and recall, also called F1."""
        total = self.truths + self.found
        return 2 * self.matched / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Matching:
    """Which found region stands for which true one, as pairs (row of truth, row of found)."""

    pairs: tuple[tuple[int, int], ...]
    truths: int
    found: int

    @property
    def counts(self) -> Counts:
        """Every pair counts as found."""
        return Counts(len(self.pairs), self.truths, self.found)


def match(truths: Sequence[Outline], ignored: Sequence[bool], found: Sequence[Outline]) -> Matching:
    """Pair the regions of one page one to one, by the ICDAR 2015 rule.

    `ignored` marks the truths that neither have to be found nor count against whoever finds them
    ("don't care"). A found region more than half of whose own area lies in a single ignored one
    is left out before anything is paired. Then each remaining truth, in order, takes the first
    still free found region whose intersection over union with it is above 0.5. Both bounds are
    strict. Greedy in order, not optimal: where truths overlap each other, the order decides, and
    official figures depend on that.

    An outline that crosses itself covers all its lobes; one without area overlaps nothing.
    """
    care = [row for row, skip in enumerate(ignored) if not skip]
    truth_shapes = _shapes(truths)
    found_shapes = _shapes(found)
    in_ignored = _ignored_rows(truth_shapes[np.asarray(ignored, dtype=bool)], found_shapes)

    overlapping: dict[int, list[int]] = {row: [] for row in care}
    for truth_row, found_row, shared in _intersections(truth_shapes, found_shapes):
        union = truth_shapes[truth_row].area + found_shapes[found_row].area - shared
        if truth_row in overlapping and found_row not in in_ignored and shared / union > MIN_IOU:
            overlapping[truth_row].append(found_row)

    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    for truth_row, candidates in overlapping.items():
        free = [row for row in candidates if row not in taken]
        if free:
            taken.add(min(free))
            pairs.append((truth_row, min(free)))
    return Matching(tuple(pairs), len(care), len(found) - len(in_ignored))


@dataclass(frozen=True, slots=True)
class TextRule:
    """What two texts may differ in and still be equal.

    `nfkc` unifies full-width and compatibility forms, `fold_case` upper and lower case,
    `drop_spaces` removes white space.
    """

    nfkc: bool = False
    fold_case: bool = False
    drop_spaces: bool = False

    def apply(self, text: str) -> str:
        """Return `text` in the form that is compared."""
        if self.nfkc:
            text = unicodedata.normalize("NFKC", text)
        if self.fold_case:
            text = text.casefold()
        return "".join(text.split()) if self.drop_spaces else text

    def same(self, truth: str, read: str) -> bool:
        """Tell whether the two are equal in that form."""
        return self.apply(truth) == self.apply(read)


@dataclass(frozen=True, slots=True)
class OfficialRule:
    """How the official script of ICDAR 2015 task 4 ("end to end", no lexicon) compares two texts.

    Upper and lower case are equal, and one of MARKS at either end of the true text may be left out.
    """

    def same(self, truth: str, read: str) -> bool:
        """Tell whether the script takes `read` for `truth`."""
        truth, read = truth.upper(), read.upper()
        starts = (0, 1) if truth[:1] in MARKS else (0,)
        ends = (len(truth), len(truth) - 1) if truth[-1:] in MARKS else (len(truth),)
        return any(truth[start:end] == read for start in starts for end in ends)


EXACT = TextRule()
NORMALISED = TextRule(nfkc=True, fold_case=True, drop_spaces=True)
OFFICIAL = OfficialRule()


@dataclass(frozen=True, slots=True)
class TextScore:
    """How well lines were read: `lines` of them, the share right, the mean character accuracy."""

    lines: int
    correct: int
    line_accuracy: float
    character_accuracy: float


def score_texts(truths: Sequence[str], read: Sequence[str], rule: TextRule = EXACT) -> TextScore:
    """Compare the texts read with the true ones, line by line; 0.0 throughout for no lines.

    Character accuracy is the mean over lines of `similarity`, so a short line weighs as much as a
    long one.
    """
    pairs = [(rule.apply(truth), rule.apply(text)) for truth, text in zip(truths, read, strict=True)]
    if not pairs:
        return TextScore(0, 0, 0.0, 0.0)
    correct = sum(truth == text for truth, text in pairs)
    characters = sum(similarity(truth, text) for truth, text in pairs)
    return TextScore(len(pairs), correct, correct / len(pairs), characters / len(pairs))


def score_end_to_end(
    matching: Matching, truths: Sequence[str], read: Sequence[str], rule: TextRule | OfficialRule = EXACT
) -> Counts:
    """Count the pairs of `matching` whose texts are equal too, by `rule`.

    A pair with the wrong text uses both its regions up: it is a miss and a false alarm.
    """
    correct = sum(rule.same(truths[row], read[found]) for row, found in matching.pairs)
    return Counts(correct, matching.truths, matching.found)


def similarity(a: str, b: str) -> float:
    """Return 1 - edit distance / length of the longer text, in 0..1; two empty texts are equal."""
    longest = max(len(a), len(b))
    return 1.0 - edit_distance(a, b) / longest if longest else 1.0


def edit_distance(a: str, b: str) -> int:
    """Return the fewest insertions, deletions and replacements of code points from `a` to `b`."""
    above = list(range(len(b) + 1))
    for row, char_a in enumerate(a, start=1):
        left = row
        current = [left]
        for column, char_b in enumerate(b, start=1):
            left = min(above[column] + 1, left + 1, above[column - 1] + (char_a != char_b))
            current.append(left)
        above = current
    return above[-1]


def _shapes(outlines: Sequence[Outline]) -> NDArray[Any]:
    shapes = np.array([shapely.Polygon(outline) for outline in outlines], dtype=object)
    return np.asarray(shapely.make_valid(shapes, method="structure", keep_collapsed=False))


def _intersections(a: NDArray[Any], b: NDArray[Any]) -> list[tuple[int, int, float]]:
    """Return (row of `a`, row of `b`, shared area) of each pair that shares any area."""
    rows_b, rows_a = shapely.STRtree(a).query(b, predicate="intersects")
    areas = shapely.area(shapely.intersection(a[rows_a], b[rows_b]))
    triples = zip(rows_a.tolist(), rows_b.tolist(), areas.tolist(), strict=True)
    return [triple for triple in triples if triple[2] > 0.0]


def _ignored_rows(ignored_shapes: NDArray[Any], found_shapes: NDArray[Any]) -> set[int]:
    """Return the rows of `found_shapes` that lie mostly in one of `ignored_shapes`."""
    overlaps = _intersections(ignored_shapes, found_shapes)
    return {row for _, row, shared in overlaps if shared / found_shapes[row].area > MIN_IGNORED_SHARE}
