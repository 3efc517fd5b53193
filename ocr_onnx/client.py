"""What an engine would read goes to an ocr-onnx server; the results that it would give come back.

`AsyncClient` does the work, `Client` waits for it. Files are sent as they are, and no model and no
ONNX Runtime is loaded here.
"""

import asyncio
import json
import re
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from queue import SimpleQueue
from typing import Any, Final, Self, TypeAlias, TypeVar

import cv2
import httpx

from ocr_onnx import errors, inputs
from ocr_onnx.config import Setting, build
from ocr_onnx.data import Page, PageResult
from ocr_onnx.errors import DependencyError, InputError, OcrError, OptionError, ServerError
from ocr_onnx.inputs import Encoded, Readable
from ocr_onnx.network import checked_settings
from ocr_onnx.options import InputOptions

SECTIONS: Final = ("input", "det", "crop", "cls", "rec")
"""What may differ from request to request; models and runtime are the server's."""
LOCAL_KEYS: Final = ("input.max_bytes", "input.recursive", "input.timeout_s")
"""Options that are of use where files are found and fetched, and do not travel."""

TIMEOUT_S: Final = 300.0
RETRIES: Final = 5
MAX_WAIT_S: Final = 60.0  # before a busy server is asked again, whatever it says
MAX_ANSWER_BYTES: Final = 1 << 30
MAX_LINE_BYTES: Final = 64 << 20  # one page; a page of 1,000 lines has less than 1 MiB
MAX_SMALL_BYTES: Final = 1 << 20  # an error, or the answer of `models`

