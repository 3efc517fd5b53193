"""What goes wrong with a request as a whole, and what a client is told about an error."""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from ocr_onnx.errors import DependencyError, InputError, OcrError, OptionError, TooLargeError

_PAGE: Final = re.compile(r", page (?P<number>[0-9]+)")  # what decode and pdf put after a file's name


class RequestError(Exception):
    """A request that is answered with an error: an HTTP status and words for the client."""

    def __init__(self, status: int, kind: str, subject: str, problem: str, remedy: str) -> None:
        super().__init__(status, kind, subject, problem, remedy)
        self.status = status
        self.told = Told(kind, subject, problem, remedy)


class Told(NamedTuple):
    """An error in words that may leave the server."""

    kind: str
    subject: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}; {self.remedy}"


INTERNAL = Told(
    "InternalError", "server", "failed to handle this request", "tell the operator, with the request id"
)


def bad_request(subject: str, problem: str, remedy: str, kind: str = "RequestError") -> RequestError:
    """Return the fault of a request that does not say what it must."""
    return RequestError(422, kind, subject, problem, remedy)


def too_large(subject: str, problem: str, remedy: str) -> RequestError:
    """Return the fault of a request beyond a bound."""
    return RequestError(413, "TooLargeError", subject, problem, remedy)


def busy(problem: str = "has as much to do as it may take on") -> RequestError:
    """Return the fault of a server that can't take a request now."""
    return RequestError(503, "BusyError", "server", problem, "try again later")


def gone() -> RequestError:
    """Return the fault of a client that hung up: nobody reads the answer, but the log names it."""
    return RequestError(499, "ClientGone", "client", "went away", "stay for the answer")


def late(timeout_s: float) -> RequestError:
    """Return the fault of a request that took too long."""
    problem = f"was not done within {timeout_s:g} s"
    return RequestError(504, "TimeoutError", "request", problem, "try again later, or with fewer pages")


def fault_of(error: Exception) -> RequestError:
    """Return what a client is told of an error: a model's or the machine's fault is named to the log only."""
    if isinstance(error, RequestError):
        return error
    if not isinstance(error, InputError | OptionError | DependencyError):
        return RequestError(500, *INTERNAL)
    status = 422
    if isinstance(error, TooLargeError):
        status = 413
    elif isinstance(error, DependencyError):
        status = 501
    return RequestError(status, type(error).__name__, error.subject, error.problem, error.remedy)


@dataclass(frozen=True, slots=True)
class Failed:
    """A file or page that could not be read; `index` is the zero-based page, where there are several."""

    source: str
    index: int | None
    fault: RequestError


def failed(source: str, error: OcrError) -> Failed:
    """Return what became of a file that `source` names, or of the page that the error's subject names."""
    match = _PAGE.fullmatch(error.subject.removeprefix(source))
    return Failed(source, None if match is None else int(match["number"]) - 1, fault_of(error))
