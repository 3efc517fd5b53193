"""Verified model files and a device in; the callables of the stages, and how many calls suit it, out."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ocr_onnx import classify, contract, detect, recognize
from ocr_onnx.data import F32Array
from ocr_onnx.errors import ModelContractError
from ocr_onnx.gather import MAX_ROWS, Array, Gathered, Result, Take
from ocr_onnx.manifest import Stage
from ocr_onnx.model_store import ModelFiles
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Model, Replicas, open_model
from ocr_onnx.runtime.buckets import Shape, padded_batch, warm_up_shapes
from ocr_onnx.threads import usable_threads

STAGES: tuple[Stage, ...] = ("det", "rec", "cls")
MAX_PAGES_AT_ONCE = 32  # unless told; every page holds its picture and a run's memory
MAX_LANES = 8  # every lane holds a run's memory, and a page has few runs to share out
# Chosen, not measured: a GPU is through with a page's networks sooner than the processor with what comes
# before, between and after them (decoding, regions, cutting lines), so one page in the networks wants
# others beside it; more than a few only hold memory.
PAGES_PER_GPU = 4
# Rec calls of one page that may wait at a time: with one, calls of equal width seldom meet. Six scans of 254
# lines, four at a time, took 71 runs without lanes, 53 with four, 40 with eight (counted on a processor).
GPU_LANES = 8


class Networks(NamedTuple):
    """A callable per stage, each run of which takes as many threads."""

    det: detect.Infer
    rec: recognize.Infer
    cls: classify.Infer | None


class Models(NamedTuple):
    """The opened model of every stage."""

    det: Model
    rec: Model
    cls: Model | None


class Layout(NamedTuple):
    """How the pages of an engine go through its networks; see `Engine`."""

    networks: Networks
    rec_lanes: recognize.Lanes | None
    pages_at_once: int
    share: Callable[[int], Networks] | None


class WarmUp(NamedTuple):
    """How many runs a warm-up took, and how long."""

    runs: int
    seconds: float


def open_models(files: ModelFiles, runtime: RuntimeOptions, *, with_cls: bool) -> Models:
    """Open det, rec and, if wanted, cls; raises what `open_model` does."""
    return Models(
        open_model(files.det.path, "det", runtime),
        open_model(files.rec.path, "rec", runtime),
        open_model(files.cls.path, "cls", runtime) if with_cls else None,
    )


def charset_of(files: ModelFiles, rec: Model) -> tuple[str, ...]:
    """Return the characters by class of an opened rec model; ModelContractError where they don't fit it."""
    contract.check_rec(rec, str(rec.path))
    if files.dictionary is None:
        return recognize.charset_from(rec.metadata, str(files.rec.path))
    try:
        return recognize.charset_of(files.dictionary.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        problem, remedy = "is not UTF-8 text", "give a text file with one character per line"
        raise ModelContractError(str(files.dictionary), problem, remedy) from error


def layout(models: Models, classes: int, threads: int) -> Layout:
    """Choose how pages go through the networks; `threads` is that of the options, 0 for all."""
    device = models.det.device
    if device.kind == "cpu":
        return _on_processor(models, classes, threads or usable_threads())
    if device.kind == "openvino":
        return Layout(_networks(models, classes), rec_lanes=None, pages_at_once=2, share=None)
    return _on_gpus(models, classes, len(device.each))


def warm_up(models: Models, classes: int) -> WarmUp:
    """Run every network on every device once in each of the shapes it will see, several GPUs side by side."""
    start = time.perf_counter()
    with ThreadPoolExecutor(len(models.det.device.each), thread_name_prefix="ocr-onnx-warm-up") as pool:
        runs = sum(pool.map(partial(_warm_up, classes=classes), _each(models)))
    return WarmUp(runs, time.perf_counter() - start)


def shapes_seen(models: Models) -> dict[Stage, int]:
    """Return in how many different shapes the runs of every stage came so far."""
    return {stage: len(model.shapes_seen()) for stage, model in zip(STAGES, models, strict=True) if model}


def _networks(models: Models, classes: int) -> Networks:
    det, rec, cls = models
    return Networks(
        contract.det_infer(det, str(det.path)),
        contract.rec_infer(rec, str(rec.path), classes),
        None if cls is None else contract.cls_infer(cls, str(cls.path)),
    )


def _on_processor(models: Models, classes: int, threads: int) -> Layout:
    return Layout(
        _networks(models, classes),
        rec_lanes=_rec_lanes(models.rec, threads, classes),
        pages_at_once=min(threads, MAX_PAGES_AT_ONCE),
        share=partial(_share, models, classes, threads),
    )


def _share(models: Models, classes: int, threads: int, pages: int) -> Networks:
    """Return the networks for so many pages at a time, which share `threads`."""
    each = max(1, threads // pages)
    det, rec, cls = models
    few = Models(
        det.with_threads(each), rec.with_threads(each), None if cls is None else cls.with_threads(each)
    )
    return _networks(few, classes)


def _rec_lanes(rec: Model, threads: int, classes: int) -> recognize.Lanes | None:
    """Return rec for runs side by side; None where one run takes all there is."""
    count = min(threads, MAX_LANES)
    if count == 1:
        return None
    lane = rec.with_threads(threads // count)
    return recognize.Lanes(contract.rec_infer(lane, str(rec.path), classes), count)


def _on_gpus(models: Models, classes: int, count: int) -> Layout:
    """Let lines of all pages share runs, one run of a stage at a time on every GPU.

    Det stays with one page a run: pages seldom have equal sizes, a page fills a GPU as it is, and a
    second one would double the memory.
    """
    det, rec, cls = _networks(models, classes)
    rec = Gathered(partial(_filled, rec, _steps_of), _steps_of, at_once=count)
    if cls is not None:
        cls = Gathered(partial(_filled, cls, _rows_of), _rows_of, at_once=count)
    return Layout(
        Networks(det, rec, cls),
        rec_lanes=recognize.Lanes(rec, GPU_LANES),
        pages_at_once=min(PAGES_PER_GPU * count, MAX_PAGES_AT_ONCE),
        share=None,
    )


def _filled(infer: Callable[..., Result], take: Take[Result], *arrays: Array) -> Result:
    """Run a batch filled up with blank rows: to a GPU, every number of rows is another shape."""
    rows = len(arrays[0])
    blank = max(0, padded_batch(rows, MAX_ROWS) - rows)
    filled = (np.concatenate([array, np.zeros((blank, *array.shape[1:]), array.dtype)]) for array in arrays)
    return take(infer(*(filled if blank else arrays)), slice(rows))


def _steps_of(found: recognize.CtcSteps, rows: slice) -> recognize.CtcSteps:
    return recognize.CtcSteps(found.labels[rows], found.probs[rows])


def _rows_of(found: F32Array, rows: slice) -> F32Array:
    return found[rows]


def _each(models: Models) -> list[Models]:
    """Return the models of every single device."""
    det, rec, cls = (_replicas(model) for model in models)
    return [Models(det[place], rec[place], cls[place] if cls else None) for place in range(len(det))]


def _replicas(model: Model | None) -> tuple[Model, ...]:
    if model is None:
        return ()
    return model.replicas if isinstance(model, Replicas) else (model,)


def _warm_up(models: Models, classes: int) -> int:
    """Run the networks of one device in their shapes; return how many runs that took."""
    det, rec, cls = _networks(models, classes)
    shapes = {stage: warm_up_shapes(stage) for stage in STAGES}
    for images, _ in map(_blank, shapes["det"]):
        det(images)
    for images, widths in map(_blank, shapes["rec"]):
        rec(images, widths)
    if cls is None:
        return len(shapes["det"]) + len(shapes["rec"])
    for images, widths in map(_blank, shapes["cls"]):
        cls(images, widths)
    return sum(map(len, shapes.values()))


def _blank(shape: Shape) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return black images of a shape (N, h, w), and how much of each is content: all."""
    rows, _, width = shape
    return np.zeros((*shape, 3), np.uint8), np.full(rows, width, np.int32)
