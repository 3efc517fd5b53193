"""Drawn pages of growing size, lines, number and workers go in; the growth of time and memory comes out.

`ocr-onnx bench scaling` runs it from the command line.
"""

import functools
import itertools
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec, TypeAlias, TypeVar

import cv2
import numpy as np

from ocr_onnx.data import ImageBgr, Provenance
from ocr_onnx.engine import Engine
from ocr_onnx.errors import OptionError
from ocr_onnx_bench import environment, peer_worker

AxisName: TypeAlias = Literal["area", "lines", "pages", "workers"]
Of: TypeAlias = Literal["time", "time outside the networks", "memory", "throughput"]
Verdict: TypeAlias = Literal[
    "does not grow", "grows more slowly than linearly", "is linear", "grows faster than linearly"
]

TAIL = 10.0  # growth is judged over the last decade: below it, what every page costs anyway hides it
LEAST_POINTS = 3
FLAT, LINEAR, STEEP = 0.1, 0.9, 1.1  # bounds of the exponent between two verdicts

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Span: TypeAlias = tuple[float, float]
"""Start and end of a run, in seconds."""

Load = Callable[[int], Engine]
"""Number of threads -> an engine; 0 asks for all there are."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one point asks for: `pages` equal square pages, read `workers` at a time.

    A page is a grid of `cells`, of which the first `lines` hold a line of text each.
    """

    megapixels: float
    cells: int
    lines: int
    pages: int
    workers: int
    threads: int


@dataclass(frozen=True, slots=True)
class Axis:
    """One quantity that grows while the others stay."""

    name: AxisName
    unit: str
    works: tuple[Work, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """What one amount of work took. Samples and medians in ms for all its pages.

    det, rec and the rest are told apart where one page is read at a time. Memory in MiB is that of
    a process of its own: after the engine was loaded, and at its highest. None: not measured.
    """

    x: float
    work: Work
    lines_read: int
    samples_ms: tuple[float, ...]
    median_ms: float
    det_ms: float | None
    rec_ms: float | None
    outside_ms: float | None
    pages_per_s: float
    loaded_mib: float | None
    peak_mib: float | None


@dataclass(frozen=True, slots=True)
class Growth:
    """`of` ~ x ** exponent from `first_x` to `last_x`, by least squares over `points` logarithms.

    `per_unit` is what one more x takes there, in ms, MiB or pages per second: the ends' difference.
    """

    of: Of
    threads: int
    exponent: float
    per_unit: float
    first_x: float
    last_x: float
    points: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Found:
    """The points along one axis, and how what was measured grows along it."""

    axis: AxisName
    unit: str
    points: tuple[Point, ...]
    growth: tuple[Growth, ...]


@dataclass(frozen=True, slots=True)
class ScalingRecord:
    """Time and memory along all axes; samples were taken in turns over the points of an axis."""

    kind: Literal["scaling"]
    axes: tuple[Found, ...]
    repeats: int
    rule: str
    left_out: tuple[str, ...]
    model_set: str
    provenance: Provenance | None
    environment: environment.Environment


RULE = (
    f"least squares of log y over log x, over the points from a {TAIL:.0f}th of the greatest x on "
    f"(all points where fewer than {LEAST_POINTS} lie there); an exponent below {FLAT} does not grow, "
    f"up to {LINEAR} grows more slowly than linearly, up to {STEEP} is linear, above grows faster; "
    "memory is the peak above the loaded engine"
)


def axes(
    *, max_megapixels: float = 40, max_lines: int = 500, max_pages: int = 2000, max_workers: int = 8
) -> tuple[Axis, ...]:
    """Return what is measured by default, each axis cut at its bound."""
    area = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40)
    lines = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    pages = (1, 10, 50, 200, 500, 2000)
    workers = [(threads, x) for threads in (0, 1) for x in (1, 2, 4, 8)]
    return (
        Axis("area", "megapixels", tuple(Work(x, 20, 10, 1, 1, 0) for x in area if x <= max_megapixels)),
        Axis("lines", "lines per page", tuple(Work(1, 500, x, 1, 1, 0) for x in lines if x <= max_lines)),
        Axis("pages", "pages per run", tuple(Work(0.01, 5, 1, x, 2, 0) for x in pages if x <= max_pages)),
        Axis("workers", "workers", tuple(Work(0.5, 20, 5, 12, x, t) for t, x in workers if x <= max_workers)),
    )


def x_of(axis: AxisName, work: Work) -> float:
    """Return the quantity that grows along `axis`."""
    along = {"area": work.megapixels, "lines": work.lines, "pages": work.pages, "workers": work.workers}
    return float(along[axis])


