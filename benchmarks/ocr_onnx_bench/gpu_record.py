"""What the GPU suite found: one frozen record of all its parts, written after each, read back to go on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ocr_onnx.errors import InputError
from ocr_onnx_bench import environment
from ocr_onnx_bench.tables import aligned

State: TypeAlias = Literal["ok", "failed"]
REMEDY = "give --out another file, or leave --resume out"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number and its unit ("ms", "MiB", "share" from 0 to 1, "" for a count)."""

    name: str
    value: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Every sample behind a figure, in the order they were taken."""

    name: str
    unit: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ran:
    """What really ran a model: its session's first provider, and the operations each provider took.

    `nodes` are counted in a traced run of its own; empty where none was made.
    """

    model: str
    provider: str
    nodes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a part found. `problem` says which bar was missed; "" where there is none, or it was met."""

    figures: tuple[Figure, ...]
    series: tuple[Series, ...] = ()
    ran: tuple[Ran, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the suite: how it ended and what it found until then."""

    name: str
    state: State
    seconds: float
    error: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class GpuRecord:
    """All parts of one run.

    `device` is the one that was asked for, and each part's `ran` what really ran. `dry_run` is true
    where that is no GPU: such a record proves the code, and says nothing of any GPU. `quick` is a
    run with few shapes and pages.
    """

    kind: Literal["gpu"]
    device: str
    dry_run: bool
    quick: bool
    parts: tuple[Part, ...]
    environment: environment.Environment


def read_parts(file: Path, device: str, *, quick: bool) -> tuple[Part, ...]:
    """Return the parts of an unfinished record that went well, to be kept; none where there is no file.

    Raises InputError for what is no such record, or one of another device, size, machine or commit.
    """
    if not file.exists():
        return ()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        same = (content["kind"], content["device"], content["quick"]) == ("gpu", device, quick)
        there, here = content["environment"], environment.describe()
        same = same and (there["gpu"], there["cpu"], there["commit"]) == (here.gpu, here.cpu, here.commit)
        parts = tuple(map(part_of, content["parts"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        problem = f"is no record of the GPU suite ({type(error).__name__})"
        raise InputError(str(file), problem, REMEDY) from error
    if not same:
        raise InputError(str(file), "is of another device, size, machine or commit", REMEDY)
    return tuple(part for part in parts if part.state == "ok")


def summary(found: GpuRecord) -> str:
    """Return the figures for a person. The first line says on what they were taken."""
    what = " (DRY RUN: no GPU was measured)" if found.dry_run else ""
    gpu = found.environment.gpu if not found.dry_run else None
    lines = [f"device: {found.device}{what}" + (f", {gpu}" if gpu else "")]
    for part in found.parts:
        lines += [f"== {part.name}: {part.state}, {part.seconds:.1f} s"]
        lines += [f"   {part.error}"] if part.error else []
        rows = [(figure.name, f"{figure.value:.6g}", figure.unit) for figure in part.outcome.figures]
        lines += [f"   {line}" for line in aligned(rows)] if rows else []
        lines += [f"   {_ran(one)}" for one in part.outcome.ran]
        lines += [f"   note: {note}" for note in part.outcome.notes]
    return "\n".join(lines)


def failures(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return the names of the parts that failed."""
    return tuple(part.name for part in parts if part.state == "failed")


def part_of(values: Mapping[str, Any]) -> Part:
    """Read a part as its record has it; LookupError or TypeError where something is missing."""
    found = values["outcome"]
    outcome = Outcome(
        figures=tuple(Figure(**one) for one in found["figures"]),
        series=tuple(Series(one["name"], one["unit"], tuple(one["values"])) for one in found["series"]),
        ran=tuple(
            Ran(one["model"], one["provider"], tuple((name, count) for name, count in one["nodes"]))
            for one in found["ran"]
        ),
        notes=tuple(found["notes"]),
        problem=found["problem"],
    )
    return Part(values["name"], values["state"], values["seconds"], values["error"], outcome)


def _ran(one: Ran) -> str:
    nodes = ", ".join(f"{count} operations on {provider}" for provider, count in one.nodes)
    return f"{one.model}: {one.provider}" + (f"; {nodes}" if nodes else "")
