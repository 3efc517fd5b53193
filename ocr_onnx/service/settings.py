"""The options of the service: frozen and validated, like those of the engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final

from ocr_onnx.validation import Range, check_fields

INPUT_DEFAULTS: Final[Mapping[str, object]] = MappingProxyType(
    {
        "input.max_bytes": 50 * 1024 * 1024,
        "input.max_pixels": 50_000_000,
        "input.max_pages": 100,
        "input.max_pdf_objects": 500_000,
        "input.timeout_s": 20.0,
    }
)
"""What the service lets strangers hand in, unless told otherwise: less than a command line's user may."""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How requests are taken in.

    Attributes
    ----------
    max_requests
        Requests that may be under way, waiting ones included; more are refused with 503.
    max_body_bytes
        Bound on the body of one request, in bytes, enforced while it is read.
    max_held_bytes
        Bound on the bodies of all requests under way together, in bytes; beyond it 503.
    max_files
        Bound on the files of one multipart request.
    body_timeout_s
        Bound on the time a body may take to arrive, in seconds.
    request_timeout_s
        Bound on the time from the whole body to the answer, in seconds; then 504.
    render_timeout_s
        Bound on the time that one page of a PDF may take to be rendered, in seconds.
    render_max_bytes
        Bound on the memory of a process that renders PDFs, in bytes; not on Windows.
    shutdown_timeout_s
        How long a shutdown waits for accepted requests, in seconds.
    workers
        Pages that are read at a time; 0 for what suits the device.
    allow_urls
        Fetch `file` where it is an http(s) address.
    url_hosts
        The hosts that may be fetched from, separated by commas; empty for every public one.
    cors_origins
        The origins whose pages in a browser may use the service, separated by commas.
    """

    max_requests: Annotated[int, Range(1, 100_000)] = 64
    max_body_bytes: Annotated[int, Range(1)] = 72 * 1024 * 1024
    max_held_bytes: Annotated[int, Range(1)] = 512 * 1024 * 1024
    max_files: Annotated[int, Range(1, 10_000)] = 100
    body_timeout_s: Annotated[float, Range(0.001, 86_400)] = 30.0
    request_timeout_s: Annotated[float, Range(0.001, 86_400)] = 120.0
    render_timeout_s: Annotated[float, Range(0.001, 86_400)] = 20.0
    render_max_bytes: Annotated[int, Range(256 * 1024 * 1024)] = 1024 * 1024 * 1024
    shutdown_timeout_s: Annotated[float, Range(0, 86_400)] = 120.0
    workers: Annotated[int, Range(0, 256)] = 0
    allow_urls: bool = False
    url_hosts: str = ""
    cors_origins: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "service")


def listed(text: str) -> tuple[str, ...]:
    """Split a list at its commas, without blanks and empty parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
