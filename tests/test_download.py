"""Tests of the downloader against a server on this machine that misbehaves in every way we know."""

import errno
import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest
from filelock import FileLock

from ocr_onnx import download as download_module
from ocr_onnx.download import Patience, download
from ocr_onnx.errors import DownloadError

CONTENT = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2

Reply: TypeAlias = Callable[[BaseHTTPRequestHandler], None]


def send(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def status(code: int) -> Reply:
    return lambda request: send(request, code, b"no")


def whole(content: bytes) -> Reply:
    """The file from its beginning, whatever range was asked for."""
    return lambda request: send(request, 200, content)


def ranged(content: bytes) -> Reply:
    """The file from where it was asked for, as a good server does."""

    def reply(request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(content):
            send(request, 416, b"")
        elif wanted:
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            send(request, 206, content[start:], {"Content-Range": place})
        else:
            send(request, 200, content)

    return reply


def broken(content: bytes, sent_bytes: int) -> Reply:
    """The whole length announced, but the connection ends after `sent_bytes`."""
    return lambda request: send(request, 200, content[:sent_bytes], {"Content-Length": str(len(content))})


def endless(content: bytes) -> Reply:
    """No length announced; the connection's end is the file's."""

    def reply(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(content)

    return reply


@dataclass
class Site:
    """A server whose answers are lists by path; the last answer repeats. `asked` are (path, range)."""

    address: str = ""
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def add(self, path: str, *replies: Reply) -> str:
        self.replies[path] = list(replies)
        return self.address + path

    def silent_after(self, content: bytes) -> Reply:
        """Send some bytes, then nothing until the test is over."""

        def reply(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.end_headers()
            request.wfile.write(content)
            request.wfile.flush()
            self.closing.wait(30)

        return reply


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Range")))
            replies = site.replies.get(self.path, [status(404)])
            (replies.pop(0) if len(replies) > 1 else replies[0])(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        site.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model.onnx"


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def patience(pauses: list[float]) -> Patience:
    return Patience(attempts=3, backoff_s=0.5, stall_s=10, total_s=60, sleep=pauses.append)


def leftovers(target: Path) -> list[str]:
    """Return what lies beside the target, locks aside."""
    names = sorted(path.name for path in target.parent.iterdir())
    return [name for name in names if not name.endswith(".lock") and name != target.name]


def get(target: Path, patience: Patience, *urls: str, size_bytes: int | None = len(CONTENT)) -> None:
    download(urls, target, sha256=SHA256, size_bytes=size_bytes, patience=patience)


def test_the_file_arrives_with_progress(site: Site, target: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    url = site.add("/a", ranged(CONTENT))
    download(
        [url], target, sha256=SHA256, progress=lambda name, done, total: calls.append((name, done, total))
    )
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == []
    assert calls[-1] == ("model.onnx", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_a_length_nobody_announced_is_none(site: Site, target: Path) -> None:
    totals: set[int | None] = set()
    url = site.add("/a", endless(CONTENT))
    download([url], target, sha256=SHA256, progress=lambda _name, _done, total: totals.add(total))
    assert target.read_bytes() == CONTENT
    assert totals == {None}


@pytest.mark.parametrize("size_bytes", [len(CONTENT), None])
def test_a_break_in_the_middle_is_resumed(
    site: Site, target: Path, patience: Patience, pauses: list[float], size_bytes: int | None
) -> None:
    url = site.add("/a", broken(CONTENT, HALF), ranged(CONTENT))
    get(target, patience, url, size_bytes=size_bytes)
    assert target.read_bytes() == CONTENT
    assert site.asked == [("/a", None), ("/a", f"bytes={HALF}-")]
    assert pauses == [0.5]


def test_the_next_call_resumes(site: Site, target: Path, patience: Patience) -> None:
    url = site.add("/a", broken(CONTENT, HALF), status(404), ranged(CONTENT))
    with pytest.raises(DownloadError, match="HTTP 404"):
        get(target, patience, url)
    assert not target.exists()
    get(target, patience, url)
    assert site.asked[-1] == ("/a", f"bytes={HALF}-")
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == []


def test_a_server_that_ignores_ranges(site: Site, target: Path, patience: Patience) -> None:
    get(target, patience, site.add("/a", broken(CONTENT, HALF), whole(CONTENT)))
    assert target.read_bytes() == CONTENT


def test_a_server_that_sends_another_range(site: Site, target: Path, patience: Patience) -> None:
    def shifted(request: BaseHTTPRequestHandler) -> None:
        send(request, 206, CONTENT[1:], {"Content-Range": f"bytes 1-{len(CONTENT) - 1}/{len(CONTENT)}"})

    get(target, patience, site.add("/a", broken(CONTENT, HALF), shifted, ranged(CONTENT)))
    assert [wanted for _, wanted in site.asked] == [None, f"bytes={HALF}-", None]
    assert target.read_bytes() == CONTENT


def test_a_quiet_early_end_is_resumed(site: Site, target: Path, patience: Patience) -> None:
    get(target, patience, site.add("/a", endless(CONTENT[:HALF]), ranged(CONTENT)))
    assert site.asked[-1] == ("/a", f"bytes={HALF}-")
    assert target.read_bytes() == CONTENT


def part_of(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{SHA256[:16]}.part")


def test_416_of_a_whole_part_file(site: Site, target: Path, patience: Patience) -> None:
    part_of(target).write_bytes(CONTENT)
    get(target, patience, site.add("/a", ranged(CONTENT)), size_bytes=None)
    assert site.asked == [("/a", f"bytes={len(CONTENT)}-")]
    assert target.read_bytes() == CONTENT


def test_416_of_an_overlong_part_file(site: Site, target: Path, patience: Patience) -> None:
    part_of(target).write_bytes(CONTENT + b"more")
    get(target, patience, site.add("/a", ranged(CONTENT)), size_bytes=None)
    assert [wanted for _, wanted in site.asked] == [f"bytes={len(CONTENT) + 4}-", None]
    assert target.read_bytes() == CONTENT


def test_a_whole_part_file_needs_no_request(site: Site, target: Path, patience: Patience) -> None:
    part_of(target).write_bytes(CONTENT)
    get(target, patience, site.add("/a", status(500)))
    assert site.asked == []
    assert target.read_bytes() == CONTENT


def test_a_wrong_part_file_is_thrown_away(site: Site, target: Path, patience: Patience) -> None:
    part_of(target).write_bytes(b"x" * HALF)
    get(target, patience, site.add("/a", ranged(CONTENT)))
    assert [wanted for _, wanted in site.asked] == [f"bytes={HALF}-", None]
    assert target.read_bytes() == CONTENT


def test_404_goes_to_the_mirror_at_once(
    site: Site, target: Path, patience: Patience, pauses: list[float]
) -> None:
    get(target, patience, site.add("/gone", status(404)), site.add("/mirror", ranged(CONTENT)))
    assert [path for path, _ in site.asked] == ["/gone", "/mirror"]
    assert pauses == []
    assert target.read_bytes() == CONTENT


def test_wrong_bytes_go_to_the_mirror(site: Site, target: Path, patience: Patience) -> None:
    wrong = CONTENT[::-1]
    get(target, patience, site.add("/wrong", ranged(wrong)), site.add("/mirror", ranged(CONTENT)))
    assert [path for path, _ in site.asked] == ["/wrong", "/mirror"]
    assert target.read_bytes() == CONTENT


def test_wrong_bytes_everywhere(site: Site, target: Path, patience: Patience) -> None:
    with pytest.raises(DownloadError, match="sent other bytes") as caught:
        get(target, patience, site.add("/wrong", ranged(CONTENT[::-1])))
    assert caught.value.subject == "model.onnx"
    assert "OCR_ONNX_MIRROR" in caught.value.remedy
    assert not target.exists()
    assert leftovers(target) == []


def test_passing_faults_are_tried_again_with_growing_pauses(
    site: Site, target: Path, patience: Patience, pauses: list[float]
) -> None:
    get(target, patience, site.add("/a", status(503), status(429), ranged(CONTENT)))
    assert pauses == [0.5, 1.0]
    assert target.read_bytes() == CONTENT


def test_attempts_end(site: Site, target: Path, patience: Patience) -> None:
    first, second = site.add("/a", status(500)), site.add("/b", status(502))
    with pytest.raises(DownloadError) as caught:
        get(target, patience, first, second)
    assert len(site.asked) == 6
    assert f"{first} answered HTTP 500; {second} answered HTTP 502" in caught.value.problem


def test_more_than_announced_in_the_manifest(site: Site, target: Path, patience: Patience) -> None:
    with pytest.raises(DownloadError, match="sent more than the 100 bytes"):
        get(target, patience, site.add("/a", endless(CONTENT)), size_bytes=100)
    assert leftovers(target) == []


def test_an_announced_length_beyond_the_bound(
    site: Site, target: Path, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "MAX_BYTES", 1000)
    with pytest.raises(DownloadError, match=f"announced {len(CONTENT)} bytes, more than the 1000"):
        get(target, patience, site.add("/a", whole(CONTENT)), size_bytes=None)
    assert leftovers(target) == []


def test_a_silent_server(site: Site, target: Path, pauses: list[float]) -> None:
    url = site.add("/a", site.silent_after(CONTENT[:HALF]), ranged(CONTENT))
    get(target, Patience(attempts=2, stall_s=0.3, sleep=pauses.append), url)
    assert len(pauses) == 1
    assert target.read_bytes() == CONTENT


def test_a_server_that_stays_silent(site: Site, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"sent nothing for 0\.2 s"):
        get(target, Patience(attempts=1, stall_s=0.2), site.add("/a", site.silent_after(b"x")))


def test_the_total_time_with_many_attempts(site: Site, target: Path) -> None:
    slept: list[float] = []
    late = Patience(attempts=9, backoff_s=40, total_s=100, sleep=slept.append, clock=lambda: sum(slept))
    with pytest.raises(DownloadError, match="did not arrive within 100 s"):
        get(target, late, site.add("/a", status(503)))
    assert slept == [40, 80]
    assert len(site.asked) == 2


def test_the_total_time_in_one_slow_body(site: Site, target: Path, patience: Patience) -> None:
    url = site.add("/a", ranged(CONTENT))
    arrived = [0]
    slow = Patience(attempts=1, total_s=100, clock=lambda: arrived[-1])
    with pytest.raises(DownloadError, match="did not arrive within 100 s"):
        download(
            [url],
            target,
            sha256=SHA256,
            progress=lambda _name, done, _total: arrived.append(done),
            patience=slow,
        )
    assert part_of(target).stat().st_size == arrived[-1]
    get(target, patience, url)
    assert target.read_bytes() == CONTENT


def test_a_dead_address(target: Path, patience: Patience, site: Site) -> None:
    with pytest.raises(DownloadError, match="broke off"):
        get(target, patience, "http://127.0.0.1:9/a")
    get(target, patience, "http://127.0.0.1:9/a", site.add("/a", ranged(CONTENT)))
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("bad", ["http://[::1/a", "http://a:b/c"])
def test_an_address_that_is_none(target: Path, patience: Patience, bad: str) -> None:
    with pytest.raises(DownloadError, match="can't be followed"):
        get(target, patience, bad)


@pytest.mark.parametrize("location", ["file:///etc/hostname", "/a"])
def test_a_redirect_that_leads_nowhere(site: Site, target: Path, patience: Patience, location: str) -> None:
    def redirect(request: BaseHTTPRequestHandler) -> None:
        send(request, 302, b"", {"Location": location})

    with pytest.raises(DownloadError, match="could not be downloaded"):
        get(target, patience, site.add("/a", redirect))
    assert leftovers(target) == []


def test_a_redirect_is_followed(site: Site, target: Path, patience: Patience) -> None:
    site.add("/b", ranged(CONTENT))
    get(target, patience, site.add("/a", lambda request: send(request, 302, b"", {"Location": "/b"})))
    assert target.read_bytes() == CONTENT


@pytest.mark.usefixtures("site")
def test_unknown_proxy_settings(target: Path, patience: Patience, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:1")
    with pytest.raises(DownloadError, match="network settings") as caught:
        get(target, patience, "http://127.0.0.1:9/a")
    assert "HTTPS_PROXY" in caught.value.remedy


def test_a_right_file_is_left_alone(site: Site, target: Path, patience: Patience) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    get(target, patience, site.add("/a", status(500)))
    assert site.asked == []


def test_a_wrong_file_is_replaced(site: Site, target: Path, patience: Patience) -> None:
    target.parent.mkdir()
    target.write_bytes(b"half of it")
    get(target, patience, site.add("/a", ranged(CONTENT)))
    assert target.read_bytes() == CONTENT


def test_no_space_leaves_nothing(
    site: Site, target: Path, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match="No space left") as caught:
        get(target, patience, site.add("/a", ranged(CONTENT)))
    assert caught.value.subject == str(target)
    assert "OCR_ONNX_CACHE_DIR" in caught.value.remedy
    assert not target.exists()
    assert leftovers(target) == []


def test_a_folder_that_can_not_be_made(tmp_path: Path, patience: Patience) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match="can't be written"):
        get(tmp_path / "file" / "model.onnx", patience, "http://127.0.0.1:9/a")


def test_a_held_lock(target: Path) -> None:
    target.parent.mkdir()
    with (
        FileLock(target.with_name(f".{target.name}.lock")),
        pytest.raises(DownloadError, match="another process"),
    ):
        get(target, Patience(total_s=0.05), "http://127.0.0.1:9/a")


def test_threads_fetch_once(site: Site, target: Path) -> None:
    url = site.add("/a", ranged(CONTENT))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: get(target, Patience(), url), range(4)))
    assert len(site.asked) == 1
    assert target.read_bytes() == CONTENT


def test_processes_fetch_once(site: Site, target: Path) -> None:
    url = site.add("/a", ranged(CONTENT))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=get, args=(target, Patience(), url)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(site.asked) == 1
    assert target.read_bytes() == CONTENT


def test_an_interrupted_download_can_go_on(site: Site, target: Path, patience: Patience) -> None:
    url = site.add("/a", ranged(CONTENT))

    def stop(_name: str, _done: int, _total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download([url], target, sha256=SHA256, size_bytes=len(CONTENT), progress=stop, patience=patience)
    assert not target.exists()
    get(target, patience, url)
    assert target.read_bytes() == CONTENT


def test_the_body_is_asked_for_uncompressed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Accept-Encoding"])
        return httpx.Response(200, stream=httpx.ByteStream(CONTENT))

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _self, request: answer(request))
    get(target, Patience(), "http://models.example.org/a")
    assert seen == ["identity"]


def test_a_file_without_a_known_hash_is_taken_as_it_comes(
    site: Site, target: Path, patience: Patience
) -> None:
    url = site.add("/m", broken(CONTENT, HALF), ranged(CONTENT))
    download([url], target, sha256=None, patience=patience)
    assert target.read_bytes() == CONTENT
    site.add("/m", whole(b"other"))
    download([url], target, sha256=None, patience=patience)
    assert target.read_bytes() == CONTENT


def test_without_a_hash_no_older_beginning_is_continued(site: Site, target: Path, patience: Patience) -> None:
    target.parent.mkdir()
    target.with_name(f".{target.name}.unpinned.part").write_bytes(b"from another file")
    download([site.add("/m", ranged(CONTENT))], target, sha256=None, patience=patience)
    assert target.read_bytes() == CONTENT
    assert [place for _, place in site.asked] == [None]
