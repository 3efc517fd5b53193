"""Runs the application on a port until it is told to stop, and finishes what was accepted."""

import logging
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ocr_onnx.errors import OptionError
from ocr_onnx.service.logs import logged_to_stderr
from ocr_onnx.service.settings import ServiceOptions
from ocr_onnx.service.shared import Service

_LOG = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Tells the service of a shutdown at once, so that `/readyz` says so before connections end."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown; a second signal does not wait for what was accepted."""
        self._service.stopping = True
        super().handle_exit(sig, frame)


def serve(app: FastAPI, host: str, port: int, options: ServiceOptions) -> None:
    """Serve until SIGINT or SIGTERM; accepted requests are finished within `shutdown_timeout_s`.

    Raises OptionError for an address that can't be listened on, and whatever kept the engine from
    being loaded.
    """
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(options.shutdown_timeout_s),
    )
    server = _Server(config, service)

    def stop() -> None:
        server.should_exit = True

    service.on_failure = stop
    with logged_to_stderr(), listening(host, port) as listener:
        shown = listener.getsockname()
        _LOG.info("listening", extra={"fields": {"host": shown[0], "port": shown[1]}})
        server.run([listener])
    if service.failure is not None:
        raise service.failure


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OptionError for an address that can't be listened on."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"can't be listened on ({reason.lower()})"
        raise OptionError(f"{host}:{port}", problem, "give another --host or --port") from error
    # asyncio does so for sockets made for TCP by name alone. Without it an answer's second part waits
    # for the client to acknowledge the first, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
