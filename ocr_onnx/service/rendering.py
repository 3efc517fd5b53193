"""PDFs go in, documents come out whose pages other processes render, bounded in time and memory.

PDFium can't be interrupted, and a file of a few bytes can keep it busy for days or take all memory. So
the service gives PDFs to processes of their own (`renderer`), which are ended when they take too long.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from math import prod
from typing import Any, Final, TypeVar

import numpy as np

from ocr_onnx.data import ImageBgr
from ocr_onnx.document import Document
from ocr_onnx.errors import DependencyError, InputError, TooLargeError
from ocr_onnx.options import InputOptions

START_S: Final = 120.0  # a Python that starts beside busy ones
TRIES: Final = 2  # of a question whose process went: somebody else may have ended it
_Value = TypeVar("_Value")
_ERRORS: Final = {kind.__name__: kind for kind in (InputError, TooLargeError, DependencyError)}


class Renderers:
    """At most `count` processes, started when they are needed and again when one went.

    Each question to one (opening a file, rendering a page) may take `timeout_s`, and each process
    `max_bytes` of memory, where the system bounds it (not on Windows). For any number of threads.
    """

    def __init__(self, count: int, timeout_s: float, max_bytes: int) -> None:
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        self._places = count  # for processes that are not there yet
        self._idle: list[_Renderer] = []
        self._changed = threading.Condition()

    def open(self, data: bytes, source: str, options: InputOptions) -> Document:
        """Open a PDF; an `OpenPdf`. Raises InputError, TooLargeError where that takes too long."""
        return _Remote(self, data, source, options)

    def close(self) -> None:
        """End all processes. No document may be used any more."""
        for renderer in self._idle:
            renderer.end()

    @contextmanager
    def lent(self, document: "_Remote") -> Iterator["_Renderer"]:
        """Lend a process, the one that has the document if it can be."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._places)
            idle = next((one for one in self._idle if one.held is document), None)
            if idle is None and self._idle:
                idle = self._idle[-1]
            if idle is None:
                self._places -= 1
            else:
                self._idle.remove(idle)
        renderer = idle
        try:
            renderer = renderer or _Renderer(self._timeout_s, self._max_bytes)
            yield renderer
        finally:
            with self._changed:
                if renderer is None or renderer.gone:
                    self._places += 1
                else:
                    self._idle.append(renderer)
                self._changed.notify()


class _Remote:
    """A `Document` whose file lies here, and in the process that was last asked to open it."""

    def __init__(self, renderers: Renderers, data: bytes, source: str, options: InputOptions) -> None:
        self.source, self.options = source, options
        self._renderers, self._data = renderers, data
        self._pages = self._tried(source, lambda renderer: renderer.open(self, data))

    def __len__(self) -> int:
        return self._pages

    def render(self, index: int) -> ImageBgr:
        return self._tried(
            f"{self.source}, page {index + 1}", lambda renderer: self._rendered(renderer, index)
        )

    def close(self) -> None:
        self._data = b""  # a process keeps its copy until it opens another

    def _rendered(self, renderer: "_Renderer", index: int) -> ImageBgr:
        renderer.open(self, self._data)
        head, pixels = renderer.ask({"render": index})
        return np.frombuffer(pixels, np.uint8).reshape(head["shape"]).copy()

    def _tried(self, subject: str, work: Callable[["_Renderer"], _Value]) -> _Value:
        for _ in range(TRIES):
            with self._renderers.lent(self) as renderer:
                try:
                    return work(renderer)
                except EOFError:
                    if renderer.late:
                        problem = f"takes longer than {renderer.timeout_s:g} s to be rendered"
                        raise TooLargeError(subject, problem, "give it as a picture") from None
        remedy = "it is broken or wants too much memory: repair it, or give it as pictures"
        raise InputError(subject, "makes the PDF reader fail", remedy)


class _Renderer:
    """A process, and what it was asked to open last. One thread at a time may use it.

    Raises RuntimeError where none can be started.
    """

    def __init__(self, timeout_s: float, max_bytes: int) -> None:
        self.timeout_s = timeout_s
        self.late = self.gone = False
        self.held: _Remote | None = None
        self._pages = 0
        # It ends itself in the end, should this process not be there any more to do it.
        bounds = [str(max_bytes), str(2 * timeout_s)]
        self._process = subprocess.Popen(  # noqa: S603 - this very Python, and a module of ours
            [sys.executable, "-P", "-m", "ocr_onnx.service.renderer", *bounds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # OpenBLAS takes memory for every thread that it might start, and nothing is computed there.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            with self._ended_after(START_S):
                self._answer()
        except EOFError as error:
            raise RuntimeError("the process that renders PDFs ends as it starts") from error

    def open(self, document: _Remote, data: bytes) -> int:
        """Have a document opened unless it is; return its number of pages. Raises what `ask` does."""
        if self.held is not document:
            self.held = None
            head = {"open": len(data), "source": document.source, "options": asdict(document.options)}
            self._pages = self.ask(head, data)[0]["pages"]
            self.held = document
        return self._pages

    def ask(self, head: Mapping[str, Any], content: bytes = b"") -> tuple[Mapping[str, Any], bytes]:
        """Ask a question. Raises InputError, and EOFError where the process went, or had to."""
        assert self._process.stdin is not None  # noqa: S101 - see __init__
        with self._ended_after(self.timeout_s):
            self._process.stdin.write(json.dumps(head).encode() + b"\n" + content)
            self._process.stdin.flush()
            return self._answer()

    def end(self) -> None:
        """End the process."""
        self.gone = True
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101 - see __init__
            with suppress(BrokenPipeError):  # of a question that was not taken
                pipe.close()
        self._process.wait()

    def _answer(self) -> tuple[Mapping[str, Any], bytes]:
        stream = self._process.stdout
        assert stream is not None  # noqa: S101 - see __init__
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        head = json.loads(line)
        if "error" in head:
            kind, subject, problem, remedy = head["error"]
            raise _ERRORS[kind](subject, problem, remedy)
        size = prod(head.get("shape", (0,)))
        content = stream.read(size)
        if len(content) < size:
            raise EOFError
        return head, content

    @contextmanager
    def _ended_after(self, seconds: float) -> Iterator[None]:
        """End the process where what runs inside takes longer. Raises EOFError where it goes."""
        timer = threading.Timer(seconds, self._expire)
        timer.start()
        try:
            yield
        except (EOFError, BrokenPipeError) as error:
            self.end()
            raise EOFError from error
        finally:
            timer.cancel()
            timer.join()
        if self.late:  # in the very moment of the answer
            self.end()

    def _expire(self) -> None:
        self.late = True
        self._process.kill()
