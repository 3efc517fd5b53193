"""Line images -> width buckets -> CTC decoding -> texts and scores. Pure: inference is passed in.

CTC: Graves et al., "Connectionist Temporal Classification", ICML 2006; greedy decoding, sizes and
rounding follow PaddleX's `OCRReisizeNormImg` and `CTCLabelDecode`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ocr_onnx.data import F32Array, ImageBgr
from ocr_onnx.errors import ModelContractError
from ocr_onnx.options import RecOptions, WidthRule

HEIGHT_PX = 48
REFERENCE_WIDTH_PX = 320  # the reference never gives a line less
# The rule "tight". On the 2,077 scored words of ICDAR 2015 it loses 0.14 points of line accuracy
# against the reference, on 1,580 lines of XFUND zh it gains 0.32, for 0.57 and 0.78 of the pixels.
# Narrower minima pass on one half of the words and lose a point on the other.
TIGHT_WIDTH_PX = 160
TIGHT_STEP_PX = 32
BLANK = 0
# Of all lines of a run together: six lines of 320 px. Wider runs are no faster per line (from 960 px on
# they are slower, as they fall out of the processor's cache) and set the peak of memory.
RUN_WIDTH_PX = 1920
# The same where every run has one thread: small runs lose nothing there, and lanes end together.
LANE_RUN_WIDTH_PX = 960
# No writing is that long for its height, some 600 characters: a strip of one pixel's height is.
MAX_CONTENT_PX = 32_000
OVERLAP_PX = 192  # of neighbouring windows of a line too wide for one run: four characters or so
WINDOW_STEP_PX = 32  # windows start at multiples of it, so their time steps fall together


class CtcSteps(NamedTuple):
    """The best class of every time step and its probability."""

    labels: NDArray[np.int64]  # (T,) or (N, T)
    probs: F32Array  # the same shape


Infer: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.int32]], CtcSteps]
"""(N, 48, W, 3) uint8 BGR and (N,) widths that hold text -> CtcSteps (N, T).

Whatever stands right of a line's width must not count: the network sees zeros there.
"""


@dataclass(frozen=True, slots=True)
class Lanes:
    """Inference that `count` threads may call at a time, each call on its share of the processor.

    Two runs side by side, a thread each, take 0.84 to 0.93 of the time of one after the other on
    both threads (mobile rec, 160 to 960 px, AMD Zen 3): operations of a few hundred microseconds
    leave threads waiting for each other.
    """

    infer: Infer
    count: int


@dataclass(frozen=True, slots=True)
class RecognizedLine:
    """A text, the mean probability of its characters and that of the least certain (0.0 without any)."""

    text: str
    score: float
    min_score: float


class _Window(NamedTuple):
    """A stretch of a line that fits one run."""

    line: int
    start_px: int
    image: ImageBgr  # (h, w, 3), as it was cut
    content_px: int  # its width at 48 px height
    width_px: int  # of its tensor


def read_lines(
    lines: Sequence[ImageBgr],
    infer: Infer,
    charset: Sequence[str],
    options: RecOptions,
    lanes: Lanes | None = None,
) -> list[RecognizedLine]:
    """Recognise upright line images (h, w, 3) uint8 BGR; results come in the order of `lines`.

    `charset` maps class to character, blank first; for the rest see `infer_lines`.
    """
    return [decode(steps, charset) for steps in infer_lines(lines, infer, options, lanes)]


def infer_lines(
    lines: Sequence[ImageBgr], infer: Infer, options: RecOptions, lanes: Lanes | None = None
) -> list[CtcSteps]:
    """Return the time steps (T,) of every line, in the order of `lines`.

    A line's tensor width follows from that line alone and only equal widths share a run, so a
    result depends neither on its neighbours nor on the batch size. With enough lines to fill
    `lanes`, runs go through those side by side, otherwise one after the other through `infer`.
    """
    windows = [window for number, line in enumerate(lines) for window in _windows(number, line, options)]
    steps = _infer_by_width(windows, infer, options.batch_size, lanes)
    of_line: dict[int, list[tuple[_Window, CtcSteps]]] = defaultdict(list)
    for window, found in zip(windows, steps, strict=True):
        of_line[window.line].append((window, found))
    return [_merge(of_line[number]) for number in range(len(lines))]


def decode(steps: CtcSteps, charset: Sequence[str]) -> RecognizedLine:
    """Decode the time steps (T,) of one line: repeats collapse, blanks vanish.

    `charset` maps class to character, blank first. The score is the mean over the first step of
    every character.
    """
    labels = steps.labels
    first = np.empty(len(labels), dtype=bool)
    first[:1] = True
    first[1:] = labels[1:] != labels[:-1]
    kept = first & (labels != BLANK)
    if not kept.any():
        return RecognizedLine("", 0.0, 0.0)
    probs = steps.probs[kept]
    text = "".join(charset[label] for label in labels[kept])
    return RecognizedLine(text, float(probs.mean()), float(probs.min()))


def charset_from(metadata: Mapping[str, str], model: str) -> tuple[str, ...]:
    """Return the characters by class: blank, the model's dictionary, space.

    The dictionary is the metadata entry `character`, one character per line. ModelContractError
    where it is missing.
    """
    characters = metadata.get("character")
    if characters is None:
        raise ModelContractError(
            model,
            "has no dictionary in its metadata",
            "give its dictionary file with --dict (models.dictionary)",
        )
    return charset_of(characters)


def charset_of(characters: str) -> tuple[str, ...]:
    """Return the characters by class for a dictionary's text, one character per line."""
    # split("\n"), not splitlines(): dictionaries hold characters that Python takes for line ends
    rows = characters.replace("\r\n", "\n").removeprefix("\ufeff").removesuffix("\n").split("\n")
    return ("", *rows, " ")


