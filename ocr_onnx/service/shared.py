"""What the routes of one application share, from the start of its process to the end."""

import asyncio
import hmac
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Request

from ocr_onnx.engine import Engine
from ocr_onnx.service.faults import RequestError, busy
from ocr_onnx.service.metrics import Metrics
from ocr_onnx.service.rendering import Renderers
from ocr_onnx.service.settings import ServiceOptions
from ocr_onnx.service.work import Slots, Workers
from ocr_onnx.threads import usable_threads

OPENING_THREADS: Final = 2

_LOG = logging.getLogger(__name__)


class Service:
    """What the routes of one application share: the engine, once it is loaded, and the work under way.

    `failure` is what kept the engine from being loaded; `on_failure` is called then.
    """

    def __init__(
        self, load: Callable[[], Engine], options: ServiceOptions, keys: Sequence[str], model_set: str
    ) -> None:
        self.options = options
        self.model_set = model_set
        self.slots = Slots(options.max_requests, options.max_held_bytes)
        self.renderers = Renderers(usable_threads(), options.render_timeout_s, options.render_max_bytes)
        self.metrics = Metrics(lambda: self.slots.taken, lambda: self.queued)
        self.engine: Engine | None = None
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.stopping = False
        # Apart from the loop's threads, which write answers: opening a PDF may have to wait for its renderer.
        self.opening = ThreadPoolExecutor(OPENING_THREADS, thread_name_prefix="ocr-onnx-opening")
        self._load, self._keys = load, tuple(key.encode() for key in keys)
        self._workers: Workers | None = None

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.engine is not None and not self.stopping

    @property
    def queued(self) -> int:
        """How many requests have pages that wait."""
        return 0 if self._workers is None else self._workers.waiting

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the engine beside the requests that ask whether it is; end the workers in the end."""
        loading = asyncio.create_task(self._start())
        try:
            yield
        finally:
            self.stopping = True
            loading.cancel()
            await asyncio.wait((loading,))
            if self._workers is not None:
                await asyncio.to_thread(self._workers.close)
            self.opening.shutdown(cancel_futures=True)
            await asyncio.to_thread(self.renderers.close)

    async def _start(self) -> None:
        try:
            engine = self.metrics.watched(await _in_daemon(self._load))
            self._workers = Workers(engine, self.options.workers, self.metrics)
        except Exception as error:  # whoever started the server raises it again
            self.failure = error
            self.on_failure()
            return
        self.engine = engine
        _LOG.info("ready")

    def loaded(self) -> tuple[Engine, Workers]:
        """Return what reads. Raises RequestError (503) while there is none."""
        if self.engine is None or self._workers is None or self.stopping:
            raise busy("is shutting down" if self.stopping else "is still loading its models")
        return self.engine, self._workers

    def check_key(self, request: Request) -> None:
        """Raise RequestError (401) unless there are no keys, or the request has one of them."""
        if not self._keys:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        sent = (request.headers.get("x-api-key") or bearer).encode("utf-8", "replace")
        # all of them are compared, so that the time tells nothing about which one is nearly right
        if not sum(hmac.compare_digest(sent, key) for key in self._keys):
            problem, remedy = "is missing or wrong", "send it as Authorization: Bearer or X-API-Key"
            raise RequestError(401, "KeyError", "API key", problem, remedy)


async def _in_daemon(load: Callable[[], Engine]) -> Engine:
    """Load in a thread that nobody waits for at a shutdown: a download may take minutes."""
    loaded: Future[Engine] = Future()
    loaded.set_running_or_notify_cancel()

    def work() -> None:
        try:
            loaded.set_result(load())
        except Exception as error:  # handed on
            loaded.set_exception(error)

    threading.Thread(target=work, name="ocr-onnx-loading", daemon=True).start()
    return await asyncio.wrap_future(loaded)
