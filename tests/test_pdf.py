import hashlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pypdfium2 as pdfium
import pytest
from PIL import Image

from ocr_onnx import pdf
from ocr_onnx.data import ImageBgr
from ocr_onnx.errors import DependencyError, InputError, OcrError, TooLargeError
from ocr_onnx.inputs import pages
from ocr_onnx.options import InputOptions

PAD = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")


def _pillow_pdf(*shades: int, size_wh: tuple[int, int] = (72, 36)) -> bytes:
    """A PDF of one inch by half an inch, one page per shade."""
    first, *rest = [Image.new("L", size_wh, shade) for shade in shades]
    file = io.BytesIO()
    first.save(file, "PDF", resolution=72, save_all=True, append_images=rest)
    return file.getvalue()


def _assembled(objects: Iterable[bytes], trailer: bytes = b"") -> bytes:
    """Number the objects from 1 (1 is the catalog) and add the cross-reference table."""
    body = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(body)
    body += b"xref\n0 %d\n0000000000 65535 f \n" % (len(offsets) + 1)
    body += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    body += b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(offsets) + 1,
        trailer,
        start,
    )
    return bytes(body)


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def _encrypted_pdf(password: bytes) -> bytes:
    """A page that is black all over, under the 40-bit standard security handler (revision 2)."""
    file_id = bytes(16)
    padded = (password + PAD)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    permissions = (-4).to_bytes(4, "little", signed=True)
    key = hashlib.md5(padded + owner + permissions + file_id).digest()[:5]
    user = _rc4(key, PAD)
    stream_key = hashlib.md5(key + (4).to_bytes(3, "little") + bytes(2)).digest()[:10]
    drawing = _rc4(stream_key, b"0 g 0 0 72 36 re f")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 72 36] /Contents 4 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing),
        b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>"
        % (owner.hex().encode(), user.hex().encode()),
    ]
    hex_id = file_id.hex().encode()
    return _assembled(objects, b"/Encrypt 5 0 R /ID [<%s> <%s>]" % (hex_id, hex_id))


def _pdf_of_boxes(*media_boxes: bytes) -> bytes:
    kids = b" ".join(b"%d 0 R" % number for number in range(3, 3 + len(media_boxes)))
    return _assembled(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(media_boxes)),
            *(b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] >>" % box for box in media_boxes),
        ]
    )


def test_pages_are_rendered_at_the_dpi() -> None:
    found = list(pages(_pillow_pdf(0, 128), InputOptions(dpi=144)))
    assert [(page.source, page.index, page.scale_xy) for page in found] == [
        ("<bytes>", 0, (2.0, 2.0)),
        ("<bytes>", 1, (2.0, 2.0)),
    ]
    for page, shade in zip(found, (0, 128), strict=True):
        assert page.image.shape == (72, 144, 3)
        assert page.image.dtype == np.uint8
        assert page.image.flags.c_contiguous
        assert page.image.flags.owndata
        np.testing.assert_allclose(page.image[36, 72], shade, atol=2)


def test_colours_are_bgr() -> None:
    file = io.BytesIO()
    Image.new("RGB", (72, 72), (250, 130, 10)).save(file, "PDF", resolution=72)
    (page,) = pages(file.getvalue(), InputOptions(dpi=72))
    np.testing.assert_allclose(page.image[36, 36], (10, 130, 250), atol=3)


def test_a_page_without_a_background_is_white() -> None:
    (page,) = pages(_pdf_of_boxes(b"0 0 20 10"), InputOptions(dpi=72))
    assert page.image.shape == (10, 20, 3)
    assert (page.image == 255).all()


def test_page_range() -> None:
    data = _pillow_pdf(0, 50, 100, 150)
    found = list(pages(data, InputOptions(dpi=72, pages="4,2-3")))
    assert [page.index for page in found] == [1, 2, 3]
    np.testing.assert_allclose(found[2].image[18, 36], 150, atol=2)
    errors: list[OcrError] = []
    assert [page.index for page in pages(data, InputOptions(dpi=72, pages="2,4-7"), errors.append)] == [1, 3]
    assert [error.problem for error in errors] == ["has 4 pages, so there is no page 5-7"]
    with pytest.raises(InputError, match="has 4 pages, so there is no page 5"):
        list(pages(data, InputOptions(pages="5-")))
    with pytest.raises(InputError, match="4 pages are more than the limit of 3"):
        list(pages(data, InputOptions(max_pages=3)))


def test_told_by_content_even_behind_some_bytes() -> None:
    (page,) = pages(io.BytesIO(b"\n\n" + _pillow_pdf(0)), InputOptions(dpi=72))
    assert page.index == 0
    assert page.source == "<file>"


