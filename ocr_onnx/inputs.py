"""Whatever a caller has goes in (path, URL, bytes, file, array, image, folder, list), pages come out.

`files` stops before decoding: what is read elsewhere is sent as it is.
"""

import glob
import os
import re
import stat
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard, TypeVar, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocr_onnx.data import Page
from ocr_onnx.decode import array_to_bgr, check_pixels, image_pages, picture_pages, sniff
from ocr_onnx.document import Document, OpenPdf, document_pages
from ocr_onnx.errors import DependencyError, InputError, OcrError, TooLargeError
from ocr_onnx.options import InputOptions
from ocr_onnx.page_range import parse_page_ranges

Readable: TypeAlias = Union[  # noqa: UP007 - a forward reference can't be joined with |
    str,
    os.PathLike[str],
    bytes,
    bytearray,
    memoryview,
    BinaryIO,
    NDArray[Any],
    Image.Image,
    Page,
    Mapping[str, "Readable"],
    Iterable["Readable"],
]
"""Everything `pages` reads."""

SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pbm", ".pdf", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)
"""What a folder is searched for. What a file holds is told by its content alone."""

MAX_NESTING = 32

_CHUNK_BYTES = 1 << 20
_PDF_HEADER_WITHIN_BYTES = 1024  # readers accept that much before a PDF's header
_SUBJECT_CHARS = 200  # a text that is no path at all (base64, say) must not flood the message
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_DEFAULTS = InputOptions()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A file as it is: its bytes, and the path, address or name ("<bytes>") it came from."""

    data: bytes = field(repr=False)
    source: str


# A bad page is yielded as an error, so that the good ones after it still come.
_Outcomes: TypeAlias = Generator[Page | OcrError, None, None]
_Found: TypeAlias = Generator[Encoded | Page | OcrError, None, None]
_Item = TypeVar("_Item")


def pages(
    source: Readable,
    options: InputOptions = _DEFAULTS,
    on_error: Callable[[OcrError], None] | None = None,
) -> Iterator[Page]:
    """Read `source` lazily, one page at a time, in order.

    `source` is a path, an http(s) URL, a folder, a glob pattern or "-" for standard input; a file's
    bytes or a binary file object; an array (see `decode.array_to_bgr`) or a Pillow image; a `Page`,
    which is passed on as it is; or a mapping (its values) or iterable of any of these. EXIF turns
    are undone, alpha lies on white, deep levels are scaled to eight bits, and all bounds of
    `options` hold.

    With `on_error`, an input or page that can't be read is handed to it and the rest goes on.

    Raises
    ------
    OptionError
        At once, if `options.pages` is no page range.
    InputError
        On the way, without `on_error`: an input is missing, broken or beyond a bound; or, after the
        pages it has, lacks one that `options.pages` asks for.
    DependencyError
        On the way, without `on_error`: a PDF, and the extra `pdf` is not installed.
    """
    parse_page_ranges(options.pages)
    return _sorted_out(_pages_of(_outcomes(source, options, MAX_NESTING), options), on_error)


def files(
    source: Readable,
    options: InputOptions = _DEFAULTS,
    on_error: Callable[[OcrError], None] | None = None,
) -> Iterator[Encoded | Page]:
    """Find what `pages` would read, lazily and in the same order, and leave files undecoded.

    Arrays, Pillow images and pages have no file: they come as `Page`. Nothing is known of a file
    but that it is not above `options.max_bytes`. Raises what `pages` does.
    """
    parse_page_ranges(options.pages)
    return _sorted_out(_outcomes(source, options, MAX_NESTING), on_error)


def with_last_error(found: Iterator[_Item]) -> Iterator[_Item | OcrError]:
    """Yield what was found, and what ends it as an item: those before it are still on their way."""
    try:
        yield from found
    except OcrError as error:
        yield error


def open_pdf(data: bytes, source: str, options: InputOptions) -> Document:
    """Open a PDF in this process. Raises InputError, and DependencyError without the extra `pdf`."""
    try:
        # Here and not above: pypdfium2 is an extra, and all but PDFs are read without it.
        from ocr_onnx.pdf import PdfDocument
    except ModuleNotFoundError as error:
        raise DependencyError(
            source, "is a PDF, and the PDF reader is not installed", "pip install 'ocr-onnx[pdf]'"
        ) from error
    return PdfDocument(data, source, options)


def file_outcomes(
    data: bytes, source: str, options: InputOptions, open_pdf: OpenPdf = open_pdf
) -> Iterator[Page | OcrError]:
    """Read the content of a file that `source` names: its pages, and an error in place of each that is bad.

    For whoever has a file's bytes and its name apart. `open_pdf` chooses where PDFs are rendered. Nothing
    is raised but OptionError, at once, if `options.pages` is no page range.
    """
    parse_page_ranges(options.pages)
    return _errors_as_outcomes(_file_content(data, source, options, open_pdf))


def _file_content(data: bytes, source: str, options: InputOptions, open_pdf: OpenPdf) -> _Outcomes:
    _check_bytes(len(data), source, options)
    yield from _decoded(data, source, options, open_pdf)


def is_pdf(data: bytes) -> bool:
    """Tell whether the content of a file is taken for a PDF."""
    return b"%PDF-" in data[:_PDF_HEADER_WITHIN_BYTES] and sniff(data) is None


def _sorted_out(
    outcomes: Generator[_Item | OcrError, None, None], on_error: Callable[[OcrError], None] | None
) -> Iterator[_Item]:
    with closing(outcomes):
        for outcome in outcomes:
            if not isinstance(outcome, OcrError):
                yield outcome
            elif on_error is None:
                raise outcome
            else:
                on_error(outcome)


def _pages_of(found: _Found, options: InputOptions) -> _Outcomes:
    with closing(found):
        for item in found:
            if isinstance(item, Encoded):
                yield from _errors_as_outcomes(_decoded(item.data, item.source, options))
            else:
                yield item
            del item  # two files at a time are one too many


def _outcomes(source: Readable, options: InputOptions, levels: int) -> _Found:
    """Tell containers from leaves; errors of leaves become outcomes, those of a caller's iterable do not."""
    items: object = source.values() if isinstance(source, Mapping) else source
    if not _is_container(items):
        yield from _errors_as_outcomes(_leaf(source, options))
    elif levels == 0:
        yield InputError(f"<{type(source).__name__}>", f"is nested deeper than {MAX_NESTING}", "flatten it")
    else:
        for item in items:
            yield from _outcomes(item, options, levels - 1)


