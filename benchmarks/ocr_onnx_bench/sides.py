"""An engine and a labelled set go in; accuracy and time at several working sizes come out.

The sizes are fixed long sides (`det.limit_type=max`) and "auto". `ocr-onnx bench sides` runs it
from the command line.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ocr_onnx.config import Config
from ocr_onnx.data import Detections, ImageBgr, PageResult, Provenance
from ocr_onnx.errors import InputError, OptionError
from ocr_onnx.options import Options
from ocr_onnx.threads import usable_threads
from ocr_onnx_bench import accuracy, environment, labels, metrics
from ocr_onnx_bench.accuracy import Pages, Ratios, SetInfo
from ocr_onnx_bench.labels import LabelledPage, LabelledSet
from ocr_onnx_bench.metrics import NORMALISED, Counts
from ocr_onnx_bench.tables import aligned

MAX_LEFT_OUT_LINES = 20  # of the summary; the record has all
RULE = (
    "ICDAR 2015: one to one, IoU > 0.5, found regions more than half inside an ignored one left out; "
    "texts normalised; character accuracy is the mean over matched regions of 1 - edit distance / longer "
    "length; a side above a picture's own stands for the picture's"
)


class Reader(Protocol):
    """What is measured: the part of `Engine` that is used here."""

    def detect(self, source: ImageBgr, options: Options) -> Detections:
        """Find the text regions of a page."""
        ...

    def read(self, source: ImageBgr, options: Options) -> PageResult:
        """Find and read the lines of a page."""
        ...


class Size(NamedTuple):
    """At which size pages are searched: `det.limit_type` and `det.limit_side_px`."""

    limit_type: Literal["max", "auto"]
    side_px: int

    def on(self, image: ImageBgr) -> "Size":
        """Return the size that does the same to a picture (H, W, 3), and is the same for all that do.

        "max" only shrinks, so every side that the picture does not exceed leaves it as it is.
        """
        height_px, width_px = image.shape[:2]
        return self._replace(side_px=min(self.side_px, max(height_px, width_px))) if self.is_fixed else self

    @property
    def is_fixed(self) -> bool:
        """Whether it is one long side, whatever is on the page."""
        return self.limit_type == "max"

    @property
    def label(self) -> str:
        """Return it in a word."""
        return str(self.side_px) if self.is_fixed else "auto"


@dataclass(frozen=True, slots=True)
class Sample:
    """One page at one size. Times in ms; without reading, `with_text` and `read_ms` are None."""

    regions: Counts
    detection_ms: float
    with_text: Counts | None
    texts: tuple[tuple[str, str], ...]  # of matched regions: (true, read)
    read_ms: float | None


@dataclass(frozen=True, slots=True)
class Times:
    """Over all pages, in ms. `paired_ratio` is the median over pages of time over that of "auto"."""

    median_ms: float
    mean_ms: float
    paired_ratio: float


@dataclass(frozen=True, slots=True)
class SideFigures:
    """A set at one size; None for what was not measured."""

    limit_type: Literal["max", "auto"]
    side_px: int
    detection: Ratios
    detection_time: Times
    end_to_end_normalised: Ratios | None
    character_accuracy: float | None
    read_time: Times | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures, the pages they rest on, and what was left out and why."""

    sizes: tuple[SideFigures, ...]
    images: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SidesRecord:
    """Everything a published figure needs beside it. `options` are those of "auto"."""

    kind: Literal["sides"]
    data: SetInfo
    threads: int
    sizes: tuple[SideFigures, ...]
    left_out: tuple[str, ...]
    model_set: str
    provenance: Provenance | None
    options: Options
    environment: environment.Environment


def parse_sides(given: str) -> tuple[int, ...]:
    """Return the sides of "640,960", each once and in order; raise OptionError for anything else."""
    try:
        return tuple(sorted({int(side) for side in given.split(",")}))
    except ValueError as error:
        raise OptionError("--sides", f"{given!r} is no list of sides", "give pixels, as 640,960") from error


