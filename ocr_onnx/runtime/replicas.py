"""One model opened on several devices in, one callable that shares its runs out among them out."""

import logging
import os
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ocr_onnx.errors import DeviceError, OcrError
from ocr_onnx.runtime.binding import Array
from ocr_onnx.runtime.device import Device
from ocr_onnx.runtime.session import Shapes, TensorInfo

if TYPE_CHECKING:
    from ocr_onnx.runtime.model import Model

_LOG = logging.getLogger(__name__)


class Replicas:
    """The same model on several devices: a `Model` that any number of threads may call.

    Runs start in the order in which they were asked for. Every replica does one at a time; of the
    free ones, that with the fewest runs so far gets the next. A run that fails on one is done again
    on the others: where one does it well, those that failed are put out of service, with one
    warning in the log, and where all fail, it is the input's fault, and all stay in service. The last
    one always stays. A forked child and an unpickled copy start with all replicas in service.
    """

    def __init__(self, replicas: Sequence["Model"]) -> None:
        self.replicas = tuple(replicas)
        first, *others = self.replicas
        self.path: Path = first.path
        self.device: Device = replace(first.device, more=tuple(other.device.index for other in others))
        self.provider: str = first.provider
        self.inputs: tuple[TensorInfo, ...] = first.inputs
        self.outputs: tuple[TensorInfo, ...] = first.outputs
        self.metadata: Mapping[str, str] = first.metadata
        # By process: a forked child must not inherit a queue of threads that it does not have.
        self._queues: dict[int, _Queue] = {}

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run the model once on one of the devices.

        Raises what the first replica to fail did where all fail; DeviceError after `close`.
        """
        queue = self._queue()
        failed: dict[int, OcrError] = {}
        while True:
            with queue.replica(failed) as number:
                if number is None:
                    raise next(iter(failed.values()))
                try:
                    found = self.replicas[number](feeds, outputs)
                except OcrError as error:
                    failed[number] = error
                    continue
            for other, cause in failed.items():
                if queue.put_out(other):
                    self._warn(other, number, cause)
            return found

    def with_threads(self, threads: int) -> "Replicas":
        """Return the same model with another number of threads a run on every device."""
        return Replicas([replica.with_threads(threads) for replica in self.replicas])

    def shapes_seen(self) -> frozenset[Shapes]:
        """Return the shapes of inputs that runs so far had on any device."""
        return frozenset().union(*(replica.shapes_seen() for replica in self.replicas))

    def close(self) -> None:
        """Refuse every run that has not started, and return when those that have are done."""
        self._queue().close()

    def __reduce__(self) -> tuple[type["Replicas"], tuple[tuple["Model", ...]]]:
        return type(self), (self.replicas,)

    def _queue(self) -> "_Queue":
        process = os.getpid()
        queue = self._queues.get(process)
        return queue or self._queues.setdefault(process, _Queue(str(self.device), len(self.replicas)))

    def _warn(self, failed: int, other: int, error: OcrError) -> None:
        where = [str(replica.device) for replica in self.replicas]
        _LOG.warning(
            "%s is out of service for %s: a run failed that %s did well (%s); load the engine anew to use it "
            "again",
            where[failed],
            self.path.name,
            where[other],
            error.problem,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A run that waits for a replica, and where it has failed already."""

    failed_on: frozenset[int]


class _Queue:
    """Which run goes to which replica next. All fields change under `_changed` only."""

    def __init__(self, device: str, count: int) -> None:
        self._device = device
        self._runs = [0] * count  # started, by replica
        self._busy: set[int] = set()
        self._out: set[int] = set()
        self._waiting: deque[_Call] = deque()
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def replica(self, failed_on: Collection[int]) -> Iterator[int | None]:
        """Hold a replica other than those; None where no other is in service."""
        call = _Call(frozenset(failed_on))
        with self._changed:
            self._line_up(call)
            try:
                self._changed.wait_for(lambda: self._is_decided(call))
                self._refuse_if_closed(call)
                number = self._next_for(call)
                if number is not None:
                    self._busy.add(number)
                    self._runs[number] += 1
            finally:  # an interrupted wait must not hold up those behind it
                self._waiting.remove(call)
                self._changed.notify_all()
        try:
            yield number
        finally:
            with self._changed:
                self._busy -= {number}
                self._changed.notify_all()

    def put_out(self, number: int) -> bool:
        """Put a replica out of service and tell whether that is news; the last one stays."""
        with self._changed:
            if number in self._out or len(self._out) == len(self._runs) - 1:
                return False
            self._out.add(number)
            self._changed.notify_all()
        return True

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy and not self._waiting)

    def _line_up(self, call: _Call) -> None:
        """Put a call at the end; one that has run already, and failed, came before those that have not."""
        if call.failed_on:
            self._waiting.insert(sum(bool(other.failed_on) for other in self._waiting), call)
        else:
            self._waiting.append(call)

    def _is_decided(self, call: _Call) -> bool:
        hopeless = self._out | call.failed_on == set(range(len(self._runs)))
        return hopeless or (self._closed and not call.failed_on) or self._next_for(call) is not None

    def _refuse_if_closed(self, call: _Call) -> None:
        """Refuse what has not started; a run that is done again for a replica's failure has."""
        if self._closed and not call.failed_on:
            raise DeviceError(self._device, "was closed while a run waited for it", "load the engine anew")

    def _next_for(self, call: _Call) -> int | None:
        """Return the free replica that a waiting call gets after all before it got theirs."""
        free = set(range(len(self._runs))) - self._busy - self._out
        for waiting in self._waiting:
            choice = min(free - waiting.failed_on, key=lambda one: (self._runs[one], one), default=None)
            if waiting is call:
                return choice
            free -= {choice}
        return None
