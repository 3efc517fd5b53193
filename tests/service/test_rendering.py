"""PDFs are rendered by other processes, which may take too long, take too much, or go."""

import os
import signal
import subprocess
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import numpy as np
import pytest

from ocr_onnx.data import Page
from ocr_onnx.document import document_pages
from ocr_onnx.errors import InputError, OcrError, TooLargeError
from ocr_onnx.inputs import file_outcomes, open_pdf
from ocr_onnx.options import InputOptions
from ocr_onnx.service.rendering import Renderers
from ocr_onnx.service.settings import ServiceOptions
from tests.service.conftest import Gate, Serve, b64, fake_engine, pdf, png, wait_until
from tests.test_pdf import _assembled, _encrypted_pdf

GIB = 1024 * 1024 * 1024
LONG_S = 60.0
DEEP = 20


@pytest.fixture
def renderers() -> Iterator[Renderers]:
    renderers = Renderers(2, LONG_S, GIB)
    yield renderers
    renderers.close()


def renderers_of(pid: int) -> list[int]:
    """Return the processes that render for this one."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "ocr_onnx.service.renderer" in line]


def pid_of(renderers: Renderers) -> int:
    """Return the process that will be asked next."""
    return renderers._idle[-1]._process.pid


def form(number_of_inner: int | None) -> bytes:
    """Return a drawing that draws another one ten times, or a square."""
    drawing = b"0 0 50 50 re f" if number_of_inner is None else b"/F Do\n" * 10
    inner = b"" if number_of_inner is None else b"/Resources << /XObject << /F %d 0 R >> >>" % number_of_inner
    head = b"<< /Type /XObject /Subtype /Form /BBox [0 0 100 100] %s /Length %d >>" % (inner, len(drawing))
    return head + b"\nstream\n" + drawing + b"\nendstream"


def endless_pdf() -> bytes:
    """Return a file of some KB whose one page is drawn by 10^20 squares, and whose other by none."""
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] %s >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R 4 0 R] /Count 2 >>",
        page % b"/Contents 5 0 R /Resources << /XObject << /F 6 0 R >> >>",
        page % b"",
        b"<< /Length 5 >>\nstream\n/F Do\nendstream",
        *(form(7 + depth) for depth in range(DEEP)),
        form(None),
    ]
    return _assembled(objects)


def greedy_pdf() -> bytes:
    """Return a file of some MB that says so much text on its page that reading it takes gigabytes."""
    drawing = zlib.compress(b"0 0 1 1 re f\n" * 20_000_000, 9)
    stream = b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing)
    return _assembled(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents 4 0 R >>",
            stream,
        ]
    )


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (pdf(3), InputOptions()),
        (pdf(3), InputOptions(pages="2-9", dpi=96)),
        (pdf(3), InputOptions(max_pages=2)),
        (pdf(3), InputOptions(max_pixels=100)),
        (_encrypted_pdf(b"secret"), InputOptions()),
        (_encrypted_pdf(b"secret"), InputOptions(password="secret")),
        (b"%PDF-1.4 and nothing else", InputOptions()),
    ],
)
def test_outcomes_are_those_of_this_process(renderers: Renderers, data: bytes, options: InputOptions) -> None:
    here = list(file_outcomes(data, "a.pdf", options, open_pdf))
    there = list(file_outcomes(data, "a.pdf", options, renderers.open))
    assert len(here) == len(there) > 0
    for one, other in zip(here, there, strict=True):
        assert type(one) is type(other)
        if isinstance(one, OcrError):
            assert str(one) == str(other)
        else:
            assert not isinstance(other, OcrError)
            np.testing.assert_array_equal(one.image, other.image)
            assert (one.source, one.index, one.scale_xy) == (other.source, other.index, other.scale_xy)


def test_documents_share_the_processes(renderers: Renderers) -> None:
    def indices(count: int) -> list[int | None]:
        document = renderers.open(pdf(count), "a.pdf", InputOptions())
        return [
            page.index for page in document_pages(document, "a.pdf", InputOptions()) if isinstance(page, Page)
        ]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(indices, range(1, 7)))
    assert found == [list(range(count)) for count in range(1, 7)]
    assert 1 <= len(renderers._idle) <= 2


def test_a_process_that_was_ended_is_replaced(renderers: Renderers) -> None:
    document = renderers.open(pdf(3), "a.pdf", InputOptions())
    before = document.render(1)
    killed = pid_of(renderers)
    os.kill(killed, signal.SIGKILL)
    np.testing.assert_array_equal(document.render(1), before)
    assert pid_of(renderers) != killed


def test_a_page_that_takes_too_long_is_given_up_and_the_next_is_read() -> None:
    renderers = Renderers(1, 1.0, GIB)
    try:
        first, second = file_outcomes(endless_pdf(), "a.pdf", InputOptions(), renderers.open)
    finally:
        renderers.close()
    assert isinstance(first, TooLargeError)
    assert str(first).startswith("a.pdf, page 1: takes longer than 1 s to be rendered; ")
    assert not isinstance(second, OcrError)
    assert second.index == 1


@pytest.mark.skipif(os.name != "posix", reason="memory is not bounded there")
def test_memory_is_bounded() -> None:
    renderers = Renderers(1, LONG_S, GIB // 4)
    try:
        (outcome,) = file_outcomes(greedy_pdf(), "a.pdf", InputOptions(), renderers.open)
        (page,) = file_outcomes(pdf(1), "b.pdf", InputOptions(), renderers.open)
    finally:
        renderers.close()
    assert isinstance(outcome, InputError)
    assert "a.pdf, page 1: makes the PDF reader fail; it is broken or wants too much" in str(outcome)
    assert not isinstance(page, OcrError)


def test_no_process_outlives_the_renderers(renderers: Renderers) -> None:
    renderers.open(pdf(1), "a.pdf", InputOptions())
    process = renderers._idle[-1]._process
    renderers.close()
    assert process.returncode is not None


def test_it_ends_itself_where_nobody_asks_any_more(renderers: Renderers) -> None:
    renderers.open(pdf(1), "a.pdf", InputOptions())
    process = renderers._idle[-1]._process
    os.kill(process.pid, signal.SIGTERM)  # which a service's manager sends to all of its processes
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0


def test_the_service_goes_on_when_its_renderer_is_ended_in_the_middle(serve: Serve) -> None:
    gate = Gate()

    def ask(address: str) -> httpx.Response:
        return httpx.post(f"{address}/ocr", json={"file": b64(pdf(10))}, timeout=60, trust_env=False)

    with serve(lambda: fake_engine(det=gate)) as served, ThreadPoolExecutor(1) as pool:
        gate.open.set()
        whole = ask(served.address)
        gate.open.clear()
        before = gate.calls
        broken = pool.submit(ask, served.address)
        wait_until(lambda: gate.calls > before)  # some of its pages are rendered, none is read
        for pid in renderers_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        gate.open.set()
        assert broken.result().status_code == whole.status_code == 200
        assert broken.result().json()["result"] == whole.json()["result"]


def test_the_service_answers_others_while_a_page_takes_too_long(serve: Serve) -> None:
    with serve(options=ServiceOptions(render_timeout_s=2.0)) as served, ThreadPoolExecutor(1) as pool:
        url = f"{served.address}/v1/read"
        headers = {"Content-Type": "application/pdf"}
        endless = pool.submit(
            httpx.post, url, content=endless_pdf(), headers=headers, timeout=60, trust_env=False
        )
        wait_until(lambda: served.service.slots.taken == 1)
        picture = {"Content-Type": "image/png"}
        other = httpx.post(url, content=png(), headers=picture, timeout=60, trust_env=False)
        assert len(other.json()["pages"]) == 1
        answer = endless.result().json()
        assert [page["index"] for page in answer["pages"]] == [1]
        (failed,) = answer["failed"]
        assert failed["error"]["kind"] == "TooLargeError"
        assert failed["index"] == 0
        too_large = httpx.post(
            f"{served.address}/ocr", json={"file": b64(endless_pdf())}, timeout=60, trust_env=False
        )
        assert too_large.status_code == 413


def test_pictures_are_read_while_pdfs_wait_for_their_processes(serve: Serve) -> None:
    count = 8
    with serve(options=ServiceOptions(render_timeout_s=LONG_S)) as served, ThreadPoolExecutor(count) as pool:
        url = f"{served.address}/v1/read"
        headers = {"Content-Type": "application/pdf"}
        endless = [
            pool.submit(httpx.post, url, content=endless_pdf(), headers=headers, timeout=300, trust_env=False)
            for _ in range(count)
        ]
        wait_until(lambda: served.service.slots.taken == count)
        with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as client:
            assert client.post("/ocr", json={"file": b64(png())}).status_code == 200
            assert client.post("/v1/read", files=[("file", png())]).status_code == 200
        assert not any(future.done() for future in endless)
        while not all(future.done() for future in endless):
            for pid in renderers_of(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