def drawn_page(work: Work) -> ImageBgr:
    """Draw a page of `work`: a white square with a different number in each of its first cells."""
    side_px = round(math.sqrt(work.megapixels * 1e6))
    columns = max(1, math.isqrt(work.cells // 5))  # a cell is five times as wide as high
    width_px, height_px = side_px / columns, side_px / -(-work.cells // columns)
    scale = height_px / 42  # a letter of scale 1 is 21 px high
    page = np.full((side_px, side_px, 3), 255, dtype=np.uint8)
    for number in range(work.lines):
        row, column = divmod(number, columns)
        corner = (round((column + 0.1) * width_px), round((row + 0.75) * height_px))
        thickness = max(1, round(2 * scale))
        cv2.putText(
            page,
            f"No. {number + 1000}",
            corner,
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (0, 0, 0),
            thickness,
            cv2.LINE_AA,
        )
    return page


def growth(of: Of, xs: Sequence[float], ys: Sequence[float], *, threads: int = 0) -> Growth | None:
    """Fit a power law to positive `ys` over `xs` by `RULE`; None for fewer than three different points.

    Points of no height (memory that did not rise) can't be fitted and are left out.
    """
    positive = sorted((x, y) for x, y in zip(xs, ys, strict=True) if x > 0 and y > 0)
    tail = [(x, y) for x, y in positive if x >= positive[-1][0] / TAIL]
    chosen = tail if len(tail) >= LEAST_POINTS else positive
    if len({x for x, _ in chosen}) < LEAST_POINTS:
        return None
    logs = np.log(np.array(chosen))
    exponent = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    (first_x, first_y), (last_x, last_y) = chosen[0], chosen[-1]
    per_unit = (last_y - first_y) / (last_x - first_x)
    return Growth(of, threads, exponent, per_unit, first_x, last_x, len(chosen), verdict(exponent))


def verdict(exponent: float) -> Verdict:
    """Return in words what an exponent means, by `RULE`."""
    if exponent < FLAT:
        return "does not grow"
    if exponent < LINEAR:
        return "grows more slowly than linearly"
    return "is linear" if exponent <= STEEP else "grows faster than linearly"


class Sample(NamedTuple):
    """One run of some work."""

    total_ms: float
    det_ms: float
    rec_ms: float
    lines: int


def timed_run(engine: Engine, work: Work, page: ImageBgr) -> Sample:
    """Read the pages of `work` once. det and rec is how long at least one thread was in the network."""
    det_runs: list[Span] = []
    rec_runs: list[Span] = []
    lanes = engine.rec_lanes
    watched = replace(
        engine,
        det=_timed(engine.det, det_runs),
        rec=_timed(engine.rec, rec_runs),
        rec_lanes=lanes and replace(lanes, infer=_timed(lanes.infer, rec_runs)),
    )
    start = time.perf_counter()
    lines = _read(watched, work, page)
    total_s = time.perf_counter() - start
    return Sample(
        total_s * 1e3, peer_worker.covered_s(det_runs) * 1e3, peer_worker.covered_s(rec_runs) * 1e3, lines
    )


def _timed(infer: Callable[Arguments, Result], runs: list[Span]) -> Callable[Arguments, Result]:
    def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        start = time.perf_counter()
        result = infer(*arguments, **named)
        runs.append((start, time.perf_counter()))
        return result

    return call


def _read(engine: Engine, work: Work, page: ImageBgr) -> int:
    if work.pages == 1 and work.workers == 1:
        return len(engine.read(page).lines)
    pages = itertools.repeat(page, work.pages)
    return sum(len(result.lines) for result in engine.stream(pages, workers=work.workers))


def peak_memory(work: Work, model_set: str) -> tuple[float, float]:
    """Return this process's memory in MiB with an engine loaded, and the highest after `work`. Linux only."""
    engine = Engine.load(model_set, threads=work.threads)
    loaded = _status_mib("VmRSS")
    _read(engine, work, drawn_page(work))
    return loaded, _status_mib("VmHWM")


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kib = {name: value for name, _, value in (line.partition(":") for line in lines)}[field]
    return int(kib.removesuffix(" kB")) / 1024


def peaks(axis: Axis, model_set: str, left_out: list[str]) -> list[tuple[float, float] | tuple[None, None]]:
    """Measure each point in a process of its own, as memory that one took stays taken."""
    if not Path("/proc/self/status").exists():
        left_out.append(f"{axis.name}: memory, which only Linux tells")
        return [(None, None)] * len(axis.works)
    spawn = multiprocessing.get_context("spawn")
    found: list[tuple[float, float] | tuple[None, None]] = []
    for work in axis.works:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            try:
                found.append(pool.submit(peak_memory, work, model_set).result())
            except BrokenProcessPool:
                x = x_of(axis.name, work)
                left_out.append(f"{axis.name}: memory at {x:g} {axis.unit}, whose process was killed")
                found.append((None, None))
    return found


def samples_of(axis: Axis, load: Load, repeats: int) -> list[list[Sample]]:
    """Run the works of `axis` in turns, `repeats` times, after one run of the first; samples by work."""
    samples: list[list[Sample]] = [[] for _ in axis.works]
    for work in axis.works[:1]:
        timed_run(load(work.threads), work, drawn_page(work))
    for _ in range(repeats):
        for work, taken in zip(axis.works, samples, strict=True):
            taken.append(timed_run(load(work.threads), work, drawn_page(work)))
    return samples


def point(
    x: float, work: Work, samples: Sequence[Sample], memory: tuple[float | None, float | None]
) -> Point:
    """Sum `samples` of one work up."""
    median_ms = statistics.median(sample.total_ms for sample in samples)
    alone = work.workers == 1
    return Point(
        x=x,
        work=work,
        lines_read=samples[-1].lines,
        samples_ms=tuple(round(sample.total_ms, 3) for sample in samples),
        median_ms=median_ms,
        det_ms=statistics.median(sample.det_ms for sample in samples) if alone else None,
        rec_ms=statistics.median(sample.rec_ms for sample in samples) if alone else None,
        outside_ms=statistics.median(_outside_ms(sample) for sample in samples) if alone else None,
        pages_per_s=work.pages / median_ms * 1e3,
        loaded_mib=memory[0],
        peak_mib=memory[1],
    )


def _outside_ms(sample: Sample) -> float:
    return sample.total_ms - sample.det_ms - sample.rec_ms


def growths(axis: AxisName, points: Sequence[Point]) -> tuple[Growth, ...]:
    """Fit all that grows along `axis`, for each number of threads on its own."""
    found = []
    for threads in sorted({point.work.threads for point in points}):
        chosen = [point for point in points if point.work.threads == threads]
        for of, pairs in _quantities(axis, chosen).items():
            found.append(growth(of, [x for x, _ in pairs], [y for _, y in pairs], threads=threads))
    return tuple(fit for fit in found if fit)


def _quantities(axis: AxisName, points: Sequence[Point]) -> dict[Of, list[tuple[float, float]]]:
    """Return (x, y) by what y is. Memory is that above the loaded engine."""
    memory = [
        (point.x, point.peak_mib - point.loaded_mib)
        for point in points
        if point.peak_mib is not None and point.loaded_mib is not None
    ]
    outside = [(point.x, point.outside_ms) for point in points if point.outside_ms is not None]
    if axis == "workers":
        return {"throughput": [(point.x, point.pages_per_s) for point in points], "memory": memory}
    time_ms: dict[Of, list[tuple[float, float]]] = {"time": [(point.x, point.median_ms) for point in points]}
    return time_ms | ({"time outside the networks": outside} if axis == "area" else {}) | {"memory": memory}


def make_record(chosen: Sequence[Axis], *, repeats: int, model_set: str = "mobile") -> ScalingRecord:
    """Measure time, then memory, along every axis.

    Raises what `Engine.load` does, and OptionError for an axis without work.
    """
    if not all(axis.works for axis in chosen):
        empty = next(axis for axis in chosen if not axis.works)
        raise OptionError(f"the axis {empty.name}", "has no point below its bound", "raise --max-megapixels")
    left_out: list[str] = []
    load = functools.cache(lambda threads: Engine.load(model_set, threads=threads))
    found = tuple(_measured(axis, load, repeats, model_set, left_out) for axis in chosen)
    return ScalingRecord(
        kind="scaling",
        axes=found,
        repeats=repeats,
        rule=RULE,
        left_out=tuple(left_out),
        model_set=model_set,
        provenance=load(0).provenance,
        environment=environment.describe(),
    )


def _measured(axis: Axis, load: Load, repeats: int, model_set: str, left_out: list[str]) -> Found:
    samples = samples_of(axis, load, repeats)
    memory = peaks(axis, model_set, left_out)
    points = tuple(
        point(x_of(axis.name, work), work, taken, mib)
        for work, taken, mib in zip(axis.works, samples, memory, strict=True)
    )
    fits = growths(axis.name, points)
    if not fits:
        left_out.append(f"{axis.name}: growth, as fewer than {LEAST_POINTS} points were measured")
    left_out += [
        f"{axis.name}: {one.lines_read} of {one.work.lines * one.work.pages} lines were read at {one.x:g}"
        for one in points
        if one.lines_read != one.work.lines * one.work.pages
    ]
    return Found(axis.name, axis.unit, points, fits)


def summary(found: ScalingRecord) -> str:
    """Return one line per growth found, and what was left out."""
    lines = [
        f"{axis.axis}{f', {fit.threads} thread a run' if fit.threads else ''}: {fit.of} {fit.verdict}: "
        f"~ ({axis.unit})^{fit.exponent:.2f} from {fit.first_x:g} to {fit.last_x:g}"
        for axis in found.axes
        for fit in axis.growth
    ]
    return "\n".join([*lines, *(f"left out: {reason}" for reason in found.left_out)])
