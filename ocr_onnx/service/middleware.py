"""What happens to every request, whatever its route: an id, headers, a log line, and never a stack trace."""

import json
import logging
import time
import uuid
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ocr_onnx.service import contract, v1
from ocr_onnx.service.faults import INTERNAL, RequestError
from ocr_onnx.service.logs import log_cause
from ocr_onnx.service.metrics import Metrics

RETRY_AFTER_S: Final = 1

_LOG = logging.getLogger(__name__)
_UNROUTED: Final = "unknown"  # one name for all of them: strangers must not fill the metrics with labels


class Watched:
    """Gives a request its id, answers for what nobody caught, and counts and logs how it ended."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        start, status = time.perf_counter(), 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception as error:  # nothing of ours may reach the client: it gets an id to ask with
            log_cause(_LOG, error)
            if not status:
                answer = failure_answer(Request(scope), RequestError(500, *INTERNAL))
                await answer(scope, receive, send_marked)
        finally:
            seconds = time.perf_counter() - start
            self._count(scope, request_id, status, seconds)

    def _count(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", _UNROUTED)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        shown = {
            "request_id": request_id,
            "method": scope["method"][:16],
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 1),
        }
        _LOG.info("request", extra={"fields": shown})


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Write JSON; a name that is no valid Unicode is escaped."""
    return Response(to_json(content), status, headers, "application/json")


def to_json(content: Any) -> bytes:
    """Encode one JSON value. Raises ValueError for NaN and infinities."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def failure_answer(request: Request, fault: RequestError) -> Response:
    """Answer with a fault, in the form of the route's contract: that of `/v1`, or the reference's."""
    request_id = request.state.request_id
    in_v1 = request.url.path.startswith("/v1/")
    content = v1.failure(request_id, fault) if in_v1 else contract.failure(request_id, fault)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if fault.status == 503 else {}
    if fault.status == 408:
        headers["Connection"] = "close"  # the rest of the body is not waited for
    if fault.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_answer(content, fault.status, headers)


def http_fault(error: HTTPException) -> RequestError:
    """Put the errors of the router into words: 404, 405 and the like."""
    words = {
        404: ("route", "does not exist", "see /openapi.json"),
        405: ("method", "is not what this route takes", "see /openapi.json"),
    }
    subject, problem, remedy = words.get(error.status_code, ("request", "is refused", "see /openapi.json"))
    return RequestError(error.status_code, "RequestError", subject, problem, remedy)
