"""A TOML file of matrices goes in; the cases of one profile come out, one for every combination."""

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ocr_onnx.errors import OptionError

Precision: TypeAlias = Literal["fp32", "fp16", "fp16-storage", "int8"]
Published: TypeAlias = Literal["cpu_ms", "gpu_ms"]

MATRIX_KEYS = frozenset({"models", "devices", "precisions", "threads", "shapes", "reference"})
PAGES_KEYS = frozenset({"models", "devices", "threads", "sizes"})
MAPS_KEYS = frozenset({"drawn", "sizes"})
DRAWN = ("lines", "noise")


@dataclass(frozen=True, slots=True)
class Case:
    """One network run, one whole page, or what follows the detector on one drawn map.

    `shape` is batch, height, width; `page` and `map` are width, height, lines. `model` is a
    publisher's name of a model, for a page that of a model set, for a map what is drawn on it (one
    of DRAWN). `threads` is 0 for all.
    """

    model: str
    device: str
    precision: Precision
    threads: int
    shape: tuple[int, int, int] | None = None
    page: tuple[int, int, int] | None = None
    map: tuple[int, int, int] | None = None
    reference: Published | None = None

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape or self.page or self.map or ()))
        return f"{self.model} {size}, {self.device}, {self.precision}, {self.threads or 'all'} threads"


def default_file() -> Path:
    """Return the matrix that comes with the package: inside the wheel, beside the package in a checkout."""
    inside = Path(__file__).with_name("cases.toml")
    return inside if inside.is_file() else Path(__file__).parents[1] / "cases.toml"


def read(file: Path, profile: str) -> tuple[Case, ...]:
    """Return the cases of `profile` in the file's order; OptionError for what is missing or wrong."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(str(file), f"can't be read ({error})", "give a TOML file of cases") from error
    profiles = document.get("profiles", {})
    if profile not in profiles:
        known = ", ".join(profiles) or "none"
        raise OptionError("--profile", f"{profile!r} is not in {file.name}", f"there are: {known}")
    found = [
        *_runs(f"{file.name}, {profile}, matrix", profiles[profile].get("matrix", [])),
        *_pages(f"{file.name}, {profile}, pages", profiles[profile].get("pages", [])),
        *_maps(f"{file.name}, {profile}, maps", profiles[profile].get("maps", [])),
    ]
    if not found:
        raise OptionError(str(file), f"has no case in {profile!r}", "add a matrix to it")
    return tuple(found)


def _runs(place: str, matrices: Sequence[Mapping[str, Any]]) -> Iterator[Case]:
    for matrix in matrices:
        _check_keys(place, matrix, MATRIX_KEYS)
        reference = matrix.get("reference")
        if reference not in (None, *get_args(Published)):
            raise _invalid(place, f"reference {reference!r} is neither cpu_ms nor gpu_ms")
        axes = (
            _list(place, matrix, "models", str),
            _list(place, matrix, "devices", str),
            _list(place, matrix, "precisions", str),
            _list(place, matrix, "threads", int),
            _triples(place, matrix, "shapes"),
        )
        for model, device, precision, threads, shape in itertools.product(*axes):
            if precision not in get_args(Precision):
                raise _invalid(place, f"{precision!r} is no precision")
            yield Case(model, device, precision, threads, shape=shape, reference=reference)


def _pages(place: str, matrices: Sequence[Mapping[str, Any]]) -> Iterator[Case]:
    for matrix in matrices:
        _check_keys(place, matrix, PAGES_KEYS)
        axes = (
            _list(place, matrix, "models", str),
            _list(place, matrix, "devices", str),
            _list(place, matrix, "threads", int),
            _triples(place, matrix, "sizes"),
        )
        for model, device, threads, page in itertools.product(*axes):
            yield Case(model, device, "fp32", threads, page=page)


def _maps(place: str, matrices: Sequence[Mapping[str, Any]]) -> Iterator[Case]:
    for matrix in matrices:
        _check_keys(place, matrix, MAPS_KEYS)
        axes = (_list(place, matrix, "drawn", str), _triples(place, matrix, "sizes"))
        for drawn, size in itertools.product(*axes):
            if drawn not in DRAWN:
                raise _invalid(place, f"{drawn!r} is none of {', '.join(DRAWN)}")
            yield Case(drawn, "cpu", "fp32", 1, map=size)


def _check_keys(place: str, matrix: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(set(matrix) - known)
    if unknown:
        raise _invalid(place, f"unknown key {unknown[0]!r}; there are: {', '.join(sorted(known))}")


def _list(place: str, matrix: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    values = matrix.get(key)
    if not isinstance(values, list) or not values or any(type(value) is not kind for value in values):
        raise _invalid(place, f"{key} must be a list of {kind.__name__}")
    return values


def _triples(place: str, matrix: Mapping[str, Any], key: str) -> list[tuple[int, int, int]]:
    values = _list(place, matrix, key, list)
    if any(len(row) != 3 or any(type(size) is not int or size < 1 for size in row) for row in values):
        raise _invalid(place, f"{key} must be lists of three whole numbers from 1 up")
    return [tuple(row) for row in values]


def _invalid(place: str, problem: str) -> OptionError:
    return OptionError(place, problem, "correct the cases file")
