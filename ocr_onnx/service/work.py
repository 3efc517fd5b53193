"""Requests with pages go in, every page's outcome comes out, in order; a few threads share all requests."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ocr_onnx.data import Page, PageResult
from ocr_onnx.engine import Engine
from ocr_onnx.options import Options
from ocr_onnx.service.faults import Failed, RequestError, busy, fault_of, gone
from ocr_onnx.service.logs import log_cause
from ocr_onnx.service.metrics import Metrics

THREADS_AHEAD = 2  # decode and draw while others are in the networks

Finish: TypeAlias = Callable[[PageResult], Any]
"""Makes of a page's result what the answer needs; called in a worker's thread."""

_LOG = logging.getLogger(__name__)


class Slots:
    """Counts the requests under way and the bytes they hold; refuses what is beyond the bounds.

    For one event loop: nothing here may be called from another thread.
    """

    def __init__(self, max_requests: int, max_held_bytes: int) -> None:
        self._max_requests, self._max_held_bytes = max_requests, max_held_bytes
        self.taken = 0
        self.held_bytes = 0

    def take(self) -> "Slot":
        """Let a request in. Raises RequestError (503) where there are as many as there may be."""
        if self.taken >= self._max_requests:
            raise busy()
        self.taken += 1
        return Slot(self)

    def hold(self, count: int) -> None:
        """Count bytes of a body. Raises RequestError (503) where the server would hold too many."""
        if self.held_bytes + count > self._max_held_bytes:
            raise busy("holds as many bytes of other requests as it may")
        self.held_bytes += count


class Slot:
    """The place of one request, given back once: `release` may be called again."""

    def __init__(self, slots: Slots) -> None:
        self._slots: Slots | None = slots
        self._held_bytes = 0

    def hold(self, count: int) -> None:
        """Count bytes that this request holds from now on."""
        if self._slots is not None:
            self._slots.hold(count)
            self._held_bytes += count

    def release(self) -> None:
        """Give the place and the bytes back."""
        if self._slots is not None:
            self._slots.taken -= 1
            self._slots.held_bytes -= self._held_bytes
            self._slots = None


@dataclass(slots=True, eq=False)
class Job:
    """The pages of one request, on their way through the workers.

    `pages` is advanced by one worker at a time, whose turn it is; with `renders`, that may have to wait
    for a process that renders PDFs. Outcomes arrive in the event loop `loop` and come out of `outcomes`
    in the order of the pages.
    """

    pages: Iterator[Page | Failed]
    options: Options
    finish: Finish
    renders: bool
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    cancelled: bool = False
    taken: int = 0
    _arrived: dict[int, Any] = field(default_factory=dict)
    _total: int | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def outcomes(self) -> AsyncIterator[Any]:
        """Yield what `finish` made of every page, or a Failed in its place, in order."""
        number = 0
        while self._total is None or number < self._total:
            if number in self._arrived:
                yield self._arrived.pop(number)
                number += 1
            else:
                self._news.clear()
                await self._news.wait()

    def deliver(self, number: int, outcome: Any) -> None:
        """Hand over the outcome of a page. For workers."""
        self.loop.call_soon_threadsafe(self._arrive, number, outcome)

    def end(self, total: int) -> None:
        """Tell how many pages there are. For workers."""
        self.loop.call_soon_threadsafe(self._close, total)

    def _arrive(self, number: int, outcome: Any) -> None:
        self._arrived[number] = outcome
        self._news.set()

    def _close(self, total: int) -> None:
        self._total = total
        self._news.set()


class Workers:
    """A few threads that read the pages of all requests in turns, one page of each after the other.

    `pages_at_once` pages are in the networks at a time. A page that nobody else competes with is
    read on all threads, others on their share.
    """

    def __init__(self, engine: Engine, workers: int, metrics: Metrics) -> None:
        count = workers or engine.pages_at_once
        self._alone, self._sharing = engine, engine.sharing(count)
        self._metrics = metrics
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._networks = threading.Semaphore(count)
        self._reading = 0
        self._rendering, self._most_rendering = 0, count
        self._closed = False
        self._pool = ThreadPoolExecutor(count + THREADS_AHEAD, thread_name_prefix="ocr-onnx-service")
        for _ in range(count + THREADS_AHEAD):
            self._pool.submit(self._work)

    def submit(self, job: Job) -> None:
        """Put a request's pages in line."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Drop what is left of a request, but for a page that is in the networks."""
        with self._changed:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)

    @property
    def waiting(self) -> int:
        """How many requests have pages that no worker has taken."""
        return len(self._waiting)

    def close(self) -> None:
        """End the threads, after the page that each has in hand; what waits is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            number = job.taken
            page = self._page_of(job)
            with self._changed:
                self._rendering -= job.renders
                if page is not None:
                    job.taken += 1
                    self._waiting.append(job)
                self._changed.notify_all()
            if page is None:
                job.end(number)
            else:
                job.deliver(number, self._outcome(job, page))
            del page, job  # nothing of a request stays where a thread waits for the next

    def _next(self) -> Job | None:
        """Wait for a request that has a page to be read; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._first() is not None)
            job = None if self._closed else self._first()
            if job is not None:
                self._waiting.remove(job)
                self._rendering += job.renders
            return job

    def _first(self) -> Job | None:
        """Return the first in line, past PDFs while as many as may be are being rendered: pictures go on."""
        full = self._rendering == self._most_rendering
        return next((job for job in self._waiting if not (full and job.renders)), None)

    def _page_of(self, job: Job) -> Page | Failed | None:
        """Decode the next page of a request; None where there is no more, or nobody wants it."""
        if job.cancelled:
            return None
        try:
            with self._metrics.stage("decode"):
                return next(job.pages, None)
        except Exception as error:  # a bug must cost its request, not the thread that all requests share
            job.pages = iter(())
            return Failed("", None, _reported(error))

    def _outcome(self, job: Job, page: Page | Failed) -> Any:
        if not isinstance(page, Page):
            return page
        try:
            with self._networks:
                if job.cancelled:
                    return Failed(page.source, page.index, gone())
                result = self._read(job, page)
            self._metrics.page(len(result.lines))
            return job.finish(result)
        except Exception as error:  # as above
            return Failed(page.source, page.index, _reported(error))

    def _read(self, job: Job, page: Page) -> PageResult:
        with self._changed:
            self._reading += 1
            alone = self._reading == 1 and not any(other is not job for other in self._waiting)
        try:
            with self._metrics.stage("read"):
                return (self._alone if alone else self._sharing).read(page, job.options)
        finally:
            with self._changed:
                self._reading -= 1


def _reported(error: Exception) -> RequestError:
    """Return what a client is told; what is not the client's fault goes to the log."""
    fault = fault_of(error)
    if fault.status >= 500:
        log_cause(_LOG, error)
    return fault
