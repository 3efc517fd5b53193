"""What the service did goes in, Prometheus' text comes out. Every application counts for itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ocr_onnx.engine import Engine
from ocr_onnx.inference import Networks

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one application; they may be counted up from any thread."""

    def __init__(self, under_way: Callable[[], int], queued: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ocr_onnx_requests", "Requests by route and status.", ("route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "ocr_onnx_request_seconds",
            "Time from a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.errors = Counter("ocr_onnx_errors", "Errors by kind.", ("kind",), registry=registry)
        self._pages = Counter("ocr_onnx_pages", "Pages read.", registry=registry)
        self._lines = Counter("ocr_onnx_lines", "Lines of text read.", registry=registry)
        self._stages = Histogram(
            "ocr_onnx_stage_seconds",
            "Time of a page's stage, or of one run of a network.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._rows = Histogram(
            "ocr_onnx_batch_rows",
            "Pages or lines that were handed to a network together.",
            ("stage",),
            buckets=_ROWS,
            registry=registry,
        )
        name, help_text = "ocr_onnx_requests_under_way", "Requests accepted and not answered."
        Gauge(name, help_text, registry=registry).set_function(under_way)
        name, help_text = "ocr_onnx_requests_queued", "Requests with pages that no worker has taken."
        Gauge(name, help_text, registry=registry).set_function(queued)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def page(self, lines: int) -> None:
        """Count a page and its lines."""
        self._pages.inc()
        self._lines.inc(lines)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stages.labels(name).observe(time.perf_counter() - start)

    def watched(self, engine: Engine) -> Engine:
        """Return the engine with its networks' runs measured; results are the same."""
        share = engine.share

        def share_watched(pages: int) -> Networks:
            assert share is not None  # noqa: S101 - only called where it is
            return Networks(*(infer and self._run(stage, infer) for stage, infer in _named(share(pages))))

        det, rec, cls = (
            infer and self._run(stage, infer)
            for stage, infer in _named(Networks(engine.det, engine.rec, engine.cls))
        )
        lanes = engine.rec_lanes and replace(engine.rec_lanes, infer=self._run("rec", engine.rec_lanes.infer))
        return replace(
            engine, det=det, rec=rec, cls=cls, rec_lanes=lanes, share=share_watched if share else None
        )

    def _run(self, stage: str, infer: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arrays: Any) -> Any:
            self._rows.labels(stage).observe(len(arrays[0]))
            with self.stage(stage):
                return infer(*arrays)

        return run


def _named(networks: Networks) -> Iterator[tuple[str, Any]]:
    return zip(Networks._fields, networks, strict=True)
