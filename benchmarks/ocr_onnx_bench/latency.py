"""Cases go in; how long each takes comes out, with every sample.

Every case runs in a process of its own (`latency_worker.py`), so that its load time, first run and peak of
memory are its alone. The processes take turns, round by round: a machine that slows down for a while
slows every case, not one.
"""

import contextlib
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np

from ocr_onnx import model_store
from ocr_onnx.errors import ModelError, OcrError
from ocr_onnx.options import ModelOptions
from ocr_onnx.threads import usable_threads
from ocr_onnx_bench import environment, models, reference
from ocr_onnx_bench.cases import Case
from ocr_onnx_bench.latency_worker import PAGE_STAGES, Job, Loaded, serve
from ocr_onnx_bench.models import Weights

MIN_REPETITIONS = 30
MIN_SECONDS = 3.0
ROUNDS = 10  # a case's repetitions are spread over so many turns
WARM_UP_SECONDS = 1.0
MAX_RUNS_A_TURN = 30  # more of a quick case's samples only make its record longer
REAL: Final[Weights] = "real"

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What one case took. Times are in ms, `samples_ms` in the order they were taken.

    `models` are "stage name@sha256". `first_ms` is the first run after loading, which pays for memory
    and choices of kernels. `stages_ms` are medians per stage of a page. `nodes` counts the model's
    operations by the execution provider that ran them, seen in a profiled run of its own.
    `peak_rss_mib` is the most memory its process ever held (None where the system does not tell),
    `gpu_mib` what it held on the GPU. `published_ms` is the reference's figure, from its machine.
    """

    case: Case
    weights: Weights
    models: tuple[str, ...]
    provider: str
    threads: int
    load_ms: float
    first_ms: float
    samples_ms: tuple[float, ...]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    stages_ms: tuple[tuple[str, float], ...]
    nodes: tuple[tuple[str, int], ...]
    peak_rss_mib: float | None
    gpu_mib: float | None
    published_ms: float | None


@dataclass(frozen=True, slots=True)
class LatencyRecord:
    """All cases of one run. `load_average` is that of the minute before it, None where unknown."""

    kind: Literal["latency"]
    profile: str
    cases: tuple[CaseResult, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    load_average: float | None
    environment: environment.Environment


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a case is measured: at least so many repetitions, and at least so many seconds."""

    repetitions: int = MIN_REPETITIONS
    seconds: float = MIN_SECONDS


