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
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ocr_onnx import model_store
from ocr_onnx.errors import InputError, ModelError, OcrError
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
    """A process that holds one loaded case, and the pipe to it."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=serve, args=(child, job), daemon=True)
        self._process.start()
        child.close()
        self.samples_ms: list[float] = []
        self.stages_ms: dict[str, list[float]] = {}

    def ask(self, request: str, count: int = 0) -> Any:
        """Send a request and return the answer; an OcrError of the other side is raised here."""
        return _answer(self._pipe, request, count)

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()


def make_record(
    profile: str,
    cases: Sequence[Case],
    *,
    options: ModelOptions,
    graphs: Path | None = None,
    effort: Effort = Effort(),
    progress: Callable[[str], None] | None = None,
) -> LatencyRecord:
    """Measure the cases; one that can't be measured is left out with its cause.

    Raises InputError where not one could be measured.
    """
    left_out: list[str] = []
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="ocr-onnx-bench-") as folder, contextlib.ExitStack() as stack:
        prepared: list[tuple[Job, Weights, Loaded, _Worker]] = []
        for case in cases:
            try:
                job, weights = _prepare(case, options, graphs, Path(folder))
                worker = _Worker(job)
                stack.callback(worker.stop)
                loaded: Loaded = worker.ask("load")
            except OcrError as error:
                left_out.append(f"{case}: {error}")
            else:
                prepared.append((job, weights, loaded, worker))
        if not prepared:
            raise InputError(f"profile {profile}", f"has no case that runs here ({left_out[0]})", "mend that")
        _take_turns([worker for _, _, _, worker in prepared], effort, progress)
        results = tuple(_result(*each) for each in prepared)
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
        size = "x".join(map(str, one.case.shape or one.case.page or ()))
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


def _prepare(case: Case, options: ModelOptions, graphs: Path | None, folder: Path) -> tuple[Job, Weights]:
    if case.page is not None:
        files = model_store.resolve(ModelOptions(name=case.model, folder=options.folder, offline=True))
        names = tuple(f"{file.spec.name}@{file.sha256}" for file in (files.det, files.rec))
        return Job(case, "page", case.model, names, options.folder), "real"
    model = models.obtain(case.model, case.precision, options, graphs, folder)
    return Job(case, model.stage, str(model.path), (f"{model.name}@{model.sha256}",)), model.weights


def _take_turns(workers: Sequence[_Worker], effort: Effort, progress: Callable[[str], None] | None) -> None:
    for worker in workers:
        _warm_up(worker)
    counts = [_runs_a_turn(worker, effort) for worker in workers]
    for number in range(ROUNDS):
        if progress is not None:
            progress(f"round {number + 1} of {ROUNDS}")
        for worker, count in zip(workers, counts, strict=True):
            samples, stages = worker.ask("run", count)
            worker.samples_ms += samples
            for stage, times in stages.items():
                worker.stages_ms.setdefault(stage, []).extend(times)


def _warm_up(worker: _Worker) -> None:
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP_SECONDS:
        worker.ask("run", 1)


def _runs_a_turn(worker: _Worker, effort: Effort) -> int:
    """Return how many runs a turn needs for both bounds of `effort` to hold at the end."""
    typical_ms: float = statistics.median(worker.ask("run", 3)[0])
    for_repetitions = math.ceil(effort.repetitions / ROUNDS)
    return max(1, for_repetitions, math.ceil(1000 * effort.seconds / ROUNDS / typical_ms))


def _result(job: Job, weights: Weights, loaded: Loaded, worker: _Worker) -> CaseResult:
    case = job.case
    end = worker.ask("end")
    published = reference.find(case.model)
    return CaseResult(
        case=case,
        weights=weights,
        models=job.models,
        provider=loaded.provider,
        threads=case.threads or usable_threads(),
        load_ms=round(loaded.load_ms, 3),
        first_ms=round(loaded.first_ms, 3),
        samples_ms=tuple(round(sample, 3) for sample in worker.samples_ms),
        p50_ms=percentile(worker.samples_ms, 0.5),
        p90_ms=percentile(worker.samples_ms, 0.9),
        p99_ms=percentile(worker.samples_ms, 0.99),
        stages_ms=tuple(
            (stage, statistics.median(worker.stages_ms[stage]))
            for stage in PAGE_STAGES
            if stage in worker.stages_ms
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
