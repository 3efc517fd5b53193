"""The application: its routes, and what they share. `create_app` takes what loads the engine."""

import asyncio
import hmac
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route

from ocr_onnx.engine import Engine
from ocr_onnx.errors import OcrError
from ocr_onnx.inputs import is_pdf
from ocr_onnx.service import contract, examples, fetching, v1
from ocr_onnx.service.body import Upload, parse_form, parse_json, read_body
from ocr_onnx.service.faults import Failed, RequestError, bad_request, busy, fault_of, gone, late
from ocr_onnx.service.logs import log_cause
from ocr_onnx.service.metrics import Metrics
from ocr_onnx.service.middleware import Watched, failure_answer, http_fault, json_answer, to_json
from ocr_onnx.service.page_files import PageFiles
from ocr_onnx.service.rendering import Renderers
from ocr_onnx.service.settings import ServiceOptions, listed
from ocr_onnx.service.work import Job, Slot, Slots, Workers
from ocr_onnx.threads import usable_threads

NDJSON: Final = "application/x-ndjson"
FIELDS: Final = frozenset(("options", "picture"))
OPENING_THREADS: Final = 2
KEY_SCHEMES: Final = (HTTPBearer(auto_error=False), APIKeyHeader(name="X-API-Key", auto_error=False))
"""Tell the schema how keys are sent; `Service.check_key` is what checks them."""

_LOG = logging.getLogger(__name__)


