"""A stand-in for the service: the page's files under the real policy, and canned answers to `POST /v1/read`.

What an upload is called decides what becomes of it; see `ANSWERS`. Every page's lines are those of
`drawn_page`, so that boxes lie on words. Runs by itself to look at the page:
`python tests/service_page/page_server.py [port]`.
"""

import base64
import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ocr_onnx.data import PageResult, Provenance, TextLine

PAGE: Final = Path(__file__).parents[2] / "ocr_onnx" / "service" / "page"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
KEY: Final = "open-sesame"
SIZE_WH: Final = (640, 820)

WORDS: Final = (
    ("Harbour Cafe", 0.998),
    ("12 Quay Street, Whitby", 0.984),
    ("Thursday 14 May, table 7", 0.962),
    ("1  Leek and potato soup        6.50", 0.931),
    ("1  Fish pie, peas                      13.80", 0.874),
    ("2  Lemonade                            5.60", 0.956),
    ("1  Sticky toffee pudd1ng          7.20", 0.641),
    ("Total                                      33.10", 0.978),
    ("<b>Service & VAT</b> included", 0.913),
    ("谢谢光临 Thank you", 0.785),
)
MODELS: Final = {
    "name": "mobile",
    "models": [
        {"stage": "det", "name": "ppocrv4-mobile-det", "sha256": "00ff"},
        {"stage": "rec", "name": "ppocrv4-mobile-rec", "sha256": "11ee"},
    ],
    "device": "cpu",
    "provider": "CPUExecutionProvider",
    "version": "0.1.0",
}


def drawn_page(size_wh: tuple[int, int] = SIZE_WH) -> Image.Image:
    """Draw `WORDS`, one below the other, where `result` says that they are."""
    image = Image.new("RGB", size_wh, "#fffdf8")
    pen = ImageDraw.Draw(image)
    for number, (words, _) in enumerate(WORDS):
        pen.text((60, 60 + 70 * number), words, fill="#22262a", font=ImageFont.load_default(30))
    return image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def result(source: str, index: int | None = None, count: int = len(WORDS)) -> PageResult:
    """What the engine would say of `drawn_page`."""
    font = ImageFont.load_default(30)
    lines = []
    for number, (words, score) in enumerate(WORDS[:count]):
        left, top, right, bottom = (float(side) for side in font.getbbox(words, anchor="la"))
        x1, y1, x2, y2 = 56.5 + left, 56 + 70 * number + top, 64 + right, 64 + 70 * number + bottom
        quad = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
        lines.append(TextLine(words, score, score / 2, 0.9, quad, quad))
    provenance = Provenance(
        (("det", "d@00"), ("rec", "r@11")), "cpu", "CPUExecutionProvider", (1.0, 1.0), "0.1.0"
    )
    return PageResult(tuple(lines), *SIZE_WH, source, index, provenance=provenance)


def page_fault(name: str, index: int | None, problem: str, remedy: str) -> dict[str, Any]:
    """What stands in a stream for a page that failed."""
    subject = name if index is None else f"{name}, page {index + 1}"
    return {"failed": {"source": name, "index": index, **fault("InputError", subject, problem, remedy)}}


def fault(kind: str, subject: str, problem: str, remedy: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "subject": subject, "problem": problem, "remedy": remedy}}


