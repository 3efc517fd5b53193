"""A request to read goes in, its answer comes out: body, options, files, pages, JSON."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from ocr_onnx.engine import Engine
from ocr_onnx.inputs import is_pdf
from ocr_onnx.service import contract, fetching, v1
from ocr_onnx.service.body import Upload, parse_form, parse_json, read_body
from ocr_onnx.service.faults import Failed, RequestError, bad_request, gone, late
from ocr_onnx.service.middleware import json_answer, to_json
from ocr_onnx.service.settings import ServiceOptions
from ocr_onnx.service.shared import Service
from ocr_onnx.service.work import Job, Slot, Workers

NDJSON: Final = "application/x-ndjson"
FIELDS: Final = frozenset(("options", "picture"))


async def read_reference(request: Request, service: Service) -> Response:
    """Serve `POST /ocr`."""
    engine, workers = service.loaded()
    _need_type(request, "application/json")
    body = await read_body(request, service.options, _slot(request, service))
    async with _time_limit(service.options.request_timeout_s):
        document = await _document(body, engine, service)
        del body
        renders = document.kind == "pdf"
        job = Job(document.pages, document.options, contract.page_answer, renders)
        pages = await _while_connected(request, _all(job, workers))
        for page in pages:
            if isinstance(page, Failed):
                raise page.fault
        success = contract.success(request.state.request_id, document, pages)
        return await asyncio.to_thread(json_answer, success)


async def _document(body: bytes, engine: Engine, service: Service) -> contract.Document:
    """Parse a request and get at what it wants read, with everything slow off the event loop."""
    sent = await asyncio.to_thread(parse_json, body, "body")
    wanted = contract.parse(sent, engine.options)
    if fetching.is_url(wanted.file):
        data = await fetching.fetch(wanted.file, wanted.options.input, service.options)
    else:
        data = await asyncio.to_thread(contract.decode, wanted.file, wanted.options)
    opened = partial(contract.opened, data, wanted, service.renderers.open)
    return await asyncio.get_running_loop().run_in_executor(service.opening, opened)


def _slot(request: Request, service: Service) -> Slot:
    """Take a place, which the request gives back when its answer is sent. Raises RequestError (503)."""
    request.state.slot = slot = service.slots.take()
    return slot


async def read_v1(request: Request, service: Service) -> Response:
    """Serve `POST /v1/read`."""
    engine, workers = service.loaded()
    streams = NDJSON in request.headers.get("accept", "")
    body = await read_body(request, service.options, _slot(request, service))
    async with _time_limit(service.options.request_timeout_s):
        uploads, fields = await _uploads(request, body, service.options)
        del body
        _check_fields(fields)
        text = fields.get("options") or "{}"
        options = v1.parse_options(parse_json(text.encode("utf-8", "replace"), "options"), engine)
        finish = partial(v1.page_dict, picture=v1.parse_picture(fields.get("picture")))
        renders = any(is_pdf(upload.content) for upload in uploads)
        job = Job(v1.pages_of(uploads, options, service.renderers.open), options, finish, renders)
        if not streams:
            pages = await _while_connected(request, _all(job, workers))
            failed = [v1.failed_dict(page) for page in pages if isinstance(page, Failed)]
            read = [page for page in pages if not isinstance(page, Failed)]
            return await asyncio.to_thread(json_answer, {"pages": read, "failed": failed})
    lines = _lines(job, workers, service.options.request_timeout_s)
    return StreamingResponse(lines, media_type=NDJSON)


def _check_fields(fields: Mapping[str, str]) -> None:
    """Raise RequestError (422) for a field that would have no effect."""
    for name in sorted(fields.keys() - FIELDS):
        if name == "file":
            raise bad_request(name, "has no file name", "send each as a file, with its name")
        raise bad_request(name[:40], "is no known field", f"the fields are {', '.join(sorted(FIELDS))}")


async def _uploads(
    request: Request, body: bytes, options: ServiceOptions
) -> tuple[list[Upload], dict[str, str]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form = await parse_form(request, body, options)
        if not form.files:
            raise bad_request("file", "is missing", "send one or more parts named file")
        twice = sorted(form.fields.keys() & request.query_params.keys())
        if twice:
            raise bad_request(twice[0], "is in the form and in the query", "give it once")
        return form.files, {**request.query_params, **form.fields}
    if not (kind.startswith("image/") or kind in ("application/pdf", "application/octet-stream")):
        raise _wrong_type("image/*, application/pdf, application/octet-stream or multipart/form-data")
    if not body:
        raise bad_request("body", "is empty", "send a picture or a PDF")
    return [Upload("<bytes>", body)], dict(request.query_params)


async def _lines(job: Job, workers: Workers, timeout_s: float) -> AsyncIterator[bytes]:
    """Yield a line of JSON for each page as it is done, then one that counts them."""
    counts = {"pages": 0, "failed": 0}
    end = asyncio.get_running_loop().time() + timeout_s
    outcomes = job.outcomes()
    workers.submit(job)
    try:
        while (page := await _next_before(end, timeout_s, outcomes)) is not None:
            failed = isinstance(page, Failed)
            counts["failed" if failed else "pages"] += 1
            yield to_json({"failed": v1.failed_dict(page)} if failed else {"page": page}) + b"\n"
            if failed and page.fault.status == 504:
                break
        yield to_json({"done": counts}) + b"\n"
    finally:
        workers.cancel(job)


async def _next_before(end: float, timeout_s: float, outcomes: AsyncIterator[Any]) -> Any:
    """Return the next page; None after the last, a Failed when it is late."""
    # The limit holds while a page is waited for, not while a client is slow to take the one before.
    try:
        async with asyncio.timeout_at(end):
            return await anext(outcomes, None)
    except TimeoutError:
        return Failed("request", None, late(timeout_s))


async def _all(job: Job, workers: Workers) -> list[Any]:
    workers.submit(job)
    try:
        return [page async for page in job.outcomes()]
    finally:
        workers.cancel(job)


@asynccontextmanager
async def _time_limit(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise late(timeout_s) from error


async def _while_connected(request: Request, work: Awaitable[list[Any]]) -> list[Any]:
    """Wait for work, and drop it when the client hangs up. Raises RequestError then."""
    working = asyncio.ensure_future(work)
    watching = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise gone()
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _need_type(request: Request, kind: str) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
        raise _wrong_type(kind)


def _wrong_type(kinds: str) -> RequestError:
    return RequestError(
        415, "RequestError", "Content-Type", "is not one that this route takes", f"send {kinds}"
    )
