"""A folder of records goes in; typed values come out, and the names of those that can't be used.

One class and one reader per kind: the only place that knows how a record is written.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ocr_onnx.errors import InputError
from ocr_onnx_bench.gpu_record import Part, part_of

Json: TypeAlias = Mapping[str, Any]
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a record was measured."""

    cpu: str
    cores: int
    commit: str


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An accuracy record. Each ratio is (precision, recall, Hmean), each text (lines, characters)."""

    name: str
    machine: Machine
    data: str
    images: int
    images_in_set: int
    model_set: str
    models: tuple[str, ...]
    det_input: str
    width: str
    lines: int | None
    detection: tuple[float, float, float] | None
    end_to_end: tuple[float, float, float] | None
    rec_exact: tuple[float, float] | None
    rec_normalised: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Soak:
    """Resident memory in MiB, one sample every `sample_pages` pages."""

    name: str
    machine: Machine
    pages: int
    workers: int
    sample_pages: int
    settled_pages: int
    resident_mib: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ScalingPoint:
    """One point of an axis; memory is the peak above the loaded engine."""

    x: float
    threads: int
    median_ms: float
    det_ms: float | None
    rec_ms: float | None
    outside_ms: float | None
    pages_per_s: float
    loaded_mib: float | None
    peak_mib: float | None


@dataclass(frozen=True, slots=True)
class ScalingGrowth:
    """What grows along an axis, and how."""

    of: str
    threads: int
    exponent: float
    per_unit: float
    first_x: float
    last_x: float
    verdict: str


@dataclass(frozen=True, slots=True)
class ScalingAxis:
    """Points and growth along one quantity."""

    axis: str
    unit: str
    points: tuple[ScalingPoint, ...]
    growth: tuple[ScalingGrowth, ...]


@dataclass(frozen=True, slots=True)
class Scaling:
    """A scaling record."""

    name: str
    machine: Machine
    rule: str
    axes: tuple[ScalingAxis, ...]


@dataclass(frozen=True, slots=True)
class LatencyCase:
    """One model, or a whole page, in one setting."""

    model: str
    weights: str
    device: str
    precision: str
    threads: int
    size: str
    load_ms: float
    first_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    peak_rss_mib: float | None


@dataclass(frozen=True, slots=True)
class Latency:
    """A latency record."""

    name: str
    machine: Machine
    profile: str
    cases: tuple[LatencyCase, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """One engine of a peers record. Shares are the baseline's needs over this engine's.

    `same_regions` is how many regions it and the baseline both matched, and the character accuracy
    there, the engine's and the baseline's.
    """

    name: str
    weights: str
    median_ms: float
    median_cpu_ms: float
    peak_rss_mib: float
    lines: int
    hmean: float | None
    end_to_end_f1: float | None
    time_share: float | None
    same_regions: tuple[int, float, float] | None


@dataclass(frozen=True, slots=True)
class Peers:
    """A peers record."""

    name: str
    machine: Machine
    data: str
    pages: int
    threads: int
    baseline: str
    engines: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class ThroughputLayout:
    """One layout of one engine; ratios are of speeds: over its one thread, the baseline's best over it."""

    engine: str
    layout: str
    pages_per_s: float
    cpu_ms: float
    peak_rss_mib: float
    best: bool
    over_one_thread: float | None
    baseline_over: float | None


@dataclass(frozen=True, slots=True)
class Throughput:
    """A throughput record."""

    name: str
    machine: Machine
    data: str
    pages_per_pass: int
    threads: int
    baseline: str
    layouts: tuple[ThroughputLayout, ...]


@dataclass(frozen=True, slots=True)
class RewritesCase:
    """A rewritten model against its stock file."""

    model: str
    shape: tuple[int, ...]
    stock_median_ms: float
    rewritten_median_ms: float
    paired_ratio: float


