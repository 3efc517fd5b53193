"""Calls of an inference function from many threads in, fewer and larger runs of it out. Pure Python."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ocr_onnx.errors import OcrError

Array: TypeAlias = NDArray[Any]
Result = TypeVar("Result")
Take: TypeAlias = Callable[[Result, slice], Result]
"""Picks rows of a result."""

MAX_ROWS = 32
MAX_BYTES = 32 * 48 * 320 * 3  # of images: 32 lines of 320 px; a wide line is as much work as several


class Gathered(Generic[Result]):
    """An inference function for many threads: calls that wait for a run under way share the next one.

    `infer` takes arrays of N rows each and returns a result of N rows, `take` picks rows of such a
    result. A call that finds nothing under way runs at once, so nothing waits to be joined; `at_once`
    runs may be under way. Calls are served in their order; with the first go those behind it whose
    arrays are of the same type and size per row, up to `max_rows` rows and `max_bytes` of arrays. A
    single call may be larger and then runs alone.

    Where a shared run fails, its calls are run again one by one, so that only those fail whose own
    rows are to blame. Raises what `infer` does. Survives a fork and pickling if `infer` does.
    """

    def __init__(
        self,
        infer: Callable[..., Result],
        take: Take[Result],
        max_rows: int = MAX_ROWS,
        max_bytes: int = MAX_BYTES,
        at_once: int = 1,
    ) -> None:
        self._infer, self._take = infer, take
        self._max_rows, self._max_bytes, self._at_once = max_rows, max_bytes, at_once
        # By process: a forked child must not inherit calls of threads that it does not have.
        self._queues: dict[int, _Queue[Result]] = {}

    def __call__(self, *arrays: Array) -> Result:
        """Return the result for the rows of these arrays."""
        queue = self._queue()
        call = _Call[Result](arrays, threading.Condition(queue.lock))
        while call.answer is None:
            with queue.batch(call) as batch:
                self._run(batch)
        return call.answer

    def __reduce__(self) -> tuple[type["Gathered[Result]"], tuple[object, ...]]:
        return type(self), (self._infer, self._take, self._max_rows, self._max_bytes, self._at_once)

    def _queue(self) -> "_Queue[Result]":
        process = os.getpid()
        queue = self._queues.get(process)
        return queue or self._queues.setdefault(
            process, _Queue(self._max_rows, self._max_bytes, self._at_once)
        )

    def _run(self, batch: "list[_Call[Result]]") -> None:
        """Answer the calls of a batch; where they fail together, leave each to be run alone."""
        if len(batch) == 1:
            batch[0].answer = self._infer(*batch[0].arrays)
        elif batch:
            try:
                found = self._infer(*map(np.concatenate, zip(*(call.arrays for call in batch), strict=True)))
            except OcrError:
                return  # whose fault it is shows when each is run alone
            start = 0
            for call in batch:
                call.answer = self._take(found, slice(start, start + call.rows))
                start += call.rows


@dataclass(slots=True, eq=False)
class _Call(Generic[Result]):
    """Arrays that wait for a run."""

    arrays: tuple[Array, ...]
    changed: threading.Condition  # one of its own: who waits is woken when it is answered or next, not before
    answer: Result | None = None
    alone: bool = False  # a run that it shared failed
    given_up: bool = False  # whoever called is gone

    @property
    def rows(self) -> int:
        return len(self.arrays[0])

    @property
    def size_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def kind(self) -> tuple[object, ...]:
        """What has to be equal for two calls to share a run."""
        return tuple((array.dtype, array.shape[1:]) for array in self.arrays)


class _Queue(Generic[Result]):
    """Which calls run together next. Its fields change under `lock` only."""

    def __init__(self, max_rows: int, max_bytes: int, at_once: int) -> None:
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._free = at_once
        self._waiting: deque[_Call[Result]] = deque()
        self.lock = threading.Lock()

    @contextmanager
    def batch(self, call: _Call[Result]) -> Iterator[list[_Call[Result]]]:
        """Wait until a call is the first and give those that run with it; none if it was answered meanwhile.

        Whatever is not answered in the end waits again, ahead of all others, to be run alone; not
        so the call itself where an error comes out.
        """
        batch = self._wait(call)
        ended = False
        try:
            yield batch
            ended = True
        finally:
            with self.lock:
                left = [other for other in batch if other.answer is None and (ended or other is not call)]
                for other in reversed(left):
                    other.alone = True
                    if not other.given_up:
                        self._waiting.appendleft(other)
                self._free += bool(batch)
                self._wake(batch)

    def _wait(self, call: _Call[Result]) -> list[_Call[Result]]:
        with self.lock:
            if not call.alone:  # else it was put back ahead of the others
                self._waiting.append(call)
            decided = False
            try:
                decided = call.changed.wait_for(lambda: call.answer is not None or self._is_next(call))
            finally:
                if not decided:  # an interrupted wait must not hold up those behind it
                    self._give_up(call)
            return [] if call.answer is not None else self._batch_of(call)

    def _is_next(self, call: _Call[Result]) -> bool:
        return self._free > 0 and len(self._waiting) > 0 and self._waiting[0] is call

    def _give_up(self, call: _Call[Result]) -> None:
        call.given_up = True
        if call in self._waiting:
            self._waiting.remove(call)
        self._wake([])

    def _batch_of(self, first: _Call[Result]) -> list[_Call[Result]]:
        """Take the first call from the queue and, unless it has to be alone, those that fit into its run."""
        batch, rows, size_bytes = [first], first.rows, first.size_bytes
        for call in tuple(self._waiting)[1:]:
            shares = not (first.alone or call.alone) and call.kind == first.kind
            fits = rows + call.rows <= self._max_rows and size_bytes + call.size_bytes <= self._max_bytes
            if shares and fits:
                batch.append(call)
                rows, size_bytes = rows + call.rows, size_bytes + call.size_bytes
        for call in batch:
            self._waiting.remove(call)
        self._free -= 1
        self._wake([])
        return batch

    def _wake(self, calls: list[_Call[Result]]) -> None:
        """Let the threads of these calls look again, and that of the first in line if it may run."""
        first = [self._waiting[0]] if self._waiting and self._free > 0 else []
        for call in calls + first:
            call.changed.notify()