def parse_stages(given: str) -> bool:
    """Return whether "det" or "det,e2e" has whole pages read; raise OptionError for anything else."""
    stages = accuracy.parse_stages(given)
    if stages not in (("det",), ("det", "e2e")):
        asked = ",".join(stages)
        raise OptionError("--stages", f"{asked} does not fit, as sizes are detection's", "use det or det,e2e")
    return "e2e" in stages


def sizes_of(sides_px: Sequence[int], options: Options) -> dict[Size, Options]:
    """Return the options of every fixed side and of "auto", which are those given.

    Raises OptionError for a side out of range, and where `options` have another limit than "auto".
    """
    det = options.det
    if det.limit_type != "auto":
        problem = f"is {det.limit_type!r}, but every size has its own"
        raise OptionError("det.limit_type", problem, "leave it, and name fixed sides with --sides")
    sizes = [*(Size("max", side) for side in sides_px), Size("auto", det.limit_side_px)]
    return {
        size: replace(options, det=replace(det, limit_type=size.limit_type, limit_side_px=size.side_px))
        for size in sizes
    }


def measure(
    reader: Reader,
    labelled: LabelledSet,
    sizes: dict[Size, Options],
    *,
    read: bool,
    limit_images: int | None = None,
) -> Measured:
    """Search the first `limit_images` pages of `labelled` at all `sizes`, and with `read` read them too.

    The last of `sizes` is the one that times are set against. Each page is decoded once and taken at
    every size before the next one, so that a machine that slows down slows all sizes alike. What is
    done first changes from page to page. Before anything counts, the first page is taken at all sizes.

    Raises InputError for a set of line pictures, or where no picture can be read.
    """
    if labelled.format == "line pictures":
        raise InputError(labelled.name, "has line pictures, in which nothing is looked for", "give pages")
    pages = Pages(labelled.pages[:limit_images], next(iter(sizes.values())), {})
    samples: list[list[Sample]] = []
    for number, (image, page) in enumerate(pages):
        if number == 0:
            _take(reader, image, page, sizes, read=read, first=0)
        samples.append(_take(reader, image, page, sizes, read=read, first=number % len(sizes)))
    unreadable = accuracy.unreadable_of(pages, labelled)
    by_size = list(zip(*samples, strict=True))
    figures = tuple(figures_of(size, found, by_size[-1]) for size, found in zip(sizes, by_size, strict=True))
    return Measured(figures, len(samples), (*labelled.problems, *unreadable))


def _take(
    reader: Reader,
    image: ImageBgr,
    page: LabelledPage,
    sizes: dict[Size, Options],
    *,
    read: bool,
    first: int,
) -> list[Sample]:
    """Measure one page, beginning with size number `first`; return the samples in the order of `sizes`.

    Sizes that do the same to the page share one sample.
    """
    taken: dict[Size, Sample] = {}
    turns = list(sizes.items())
    for size, options in turns[first:] + turns[:first]:
        if size.on(image) not in taken:
            taken[size.on(image)] = _sample(reader, image, page, options, read=read)
    return [taken[size.on(image)] for size in sizes]


def _sample(reader: Reader, image: ImageBgr, page: LabelledPage, options: Options, *, read: bool) -> Sample:
    start = time.perf_counter()
    found = reader.detect(image, options)
    detection_ms = (time.perf_counter() - start) * 1e3
    regions = accuracy.match_page(page.regions, found.outlines_px or tuple(found.quads_px)).counts
    if not read:
        return Sample(regions, detection_ms, None, (), None)
    start = time.perf_counter()
    lines = reader.read(image, options).lines
    read_ms = (time.perf_counter() - start) * 1e3
    outlines = [np.array(line.outline_px, dtype=np.float32) for line in lines]
    matching = accuracy.match_page(page.regions, outlines)
    truths, texts = [region.text for region in page.regions], [line.text for line in lines]
    with_text = metrics.score_end_to_end(matching, truths, texts, NORMALISED)
    pairs = tuple((truths[row], texts[line]) for row, line in matching.pairs)
    return Sample(regions, detection_ms, with_text, pairs, read_ms)


