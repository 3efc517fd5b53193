"""The clients against a stub server: what is sent, every answer there can be, and every fault."""

import asyncio
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from ocr_onnx import client as client_module
from ocr_onnx import wire
from ocr_onnx.client import AsyncClient, Client
from ocr_onnx.data import Page, PageResult
from ocr_onnx.errors import InputError, ModelContractError, OcrError, OptionError, ServerError
from ocr_onnx.wire import ServedModels
from tests.stub_server import Answer, Asked, Stub, error_of, lines_of, page, pages_of, serving

DEMO = Path(__file__).parent / "data" / "boarding-pass.png"
TWO_PAGES = pages_of(page("first", index=0), page("second", index=1))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving() as stub:
        yield stub


Read = Callable[..., PageResult]


@pytest.fixture(params=["sync", "async"])
def read(request: pytest.FixtureRequest, stub: Stub) -> Read:
    """Read one page of the stub by either client."""

    def by_client(source: Any, options: Any = None, **settings: Any) -> PageResult:
        with Client(stub.url, **settings) as client:
            return client.read(source, options)

    def by_async_client(source: Any, options: Any = None, **settings: Any) -> PageResult:
        async def read() -> PageResult:
            async with AsyncClient(stub.url, **settings) as client:
                return await client.read(source, options)

        return asyncio.run(read())

    return by_client if request.param == "sync" else by_async_client


def answering(**answer: Any) -> Callable[[Asked], Answer]:
    return lambda _: Answer(**answer)


def test_a_file_is_sent_as_it_is_and_its_name_stays_here(stub: Stub, read: Read) -> None:
    found = read(DEMO)
    assert found.source == str(DEMO)
    assert found.lines == page("a").lines
    (asked,) = stub.asked
    assert asked.file == DEMO.read_bytes()
    assert asked.options == {}
    assert asked.headers["Accept"] == "application/x-ndjson"
    assert not {"Authorization"} & set(asked.headers)


def test_results_are_equal_to_the_engines(stub: Stub, read: Read) -> None:
    from ocr_onnx import Engine

    engine = Engine.load("mobile")

    def read_here(asked: Asked) -> Answer:
        return Answer(body=pages_of(engine.read(asked.file)))

    stub.answer = read_here
    found = read(DEMO)
    assert found == engine.read(DEMO)
    assert found.to_dict() == engine.read(DEMO).to_dict()


