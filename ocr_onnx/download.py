"""Addresses and the SHA-256 of one file in, that file on disk out: whole and checked, or not at all."""

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from filelock import FileLock, Timeout

from ocr_onnx.errors import DownloadError
from ocr_onnx.files import Progress, file_sha256
from ocr_onnx.network import checked_settings

MAX_BYTES: Final = 1024 * 1024 * 1024  # the bound for a file of unknown size

_PASSING_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REMEDY: Final = (
    "check the network and the proxy settings and try again (it resumes), set OCR_ONNX_MIRROR to a server "
    "that has the file, or copy the file to a folder and name that with --model-dir"
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download may try.

    Each address gets `attempts`; before the second the pause is `backoff_s`, then twice that, and so
    on. `stall_s` bounds the wait for the next byte, `total_s` the whole download including the wait
    for another process that has the same file under way.
    """

    attempts: int = 4
    backoff_s: float = 1.0
    stall_s: float = 30.0
    total_s: float = 3600.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class _Job:
    """One download: where to, what it must be, and until when (`deadline_s` on the clock of `patience`)."""

    path: Path
    sha256: str | None
    size_bytes: int | None
    progress: Progress | None
    patience: Patience
    deadline_s: float

    @property
    def part(self) -> Path:
        """The unfinished file, named by its hash so that no other version is ever continued with it."""
        version = self.sha256[:16] if self.sha256 else "unpinned"
        return self.path.with_name(f".{self.path.name}.{version}.part")

    @property
    def bound_bytes(self) -> int:
        return self.size_bytes or MAX_BYTES

    def check_deadline(self) -> None:
        if self.patience.clock() > self.deadline_s:
            limit = f"did not arrive within {self.patience.total_s:g} s"
            raise DownloadError(self.path.name, limit, _REMEDY)


class _PassingError(Exception):
    """Worth another try at the same address."""


class _LastingError(Exception):
    """No use trying this address again; the next one may do."""


def download(
    urls: Sequence[str],
    path: Path,
    *,
    sha256: str | None,
    size_bytes: int | None = None,
    progress: Progress | None = None,
    patience: Patience = Patience(),
) -> None:
    """Put the file with `sha256` at `path`, from the first of `urls` that delivers it.

    Under a lock beside `path`, so that several processes fetch a file once; the later ones find it
    done. A file already at `path` with other bytes is replaced. A broken transfer leaves a hidden
    ".part" file that the next call continues; a full disk leaves nothing. Without a known hash
    (None) whatever arrives whole is taken, a file that is there stays, and no earlier call is continued.

    Raises DownloadError: no address delivered the file, the time is up, or it can't be written.
    """
    deadline_s = patience.clock() + patience.total_s
    job = _Job(path, sha256, size_bytes, progress, patience, deadline_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=patience.total_s):
            if not path.is_file() or sha256 not in (None, file_sha256(path)):
                _replace(urls, job)
    except Timeout as cause:
        problem = f"is being downloaded by another process for more than {patience.total_s:g} s"
        raise DownloadError(path.name, problem, "wait for that process, or end it, and try again") from cause
    except OSError as cause:
        problem = f"can't be written ({cause.strerror or cause})"
        remedy = "free some disk space, or set OCR_ONNX_CACHE_DIR to a folder you may write to"
        raise DownloadError(str(path), problem, remedy) from cause


def _replace(urls: Sequence[str], job: _Job) -> None:
    job.path.unlink(missing_ok=True)
    if job.sha256 is None:  # nothing could tell whether an old beginning belongs to this file
        job.part.unlink(missing_ok=True)
    try:
        _fetch_from_any(urls, job)
    except OSError:
        job.part.unlink(missing_ok=True)
        raise


def _fetch_from_any(urls: Sequence[str], job: _Job) -> None:
    faults = []
    with _client(job) as client:
        for url in urls:
            try:
                _fetch_from(client, url, job)
            except (_LastingError, _PassingError) as fault:
                faults.append(f"{url} {fault}")
            else:
                return
    raise DownloadError(job.path.name, f"could not be downloaded: {'; '.join(faults)}", _REMEDY)


def _client(job: _Job) -> httpx.Client:
    with checked_settings(job.path.name, DownloadError):
        # Never compressed: offsets count the file's own bytes.
        return httpx.Client(
            follow_redirects=True,
            timeout=job.patience.stall_s,
            headers={"Accept-Encoding": "identity", "User-Agent": "ocr-onnx"},
        )


def _fetch_from(client: httpx.Client, url: str, job: _Job) -> None:
    """Try one address until it delivers, fails for good, or has used its attempts up."""
    for attempt in itertools.count(1):
        job.check_deadline()
        try:
            _try_once(client, url, job)
        except _PassingError:
            if attempt >= job.patience.attempts:
                raise
        else:
            return
        job.patience.sleep(job.patience.backoff_s * 2 ** (attempt - 1))


def _try_once(client: httpx.Client, url: str, job: _Job) -> None:
    """Continue or begin the unfinished file from `url`, check it and move it into place."""
    have_bytes = job.part.stat().st_size if job.part.is_file() else 0
    if job.size_bytes is None or have_bytes < job.size_bytes:
        try:
            _receive(client, url, job, have_bytes)
        except httpx.TimeoutException as cause:
            raise _PassingError(f"sent nothing for {job.patience.stall_s:g} s") from cause
        except httpx.TransportError as cause:
            raise _PassingError(f"broke off ({cause})") from cause
        except (httpx.RequestError, httpx.InvalidURL) as cause:
            raise _LastingError(f"can't be followed ({cause})") from cause
    _adopt(job, continued=have_bytes > 0)


def _receive(client: httpx.Client, url: str, job: _Job, have_bytes: int) -> None:
    """Append what `url` still has to the unfinished file, or write it anew if the server can't resume."""
    headers = {"Range": f"bytes={have_bytes}-"} if have_bytes else {}
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have_bytes:
            return  # there is no more to send: the hash tells whether what we have is the file
        if status in _PASSING_STATUS:
            raise _PassingError(f"answered HTTP {status}")
        if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise _LastingError(f"answered HTTP {status}")
        start = have_bytes if status == httpx.codes.PARTIAL_CONTENT else 0  # 200: it ignored the range
        if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            job.part.unlink()
            raise _PassingError("answered with another range than asked for")
        total = job.size_bytes or _announced_bytes(response, start)
        if total is not None and total > job.bound_bytes:
            raise _LastingError(f"announced {total} bytes, more than the {job.bound_bytes} allowed")
        _write(response, job, start, total)


def _announced_bytes(response: httpx.Response, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else None


def _write(response: httpx.Response, job: _Job, start: int, total: int | None) -> None:
    done = start
    with job.part.open("ab" if start else "wb") as file:
        for chunk in response.iter_raw():
            done += len(chunk)
            if done > job.bound_bytes:
                break
            file.write(chunk)
            if job.progress is not None:
                job.progress(job.path.name, done, total)
            job.check_deadline()
    if done > job.bound_bytes:
        job.part.unlink()
        raise _LastingError(f"sent more than the {job.bound_bytes} bytes allowed")


def _adopt(job: _Job, *, continued: bool) -> None:
    """Check the unfinished file and give it its name; wrong bytes are thrown away."""
    with job.part.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    short = job.size_bytes is not None and job.part.stat().st_size < job.size_bytes
    if digest == job.sha256 or (job.sha256 is None and not short):
        job.part.replace(job.path)
        return
    if not short:
        job.part.unlink()
    if short or continued:  # another try completes it, or tells an old beginning from a wrong file
        raise _PassingError("ended early" if short else "did not continue the file begun before")
    expected = (job.sha256 or "")[:16]
    raise _LastingError(f"sent other bytes (SHA-256 {digest[:16]}..., expected {expected}...)")
