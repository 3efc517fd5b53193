"""A Paddle model and ONNX files made from it in, a report on how far they agree out.

The inputs are noise and drawn text, over a grid of shapes. Paddle runs without oneDNN and without
graph optimisation, so it is the program as it stands that is compared.
"""

import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ocr_onnx import detect, recognize
from ocr_onnx.data import F32Array
from ocr_onnx.manifest import Stage
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session, installed_wheels
from ocr_onnx_export.errors import ConversionError
from ocr_onnx_export.paddle_route import PaddleTool, TimedOutput
from ocr_onnx_export.report import Comparison, Kind, Report
from ocr_onnx_export.sources import Source

Images: TypeAlias = NDArray[np.uint8]
Runner: TypeAlias = Callable[[Sequence[Images]], list[TimedOutput]]

WIDTH_TYPES: Mapping[str, type[np.generic]] = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
MASK_THRESHOLD = 0.3  # where DB post-processing cuts the map
TIMING_BUDGET_MS = 2000.0  # for a file and the one it is timed against
TIMING_ROUNDS = (5, 50)  # at least and at most
WORDS = ("Boarding", "2024-11-22", "INVOICE", "No. 1834", "total 56.90", "quick fox", "Gate B7", "ocr@onnx")

# (batch, height, width)
QUICK_GRID: Mapping[Stage, tuple[tuple[int, int, int], ...]] = {
    "det": ((1, 96, 160), (2, 64, 64)),
    "rec": ((1, 48, 160), (2, 48, 320)),
    "cls": ((1, 48, 192), (3, 48, 192)),
}
FULL_GRID: Mapping[Stage, tuple[tuple[int, int, int], ...]] = {
    "det": ((1, 32, 32), (1, 320, 320), (4, 128, 256), (1, 544, 960), (1, 736, 1280)),
    "rec": (
        (1, 48, 160),
        (1, 48, 320),
        (6, 48, 320),
        (8, 48, 160),
        (1, 48, 640),
        (2, 48, 1600),
        (1, 48, 3200),
    ),
    "cls": ((1, 48, 192), (2, 48, 192), (6, 48, 192), (8, 48, 192)),
}


class Reference(Protocol):
    """What answers for Paddle: a `PaddleTool`, or a stand-in."""

    def versions(self) -> dict[str, str]:
        """Return the versions of what answers."""

    def infer(self, program: Path, params: Path, feeds: Sequence[F32Array]) -> list[TimedOutput]:
        """Run the program on every array."""


class Sample(NamedTuple):
    """An input: its kind and (N, H, W, 3) uint8 BGR images."""

    kind: Kind
    images: Images


def compare(
    source: Source,
    stage: Stage,
    candidates: Mapping[str, Path],
    grid: Sequence[tuple[int, int, int]],
    *,
    model: str = "",
    tool: Reference | None = None,
) -> Report:
    """Run Paddle and every candidate over `grid`, twice each: noise and drawn text.

    Raises
    ------
    ConversionError
        Paddle can't run the source, or a candidate's output has another shape than Paddle's.
    DependencyError
        There is no Paddle.
    """
    tool = tool or PaddleTool.find()
    inputs = samples(grid)
    images = [sample.images for sample in inputs]
    expected = tool.infer(source.program, source.parameters, [normalise(stage, batch) for batch in images])
    comparisons = []
    for name, path in candidates.items():
        for sample, want, have in zip(inputs, expected, onnx_runner(path, stage)(images), strict=True):
            comparisons.append(_compare_one(name, stage, sample, want, have))
    report = describe(
        source, stage, candidates, model=model, versions=tool.versions(), comparisons=comparisons
    )
    return replace(report, answers=_answers(stage, [each.output for each in expected]))


def compare_onnx(
    original: Path, changed: Path, stage: Stage, grid: Sequence[tuple[int, int, int]], name: str
) -> list[Comparison]:
    """Run an ONNX file and what was made of it over `grid` on drawn text.

    Not on noise: there a decision may lie so near its threshold that rounding turns it.

    Raises
    ------
    ConversionError
        Their outputs have other shapes.
    """
    inputs = [sample for sample in samples(grid) if sample.kind == "text"]
    images = [sample.images for sample in inputs]
    answers = (onnx_runner(path, stage)(images) for path in (original, changed))
    return [_compare_one(name, stage, *each) for each in zip(inputs, *answers, strict=True)]


def describe(
    source: Source,
    stage: Stage,
    candidates: Mapping[str, Path],
    *,
    model: str = "",
    versions: Mapping[str, str] | None = None,
    comparisons: Sequence[Comparison] = (),
) -> Report:
    """Make a report: hashes, sizes and versions, with the comparisons there are."""
    files = (source.program, source.parameters)
    return Report(
        model=model or source.name,
        stage=stage,
        source_sha256={path.name: _sha256(path) for path in files},
        candidates={name: file_facts(path) for name, path in candidates.items()},
        versions={**(versions or {}), **installed_wheels(), "python": platform.python_version()},
        comparisons=tuple(comparisons),
    )


