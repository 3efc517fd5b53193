"""Parts of the GPU suite that read whole drawn pages: each takes a plan and returns what it found."""

import statistics
import time
from collections.abc import Iterator, Sequence

from ocr_onnx import contract, recognize
from ocr_onnx.data import ImageBgr
from ocr_onnx.engine import Engine
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import open_model
from ocr_onnx_bench import soak
from ocr_onnx_bench.gpu_device import MOBILE, Plan, memory_mib, mobile_file, without_tf32
from ocr_onnx_bench.gpu_record import Figure, Outcome, Ran, Series

WORKERS = (1, 2, 4)


def texts(plan: Plan) -> Outcome:
    """Read drawn pages on the CPU and on the device: in whole float32 every text must be the same."""
    pages = tuple(_pages(plan, plan.size(40, 2)))
    ours, exact, usual = (
        _texts(_engine(options), pages)
        for options in (RuntimeOptions(), without_tf32(plan.device), RuntimeOptions(device=plan.device))
    )
    equal, usually = (
        sum(one == other for one, other in zip(ours, found, strict=True)) for found in (exact, usual)
    )
    count = len(pages)
    return Outcome(
        (
            Figure("pages", count),
            Figure("lines on the CPU", sum(map(len, ours))),
            Figure("pages of equal text, fp32", equal),
            Figure("pages of equal text, default", usually),
        ),
        problem="" if equal == count else f"the text of {count - equal} of {count} pages differs in fp32",
    )


def pages_per_second(plan: Plan) -> Outcome:
    """Stream drawn pages with 1, 2 and 4 workers, in turns, with an engine as users load it."""
    engine = Engine.load(MOBILE, device=plan.device)
    pages = list(_pages(plan, plan.size(100, 2)))
    speeds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for number in range(1 + plan.size(5, 1)):
        for workers in WORKERS if number % 2 else WORKERS[::-1]:
            start = time.perf_counter()
            count = sum(1 for _ in engine.stream(pages, workers=workers))
            if number:  # the first round meets every shape for the first time
                speeds[workers].append(count / (time.perf_counter() - start))
    return Outcome(
        tuple(Figure(f"{one} workers", statistics.median(speeds[one]), "pages/s") for one in WORKERS),
        tuple(Series(f"{one} workers", "pages/s", tuple(speeds[one])) for one in WORKERS),
        (_ran(engine),),
    )


def long_soak(plan: Plan) -> Outcome:
    """Read pages of random sizes for long, and watch the memory of the device and of the process."""
    engine = Engine.load(MOBILE, device=plan.device)
    count = plan.size(plan.soak_pages, min(plan.soak_pages, 6))
    step, device = max(1, count // 100), plan.at
    on_device, resident = [], []
    start, lines = time.perf_counter(), 0
    for number, page in enumerate(engine.stream(_pages(plan, count)), start=1):
        lines += len(page.lines)
        if number % step == 0:
            on_device.append(memory_mib(device))
            resident.append(soak.resident_mib())
    settled = on_device[len(on_device) // 10]
    return Outcome(
        (
            Figure("pages", count),
            Figure("lines", lines),
            Figure("speed", count / (time.perf_counter() - start), "pages/s"),
            Figure("in use after a tenth", settled, "MiB"),
            Figure("in use at the end", on_device[-1], "MiB"),
            Figure("growth since a tenth", on_device[-1] / settled - 1, "share"),
            Figure("resident at the end", resident[-1], "MiB"),
            *(Figure(f"distinct shapes of {stage}", seen) for stage, seen in engine.shapes_seen().items()),
        ),
        (Series("in use", "MiB", tuple(on_device)), Series("resident", "MiB", tuple(resident))),
        (_ran(engine),),
    )


def _engine(options: RuntimeOptions) -> Engine:
    """Return an engine of single networks, so that any runtime option can be tried."""
    det, rec = (open_model(mobile_file(stage).path, stage, options) for stage in ("det", "rec"))
    charset = recognize.charset_from(rec.metadata, "rec")
    return Engine(contract.det_infer(det, "det"), contract.rec_infer(rec, "rec", len(charset)), charset)


def _texts(engine: Engine, pages: Sequence[ImageBgr]) -> list[tuple[str, ...]]:
    return [tuple(line.text for line in engine.read(page).lines) for page in pages]


def _pages(plan: Plan, count: int) -> Iterator[ImageBgr]:
    drawn_pages = soak.drawn_pages(count, plan.seed)
    return (page[:640, :640] for page in drawn_pages) if plan.quick else drawn_pages


def _ran(engine: Engine) -> Ran:
    return Ran("mobile det and rec", engine.provenance.provider if engine.provenance else "")
