"""A device goes in; one record of everything the GPU suite measures on it comes out.

`ocr-onnx bench gpu` runs it from the command line. Every part runs in a process of its own: one that
fails, hangs or takes its process down is recorded so, and the others go on. The record is written
after each part.
"""

import contextlib
import math
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import MappingProxyType

from ocr_onnx.errors import OcrError, OptionError
from ocr_onnx_bench import environment, gpu_networks, gpu_pages
from ocr_onnx_bench.gpu_device import GPUS, Plan
from ocr_onnx_bench.gpu_record import GpuRecord, Outcome, Part, read_parts
from ocr_onnx_bench.record import write

PARTS: Mapping[str, Callable[[Plan], Outcome]] = MappingProxyType(
    {
        "parity": gpu_networks.parity,
        "texts": gpu_pages.texts,
        "fp16": gpu_networks.half_precision,
        "search": gpu_networks.search,
        "stalls": gpu_networks.stalls,
        "memory-bounded": gpu_networks.memory_bounded,
        "memory-unbounded": gpu_networks.memory_unbounded,
        "reduced": gpu_networks.reduced,
        "workers": gpu_pages.pages_per_second,
        "latency": gpu_networks.six_models,
        "soak": gpu_pages.long_soak,
    }
)
PART_SECONDS = 3600.0
ENDING_SECONDS = 60.0
NOTHING = Outcome(())
FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'\":]+)+[/\\]")

Say = Callable[[str], None]


def parse_parts(text: str) -> tuple[str, ...]:
    """Return the parts named in "a,b", in the suite's order; all for "". Raises OptionError."""
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        raise OptionError(
            "--parts", f"{unknown[0]!r} is no part of the suite", f"there are {', '.join(PARTS)}"
        )
    return tuple(name for name in PARTS if not wanted or name in wanted)


def measure(
    plan: Plan,
    names: Sequence[str],
    out: Path,
    *,
    resume: bool = False,
    part_seconds: float = PART_SECONDS,
    say: Say | None = None,
) -> GpuRecord:
    """Run the parts `names` and write the record to `out` after each of them.

    With `resume`, parts that the record there has already, and that went well, are kept and not run
    again. Raises DeviceError and OptionError where the device can't be used, InputError where
    `resume` finds another run's record.
    """
    plan = replace(plan, device=str(plan.at))
    done = read_parts(out, plan.device, quick=plan.quick) if resume else ()
    found = GpuRecord("gpu", plan.device, plan.at.kind not in GPUS, plan.quick, done, environment.describe())
    write(out, found)  # what can't be written is told before hours of work
    for name in names:
        if any(part.name == name for part in done):
            continue
        if say is not None:
            say(f"{name} on {plan.device}")
        part = run_part(name, plan, part_seconds)
        found = replace(found, parts=in_order((*found.parts, part)))
        write(out, found)
    return found


def in_order(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return parts as the suite has them."""
    return tuple(sorted(parts, key=lambda part: list(PARTS).index(part.name)))


def run_part(name: str, plan: Plan, part_seconds: float = PART_SECONDS) -> Part:
    """Run one part in a process of its own and tell how it ended."""
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="ocr-onnx-gpu-") as folder:
        errors = Path(folder) / "stderr.txt"
        process = context.Process(target=_in_child, args=(theirs, name, plan, errors))
        process.start()
        theirs.close()
        answer: Outcome | OcrError | None = None
        in_time = False
        try:
            in_time = ours.poll(part_seconds)
            with contextlib.suppress(EOFError):  # it ended without an answer
                answer = ours.recv() if in_time else None
        finally:
            code = _end(process, ENDING_SECONDS if in_time else 0)
        told = errors.read_text(encoding="utf-8", errors="replace") if errors.is_file() else ""
    ending = f"its process ended with {code}" if in_time else f"took more than {part_seconds:g} s"
    part = _part(name, round(time.perf_counter() - start, 3), answer, ending + last_words(told))
    if part.state == "failed":
        sys.stderr.write(told)
    return replace(part, outcome=_noted(part.outcome, ending)) if answer and code else part


def recordable(found: Outcome) -> tuple[Outcome, tuple[str, ...]]:
    """Return an outcome without the figures and samples that are no numbers, and the names of those."""
    lost = [one.name for one in found.figures if not math.isfinite(one.value)]
    lost += [one.name for one in found.series if not all(map(math.isfinite, one.values))]
    return replace(
        found,
        figures=tuple(one for one in found.figures if one.name not in lost),
        series=tuple(one for one in found.series if one.name not in lost),
    ), tuple(lost)


def last_words(told: str) -> str:
    """Return the last line a process wrote to stderr, after ": " and without folders; "" for none."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return f": {FOLDERS.sub('', lines[-1])}" if lines else ""


def _part(name: str, seconds: float, answer: Outcome | OcrError | None, ending: str) -> Part:
    if answer is None:
        return Part(name, "failed", seconds, ending, NOTHING)
    if isinstance(answer, OcrError):  # its subject may be a path, which is nobody's business
        return Part(name, "failed", seconds, f"{answer.problem}; {answer.remedy}", NOTHING)
    outcome, lost = recordable(answer)
    no_numbers = f"no numbers: {', '.join(lost)}" if lost else ""
    error = "; ".join(filter(None, (outcome.problem, no_numbers)))
    return Part(name, "failed" if error else "ok", seconds, error, outcome)


def _noted(outcome: Outcome, note: str) -> Outcome:
    return replace(outcome, notes=(*outcome.notes, f"after the part, {note}"))


def _end(process: SpawnProcess, patience_seconds: float) -> int | None:
    """Wait for a process, then end it; return its exit code."""
    process.join(patience_seconds)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode


def _in_child(pipe: Connection, name: str, plan: Plan, errors: Path) -> None:
    """Run a part with stderr in a file: what a process says when it dies must not be lost with it."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    try:
        pipe.send(PARTS[name](plan))
    except OcrError as error:
        pipe.send(error)
