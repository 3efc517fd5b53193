"""The reference contract of `POST /ocr`: its JSON in, what to read out; pages in, its envelope out."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ocr_onnx.data import Page, PageResult
from ocr_onnx.document import OpenPdf, document_pages
from ocr_onnx.inputs import file_outcomes, is_pdf
from ocr_onnx.options import LIMIT_SIDES_PX, Options
from ocr_onnx.render import to_jpeg, to_reference
from ocr_onnx.service.faults import Failed, RequestError, bad_request, failed, too_large

MAX_PAGES: Final = 10
PDF: Final = 0
IMAGE: Final = 1
SUBJECT: Final = "file"

Kind: TypeAlias = Literal["image", "pdf"]

_BLANKS: Final = re.compile(r"[ \t\r\n]+")


class Wanted(NamedTuple):
    """What a request asks for. `kind` is None where the content is to tell."""

    file: str
    kind: Kind | None
    options: Options


class Document(NamedTuple):
    """What was sent: the outcome of every page to be read, and how many pages a PDF has in all."""

    kind: Kind
    pages: Iterator[Page | Failed]
    num_pages: int
    options: Options


def parse(request: Any, options: Options) -> Wanted:
    """Check a request's fields; those that the contract doesn't know are left alone.

    `options` are the server's. Raises RequestError (422) for a field that is missing or of the wrong type,
    OptionError for a size out of range.
    """
    if not isinstance(request, dict):
        raise bad_request("body", "is no JSON object", 'send {"file": ...}')
    file = request.get("file")
    if not isinstance(file, str) or not file:
        raise bad_request("file", "is missing or no text", "give a URL or the file's content in base64")
    kind = request.get("fileType")
    if kind is not None and (isinstance(kind, bool) or not isinstance(kind, int) or kind not in (PDF, IMAGE)):
        raise bad_request(
            "fileType", "is neither 0 nor 1", "give 0 for a PDF, 1 for an image, or leave it out"
        )
    kinds: Mapping[int | None, Kind | None] = {None: None, PDF: "pdf", IMAGE: "image"}
    return Wanted(file, kinds[kind], _with_parameters(request.get("inferenceParams"), options))


def _with_parameters(parameters: Any, options: Options) -> Options:
    if parameters is None:
        return options
    if not isinstance(parameters, dict):
        raise bad_request("inferenceParams", "is no JSON object", "give an object, or leave it out")
    longest = parameters.get("maxLongSide")
    if longest is None:
        return options
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < LIMIT_SIDES_PX.low:
        problem, remedy = (
            f"is no whole number of at least {LIMIT_SIDES_PX.low:g}",
            "give the longest side in pixels",
        )
        raise bad_request("maxLongSide", problem, remedy)
    # The contract has no upper end: whoever gives a huge one wants nothing shrunk.
    limit_side_px = int(min(longest, LIMIT_SIDES_PX.high))
    return replace(options, det=replace(options.det, limit_type="max", limit_side_px=limit_side_px))


def decode(text: str, options: Options) -> bytes:
    """Return the bytes behind base64, whose lines may be broken. Raises RequestError (413, 422)."""
    plain = _BLANKS.sub("", text)
    limit = options.input.max_bytes
    if len(plain) // 4 * 3 > limit + 3:
        raise too_large(SUBJECT, f"is larger than the limit of {limit} bytes", "send a smaller one")
    try:
        return base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError) as error:
        remedy = "send the file's content in base64, with its padding"
        raise bad_request(SUBJECT, "is neither base64 nor an http(s) URL", remedy) from error


def opened(data: bytes, wanted: Wanted, open_pdf: OpenPdf) -> Document:
    """Look at what was sent and line its pages up: one of a picture, the first ten of a PDF.

    Raises RequestError (422) where the content is not what `fileType` says, InputError for a PDF that
    can't be opened, DependencyError for one without its reader.
    """
    kind: Kind = "pdf" if is_pdf(data) else "image"
    if wanted.kind not in (None, kind):
        problem = "is a PDF" if kind == "pdf" else "is no PDF"
        raise bad_request("fileType", f"does not fit: the file {problem}", "correct it, or leave it out")
    bounded = replace(wanted.options.input, pages="1", all_frames=False)
    if kind == "image":
        count, outcomes = 1, file_outcomes(data, SUBJECT, bounded)
    else:
        pdf = open_pdf(data, SUBJECT, bounded)
        count = len(pdf)
        bounded = replace(bounded, pages=f"1-{max(1, min(count, MAX_PAGES))}")
        outcomes = document_pages(pdf, SUBJECT, bounded)
    pages = (item if isinstance(item, Page) else failed(SUBJECT, item) for item in outcomes)
    return Document(kind, pages, count, replace(wanted.options, input=bounded))


class PageAnswer(NamedTuple):
    """A page as the contract has it, and its size in pixels."""

    entry: Mapping[str, Any]
    width_px: int
    height_px: int


def page_answer(result: PageResult) -> PageAnswer:
    """Draw a page and put its lines into the contract's form: whole pixels, text, score."""
    reference = to_reference(result)
    columns = (reference[key] for key in ("dt_polys", "rec_text", "rec_score"))
    texts = [{"poly": poly, "text": text, "score": score} for poly, text, score in zip(*columns, strict=True)]
    entry = {"texts": texts, "image": base64.b64encode(to_jpeg(result)).decode("ascii")}
    return PageAnswer(entry, result.width_px, result.height_px)


def success(log_id: str, document: Document, pages: Sequence[PageAnswer]) -> dict[str, Any]:
    """Return the envelope of a request that was served."""
    sizes = [{"width": page.width_px, "height": page.height_px} for page in pages]
    info: dict[str, Any] = {**sizes[0], "type": "image"}
    if document.kind == "pdf":
        info = {"numPages": document.num_pages, "pages": sizes, "type": "pdf"}
    return {
        "logId": log_id,
        "errorCode": 0,
        "errorMsg": "Success",
        "result": {"ocrResults": [page.entry for page in pages], "dataInfo": info},
    }


def failure(log_id: str, fault: RequestError) -> dict[str, Any]:
    """Return the envelope of a request that was not."""
    return {"logId": log_id, "errorCode": fault.status, "errorMsg": str(fault.told)}
