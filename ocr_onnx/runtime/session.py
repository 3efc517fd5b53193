"""A device and a model file in, a callable that runs the model on that device out."""

import ctypes
import json
import os
import sys
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

from ocr_onnx.errors import ModelContractError, OptionError
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import opening, probe, wheels
from ocr_onnx.runtime.binding import Array, BoundSession
from ocr_onnx.runtime.device import ON_PROCESSOR, PROVIDERS
from ocr_onnx.runtime.providers import GpuOptions, TensorRtOptions
from ocr_onnx.threads import Turns, usable_threads

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""Those of all inputs of a run."""

MAX_SHAPES = 10_000  # that a session remembers; whoever has seen so many knows enough

# Pages of ever new sizes leave the arena in pieces that fit no later run, and it grows: from 402 to 476 MiB
# over 2,000 pages. Emptied now and then, it holds what pages need: at most 368 instead of 430 MiB over 500
# pages, in the same time.
SHRINK_EVERY = 64


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a model. `shape` has None where a size is free."""

    name: str
    dtype: str  # ONNX Runtime's name for it: "tensor(float)"
    shape: tuple[int | None, ...]


class _Opened(NamedTuple):
    """ONNX Runtime's session of one process, and what its runs have to share."""

    session: Any
    bound: BoundSession | None  # the same with buffers on a GPU
    turns: Turns
    threads: int  # that a run takes of the turns
    arena_runs: Iterator[int] | None  # the numbers of the runs that use the arena of the CPU