@dataclass(frozen=True, slots=True)
class Rewrites:
    """A rewrites record."""

    name: str
    machine: Machine
    threads: int
    comparisons: tuple[RewritesCase, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """A set at one working size. Times are (median, mean, ratio to that of "auto"); each ratio as above."""

    label: str
    detection: tuple[float, float, float]
    detection_ms: tuple[float, float, float]
    end_to_end: tuple[float, float, float] | None
    character_accuracy: float | None
    read_ms: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class Sides:
    """A sides record."""

    name: str
    machine: Machine
    data: str
    images: int
    images_in_set: int
    model_set: str
    threads: int
    sizes: tuple[Side, ...]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A record of the GPU suite. `gpu` names the card; None for a dry run, which says nothing of any."""

    name: str
    machine: Machine
    device: str
    gpu: str | None
    quick: bool
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One number of clients of a load record; `waits_ms` are p50, p90, p99 and the longest."""

    clients: int
    requests: int
    busy: int
    errors: int
    other: int
    pages_per_s: float
    waits_ms: tuple[float, float, float, float] | None
    peak_mib: float | None
    growth: float | None
    engine_pages_per_s: float
    over_engine: float


@dataclass(frozen=True, slots=True)
class Load:
    """A load record."""

    name: str
    machine: Machine
    data: str
    files: int
    pages: int
    seconds: float
    steps: tuple[LoadStep, ...]


Record: TypeAlias = Rewrites | Accuracy | Sides | Soak | Scaling | Latency | Peers | Throughput | Gpu | Load


@dataclass(frozen=True, slots=True)
class Records:
    """All records of a folder in the order of their names; `left_out` are sentences."""

    accuracy: tuple[Accuracy, ...]
    sides: tuple[Sides, ...]
    soak: tuple[Soak, ...]
    scaling: tuple[Scaling, ...]
    latency: tuple[Latency, ...]
    peers: tuple[Peers, ...]
    throughput: tuple[Throughput, ...]
    rewrites: tuple[Rewrites, ...]
    gpu: tuple[Gpu, ...]
    load: tuple[Load, ...]
    left_out: tuple[str, ...]


def read_all(folder: Path) -> Records:
    """Read every record in `folder`. Raises InputError where not one can be used."""
    found: list[Record] = []
    left_out: list[str] = []
    for file in sorted(folder.glob("*.json")):
        try:
            found.append(read(file))
        except InputError as error:
            left_out.append(f"{file.name}: {error.problem}")
    if not found:
        problem = "; ".join(left_out) or "holds no record"
        raise InputError(str(folder), problem, "measure something, or name another folder with --results")

    def of(kind: type[Made]) -> tuple[Made, ...]:
        return tuple(record for record in found if isinstance(record, kind))

    return Records(
        accuracy=of(Accuracy),
        sides=of(Sides),
        soak=of(Soak),
        scaling=of(Scaling),
        latency=of(Latency),
        peers=of(Peers),
        throughput=of(Throughput),
        rewrites=of(Rewrites),
        gpu=of(Gpu),
        load=of(Load),
        left_out=tuple(left_out),
    )


def read(file: Path) -> Record:
    """Read one record. Raises InputError for what is none, or of a kind that is not reported."""
    remedy = "measure it again"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(file), f"can't be read as JSON ({error})", remedy) from error
    kind = content.get("kind") if isinstance(content, dict) else None
    reader = READERS.get(str(kind))
    if reader is None:
        raise InputError(str(file), f"is of the kind {kind!r}, which the report does not know", remedy)
    try:
        return reader(file.stem, content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"is no record of the kind {kind!r} ({type(error).__name__}: {error})"
        raise InputError(str(file), problem, remedy) from error


def _machine(record: Json) -> Machine:
    found = record["environment"]
    return Machine(str(found["cpu"]), int(found["cores"]), str(found["commit"] or "unknown")[:7])


def _accuracy(name: str, record: Json) -> Accuracy:
    data, figures, options = record["data"], record["figures"], record["options"]
    ratio = ("precision", "recall", "hmean")
    text = ("line_accuracy", "character_accuracy")
    texts = figures["recognition_normalised"]
    side = {"auto": "auto, long", "max": "long", "min": "short"}[options["det"]["limit_type"]]
    return Accuracy(
        name=name,
        machine=_machine(record),
        data=data["name"],
        images=data["images"],
        images_in_set=data["images_in_set"],
        model_set=record["model_set"],
        models=tuple(
            model.partition("@")[0] for _, model in (record["provenance"] or {"models": ()})["models"]
        ),
        det_input=f"{side} side {options['det']['limit_side_px']}",
        width=options["rec"]["width"],
        lines=texts and int(texts["lines"]),
        detection=_floats(figures["detection"], ratio),
        end_to_end=_floats(figures["end_to_end_normalised"], ratio),
        rec_exact=_floats(figures["recognition_exact"], text),
        rec_normalised=_floats(texts, text),
    )


def _floats(figures: Json | None, keys: tuple[str, ...]) -> Any:
    return figures and tuple(float(figures[key]) for key in keys)


def _sides(name: str, record: Json) -> Sides:
    data = record["data"]
    return Sides(
        name=name,
        machine=_machine(record),
        data=data["name"],
        images=int(data["images"]),
        images_in_set=int(data["images_in_set"]),
        model_set=record["model_set"],
        threads=int(record["threads"]),
        sizes=tuple(_side(size) for size in record["sizes"]),
    )


def _side(size: Json) -> Side:
    ratio, times = ("precision", "recall", "hmean"), ("median_ms", "mean_ms", "paired_ratio")
    return Side(
        label="auto" if size["limit_type"] == "auto" else str(size["side_px"]),
        detection=_floats(size["detection"], ratio),
        detection_ms=_floats(size["detection_time"], times),
        end_to_end=_floats(size["end_to_end_normalised"], ratio),
        character_accuracy=size["character_accuracy"],
        read_ms=_floats(size["read_time"], times),
    )


def _soak(name: str, record: Json) -> Soak:
    return Soak(
        name=name,
        machine=_machine(record),
        pages=int(record["pages"]),
        workers=int(record["workers"]),
        sample_pages=int(record["sample_pages"]),
        settled_pages=int(record["settled_pages"]),
        resident_mib=tuple(float(mib) for mib in record["resident_mib"]),
    )


def _scaling(name: str, record: Json) -> Scaling:
    return Scaling(
        name=name,
        machine=_machine(record),
        rule=str(record["rule"]),
        axes=tuple(
            ScalingAxis(
                axis["axis"],
                axis["unit"],
                tuple(_scaling_point(point) for point in axis["points"]),
                tuple(_picked(ScalingGrowth, fit) for fit in axis["growth"]),
            )
            for axis in record["axes"]
        ),
    )


def _scaling_point(point: Json) -> ScalingPoint:
    return _picked(ScalingPoint, {**point, "threads": point["work"]["threads"]})


def _picked(kind: Callable[..., Made], values: Json) -> Made:
    """Make a dataclass of those `values` that it has fields for."""
    return kind(**{field: values[field] for field in inspect.signature(kind).parameters})


def _latency(name: str, record: Json) -> Latency:
    return Latency(
        name=name,
        machine=_machine(record),
        profile=str(record["profile"]),
        cases=tuple(_latency_case(result) for result in record["cases"]),
    )


def _latency_case(result: Json) -> LatencyCase:
    """Read one case: a network has a shape (batch, height, width), page and map (width, height, lines).

    Records from before there were maps don't name them.
    """
    case = result["case"]
    if case["shape"]:
        size = "x".join(map(str, case["shape"]))
    else:
        kind = "page" if case["page"] else "map"
        width_px, height_px, lines = case[kind]
        size = f"{kind} {width_px}x{height_px}, {lines} lines"
    return _picked(LatencyCase, {**case, **result, "size": size})


def _peers(name: str, record: Json) -> Peers:
    return Peers(
        name=name,
        machine=_machine(record),
        data=record["data"],
        pages=int(record["pages"]),
        threads=int(record["threads"]),
        baseline=record["baseline"],
        engines=tuple(_peer(engine) for engine in record["engines"]),
    )


def _peer(engine: Json) -> Peer:
    accuracy, share = engine["accuracy"] or {}, engine["baseline_share"] or {}
    same = engine.get("same_regions")
    return Peer(
        name=engine["name"],
        weights=str(engine["weights"]),
        median_ms=float(engine["median_ms"]),
        median_cpu_ms=float(engine["median_cpu_ms"]),
        peak_rss_mib=float(engine["peak_rss_mib"]),
        lines=int(engine["lines"]),
        hmean=accuracy.get("hmean"),
        end_to_end_f1=accuracy.get("end_to_end_f1"),
        time_share=share.get("time"),
        same_regions=same
        and (
            int(same["regions"]),
            float(same["character_accuracy"]),
            float(same["baseline_character_accuracy"]),
        ),
    )


def _throughput(name: str, record: Json) -> Throughput:
    return Throughput(
        name=name,
        machine=_machine(record),
        data=record["data"],
        pages_per_pass=int(record["pages_per_pass"]),
        threads=int(record["threads"]),
        baseline=record["baseline"],
        layouts=tuple(_throughput_layout(layout) for layout in record["layouts"]),
    )


def _throughput_layout(found: Json) -> ThroughputLayout:
    layout = found["layout"]
    streams = "" if layout["workers"] is None else f" stream {layout['workers']}"
    return _picked(
        ThroughputLayout,
        {
            **found,
            "layout": f"{layout['processes']}x{layout['threads']}{streams}",
            "over_one_thread": (found["over_one_thread"] or {}).get("median"),
            "baseline_over": (found["baseline_over"] or {}).get("median"),
        },
    )


def _rewrites(name: str, record: Json) -> Rewrites:
    cases = tuple(_picked(RewritesCase, case) for case in record["comparisons"])
    return Rewrites(name, _machine(record), int(record["threads"]), cases)


def _load(name: str, record: Json) -> Load:
    return Load(
        name=name,
        machine=_machine(record),
        data=record["data"],
        files=int(record["files"]),
        pages=int(record["pages"]),
        seconds=float(record["seconds"]),
        steps=tuple(_load_step(step) for step in record["steps"]),
    )


def _load_step(step: Json) -> LoadStep:
    errors = sum(int(times) for _, times in step["errors"])
    peak_mib = max(map(float, step["resident_mib"]), default=None)
    waits_ms = _floats(step["waits"], ("p50_ms", "p90_ms", "p99_ms", "max_ms"))
    return _picked(LoadStep, {**step, "errors": errors, "waits_ms": waits_ms, "peak_mib": peak_mib})


def _gpu(name: str, record: Json) -> Gpu:
    return Gpu(
        name=name,
        machine=_machine(record),
        device=str(record["device"]),
        gpu=None if record["dry_run"] else str(record["environment"]["gpu"] or "a GPU without nvidia-smi"),
        quick=bool(record["quick"]),
        parts=tuple(map(part_of, record["parts"])),
    )


READERS: Mapping[str, Callable[[str, Json], Record]] = {
    "accuracy": _accuracy,
    "sides": _sides,
    "soak": _soak,
    "scaling": _scaling,
    "latency": _latency,
    "peers": _peers,
    "throughput": _throughput,
    "rewrites": _rewrites,
    "gpu": _gpu,
    "load": _load,
}
