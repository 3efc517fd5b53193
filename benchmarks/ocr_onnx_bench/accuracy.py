"""An engine and a labelled set go in; precision, recall, Hmean and text accuracy come out.

Three stages, each of which can be left out: "det" finds the regions of whole pages, "rec" reads
the crops of the true regions, "e2e" reads whole pages. A set of line pictures has "rec" only.
`ocr-onnx bench accuracy` runs them from the command line.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np

from ocr_onnx import crop, inputs, model_store
from ocr_onnx.config import Config
from ocr_onnx.data import Detections, ImageBgr, PageResult, Provenance
from ocr_onnx.engine import Engine
from ocr_onnx.errors import InputError, OcrError, OptionError
from ocr_onnx.options import ModelOptions, Options
from ocr_onnx.recognize import RecognizedLine
from ocr_onnx_bench import environment, labels, metrics, reference
from ocr_onnx_bench.labels import LabelledPage, LabelledSet, TrueRegion
from ocr_onnx_bench.metrics import (
    EXACT,
    NORMALISED,
    OFFICIAL,
    Counts,
    Matching,
    OfficialRule,
    Outline,
    TextRule,
    TextScore,
)
from ocr_onnx_bench.reference import ReferenceModel

Stage: TypeAlias = Literal["det", "rec", "e2e"]
STAGES: tuple[Stage, ...] = get_args(Stage)
PAGE_STAGES: frozenset[Stage] = frozenset({"det", "e2e"})  # need pages, not line pictures

CROPS_AT_ONCE = 1024  # bounds memory; a line's text does not depend on its neighbours
MAX_LEFT_OUT_LINES = 20  # of the summary; the record has all


class Reader(Protocol):
    """What is measured: the part of `Engine` that is used here."""

    def detect(self, source: ImageBgr, options: Options) -> Detections:
        """Find the text regions of a page."""
        ...

    def recognize(self, lines: Sequence[ImageBgr], options: Options) -> Sequence[RecognizedLine]:
        """Read line images."""
        ...

    def read(self, source: ImageBgr, options: Options) -> PageResult:
        """Find and read the lines of a page."""
        ...


@dataclass(frozen=True, slots=True)
class Ratios:
    """Counts over a whole set and what follows from them."""

    matched: int
    truths: int
    found: int
    precision: float
    recall: float
    hmean: float

    @classmethod
    def of(cls, counts: Counts) -> "Ratios":
        """Spell out `counts`."""
        return cls(counts.matched, counts.truths, counts.found, counts.precision, counts.recall, counts.hmean)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a set; None for a stage that was not run.

    "exact" compares code point by code point, "normalised" after NFKC, case folding and removal
    of white space, "official" as the script of ICDAR 2015 task 4 does.
    """

    detection: Ratios | None = None
    recognition_exact: TextScore | None = None
    recognition_normalised: TextScore | None = None
    end_to_end_exact: Ratios | None = None
    end_to_end_normalised: Ratios | None = None
    end_to_end_official: Ratios | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures, the pages they rest on, and what was left out and why."""

    figures: Figures
    images: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetInfo:
    """Which set was used, and how its figures are counted."""

    name: str
    format: labels.Format
    sha256: str
    images: int
    images_in_set: int
    rule: str = (
        "ICDAR 2015: one to one, IoU > 0.5, found regions more than half inside an ignored one left out; "
        "texts of true regions that are not ignored; character accuracy is the mean over lines of "
        "1 - edit distance / longer length"
    )


@dataclass(frozen=True, slots=True)
class AccuracyRecord:
    """Everything a published figure needs beside it.

    `not_comparable` is what the reference publishes about the models used: its sets are private, so
    it says nothing about `figures`.
    """

    kind: Literal["accuracy"]
    data: SetInfo
    figures: Figures
    not_comparable: tuple[ReferenceModel, ...]
    left_out: tuple[str, ...]
    model_set: str
    provenance: Provenance | None
    options: Options
    environment: environment.Environment


def measure(
    reader: Reader,
    labelled: LabelledSet,
    options: Options,
    *,
    stages: Sequence[Stage] = STAGES,
    limit_images: int | None = None,
) -> Measured:
    """Run `stages` of `reader` over the first `limit_images` pages of `labelled`.

    A picture that can't be read is left out and named, and so is a true region that is no quad,
    which can't be cut. Of line pictures only "rec" is measured; each is read as it is, neither cut
    nor turned.

    Raises OptionError where none of `stages` fits the set, InputError where no picture can be read.
    """
    pages = Pages(labelled.pages[:limit_images], options, {})
    left_out = list(labelled.problems)
    of_lines = labelled.format == "line pictures"
    if of_lines:
        stages = _of_line_pictures(stages, left_out)
    figures = Figures()
    if "det" in stages:
        figures = replace(figures, detection=_measure_detection(reader, pages))
    if "rec" in stages:
        scores = _measure_recognition(reader, pages, left_out, whole=of_lines)
        figures = replace(figures, recognition_exact=scores[0], recognition_normalised=scores[1])
    if "e2e" in stages:
        exact, normalised, official = _measure_end_to_end(reader, pages)
        figures = replace(
            figures, end_to_end_exact=exact, end_to_end_normalised=normalised, end_to_end_official=official
        )
    unreadable = unreadable_of(pages, labelled)
    return Measured(figures, len(pages.labelled) - len(unreadable), (*left_out, *unreadable))


def _of_line_pictures(stages: Sequence[Stage], left_out: list[str]) -> Sequence[Stage]:
    """Return those of `stages` that line pictures allow, and name the others in `left_out`."""
    kept = [stage for stage in stages if stage not in PAGE_STAGES]
    if not kept:
        asked = ",".join(stages)
        raise OptionError("--stages", f"{asked} needs pages, and the set has line pictures", "use rec")
    left_out += [f"{stage}: not measured, the set has line pictures" for stage in stages if stage not in kept]
    return kept


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages, decoded anew each time. What could not be is noted in `unreadable` under its name, once."""

    labelled: Sequence[LabelledPage]
    options: Options
    unreadable: dict[str, str]

    def __iter__(self) -> Iterator[tuple[ImageBgr, LabelledPage]]:
        for page in self.labelled:
            try:
                image = next(inputs.pages(page.image, self.options.input)).image
            except OcrError as error:
                self.unreadable[page.name] = f"{page.name}: {error.problem}"
            else:
                yield image, page


