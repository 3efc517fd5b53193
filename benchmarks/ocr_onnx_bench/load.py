"""Many clients send files to a server at a time; speed, waits, errors, memory and equality come out.

`ocr-onnx bench load` runs it from the command line: the clients are threads of that process, the
server is another one.
"""

import hashlib
import json
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal, TypeAlias

from ocr_onnx import inputs
from ocr_onnx.client import Client
from ocr_onnx.config import Config
from ocr_onnx.data import PageResult
from ocr_onnx.engine import Engine
from ocr_onnx.errors import InputError, OcrError, OptionError, ServerError
from ocr_onnx.inputs import Encoded
from ocr_onnx.wire import ServedModels
from ocr_onnx_bench import environment
from ocr_onnx_bench.tables import aligned

RULE = (
    "every client sends one file after the other, each beginning at another one, and waits for all of its "
    "pages; a wait is from sending to the last page; pages per second are those of requests without any "
    "error, over the time until the last request that began within the seconds is done; a page is equal "
    "where all of to_dict but source, device, provider, version and fallback is the engine's, byte for byte"
)
BUSY = "busy (503)"
PAUSE_WHEN_BUSY_S = 0.5
SETTLED = 0.1  # of the samples are left out of the growth of memory: a first page of each kind takes it

Hashes: TypeAlias = tuple[str, ...]
Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured: `seconds` for each number of `clients`."""

    url: str
    clients: tuple[int, ...]
    seconds: float
    api_key: str = ""
    server_pid: int | None = None
    sample_seconds: float = 5.0
    timeout_s: float = 300.0
    engine_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Waits:
    """How long requests took that were answered without an error, in ms."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One number of clients. `errors` are (kind, count); `busy` counts answers 503, which are not among them.

    `other` counts pages that were read otherwise than by the engine. `resident_mib` is the server's
    memory over the step, that of the processes it started included, `growth` how far its median rose from
    the first to the last third of the step. `engine_pages_per_s` is the speed of an engine that streams
    the same files without HTTP, in this process, before and after the step, while the server has nothing
    to do.
    """

    clients: int
    seconds: float
    requests: int
    pages: int
    busy: int
    errors: tuple[tuple[str, int], ...]
    other: int
    pages_per_s: float
    waits: Waits | None
    resident_mib: tuple[float, ...]
    growth: float | None
    engine_pages_per_s: float
    over_engine: float


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """All steps, and what they rest on."""

    kind: Literal["load"]
    data: str
    data_sha256: str
    files: int
    pages: int
    rule: str
    server: ServedModels
    seconds: float
    steps: tuple[LoadStep, ...]
    sample_seconds: float
    environment: environment.Environment


@dataclass(frozen=True, slots=True)
class File:
    """One file to send, and the hash of each page that an engine reads in it."""

    content: Encoded = field(repr=False)
    expected: Hashes


@dataclass(frozen=True, slots=True)
class Request:
    """What became of one request: `kind` is empty where it went well."""

    began_s: float
    ended_s: float
    pages: int
    other: int
    kind: str


def make_record(data: Path, plan: Plan, config: Config, say: Say) -> LoadRecord:
    """Read `data` with an engine of `config`, then load the server at `plan.url` with it.

    Raises InputError for data without a page, OptionError where engine and server have other models
    or memory can't be watched, ServerError where no server answers, and what `Engine.load` does.
    """
    if plan.server_pid is not None and resident_mib(plan.server_pid) is None:
        problem = f"no process {plan.server_pid} can be watched"
        raise OptionError("--server-pid", problem, "give the server's, on Linux")
    with Client(plan.url, api_key=plan.api_key, timeout_s=plan.timeout_s, retries=0) as client:
        server = client.models()
        say("reading with an engine of this process")
        engine, files = read_here(data, config, server)
        steps = []
        before = streamed_per_s(engine, files, plan.engine_seconds)
        for clients in plan.clients:
            say(f"{clients} clients, {plan.seconds:g} s")
            with watched(plan.server_pid, plan.sample_seconds) as samples_mib:
                requests = load(client, files, clients, plan.seconds)
            after = streamed_per_s(engine, files, plan.engine_seconds)
            steps.append(step_of(clients, requests, samples_mib, (before + after) / 2))
            before = after
    digest = hashlib.sha256(b"".join(hashlib.sha256(one.content.data).digest() for one in files))
    return LoadRecord(
        kind="load",
        data=data.resolve().name,
        data_sha256=digest.hexdigest(),
        files=len(files),
        pages=sum(len(one.expected) for one in files),
        rule=RULE,
        server=server,
        seconds=plan.seconds,
        steps=tuple(steps),
        sample_seconds=plan.sample_seconds,
        environment=environment.describe(),
    )


def parse_clients(text: str) -> tuple[int, ...]:
    """Read "4,8,16". Raises OptionError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 1024 for part in parts):
        raise OptionError(
            "--clients", f"{text!r} are no numbers of clients", "write them as 4,8,16, up to 1024"
        )
    return tuple(map(int, parts))


