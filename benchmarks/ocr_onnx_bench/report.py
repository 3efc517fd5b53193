"""All records of a folder go in; one Markdown page of tables and its plots come out.

`ocr-onnx bench report` runs it from the command line.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ocr_onnx_bench import plots, reference
from ocr_onnx_bench.records import (
    Accuracy,
    Gpu,
    Latency,
    LatencyCase,
    Load,
    Machine,
    Peer,
    Peers,
    Records,
    Rewrites,
    Scaling,
    ScalingAxis,
    Sides,
    Soak,
    Throughput,
)
from ocr_onnx_bench.reference import ReferenceModel

REPORT = "REPORT.md"
SIDES_PLOT = "plots/accuracy-sides.svg"
NOTHING = "–"
UNITS = {"time": "ms", "time outside the networks": "ms", "memory": "MiB", "throughput": "pages/s"}


class Plot(NamedTuple):
    """A picture of the report: what it shows, its file below the report, and how to draw it there."""

    title: str
    file: str
    draw: Callable[[Path], None]


def write(found: Records, out: Path) -> tuple[Path, ...]:
    """Write `REPORT.md` and `plots/*.svg` into `out`, equal bytes for equal records; return the files."""
    drawn = plots_of(found)
    out.mkdir(parents=True, exist_ok=True)
    page = out / REPORT
    page.write_text(markdown(found), encoding="utf-8")
    for plot in drawn:
        plot.draw(out / plot.file)
    return (page, *(out / plot.file for plot in drawn))


def markdown(found: Records) -> str:
    """Return the whole page. A kind of record that is missing is named."""
    plotted = {plot.file: plot for plot in plots_of(found)}
    parts = [
        "# Measured",
        "Made by `ocr-onnx bench report` from the records in `results/`; `README.md` beside this page says "
        "how each is counted.",
        *_models(found.latency, found.accuracy),
        *_picture(plotted, "plots/accuracy-latency.svg"),
        *(part for record in found.latency for part in _latency(record)),
        *_accuracy(found.accuracy),
        *_sides(found.sides),
        *_picture(plotted, SIDES_PLOT),
        *(part for record in found.peers for part in _peers(record)),
        *(part for record in found.throughput for part in _throughput(record)),
        *(part for record in found.load for part in _load(record)),
        *(part for record in found.rewrites for part in _rewrites(record)),
        *(part for record in found.gpu for part in _gpu(record)),
        *(part for record in found.scaling for part in _scaling(record)),
        *_picture(plotted, "plots/latency-size.svg"),
        *_picture(plotted, "plots/growth.svg"),
        *_picture(plotted, "plots/throughput-workers.svg"),
        *(part for record in found.soak for part in _soak(record)),
        *_picture(plotted, "plots/memory-pages.svg"),
        *_left_out(found),
    ]
    return "\n\n".join(parts) + "\n"


def plots_of(found: Records) -> tuple[Plot, ...]:
    """Return the plots that the records allow."""
    here = next((record for record in found.latency if record.profile == "xeon-8t"), None)
    drawn = [
        Plot(
            "Published accuracy against latency on a CPU: hollow as published (Xeon Gold 5117, 8 threads), "
            + ("filled as measured here; " if here else "")
            + "orange models were scored on other private sets than blue ones",
            "plots/accuracy-latency.svg",
            lambda file: plots.accuracy_against_latency(reference.read(), here, file),
        )
    ]
    drawn += _sides_plots(found.sides)
    for record in found.scaling[:1]:
        along = {axis.axis: axis for axis in record.axes if axis.points}
        drawn += _scaling_plots(along)
    for soak in found.soak[:1]:
        drawn.append(
            Plot(
                "Resident memory over pages of random sizes",
                "plots/memory-pages.svg",
                partial(plots.memory_over_pages, soak),
            )
        )
    return tuple(drawn)


def _scaling_plots(along: dict[str, ScalingAxis]) -> Iterator[Plot]:
    if "area" in along:
        yield Plot(
            "Time of a page with ten lines against its size",
            "plots/latency-size.svg",
            lambda file: plots.latency_against_size(along["area"], file),
        )
    if "lines" in along and "pages" in along:
        yield Plot(
            "Time and peak memory against lines per page and pages per run",
            "plots/growth.svg",
            lambda file: plots.growth((along["lines"], along["pages"]), file),
        )
    if "workers" in along:
        yield Plot(
            "Throughput against workers",
            "plots/throughput-workers.svg",
            lambda file: plots.throughput_against_workers(along["workers"], file),
        )


def _sides_plots(found: Sequence[Sides]) -> Iterator[Plot]:
    """Yield one plot of all sets, of each the record with most pages."""
    largest: dict[str, Sides] = {}
    for record in found:
        if record.data not in largest or record.images > largest[record.data].images:
            largest[record.data] = record
    if largest:
        yield Plot(
            "Accuracy against mean time per page at fixed long sides, in px; the star is `auto`",
            SIDES_PLOT,
            lambda file: plots.accuracy_of_sides(tuple(largest.values()), file),
        )


def _picture(plotted: dict[str, Plot], file: str) -> Iterator[str]:
    if file in plotted:
        yield f"![{plotted[file].title}]({file})\n\n*{plotted[file].title}.*"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _on(machine: Machine) -> str:
    return f"{machine.cpu}, {machine.cores} cores, commit {machine.commit}"


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def _models(latency: Sequence[Latency], accuracy: Sequence[Accuracy]) -> Iterator[str]:
    """Yield the six models: what is published, and what was measured beside it."""
    profiles = {record.profile: record for record in latency}
    cpu, gpu = (_by_model(profiles.get(profile)) for profile in ("xeon-8t", "t4"))
    rows = [
        [
            model.name,
            f"{model.accuracy:.2f} (not comparable)",
            _accuracy_here(model, accuracy),
            f"{model.cpu_ms:,.1f}",
            _number(cpu[model.name].p50_ms, 1) if model.name in cpu else NOTHING,
            f"{model.gpu_ms:.1f}",
            _number(gpu[model.name].p50_ms, 1) if model.name in gpu else NOTHING,
            f"{model.size_mb:.1f}",
            (cpu.get(model.name) or gpu[model.name]).weights if model.name in cpu | gpu else NOTHING,
        ]
        for model in reference.read()
    ]
    head = ["model", "published accuracy, %", "accuracy here", "CPU published, ms", "CPU here, ms"]
    yield "## The six models"
    yield (
        "Published: FP32, the model alone, one Xeon Gold 5117 with 8 threads and one Tesla T4; accuracy on "
        f"private sets, which nobody else can measure. Here: medians of the same setting. "
        f"{_beside(profiles)}. Latency does not depend on training, so synthesised weights serve where the "
        "real ones are not at hand."
    )
    yield _table([*head, "GPU published, ms", "GPU here, ms", "size, MB", "weights here"], rows)


def _accuracy_here(model: ReferenceModel, accuracy: Sequence[Accuracy]) -> str:
    """Return a model's Hmean, or share of equal normalised lines, on each whole set at the default width."""
    found: dict[str, float] = {}
    for one in accuracy:
        whole = one.images == one.images_in_set and one.width == "tight"
        figures = one.detection and one.detection[2], one.rec_normalised and one.rec_normalised[0]
        figure = figures[0 if model.stage == "det" else 1]
        if whole and figure and _key(model.name) in map(_key, one.models):
            found.setdefault(one.data, figure)
    return ", ".join(f"{name} {figure:.4f}" for name, figure in found.items()) or NOTHING