def unreadable_of(pages: Pages, labelled: LabelledSet) -> tuple[str, ...]:
    """Return a sentence for every page that could not be read; raise InputError where none could."""
    unreadable = tuple(pages.unreadable.values())
    if len(unreadable) == len(pages.labelled):
        problem = f"not one picture could be read ({unreadable[0]})"
        raise InputError(labelled.name, problem, "give pictures that can be opened")
    return unreadable


def _measure_detection(reader: Reader, pages: Pages) -> Ratios:
    total = Counts()
    for image, page in pages:
        found = reader.detect(image, pages.options)
        total += match_page(page.regions, found.outlines_px or tuple(found.quads_px)).counts
    return Ratios.of(total)


def _measure_recognition(
    reader: Reader, pages: Pages, left_out: list[str], *, whole: bool
) -> tuple[TextScore | None, TextScore | None]:
    """Read all true regions, or pictures that are one line as a `whole`; None for nothing to read."""
    truths: list[str] = []
    read: list[str] = []
    crops: list[ImageBgr] = []
    for image, page in pages:
        regions = [region for region in page.regions if not region.ignored]
        if whole:
            crops += [image] * len(regions)
        else:
            regions = _quads(regions, page.name, left_out)
            crops += _cut(image, regions, pages.options)
        truths += [region.text for region in regions]
        if len(crops) >= CROPS_AT_ONCE:
            read += [line.text for line in reader.recognize(crops, pages.options)]
            crops = []
    if not truths:
        left_out.append("rec: not measured, there is no line that counts")
        return None, None
    read += [line.text for line in reader.recognize(crops, pages.options)]
    return metrics.score_texts(truths, read, EXACT), metrics.score_texts(truths, read, NORMALISED)


def _quads(regions: Sequence[TrueRegion], name: str, left_out: list[str]) -> list[TrueRegion]:
    quads = [region for region in regions if len(region.outline) == 4]
    if len(quads) < len(regions):
        left_out.append(f"{name}: {len(regions) - len(quads)} regions are no quads, not read")
    return quads


def _cut(image: ImageBgr, quads: Sequence[TrueRegion], options: Options) -> list[ImageBgr]:
    return crop.cut(image, np.stack([region.outline for region in quads]), options.crop) if quads else []


def _measure_end_to_end(reader: Reader, pages: Pages) -> tuple[Ratios, Ratios, Ratios]:
    """Return the ratios with texts compared exactly, normalised, and as the official script does."""
    rules: tuple[TextRule | OfficialRule, ...] = (EXACT, NORMALISED, OFFICIAL)
    totals = [Counts() for _ in rules]
    for image, page in pages:
        lines = reader.read(image, pages.options).lines
        matching = match_page(page.regions, [np.array(line.outline_px, dtype=np.float32) for line in lines])
        truths = [region.text for region in page.regions]
        read = [line.text for line in lines]
        for index, rule in enumerate(rules):
            totals[index] += metrics.score_end_to_end(matching, truths, read, rule)
    exact, normalised, official = map(Ratios.of, totals)
    return exact, normalised, official


def match_page(regions: Sequence[TrueRegion], found: Sequence[Outline]) -> Matching:
    """Pair what was found on a page with its true regions."""
    outlines = [region.outline for region in regions]
    return metrics.match(outlines, [region.ignored for region in regions], found)


