"""What the service does goes in, one line of JSON a record comes out. Never what was sent or read."""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object, the fields of `extra={"fields": {...}}` beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record without exceptions' messages, which may hold what was read."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= cause_fields(record.exc_info[1])
        return json.dumps(line)


@contextmanager
def logged_to_stderr() -> Iterator[None]:
    """Send the records of the service and of its server to stderr, as JSON lines, for as long as it runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    loggers = [logging.getLogger(name) for name in ("ocr_onnx", "uvicorn")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def log_cause(logger: logging.Logger, error: BaseException) -> None:
    """Log what kind of error it was and where it came from."""
    logger.error("a request failed", extra={"fields": cause_fields(error)})


def cause_fields(error: BaseException) -> dict[str, Any]:
    """Return an error's type and places, the innermost last."""
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return {"error": type(error).__name__, "frames": frames}