def file_facts(path: Path) -> dict[str, str | int]:
    """Return a file's name, size and hash, as a report lists them."""
    return {"file": path.name, "size_bytes": path.stat().st_size, "sha256": _sha256(path)}


def time_against(first: Path, path: Path, stage: Stage, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Return how long `path` takes on drawn text, in ms, and that in relation to `first`: medians.

    Both files run in turn, after a run each to warm up, so that a busy machine disturbs both alike.
    """
    images = [next(sample.images for sample in samples([shape]) if sample.kind == "text")]
    runners = [onnx_runner(file, stage) for file in (first, path)]
    warm_ms = [run(images * 2)[1].time_ms for run in runners]
    rounds = int(np.clip(TIMING_BUDGET_MS / sum(warm_ms), *TIMING_ROUNDS))
    pairs = np.array([[run(images)[0].time_ms for run in runners] for _ in range(rounds)])
    return float(np.median(pairs[:, 1])), float(np.median(pairs[:, 1] / pairs[:, 0]))


def samples(grid: Sequence[tuple[int, int, int]], seed: int = 0) -> list[Sample]:
    """Return noise and drawn text for every shape; the same seed gives the same pixels."""
    generator = np.random.default_rng(seed)
    drawn = []
    for batch, height, width in grid:
        noise = generator.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
        text = np.stack([draw_text(height, width, generator) for _ in range(batch)])
        drawn += [Sample("noise", noise), Sample("text", text)]
    return drawn


def draw_text(height: int, width: int, generator: np.random.Generator) -> Images:
    """Return a light (H, W, 3) picture with dark words: a line of text for 48 px, several for more."""
    picture = np.full((height, width, 3), generator.integers(200, 256, 3), dtype=np.uint8)
    ink = tuple(int(value) for value in generator.integers(0, 90, 3))
    for baseline in range(36, max(height, 37), 48):
        at = int(generator.integers(0, 12))
        while at < width:
            word = str(generator.choice(WORDS))
            cv2.putText(picture, word, (at, baseline), cv2.FONT_HERSHEY_DUPLEX, 1.0, ink, 2, cv2.LINE_AA)
            at += 22 * len(word) + int(generator.integers(8, 40))
    return picture


def normalise(stage: Stage, images: Images) -> F32Array:
    """Return what Paddle's network takes: (N, 3, H, W) float32."""
    if stage == "det":
        return detect.normalise(images)
    return recognize.normalise(images, np.full(len(images), images.shape[2], dtype=np.int32))


def onnx_runner(path: Path, stage: Stage) -> Runner:
    """Open an ONNX file; it may take floats or, rewritten, bytes, and answer with more than one output."""
    session = Session(path, RuntimeOptions())
    names = [output.name for output in session.outputs]
    answer = names.index("probs") if "probs" in names else 0

    def run(batches: Sequence[Images]) -> list[TimedOutput]:
        results = []
        for images in batches:
            feeds: dict[str, NDArray[Any]] = {session.inputs[0].name: images}
            if session.inputs[0].dtype == "tensor(float)":
                feeds = {session.inputs[0].name: normalise(stage, images)}
            for extra in session.inputs[1:]:  # the width of each line's content: all of it
                feeds[extra.name] = np.full(len(images), images.shape[2], WIDTH_TYPES[extra.dtype])
            start = time.perf_counter()
            output: F32Array = session(feeds)[answer]
            results.append(TimedOutput(output, 1e3 * (time.perf_counter() - start)))
        return results

    return run


def _compare_one(name: str, stage: Stage, sample: Sample, want: TimedOutput, have: TimedOutput) -> Comparison:
    if want.output.shape != have.output.shape:
        problem = f"puts out {list(have.output.shape)} where Paddle puts out {list(want.output.shape)}"
        raise ConversionError(name, problem, "convert it by the other --route")
    difference = np.abs(want.output.astype(np.float64) - have.output)
    decided = _decisions(stage, want.output)
    equal = decided == _decisions(stage, have.output)
    batch, height, width, _ = sample.images.shape
    return Comparison(
        candidate=name,
        kind=sample.kind,
        shape=(batch, height, width),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        agreement=float(equal.mean()),
        decisions=decided.size,
        variety=float(decided.mean() if stage == "det" else len(np.unique(decided))),
        paddle_ms=round(want.time_ms, 1),
        onnx_ms=round(have.time_ms, 1),
    )


def _decisions(stage: Stage, output: F32Array) -> NDArray[Any]:
    """Return what is made of an output: text or not, for each pixel, or the best class."""
    return output > MASK_THRESHOLD if stage == "det" else output.argmax(axis=-1)


def _answers(stage: Stage, outputs: Sequence[F32Array]) -> dict[str, float]:
    """Sum up how varied and how sharp all outputs are, so that a reader can judge an agreement."""
    decided = np.concatenate([_decisions(stage, output).ravel() for output in outputs])
    if stage == "det":
        return {"map pixels": decided.size, "of them text (share)": float(decided.mean())}
    best = np.concatenate([output.max(axis=-1).ravel() for output in outputs])
    return {
        "best classes": decided.size,
        "of them different": len(np.unique(decided)),
        "median probability of the best": float(np.median(best)),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