def read_here(data: Path, config: Config, server: ServedModels) -> tuple[Engine, tuple[File, ...]]:
    """Read every file with an engine of this process; those that it can't read whole are left out.

    Returns that engine too.
    """
    runtime = config.runtime
    engine = Engine.load(
        config.models, device=runtime.device, threads=runtime.threads, options=config.options
    )
    used = None if engine.provenance is None else dict(engine.provenance.models)
    if used != dict(server.models):
        problem = f"has models of its own ({server.name})"
        raise OptionError(server.name, problem, "name those of the server with --model-set and --set")
    files = []
    for found in inputs.files(data, config.input):
        if isinstance(found, Encoded):
            failed: list[OcrError] = []
            results = list(engine.stream(found.data, on_error=failed.append))
            if results and not failed:
                files.append(File(found, tuple(map(hash_of, results))))
    if not files:
        raise InputError(str(data), "holds no page that can be read", "name a folder of pictures and PDFs")
    return engine, tuple(files)


def streamed_per_s(engine: Engine, files: Sequence[File], seconds: float) -> float:
    """Return how many pages a second an engine streams, over whole passes of at least so many seconds."""
    pages, start = 0, time.perf_counter()
    while True:
        pages += sum(1 for _ in engine.stream([one.content.data for one in files]))
        took_s = time.perf_counter() - start
        if took_s >= seconds:
            return pages / took_s


