"""Records go in; SVG files go out, the same bytes for the same figures.

About 700 px wide on a white ground of their own, so that they read alike in light and dark pages.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ocr_onnx_bench.records import Latency, ScalingAxis, Sides, Soak
from ocr_onnx_bench.reference import ReferenceModel

SIZE_IN = (7.3, 3.7)  # at 96 px per inch
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ocr-onnx",  # ids that would be random otherwise
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}
BLUE, ORANGE, GREEN, GREY = "#0b66b5", "#c2500a", "#1b7f4b", "#666666"
TICKS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


@contextmanager
def _drawn(file: Path, panels: int = 1) -> Iterator[list[Axes]]:
    """Yield `panels` axes side by side, and write them to `file` afterwards."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_IN, facecolor="white")
        figure.set_layout_engine("constrained", wspace=0.06)
        FigureCanvasAgg(figure)
        yield list(figure.subplots(1, panels, squeeze=False)[0])
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _plain(axis: object, values: Sequence[float] | None = None) -> None:
    """Write the ticks of a logarithmic axis as plain numbers, at `values` where given."""
    if values is not None:
        axis.set_ticks(list(values))  # type: ignore[attr-defined]
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))  # type: ignore[attr-defined]
    axis.set_minor_formatter(NullFormatter())  # type: ignore[attr-defined]


def _label(axes: Axes, text: str, x: float, y: float, colour: str, offset: tuple[float, float]) -> None:
    axes.annotate(text, (x, y), xytext=offset, textcoords="offset points", color=colour, va="center")


def latency_against_size(axis: ScalingAxis, file: Path) -> None:
    """Draw the time of a page, whole and in parts, over its area."""
    xs = [point.x for point in axis.points]
    series: dict[str, tuple[Sequence[float | None], str]] = {
        "whole page": ([point.median_ms for point in axis.points], "black"),
        "detection": ([point.det_ms for point in axis.points], BLUE),
        "recognition": ([point.rec_ms for point in axis.points], ORANGE),
        "the rest": ([point.outside_ms for point in axis.points], GREEN),
    }
    with _drawn(file) as (axes,):
        drawn = {name: (ys, colour) for name, (found, colour) in series.items() if (ys := _complete(found))}
        for ys, colour in drawn.values():
            axes.loglog(xs, ys, "o-", color=colour)
        heights = _apart([ys[-1] for ys, _ in drawn.values()], ratio=1.24)
        for (name, (_, colour)), height in zip(drawn.items(), heights, strict=True):
            _label(axes, name, xs[-1], height, colour, (10, 0))
        axes.set_xlabel("page, megapixels")
        axes.set_ylabel("median time, ms")
        _plain(axes.xaxis, xs)
        lowest, highest = axes.get_ylim()
        _plain(axes.yaxis, [tick for tick in TICKS_MS if lowest <= tick <= highest])


def _complete(found: Sequence[float | None]) -> list[float]:
    """Return `found`, or nothing where a value lacks."""
    values = [value for value in found if value is not None]
    return values if len(values) == len(found) else []


def _apart(heights: Sequence[float], ratio: float) -> list[float]:
    """Move labels on a logarithmic axis up until each is `ratio` above the next lower one."""
    moved = list(heights)
    order = sorted(range(len(moved)), key=lambda at: moved[at])
    for lower, upper in itertools.pairwise(order):
        moved[upper] = max(moved[upper], moved[lower] * ratio)
    return moved