@pytest.mark.parametrize("kind", ["array", "image", "page"])
def test_what_has_no_file_is_sent_as_png(stub: Stub, read: Read, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    source = {"array": pixels, "image": Image.fromarray(pixels[..., ::-1]), "page": Page(pixels, "<mine>", 3)}
    found = read(source[kind], {"input": {"pages": "1", "dpi": 99}})
    assert found.source == {"array": "<array>", "image": "<image>", "page": "<mine>"}[kind]
    assert found.index == (3 if kind == "page" else None)
    with Image.open(io.BytesIO(stub.asked[0].file)) as sent:
        assert np.array_equal(np.asarray(sent)[..., ::-1], pixels)
    assert stub.asked[0].options == {"input": {"dpi": 99}}


def test_options_that_are_named_travel_and_no_others(stub: Stub, read: Read) -> None:
    read(DEMO, {"det": {"limit_side_px": 2400}, "rec": {"drop_score": 1}, "input": {"max_bytes": 10**8}})
    assert stub.asked[0].options == {"det": {"limit_side_px": 2400}, "rec": {"drop_score": 1.0}}


def test_the_key_goes_into_every_request(stub: Stub, read: Read) -> None:
    read(DEMO, api_key="k-1")
    assert stub.asked[0].headers["Authorization"] == "Bearer k-1"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"models": {"name": "server"}}, "options: models: is no section of options"),
        ({"det": 1}, "options: det: is no section of options"),
        ({"det": {"tresh": 1}}, "options: det.tresh: is not a known key; did you mean det.thresh"),
        ({"det": {"thresh": 2}}, "options: det.thresh: 2.0 is out of range"),
        ({"input": {"pages": "x"}}, "input.pages"),
    ],
)
def test_options_are_checked_before_anything_is_sent(stub: Stub, read: Read, options: Any, told: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(DEMO, options)
    assert told in str(caught.value)
    assert not stub.asked


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        *(
            (url, {})
            for url in ("", "127.0.0.1", "ftp://a", "http://", "http://a:99999", "http://a:x", "http://a?b")
        ),
        ("http://user:secret@a", {}),
        ("http://a", {"api_key": "two words"}),
        ("http://a", {"api_key": "ключ"}),
        ("http://a", {"timeout_s": 0}),
        ("http://a", {"timeout_s": float("nan")}),
        ("http://a", {"retries": -1}),
    ],
)
def test_settings_that_are_none_are_refused(url: str, settings: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        Client(url, **settings)
    assert "secret" not in str(caught.value)


def test_no_workers_are_refused_at_once(stub: Stub) -> None:
    with Client(stub.url) as client, pytest.raises(OptionError, match="workers"):
        client.stream(DEMO, workers=0)


# Answers that are errors


def refusal(status: int, told: dict[str, Any] | None = None, **headers: str) -> Callable[[Asked], Answer]:
    body = b"<html>" if told is None else json.dumps({"error": {**told, "requestId": "1"}}).encode()
    return answering(status=status, body=body, headers=headers, kind="text/plain")


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (
            refusal(401),
            ServerError,
            "x.png: URL wants a key, or another one; give the server's key as api_key, or in a file",
        ),
        (
            refusal(401, error_of("KeyError", "API key")),
            ServerError,
            "x.png: URL wants a key, or another one; give the server's",
        ),
        (refusal(403), ServerError, "x.png: URL refuses this key; give"),
        (refusal(404), ServerError, "x.png: URL has no such address; check"),
        (refusal(413), InputError, "x.png: URL does not take a file so large; shrink it"),
        (
            refusal(413, error_of("TooLargeError", "body", "is larger than 9 bytes", "send less")),
            InputError,
            "is larger than 9 bytes; send less",
        ),
        (
            refusal(422, error_of("InputError", "upload, page 2")),
            InputError,
            "x.png, page 2: is bad; give another",
        ),
        (refusal(422, error_of("InputError", "<body>")), InputError, "x.png: is bad; give another"),
        (
            refusal(422, error_of("OptionError", "det.thresh")),
            OptionError,
            "det.thresh: is bad; give another",
        ),
        (
            refusal(422, error_of("RequestError", "body")),
            ServerError,
            "x.png: URL says that body is bad; give",
        ),
        (refusal(422), ServerError, "x.png: URL answered 422; check that an ocr-onnx server"),
        (refusal(500, error_of("ModelContractError", "rec")), ServerError, "x.png: is bad; give another"),
        (refusal(500), ServerError, "x.png: URL answered 500; check"),
        (refusal(504), ServerError, "x.png: URL did not finish in its time limit; try again later"),
        (
            refusal(504, error_of("TimeoutError", "request", "was not done within 9 s", "send fewer pages")),
            ServerError,
            "x.png: URL says that request was not done within 9 s; send fewer pages",
        ),
        (refusal(302, Location="http://127.0.0.1:1/"), ServerError, "x.png: URL redirects; give the address"),
        (refusal(418, {"kind": 1}), ServerError, "x.png: URL answered 418; check"),
    ],
)
def test_an_answer_that_is_an_error(
    stub: Stub, read: Read, tmp_path: Path, answer: Any, kind: type[OcrError], told: str
) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(b"x")
    stub.answer = answer
    with pytest.raises(kind) as caught:
        read(file, retries=0)
    assert told in str(caught.value).replace(str(tmp_path) + "/", "").replace(stub.url, "URL")
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, ServerError):
        assert caught.value.status == answer(None).status
    assert len(stub.asked) == 1