def figures_of(size: Size, found: Sequence[Sample], against: Sequence[Sample]) -> SideFigures:
    """Sum up the pages of one size; `against` are the same pages at the size that times are set against."""
    read = [sample.with_text for sample in found if sample.with_text is not None]
    pairs = [pair for sample in found for pair in sample.texts]
    texts = metrics.score_texts([truth for truth, _ in pairs], [text for _, text in pairs], NORMALISED)
    return SideFigures(
        limit_type=size.limit_type,
        side_px=size.side_px,
        detection=Ratios.of(sum((sample.regions for sample in found), Counts())),
        detection_time=_times(
            [sample.detection_ms for sample in found], [sample.detection_ms for sample in against]
        ),
        end_to_end_normalised=Ratios.of(sum(read, Counts())) if read else None,
        character_accuracy=texts.character_accuracy if read else None,
        read_time=_times(_read_ms(found), _read_ms(against)) if read else None,
    )


def _read_ms(samples: Sequence[Sample]) -> list[float]:
    return [sample.read_ms for sample in samples if sample.read_ms is not None]


def _times(found_ms: Sequence[float], against_ms: Sequence[float]) -> Times:
    ratios = [one / other for one, other in zip(found_ms, against_ms, strict=True)]
    return Times(statistics.median(found_ms), statistics.fmean(found_ms), statistics.median(ratios))


def make_record(
    data: Path, config: Config, sides_px: Sequence[int], *, read: bool, limit_images: int | None = None
) -> SidesRecord:
    """Load the engine and the set `data`, measure, and describe what was measured.

    Nothing is downloaded: a model that is not on this machine is an error.
    """
    sizes = sizes_of(sides_px, config.options)
    labelled = labels.read_set(data)
    engine = accuracy.load_engine(config)
    measured = measure(engine, labelled, sizes, read=read, limit_images=limit_images)
    return SidesRecord(
        kind="sides",
        data=SetInfo(
            labelled.name, labelled.format, labelled.sha256, measured.images, len(labelled.pages), RULE
        ),
        threads=config.runtime.threads or usable_threads(),
        sizes=measured.sizes,
        left_out=measured.left_out,
        model_set=config.models.name,
        provenance=engine.provenance,
        options=config.options,
        environment=environment.describe(),
    )


def default_name(found: SidesRecord) -> str:
    """Return the name of a record for which none was given: after the set."""
    return f"sides-{accuracy.plain_name(found.data)}"


COLUMNS = (
    *("side", "precision", "recall", "Hmean", "det ms", "mean", "of auto"),
    *("e2e F1", "characters", "read ms", "mean", "of auto"),
)


def summary(found: SidesRecord) -> str:
    """Return the figures as a table for a person, with what was left out below it."""
    table = aligned([COLUMNS, *(_row(one) for one in found.sizes)])
    data = found.data
    head = (
        f"{data.name}: {data.images} of {data.images_in_set} images, {found.threads} threads; times are "
        "medians and means over pages, and the median of their ratio to auto's"
    )
    notes = [f"left out: {reason}" for reason in found.left_out[:MAX_LEFT_OUT_LINES]]
    more = len(found.left_out) - MAX_LEFT_OUT_LINES
    return "\n".join([head, *table, *notes, *([f"left out: {more} more, all in the record"] * (more > 0))])


def _row(one: SideFigures) -> tuple[str, ...]:
    regions, texts = one.detection, one.end_to_end_normalised
    return (
        Size(one.limit_type, one.side_px).label,
        f"{regions.precision:.4f}",
        f"{regions.recall:.4f}",
        f"{regions.hmean:.4f}",
        *_time_cells(one.detection_time),
        f"{texts.hmean:.4f}" if texts else "-",
        "-" if one.character_accuracy is None else f"{one.character_accuracy:.4f}",
        *_time_cells(one.read_time),
    )


def _time_cells(times: Times | None) -> tuple[str, str, str]:
    if times is None:
        return ("-", "-", "-")
    return (f"{times.median_ms:.1f}", f"{times.mean_ms:.1f}", f"{times.paired_ratio:.2f}")