def _key(model: str) -> str:
    """Return a name that the publisher's and ours have in common."""
    return re.sub("[-_]", "", model.lower())


def _beside(profiles: dict[str, Latency]) -> str:
    named = [
        f"{kind}: {_on(profiles[profile].machine)} (`{profiles[profile].name}`)"
        for profile, kind in (("xeon-8t", "CPU"), ("t4", "GPU"))
        if profile in profiles
    ]
    missing = [profile for profile in ("xeon-8t", "t4") if profile not in profiles]
    return "; ".join([*named, *(f"not yet measured: profile `{profile}`" for profile in missing)])


def _by_model(record: Latency | None) -> dict[str, LatencyCase]:
    return {case.model: case for case in record.cases} if record else {}


def _latency(record: Latency) -> Iterator[str]:
    yield f"## Latency, profile {record.profile}"
    yield f"{_on(record.machine)}. Record: `{record.name}`."
    head = ["model", "size", "weights", "device", "precision", "threads", "load, ms", "first run, ms"]
    yield _table(
        [*head, "p50, ms", "p90, ms", "p99, ms", "peak, MiB"],
        [
            [
                case.model,
                case.size,
                case.weights,
                case.device,
                case.precision,
                str(case.threads),
                _number(case.load_ms, 0),
                *(_number(ms, 1) for ms in (case.first_ms, case.p50_ms, case.p90_ms, case.p99_ms)),
                _number(case.peak_rss_mib, 0),
            ]
            for case in record.cases
        ],
    )


