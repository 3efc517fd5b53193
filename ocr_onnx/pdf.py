"""The bytes of a PDF go in, a document comes out whose pages this process renders. Needs the extra `pdf`."""

import math
import os
import threading

import pypdfium2 as pdfium

from ocr_onnx.data import ImageBgr
from ocr_onnx.decode import array_to_bgr, check_pixels
from ocr_onnx.document import POINTS_PER_INCH
from ocr_onnx.errors import InputError, TooLargeError
from ocr_onnx.options import InputOptions

# PDFium must never be entered by two threads. Reentrant, because the garbage collector may close
# one document while this very thread is busy with another.
_PDFIUM_LOCK = threading.RLock()


def _renew_lock() -> None:
    """Make the lock anew: a thread that held it at a fork does not exist in the child to release it."""
    global _PDFIUM_LOCK
    _PDFIUM_LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_renew_lock)


class PdfDocument:
    """A `Document` that PDFium renders at `options.dpi`; form fields and annotations as a viewer draws them.

    Raises InputError for a PDF that is broken or encrypted.
    """

    def __init__(self, data: bytes, source: str, options: InputOptions) -> None:
        self._source, self._options = source, options
        self._document = _open(data, source, options)

    def __len__(self) -> int:
        with _PDFIUM_LOCK:
            return len(self._document)

    def render(self, index: int) -> ImageBgr:
        """Draw a page, (H, W, 3) uint8 BGR.

        Raises InputError for a broken page, TooLargeError for more pixels or objects than the options
        allow, which is known before any is drawn.
        """
        subject = f"{self._source}, page {index + 1}"
        with _PDFIUM_LOCK:
            try:
                page = self._document[index]
                try:
                    return _drawn(page, subject, self._options)
                finally:
                    page.close()
            except pdfium.PdfiumError as error:
                raise InputError(subject, f"can't be rendered ({error})", "repair the PDF") from error

    def close(self) -> None:
        """Give it back to PDFium."""
        with _PDFIUM_LOCK:
            self._document.close()


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


def _drawn(page: pdfium.PdfPage, subject: str, options: InputOptions) -> ImageBgr:
    scale = options.dpi / POINTS_PER_INCH
    width_px, height_px = (math.ceil(side_pt * scale) for side_pt in page.get_size())
    check_pixels(width_px, height_px, subject, options, f"lower input.dpi ({options.dpi})")
    objects = pdfium.raw.FPDFPage_CountObjects(page.raw)
    if objects > options.max_pdf_objects:
        raise TooLargeError(
            subject,
            f"has {objects} objects, more than the limit of {options.max_pdf_objects}",
            "give it as a picture or raise input.max_pdf_objects",
        )
    bitmap = page.render(scale=scale)
    try:
        return array_to_bgr(bitmap.to_numpy()[..., :3], subject)
    finally:
        bitmap.close()