def content_width_px(width_px: int, height_px: int) -> int:
    """Return the width of a line of this size at 48 px height; beyond MAX_CONTENT_PX it is squeezed."""
    return max(1, min(MAX_CONTENT_PX, math.ceil(HEIGHT_PX * (width_px / height_px))))


def tensor_width_px(width_px: int, height_px: int, rule: WidthRule) -> int:
    """Return the width of the tensor for a line of this size.

    "reference": as PaddleX with batch 1, the line's own width but at least 320. "tight": the
    narrowest that keeps accuracy on labelled lines.
    """
    if rule == "reference":
        # truncated, unlike the content's width: a fraction of a pixel is squeezed away
        return max(REFERENCE_WIDTH_PX, min(MAX_CONTENT_PX, int(HEIGHT_PX * (width_px / height_px))))
    content = content_width_px(width_px, height_px)
    return max(TIGHT_WIDTH_PX, math.ceil(content / TIGHT_STEP_PX) * TIGHT_STEP_PX)


def normalise(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> F32Array:
    """(N, 48, W, 3) uint8 BGR -> (N, 3, 48, W) float32 in -1..1, zero right of each line's content."""
    tensor = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    tensor /= 255.0
    tensor -= 0.5
    tensor /= 0.5
    for planes, content in zip(tensor, content_px, strict=True):
        planes[:, :, content:] = 0.0
    return tensor


def reduce_probabilities(probs: F32Array) -> CtcSteps:
    """(N, T, classes) probabilities -> the best class of each step and its probability."""
    labels = probs.argmax(axis=2)
    return CtcSteps(labels, np.take_along_axis(probs, labels[:, :, np.newaxis], axis=2)[:, :, 0])


def _windows(number: int, line: ImageBgr, options: RecOptions) -> Iterator[_Window]:
    """Cut a line into stretches that are not too wide for one run; most lines are one."""
    height, width = line.shape[:2]
    tensor_width = tensor_width_px(width, height, options.width)
    content = min(content_width_px(width, height), tensor_width)
    if tensor_width <= options.max_width_px:
        yield _Window(number, 0, line, content, tensor_width)
        return
    resized = cast("ImageBgr", cv2.resize(line, (content, HEIGHT_PX), interpolation=cv2.INTER_LINEAR))
    window_px = options.max_width_px // WINDOW_STEP_PX * WINDOW_STEP_PX
    for start in range(0, max(1, content - OVERLAP_PX), window_px - OVERLAP_PX):
        stretch = resized[:, start : start + window_px]
        wanted_px = tensor_width_px(stretch.shape[1], HEIGHT_PX, options.width)
        yield _Window(number, start, stretch, stretch.shape[1], min(window_px, wanted_px))


def _infer_by_width(
    windows: Sequence[_Window], infer: Infer, batch_size: int, lanes: Lanes | None
) -> list[CtcSteps]:
    """Run windows of equal tensor width together; steps come back in the order of `windows`."""
    steps: list[CtcSteps] = [CtcSteps(np.empty(0, np.int64), np.empty(0, np.float32))] * len(windows)

    def run(batch: Sequence[int], infer: Infer) -> None:
        images, content_px = _stack([windows[place] for place in batch])
        found = infer(images, content_px)
        for place, labels, probs in zip(batch, found.labels, found.probs, strict=True):
            steps[place] = CtcSteps(labels, probs)

    widths = [window.width_px for window in windows]
    if lanes is not None:
        batches = _batches(widths, batch_size, LANE_RUN_WIDTH_PX)
        if len(batches) >= lanes.count:
            with ThreadPoolExecutor(lanes.count, thread_name_prefix="ocr-onnx-rec") as pool:
                for _ in pool.map(run, batches, repeat(lanes.infer)):
                    pass  # an error of a run comes out here
            return steps
    for batch in _batches(widths, batch_size, RUN_WIDTH_PX):
        run(batch, infer)
    return steps


def _batches(widths_px: Sequence[int], batch_size: int, run_width_px: int) -> list[Sequence[int]]:
    """Group the places of equal widths into runs; the most work comes first, so that lanes end together."""
    buckets: dict[int, list[int]] = defaultdict(list)
    for place, width_px in enumerate(widths_px):
        buckets[width_px].append(place)
    batches: list[Sequence[int]] = []
    for width_px, places in buckets.items():
        lines = max(1, min(batch_size, run_width_px // width_px))
        batches += [places[start : start + lines] for start in range(0, len(places), lines)]
    return sorted(batches, key=lambda batch: -len(batch) * widths_px[batch[0]])


def _stack(windows: Sequence[_Window]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Resize windows of one tensor width into one tensor; return it, and how much of each is content."""
    images = np.zeros((len(windows), HEIGHT_PX, windows[0].width_px, 3), dtype=np.uint8)
    for image, window in zip(images, windows, strict=True):
        size_wh = (window.content_px, HEIGHT_PX)
        image[:, : window.content_px] = cv2.resize(window.image, size_wh, interpolation=cv2.INTER_LINEAR)
    return images, np.array([window.content_px for window in windows], dtype=np.int32)


def _merge(stretches: Sequence[tuple[_Window, CtcSteps]]) -> CtcSteps:
    """Join the steps of a line's windows.

    Windows start at whole time steps, so step k of one is step k - offset of the next.
    """
    (window, (labels, probs)), *rest = stretches
    px_per_step = window.width_px / max(1, len(labels))
    for following, (next_labels, next_probs) in rest:
        offset = round(following.start_px / px_per_step)
        shared = min(round(OVERLAP_PX / px_per_step), len(labels) - offset, len(next_labels))
        ink = (labels[offset : offset + shared] != BLANK) | (next_labels[:shared] != BLANK)
        seam = _seam(ink)
        labels = np.concatenate([labels[: offset + seam], next_labels[seam:]])
        probs = np.concatenate([probs[: offset + seam], next_probs[seam:]])
    return CtcSteps(labels, probs)


def _seam(ink: NDArray[np.bool_]) -> int:
    """Return the step to change over at, from where either window sees a character.

    Best is the middle, as a window's ends are read without their surroundings; but in a gap, and
    not right beside a character: where the windows see it a step apart, it would be doubled or lost.
    """
    padded = np.pad(ink, 1)
    beside = padded[:-2] | padded[2:]
    detour = np.abs(np.arange(len(ink)) - len(ink) / 2)
    return int(np.argmin(detour + len(ink) * ink + len(ink) / 4 * beside))