class Service:
    """What the routes of one application share: the engine, once it is loaded, and the work under way.

    `failure` is what kept the engine from being loaded; `on_failure` is called then.
    """

    def __init__(
        self, load: Callable[[], Engine], options: ServiceOptions, keys: Sequence[str], model_set: str
    ) -> None:
        self.options = options
        self.model_set = model_set
        self.slots = Slots(options.max_requests, options.max_held_bytes)
        self.renderers = Renderers(usable_threads(), options.render_timeout_s, options.render_max_bytes)
        self.metrics = Metrics(lambda: self.slots.taken, lambda: self.queued)
        self.engine: Engine | None = None
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.stopping = False
        # Apart from the loop's threads, which write answers: opening a PDF may have to wait for its renderer.
        self.opening = ThreadPoolExecutor(OPENING_THREADS, thread_name_prefix="ocr-onnx-opening")
        self._load, self._keys = load, tuple(key.encode() for key in keys)
        self._workers: Workers | None = None

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.engine is not None and not self.stopping

    @property
    def queued(self) -> int:
        """How many requests have pages that wait."""
        return 0 if self._workers is None else self._workers.waiting

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the engine beside the requests that ask whether it is; end the workers in the end."""
        loading = asyncio.create_task(self._start())
        try:
            yield
        finally:
            self.stopping = True
            loading.cancel()
            await asyncio.wait((loading,))
            if self._workers is not None:
                await asyncio.to_thread(self._workers.close)
            self.opening.shutdown(cancel_futures=True)
            await asyncio.to_thread(self.renderers.close)

    async def _start(self) -> None:
        try:
            engine = self.metrics.watched(await _in_daemon(self._load))
            self._workers = Workers(engine, self.options.workers, self.metrics)
        except Exception as error:  # whoever started the server raises it again
            self.failure = error
            self.on_failure()
            return
        self.engine = engine
        _LOG.info("ready")

    def loaded(self) -> tuple[Engine, Workers]:
        """Return what reads. Raises RequestError (503) while there is none."""
        if self.engine is None or self._workers is None or self.stopping:
            raise busy("is shutting down" if self.stopping else "is still loading its models")
        return self.engine, self._workers

    def check_key(self, request: Request) -> None:
        """Raise RequestError (401) unless there are no keys, or the request has one of them."""
        if not self._keys:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        sent = (request.headers.get("x-api-key") or bearer).encode("utf-8", "replace")
        # all of them are compared, so that the time tells nothing about which one is nearly right
        if not sum(hmac.compare_digest(sent, key) for key in self._keys):
            problem, remedy = "is missing or wrong", "send it as Authorization: Bearer or X-API-Key"
            raise RequestError(401, "KeyError", "API key", problem, remedy)


async def _in_daemon(load: Callable[[], Engine]) -> Engine:
    """Load in a thread that nobody waits for at a shutdown: a download may take minutes."""
    loaded: Future[Engine] = Future()
    loaded.set_running_or_notify_cancel()

    def work() -> None:
        try:
            loaded.set_result(load())
        except Exception as error:  # handed on
            loaded.set_exception(error)

    threading.Thread(target=work, name="ocr-onnx-loading", daemon=True).start()
    return await asyncio.wrap_future(loaded)


def create_app(
    load: Callable[[], Engine],
    options: ServiceOptions = ServiceOptions(),
    *,
    keys: Sequence[str] = (),
    model_set: str = "",
    page: Path | None = None,
) -> FastAPI:
    """Return the application. `load` is called once, in a thread; its engine's options bound every request.

    With `keys`, requests need one of them. `page` is the folder of the browser's page. `app.state.service`
    is the `Service`.
    """
    service = Service(load, options, keys, model_set)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="ocr-onnx",
        version=version("ocr-onnx"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to an address that the client's Host header makes up
        separate_input_output_schemas=False,  # so that a key with a default is one that may be missing
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    guards = [Depends(service.check_key), *(Depends(scheme) for scheme in KEY_SCHEMES if keys)]
    _add_routes(app, service, PageFiles(page or Path(__file__).with_name("page")), guards)
    _add_handlers(app, service)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=listed(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(Watched, metrics=service.metrics, taken_within_s=options.body_timeout_s)
    return app


def _add_routes(app: FastAPI, service: Service, files: PageFiles, guarded: Sequence[Any]) -> None:
    async def ocr(request: Request) -> Response:
        return await read_reference(request, service)

    async def read(request: Request) -> Response:
        return await read_v1(request, service)

    async def models() -> Response:
        engine, _ = service.loaded()
        return json_answer(v1.models_dict(service.model_set, engine))

    async def healthz() -> Response:
        return json_answer({"status": "alive"})

    async def readyz() -> Response:
        state = "ready" if service.ready else "stopping" if service.stopping else "loading"
        headers = None if service.ready else {"Retry-After": "1"}
        return json_answer({"status": state}, 200 if service.ready else 503, headers)

    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    post: Any = partial(app.post, response_class=Response, dependencies=guarded)
    get: Any = partial(app.get, response_class=Response)
    of_ocr = {"responses": examples.OCR_ANSWERS, "openapi_extra": examples.OCR_REQUEST}
    of_read = {"responses": examples.READ_ANSWERS, "openapi_extra": examples.READ_REQUEST}
    post("/ocr", **of_ocr, summary="PaddleX's contract")(ocr)
    post("/v1/read", **of_read, summary="Read files")(read)
    of_models = {"responses": examples.MODELS_ANSWERS, "dependencies": guarded}
    get("/v1/models", **of_models, summary="What the server reads with")(models)
    get("/healthz", responses=examples.HEALTH_ANSWERS, summary="The process answers")(healthz)
    get("/readyz", responses=examples.READINESS_ANSWERS, summary="Requests are taken")(readyz)
    of_metrics = {"responses": examples.METRICS_ANSWERS, "dependencies": guarded}
    get("/metrics", **of_metrics, summary="Figures for Prometheus")(metrics)
    app.get("/", include_in_schema=False)(files.index)
    app.get("/static/{name}", include_in_schema=False)(files.static)
    for path, answer in (("/", files.index), ("/healthz", healthz), ("/readyz", readyz)):
        app.head(path, include_in_schema=False)(answer)  # what proxies and balancers ask with


def _add_handlers(app: FastAPI, service: Service) -> None:
    def answered(request: Request, fault: RequestError) -> Response:
        service.metrics.errors.labels(fault.told.kind).inc()
        return failure_answer(request, fault)

    async def on_fault(request: Request, error: Exception) -> Response:
        fault = fault_of(error)
        if fault.status >= 500 and not isinstance(error, RequestError):
            log_cause(_LOG, error)
        return answered(request, fault)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for these alone
        answer = answered(request, http_fault(error))
        answer.headers.update(error.headers or {})
        if error.status_code == 405:
            answer.headers["Allow"] = ", ".join(sorted(_methods(app, request)))
        return answer

    app.add_exception_handler(RequestError, on_fault)
    app.add_exception_handler(OcrError, on_fault)
    app.add_exception_handler(HTTPException, on_http)


def _methods(app: FastAPI, request: Request) -> set[str]:
    """Return what a path may be asked with; its GET knows nothing of the route for HEAD."""
    routes = (route for route in app.routes if isinstance(route, Route))
    matching = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for route in matching for method in route.methods or ()}


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
