"""What an engine would read goes to an ocr-onnx server; the results that it would give come back.

`AsyncClient` does the work, `Client` waits for it. Files are sent as they are, and no model and no
ONNX Runtime is loaded here.
"""

import asyncio
import re
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from contextlib import aclosing, closing, contextmanager
from dataclasses import replace
from itertools import count
from queue import SimpleQueue
from typing import Any, Final, Self, TypeAlias, TypeVar

import httpx

from ocr_onnx import inputs
from ocr_onnx.data import Page, PageResult
from ocr_onnx.errors import InputError, OcrError, OptionError, ServerError
from ocr_onnx.inputs import Encoded, Readable
from ocr_onnx.network import checked_settings
from ocr_onnx.options import InputOptions
from ocr_onnx.wire import (
    MAX_SMALL_BYTES,
    NDJSON,
    UPLOAD,
    Answer,
    Asked,
    Item,
    Job,
    Outcome,
    Sections,
    ServedModels,
    cause,
    check_ndjson,
    job_of,
    refusal,
    served_models,
    server_error,
    wait_s,
)

TIMEOUT_S: Final = 300.0
RETRIES: Final = 5
_NO_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None)

OnError: TypeAlias = Callable[[OcrError], None]
_Value = TypeVar("_Value")


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
            raise refusal(self.url, self.url, status, content)
        return status == 200

    async def models(self) -> ServedModels:
        """Return what the server reads with. Raises ServerError, for a refused key too."""
        status, content = await self._get("/v1/models")
        if status != 200:
            raise refusal(self.url, self.url, status, content)
        return served_models(self.url, content)

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
        asked, gate = Asked.of(options), _gate(workers)
        found = inputs.files(sources, asked.input, on_error)
        return self._stream(found, asked, gate, workers, on_error, images)

    async def _stream(
        self,
        found: Iterator[Encoded | Page],
        asked: Asked,
        gate: asyncio.Semaphore,
        workers: int,
        on_error: OnError | None,
        images: bool,
    ) -> AsyncGenerator[PageResult, None]:
        pending: deque[tuple[Item, asyncio.Queue[Outcome | None], asyncio.Task[None]]] = deque()
        items, left = inputs.with_last_error(found), True
        try:
            while left or pending:
                item = await asyncio.to_thread(next, items, None) if left else None
                left = item is not None
                if item is not None:
                    outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()
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
        item: Item,
        asked: Asked,
        gate: asyncio.Semaphore,
        put: Callable[[Outcome | None], None],
    ) -> None:
        """Send one file and `put` what comes of it, at last None. Raises nothing on purpose; internal."""
        try:
            if isinstance(item, OcrError):
                put(item)
                return
            async with (
                gate,
                aclosing(self._answers(await asyncio.to_thread(job_of, item, asked))) as answers,
            ):
                async for outcome in answers:
                    put(outcome)
        except OcrError as error:
            put(error)
        finally:
            put(None)

    async def _answers(self, job: Job) -> AsyncGenerator[Outcome, None]:
        for attempt in count():
            with self._faults_of(job.name):
                request = self._http.build_request(
                    "POST",
                    f"{self.url}/v1/read",
                    headers={"Accept": NDJSON},
                    files={"file": (UPLOAD, job.data, "application/octet-stream")},
                    data=job.fields,
                )
                response = await self._send(request)
                try:
                    if response.status_code == 200:
                        check_ndjson(response, job.name, self.url)
                        answer = Answer(job, self.url)
                        async for chunk in self._chunks(response, answer):
                            for outcome in answer.feed(chunk):
                                yield outcome
                        answer.end()
                        return
                    refused = await self._small(response)
                finally:
                    await response.aclose()
            if response.status_code != 503 or attempt == self._retries:
                raise refusal(job.name, self.url, response.status_code, refused)
            await asyncio.sleep(wait_s(response.headers.get("retry-after", "")))

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

    async def _chunks(self, response: httpx.Response, answer: Answer) -> AsyncGenerator[bytes, None]:
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
            raise server_error(subject, self.url, problem, "try again, or with another timeout_s") from error
        except (httpx.ConnectError, httpx.ProxyError) as error:
            problem = f"{self.url} can't be reached ({cause(error)})"
            remedy = "check the address, and that `ocr-onnx serve` runs there"
            raise server_error(subject, self.url, problem, remedy) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            problem = f"{self.url} broke the connection off ({cause(error)})"
            raise server_error(subject, self.url, problem, "try again, and look into its log") from error


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
        asked, gate = Asked.of(options), _gate(workers)
        found = inputs.files(sources, asked.input, on_error)
        return self._stream(found, asked, gate, workers, on_error, images)

    def _stream(
        self,
        found: Iterator[Encoded | Page],
        asked: Asked,
        gate: asyncio.Semaphore,
        workers: int,
        on_error: OnError | None,
        images: bool,
    ) -> Generator[PageResult, None, None]:
        pending: deque[tuple[Item, SimpleQueue[Outcome | None], Future[None]]] = deque()
        items, left = inputs.with_last_error(found), True
        try:
            while left or pending:
                item = next(items, None) if left else None
                left = item is not None
                if item is not None:
                    outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
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


def _single(first: PageResult | None, second: PageResult | None) -> PageResult:
    if first is None:
        raise InputError("input", "holds no page", "give something to read")
    if second is not None:
        raise InputError(first.source, "holds more than one page", "use stream, or pick one with input.pages")
    return first


def _kept(outcome: Outcome, on_error: OnError | None) -> Iterator[PageResult]:
    """Yield a result; hand an error to `on_error` or raise it."""
    if isinstance(outcome, PageResult):
        yield outcome
    elif on_error is None or isinstance(outcome, OptionError):
        raise outcome
    else:
        on_error(outcome)


def _pictures(item: Item, options: InputOptions) -> Iterator[Page]:
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