def test_a_busy_server_is_asked_again_after_as_long_as_it_says(
    stub: Stub, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for after in ("7", "1000", "Wed, 21 Oct 2026 07:28:00 GMT"):
        stub.asked.clear()
        busy = Answer(503, headers={"Retry-After": after})
        stub.answer = lambda _, busy=busy: (
            busy if len(stub.asked) < 3 else Answer(body=pages_of(page("late")))
        )  # type: ignore[misc]
        assert read(DEMO).text == "late"
    assert waits == [7, 7, 60, 60, 1, 1]


def test_a_server_that_stays_busy_is_given_up(stub: Stub, read: Read) -> None:
    stub.answer = refusal(
        503, error_of("BusyError", "server", "has too much to do", "try later"), **{"Retry-After": "0"}
    )
    with pytest.raises(ServerError, match="says that server has too much to do; try later") as caught:
        read(DEMO, retries=2)
    assert caught.value.status == 503
    assert len(stub.asked) == 3


# Answers that are none

GOOD = pages_of(page("a"))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "broke its answer off (pages so far: 0)"),
        (lines_of({"page": page("a").to_dict()}, done=False), "broke its answer off (pages so far: 1)"),
        (GOOD[:-20], "broke its answer off (pages so far: 1)"),
        (b"{\n", "a line that is no page, error or end"),
        (b"[]\n", "a line that is no page, error or end"),
        (b"\xff\n", "a line that is no page, error or end"),
        (b"[" * 100_000 + b"\n", "a line that is no page, error or end"),
        (lines_of({"page": {}}), "a page that has schema None, not 1"),
        (
            lines_of({"page": {**page("a").to_dict(), "lines": 3}}),
            "a page that holds a value of the wrong kind",
        ),
        (
            lines_of({"failed": {"error": {"kind": "InputError"}}}),
            "an error without subject, problem or remedy",
        ),
        (GOOD.replace(b'"pages": 1', b'"pages": 2'), "another number of pages than it says"),
        (GOOD + GOOD, "more after its end"),
        (GOOD + b"{", "another number of pages than it says"),
    ],
)
def test_an_answer_that_is_cut_or_broken(stub: Stub, read: Read, body: bytes, told: str) -> None:
    stub.answer = answering(body=body)
    with pytest.raises(ServerError) as caught:
        read(DEMO)
    assert told in caught.value.problem
    assert caught.value.subject == str(DEMO)


@pytest.mark.parametrize(
    ("kind", "headers"),
    [("text/html", {}), ("application/json", {}), ("application/x-ndjson", {"Content-Encoding": "gzip"})],
)
def test_an_answer_of_another_kind(stub: Stub, read: Read, kind: str, headers: dict[str, str]) -> None:
    stub.answer = answering(body=GOOD, kind=kind, headers=headers)
    with pytest.raises(ServerError, match=f"answered with {kind}, not application/x-ndjson"):
        read(DEMO)


@pytest.mark.parametrize(
    ("bound", "body"),
    [
        ("MAX_LINE_BYTES", b"x" * 2000),
        ("MAX_LINE_BYTES", b"x" * 2000 + b"\n"),
        ("MAX_ANSWER_BYTES", GOOD * 4),
    ],
)
def test_a_huge_answer_is_bounded(
    stub: Stub, read: Read, monkeypatch: pytest.MonkeyPatch, bound: str, body: bytes
) -> None:
    monkeypatch.setattr(wire, bound, 1000)
    stub.answer = answering(body=body)
    with pytest.raises(ServerError, match="more than 1000 bytes"):
        read(DEMO)


