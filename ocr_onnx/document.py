"""An open PDF goes in, wherever it is rendered; its pages come out, one at a time."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from ocr_onnx.data import ImageBgr, Page
from ocr_onnx.errors import InputError
from ocr_onnx.options import InputOptions
from ocr_onnx.page_range import select_pages

POINTS_PER_INCH = 72


class Document(Protocol):
    """An open PDF, for one thread at a time."""

    def __len__(self) -> int:
        """Return how many pages it has."""

    def render(self, index: int) -> ImageBgr:
        """Draw a page, (H, W, 3) uint8 BGR. Raises InputError where that can't or may not be."""

    def close(self) -> None:
        """Give it back. Nothing else may be called afterwards."""


OpenPdf: TypeAlias = Callable[[bytes, str, InputOptions], Document]
"""Opens the bytes of a PDF that a text names. Raises InputError, and DependencyError without a reader."""


def document_pages(document: Document, source: str, options: InputOptions) -> Iterator[Page | InputError]:
    """Render the pages that the options ask for, then close; a bad page becomes an `InputError`.

    That the document lacks a page that was asked for comes last, as an outcome. Raises TooLargeError
    where more than `options.max_pages` are wanted.
    """
    try:
        chosen, missing = select_pages(source, len(document), options)
        scale = options.dpi / POINTS_PER_INCH
        for index in chosen:
            outcome: Page | InputError
            try:
                outcome = Page(document.render(index), source, index, (scale, scale))
            except InputError as error:
                outcome = error
            yield outcome
        if missing is not None:
            yield missing
    finally:
        document.close()