class _Worker:
    """The pipe to a process that holds one case."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=serve, args=(child, job), daemon=True)
        self._process.start()
        child.close()

    def ask(self, request: str, count: int = 0) -> Any:
        """Send a request and return the answer; an OcrError of the other side is raised here."""
        return _answer(self._pipe, request, count)

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()


@dataclass(slots=True, eq=False)
class _Running:
    """A loaded case, and what was measured of it so far; `runs` are those of a turn."""

    job: Job
    weights: Weights
    loaded: Loaded
    worker: _Worker
    runs: int = 1
    samples_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)


def make_record(
    profile: str,
    cases: Sequence[Case],
    *,
    options: ModelOptions,
    graphs: Path | None = None,
    effort: Effort = Effort(),
    progress: Callable[[str], None] | None = None,
) -> LatencyRecord:
    """Measure the cases; one that can't be measured, or fails on the way, is left out with its cause."""
    left_out: list[str] = []
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="ocr-onnx-bench-") as folder, contextlib.ExitStack() as stack:
        running: list[_Running] = []

        def attempt(case: Case, call: Callable[[], Made]) -> Made | None:
            try:
                return call()
            except OcrError as error:  # its subject may be a path, which is nobody's business
                left_out.append(f"{case}: {error.problem}; {error.remedy}")
                return None

        for case in cases:
            started = attempt(case, partial(_start, case, options, graphs, Path(folder), stack))
            if started is not None:
                running.append(started)
        running = [
            one for one in running if attempt(one.job.case, partial(_warm_up, one, effort)) is not None
        ]
        for number in range(ROUNDS):
            if progress is not None:
                progress(f"round {number + 1} of {ROUNDS}")
            # to and fro, so that none always comes after the same one
            order = running if number % 2 == 0 else running[::-1]
            failed = [one for one in order if attempt(one.job.case, partial(_take_turn, one)) is None]
            running = [one for one in running if one not in failed]
        ended = [attempt(one.job.case, partial(_result, one)) for one in running]
        results = tuple(one for one in ended if one is not None)
    return LatencyRecord(
        kind="latency",
        profile=profile,
        cases=results,
        left_out=tuple(left_out),
        notes=_notes(results),
        load_average=load_average,
        environment=environment.describe(),
    )


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0..1) of the samples lie, interpolated linearly."""
    return float(np.quantile(np.asarray(samples), share))


def summary(found: LatencyRecord) -> str:
    """Return the figures as a table for a person."""
    lines = [
        f"{'model':22} {'weights':11} {'size':>12} {'device':8} {'threads':>7} {'p50 ms':>9} {'p90 ms':>9} "
        f"{'p99 ms':>9} {'first':>8} {'load':>8} {'RSS MiB':>8} {'published':>10}"
    ]
    for one in found.cases:
        size = "x".join(map(str, one.case.shape or one.case.page or one.case.map or ()))
        published = "" if one.published_ms is None else f"{one.published_ms:.1f}"
        rss = "" if one.peak_rss_mib is None else f"{one.peak_rss_mib:.0f}"
        lines.append(
            f"{one.case.model:22} {one.weights:11} {size:>12} {one.case.device:8} {one.threads:>7} "
            f"{one.p50_ms:9.2f} {one.p90_ms:9.2f} {one.p99_ms:9.2f} {one.first_ms:8.1f} {one.load_ms:8.1f} "
            f"{rss:>8} {published:>10}"
        )
        if one.stages_ms:
            lines.append("    " + ", ".join(f"{stage} {ms:.2f}" for stage, ms in one.stages_ms))
    if any(one.published_ms is not None for one in found.cases):
        lines.append("published: the reference's own, ms on its own machine (see benchmarks/README.md)")
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join(lines + [f"left out: {reason}" for reason in found.left_out])


def _start(
    case: Case, options: ModelOptions, graphs: Path | None, folder: Path, stack: contextlib.ExitStack
) -> _Running:
    """Load a case in a process of its own, which `stack` ends."""
    if case.page is not None:
        files = model_store.resolve(ModelOptions(name=case.model, folder=options.folder, offline=True))
        names = tuple(f"{file.spec.name}@{file.sha256}" for file in (files.det, files.rec))
        job, weights = Job(case, "page", case.model, names, options.folder), REAL
    elif case.map is not None:
        job, weights = Job(case, "map", case.model, ()), REAL
    else:
        model = models.obtain(case.model, case.precision, options, graphs, folder)
        job = Job(case, model.stage, str(model.path), (f"{model.name}@{model.sha256}",))
        weights = model.weights
    worker = _Worker(job)
    stack.callback(worker.stop)
    return _Running(job, weights, worker.ask("load"), worker)


def _warm_up(one: _Running, effort: Effort) -> int:
    """Run a case for a while and return how many runs a turn needs to keep `effort`'s bounds at the end."""
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP_SECONDS:
        one.worker.ask("run", 1)
    typical_ms: float = statistics.median(one.worker.ask("run", 3)[0])
    for_seconds = min(MAX_RUNS_A_TURN, math.ceil(1000 * effort.seconds / ROUNDS / typical_ms))
    one.runs = max(1, math.ceil(effort.repetitions / ROUNDS), for_seconds)
    return one.runs


def _take_turn(one: _Running) -> int:
    """Run a case as often as a turn asks for; the first run, in caches that others used, does not count."""
    one.worker.ask("run", 1)
    samples, stages = one.worker.ask("run", one.runs)
    one.samples_ms += samples
    for stage, times in stages.items():
        one.stages_ms.setdefault(stage, []).extend(times)
    return len(samples)


def _result(one: _Running) -> CaseResult:
    case = one.job.case
    end = one.worker.ask("end")
    published = reference.find(case.model)
    return CaseResult(
        case=case,
        weights=one.weights,
        models=one.job.models,
        provider=one.loaded.provider,
        threads=case.threads or usable_threads(),
        load_ms=round(one.loaded.load_ms, 3),
        first_ms=round(one.loaded.first_ms, 3),
        samples_ms=tuple(round(sample, 3) for sample in one.samples_ms),
        p50_ms=percentile(one.samples_ms, 0.5),
        p90_ms=percentile(one.samples_ms, 0.9),
        p99_ms=percentile(one.samples_ms, 0.99),
        stages_ms=tuple(
            (stage, statistics.median(one.stages_ms[stage]))
            for stage in PAGE_STAGES
            if stage in one.stages_ms
        ),
        nodes=end.nodes,
        peak_rss_mib=end.peak_rss_mib,
        gpu_mib=end.gpu_mib,
        published_ms=getattr(published, case.reference) if published and case.reference else None,
    )


def _notes(results: Sequence[CaseResult]) -> tuple[str, ...]:
    usable = usable_threads()
    more = sorted({one.threads for one in results if one.case.device == "cpu" and one.threads > usable})
    made = sorted({one.case.model for one in results if one.weights != "real"})
    return (
        *(f"{threads} threads were used as asked, on {usable} usable cores" for threads in more),
        *([f"with random weights, on which speed does not depend: {', '.join(made)}"] if made else []),
    )


def _answer(pipe: Connection, request: str, count: int) -> Any:
    try:
        pipe.send((request, count))
        answer = pipe.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise ModelError("the measuring process", "ended by itself", "see what it printed above") from error
    if isinstance(answer, OcrError):
        raise answer
    return answer


def matching(cases: Sequence[Case], names: Sequence[str]) -> Iterator[Case]:
    """Yield the cases of the models `names`; all where there are none."""
    return (case for case in cases if not names or case.model in names)
