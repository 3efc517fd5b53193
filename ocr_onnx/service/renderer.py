"""The process that renders PDFs for `rendering`: `python -m ocr_onnx.service.renderer BYTES SECONDS`.

Questions come on stdin and answers go to stdout, each a line of JSON that may announce bytes behind it:
`{"open": bytes, "source": ..., "options": {...}}` and the file to `{"pages": n}`, `{"render": index}` to
`{"shape": [H, W, 3]}` and the pixels. `{"error": [kind, subject, problem, remedy]}` is the answer to what
can't be read. A question takes SECONDS at most and the process BYTES of memory; beyond that it ends.
"""

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ocr_onnx.document import Document
from ocr_onnx.errors import OcrError
from ocr_onnx.inputs import open_pdf
from ocr_onnx.options import InputOptions


def main() -> None:
    """Answer until stdin ends."""
    for stops in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stops, signal.SIG_IGN)  # sent to all of a service's processes; it ends this one itself
    _bound_memory(int(sys.argv[1]))
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - no path of ours
        try:
            _answer_all(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[2]), nowhere.fileno())
        except BrokenPipeError:
            os._exit(0)  # the service is gone; an ordinary exit would try to write once more


def _answer_all(questions: BinaryIO, answers: BinaryIO, seconds: float, nowhere: int) -> None:
    document: Document | None = None
    _send(answers, {"ready": True})
    while line := questions.readline():
        question = json.loads(line)
        try:
            with _ended_after(seconds, nowhere):
                if "open" in question:
                    if document is not None:
                        document.close()
                    document = None
                    document = _opened(question, questions.read(question["open"]))
                    _send(answers, {"pages": len(document)})
                else:
                    assert document is not None  # noqa: S101 - the other side opens before it renders
                    image = document.render(question["render"])
                    _send(answers, {"shape": image.shape}, image)
        except OcrError as error:
            told = type(error).__name__, error.subject, error.problem, error.remedy
            _send(answers, {"error": told})


def _opened(question: dict[str, Any], data: bytes) -> Document:
    return open_pdf(data, question["source"], InputOptions(**question["options"]))


def _send(answers: BinaryIO, head: dict[str, Any], content: Any = b"") -> None:
    answers.write(json.dumps(head).encode() + b"\n")
    answers.write(content)
    answers.flush()


@contextmanager
def _ended_after(seconds: float, nowhere: int) -> Iterator[None]:
    """End the process where what runs inside takes longer: PDFium can't be interrupted.

    The other side does that too, unless it is gone: nobody would end this process then.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _bound_memory(size_bytes: int) -> None:
    if sys.platform != "win32":  # which has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size_bytes, size_bytes))


if __name__ == "__main__":
    main()