def throughput_against_workers(axis: ScalingAxis, file: Path) -> None:
    """Draw pages per second over workers, a line for each number of threads of one run."""
    with _drawn(file) as (axes,):
        kinds = sorted({point.threads for point in axis.points})
        series = {threads: [one for one in axis.points if one.threads == threads] for threads in kinds}
        highest = max(points[0].pages_per_s for points in series.values())
        for (threads, points), colour in zip(series.items(), (BLUE, ORANGE), strict=False):
            xs, ys = [point.x for point in points], [point.pages_per_s for point in points]
            axes.plot(xs, ys, "o-", color=colour)
            name = f"{threads} thread" + "s" * (threads > 1) if threads else "all threads"
            # where they start, as they often end together
            _label(axes, f"{name} a run", xs[0], ys[0], colour, (6, 32 if ys[0] == highest else -14))
        axes.set_xscale("log", base=2)
        axes.set_ylim(0, 1.15 * max(point.pages_per_s for point in axis.points))
        axes.set_xlabel("workers: pages read at a time")
        axes.set_ylabel("pages per second")
        _plain(axes.xaxis, sorted({point.x for point in axis.points}))


def memory_over_pages(soak: Soak, file: Path) -> None:
    """Draw the resident memory over the pages read."""
    xs = [soak.sample_pages * number for number in range(1, len(soak.resident_mib) + 1)]
    with _drawn(file) as (axes,):
        axes.plot(xs, soak.resident_mib, color=BLUE)
        axes.axvline(soak.settled_pages, color=GREY, linewidth=1, linestyle="--")
        axes.set_ylim(0, 1.18 * max(soak.resident_mib))
        _label(axes, f"page {soak.settled_pages:,}", soak.settled_pages, 0, GREY, (6, 10))
        axes.annotate(
            f"{soak.resident_mib[-1]:.0f} MiB at the end",
            (xs[-1], soak.resident_mib[-1]),
            xytext=(0, 14),
            textcoords="offset points",
            ha="right",
            color=BLUE,
        )
        axes.set_xlabel("pages read")
        axes.set_ylabel("resident memory, MiB")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def growth(found: Sequence[ScalingAxis], file: Path) -> None:
    """Draw time and memory side by side, over the lines of a page and the pages of a run."""
    with _drawn(file, panels=2) as (left, right):
        for axes, of in ((left, "time"), (right, "memory")):
            for axis, colour in zip(found, (BLUE, ORANGE), strict=False):
                points = [
                    (point.x, point.median_ms / 1e3 if of == "time" else point.peak_mib)
                    for point in axis.points
                ]
                kept = [(x, y) for x, y in points if y is not None]
                if kept:
                    axes.plot(*zip(*kept, strict=True), "o-", color=colour)
                    across = kept[len(kept) // 2]
                    offset = (-6.0, 14.0) if of == "time" else (0.0, 12.0)
                    axes.annotate(
                        axis.unit,
                        across,
                        xytext=offset,
                        textcoords="offset points",
                        color=colour,
                        ha="right" if of == "time" else "center",
                    )
            axes.set_xscale("log")
            _plain(axes.xaxis)
            axes.set_xlabel("lines, or pages")
        left.set_yscale("log")
        _plain(left.yaxis)
        left.set_ylabel("median time, s")
        right.set_ylim(bottom=0, top=1.15 * (right.get_ylim()[1]))
        right.set_ylabel("peak memory, MiB")


def accuracy_against_latency(models: Sequence[ReferenceModel], measured: Latency | None, file: Path) -> None:
    """Draw published accuracy over time: as published (hollow), and as measured here (filled)."""
    here = {case.model: case.p50_ms for case in measured.cases} if measured else {}
    with _drawn(file, panels=2) as panels:
        for axes, stage, title in zip(panels, ("det", "rec"), ("Detection", "Recognition"), strict=True):
            for model in (model for model in models if model.stage == stage):
                colour = ORANGE if "Challenge" in model.set else BLUE
                best = max(other.accuracy for other in models if other.set == model.set)
                above = stage == "det" or model.accuracy == best
                _draw_model(axes, model, here.get(model.name), colour, label_pt=10 if above else -10)
            axes.set_xscale("log")
            _plain(axes.xaxis)
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xlabel("CPU time of the model alone, ms")
            axes.margins(x=0.3, y=0.22)
        panels[0].set_ylabel("published Hmean, %")
        panels[1].set_ylabel("published accuracy, %")
        xs = [model.cpu_ms for model in models] + list(here.values())
        for axes in panels:
            axes.set_xlim(min(xs) / 2, max(xs) * 2)


def _draw_model(
    axes: Axes, model: ReferenceModel, here_ms: float | None, colour: str, *, label_pt: float
) -> None:
    xs = [model.cpu_ms]
    axes.plot(model.cpu_ms, model.accuracy, "o", markerfacecolor="white", color=colour)
    if here_ms is not None:
        xs.append(here_ms)
        axes.plot(xs, [model.accuracy] * 2, "-", color=colour, linewidth=1)
        axes.plot(here_ms, model.accuracy, "o", color=colour)
    name = model.name.removeprefix("PP-OCRv4_").removeprefix("ch_")
    middle = (min(xs) * max(xs)) ** 0.5
    axes.annotate(
        name,
        (middle, model.accuracy),
        xytext=(0, label_pt),
        textcoords="offset points",
        color=colour,
        ha="center",
        va="center",
    )


def accuracy_of_sides(found: Sequence[Sides], file: Path) -> None:
    """Draw Hmean over the time of detection and F1 over that of reading, a panel for each set."""
    with _drawn(file, panels=len(found)) as panels:
        for axes, record in zip(panels, found, strict=True):
            sizes = record.sizes
            _draw_sides(
                axes,
                "Hmean, detection",
                [(one.label, one.detection_ms[1], one.detection[2]) for one in sizes],
                BLUE,
            )
            read = [
                (one.label, one.read_ms[1], one.end_to_end[2])
                for one in sizes
                if one.read_ms and one.end_to_end
            ]
            _draw_sides(axes, "F1, whole read", read, ORANGE)
            axes.margins(x=0.08, y=0.15)
            axes.set_xscale("log")
            lowest, highest = axes.get_xlim()
            _plain(axes.xaxis, [tick for tick in TICKS_MS if lowest <= tick <= highest])
            axes.set_title(record.data, fontsize=10, loc="left")
            axes.set_xlabel("mean time per page, ms")
            axes.plot([], [], "*", color="white", markersize=12, markeredgecolor="black", label="auto")
        panels[0].set_ylabel("Hmean, F1")
        # below the panels, as none has an empty corner for sure
        keys = {
            name: key for axes in panels for key, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        panels[0].figure.legend(
            list(keys.values()), list(keys), loc="outside lower center", ncols=3, frameon=False, fontsize=9
        )


def _draw_sides(axes: Axes, name: str, points: Sequence[tuple[str, float, float]], colour: str) -> None:
    """Draw (label, ms, accuracy) as a line of the fixed sides, and "auto" as a star."""
    fixed = _joined([point for point in points if point[0] != "auto"])
    if fixed:
        _, xs, ys = zip(*fixed, strict=True)
        axes.plot(xs, ys, "o-", color=colour, label=name)
        for number, (label, x, y) in enumerate(fixed):
            axes.annotate(
                label,
                (x, y),
                xytext=(0, 9 if number % 2 else -9),  # neighbours are often too near for one side
                textcoords="offset points",
                color=colour,
                fontsize=7.5,
                ha="center",
                va="center",
            )
    for _, x, y in (point for point in points if point[0] == "auto"):
        axes.plot(x, y, "*", color=colour, markersize=12, markeredgecolor="black", zorder=3)


def _joined(points: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Give the sides that no page exceeds, and so share their figures, one point: "≥1280"."""
    joined: list[tuple[str, float, float]] = []
    for label, x, y in points:
        if joined and joined[-1][1:] == (x, y):
            joined[-1] = (f"≥{joined[-1][0].removeprefix('≥')}", x, y)
        else:
            joined.append((label, x, y))
    return joined
