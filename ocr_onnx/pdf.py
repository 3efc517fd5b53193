"""The bytes of a PDF go in, its pages come out, rendered one at a time. Needs the extra `pdf`."""

import math
import os
import threading
from collections.abc import Iterator

import pypdfium2 as pdfium

from ocr_onnx.data import ImageBgr, Page
from ocr_onnx.decode import array_to_bgr, check_pixels
from ocr_onnx.errors import InputError
from ocr_onnx.options import InputOptions
from ocr_onnx.page_range import select_pages

POINTS_PER_INCH = 72

# PDFium must never be entered by two threads. Reentrant, because the garbage collector may close
# one document while this very thread is busy with another.
_PDFIUM_LOCK = threading.RLock()


def _renew_lock() -> None:
    """Make the lock anew: a thread that held it at a fork does not exist in the child to release it."""
    global _PDFIUM_LOCK
    _PDFIUM_LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_renew_lock)


def pdf_pages(data: bytes, source: str, options: InputOptions) -> Iterator[Page | InputError]:
    """Render the pages of a PDF at `options.dpi`; a page that can't be rendered becomes an `InputError`.

    Form fields and annotations are drawn, as a viewer does.

    Raises
    ------
    InputError
        The PDF is broken, encrypted or without pages. That it lacks a page that was asked for
        comes last, as an outcome.
    """
    document = _open(data, source, options)
    try:
        with _PDFIUM_LOCK:
            count = len(document)
        chosen, missing = select_pages(source, count, options)
        for index in chosen:
            subject = f"{source}, page {index + 1}"
            outcome: Page | InputError
            try:
                scale = options.dpi / POINTS_PER_INCH
                outcome = Page(_render(document, index, subject, options), source, index, (scale, scale))
            except InputError as error:
                outcome = error
            yield outcome
        if missing is not None:
            yield missing
    finally:
        with _PDFIUM_LOCK:
            document.close()


def page_count(data: bytes, source: str, options: InputOptions) -> int:
    """Return how many pages a PDF has, of which the options may want few. Raises as `pdf_pages` does."""
    document = _open(data, source, options)
    with _PDFIUM_LOCK:
        try:
            return len(document)
        finally:
            document.close()


def _open(data: bytes, source: str, options: InputOptions) -> pdfium.PdfDocument:
    with _PDFIUM_LOCK:
        try:
            document = pdfium.PdfDocument(data, password=options.password or None)
            document.init_forms()  # must come before the first page is loaded
        except pdfium.PdfiumError as error:
            if "password" not in str(error).lower():
                raise InputError(
                    source, f"is a PDF that can't be read ({error})", "repair it or give another file"
                ) from error
            problem = (
                "is encrypted and input.password does not open it" if options.password else "is encrypted"
            )
            raise InputError(source, problem, "give its password as input.password") from error
    return document


def _render(document: pdfium.PdfDocument, index: int, subject: str, options: InputOptions) -> ImageBgr:
    scale = options.dpi / POINTS_PER_INCH
    with _PDFIUM_LOCK:
        try:
            page = document[index]
            try:
                width_px, height_px = (math.ceil(side_pt * scale) for side_pt in page.get_size())
                check_pixels(width_px, height_px, subject, options, f"lower input.dpi ({options.dpi})")
                bitmap = page.render(scale=scale)
                try:
                    return array_to_bgr(bitmap.to_numpy()[..., :3], subject)
                finally:
                    bitmap.close()
            finally:
                page.close()
        except pdfium.PdfiumError as error:
            raise InputError(subject, f"can't be rendered ({error})", "repair the PDF") from error
