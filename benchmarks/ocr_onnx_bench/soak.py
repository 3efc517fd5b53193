"""An engine reads thousands of drawn pages of random sizes; the resident memory over time comes out.

`ocr-onnx bench soak` runs it from the command line.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ocr_onnx.data import ImageBgr, Provenance
from ocr_onnx.engine import Engine
from ocr_onnx.errors import OptionError
from ocr_onnx_bench import environment

SIDES_PX = (64, 2400)
WORDS = (
    "invoice",
    "total",
    "2026",
    "Grand-Central",
    "receipt",
    "No.",
    "4711",
    "the",
    "quick",
    "brown",
    "fox",
)


@dataclass(frozen=True, slots=True)
class SoakRecord:
    """Resident memory in MiB, sampled every `sample_pages` pages, and its growth since `settled_pages`."""

    kind: Literal["soak"]
    pages: int
    seed: int
    sides_px: tuple[int, int]
    workers: int
    lines_read: int
    sample_pages: int
    resident_mib: tuple[float, ...]
    settled_pages: int
    growth: float
    provenance: Provenance | None
    environment: environment.Environment


def drawn_pages(count: int, seed: int) -> Iterator[ImageBgr]:
    """Yield `count` white pages of random sizes with random words of random heights on them."""
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    for _ in range(count):
        # sides are spread by ratio, so that strips and stamps come as often as pages
        width, height = (round(np.exp(chance.uniform(*np.log(SIDES_PX)))) for _ in range(2))
        page = np.full((height, width, 3), 255, dtype=np.uint8)
        top = 0
        while top < height:
            scale = chance.uniform(0.5, 2.0)
            top += round(40 * scale)
            words = " ".join(chance.choices(WORDS, k=chance.randint(1, 12)))
            cv2.putText(page, words, (10, top), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 2)
        yield page


def resident_mib() -> float:
    """Return this process's resident memory. Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def make_record(pages: int, *, settled_pages: int, sample_pages: int, workers: int, seed: int) -> SoakRecord:
    """Read `pages` drawn pages and sample the resident memory on the way.

    `growth` is the last sample over that after `settled_pages`, less 1. Raises OptionError where no
    sample falls on `settled_pages`, or none comes after it.
    """
    if settled_pages % sample_pages or settled_pages > pages:
        raise OptionError(
            "--settled-pages",
            f"{settled_pages} is no multiple of {sample_pages} up to {pages}",
            "memory is sampled at multiples of --sample-pages",
        )
    engine = Engine.load("mobile")
    samples: list[float] = []
    lines = 0
    for number, result in enumerate(engine.stream(drawn_pages(pages, seed), workers=workers), start=1):
        lines += len(result.lines)
        if number % sample_pages == 0:
            samples.append(resident_mib())
    return SoakRecord(
        kind="soak",
        pages=pages,
        seed=seed,
        sides_px=SIDES_PX,
        workers=workers,
        lines_read=lines,
        sample_pages=sample_pages,
        resident_mib=tuple(samples),
        settled_pages=settled_pages,
        growth=samples[-1] / samples[settled_pages // sample_pages - 1] - 1,
        provenance=engine.provenance,
        environment=environment.describe(),
    )


def summary(found: SoakRecord) -> str:
    """Return the figures as one line for a person."""
    settled = found.resident_mib[found.settled_pages // found.sample_pages - 1]
    return (
        f"{found.pages} pages, {found.lines_read} lines: {settled:.0f} MiB after page {found.settled_pages}, "
        f"{found.resident_mib[-1]:.0f} MiB at the end ({found.growth:+.1%}), "
        f"{max(found.resident_mib):.0f} MiB at most"
    )