def test_pages_come_one_by_one_and_the_document_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    closed: list[bool] = []
    drawn, close = pdf._drawn, pdfium.PdfDocument.close

    def noted_drawn(page: Any, subject: str, options: InputOptions) -> ImageBgr:
        rendered.append(int(subject[-1]) - 1)
        return drawn(page, subject, options)

    def noted_close(document: Any) -> None:
        closed.append(True)
        close(document)

    monkeypatch.setattr(pdf, "_drawn", noted_drawn)
    monkeypatch.setattr(pdfium.PdfDocument, "close", noted_close)
    stream = pages(_pillow_pdf(0, 0, 0), InputOptions(dpi=72))
    assert rendered == []
    assert next(stream).index == 0
    assert rendered == [0]
    assert closed == []
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert rendered == [0]
    assert closed == [True]


def test_pixels_are_bounded_before_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _pdf_of_boxes(b"0 0 10 10", b"0 0 9000 9000", b"0 0 12 10")
    options = InputOptions(dpi=72, max_pixels=120)
    errors: list[OcrError] = []
    assert [page.index for page in pages(data, options, errors.append)] == [0, 2]
    assert [str(error) for error in errors] == [
        "<bytes>, page 2: is 9000 x 9000 pixels, more than the limit of 120; "
        "lower input.dpi (72) or raise input.max_pixels"
    ]
    monkeypatch.setattr(pdfium.PdfPage, "render", None)  # would be a TypeError
    with pytest.raises(InputError, match="page 2: is 9000 x 9000"):
        list(pages(data, InputOptions(dpi=72, max_pixels=120, pages="2")))


def test_objects_are_bounded_before_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = b"0 0 1 1 re f\n" * 5
    data = _assembled(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 72 36] /Contents 4 0 R >>",
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing),
        ]
    )
    assert len(list(pages(data, InputOptions(max_pdf_objects=5)))) == 1
    monkeypatch.setattr(pdfium.PdfPage, "render", None)  # would be a TypeError
    with pytest.raises(TooLargeError, match=r"page 1: has 5 objects, more than the limit of 4; .*max_pdf_"):
        list(pages(data, InputOptions(max_pdf_objects=4)))


def test_a_page_that_can_not_be_loaded_does_not_stop_the_rest() -> None:
    data = _pdf_of_boxes(b"0 0 10 10", b"0 0 10 10", b"0 0 10 10").replace(b"[3 0 R 4 0 R", b"[3 0 R 9 0 R")
    errors: list[OcrError] = []
    assert [page.index for page in pages(data, InputOptions(), errors.append)] == [0, 2]
    assert [error.subject for error in errors] == ["<bytes>, page 2"]
    assert "can't be rendered" in errors[0].problem


def test_encrypted() -> None:
    data = _encrypted_pdf(b"secret")
    with pytest.raises(InputError, match=r"^<bytes>: is encrypted; give its password as input\.password$"):
        list(pages(data))
    with pytest.raises(InputError, match=r"^<bytes>: is encrypted and input\.password does not open it; "):
        list(pages(data, InputOptions(password="wrong")))
    (page,) = pages(data, InputOptions(password="secret", dpi=72))
    assert page.image.shape == (36, 72, 3)
    assert not page.image.any()


def test_broken() -> None:
    for data in (b"%PDF-1.7\nnothing else", _pillow_pdf(0)[:60]):
        with pytest.raises(InputError, match=r"^<bytes>: is a PDF that can't be read \(.+\); repair it"):
            list(pages(data))


def test_without_pages() -> None:
    with pytest.raises(InputError, match=r"^<bytes>: is a PDF that can't be read"):
        list(pages(_pdf_of_boxes()))


def test_many_threads_at_once() -> None:
    data = _pillow_pdf(*range(0, 240, 40))
    found: dict[int, list[int]] = {}

    def read(number: int) -> None:
        found[number] = [int(page.image[18, 36, 0]) for page in pages(data, InputOptions(dpi=72))]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    for shades in found.values():
        np.testing.assert_allclose(shades, range(0, 240, 40), atol=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_reads_though_a_thread_of_the_parent_held_the_lock() -> None:
    code = """if True:
        import os, signal, sys, threading
        from ocr_onnx import pdf
        from ocr_onnx.inputs import pages

        data, held = sys.stdin.buffer.read(), threading.Event()

        def hold():
            with pdf._PDFIUM_LOCK:
                held.set()
                threading.Event().wait()

        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        if (child := os.fork()) == 0:
            signal.alarm(30)  # ends a child that hangs
            os._exit(len(list(pages(data))))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        os._exit(0)
    """
    # Later Pythons warn of a fork beside threads: that is what this is about.
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], input=_pillow_pdf(0, 9), check=True)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    monkeypatch.delitem(sys.modules, "ocr_onnx.pdf")
    png = io.BytesIO()
    Image.new("L", (3, 3)).save(png, "PNG")
    errors: list[OcrError] = []
    assert len(list(pages([_pillow_pdf(0), png.getvalue()], InputOptions(), errors.append))) == 1
    assert isinstance(errors[0], DependencyError)
    assert str(errors[0]) == (
        "<bytes>: is a PDF, and the PDF reader is not installed; pip install 'ocr-onnx[pdf]'"
    )
