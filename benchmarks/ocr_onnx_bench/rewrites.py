"""Two folders of the same models, stock and rewritten, go in; how their times compare comes out.

`ocr-onnx bench rewrites` runs it from the command line.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ocr_onnx import contract
from ocr_onnx.errors import InputError, ModelContractError
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session
from ocr_onnx.threads import usable_threads
from ocr_onnx_bench import environment

SHAPES: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "det": ((1, 640, 640), (1, 736, 1280)),
    "rec": ((6, 48, 320), (1, 48, 320)),
    "cls": ((6, 48, 192), (1, 48, 192)),
}
"""(N, H, W) per stage: a page, a batch of lines and a single one."""

WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """Times of one model on one shape (N, H, W), in ms, in the order they were taken.

    From uint8 pictures to the map, the classes or the best class per step, as the engine calls it: a
    stock file's normalisation and reduction in numpy are part of it. `ratio` is the median of
    `rewritten_ms` over that of `stock_ms`; `paired_ratio` the median over the rounds of their
    ratio, which a machine that slows down for a while does not bend.
    """

    model: str
    stage: str
    shape: tuple[int, int, int]
    stock_sha256: str
    rewritten_sha256: str
    stock_ms: tuple[float, ...]
    rewritten_ms: tuple[float, ...]
    stock_median_ms: float
    rewritten_median_ms: float
    ratio: float
    paired_ratio: float


@dataclass(frozen=True, slots=True)
class RewritesRecord:
    """All comparisons of one run of the process, both files with the settings of `runtime.Session`."""

    kind: Literal["rewrites"]
    threads: int
    rounds: int
    comparisons: tuple[Comparison, ...]
    environment: environment.Environment


def make_record(
    stock: Path, rewritten: Path, models: Sequence[str], *, rounds: int, threads: int
) -> RewritesRecord:
    """Time every model that both folders hold (or those named) on the shapes of its stage.

    Raises InputError where a folder lacks one of them.
    """
    names = list(models) or sorted({path.stem for path in stock.glob("*.onnx")})
    if not names:
        raise InputError(str(stock), "holds no .onnx file", "give what `ocr-onnx export --stock` wrote")
    found: list[Comparison] = []
    for name in names:
        files = tuple(folder / f"{name}.onnx" for folder in (stock, rewritten))
        for file in files:
            if not file.is_file():
                raise InputError(str(file), "is not there", "export the model into both folders")
        found += _compare(files[0], files[1], rounds, threads)
    return RewritesRecord(
        "rewrites", threads or usable_threads(), rounds, tuple(found), environment.describe()
    )


def alternate(
    first: Callable[[], object], second: Callable[[], object], rounds: int
) -> list[tuple[float, float]]:
    """Return the times of both in ms, per round; who begins changes from round to round."""
    for _ in range(WARM_UPS):
        first()
        second()
    times = []
    for number in range(rounds):
        if number % 2:
            late, early = _ms(second), _ms(first)
        else:
            early, late = _ms(first), _ms(second)
        times.append((early, late))
    return times


def _compare(stock: Path, rewritten: Path, rounds: int, threads: int) -> list[Comparison]:
    sessions = [Session(path, RuntimeOptions(threads=threads)) for path in (stock, rewritten)]
    stage = sessions[0].metadata.get("stage", "")
    if stage not in SHAPES:
        raise ModelContractError(str(stock), "does not say its stage", "export it with `ocr-onnx export`")
    digest, our_digest = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (stock, rewritten))
    found = []
    for shape in SHAPES[stage]:
        plain, ours = (_caller(session, stage, shape) for session in sessions)
        times = alternate(plain, ours, rounds)
        stock_median, our_median = (statistics.median(row) for row in zip(*times, strict=True))
        found.append(
            Comparison(
                model=stock.stem,
                stage=stage,
                shape=shape,
                stock_sha256=digest,
                rewritten_sha256=our_digest,
                stock_ms=tuple(row[0] for row in times),
                rewritten_ms=tuple(row[1] for row in times),
                stock_median_ms=stock_median,
                rewritten_median_ms=our_median,
                ratio=our_median / stock_median,
                paired_ratio=statistics.median(late / early for early, late in times),
            )
        )
    return found


def _caller(session: Session, stage: str, shape: tuple[int, int, int]) -> Callable[[], object]:
    """Return the engine's own call of a model on noise, whose times are those of text."""
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    widths = np.full(shape[0], shape[2], np.int32)
    if stage == "det":
        det = contract.det_infer(session, stage)
        return lambda: det(images)
    if stage == "cls":
        cls = contract.cls_infer(session, stage)
        return lambda: cls(images, widths)
    rec = contract.rec_infer(session, stage, contract.check_rec(session, stage) or 0)
    return lambda: rec(images, widths)


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def summary(found: RewritesRecord) -> str:
    """Return the figures for a person, a line for each model and shape."""
    return "\n".join(map(_row, found.comparisons))


def _row(one: Comparison) -> str:
    shape = "x".join(map(str, one.shape))
    return (
        f"{one.model:24} {shape:12} {one.stock_median_ms:8.1f} ms -> {one.rewritten_median_ms:8.1f} ms  "
        f"{one.ratio:.3f} (paired {one.paired_ratio:.3f})"
    )