def hash_of(result: PageResult) -> str:
    """Return the SHA-256 of a result but for what differs by nature between machines and callers."""
    plain = result.to_dict()
    del plain["source"]
    for key in ("device", "provider", "version", "fallback"):
        (plain["provenance"] or {}).pop(key, None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def load(client: Client, files: Sequence[File], clients: int, seconds: float) -> list[Request]:
    """Let `clients` threads send files for so long; return every request in the order they ended."""
    done: list[Request] = []
    start = time.perf_counter()

    def work(number: int) -> None:
        for turn in count(number * len(files) // clients):
            began_s = time.perf_counter() - start
            if began_s >= seconds:
                return
            pages, other, kind = send(client, files[turn % len(files)])
            done.append(Request(began_s, time.perf_counter() - start, pages, other, kind))
            if kind == BUSY:
                time.sleep(PAUSE_WHEN_BUSY_S)

    with ThreadPoolExecutor(clients) as pool:
        for _ in pool.map(work, range(clients)):
            pass  # an error that is none of the server's comes out here
    return done


def send(client: Client, file: File) -> tuple[int, int, str]:
    """Send one file; return its pages, how many are not as the engine read them, and an error's kind."""
    try:
        found = tuple(hash_of(result) for result in client.stream(file.content.data))
    except ServerError as error:
        return 0, 0, BUSY if error.status == 503 else f"ServerError {error.status}"
    except OcrError as error:
        return 0, 0, type(error).__name__
    other = sum(one != right for one, right in zip(found, file.expected, strict=False))
    return len(found), other + abs(len(found) - len(file.expected)), ""


def step_of(
    clients: int, requests: Sequence[Request], samples_mib: Sequence[float], engine_pages_per_s: float
) -> LoadStep:
    """Sum the requests of a step up; every client made one at least."""
    good = [one for one in requests if not one.kind]
    kinds = Counter(one.kind for one in requests if one.kind)
    busy = kinds.pop(BUSY, 0)
    pages = sum(one.pages for one in good)
    took_s = max(one.ended_s for one in requests)
    return LoadStep(
        clients=clients,
        seconds=took_s,
        requests=len(requests),
        pages=pages,
        busy=busy,
        errors=tuple(sorted(kinds.items())),
        other=sum(one.other for one in good),
        pages_per_s=pages / took_s,
        waits=waits_of([1000 * (one.ended_s - one.began_s) for one in good]),
        resident_mib=tuple(samples_mib),
        growth=growth_of(samples_mib),
        engine_pages_per_s=engine_pages_per_s,
        over_engine=pages / took_s / engine_pages_per_s,
    )


def waits_of(times_ms: Sequence[float]) -> Waits | None:
    """Return the percentiles; None of nothing."""
    if len(times_ms) < 2:
        return Waits(*[times_ms[0]] * 4) if times_ms else None
    cuts = statistics.quantiles(times_ms, n=100, method="inclusive")
    return Waits(cuts[49], cuts[89], cuts[98], max(times_ms))


def growth_of(resident_mib: Sequence[float]) -> float | None:
    """Return how far memory rose from the first third after the settling to the last.

    None of too few samples. Medians, as memory goes up and down with the pages that happen to be under way.
    """
    settled = resident_mib[int(len(resident_mib) * SETTLED) :]
    third = len(settled) // 3
    return statistics.median(settled[-third:]) / statistics.median(settled[:third]) - 1 if third else None


@contextmanager
def watched(pid: int | None, every_s: float) -> Iterator[list[float]]:
    """Give a list that the resident memory of process `pid` is added to again and again; none, nothing."""
    samples_mib: list[float] = []
    stop = threading.Event()

    def watch(pid: int) -> None:
        while not stop.wait(every_s):
            found = resident_mib(pid)
            if found is None:
                return  # the process is gone
            samples_mib.append(found)

    threads = [] if pid is None else [threading.Thread(target=watch, args=(pid,))]
    for thread in threads:
        thread.start()
    try:
        yield samples_mib
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def resident_mib(pid: int) -> float | None:
    """Return the resident memory of a process and of those that it started, where the system tells of them.

    None where there is no such process, or the system does not tell.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        started = [file.read_text(encoding="ascii") for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return None
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        return None
    children = [resident_mib(int(child)) for child in " ".join(started).split()]
    return int(found[1]) / 1024 + sum(mib for mib in children if mib is not None)


def default_name(found: LoadRecord) -> str:
    """Return a name for the record, after the data."""
    return "load-" + re.sub(r"[^A-Za-z0-9._-]", "-", found.data)


COLUMNS = (
    *("clients", "requests", "busy", "errors", "pages", "other", "pages/s"),
    *("p50 ms", "p90 ms", "p99 ms", "max ms", "peak MiB", "growth", "engine", "ratio"),
)


def summary(found: LoadRecord) -> str:
    """Return the figures as a table for a person."""
    head = f"{found.data}: {found.files} files of {found.pages} pages, {found.seconds:g} s each"
    table = aligned([COLUMNS, *map(_row, found.steps)])
    errors = [f"{one.clients} clients: {times} {kind}" for one in found.steps for kind, times in one.errors]
    return "\n".join([head, *table, *errors])


def _row(one: LoadStep) -> tuple[str, ...]:
    waits = one.waits
    times_ms = (None,) * 4 if waits is None else (waits.p50_ms, waits.p90_ms, waits.p99_ms, waits.max_ms)
    return (
        str(one.clients),
        str(one.requests),
        str(one.busy),
        str(sum(times for _, times in one.errors)),
        str(one.pages),
        str(one.other),
        f"{one.pages_per_s:.2f}",
        *("-" if ms is None else f"{ms:.0f}" for ms in times_ms),
        f"{max(one.resident_mib):.0f}" if one.resident_mib else "-",
        "-" if one.growth is None else f"{one.growth:+.1%}",
        f"{one.engine_pages_per_s:.2f}",
        f"{one.over_engine:.2f}",
    )