def _accuracy(found: Sequence[Accuracy]) -> Iterator[str]:
    if not found:
        return
    yield "## Accuracy"
    yield (
        "Detection counts regions with an IoU over 0.5; end to end those whose normalised text is equal too."
    )
    yield _table(
        [
            "set",
            "images",
            "models",
            "input",
            "found: precision",
            "recall",
            "Hmean",
            "end to end: F1",
            "record",
        ],
        [
            [
                one.data,
                f"{one.images:,} of {one.images_in_set:,}",
                one.model_set,
                one.det_input,
                *(_number(value, 4) for value in one.detection or (None,) * 3),
                _number(one.end_to_end[2] if one.end_to_end else None, 4),
                f"`{one.name}`",
            ]
            for one in found
            if one.detection or one.end_to_end
        ],
    )
    yield "Recognition of the true regions' crops:"
    yield _table(
        [
            "set",
            "lines",
            "models",
            "width",
            "lines, exact",
            "lines, normalised",
            "characters, normalised",
            "record",
        ],
        [
            [
                one.data,
                f"{one.lines:,}",
                one.model_set,
                one.width,
                _number(one.rec_exact[0], 4),
                *(_number(value, 4) for value in one.rec_normalised),
                f"`{one.name}`",
            ]
            for one in found
            if one.rec_exact and one.rec_normalised
        ],
    )


def _sides(found: Sequence[Sides]) -> Iterator[str]:
    """Yield a table per record."""
    if not found:
        return
    yield "## Accuracy against the working size"
    yield (
        "Pages shrunk to fixed long sides, and `auto`. A side above a picture's own leaves it as it is. "
        "Times are medians and means over pages; the ratio is the median over pages of the time over that "
        "of auto: below 1, the side is faster than auto. F1 and characters are of normalised texts."
    )
    for record in found:
        yield (
            f"{record.data}: {record.images:,} of {record.images_in_set:,} images, models "
            f"{record.model_set}, {record.threads} threads, {_on(record.machine)}. Record: `{record.name}`."
        )
        yield _sides_table(record)


def _sides_table(record: Sides) -> str:
    times = ("median, ms", "mean, ms", "ratio")
    return _table(
        ["side", "found: precision", "recall", "Hmean", *times, "read: F1", "characters", *times],
        [
            [
                one.label,
                *(_number(value, 4) for value in one.detection),
                *_times(one.detection_ms),
                _number(one.end_to_end[2] if one.end_to_end else None, 4),
                _number(one.character_accuracy, 4),
                *_times(one.read_ms),
            ]
            for one in record.sizes
        ],
    )


def _times(found: tuple[float, float, float] | None) -> tuple[str, str, str]:
    median_ms, mean_ms, ratio = found or (None, None, None)
    return _number(median_ms, 1), _number(mean_ms, 1), _number(ratio, 2)


def _peers(record: Peers) -> Iterator[str]:
    yield f"## Peers on {record.data}"
    yield (
        f"{record.pages} pages, {record.threads} threads, {_on(record.machine)}. Record: `{record.name}`. "
        f"The ratio is the time of {record.baseline} over the engine's: below 1, {record.baseline} is faster."
    )
    yield (
        f"Same regions: how many the engine and {record.baseline} both matched, and the character accuracy "
        f"there, the engine's / that of {record.baseline}."
    )
    yield _table(
        [
            "engine",
            "weights",
            "page, ms",
            "CPU time, ms",
            "peak, MiB",
            "lines",
            "Hmean",
            "end to end F1",
            "same regions: characters",
            "ratio",
        ],
        [
            [
                one.name,
                one.weights,
                _number(one.median_ms, 1),
                _number(one.median_cpu_ms, 1),
                _number(one.peak_rss_mib, 0),
                f"{one.lines:,}",
                _number(one.hmean, 4),
                _number(one.end_to_end_f1, 4),
                _same_regions(one, record.baseline),
                _number(one.time_share, 2),
            ]
            for one in record.engines
        ],
    )


def _same_regions(one: Peer, baseline: str) -> str:
    if one.same_regions is None or one.name == baseline:
        return NOTHING
    regions, engine, ours = one.same_regions
    return f"{regions:,}: {engine:.4f} / {ours:.4f}"


def _throughput(record: Throughput) -> Iterator[str]:
    yield f"## Throughput on {record.data}"
    yield (
        f"{record.pages_per_pass} pages a pass, {record.threads} threads, {_on(record.machine)}. Record: "
        f"`{record.name}`. Layouts are processes x threads; ratios are of speeds: over the engine's own 1x1, "
        f"and of {record.baseline}'s best layout over this one."
    )
    head = ["engine", "layout", "pages/s", "CPU time, ms", "peak, MiB", "over 1x1", "baseline over", "best"]
    yield _table(
        head,
        [
            [
                one.engine,
                one.layout,
                _number(one.pages_per_s, 2),
                _number(one.cpu_ms, 1),
                _number(one.peak_rss_mib, 0),
                _number(one.over_one_thread, 2),
                _number(one.baseline_over, 2),
                "yes" if one.best else "",
            ]
            for one in record.layouts
        ],
    )


