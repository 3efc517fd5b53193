import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from ocr_onnx.errors import InputError
from ocr_onnx.fetch import _unreachable, fetch

LIMIT_BYTES = 1000
BODY = bytes(range(256))


class _Handler(BaseHTTPRequestHandler):
    released = threading.Event()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        pass

    def do_GET(self) -> None:
        name, _, rest = self.path.strip("/").partition("/")
        getattr(self, name)(rest)

    def ok(self, _: str) -> None:
        self._answer(200, {"Content-Length": str(len(BODY))}, BODY)

    def missing(self, _: str) -> None:
        self._answer(404)

    def proxy_login(self, _: str) -> None:
        self._answer(407)

    def hops(self, rest: str) -> None:
        left = int(rest)
        self._answer(302, {"Location": f"/hops/{left - 1}" if left > 1 else "/ok"})

    def to_file(self, _: str) -> None:
        self._answer(302, {"Location": "file:///etc/hostname"})

    def to_nonsense(self, _: str) -> None:
        self._answer(302, {"Location": "http://[broken"})

    def announced_large(self, _: str) -> None:
        self._answer(200, {"Content-Length": str(LIMIT_BYTES + 1)})

    def endless(self, _: str) -> None:
        self._answer(200)
        self._until_gone(b"x" * 512)

    def dripping_body(self, _: str) -> None:
        self._answer(200)
        self._until_gone(b"x", pause_s=0.02)

    def dripping_header(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
        self._until_gone(b"x", pause_s=0.02)

    def hang_up(self, _: str) -> None:
        self.close_connection = True

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _until_gone(self, piece: bytes, pause_s: float = 0.0) -> None:
        try:
            while not self.released.wait(pause_s):
                self.wfile.write(piece)
        except OSError:
            self.close_connection = True


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    _Handler.released.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("path", ["ok", "hops/1", "hops/5"])
def test_fetch(server: str, path: str) -> None:
    assert fetch(f"{server}/{path}", LIMIT_BYTES, 30) == BODY


def test_fetch_inside_an_event_loop(server: str) -> None:
    async def caller() -> bytes:
        return fetch(f"{server}/ok", LIMIT_BYTES, 30)

    assert asyncio.run(caller()) == BODY


def test_fetch_at_the_limit(server: str) -> None:
    assert len(fetch(f"{server}/ok", len(BODY), 30)) == len(BODY)
    with pytest.raises(InputError, match=f"larger than the limit of {len(BODY) - 1} bytes"):
        fetch(f"{server}/ok", len(BODY) - 1, 30)


@pytest.mark.parametrize(
    ("path", "problem", "remedy"),
    [
        ("missing", "answered 404 Not Found", "check the address"),
        ("proxy_login", "answered 407 Proxy Authentication Required", "check the proxy that HTTP_PROXY"),
        ("hops/6", "redirects more than 5 times", "give the address of the file itself"),
        (
            "to_file",
            "redirects to file:/etc/hostname, which is not http(s)",
            "give the address of the file",
        ),
        ("to_nonsense", "could not be fetched (", "check the address and the network"),
        ("announced_large", "is larger than the limit of 1000 bytes", "raise input.max_bytes"),
        ("endless", "is larger than the limit of 1000 bytes", "raise input.max_bytes"),
        ("hang_up", "could not be fetched (", "check the address and the network"),
    ],
)
def test_fetch_refuses(server: str, path: str, problem: str, remedy: str) -> None:
    url = f"{server}/{path}"
    with pytest.raises(InputError) as caught:
        fetch(url, LIMIT_BYTES, 30)
    assert caught.value.subject == url
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("path", ["dripping_body", "dripping_header"])
def test_fetch_bounds_the_time_as_a_whole(server: str, path: str) -> None:
    with pytest.raises(InputError, match=r"did not arrive within 0\.3 s; .*input\.timeout_s"):
        fetch(f"{server}/{path}", 10**9, 0.3)


def test_fetch_dead_address() -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1/x\.png: could not be fetched"):
        fetch("http://127.0.0.1:1/x.png", LIMIT_BYTES, 30)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "gopher://127.0.0.1:1"),
        ("HTTP_PROXY", "http://127.0.0.1:port"),
        ("SSL_CERT_FILE", "/no/such/file"),
        ("SSL_CERT_FILE", __file__),  # holds no certificate
    ],
)
def test_network_settings_that_can_not_be_used(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        InputError, match=r"with these network settings \(.+\); correct HTTPS_PROXY"
    ) as caught:
        fetch("http://127.0.0.1:1/x.png", LIMIT_BYTES, 30)
    assert variable in caught.value.remedy


def test_a_proxy_without_its_package_is_a_network_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(InputError, match=r"with these network settings .*SOCKS.*ALL_PROXY"):
        fetch("http://127.0.0.1:1/x.png", LIMIT_BYTES, 30)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "http://127.0.0.1:99999"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_fault_of_the_proxy_is_not_blamed_on_the_address(
    scheme: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    url = f"{scheme}://example.invalid/x.png"
    with pytest.raises(InputError, match=r"could not be fetched \(.+\); check the proxy that HTTP_PROXY"):
        fetch(url, LIMIT_BYTES, 30)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(InputError, match="check the address"):
        fetch(f"{scheme}://127.0.0.1:1/x.png", LIMIT_BYTES, 30)


def test_a_certificate_of_an_unknown_authority_is_named() -> None:
    error = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    assert "SSL_CERT_FILE" in _unreachable("https://127.0.0.1/x.png", error).remedy


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999/x", "http://[broken/x", f"http://{'a' * 70}.invalid/x", "http:///x"]
)
def test_impossible_addresses(url: str) -> None:
    with pytest.raises(InputError, match=r"could not be fetched \(.+\); check the address") as caught:
        fetch(url, LIMIT_BYTES, 30)
    assert caught.value.subject == url


def test_a_name_is_looked_up(server: str) -> None:
    assert fetch(server.replace("127.0.0.1", "localhost") + "/ok", LIMIT_BYTES, 30) == BODY


def test_looking_a_name_up_is_bounded_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    released, resolvers = threading.Event(), []

    def stuck(*_: object) -> None:
        resolvers.append(threading.current_thread())
        released.wait()
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    try:
        with pytest.raises(InputError, match=r"did not arrive within 0\.2 s"):
            fetch("http://slow.invalid/x.png", LIMIT_BYTES, 0.2)
        (resolver,) = resolvers
        assert resolver.is_alive()
        assert resolver.daemon  # so that the process may end
    finally:
        released.set()
    resolver.join(30)
    assert not resolver.is_alive()
