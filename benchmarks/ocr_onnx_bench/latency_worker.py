"""The other end of `latency.py`: one case, loaded and run when asked, in a process of its own."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ocr_onnx import contract, crop, detect, inputs, order, recognize, runtime, search
from ocr_onnx.data import F32Array, ImageBgr
from ocr_onnx.engine import Engine
from ocr_onnx.errors import OcrError
from ocr_onnx.options import DetOptions, ModelOptions, RuntimeOptions
from ocr_onnx.runtime import Session
from ocr_onnx_bench import environment
from ocr_onnx_bench.cases import Case

PAGE_STAGES = ("decode", "det", "rest of search", "order", "crop", "rec", "decode text", "rest")
WORDS = ("invoice", "total", "2026", "Grand-Central", "receipt", "No.", "4711", "the", "quick", "brown")
Stages = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Job:
    """A case and its files. `kind` is a stage; or "page", of which `target` is a model set; or "map"."""

    case: Case
    kind: str
    target: str
    models: tuple[str, ...]
    model_dir: str = ""


class Loaded(NamedTuple):
    """How a case came up."""

    provider: str
    load_ms: float
    first_ms: float


class End(NamedTuple):
    """What is known of a case when it is over."""

    nodes: tuple[tuple[str, int], ...]
    peak_rss_mib: float | None
    gpu_mib: float | None


def serve(pipe: Connection, job: Job) -> None:
    """Answer requests until the other end closes: ("load", 0), ("run", count), ("end", 0)."""
    load = {"page": _load_page, "map": _load_map}.get(job.kind, _load_model)
    run: Callable[[Stages], object] = dict.clear
    while True:
        try:
            request, count = pipe.recv()
        except EOFError:
            return
        try:
            if request == "load":
                runtime.find_device(job.case.device)  # importing ONNX Runtime is no part of loading
                start = time.perf_counter()
                run, provider = load(job)
                load_ms = _since(start)
                pipe.send(Loaded(provider, load_ms, _timed(run, {})))
            elif request == "run":
                stages: Stages = {}
                pipe.send(([_timed(run, stages) for _ in range(count)], stages))
            else:
                pipe.send(End(_nodes(job), environment.peak_rss_mib(), environment.gpu_memory_mib()))
        except OcrError as error:
            pipe.send(error)


def drawn_page(width: int, height: int, lines: int) -> ImageBgr:
    """Return a white page with `lines` lines of words, evenly down the page, 40 px high at most."""
    page = np.full((height, width, 3), 255, np.uint8)
    pitch = height / (lines + 1)
    scale = min(40.0, 0.6 * pitch) / 30
    for number in range(lines):
        text = " ".join(WORDS[(number + step) % len(WORDS)] for step in range(6))
        origin = (width // 20, round(pitch * (number + 1)))
        cv2.putText(page, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 2, cv2.LINE_AA)
    return page


def drawn_map(drawn: str, width: int, height: int, lines: int) -> F32Array:
    """Return a probability map (h, w): `lines` bars in four columns, or blobs all over that are no text.

    The blobs are six pixels wide, as a detector that is unsure everywhere puts out: more regions
    than are looked at, and none that is taken for text.
    """
    rng = np.random.default_rng(0)
    if drawn == "noise":
        coarse = rng.random((max(1, height // 6), max(1, width // 6)), dtype=np.float32)
        blobs = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(blobs, dtype=np.float32)
    prob_map = np.zeros((height, width), dtype=np.float32)
    rows = math.ceil(lines / 4)
    for number in range(lines):
        x, y = width * (number % 4) // 4, height * (number // 4) // rows
        prob_map[y : y + max(1, height // rows * 2 // 3), x : x + width // 5] = rng.uniform(0.7, 1.0)
    return prob_map


def _load_map(job: Job) -> tuple[Callable[[Stages], object], str]:
    width, height, lines = job.case.map or (1, 1, 1)
    prob_map = drawn_map(job.target, width, height, lines)
    return lambda _: detect.postprocess(prob_map, (2 * width, 2 * height), DetOptions()), ""


def _load_model(job: Job) -> tuple[Callable[[Stages], object], str]:
    session = _session(job)
    images, widths = _images(job)
    if job.kind == "det":
        det = contract.det_infer(session, job.target)
        return lambda _: det(images), session.provider
    if job.kind == "cls":
        cls = contract.cls_infer(session, job.target)
        return lambda _: cls(images, widths), session.provider
    rec = contract.rec_infer(session, job.target, contract.check_rec(session, job.target) or 0)
    return lambda _: rec(images, widths), session.provider


def _load_page(job: Job) -> tuple[Callable[[Stages], object], str]:
    options = ModelOptions(name=job.target, folder=job.model_dir, offline=True)
    engine = Engine.load(options, device=job.case.device, threads=job.case.threads)
    picture = cv2.imencode(".png", drawn_page(*(job.case.page or (1, 1, 1))))[1].tobytes()
    provider = engine.provenance.provider if engine.provenance else ""
    return lambda stages: read_in_stages(engine, picture, stages), provider


def read_in_stages(engine: Engine, picture: bytes, stages: Stages) -> list[recognize.RecognizedLine]:
    """Read one picture as `Engine.read` does, and append the time of every step in ms to `stages`.

    "det" is all runs of the network, of all tiles and of a second look; "rest of search" is the
    resizing before them and the regions after them.
    """
    start = time.perf_counter()
    options = engine.options
    clock = _Clock(stages)
    page = clock("decode", lambda: next(inputs.pages(picture, options.input)))
    runs: Stages = {}
    det = _Clock(runs)
    found = clock(
        "rest of search",
        lambda: (
            search.find(
                page.image, lambda images: det("det", lambda: engine.det(images)), options.det
            ).detections
        ),
    )
    stages["rest of search"][-1] -= det.total_ms
    stages.setdefault("det", []).append(det.total_ms)
    rows = clock("order", lambda: order.reading_order(found.quads_px, options.crop.order))
    quads = found.take(rows).quads_px
    lines = clock("crop", lambda: crop.cut(page.image, crop.rectangles(quads), options.crop))
    steps = clock("rec", lambda: recognize.infer_lines(lines, engine.rec, options.rec, engine.rec_lanes))
    texts: list[recognize.RecognizedLine] = clock(
        "decode text", lambda: [recognize.decode(one, engine.charset) for one in steps]
    )
    stages.setdefault("rest", []).append(_since(start) - clock.total_ms)
    return texts


class _Clock:
    """Times calls under a name."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self.total_ms = 0.0

    def __call__(self, stage: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        answer = call()
        self._stages.setdefault(stage, []).append(_since(start))
        self.total_ms += self._stages[stage][-1]
        return answer


def _session(job: Job) -> Session:
    return Session(Path(job.target), RuntimeOptions(device=job.case.device, threads=job.case.threads))


def _nodes(job: Job) -> tuple[tuple[str, int], ...]:
    """Count the model's operations by provider, in a run of its own: tracing costs time."""
    if job.kind in ("page", "map"):
        return ()
    options = RuntimeOptions(device=job.case.device, threads=job.case.threads)
    counts = runtime.node_placement(Path(job.target), options, _feeds(_session(job), job))
    return tuple(sorted(counts.items()))


def _feeds(session: Session, job: Job) -> dict[str, NDArray[Any]]:
    """Return one input of the model's own form: pictures and widths, or floats."""
    images, widths = _images(job)
    if session.inputs[0].dtype == "tensor(uint8)":
        feeds: dict[str, NDArray[Any]] = {contract.IMAGE: images}
        return feeds if job.kind == "det" else {**feeds, contract.VALID_WIDTH: widths}
    return {session.inputs[0].name: images.transpose(0, 3, 1, 2).astype(np.float32) / 255}


def _images(job: Job) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return noise of the case's shape, whose times are those of text, and the widths that hold it: all."""
    n, height, width = job.case.shape or (1, 1, 1)
    images = np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    return images, np.full(n, width, np.int32)


def _timed(run: Callable[[Stages], object], stages: Stages) -> float:
    start = time.perf_counter()
    run(stages)
    return _since(start)


def _since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)
