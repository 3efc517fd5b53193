"""What travels between a client and a server: options and files there, answers and refusals back. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self, TypeAlias

import cv2
import httpx

from ocr_onnx import errors
from ocr_onnx.config import Setting, build
from ocr_onnx.data import Page, PageResult
from ocr_onnx.errors import DependencyError, InputError, OcrError, OptionError, ServerError
from ocr_onnx.inputs import Encoded
from ocr_onnx.options import InputOptions, Options

SECTIONS: Final = tuple(field.name for field in fields(Options))
"""What may differ from request to request; models and runtime are the server's."""
LOCAL_KEYS: Final = ("input.max_bytes", "input.recursive", "input.timeout_s")
"""Options that are of use where files are found and fetched, and do not travel."""

MAX_WAIT_S: Final = 60.0  # before a busy server is asked again, whatever it says
MAX_ANSWER_BYTES: Final = 1 << 30
MAX_LINE_BYTES: Final = 64 << 20  # one page; a page of 1,000 lines has less than 1 MiB
MAX_SMALL_BYTES: Final = 1 << 20  # an error, or the answer of `models`

UPLOAD: Final = "upload"  # no name and no path of this machine travels
NDJSON: Final = "application/x-ndjson"

NOT_OURS: Final = "check that an ocr-onnx server of this version answers at the address"
GIVE_KEY: Final = "give the server's key as api_key, or in a file with --api-key-file"
_OF_A_PAGE_ITSELF: Final = ("pages", "all_frames", "password")  # options that have done their work here
_KINDS: Final[Mapping[str, type[OcrError]]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, OcrError) and kind is not ServerError
}
_REFUSALS: Final[Mapping[int, tuple[type[OcrError], str, str]]] = {
    401: (ServerError, "wants a key, or another one", GIVE_KEY),
    403: (ServerError, "refuses this key", GIVE_KEY),
    404: (ServerError, "has no such address", NOT_OURS),
    413: (
        InputError,
        "does not take a file so large",
        "shrink it, or raise the limit of the server or its proxy",
    ),
    503: (ServerError, "is busy or going down", "try again later, or with fewer workers"),
    504: (ServerError, "did not finish in its time limit", "try again later, or raise the server's limit"),
}
"""What a status means where the answer does not say it itself."""

Sections: TypeAlias = Mapping[str, Mapping[str, object]]
"""Options by section, `{"det": {"limit_side_px": 2400}}`; what is not named is as the server has it."""

Item: TypeAlias = Encoded | Page | OcrError
Outcome: TypeAlias = PageResult | OcrError


