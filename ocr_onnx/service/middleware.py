"""What happens to every request, whatever its route: an id, headers, a log line, and never a stack trace."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
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
PIECE_BYTES: Final = 256 * 1024
DRAIN_S: Final = 5.0

_LOG = logging.getLogger(__name__)
_UNROUTED: Final = "unknown"  # one name for all of them: strangers must not fill the metrics with labels


class Watched:
    """Gives a request its id, answers for what nobody caught, and counts and logs how it ended.

    A client must take each piece of its answer within `taken_within_s`. The request's place
    (`state.slot`) is given back when it has all of it, or will not get it.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, taken_within_s: float) -> None:
        self._app, self._metrics, self._taken_within_s = app, metrics, taken_within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        start = time.perf_counter()
        exchange = _Exchange(scope, receive, send, self._taken_within_s)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:  # nothing of ours may reach the client: it gets an id to ask with
            log_cause(_LOG, error)
            if not exchange.status:
                answer = failure_answer(Request(scope), RequestError(500, *INTERNAL))
                await answer(scope, exchange.receive, exchange.send)
        finally:
            if (slot := scope["state"].pop("slot", None)) is not None:
                slot.release()
            self._count(scope, request_id, exchange.status, time.perf_counter() - start)

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


class _Exchange:
    """A request's body on its way in, and its answer on its way out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, taken_within_s: float) -> None:
        self.status = 0
        self._request_id = scope["state"]["request_id"]
        self._receive, self._send, self._taken_within_s = receive, send, taken_within_s
        self._unread = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])

    async def receive(self) -> Message:
        """Pass on a piece of the body."""
        message = await self._receive()
        self._unread = bool(message.get("more_body", False))
        return message

    async def send(self, message: Message) -> None:
        """Pass on the answer, piece by piece. Raises ConnectionError where the client does not take it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [(b"x-request-id", self._request_id.encode()), (b"x-content-type-options", b"nosniff")]
            message["headers"] = [*message.get("headers", ()), *headers]
            if self.status >= 400 and self.status != 408:  # who is too slow was waited for already
                await self._drain()
        for piece in _pieces(message):
            try:
                async with asyncio.timeout(self._taken_within_s):
                    await self._send(piece)
            except TimeoutError as error:
                raise ConnectionError("the client does not take its answer") from error

    async def _drain(self) -> None:
        """Read what is left of a body, for a while: a proxy that can't pass it on may lose the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._unread:
                    await self.receive()


def _pieces(message: Message) -> Iterator[Message]:
    """Cut a long body, so that no more of it than a piece is held for a client that does not take it."""
    body = message.get("body", b"")
    for start in range(0, len(body) - PIECE_BYTES, PIECE_BYTES):
        yield {**message, "body": body[start : start + PIECE_BYTES], "more_body": True}
    yield {**message, "body": body[len(body) - 1 - (len(body) - 1) % PIECE_BYTES :]} if body else message


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
    in_v1 = request.scope["path"].startswith("/v1/")
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
