"""A thousand requests that are wrong in every way: never a 500, never a hang, and the service goes on."""

import io
import json
import random
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.service.conftest import Served, b64, encoded, pdf, png, wait_until
from tests.test_pdf import _encrypted_pdf

JSON = {"Content-Type": "application/json"}
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 1e308, 10**40, "", "a", "\x00", "\ud800", "é" * 100),
    *(
        [],
        {},
        [[[]]],
        {"a": {"b": []}},
        "http://",
        "https://[",
        "data:image/png;base64,aaaa",
        "../../etc/passwd",
    ),
]


def bomb() -> bytes:
    """Return a PNG of a few bytes that says it has 10^10 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return the bytes with some of them changed, left out or cut off."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 20)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    start = chance.randrange(len(changed))
    kind = chance.randrange(3)
    if kind == 0:
        del changed[start:]
    elif kind == 1:
        del changed[start : start + chance.randint(1, 50)]
    return bytes(changed)


def ocr_bodies() -> Iterator[bytes]:
    chance = random.Random(7)
    good = b64(png())
    names = ("file", "fileType", "inferenceParams")
    for name in names:
        for value in ODD_VALUES:
            yield json.dumps({"file": good, name: value}).encode()
    for value in ODD_VALUES:
        yield json.dumps({"file": good, "inferenceParams": {"maxLongSide": value}}).encode()
        yield json.dumps(value).encode()
    whole = json.dumps({"file": good, "fileType": 1}).encode()
    for _ in range(200):
        yield damaged(whole, chance)
    for content in (png(), pdf(1)):
        for _ in range(155):
            yield json.dumps({"file": b64(damaged(content, chance))}).encode()
    yield json.dumps({"file": b64(bomb())}).encode()
    yield b"[" * 500_000
    yield b'{"a":' * 100_000
    yield b'{"file": "' + b"A" * 4_000_000 + b'"}'
    yield b"{" + b",".join(b'"%d": 1' % number for number in range(100_000)) + b"}"
    file = b'{"file": "%s", ' % good.encode()
    for value in (b"NaN", b"-Infinity", b"1e999", b"9" * 1_000_000, b"1e" + b"9" * 1_000_000, b"0.5" * 2):
        yield file + b'"fileType": %s}' % value
        yield file + b'"inferenceParams": {"maxLongSide": %s}}' % value
    yield file + b'"file": 1}'
    yield file + b'"fileType": 1, "fileType": 0}'
    yield file + b'"\\udfff\\ud800": "\\ud800"}'
    yield b'"' + b"\\u0000" * 300_000 + b'"'
    yield json.dumps({"file": "http://" + "a" * 1_000_000}).encode()


def read_requests() -> Iterator[dict[str, Any]]:
    chance = random.Random(8)
    image = {"Content-Type": "image/png"}
    for value in ODD_VALUES:
        for section in ("input", "det", "crop", "cls", "rec", "models"):
            options = json.dumps({section: value})
            yield {"params": {"options": options}, "content": png(), "headers": image}
    for section, key in (("det", "thresh"), ("rec", "batch_size"), ("input", "pages"), ("input", "password")):
        for value in ODD_VALUES:
            options = json.dumps({section: {key: value}})
            yield {"data": {"options": options}, "files": [("file", ("a.png", png()))]}
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + png() + b"\r\n--x--"
    )
    for _ in range(155):
        yield {"content": damaged(part, chance), "headers": form}
    for kind in ("", "image/", "image/png; charset=", "multipart/form-data", "text/html", ";", "a" * 1000):
        yield {"content": png(), "headers": {"Content-Type": kind}}
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
    field = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    for content in (
        (file + b"\r\n\r\n") * 100_000 + b"--x--",
        field * 100_000 + b"--x--",
        file + b"A: b\r\n" * 100_000 + b"\r\n\r\n--x--",
        file + b"A: " + b"b" * 1_000_000 + b"\r\n\r\n\r\n--x--",
        b"\r\n" * 1_000_000 + file + b"\r\n\r\n--x--" + b"\r\n" * 1_000_000,
    ):
        yield {"content": content, "headers": form}
    for rest in ("", "; boundary=", "; boundary=é", "; boundary=" + "x" * 5000, "; boundary=x; charset=hex"):
        yield {"content": part, "headers": {"Content-Type": f"multipart/form-data{rest}".encode()}}
    for options in ('{"det": {"thresh": NaN}}', '{"rec": {"batch_size": 1e400}}', "9" * 10_000, "\x00"):
        yield {"data": {"options": options}, "files": [("file", ("a.png", png()))]}
    yield {"content": bomb(), "headers": image}
    yield {"content": zlib.compress(bytes(1_000_000)), "headers": {**image, "Content-Encoding": "deflate"}}


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, (answer.request.content[:200], answer.text)
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text
    assert answer.headers["x-request-id"]
    assert isinstance(answer.json(), dict)


def test_wrong_requests_are_all_answered_in_words(served: Served, client: httpx.Client) -> None:
    count = 0
    for body in ocr_bodies():
        check(client.post("/ocr", content=body, headers=JSON))
        count += 1
    for request in read_requests():
        check(client.post("/v1/read", **request))
        count += 1
    assert count >= 1000
    wait_until(lambda: served.service.slots.taken == 0)
    assert served.service.slots.held_bytes == 0
    assert client.post("/ocr", json={"file": b64(png())}).status_code == 200


POST = b"POST /ocr HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
RAW = [
    b"",
    b"\x00" * 100,
    b"POST /ocr\r\n\r\n",
    b"POST /ocr HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /ocr HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /ocr HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/read HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 50\r\n\r\nhalf",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 1_000_000 + b"\r\n\r\n",
    b"GET /healthz?\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: [/?\r\n\r\n",
    b"GET http://[/v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n{}",
    b"GET /%00%ff/../..//etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /static/%2e%2e%2f%2e%2e%2fapp.py HTTP/1.1\r\nHost: a\r\n\r\n",
]


@pytest.mark.parametrize("sent", RAW)
def test_what_is_hardly_http_does_no_harm(served: Served, client: httpx.Client, sent: bytes) -> None:
    address = httpx.URL(served.address)
    assert address.port is not None
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        answer = b""
        try:
            connection.sendall(sent)
            with suppress(OSError):  # it may have been refused and closed by now
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                answer += piece
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert b"Traceback" not in answer
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    wait_until(lambda: served.service.slots.taken == 0)
    assert client.post("/ocr", json={"file": b64(png())}).status_code == 200


CLOSING = POST + b"Connection: close\r\n"


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (POST + b"Content-Length: 2\r\n\r\n{}" + CLOSING + b"Content-Length: 2\r\n\r\n[]", 2),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 50 + CLOSING + b"Content-Length: 0\r\n\r\n", 51),
        (CLOSING + b"Transfer-Encoding: chunked\r\n\r\n2;%s=b\r\n{}\r\n0\r\n\r\n" % (b"a" * 10_000), 1),
        (CLOSING + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n[\r\n" * 9_000 + b"0\r\nA: b\r\n\r\n", 1),
        (CLOSING + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 1),
        (CLOSING + b"Content-Length: 2\r\n\r\n{}GET /healthz HTTP/1.1\r\n\r\n", 1),
    ],
)
def test_rare_http_is_answered(served: Served, client: httpx.Client, sent: bytes, answers: int) -> None:
    """Requests in one go, pieces with extensions and trailers, two lengths, more than was announced."""
    address = httpx.URL(served.address)
    assert address.port is not None
    answer = b""
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        connection.sendall(sent)
        while piece := connection.recv(65_536):
            answer += piece
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answer)
    assert len(statuses) == answers
    assert set(statuses) <= {b"200", b"422"}
    wait_until(lambda: served.service.slots.taken == 0)
    assert client.post("/ocr", json={"file": b64(png())}).status_code == 200


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "TIFF", "WEBP"])
def test_pictures_that_unfold_are_refused(client: httpx.Client, kind: str) -> None:
    answer = client.post("/ocr", json={"file": b64(encoded(Image.new("1", (2000, 1000)), kind))})
    assert answer.status_code == 413
    assert "more than the limit" in answer.json()["errorMsg"]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_frames_without_end_none_is_read(client: httpx.Client, kind: str) -> None:
    frames = [Image.new("L", (60, 60), shade) for shade in range(100)]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    options = {"options": '{"input": {"all_frames": true}}'}
    files = [("file", ("a", stream.getvalue()))]
    body = client.post("/v1/read", data=options, files=files).json()
    assert body["pages"] == []
    (failed,) = body["failed"]
    assert failed["error"]["kind"] == "TooLargeError"


@pytest.mark.parametrize("path", ["/", "/ocr", "/v1/read", "/v1/models", "/healthz", "/readyz", "/metrics"])
def test_other_methods_are_told_which_there_are(client: httpx.Client, path: str) -> None:
    for method in ("DELETE", "OPTIONS", "PATCH", "PUT", "TRACE", "QUERY", "HEAD", "GET", "POST"):
        answer = client.request(method, path, headers={"Content-Type": "text/plain"})
        allowed = client.put(path).headers["allow"].split(", ")
        assert (answer.status_code == 405) == (method not in allowed)
        assert answer.status_code < 500


def test_nothing_is_redirected(client: httpx.Client) -> None:
    for path in ("/ocr/", "/v1/read/", "//evil.example/healthz/"):
        assert client.post(path, headers={"Host": "evil.example"}).status_code == 404


def test_an_encrypted_pdf_needs_its_password(client: httpx.Client) -> None:
    answer = client.post("/ocr", json={"file": b64(_encrypted_pdf(b"secret"))})
    assert answer.status_code == 422
    assert "is encrypted" in answer.json()["errorMsg"]
    headers = {"Content-Type": "application/pdf"}
    (failed,) = client.post("/v1/read", content=_encrypted_pdf(b"secret"), headers=headers).json()["failed"]
    assert failed["error"]["problem"] == "is encrypted"
