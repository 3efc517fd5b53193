"""What the service does when there is too much, too slow or too late; and what it lets nobody do."""

import gzip
import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ocr_onnx.data import F32Array
from ocr_onnx.engine import Engine
from ocr_onnx.errors import DeviceError, ModelContractError
from ocr_onnx.options import InputOptions, Options
from ocr_onnx.service import fetching
from ocr_onnx.service.logs import JsonLines
from ocr_onnx.service.settings import ServiceOptions
from tests.service.conftest import (
    Gate,
    Serve,
    Served,
    b64,
    dark,
    encoded,
    fake_engine,
    pdf,
    png,
    wait_until,
)

PNG = {"Content-Type": "image/png"}


def read(served: Served, content: bytes = b"", timeout: float = 60) -> httpx.Response:
    return httpx.post(
        f"{served.address}/v1/read", content=content or png(), headers=PNG, timeout=timeout, trust_env=False
    )


def ocr(served: Served, file: str) -> httpx.Response:
    return httpx.post(f"{served.address}/ocr", json={"file": file}, timeout=60, trust_env=False)


def answers_still(served: Served) -> None:
    """Check that nothing is left of earlier requests, and that one more is served."""
    wait_until(lambda: served.service.slots.taken == 0)
    assert served.service.slots.held_bytes == 0
    assert len(read(served).json()["pages"]) == 1


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def test_beyond_the_bound_requests_are_told_to_come_back(serve: Serve, gate: Gate) -> None:
    with (
        serve(lambda: fake_engine(det=gate), ServiceOptions(max_requests=3)) as served,
        ThreadPoolExecutor(3) as pool,
    ):
        accepted = [pool.submit(read, served) for _ in range(3)]
        wait_until(lambda: served.service.slots.taken == 3)
        for answer in (read(served), ocr(served, b64(png()))):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
        assert httpx.get(f"{served.address}/healthz").status_code == 200
        gate.open.set()
        assert [len(future.result().json()["pages"]) for future in accepted] == [1, 1, 1]
        answers_still(served)


