"""Turns of engines go in; their figures beside each other come out: time, memory, accuracy, ratios."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ocr_onnx_bench import environment, metrics, peer_install
from ocr_onnx_bench.labels import LabelledPage
from ocr_onnx_bench.metrics import NORMALISED, Counts, Matching
from ocr_onnx_bench.peer_models import ModelFiles
from ocr_onnx_bench.peer_pages import PageSet
from ocr_onnx_bench.peer_running import ReadLine, Running, Turn, options_of
from ocr_onnx_bench.tables import aligned


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Against the labels: regions, regions with the right text, characters of matched regions."""

    precision: float
    recall: float
    hmean: float
    end_to_end_f1: float
    character_accuracy: float
    matched: int
    truths: int
    found: int


@dataclass(frozen=True, slots=True)
class Share:
    """What the baseline needs of what an engine needs: below 1 where the baseline is better.

    `time`, `cpu` and `peak_rss` are ratios of the medians; `time_lowest` and `time_highest` are
    those of single rounds.
    """

    time: float
    time_lowest: float
    time_highest: float
    cpu: float
    peak_rss: float


@dataclass(frozen=True, slots=True)
class SameRegions:
    """How the baseline and an engine read the regions that both matched, normalised texts.

    `character_accuracy` and `line_accuracy` are the engine's. An engine that matches less drops the
    hard regions, so only on the same ones do such figures compare.
    """

    regions: int
    character_accuracy: float
    line_accuracy: float
    baseline_character_accuracy: float
    baseline_line_accuracy: float


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """One engine: `page_ms` and `page_cpu_ms` are means over the pages, one per repetition.

    `median_ms` and `median_cpu_ms` are their medians. `start_s` is from the start of the process
    to the lines of the first page. `repeatable` tells whether every turn read the same.
    `outside_share` is the share of a page's time in which no network ran, the median over all pages
    of all turns; only ours tells. `options` are those of ours that were changed.
    """

    name: str
    weights: peer_install.Weights
    options: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    start_s: float
    median_ms: float
    median_cpu_ms: float
    page_ms: tuple[float, ...]
    page_cpu_ms: tuple[float, ...]
    peak_rss_mib: float
    lines: int
    characters: int
    repeatable: bool
    accuracy: Accuracy | None
    outside_share: float | None = None
    baseline_share: Share | None = None
    same_regions: SameRegions | None = None


@dataclass(frozen=True, slots=True)
class PeersRecord:
    """All engines beside each other, and what that rests on."""

    kind: Literal["peers"]
    data: str
    data_sha256: str
    labelled: bool
    pages: int
    rule: str
    repetitions: int
    threads: int
    baseline: str
    models: ModelFiles
    engines: tuple[EngineFigures, ...]
    left_out: tuple[str, ...]
    environment: environment.Environment


def figures_of(engine: Running, pages: PageSet, end: dict[str, Any]) -> EngineFigures:
    """Sum an engine's turns up. `end` is the worker's last answer."""
    turns = engine.turns
    page_ms = tuple(1000 * turn.seconds / len(pages.pages) for turn in turns)
    cpu_ms = tuple(1000 * turn.cpu_seconds / len(pages.pages) for turn in turns)
    lines = turns[-1].lines
    return EngineFigures(
        name=engine.peer.name,
        weights=engine.peer.weights,
        options=options_of(engine.peer),
        versions=tuple(sorted(engine.versions.items())),
        facts=tuple(sorted(end["facts"].items())),
        start_s=engine.start_s,
        median_ms=statistics.median(page_ms),
        median_cpu_ms=statistics.median(cpu_ms),
        page_ms=tuple(round(value, 3) for value in page_ms),
        page_cpu_ms=tuple(round(value, 3) for value in cpu_ms),
        peak_rss_mib=round(end["peak_rss_mib"], 1),
        lines=sum(len(page) for page in lines),
        characters=sum(len(line.text) for page in lines for line in page),
        repeatable=all(turn.lines == lines for turn in turns),
        accuracy=accuracy_of(pages.pages, lines) if pages.labelled else None,
        outside_share=outside_share(turns),
    )


def outside_share(turns: Sequence[Turn]) -> float | None:
    """Return the median share of a page's time outside the networks; None where it is not known."""
    shares = [share for turn in turns for share in turn.outside_shares or ()]
    return statistics.median(shares) if shares else None


def accuracy_of(pages: Sequence[LabelledPage], lines: Sequence[Sequence[ReadLine]]) -> Accuracy:
    """Compare what was read with the labels, page by page."""
    regions, with_text = Counts(), Counts()
    true_texts: list[str] = []
    read_texts: list[str] = []
    for page, read in zip(pages, lines, strict=True):
        matching = _match(page, read)
        truths, texts = [region.text for region in page.regions], [line.text for line in read]
        regions += matching.counts
        with_text += metrics.score_end_to_end(matching, truths, texts, NORMALISED)
        true_texts += [truths[row] for row, _ in matching.pairs]
        read_texts += [texts[found] for _, found in matching.pairs]
    return Accuracy(
        precision=regions.precision,
        recall=regions.recall,
        hmean=regions.hmean,
        end_to_end_f1=with_text.hmean,
        character_accuracy=metrics.score_texts(true_texts, read_texts, NORMALISED).character_accuracy,
        matched=regions.matched,
        truths=regions.truths,
        found=regions.found,
    )