@dataclass(frozen=True, slots=True)
class ServedModels:
    """What a server reads with: its model set, and by stage "name@sha256", as in `Provenance`."""

    name: str
    models: tuple[tuple[str, str], ...]
    device: str
    provider: str
    version: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Checked options of a call: those used here, and the sections that travel."""

    input: InputOptions
    sections: Mapping[str, Mapping[str, object]]

    @classmethod
    def of(cls, options: Sections | None) -> Self:
        """Check options as a caller gives them; OptionError names the one that is none."""
        settings = []
        for section, values in (options or {}).items():
            if section not in SECTIONS or not isinstance(values, Mapping):
                raise OptionError(
                    f"options: {section}",
                    "is no section of options that a request may have",
                    f"give a mapping for each of {', '.join(SECTIONS)}",
                )
            settings += [Setting(f"{section}.{key}", value, "options") for key, value in values.items()]
        config = build(settings)
        travelling: dict[str, dict[str, object]] = {}
        for setting in settings:
            section, _, key = setting.key.partition(".")
            if setting.key not in LOCAL_KEYS:
                travelling.setdefault(section, {})[key] = getattr(getattr(config, section), key)
        return cls(config.input, travelling)


@dataclass(frozen=True, slots=True)
class Job:
    """A file to send. `page` is set for a picture that was already decoded: the file is one made of it."""

    name: str
    data: bytes
    fields: Mapping[str, str]
    page: Page | None = None


def job_of(item: Encoded | Page, asked: Asked) -> Job:
    """Return what is sent for a file, or for a picture (H, W, 3) uint8 BGR, which goes as PNG.

    Raises InputError for a picture that PNG does not take.
    """
    if isinstance(item, Encoded):
        return Job(item.source, item.data, _fields(asked.sections))
    done, data = cv2.imencode(".png", item.image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise InputError(item.source, "can't be written as PNG", "give a smaller picture")
    kept = {
        key: value for key, value in asked.sections.get("input", {}).items() if key not in _OF_A_PAGE_ITSELF
    }
    return Job(item.source, data.tobytes(), _fields({**asked.sections, "input": kept}), item)


def _fields(sections: Sections) -> Mapping[str, str]:
    given = {section: values for section, values in sections.items() if values}
    return {"options": json.dumps(given)} if given else {}


class Answer:
    """An answer of JSON lines: chunks go in, outcomes come out, `end` tells whether it was whole.

    Every method raises ServerError for what is no such answer.
    """

    def __init__(self, job: Job, url: str) -> None:
        self._job, self._url = job, url
        self._line = bytearray()
        self._bytes = 0
        self._pages = self._failed = 0
        self._told: Mapping[str, Any] | None = None

    @property
    def outcomes(self) -> int:
        """How many pages and errors came so far."""
        return self._pages + self._failed

    def feed(self, chunk: bytes) -> list[Outcome]:
        """Take the next bytes; return the pages and errors that they complete."""
        self._bytes += len(chunk)
        first, *others = chunk.split(b"\n")
        self._line += first
        whole = []
        for part in others:
            whole.append(bytes(self._line))
            self._line = bytearray(part)
        if max(map(len, (self._line, *whole))) > MAX_LINE_BYTES:
            raise self._broken(f"a line of more than {MAX_LINE_BYTES} bytes")
        if self._bytes > MAX_ANSWER_BYTES:
            raise self._broken(f"more than {MAX_ANSWER_BYTES} bytes")
        return [outcome for line in whole if line.strip() for outcome in self._understood(line)]

    def end(self) -> None:
        """Make sure that nothing is missing."""
        if self._told is None:
            problem = f"{self._url} broke its answer off (pages so far: {self.outcomes})"
            raise server_error(self._job.name, self._url, problem, "try again, and look into its log")
        told = self._told.get("pages"), self._told.get("failed")
        if told != (self._pages, self._failed) or self._line.strip():
            raise self._broken("another number of pages than it says")

    def _understood(self, line: bytes) -> list[Outcome]:
        match _json(line):
            case _ if self._told is not None:
                raise self._broken("more after its end")
            case {"page": dict(page)}:
                self._pages += 1
                return [self._result(page)]
            case {"failed": dict(failed)}:
                self._failed += 1
                return [self._error(failed)]
            case {"done": dict(told)}:
                self._told = told
                return []
        raise self._broken("a line that is no page, error or end")

    def _result(self, page: Mapping[str, Any]) -> PageResult:
        try:
            found = PageResult.from_dict(page)
        except InputError as error:
            raise self._broken(f"a page that {error.problem}") from error
        index = found.index if self._job.page is None else self._job.page.index
        return replace(found, source=self._job.name, index=index)

    def _error(self, failed: Mapping[str, Any]) -> OcrError:
        sent_as = str(failed.get("source", UPLOAD))
        told = _told_error(failed.get("error"), self._url, self._job.name, sent_as)
        if told is None:
            raise self._broken("an error without subject, problem or remedy")
        return told

    def _broken(self, what: str) -> ServerError:
        return ServerError(self._job.name, f"{self._url} answered with {what}", NOT_OURS)


def _told_error(error: object, url: str, name: str, sent_as: str) -> OcrError | None:
    """Rebuild an error that a server tells of, about what is called `name` here; None if it is none."""
    match error:
        case {"kind": str(kind), "subject": str(subject), "problem": str(problem), "remedy": str(remedy)}:
            made = _KINDS.get(kind)
            if made is None:
                return server_error(name, url, f"{url} says that {subject} {problem}", remedy)
            if subject.startswith(sent_as):
                subject = name + subject.removeprefix(sent_as)
            elif made is not OptionError:
                subject = name
            return made(subject, problem, remedy)
    return None


def refusal(subject: str, url: str, status: int, content: bytes) -> OcrError:
    """Say what an answer means that is not 200: in the server's words, or in ours where it has none."""
    if 300 <= status < 400:
        moved = server_error(subject, url, f"{url} redirects", "give the address that it redirects to")
        moved.status = status
        return moved
    kind, problem, remedy = _REFUSALS.get(status, (ServerError, f"answered {status}", NOT_OURS))
    told: OcrError | None = None
    match _json(content):
        case {"error": dict(error)}:
            told = _told_error(error, url, subject, UPLOAD)
    if told is None or status in (401, 403):  # what to do about a key, the server can't know
        told = server_error(subject, url, f"{url} {problem}", remedy)
    if issubclass(kind, InputError) and not isinstance(told, InputError):
        told = InputError(told.subject, told.problem, told.remedy)
    elif status >= 500 and not isinstance(told, ServerError | DependencyError):
        told = ServerError(told.subject, told.problem, told.remedy)
    if isinstance(told, ServerError):
        told.status = status
    return told


def _json(content: bytes) -> object:
    """Parse JSON; None for what is none."""
    try:
        value: object = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value


def check_ndjson(response: httpx.Response, subject: str, url: str) -> None:
    """Raise ServerError where an answer is no plain JSON lines."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != NDJSON or response.headers.get("content-encoding", "identity") != "identity":
        raise ServerError(subject, f"{url} answered with {kind or 'something'}, not {NDJSON}", NOT_OURS)


def served_models(url: str, content: bytes) -> ServedModels:
    """Parse the answer of `/v1/models`; ServerError where it is none."""
    try:
        match _json(content):
            case {"name": str(name), "models": list(models), **about}:
                used = tuple((str(one["stage"]), f"{one['name']}@{one['sha256']}") for one in models)
                device, provider, version = (str(about[key]) for key in ("device", "provider", "version"))
                return ServedModels(name, used, device, provider, version)
    except (KeyError, TypeError) as error:
        raise ServerError(url, f"does not tell its models ({error})", NOT_OURS) from error
    raise ServerError(url, "does not tell its models", NOT_OURS)


def wait_s(retry_after: str) -> float:
    """Return how long to wait for a server that is busy; a date counts as a second."""
    return min(float(retry_after), MAX_WAIT_S) if retry_after.isdecimal() else 1.0


def server_error(subject: str, url: str, problem: str, remedy: str) -> ServerError:
    """Make an error about a file, or about the server itself, whose address then need not come twice."""
    return ServerError(subject, problem.removeprefix(f"{url} ") if subject == url else problem, remedy)


def cause(error: Exception) -> str:
    """Return what an error says, or at least its name."""
    return str(error) or type(error).__name__