_UPLOAD: Final = "upload"  # no name and no path of this machine travels
_NDJSON: Final = "application/x-ndjson"
_NO_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None)
_NOT_OURS: Final = "check that an ocr-onnx server of this version answers at the address"
_GIVE_KEY: Final = "give the server's key as api_key, or in a file with --api-key-file"
_OF_A_PAGE_ITSELF: Final = ("pages", "all_frames", "password")  # options that have done their work here
_KINDS: Final[Mapping[str, type[OcrError]]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, OcrError) and kind is not ServerError
}
_REFUSALS: Final[Mapping[int, tuple[type[OcrError], str, str]]] = {
    401: (ServerError, "wants a key, or another one", _GIVE_KEY),
    403: (ServerError, "refuses this key", _GIVE_KEY),
    404: (ServerError, "has no such address", _NOT_OURS),
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

OnError: TypeAlias = Callable[[OcrError], None]
_Item: TypeAlias = Encoded | Page | OcrError
_Outcome: TypeAlias = PageResult | OcrError
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class ServedModels:
    """What a server reads with: its model set, and by stage "name@sha256", as in `Provenance`."""

    name: str
    models: tuple[tuple[str, str], ...]
    device: str
    provider: str
    version: str


class AsyncClient:
    """Reads by a server what `Engine` reads here, with results that are equal.

    `url` is the server's address, with a path where a proxy puts it below one. `api_key` goes into
    every request. `timeout_s` bounds the time until an answer begins, and then until each further
    page of it. A server that is busy is asked again up to `retries` times, after as long as it says,
    a minute at most. Redirects are not followed. `transport` is for tests.

    Raises OptionError for an address, key or number that is none; ServerError for network settings
    that can't be used.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = _checked_url(url)
        self._timeout_s = _at_least(0.001, timeout_s, "timeout_s")
        self._retries = int(_at_least(0, retries, "retries"))
        with checked_settings(self.url, ServerError):
            # httpx bounds each read alone, and a body may drip: asyncio bounds the whole
            self._http = httpx.AsyncClient(
                headers=_headers(api_key), timeout=timeout_s, limits=_NO_LIMITS, transport=transport
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Tell whether the server takes requests now. Raises ServerError where none answers."""
        status, content = await self._get("/readyz")
        if status not in (200, 503):
            raise _refusal(self.url, self.url, status, content)
        return status == 200

    async def models(self) -> ServedModels:
        """Return what the server reads with. Raises ServerError, for a refused key too."""
        status, content = await self._get("/v1/models")
        if status != 200:
            raise _refusal(self.url, self.url, status, content)
        return _served_models(self.url, content)

    async def read(self, source: Readable, options: Sections | None = None) -> PageResult:
        """Read exactly one page. Raises what `Engine.read` does, and ServerError."""
        async with aclosing(self.stream(source, options=options)) as results:
            return _single(await anext(results, None), await anext(results, None))

    def stream(
        self,
        sources: Readable,
        *,
        options: Sections | None = None,
        workers: int = 1,
        on_error: OnError | None = None,
        images: bool = False,
    ) -> AsyncGenerator[PageResult, None]:
        """Read any number of pages, yielding results in the order of the inputs, each as it is done.

        `workers` files are at the server at a time; as many more may wait for their turn. With
        `on_error`, an input or page that fails is handed to it and the others go on; without, the
        pages before it still come first. `images` decodes the pages here too, for `plot` and
        `save_to_img`. Inputs are found and read in other threads.

        Raises what `Engine.stream` does, and ServerError. OptionError always ends the stream: what
        is wrong here comes at once, what the server refuses with the first file.
        """
        asked, gate = _Asked.of(options), _gate(workers)
        found = inputs.files(sources, asked.input, on_error)
        return self._stream(found, asked, gate, workers, on_error, images)

    async def _stream(
        self,
        found: Iterator[Encoded | Page],
        asked: "_Asked",
        gate: asyncio.Semaphore,
        workers: int,
        on_error: OnError | None,
        images: bool,
    ) -> AsyncGenerator[PageResult, None]:
        pending: deque[tuple[_Item, asyncio.Queue[_Outcome | None], asyncio.Task[None]]] = deque()
        items, left = _with_last_error(found), True
        try:
            while left or pending:
                item = await asyncio.to_thread(next, items, None) if left else None
                left = item is not None
                if item is not None:
                    outcomes: asyncio.Queue[_Outcome | None] = asyncio.Queue()
                    work = self.work(item, asked, gate, outcomes.put_nowait)
                    pending.append((item, outcomes, asyncio.create_task(work)))
                    if len(pending) < 2 * workers and not pending[0][2].done():
                        continue
                if pending:
                    first, outcomes, task = pending[0]
                    pictures = _pictures(first, asked.input) if images else None
                    while (outcome := await outcomes.get()) is not None:
                        for result in _kept(outcome, on_error):
                            yield _with_image(result, pictures)
                    await task
                    pending.popleft()
        finally:
            for _, _, task in pending:
                task.cancel()
            await asyncio.gather(*(task for _, _, task in pending), return_exceptions=True)

    async def work(
        self,
        item: _Item,
        asked: "_Asked",
        gate: asyncio.Semaphore,
        put: Callable[[_Outcome | None], None],
    ) -> None:
        """Send one file and `put` what comes of it, at last None. Raises nothing on purpose; internal."""
        try:
            if isinstance(item, OcrError):
                put(item)
                return
            async with (
                gate,
                aclosing(self._answers(await asyncio.to_thread(_job_of, item, asked))) as answers,
            ):
                async for outcome in answers:
                    put(outcome)
        except OcrError as error:
            put(error)
        finally:
            put(None)

    async def _answers(self, job: "_Job") -> AsyncGenerator[_Outcome, None]:
        for attempt in count():
            with self._faults_of(job.name):
                request = self._http.build_request(
                    "POST",
                    f"{self.url}/v1/read",
                    headers={"Accept": _NDJSON},
                    files={"file": (_UPLOAD, job.data, "application/octet-stream")},
                    data=job.fields,
                )
                response = await self._send(request)
                try:
                    if response.status_code == 200:
                        _check_ndjson(response, job.name, self.url)
                        answer = _Answer(job, self.url)
                        async for chunk in self._chunks(response, answer):
                            for outcome in answer.feed(chunk):
                                yield outcome
                        answer.end()
                        return
                    refused = await self._small(response)
                finally:
                    await response.aclose()
            if response.status_code != 503 or attempt == self._retries:
                raise _refusal(job.name, self.url, response.status_code, refused)
            await asyncio.sleep(_wait_s(response.headers.get("retry-after", "")))

    async def _get(self, path: str) -> tuple[int, bytes]:
        with self._faults_of(self.url):
            response = await self._send(self._http.build_request("GET", self.url + path))
            try:
                return response.status_code, await self._small(response)
            finally:
                await response.aclose()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        async with asyncio.timeout(self._timeout_s):
            return await self._http.send(request, stream=True)

    async def _chunks(self, response: httpx.Response, answer: "_Answer") -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, for as long as `answer` grows by an outcome within the time limit."""
        # raw: a body that unpacks itself could outgrow every bound within one chunk, and none was asked for
        chunks = aiter(response.aiter_raw())
        clock = asyncio.get_running_loop().time
        seen, deadline = 0, clock() + self._timeout_s
        while True:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(chunks, b"")
            if not chunk:
                return
            yield chunk
            if answer.outcomes > seen:
                seen, deadline = answer.outcomes, clock() + self._timeout_s

    async def _small(self, response: httpx.Response) -> bytes:
        """Read a short body; what is beyond the bound is left out, and so no JSON."""
        body = bytearray()
        async with asyncio.timeout(self._timeout_s):
            async for chunk in response.aiter_raw():
                body += chunk[: MAX_SMALL_BYTES - len(body)]
                if len(body) == MAX_SMALL_BYTES:
                    break
        return bytes(body)

    @contextmanager
    def _faults_of(self, subject: str) -> Iterator[None]:
        """Turn what the network does into a ServerError about `subject`."""
        try:
            yield
        except (TimeoutError, httpx.TimeoutException) as error:
            problem = f"{self.url} did not answer within {self._timeout_s:g} s"
            raise _server_error(subject, self.url, problem, "try again, or with another timeout_s") from error
        except (httpx.ConnectError, httpx.ProxyError) as error:
            problem = f"{self.url} can't be reached ({_cause(error)})"
            remedy = "check the address, and that `ocr-onnx serve` runs there"
            raise _server_error(subject, self.url, problem, remedy) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            problem = f"{self.url} broke the connection off ({_cause(error)})"
            raise _server_error(subject, self.url, problem, "try again, and look into its log") from error


class Client:
    """`AsyncClient` for code that waits; all it says holds here too. Threads may share one.

    The waiting is done in a thread of its own, so it also works inside an event loop (a notebook).
    Does not survive a fork: make it afterwards.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = AsyncClient(
            url, api_key=api_key, timeout_s=timeout_s, retries=retries, transport=transport
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="ocr-onnx-client", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._loop, self._client)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._client.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is under way and close the connections."""
        self._end()
        self._thread.join()

    def ready(self) -> bool:
        """Tell whether the server takes requests now. Raises ServerError where none answers."""
        return self._wait(self._client.ready())

    def models(self) -> ServedModels:
        """Return what the server reads with. Raises ServerError, for a refused key too."""
        return self._wait(self._client.models())

    def read(self, source: Readable, options: Sections | None = None) -> PageResult:
        """Read exactly one page. Raises what `Engine.read` does, and ServerError."""
        with closing(self.stream(source, options=options)) as results:
            return _single(next(results, None), next(results, None))

    def stream(
        self,
        sources: Readable,
        *,
        options: Sections | None = None,
        workers: int = 1,
        on_error: OnError | None = None,
        images: bool = False,
    ) -> Generator[PageResult, None, None]:
        """Read any number of pages as `AsyncClient.stream` does; inputs are read in the caller's thread."""
        asked, gate = _Asked.of(options), _gate(workers)
        found = inputs.files(sources, asked.input, on_error)
        return self._stream(found, asked, gate, workers, on_error, images)

    def _stream(
        self,
        found: Iterator[Encoded | Page],
        asked: "_Asked",
        gate: asyncio.Semaphore,
        workers: int,
        on_error: OnError | None,
        images: bool,
    ) -> Generator[PageResult, None, None]:
        pending: deque[tuple[_Item, SimpleQueue[_Outcome | None], Future[None]]] = deque()
        items, left = _with_last_error(found), True
        try:
            while left or pending:
                item = next(items, None) if left else None
                left = item is not None
                if item is not None:
                    outcomes: SimpleQueue[_Outcome | None] = SimpleQueue()
                    work = self._client.work(item, asked, gate, outcomes.put)
                    pending.append((item, outcomes, self._submit(work)))
                    if len(pending) < 2 * workers and not pending[0][2].done():
                        continue
                if pending:
                    first, outcomes, future = pending[0]
                    pictures = _pictures(first, asked.input) if images else None
                    while (outcome := outcomes.get()) is not None:
                        for result in _kept(outcome, on_error):
                            yield _with_image(result, pictures)
                    future.result()
                    pending.popleft()
        finally:
            for _, _, future in pending:
                future.cancel()

    def _wait(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        return self._submit(work).result()

    def _submit(self, work: Coroutine[Any, Any, _Value]) -> Future[_Value]:
        if not self._end.alive:
            work.close()
            raise RuntimeError("the client is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, client: AsyncClient) -> None:
    """End a client's loop, without waiting: the caller may be the garbage collector in any thread."""

    async def wind_up() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await client.aclose()
        loop.stop()

    asyncio.run_coroutine_threadsafe(wind_up(), loop)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Checked options of a call: those used here, and the sections that travel."""

    input: InputOptions
    sections: Mapping[str, Mapping[str, object]]

    @classmethod
    def of(cls, options: Sections | None) -> Self:
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
class _Job:
    """A file to send. `page` is set for a picture that was already decoded: the file is one made of it."""

    name: str
    data: bytes
    fields: Mapping[str, str]
    page: Page | None = None


def _job_of(item: Encoded | Page, asked: _Asked) -> _Job:
    if isinstance(item, Encoded):
        return _Job(item.source, item.data, _fields(asked.sections))
    done, data = cv2.imencode(".png", item.image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise InputError(item.source, "can't be written as PNG", "give a smaller picture")
    kept = {
        key: value for key, value in asked.sections.get("input", {}).items() if key not in _OF_A_PAGE_ITSELF
    }
    return _Job(item.source, data.tobytes(), _fields({**asked.sections, "input": kept}), item)


def _fields(sections: Sections) -> Mapping[str, str]:
    given = {section: values for section, values in sections.items() if values}
    return {"options": json.dumps(given)} if given else {}


class _Answer:
    """An answer of JSON lines: chunks go in, outcomes come out, `end` tells whether it was whole.

    Every method raises ServerError for what is no such answer.
    """

    def __init__(self, job: _Job, url: str) -> None:
        self._job, self._url = job, url
        self._line = bytearray()
        self._bytes = 0
        self._pages = self._failed = 0
        self._told: Mapping[str, Any] | None = None

    @property
    def outcomes(self) -> int:
        """How many pages and errors came so far."""
        return self._pages + self._failed

    def feed(self, chunk: bytes) -> list[_Outcome]:
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
            raise _server_error(self._job.name, self._url, problem, "try again, and look into its log")
        told = self._told.get("pages"), self._told.get("failed")
        if told != (self._pages, self._failed) or self._line.strip():
            raise self._broken("another number of pages than it says")

    def _understood(self, line: bytes) -> list[_Outcome]:
        match _json(line):
            case _ if self._told is not None:
                raise self._broken("more after its end")
            case {"page": dict(page)}:
                self._pages += 1
                return [self._result(page)]
            case {"error": dict(error)}:
                self._failed += 1
                return [self._error(error)]
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

    def _error(self, error: Mapping[str, Any]) -> OcrError:
        # the error itself stands beside source and index, or in an object of its own, as in plain JSON
        inner = error.get("error", error)
        told = _told_error(inner, self._url, self._job.name, str(error.get("source", _UPLOAD)))
        if told is None:
            raise self._broken("an error without subject, problem or remedy")
        return told

    def _broken(self, what: str) -> ServerError:
        return ServerError(self._job.name, f"{self._url} answered with {what}", _NOT_OURS)


def _told_error(error: object, url: str, name: str, sent_as: str) -> OcrError | None:
    """Rebuild an error that a server tells of, about what is called `name` here; None if it is none."""
    match error:
        case {"kind": str(kind), "subject": str(subject), "problem": str(problem), "remedy": str(remedy)}:
            made = _KINDS.get(kind)
            if made is None:
                return _server_error(name, url, f"{url} says that {subject} {problem}", remedy)
            if subject.startswith(sent_as):
                subject = name + subject.removeprefix(sent_as)
            elif made is not OptionError:
                subject = name
            return made(subject, problem, remedy)
    return None


def _refusal(subject: str, url: str, status: int, content: bytes) -> OcrError:
    """Say what an answer means that is not 200: in the server's words, or in ours where it has none."""
    if 300 <= status < 400:
        moved = _server_error(subject, url, f"{url} redirects", "give the address that it redirects to")
        moved.status = status
        return moved
    kind, problem, remedy = _REFUSALS.get(status, (ServerError, f"answered {status}", _NOT_OURS))
    told: OcrError | None = None
    match _json(content):
        case {"error": dict(error)}:
            told = _told_error(error, url, subject, _UPLOAD)
    if told is None or status in (401, 403):  # what to do about a key, the server can't know
        told = _server_error(subject, url, f"{url} {problem}", remedy)
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


def _check_ndjson(response: httpx.Response, subject: str, url: str) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _NDJSON or response.headers.get("content-encoding", "identity") != "identity":
        raise ServerError(subject, f"{url} answered with {kind or 'something'}, not {_NDJSON}", _NOT_OURS)


def _served_models(url: str, content: bytes) -> ServedModels:
    try:
        match _json(content):
            case {"name": str(name), "models": list(models), **about}:
                used = tuple((str(one["stage"]), f"{one['name']}@{one['sha256']}") for one in models)
                device, provider, version = (str(about[key]) for key in ("device", "provider", "version"))
                return ServedModels(name, used, device, provider, version)
    except (KeyError, TypeError) as error:
        raise ServerError(url, f"does not tell its models ({error})", _NOT_OURS) from error
    raise ServerError(url, "does not tell its models", _NOT_OURS)


def _wait_s(retry_after: str) -> float:
    """Return how long to wait for a server that is busy; a date counts as a second."""
    return min(float(retry_after), MAX_WAIT_S) if retry_after.isdecimal() else 1.0


def _single(first: PageResult | None, second: PageResult | None) -> PageResult:
    if first is None:
        raise InputError("input", "holds no page", "give something to read")
    if second is not None:
        raise InputError(first.source, "holds more than one page", "use stream, or pick one with input.pages")
    return first


def _kept(outcome: _Outcome, on_error: OnError | None) -> Iterator[PageResult]:
    """Yield a result; hand an error to `on_error` or raise it."""
    if isinstance(outcome, PageResult):
        yield outcome
    elif on_error is None or isinstance(outcome, OptionError):
        raise outcome
    else:
        on_error(outcome)


def _with_last_error(found: Iterator[Encoded | Page]) -> Iterator[_Item]:
    """Yield what was found, and what ends it as an item: the answers before it are still on their way."""
    try:
        yield from found
    except OcrError as error:
        yield error


def _pictures(item: _Item, options: InputOptions) -> Iterator[Page]:
    """Decode the pages of a file one by one; what can't be is left out, as the server tells of it."""
    if isinstance(item, OcrError):
        return iter(())
    return inputs.pages(item.data if isinstance(item, Encoded) else item, options, lambda _: None)


def _with_image(result: PageResult, pictures: Iterator[Page] | None) -> PageResult:
    """Add a page's picture. Results and `pictures` have the same order; there may be more pictures."""
    if pictures is None:
        return result
    page = next((page for page in pictures if page.index == result.index), None)
    return result if page is None else replace(result, image=page.image)


def _server_error(subject: str, url: str, problem: str, remedy: str) -> ServerError:
    """Make an error about a file, or about the server itself, whose address then need not come twice."""
    return ServerError(subject, problem.removeprefix(f"{url} ") if subject == url else problem, remedy)


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__


def _headers(api_key: str) -> dict[str, str]:
    common = {"Accept-Encoding": "identity", "User-Agent": "ocr-onnx"}
    if not api_key:
        return common
    if not re.fullmatch(r"[\x21-\x7e]+", api_key):
        raise OptionError("api_key", "has characters that no key has", "give it without spaces and line ends")
    return {**common, "Authorization": f"Bearer {api_key}"}


def _checked_url(url: str) -> str:
    wrong = OptionError(url or '""', "is no address of a server", "give it as http://127.0.0.1:8080")
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise wrong from error
    if found.scheme not in ("http", "https") or not found.host or found.query or found.fragment:
        raise wrong
    if not 0 < (found.port or 80) < 1 << 16:
        raise wrong
    if found.userinfo:
        raise OptionError(found.host, "was given with a name and a password", "give a key as api_key instead")
    return url.rstrip("/")


def _at_least(least: float, value: float, name: str) -> float:
    if not least <= value < float("inf"):  # so that NaN is outside
        raise OptionError(name, f"{value} is out of range", f"give a number of at least {least:g}")
    return value


def _gate(workers: int) -> asyncio.Semaphore:
    return asyncio.Semaphore(int(_at_least(1, workers, "workers")))