class Handler(BaseHTTPRequestHandler):
    """One request; the server's attributes hold what tests look at."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Stay silent."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            return self.refuse_key() if self.lacks_key() else self.answer_json(200, MODELS)
        name = "index.html" if self.path == "/" else self.path.removeprefix("/static/")
        file = PAGE / name
        if file.parent != PAGE or not file.is_file():
            return self.answer_json(404, fault("input", self.path, "there is no such file", "look at /"))
        return self.answer(200, TYPES[file.suffix], file.read_bytes())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.lacks_key():
            return self.refuse_key()
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = {
            part.get_param("name", header="content-disposition"): part
            for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts()
        }
        name = parts["file"].get_filename() or ""
        picture = parts["picture"].get_content().strip() == "true"
        self.server.uploads.append((name, picture, self.headers["Accept"]))
        if name.startswith("busy") and self.server.busy > 0:
            self.server.busy -= 1
            error = fault("busy", name, "the queue is full", "try again later")
            return self.answer_json(503, error, {"Retry-After": "2"})
        if name.startswith("large"):
            error = fault("input", name, "has 300 MiB, more than the 256 MiB allowed", "send a smaller file")
            error["error"]["requestId"] = "7b1e"
            return self.answer_json(413, error)
        return self.answer_lines(name, picture)

    def answer_lines(self, name: str, picture: bool) -> None:
        self.send_head(200, "application/x-ndjson", {"Transfer-Encoding": "chunked"})
        for event in events(name, picture):
            if event == "cut":
                self.close_connection = True
                return
            if event == "wait":
                self.server.go_on.wait(20)
                continue
            line = event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode()
            for piece in (line[: len(line) // 2], line[len(line) // 2 :] + b"\n"):  # mid-line, mid-character
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def lacks_key(self) -> bool:
        return self.server.asks_key and self.headers["Authorization"] != f"Bearer {KEY}"

    def refuse_key(self) -> None:
        self.answer_json(401, fault("key", "Authorization", "no valid API key", "send one"))

    def answer_json(self, status: int, data: object, headers: dict[str, str] | None = None) -> None:
        self.answer(status, "application/json", json.dumps(data).encode(), headers)

    def answer(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_head(status, kind, {"Content-Length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def send_head(self, status: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()


def page_event(name: str, picture: bool, index: int | None = None, count: int = len(WORDS)) -> dict[str, Any]:
    found = result(name, index, count)
    page = found.to_dict()
    if picture:
        image = drawn_page()
        if not name.startswith("single"):  # the service draws the page beside its text
            bgr = np.ascontiguousarray(np.asarray(image)[..., ::-1])
            image = Image.fromarray(replace(found, image=bgr).plot()[..., ::-1])
        page["picture"] = base64.b64encode(encoded(image, "JPEG")).decode()
    return {"page": page}


def events(name: str, picture: bool) -> Iterator[dict[str, Any] | bytes | str]:
    """What is sent for an upload of this name; "cut" drops the connection, "wait" waits for the test."""
    first = page_event(name, picture, 0 if name.endswith((".pdf", ".tif")) else None)
    match name.split("-")[0].split(".")[0]:
        case "three":  # the second of three pages fails
            yield first
            yield "wait"
            yield page_fault(name, 1, "its content is damaged", "export the PDF again")
            yield page_event(name, picture, 2, 4)
            yield {"done": {"pages": 2, "failed": 1}}
        case "cut":
            yield first
            yield "wait"
            yield "cut"
        case "bad":
            yield page_fault(name, None, "is no picture and no PDF", "give a PNG")
            yield {"done": {"pages": 0, "failed": 1}}
        case "wordless":
            yield {"failed": {"error": {"kind": "InputError"}}}
        case "broken":
            yield b'{"page": {"lines": [tru'
        case "slow":
            yield "wait"
            yield first
            yield {"done": {"pages": 1, "failed": 0}}
        case "blank":
            yield page_event(name, picture, None, 0)
            yield {"done": {"pages": 1, "failed": 0}}
        case "warned":
            first["page"] |= {"filtered": 3, "warnings": ["the page was shrunk to 0.4 of its size"]}
            yield first
            yield {"done": {"pages": 1, "failed": 0}}
        case _:
            yield first
            yield {"done": {"pages": 1, "failed": 0}}


class Server(ThreadingHTTPServer):
    """The stand-in; `busy` counts the 503s still to come, `go_on` lets what waits continue."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.uploads: list[tuple[str, bool, str]] = []
        self.busy = 0
        self.asks_key = False
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent about browsers that close their connection."""


@contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    """Serve in a thread until the block ends."""
    server = Server(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    with serving(int(sys.argv[1]) if len(sys.argv) > 1 else 8000) as running:
        running.go_on.set()
        print(running.url)  # noqa: T201 - for the person who started it
        while True:
            time.sleep(1)