class Session:
    """A model opened on the device that was asked for: a callable from named arrays to arrays.

    May be called from many threads at once. Runs on the processor, of all sessions of the process,
    take turns where together they ask for more threads than there are: at once they would be no
    faster and need more memory. On a GPU, one run of a session follows the other. Survives a fork
    (the child opens the model anew, as ONNX Runtime's thread pool stays behind) and pickling (the
    copy does the same). `engine` is for device tensorrt: which of the model's engines this session
    runs.

    Raises DeviceError where the device can't be used, ModelContractError where the file is not an
    ONNX model, OptionError where the device is several. There is no quiet change to another device.
    """

    def __init__(self, path: Path, options: RuntimeOptions, engine: TensorRtOptions | None = None) -> None:
        self.path = path
        self._options = options
        self._gpu = GpuOptions(options.gpu_memory_mib, options.tf32, engine)
        self.device = probe.honoured(options)
        if self.device.more:
            problem = "are several GPUs, and a session runs on one"
            raise OptionError(str(self.device), problem, "use open_model, or open a session for each")
        self.provider = PROVIDERS[self.device.kind]
        # By process: a parent's session is of no use in its child, and destroying it there hangs.
        self._opened: dict[int, _Opened] = {}
        self._by_threads = {options.threads or usable_threads(): self}
        self._shapes: set[Shapes] = set()
        _LIVE.add(self)
        session = self._open().session
        self.inputs = tuple(map(_tensor_info, session.get_inputs()))
        self.outputs = tuple(map(_tensor_info, session.get_outputs()))
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run the model once; return the named outputs, or all in the order of `self.outputs`.

        Raises ModelContractError where the model refuses its input or fails on it.
        """
        opened = self._opened.get(os.getpid()) or self._open()
        if len(self._shapes) < MAX_SHAPES:
            self._shapes.add(tuple(array.shape for array in feeds.values()))
        try:
            with opened.turns.taken(opened.threads):
                if opened.bound is not None:
                    return opened.bound.run(outputs, feeds)
                return cast("list[Array]", opened.session.run(outputs, feeds, _run_options(opened)))
        except wheels.ort_errors() as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise ModelContractError(
                str(self.path),
                f"failed on {shapes}: {wheels.first_line(error)}",
                "give a model that takes any size; if memory ran out, lower det.limit_side_px",
            ) from error

    def with_threads(self, threads: int) -> "Session":
        """Return the same model with another number of threads a run, opened when it is first run."""
        if threads not in self._by_threads:
            other = object.__new__(Session)
            vars(other).update(vars(self))
            other._options = replace(self._options, threads=threads)
            other._opened = {}
            _LIVE.add(other)
            self._by_threads.setdefault(threads, other)
        return self._by_threads[threads]

    def shapes_seen(self) -> frozenset[Shapes]:
        """Return the shapes of inputs that runs so far had, whatever their threads; MAX_SHAPES at most.

        A GPU chooses and loads its kernels for every new one, and a run of it waits for that.
        """
        return frozenset(self._shapes)

    def __reduce__(self) -> tuple[type["Session"], tuple[Path, RuntimeOptions, TensorRtOptions | None]]:
        return type(self), (self.path, self._options, self._gpu.engine)

    def _open(self) -> _Opened:
        """Open the model in this process, unless another thread just did."""
        threads = self._options.threads or usable_threads()
        shared = _PROCESSES.setdefault(
            os.getpid(), _Process(Turns(usable_threads()), threading.Lock(), count(1))
        )
        with shared.opening:
            if os.getpid() not in self._opened:
                session = opening.open_session(
                    str(self.path),
                    str(self.path),
                    self.device,
                    threads,
                    self._options.precision,
                    gpu=self._gpu,
                )
                # A GPU runs the operations of a network one after the other anyway, so two runs of one
                # session at a time would gain little, and each would need working memory and buffers
                # of its own. The sessions of other stages, and everything that happens to other pages
                # before and after the networks, go on beside it.
                turns = shared.turns if self.device.kind in ON_PROCESSOR else Turns(1)
                on_cuda = self.device.kind == "cuda"
                bound = BoundSession(session, "cuda", self.device.index) if on_cuda else None
                arena_runs = shared.arena_runs if self.device.kind == "cpu" else None
                self._opened[os.getpid()] = _Opened(session, bound, turns, threads, arena_runs)
        return self._opened[os.getpid()]


class _Process(NamedTuple):
    """What the sessions of one process share."""

    turns: Turns  # on the processor
    opening: threading.Lock
    arena_runs: Iterator[int]


def _run_options(opened: _Opened) -> Any:
    """Return None or, for every SHRINK_EVERY-th run, options that empty the arena after it."""
    if opened.arena_runs is None or next(opened.arena_runs) % SHRINK_EVERY:
        return None
    return opening.shrinking()


_LIVE: weakref.WeakSet[Session] = weakref.WeakSet()
_PROCESSES: dict[int, _Process] = {}  # a forked child must not inherit turns that were taken


def _let_child_end() -> None:
    """Make a forked child able to exit: ONNX Runtime's destructors wait for threads that it does not have.

    The parent's sessions are never destroyed there, and the C library's exit handlers, among them
    ONNX Runtime's own (1.32 hangs in them after a mere import), are cut short. Python's own shutdown
    is over by then. Only glibc has `on_exit`; elsewhere children should leave by `os._exit`.
    """
    if "onnxruntime" not in sys.modules:
        return
    for session in _LIVE:
        for inherited in session._opened.values():
            for held in (inherited.session, inherited.bound):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_child_end)


def node_placement(path: Path, options: RuntimeOptions, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Run a model once and return how many of its operations each execution provider ran.

    What a session lists as its providers is a wish; ONNX Runtime's trace tells where operations went.
    Of several GPUs the first is asked. Raises what `Session` does.
    """
    device = probe.honoured(options).each[0]
    with tempfile.TemporaryDirectory() as folder:
        threads = options.threads or usable_threads()
        session = opening.open_session(
            str(path),
            str(path),
            device,
            threads,
            options.precision,
            profile=f"{folder}/trace",
            gpu=GpuOptions(options.gpu_memory_mib, options.tf32),
        )
        session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return dict(Counter(event["args"]["provider"] for event in ran))


def _tensor_info(info: Any) -> TensorInfo:
    shape: Sequence[object] = info.shape
    return TensorInfo(info.name, info.type, tuple(size if isinstance(size, int) else None for size in shape))
