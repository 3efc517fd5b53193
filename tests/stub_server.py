"""A server in a thread that answers as it is told; what it was asked is kept."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

from ocr_onnx.data import PageResult, TextLine

QUAD = ((1.0, 2.0), (30.0, 2.0), (30.0, 12.0), (1.0, 12.0))
MODELS = {
    "name": "mobile",
    "models": [{"stage": "det", "name": "d", "sha256": "0"}, {"stage": "rec", "name": "r", "sha256": "1"}],
    "device": "cpu",
    "provider": "CPUExecutionProvider",
    "precision": "fp32",
    "version": "1",
}


def page(*texts: str, index: int | None = None) -> PageResult:
    lines = tuple(TextLine(text, 0.9, 0.8, 0.7, QUAD, QUAD) for text in texts)
    return PageResult(lines, 40, 20, "upload", index, provenance=None)


def lines_of(*events: Mapping[str, Any], done: bool = True) -> bytes:
    """Write an answer: pages, errors, and its end unless it is to look cut."""
    pages, failed = (sum(kind in event for event in events) for kind in ("page", "failed"))
    end = [{"done": {"pages": pages, "failed": failed}}] if done else []
    return "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in [*events, *end]).encode()


def pages_of(*results: PageResult) -> bytes:
    return lines_of(*({"page": result.to_dict()} for result in results))


def error_of(
    kind: str, subject: str, problem: str = "is bad", remedy: str = "give another"
) -> dict[str, Any]:
    return {"kind": kind, "subject": subject, "problem": problem, "remedy": remedy}


@dataclass(frozen=True)
class Asked:
    """One request to read: its headers, and the parts of its form."""

    headers: Mapping[str, str]
    file: bytes
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/x-ndjson"


@dataclass
class Stub:
    """The server's address, what `POST /v1/read` was asked, and what it answers, by the file's bytes."""

    url: str = ""
    answer: Callable[[Asked], Answer] = lambda _: Answer(body=pages_of(page("a")))
    get: Callable[[str, Mapping[str, str]], Answer] = lambda *_: Answer(body=json.dumps(MODELS).encode())
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    released: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)


@contextmanager
def serving() -> Iterator[Stub]:
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
            pass

        def do_GET(self) -> None:
            self._answer(stub.get(self.path, self.headers))  # type: ignore[arg-type]

        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            body = self.rfile.read(size)
            if len(body) < size:
                self.close_connection = True  # the client gave up on its way
                return
            asked = _asked(dict(self.headers), body)
            with stub.lock:
                stub.asked.append(asked)
                stub.at_once += 1
                stub.most_at_once = max(stub.at_once, stub.most_at_once)
            try:
                self._answer(stub.answer(asked))
            finally:
                with stub.lock:
                    stub.at_once -= 1

        def _answer(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in {"Content-Type": answer.kind, **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(answer.body)
            except OSError:
                self.close_connection = True

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield stub
    finally:
        stub.released.set()
        http.shutdown()
        thread.join()
        http.server_close()


def _asked(headers: Mapping[str, str], body: bytes) -> Asked:
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    parts: dict[str, bytes] = {}
    for part in message_from_bytes(head + body).walk():
        name = part.get_param("name", header="content-disposition")
        if name is not None:
            parts[str(name)] = part.get_payload(decode=True)  # type: ignore[assignment]
    return Asked(headers, parts["file"], json.loads(parts.get("options", b"{}")))
