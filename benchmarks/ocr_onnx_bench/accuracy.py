"""An engine and a labelled set go in; precision, recall, Hmean and text accuracy come out.

Three stages, each of which can be left out: "det" finds the regions of whole pages, "rec" reads
the crops of the true regions, "e2e" reads whole pages. `python -m ocr_onnx_bench.accuracy --help`
runs them from the command line.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np

from ocr_onnx import crop, inputs
from ocr_onnx.data import Detections, ImageBgr, PageResult, Provenance
from ocr_onnx.engine import Engine
from ocr_onnx.errors import OcrError
from ocr_onnx.options import (
    BoxType,
    DetOptions,
    LimitType,
    Options,
    RecOptions,
    ScoreMode,
    WidthRule,
)
from ocr_onnx.recognize import RecognizedLine
from ocr_onnx_bench import environment, labels, metrics, record
from ocr_onnx_bench.labels import LabelledPage, LabelledSet, TrueRegion
from ocr_onnx_bench.metrics import EXACT, NORMALISED, Counts, Matching, Outline, TextScore

Stage: TypeAlias = Literal["det", "rec", "e2e"]
STAGES: tuple[Stage, ...] = get_args(Stage)

CROPS_AT_ONCE = 1024  # bounds memory; a line's text does not depend on its neighbours


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
    of white space.
    """

    detection: Ratios | None = None
    recognition_exact: TextScore | None = None
    recognition_normalised: TextScore | None = None
    end_to_end_exact: Ratios | None = None
    end_to_end_normalised: Ratios | None = None


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
    """Everything a published figure needs beside it."""

    kind: Literal["accuracy"]
    data: SetInfo
    figures: Figures
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
    which can't be cut.
    """
    pages = _Pages(labelled.pages[:limit_images], options, {})
    left_out = list(labelled.problems)
    figures = Figures()
    if "det" in stages:
        figures = replace(figures, detection=_measure_detection(reader, pages))
    if "rec" in stages:
        exact, normalised = _measure_recognition(reader, pages, left_out)
        figures = replace(figures, recognition_exact=exact, recognition_normalised=normalised)
    if "e2e" in stages:
        whole, whole_normalised = _measure_end_to_end(reader, pages)
        figures = replace(figures, end_to_end_exact=whole, end_to_end_normalised=whole_normalised)
    left_out += pages.unreadable.values()
    return Measured(figures, len(pages.labelled) - len(pages.unreadable), tuple(left_out))


@dataclass(frozen=True, slots=True)
class _Pages:
    """Pages, decoded anew by each stage. What could not be is noted under its name, once."""

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


def _measure_detection(reader: Reader, pages: _Pages) -> Ratios:
    total = Counts()
    for image, page in pages:
        found = reader.detect(image, pages.options)
        total += _match(page.regions, found.outlines_px or tuple(found.quads_px)).counts
    return Ratios.of(total)


def _measure_recognition(reader: Reader, pages: _Pages, left_out: list[str]) -> tuple[TextScore, TextScore]:
    truths: list[str] = []
    read: list[str] = []
    crops: list[ImageBgr] = []
    for image, page in pages:
        regions = [region for region in page.regions if not region.ignored]
        quads = [region for region in regions if len(region.outline) == 4]
        if len(quads) < len(regions):
            left_out.append(f"{page.name}: {len(regions) - len(quads)} regions are no quads, not read")
        if quads:
            truths += [region.text for region in quads]
            crops += crop.cut(image, np.stack([region.outline for region in quads]), pages.options.crop)
        if len(crops) >= CROPS_AT_ONCE:
            read += [line.text for line in reader.recognize(crops, pages.options)]
            crops = []
    read += [line.text for line in reader.recognize(crops, pages.options)]
    return metrics.score_texts(truths, read, EXACT), metrics.score_texts(truths, read, NORMALISED)


def _measure_end_to_end(reader: Reader, pages: _Pages) -> tuple[Ratios, Ratios]:
    exact, normalised = Counts(), Counts()
    for image, page in pages:
        lines = reader.read(image, pages.options).lines
        matching = _match(page.regions, [np.array(line.outline_px, dtype=np.float32) for line in lines])
        truths = [region.text for region in page.regions]
        read = [line.text for line in lines]
        exact += metrics.score_end_to_end(matching, truths, read, EXACT)
        normalised += metrics.score_end_to_end(matching, truths, read, NORMALISED)
    return Ratios.of(exact), Ratios.of(normalised)


def _match(regions: Sequence[TrueRegion], found: Sequence[Outline]) -> Matching:
    outlines = [region.outline for region in regions]
    return metrics.match(outlines, [region.ignored for region in regions], found)


def make_record(
    data: Path,
    *,
    options: Options,
    model_set: str = "mobile",
    device: str = "cpu",
    threads: int = 0,
    stages: Sequence[Stage] = STAGES,
    limit_images: int | None = None,
) -> AccuracyRecord:
    """Load the engine and the set in folder `data`, measure, and describe what was measured."""
    labelled = labels.read_set(data)
    engine = Engine.load(model_set, device=device, threads=threads, options=options)
    measured = measure(engine, labelled, options, stages=stages, limit_images=limit_images)
    return AccuracyRecord(
        kind="accuracy",
        data=SetInfo(labelled.name, labelled.sha256, measured.images, len(labelled.pages)),
        figures=measured.figures,
        left_out=measured.left_out,
        model_set=model_set,
        provenance=engine.provenance,
        options=options,
        environment=environment.describe(),
    )


def summary(found: AccuracyRecord) -> str:
    """Return the figures as a few lines for a person, each with the set and the count behind it."""
    lines = [f"{found.data.name}: {found.data.images} images, label sha256 {found.data.sha256[:12]}"]
    ratios = {
        "detection": found.figures.detection,
        "end to end, exact": found.figures.end_to_end_exact,
        "end to end, normalised": found.figures.end_to_end_normalised,
    }
    texts = {
        "recognition, exact": found.figures.recognition_exact,
        "recognition, normalised": found.figures.recognition_normalised,
    }
    lines += [
        f"{name}: precision {ratio.precision:.4f}, recall {ratio.recall:.4f}, Hmean {ratio.hmean:.4f} "
        f"({ratio.matched} matched, {ratio.truths} true, {ratio.found} found)"
        for name, ratio in ratios.items()
        if ratio
    ]
    lines += [
        f"{name}: line accuracy {text.line_accuracy:.4f} ({text.correct} of {text.lines}), "
        f"character accuracy {text.character_accuracy:.4f}"
        for name, text in texts.items()
        if text
    ]
    return "\n".join(lines + [f"left out: {reason}" for reason in found.left_out])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one set from the command line; return the exit status."""
    given = _parser().parse_args(arguments)
    try:
        file = record.path_of(given.record, given.results) if given.record else None
        found = make_record(
            given.data,
            model_set=given.model_set,
            device=given.device,
            threads=given.threads,
            options=_options(given),
            stages=given.stages,
            limit_images=given.limit_images,
        )
    except OcrError as error:
        print(error, file=sys.stderr)
        return 1
    print(summary(found))
    if file:
        record.write(file, found)
    return 0


