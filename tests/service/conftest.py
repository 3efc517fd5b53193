"""What the tests of the service share: an engine without weights, and a real server in a thread."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image

from ocr_onnx.data import F32Array
from ocr_onnx.engine import Engine
from ocr_onnx.options import InputOptions, Options
from ocr_onnx.recognize import CtcSteps
from ocr_onnx.service.app import create_app
from ocr_onnx.service.server import listening
from ocr_onnx.service.settings import ServiceOptions
from ocr_onnx.service.shared import Service

DEMO = Path(__file__).parents[1] / "data" / "boarding-pass.png"
LIMITS = InputOptions(max_bytes=2_000_000, max_pixels=1_000_000, max_pages=12)


class Served(NamedTuple):
    """A service on a port of this machine."""

    address: str
    service: Service
    server: uvicorn.Server


Serve: TypeAlias = Callable[..., AbstractContextManager[Served]]


def dark(images: NDArray[np.uint8]) -> F32Array:
    """Take dark pixels for text."""
    prob_map: F32Array = (images.mean(axis=3) < 128).astype(np.float32)
    return prob_map


def one_letter(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
    """Read every line as one "a", with a probability that tells the line's width."""
    labels = np.zeros((len(images), images.shape[2] // 8), np.int64)
    labels[:, 1] = 1
    probs = np.broadcast_to((content_px[:, None] / 1000).astype(np.float32), labels.shape)
    return CtcSteps(labels, probs)


class Gate:
    """A detector that waits until it is let through, and tells how many pages have come to it."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.calls = 0

    def __call__(self, images: NDArray[np.uint8]) -> F32Array:
        self.calls += 1
        self.arrived.release()
        assert self.open.wait(30)
        return dark(images)


def fake_engine(**changes: object) -> Engine:
    """Return an engine that reads black bars as the letter a."""
    engine = Engine(dark, one_letter, ("", "a", " "), options=Options(input=LIMITS))
    return replace(engine, **changes)  # type: ignore[arg-type]


def png(width: int = 256, height: int = 128, bars: int = 1) -> bytes:
    """Return a white picture with black bars, one below the other."""
    page = np.full((height, width, 3), 255, np.uint8)
    for bar in range(bars):
        page[20 + 40 * bar : 40 + 40 * bar, 30:150] = 0
    return encoded(Image.fromarray(page), "PNG")


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def pdf(pages: int, width: int = 300, height: int = 200) -> bytes:
    """Return a PDF whose pages are pictures of one bar."""
    images = [Image.open(io.BytesIO(png(width, height))) for _ in range(pages)]
    stream = io.BytesIO()
    images[0].save(stream, "PDF", save_all=True, append_images=images[1:], resolution=200)
    return stream.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def serve() -> Serve:
    """Give a context manager that serves an engine on a port."""

    @contextmanager
    def serve(
        load: Callable[[], Engine] = fake_engine,
        options: ServiceOptions = ServiceOptions(),
        *,
        keys: Sequence[str] = (),
        page: Path | None = None,
        wait: bool = True,
    ) -> Iterator[Served]:
        app = create_app(load, options, keys=keys, model_set="fake", page=page)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=30)
        server = uvicorn.Server(config)
        listener = listening("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        service: Service = app.state.service
        try:
            wait_until(lambda: server.started and (service.ready or not wait))
            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", service, server)
        finally:
            server.should_exit = True
            thread.join(60)
            listener.close()
            assert not thread.is_alive()

    return serve


@pytest.fixture
def served(serve: Serve) -> Iterator[Served]:
    """Serve the engine of bars."""
    with serve() as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """Talk to it."""
    with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as client:
        yield client
