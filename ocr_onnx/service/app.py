"""The application: its routes and handlers. `create_app` takes what loads the engine."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match, Route

from ocr_onnx.engine import Engine
from ocr_onnx.errors import OcrError
from ocr_onnx.service import examples, v1
from ocr_onnx.service.faults import RequestError, fault_of
from ocr_onnx.service.logs import log_cause
from ocr_onnx.service.middleware import Watched, failure_answer, http_fault, json_answer
from ocr_onnx.service.page_files import PageFiles
from ocr_onnx.service.reading import read_reference, read_v1
from ocr_onnx.service.settings import ServiceOptions, listed
from ocr_onnx.service.shared import Service

KEY_SCHEMES: Final = (HTTPBearer(auto_error=False), APIKeyHeader(name="X-API-Key", auto_error=False))
"""Tell the schema how keys are sent; `Service.check_key` is what checks them."""

_LOG = logging.getLogger(__name__)


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