def test_beyond_the_bytes_that_all_may_hold_too(serve: Serve) -> None:
    options = ServiceOptions(max_held_bytes=1000)
    with serve(options=options) as served:
        assert read(served, bytes(1001)).status_code == 503
        wait_until(lambda: served.service.slots.taken == 0)
        assert served.service.slots.held_bytes == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused_while_it_arrives(serve: Serve, chunked: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(1000)

    with serve(options=ServiceOptions(max_body_bytes=5000)) as served:
        content = pieces() if chunked else bytes(20_000)
        answer = httpx.post(f"{served.address}/v1/read", content=content, headers=PNG)
        assert answer.status_code == 413
        assert answer.json()["error"]["kind"] == "TooLargeError"
        answers_still(served)


def test_a_slow_body_times_out(serve: Serve) -> None:
    with serve(options=ServiceOptions(body_timeout_s=0.2)) as served:
        with socket.create_connection(_port(served), timeout=30) as client:
            client.sendall(b"POST /ocr HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
            client.sendall(b"Content-Length: 100\r\n\r\n{")
            answer = b""
            while piece := client.recv(65_536):  # ends as the server hangs up
                answer += piece
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["errorCode"] == 408
        answers_still(served)


@pytest.mark.parametrize("kind", ["application/json", "image/png", "multipart/form-data; boundary=x"])
def test_a_client_that_goes_away_within_its_body_leaves_nothing(serve: Serve, kind: str) -> None:
    path = "/ocr" if kind == "application/json" else "/v1/read"
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n"
    with serve() as served:
        with socket.create_connection(_port(served), timeout=30) as client:
            client.sendall(head.encode() + b"--x")
            wait_until(lambda: served.service.slots.held_bytes == 3)
        answers_still(served)


def _port(served: Served) -> tuple[str, int]:
    address = httpx.URL(served.address)
    assert address.port is not None
    return address.host, address.port


def test_a_late_request_is_answered_and_leaves_the_queue(serve: Serve, gate: Gate) -> None:
    options = ServiceOptions(request_timeout_s=0.2)
    with serve(lambda: fake_engine(det=gate), options) as served:
        answer = read(served)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (504, "TimeoutError")
        assert ocr(served, b64(pdf(8))).json()["errorCode"] == 504
        gate.open.set()
        answers_still(served)
        assert gate.calls < 8


def test_late_lines_end_with_the_error(serve: Serve, gate: Gate) -> None:
    with serve(lambda: fake_engine(det=gate), ServiceOptions(request_timeout_s=0.2)) as served:
        headers = {**PNG, "Accept": "application/x-ndjson"}
        answer = httpx.post(f"{served.address}/v1/read", content=png(), headers=headers)
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert lines[0]["failed"]["error"]["kind"] == "TimeoutError"
        assert lines[1] == {"done": {"pages": 0, "failed": 1}}
        gate.open.set()
        answers_still(served)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_client_that_goes_away_leaves_the_queue(serve: Serve, gate: Gate, accept: str) -> None:
    with serve(lambda: fake_engine(det=gate)) as served:
        body = pdf(9)
        with socket.create_connection(_port(served), timeout=30) as client:
            head = f"POST /v1/read HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n"
            head += f"Content-Type: application/pdf\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            assert gate.arrived.acquire(timeout=30)
        wait_until(lambda: not served.service.queued)
        gate.open.set()
        answers_still(served)
        assert gate.calls < 9


def test_a_client_that_goes_away_between_two_lines_leaves_the_queue(serve: Serve, gate: Gate) -> None:
    seen: list[tuple[int, ...]] = []

    def first_alone(images: NDArray[np.uint8]) -> F32Array:
        seen.append(images.shape)
        return dark(images) if len(seen) == 1 else gate(images)

    with serve(lambda: fake_engine(det=first_alone, pages_at_once=1)) as served:
        headers = {"Content-Type": "application/pdf", "Accept": "application/x-ndjson"}
        url = f"{served.address}/v1/read"
        with httpx.stream("POST", url, content=pdf(9), headers=headers, trust_env=False) as answer:
            assert next(answer.iter_lines()).startswith('{"page":')
        wait_until(lambda: not served.service.queued)
        gate.open.set()
        answers_still(served)
        assert len(seen) < 9


def test_a_shutdown_finishes_what_was_accepted(serve: Serve, gate: Gate) -> None:
    with serve(lambda: fake_engine(det=gate)) as served, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(read, served)
        assert gate.arrived.acquire(timeout=30)
        served.server.should_exit = True
        wait_until(lambda: _refuses(served))
        gate.open.set()
        assert len(accepted.result().json()["pages"]) == 1


def _refuses(served: Served) -> bool:
    try:
        with socket.create_connection(_port(served), timeout=30):
            return False
    except OSError:
        return True


def test_readiness_tells_of_loading_and_of_the_end(serve: Serve) -> None:
    loading = threading.Event()

    def load() -> Engine:
        assert loading.wait(30)
        return fake_engine()

    with serve(load, wait=False) as served, httpx.Client(base_url=served.address) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json() == {"status": "loading"}
        assert client.get("/readyz").status_code == 503
        assert client.get("/v1/models").status_code == 503
        assert ocr(served, b64(png())).status_code == 503
        loading.set()
        wait_until(lambda: served.service.ready)
        assert client.get("/readyz").json() == {"status": "ready"}
        served.service.stopping = True
        assert client.get("/readyz").json() == {"status": "stopping"}
        assert read(served).status_code == 503


def test_no_part_of_an_answer_waits_for_the_one_before(served: Served, client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    (connection,) = served.server.server_state.connections
    assert connection.transport is not None
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_proxies_may_ask_without_wanting_a_body(client: httpx.Client, path: str) -> None:
    answer = client.head(path)
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-length"] == client.get(path).headers["content-length"]


def test_an_engine_that_can_not_be_loaded_stops_the_server(serve: Serve) -> None:
    def load() -> NoReturn:
        raise DeviceError("cuda:0", "is not there", "buy one")

    with serve(load, wait=False) as served:
        wait_until(lambda: served.service.failure is not None)
        assert isinstance(served.service.failure, DeviceError)
        assert httpx.get(f"{served.address}/readyz").status_code == 503


@pytest.mark.parametrize(
    "error", [ModelContractError("/secret/det.onnx", "broke", "replace it"), KeyError("x")]
)
def test_faults_of_the_server_are_told_to_the_log_alone(
    serve: Serve, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> NoReturn:
        raise error

    with caplog.at_level(logging.INFO, "ocr_onnx"), serve(lambda: fake_engine(det=broken)) as served:
        answer = ocr(served, b64(png()))
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        (failed,) = read(served).json()["failed"]
        assert (failed["source"], failed["error"]["kind"]) == ("<bytes>", "InternalError")
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    told = [line for line in lines if line.get("error") == type(error).__name__]
    assert any("test_limits.py" in frame for frame in told[0]["frames"])


def test_the_log_has_a_line_a_request_and_no_content(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ocr_onnx"):
        answer = ocr(served, "c2VjcmV0")
        wait_until(lambda: any(record.getMessage() == "request" for record in caplog.records))
    (line,) = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert set(line) == {"time", "level", "message", "request_id", "method", "route", "status", "ms"}
    assert (line["method"], line["route"], line["status"]) == ("POST", "/ocr", 422)
    assert line["request_id"] == answer.headers["x-request-id"]


def test_keys_are_asked_for(serve: Serve) -> None:
    with serve(keys=["first", "second"]) as served, httpx.Client(base_url=served.address) as client:
        wrong: list[dict[bytes, bytes]] = [{}, {b"X-API-Key": b"firs"}, {b"Authorization": b"Basic first"}]
        for sent in (*wrong, {b"X-API-Key": "é".encode()}):
            for path in ("/ocr", "/v1/read"):
                answer = client.post(path, headers=sent)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
            assert client.get("/v1/models", headers=sent).status_code == 401
        for headers in ({"X-API-Key": "second"}, {"Authorization": "Bearer first"}):
            assert client.post("/v1/read", content=png(), headers={**PNG, **headers}).status_code == 200
        for path in ("/healthz", "/readyz"):
            assert client.get(path).status_code == 200


def test_only_listed_origins_may_call(serve: Serve) -> None:
    options = ServiceOptions(cors_origins="https://a.example, https://b.example")
    with serve(options=options) as served, httpx.Client(base_url=served.address) as client:
        answer = client.get("/healthz", headers={"Origin": "https://b.example"})
        assert answer.headers["access-control-allow-origin"] == "https://b.example"
        answer = client.get("/healthz", headers={"Origin": "https://c.example"})
        assert "access-control-allow-origin" not in answer.headers


# addresses


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "nonsense"),
    ],
)
def test_what_is_not_public_is_not_fetched_from(address: str) -> None:
    assert not fetching.is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8"])
def test_what_is_public_may_be(address: str) -> None:
    assert fetching.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:1/a.png", "http://localhost:1/a.png", "http://[::1]:1/a.png", "http://0/a.png"),
        *(
            "http://2130706433/a.png",
            "http://169.254.169.254/latest/meta-data",
            "http://[::ffff:127.0.0.1]/a",
        ),
        *("http://", "http://[", "http:///a.png", "http://a:99999999/b"),
    ],
)
def test_addresses_of_this_machine_and_broken_ones_are_refused(serve: Serve, url: str) -> None:
    with serve(options=ServiceOptions(allow_urls=True)) as served:
        answer = ocr(served, url)
        assert answer.status_code == 422, answer.text
        answers_still(served)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a picture, redirects and an endless body on this machine, which counts as public by one name."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            pass

        def do_GET(self) -> None:
            self.send_response(302 if self.path.startswith("/to") else 200)
            if self.path == "/to-page":
                self.send_header("Location", "/page.png")
            elif self.path == "/to-private":
                self.send_header(
                    "Location", f"http://127.0.0.2:{self.headers['Host'].rpartition(':')[2]}/page.png"
                )
            elif self.path == "/to-itself":
                self.send_header("Location", "/to-itself")
            elif self.path == "/to-file":
                self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            if self.path == "/page.png":
                self.wfile.write(png())
            try:
                while self.path == "/endless":
                    self.wfile.write(bytes(65_536))
            except OSError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/page.png", 200, "Success"),
        ("/to-page", 200, "Success"),
        ("/to-private", 422, "not a public address"),
        ("/to-itself", 422, "redirect"),
        ("/to-file", 422, "not http(s)"),
        ("/endless", 413, "larger than the limit"),
    ],
)
def test_public_addresses_are_fetched_within_bounds(
    serve: Serve, site: str, path: str, status: int, words: str
) -> None:
    with serve(options=ServiceOptions(allow_urls=True)) as served:
        answer = ocr(served, site + path)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["errorMsg"]
        answers_still(served)


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("10.0.0.1",), ("8.8.8.8", "127.0.0.1"), ("::1",)])
def test_a_name_that_leads_to_this_machine_is_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    look_up = socket.getaddrinfo

    def looked_up(host: str, port: int, *args: int, **kwargs: int) -> list[Any]:
        if host != "pictures.example":
            return look_up(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    with serve(options=ServiceOptions(allow_urls=True)) as served:
        answer = ocr(served, "http://pictures.example/page.png")
        assert answer.status_code == 422
        assert answer.json()["errorMsg"].startswith("pictures.example: is not a public address")
        answers_still(served)


def test_only_listed_hosts_are_fetched_from(serve: Serve, site: str) -> None:
    with serve(options=ServiceOptions(allow_urls=True, url_hosts="example.org")) as served:
        assert "not a host" in ocr(served, f"{site}/page.png").json()["errorMsg"]
    with serve(options=ServiceOptions(allow_urls=True, url_hosts="example.org, 127.0.0.1")) as served:
        assert ocr(served, f"{site}/page.png").status_code == 200


def test_pages_of_many_requests_come_in_turns(serve: Serve, gate: Gate) -> None:
    """A long document does not keep the others waiting until it is through."""
    shapes: list[tuple[int, ...]] = []

    def noted(images: NDArray[np.uint8]) -> F32Array:
        shapes.append(images.shape)
        return gate(images)

    with serve(lambda: fake_engine(det=noted, pages_at_once=1)) as served, ThreadPoolExecutor(2) as pool:
        long = pool.submit(read, served, pdf(12))
        assert gate.arrived.acquire(timeout=30)
        short = pool.submit(read, served, png(64, 640))
        wait_until(lambda: served.service.slots.taken == 2)
        wait_until(lambda: served.service.queued > 0)
        gate.open.set()
        assert len(short.result().json()["pages"]) == 1
        assert len(long.result().json()["pages"]) == 12
    (turn,) = [turn for turn, shape in enumerate(shapes) if shape[1] > shape[2]]
    assert turn < 6


def test_an_answer_that_nobody_takes_is_given_up(serve: Serve) -> None:
    engine = fake_engine(options=Options(input=InputOptions()))
    noise = np.random.default_rng(5).integers(0, 255, (2000, 2000, 3), np.uint8)
    body = json.dumps({"file": b64(encoded(Image.fromarray(noise), "PNG"))}).encode()
    head = b"POST /ocr HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with serve(lambda: engine, ServiceOptions(body_timeout_s=1.0)) as served:
        address = httpx.URL(served.address)
        assert address.port is not None
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((address.host, address.port))
            connection.sendall(head % len(body) + body)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            assert served.service.slots.taken == 1
            wait_until(lambda: served.service.slots.taken == 0)
            answers_still(served)


def test_a_body_that_is_packed_is_refused(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = client.post("/ocr", content=gzip.compress(b"{}"), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["errorMsg"].startswith("Content-Encoding: ")


def test_json_of_more_values_than_any_request_needs_is_not_parsed(client: httpx.Client) -> None:
    many = b'{"file": "' + b64(png()).encode() + b'", "more": [' + b"[]," * 10_000 + b"[]]}"
    answer = client.post("/ocr", content=many, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "has more than 10000 values" in answer.json()["errorMsg"]


def test_a_shutdown_does_not_wait_for_models_that_are_being_loaded(serve: Serve) -> None:
    ends = threading.Event()

    def load() -> Engine:
        assert ends.wait(600)
        return fake_engine()

    with serve(load, wait=False) as served:
        assert httpx.get(f"{served.address}/readyz").json() == {"status": "loading"}
    assert not ends.is_set()  # and the fixture saw the server end
    ends.set()