def _options(given: argparse.Namespace) -> Options:
    det = DetOptions(
        limit_type=given.limit_type,
        limit_side_px=given.limit_side,
        max_pixels=given.max_pixels,
        box_thresh=given.box_thresh,
        unclip_ratio=given.unclip,
        score_mode=given.score_mode,
        box_type=given.box_type,
    )
    return Options(det=det, rec=RecOptions(width=given.width, batch_size=given.batch))


def _parser() -> argparse.ArgumentParser:
    det, rec = DetOptions(), RecOptions()
    parser = argparse.ArgumentParser(
        prog="ocr_onnx_bench.accuracy", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with label.txt, or with gt/ and images/")
    add("--stages", nargs="+", choices=STAGES, default=STAGES)
    add("--limit-images", type=int, help="only the first N images")
    add("--model-set", default="mobile")
    add("--device", default="cpu")
    add("--threads", type=int, default=0)
    add("--limit-type", choices=get_args(LimitType), default=det.limit_type)
    add("--limit-side", type=int, default=det.limit_side_px)
    add("--max-pixels", type=int, default=det.max_pixels)
    add("--box-thresh", type=float, default=det.box_thresh)
    add("--unclip", type=float, default=det.unclip_ratio)
    add("--score-mode", choices=get_args(ScoreMode), default=det.score_mode)
    add("--box-type", choices=get_args(BoxType), default=det.box_type)
    add("--width", choices=get_args(WidthRule), default=rec.width)
    add("--batch", type=int, default=rec.batch_size)
    add("--record", default="", metavar="NAME", help="write NAME.json into the results folder")
    add("--results", type=Path, default=record.RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