def test_a_huge_error_is_bounded(stub: Stub, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_SMALL_BYTES", 100)
    stub.answer = refusal(422, error_of("InputError", "upload", "x" * 200))
    with pytest.raises(ServerError, match="answered 422"):
        read(DEMO)


def test_lines_may_come_in_any_pieces() -> None:
    answer = wire.Answer(wire.Job("x", b"", {}), "http://a")
    found = [one for byte in TWO_PAGES for one in answer.feed(bytes([byte]))]
    answer.end()
    assert [one.text for one in found if isinstance(one, PageResult)] == ["first", "second"]


# Faults of the network


@pytest.mark.usefixtures("stub")
def test_nobody_answers() -> None:
    with Client("http://127.0.0.1:1") as client:
        for call in (client.ready, client.models, lambda: client.read(DEMO)):
            with pytest.raises(
                ServerError, match=r"can't be reached \(.+\); check the address, and that"
            ) as caught:
                call()
            assert str(caught.value).count("127.0.0.1:1") == 1


def test_a_server_that_hangs_up(read: Read, stub: Stub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(10)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(ServerError, match=r"broke the connection off \(.+\); try again"):
            read(DEMO)
        thread.join()


@pytest.mark.parametrize("silent", ["before the answer", "within the answer"])
def test_a_slow_server_is_not_waited_for(stub: Stub, read: Read, silent: str) -> None:
    def slow(_: Asked) -> Answer:
        if silent == "before the answer":
            stub.released.wait(30)
        return Answer(body=GOOD[:10], headers={"Content-Length": str(len(GOOD))})

    stub.answer = slow
    with pytest.raises(ServerError, match=r"did not answer within 0\.3 s|broke the connection off"):
        read(DEMO, timeout_s=0.3)
    stub.released.set()


def test_a_body_that_drips_is_not_waited_for() -> None:
    class Dripping(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            while True:
                await asyncio.sleep(0.01)
                yield b" "

    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"Content-Type": "application/x-ndjson"}, stream=Dripping())
    )
    client = Client("http://a", timeout_s=0.2, transport=transport)
    with client, pytest.raises(ServerError, match=r"did not answer within 0\.2 s"):
        client.read(DEMO)


def test_network_settings_that_can_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:1")
    with pytest.raises(ServerError, match=r"http://a: can't be reached with these network settings"):
        Client("http://a")


# ready and models


def test_ready_and_models(stub: Stub) -> None:
    with Client(stub.url + "/", api_key="k") as client:
        assert client.url == stub.url
        assert client.models() == ServedModels(
            "mobile", (("det", "d@0"), ("rec", "r@1")), "cpu", "CPUExecutionProvider", "1"
        )
        assert client.ready()
        stub.get = lambda *_: Answer(503)
        assert not client.ready()
        stub.get = lambda *_: Answer(404)
        with pytest.raises(ServerError, match="has no such address"):
            client.ready()
        stub.get = lambda *_: Answer(401)
        with pytest.raises(ServerError, match=f"^{stub.url}: wants a key, or another one; "):
            client.models()
        for body in (b"{}", b"x", b'{"name": "m", "models": [1]}', b'{"name": "m", "models": []}'):
            stub.get = lambda *_, body=body: Answer(body=body)
            with pytest.raises(ServerError, match="does not tell its models"):
                client.models()


# stream


def files_in(folder: Path, count: int) -> list[Path]:
    files = [folder / f"{number}.png" for number in range(count)]
    for file in files:
        file.write_bytes(file.name.encode())
    return files


def by_name(asked: Asked) -> Answer:
    """Read "0.png" last of all, "3.png" as an error and "1.png" as two pages, of which one is bad."""
    name = asked.file.decode()
    match name:
        case "3.png":
            return refusal(422, error_of("InputError", "upload"))(asked)
        case "1.png":
            bad = {"source": "upload", "index": 1, "error": error_of("InputError", "upload, page 2")}
            return Answer(body=lines_of({"page": page(name, index=0).to_dict()}, {"failed": bad}))
        case _:
            return Answer(body=pages_of(page(name)))


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_and_errors_beside_them(stub: Stub, tmp_path: Path, workers: int) -> None:
    files = files_in(tmp_path, 6)
    stub.answer = by_name
    told: list[OcrError] = []
    with Client(stub.url) as client:
        found = list(client.stream([*files, tmp_path / "none"], workers=workers, on_error=told.append))
    assert [result.text for result in found] == ["0.png", "1.png", "2.png", "4.png", "5.png"]
    assert [result.source for result in found] == [str(files[n]) for n in (0, 1, 2, 4, 5)]
    assert {error.subject.removeprefix(f"{tmp_path}/") for error in told} == {
        *("1.png, page 2", "3.png", "none")
    }
    assert stub.most_at_once <= workers

    async def again() -> list[PageResult]:
        async with AsyncClient(stub.url) as client:
            return [one async for one in client.stream(files, workers=workers, on_error=told.append)]

    assert asyncio.run(again()) == found


