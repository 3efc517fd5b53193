"""A request's body goes in, bounded in bytes and in time; JSON and files come out."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ocr_onnx.service.faults import RequestError, bad_request, gone, too_large
from ocr_onnx.service.settings import ServiceOptions
from ocr_onnx.service.work import Slot

MAX_FIELD_BYTES = 64 * 1024
MAX_JSON_MARKS = 10_000


class Upload(NamedTuple):
    """A file as it was sent: its name, reduced to the last part, and its content."""

    name: str
    content: bytes


class Form(NamedTuple):
    """A multipart body: its files and its other fields, of which the last of a name counts."""

    files: list[Upload]
    fields: dict[str, str]


async def read_body(request: Request, options: ServiceOptions, slot: Slot) -> bytes:
    """Read the whole body.

    Raises RequestError: 413 too large, 408 too slow, 415 packed, 503 beyond what all may hold.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        problem, remedy = "is not taken, whatever it is", "send the body as it is"
        raise RequestError(415, "RequestError", "Content-Encoding", problem, remedy)
    remedy = "send less at a time"
    excess = too_large("body", f"is larger than the limit of {options.max_body_bytes} bytes", remedy)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > options.max_body_bytes:
        raise excess
    body = bytearray()
    try:
        async with asyncio.timeout(options.body_timeout_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > options.max_body_bytes:
                    raise excess
                slot.hold(len(chunk))
                body += chunk
    except TimeoutError as error:
        problem = f"did not arrive within {options.body_timeout_s:g} s"
        raise RequestError(408, "TimeoutError", "body", problem, "send it faster") from error
    except ClientDisconnect as error:
        raise gone() from error
    return bytes(body)


def parse_json(body: bytes, subject: str) -> Any:
    """Read JSON. Raises RequestError: 422 for anything else, 413 for more values than any request needs."""
    # Nothing else runs while JSON is parsed, and each value takes many times its bytes. No mark is base64's.
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_MARKS:
        raise too_large(subject, f"has more than {MAX_JSON_MARKS} values", "send what is asked for alone")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError: also no Unicode, and numbers without end
        raise bad_request(subject, "is not valid JSON", "send a JSON object, in UTF-8") from error


async def parse_form(request: Request, body: bytes, options: ServiceOptions) -> Form:
    """Read a multipart body that has arrived. Raises RequestError (413 too many files, 422)."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers,
        stream(),
        max_files=options.max_files,
        max_fields=10,
        max_part_size=MAX_FIELD_BYTES,
    )
    parser.spool_max_size = options.max_body_bytes  # what clients send is written to no disk
    try:
        return await _form(await parser.parse())
    except (MultiPartException, KeyError, ValueError) as error:
        if "Too many files" in str(error):
            raise too_large("body", f"has more than {options.max_files} files", "send fewer") from error
        remedy = "send parts named file, and options and picture as fields"
        raise bad_request("body", "is not valid multipart/form-data", remedy) from error
    finally:
        for file in parser._files_to_close_on_error:  # those of parts that have no end are in no form
            file.close()


async def _form(form: FormData) -> Form:
    files: list[Upload] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            fields[name] = value
        elif name == "file":
            files.append(Upload(file_name(value.filename or ""), await value.read()))
    return Form(files, fields)


def file_name(sent: str) -> str:
    """Return the last part of a file's name, printable and short; "<bytes>" where there is none."""
    last = sent.replace("\\", "/").rpartition("/")[2]
    return "".join(char for char in last if char.isprintable())[:200] or "<bytes>"