def _is_container(source: object) -> TypeGuard[Iterable[Readable]]:
    leaves = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Image.Image)
    return isinstance(source, Iterable) and not isinstance(source, leaves) and not hasattr(source, "read")


def _errors_as_outcomes(
    outcomes: Generator[_Item, None, None],
) -> Generator[_Item | OcrError, None, None]:
    try:
        yield from outcomes
    except OcrError as error:
        yield error


def _leaf(source: object, options: InputOptions) -> _Found:
    if isinstance(source, str):
        yield from _text(source, options)
    elif isinstance(source, os.PathLike):
        yield from _local(Path(source), options)
    elif isinstance(source, bytes | bytearray | memoryview):
        _check_bytes(memoryview(source).nbytes, "<bytes>", options)
        yield Encoded(bytes(source), "<bytes>")
    elif isinstance(source, np.ndarray):
        image = array_to_bgr(source, "<array>")
        check_pixels(image.shape[1], image.shape[0], "<array>", options)
        yield Page(image, "<array>")
    elif isinstance(source, Image.Image):
        yield from image_pages(source, "<image>", options)
    elif isinstance(source, Page):
        _check_page(source, options)
        yield source
    elif hasattr(source, "read"):
        name = getattr(source, "name", None)
        yield from _file(source, name if isinstance(name, str) and name else "<file>", options)
    else:
        raise InputError(
            f"<{type(source).__name__}>",
            "is nothing that can be read",
            "give a path, URL, bytes, binary file, array, image, page, or a list or dict of these",
        )


def _check_page(page: Page, options: InputOptions) -> None:
    shape, dtype = page.image.shape, page.image.dtype
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not page.image.flags.c_contiguous:
        raise InputError(
            page.source,
            f"is a page whose image is {shape} {dtype}, not (H, W, 3) uint8, C-contiguous",
            "give the array itself: it is converted",
        )
    check_pixels(shape[1], shape[0], page.source, options)


def _text(text: str, options: InputOptions) -> _Found:
    scheme = _SCHEME.match(text)
    if not text:
        raise InputError('""', "is an empty path", "give a path, a URL or - for standard input")
    if text == "-":
        yield from _file(sys.stdin.buffer, "<stdin>", options)
    elif scheme is None:
        yield from _local(Path(text), options)
    elif scheme[1].lower() in ("http", "https"):
        # Here and not above: httpx takes its time to load, and most inputs are files.
        from ocr_onnx.fetch import fetch

        yield Encoded(fetch(text, options.max_bytes, options.timeout_s), text)
    else:
        raise InputError(_shown(text), f"{scheme[1]}:// is not supported", "give an http(s) URL or a path")