def test_without_on_error_the_pages_before_still_come(stub: Stub, tmp_path: Path) -> None:
    stub.answer = by_name
    with Client(stub.url) as client:
        results = client.stream(files_in(tmp_path, 6), workers=4)
        assert [next(results).text, next(results).text] == ["0.png", "1.png"]
        with pytest.raises(InputError, match=r"1\.png, page 2: is bad"):
            next(results)
        assert list(results) == []


def test_an_option_that_the_server_refuses_ends_the_stream(stub: Stub, tmp_path: Path) -> None:
    stub.answer = refusal(422, error_of("OptionError", "input.max_pages", "is above the bound"))
    told: list[OcrError] = []
    with Client(stub.url) as client, pytest.raises(OptionError, match="is above the bound"):
        list(client.stream(files_in(tmp_path, 2), on_error=told.append))
    assert not told


def test_other_errors_of_the_library_keep_their_kind(stub: Stub) -> None:
    stub.answer = answering(
        body=lines_of({"failed": {"source": "upload", "error": error_of("ModelContractError", "rec")}})
    )
    with Client(stub.url) as client, pytest.raises(ModelContractError, match="is bad"):
        client.read(DEMO)


def test_several_requests_are_under_way_at_a_time(stub: Stub, tmp_path: Path) -> None:
    together = threading.Barrier(3)

    def wait_for_the_others(_: Asked) -> Answer:
        together.wait(30)
        return Answer(body=pages_of(page("a")))

    stub.answer = wait_for_the_others
    with Client(stub.url) as client:
        assert len(list(client.stream(files_in(tmp_path, 6), workers=3))) == 6
    assert stub.most_at_once == 3


def slowly(*pieces: bytes) -> httpx.MockTransport:
    """Answer with `pieces`, and then wait."""

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            for piece in pieces:
                yield piece
            await asyncio.sleep(60)

    return httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"Content-Type": "application/x-ndjson"}, stream=Body())
    )


def test_a_page_is_given_before_the_next_one_is_done_and_a_stream_can_be_left() -> None:
    transport = slowly(TWO_PAGES.splitlines(keepends=True)[0])
    with Client("http://a", transport=transport) as client:
        results = client.stream([DEMO, DEMO])
        assert next(results).text == "first"
        results.close()

    async def leave() -> None:
        async with AsyncClient("http://a", transport=transport) as client:
            results = client.stream([DEMO, DEMO])
            assert (await anext(results)).text == "first"
            await results.aclose()
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(leave())


def test_one_page_is_read_and_no_more(stub: Stub, read: Read) -> None:
    stub.answer = answering(body=TWO_PAGES)
    with pytest.raises(InputError, match="holds more than one page"):
        read(DEMO)
    stub.answer = answering(body=lines_of())
    with pytest.raises(InputError, match="holds no page"):
        read(DEMO)
    with pytest.raises(InputError, match="does not exist"):
        read("no-such.png")


def test_pictures_are_decoded_here_when_asked_for(stub: Stub, tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (10, 20, 30)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    stub.answer = answering(body=pages_of(page("one", index=0), page("three", index=2)))
    with Client(stub.url) as client:
        found = list(client.stream(tmp_path / "a.tif", images=True))
        assert all(one.image is None for one in client.stream(tmp_path / "a.tif"))
    assert [one.image.max() for one in found if one.image is not None] == [10, 30]


def test_it_works_inside_an_event_loop(stub: Stub) -> None:
    async def caller() -> str:
        with Client(stub.url) as client:
            return client.read(DEMO).text

    assert asyncio.run(caller()) == "a"


def test_threads_share_a_client(stub: Stub) -> None:
    texts: list[str] = []
    with Client(stub.url) as client:
        threads = [threading.Thread(target=lambda: texts.append(client.read(DEMO).text)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == ["a"] * 8


def test_a_closed_client_says_so(stub: Stub) -> None:
    client = Client(stub.url)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.ready()


def test_a_client_needs_no_onnxruntime_and_no_close(stub: Stub) -> None:
    code = (
        "import sys; from ocr_onnx import Client; client = Client(sys.argv[1]);"
        "print(client.read(sys.argv[2]).text, *{'onnxruntime', 'ocr_onnx.engine'} & set(sys.modules))"
    )
    command = [sys.executable, "-W", "error", "-c", code, stub.url, str(DEMO)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("a\n", "")