def _match(page: LabelledPage, read: Sequence[ReadLine]) -> Matching:
    return metrics.match(
        [region.outline for region in page.regions],
        [region.ignored for region in page.regions],
        [np.array(line.quad_px, dtype=np.float32) for line in read],
    )


def same_regions(
    pages: Sequence[LabelledPage],
    ours: Sequence[Sequence[ReadLine]],
    theirs: Sequence[Sequence[ReadLine]],
) -> SameRegions | None:
    """Compare the texts of the regions that the baseline ("ours") and another engine both matched.

    None where there is no such region.
    """
    triples: list[tuple[str, str, str]] = []
    for page, mine, other in zip(pages, ours, theirs, strict=True):
        found, also = dict(_match(page, mine).pairs), dict(_match(page, other).pairs)
        triples += [
            (page.regions[row].text, mine[found[row]].text, other[also[row]].text)
            for row in sorted(found.keys() & also.keys())
        ]
    if not triples:
        return None
    truths, texts, other_texts = zip(*triples, strict=True)
    baseline = metrics.score_texts(truths, texts, NORMALISED)
    engine = metrics.score_texts(truths, other_texts, NORMALISED)
    return SameRegions(
        regions=len(truths),
        character_accuracy=engine.character_accuracy,
        line_accuracy=engine.line_accuracy,
        baseline_character_accuracy=baseline.character_accuracy,
        baseline_line_accuracy=baseline.line_accuracy,
    )


def share_of(baseline: EngineFigures, other: EngineFigures) -> Share:
    """Return what `baseline` needs of what `other` needs. Both have as many repetitions."""
    rounds = [ours / theirs for ours, theirs in zip(baseline.page_ms, other.page_ms, strict=True)]
    return Share(
        time=baseline.median_ms / other.median_ms,
        time_lowest=min(rounds),
        time_highest=max(rounds),
        cpu=baseline.median_cpu_ms / other.median_cpu_ms,
        peak_rss=baseline.peak_rss_mib / other.peak_rss_mib,
    )


def compared(
    figures: Sequence[EngineFigures], running: Sequence[Running], pages: PageSet, baseline: str
) -> tuple[EngineFigures, ...]:
    """Set every engine beside the one called `baseline`, if that is among them.

    `running` holds the turns of at least the engines that have `figures`.
    """
    against = next((engine for engine in figures if engine.name == baseline), None)
    if against is None:
        return tuple(figures)
    lines = {engine.peer.name: engine.turns[-1].lines for engine in running}
    return tuple(
        replace(
            engine,
            baseline_share=share_of(against, engine),
            same_regions=same_regions(pages.pages, lines[baseline], lines[engine.name])
            if pages.labelled
            else None,
        )
        for engine in figures
    )


def default_name(found: PeersRecord) -> str:
    """Return a name for the record, after the set."""
    return "peers-" + re.sub(r"[^A-Za-z0-9._-]", "-", found.data)


COLUMNS = (
    *("engine", "ms/page", "lowest", "highest", "CPU ms", "peak MiB", "start s", "lines"),
    *("Hmean", "e2e F1", "characters", "time", "(rounds)", "CPU", "peak"),
)


def summary(found: PeersRecord) -> str:
    """Return the figures as a table for a person, with what was left out below it."""
    table = aligned([COLUMNS, *(_row(engine) for engine in found.engines)])
    head = (
        f"{found.data}: {found.pages} pages, {found.threads} threads, "
        f"medians of {found.repetitions} repetitions in turns; the last four columns are what "
        f"{found.baseline} needs of what the engine needs"
    )
    notes = [f"other weights: {engine.name}" for engine in found.engines if engine.weights == "own"]
    notes += [
        f"not the same text every time: {engine.name}" for engine in found.engines if not engine.repeatable
    ]
    notes += [
        f"outside the networks: {engine.name} {engine.outside_share:.1%} of a page's time"
        for engine in found.engines
        if engine.outside_share is not None
    ]
    notes += [
        f"{one.regions} regions that {engine.name} and {found.baseline} both matched: characters "
        f"{one.character_accuracy:.4f} and {one.baseline_character_accuracy:.4f}, whole lines "
        f"{one.line_accuracy:.4f} and {one.baseline_line_accuracy:.4f}"
        for engine in found.engines
        if (one := engine.same_regions) is not None and engine.name != found.baseline
    ]
    return "\n".join([head, *table, *notes, *(f"left out: {reason}" for reason in found.left_out)])


def _row(engine: EngineFigures) -> tuple[str, ...]:
    accuracy, share = engine.accuracy, engine.baseline_share
    return (
        engine.name,
        f"{engine.median_ms:.1f}",
        f"{min(engine.page_ms):.1f}",
        f"{max(engine.page_ms):.1f}",
        f"{engine.median_cpu_ms:.1f}",
        f"{engine.peak_rss_mib:.0f}",
        f"{engine.start_s:.2f}",
        str(engine.lines),
        *(
            (f"{accuracy.hmean:.4f}", f"{accuracy.end_to_end_f1:.4f}", f"{accuracy.character_accuracy:.4f}")
            if accuracy
            else ("-", "-", "-")
        ),
        *(
            (
                f"{share.time:.2f}",
                f"{share.time_lowest:.2f}-{share.time_highest:.2f}",
                f"{share.cpu:.2f}",
                f"{share.peak_rss:.2f}",
            )
            if share
            else ("-", "-", "-", "-")
        ),
    )