def _local(path: Path, options: InputOptions) -> _Found:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        if not glob.has_magic(str(path)):
            raise _cant_open(path, error) from error
        yield from _matches(str(path), options)
        return
    if stat.S_ISDIR(mode):
        yield from _folder(path, options)
    else:
        yield from _path(path, options)


def _path(path: Path, options: InputOptions) -> _Found:
    try:
        with path.open("rb") as file:
            _check_bytes(os.fstat(file.fileno()).st_size, str(path), options)
            data = _read(file, str(path), options)
    except OSError as error:
        raise _cant_open(path, error) from error
    yield Encoded(data, str(path))


def _cant_open(path: Path, error: Exception) -> InputError:
    subject = _shown(str(path))
    if isinstance(error, FileNotFoundError):
        return InputError(subject, "does not exist", "check the path")
    if isinstance(error, PermissionError):
        return InputError(subject, "may not be read", "give this user the permission to read it")
    cause = error.strerror if isinstance(error, OSError) else str(error)
    return InputError(subject, f"can't be opened ({cause})", "check the path")


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SUBJECT_CHARS else f"{line[:_SUBJECT_CHARS]}..."


def _matches(pattern: str, options: InputOptions) -> _Found:
    """Read the files a pattern names, of any suffix: whoever wrote it chose them."""
    matches = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob refuses absolute patterns
    files = [path for path in map(Path, matches) if not path.is_dir()]
    if not files:
        raise InputError(_shown(pattern), "matches no file", "check the pattern")
    for path in sorted(files, key=_natural):
        yield from _errors_as_outcomes(_path(path, options))


def _folder(folder: Path, options: InputOptions) -> _Found:
    """Read a folder's files with a suffix of `SUFFIXES`, except hidden ones."""
    files: list[Path] = []
    unreadable: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        files += (Path(parent, name) for name in names if _is_wanted(name))
        folders[:] = [name for name in folders if options.recursive and not name.startswith(".")]
    for error in unreadable:
        yield _cant_open(Path(error.filename), error)
    if not files and not unreadable:
        remedy = "give another" if options.recursive else "give another, or set input.recursive"
        raise InputError(str(folder), "is a folder without pictures and PDFs", remedy)
    for path in sorted(files, key=_natural):
        yield from _errors_as_outcomes(_path(path, options))


def _is_wanted(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _natural(path: Path) -> tuple[list[list[tuple[int, int, str]]], str]:
    """Sort key that puts page2 before page10 and does not care for case."""
    return [_natural_part(part) for part in path.parts], str(path)


def _natural_part(part: str) -> list[tuple[int, int, str]]:
    # Numbers sort before words; each run is (kind, number, word), so that only like meets like.
    runs = re.findall(r"[0-9]+|[^0-9]+", part.casefold())
    return [(0, int(run), "") if run[0] in "0123456789" else (1, 0, run) for run in runs]


def _file(file: Any, name: str, options: InputOptions) -> _Found:
    try:
        data = _read(file, name, options)
    except (OSError, ValueError) as error:  # ValueError: a closed file, or text that is no Unicode
        raise InputError(name, f"can't be read ({error})", "give an open binary file") from error
    yield Encoded(data, name)


def _read(file: Any, name: str, options: InputOptions) -> bytes:
    """Read from where the file stands to its end, chunk by chunk: it may be endless."""
    data = bytearray()
    while chunk := file.read(_CHUNK_BYTES):
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise InputError(
                name, f"reads as {type(chunk).__name__}, not bytes", 'open it as binary, mode "rb"'
            )
        data += chunk
        _check_bytes(len(data), name, options)
    return bytes(data)


def _check_bytes(size_bytes: int, name: str, options: InputOptions) -> None:
    if size_bytes > options.max_bytes:
        raise TooLargeError(
            name,
            f"is larger than the limit of {options.max_bytes} bytes",
            "raise input.max_bytes or shrink it",
        )


def _decoded(data: bytes, name: str, options: InputOptions, open_pdf: OpenPdf = open_pdf) -> _Outcomes:
    if not data:
        raise InputError(name, "is empty (0 bytes)", "give a picture or a PDF")
    if is_pdf(data):
        yield from document_pages(open_pdf(data, name, options), name, options)
    else:
        yield from picture_pages(data, name, options)