def _load(record: Load) -> Iterator[str]:
    yield f"## A server under load with {record.data}"
    yield (
        f"{record.files:,} files of {record.pages:,} pages, {record.seconds:,g} s for each number of "
        f"clients, {_on(record.machine)}. Record: `{record.name}`. Busy are answers 503; other are pages "
        "that an engine reads otherwise; growth is that of the server's memory from the first third to the "
        "last; the engine streams the same files without HTTP, before and after."
    )
    yield _table(
        [
            "clients",
            "requests",
            "busy",
            "errors",
            "other",
            "pages/s",
            "p50, ms",
            "p90, ms",
            "p99, ms",
            "max, ms",
            "peak, MiB",
            "growth",
            "engine, pages/s",
            "over engine",
        ],
        [
            [
                *(f"{count:,}" for count in (one.clients, one.requests, one.busy, one.errors, one.other)),
                _number(one.pages_per_s, 2),
                *(_number(ms, 0) for ms in one.waits_ms or (None,) * 4),
                _number(one.peak_mib, 0),
                NOTHING if one.growth is None else f"{one.growth:+.1%}",
                _number(one.engine_pages_per_s, 2),
                _number(one.over_engine, 2),
            ]
            for one in record.steps
        ],
    )


def _scaling(record: Scaling) -> Iterator[str]:
    yield "## Scaling"
    yield f"{_on(record.machine)}. Record: `{record.name}`. Rule: {record.rule}."
    yield _table(
        ["along", "what", "growth", "exponent", "from", "to", "one more takes"],
        [
            [
                f"{axis.unit}{f', {fit.threads} thread a run' if fit.threads else ''}",
                fit.of,
                fit.verdict,
                f"{fit.exponent:.2f}",
                f"{fit.first_x:,g}",
                f"{fit.last_x:,g}",
                f"{fit.per_unit:.3g} {UNITS.get(fit.of, '')}",
            ]
            for axis in record.axes
            for fit in axis.growth
        ],
    )
    for axis in record.axes:
        yield _table(
            [
                axis.unit,
                "threads a run",
                "median, ms",
                "det, ms",
                "rec, ms",
                "the rest, ms",
                "pages/s",
                "loaded, MiB",
                "peak, MiB",
            ],
            [
                [
                    f"{one.x:,g}",
                    str(one.threads or "all"),
                    _number(one.median_ms, 1),
                    *(_number(ms, 1) for ms in (one.det_ms, one.rec_ms, one.outside_ms)),
                    _number(one.pages_per_s, 1),
                    _number(one.loaded_mib, 0),
                    _number(one.peak_mib, 0),
                ]
                for one in axis.points
            ],
        )


def _soak(record: Soak) -> Iterator[str]:
    settled = record.resident_mib[record.settled_pages // record.sample_pages - 1]
    end = record.resident_mib[-1]
    yield "## Memory over pages"
    yield (
        f"{record.pages:,} drawn pages of random sizes, {record.workers} workers: {settled:.0f} MiB "
        f"after page {record.settled_pages:,}, {end:.0f} MiB at the end ({end / settled - 1:+.1%}), "
        f"{max(record.resident_mib):.0f} MiB at most. {_on(record.machine)}. Record: `{record.name}`."
    )


def _rewrites(record: Rewrites) -> Iterator[str]:
    yield "## Rewritten models against stock ones"
    yield (
        f"{record.threads or 'all'} threads, {_on(record.machine)}. Record: `{record.name}`. The ratio is "
        "the median over rounds: below 1, the rewritten model is faster."
    )
    yield _table(
        ["model", "shape", "stock, ms", "rewritten, ms", "ratio"],
        [
            [
                one.model,
                "x".join(map(str, one.shape)),
                _number(one.stock_median_ms, 1),
                _number(one.rewritten_median_ms, 1),
                _number(one.paired_ratio, 2),
            ]
            for one in record.comparisons
        ],
    )


def _gpu(record: Gpu) -> Iterator[str]:
    where = record.gpu or "no GPU: a dry run of the same code"
    yield f"## GPU suite on {record.device}"
    yield (
        f"{where}; {_on(record.machine)}{'; few shapes and pages' if record.quick else ''}. "
        f"Record: `{record.name}`."
    )
    failed = [f"- {part.name} failed: {part.error}" for part in record.parts if part.state == "failed"]
    if failed:
        yield "\n".join(failed)
    yield _table(
        ["part", "figure", "value", "unit"],
        [
            [part.name, figure.name, f"{figure.value:,.6g}", figure.unit]
            for part in record.parts
            for figure in part.outcome.figures
        ],
    )


def _left_out(found: Records) -> Iterator[str]:
    missing = [
        f"no record of the kind `{kind}`"
        for kind in ("latency", "accuracy", "sides", "peers", "scaling", "soak")
        if not getattr(found, kind)
    ]
    if found.left_out or missing:
        yield "## Left out"
        yield "\n".join(f"- {reason}" for reason in (*found.left_out, *missing))