def parse_stages(given: str) -> tuple[Stage, ...]:
    """Return the stages of "det,rec,e2e" in their own order; raise OptionError for any other word."""
    names = {name.strip() for name in given.split(",")}
    unknown = sorted(names.difference(STAGES))
    if unknown:
        raise OptionError("--stages", f"{unknown[0]!r} is no stage", f"use some of {','.join(STAGES)}")
    return tuple(stage for stage in STAGES if stage in names)


def make_record(
    data: Path,
    config: Config,
    *,
    stages: Sequence[Stage] = STAGES,
    limit_images: int | None = None,
) -> AccuracyRecord:
    """Load the engine and the set `data`, measure, and describe what was measured.

    Nothing is downloaded: a model that is not on this machine is an error.
    """
    labelled = labels.read_set(data)
    engine = load_engine(config)
    measured = measure(engine, labelled, config.options, stages=stages, limit_images=limit_images)
    return AccuracyRecord(
        kind="accuracy",
        data=SetInfo(labelled.name, labelled.format, labelled.sha256, measured.images, len(labelled.pages)),
        figures=measured.figures,
        not_comparable=published(engine.provenance, config.models),
        left_out=measured.left_out,
        model_set=config.models.name,
        provenance=engine.provenance,
        options=config.options,
        environment=environment.describe(),
    )


def load_engine(config: Config) -> Engine:
    """Load the engine that `config` asks for, without downloading anything."""
    return Engine.load(
        replace(config.models, offline=True),
        device=config.runtime.device,
        threads=config.runtime.threads,
        precision=config.runtime.precision,
        gpu_memory_mib=config.runtime.gpu_memory_mib,
        tf32=config.runtime.tf32,
        options=config.options,
    )


def published(provenance: Provenance | None, asked: ModelOptions) -> tuple[ReferenceModel, ...]:
    """Return what the reference publishes about the models of `provenance`; nothing about own files."""
    manifest = model_store.load_manifest()
    own = {"det": asked.det, "rec": asked.rec, "cls": asked.cls}
    models = provenance.models if provenance else ()
    specs = [manifest.find(model.partition("@")[0]) for stage, model in models if not own[stage]]
    found = [reference.find(spec.official) for spec in specs if spec]
    return tuple(model for model in found if model)


def default_name(found: AccuracyRecord) -> str:
    """Return the name of a record for which none was given: after the set."""
    return f"accuracy-{plain_name(found.data)}"


def plain_name(data: SetInfo) -> str:
    """Return the name of a set as a part of a file's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", data.name).strip("-_") or "set"


def summary(found: AccuracyRecord) -> str:
    """Return the figures as a few lines for a person, each with the set and the count behind it."""
    data, figures = found.data, found.figures
    count = f"{data.images} of {data.images_in_set} images"
    lines = [f"{data.name} ({data.format}, label sha256 {data.sha256[:12]}): {count}", f"rule: {data.rule}"]
    ratios = {
        "detection": figures.detection,
        "end to end, exact": figures.end_to_end_exact,
        "end to end, normalised": figures.end_to_end_normalised,
        "end to end, official": figures.end_to_end_official,
    }
    texts = {
        "recognition, exact": figures.recognition_exact,
        "recognition, normalised": figures.recognition_normalised,
    }
    lines += [line for name, ratio in ratios.items() if ratio for line in _ratio_lines(name, ratio)]
    lines += [
        f"{name}: line accuracy {text.line_accuracy:.4f} ({text.correct} of {text.lines}), "
        f"character accuracy {text.character_accuracy:.4f}"
        for name, text in texts.items()
        if text
    ]
    lines += [
        f"published: {model.name}, {model.measure} {model.accuracy:.2f} % on {model.set}: "
        "not comparable: private set"
        for model in found.not_comparable
    ]
    lines += [f"left out: {reason}" for reason in found.left_out[:MAX_LEFT_OUT_LINES]]
    more = len(found.left_out) - MAX_LEFT_OUT_LINES
    return "\n".join([*lines, f"left out: {more} more, all in the record"] if more > 0 else lines)


def _ratio_lines(name: str, ratio: Ratios) -> list[str]:
    """Return the line of `ratio`, and a second one where a zero needs explaining."""
    lines = [
        f"{name}: precision {ratio.precision:.4f}, recall {ratio.recall:.4f}, Hmean {ratio.hmean:.4f} "
        f"({ratio.matched} matched, {ratio.truths} true, {ratio.found} found)"
    ]
    if not ratio.truths:
        lines.append(f"{name}: every true region is ignored, so these zeros say nothing")
    elif not ratio.matched:
        lines.append(f"{name}: nothing matched; do the labels belong to these pictures, at this size?")
    return lines
