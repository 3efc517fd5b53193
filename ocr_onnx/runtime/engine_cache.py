"""Where engines of TensorRT are kept: a key in, the folder with the engine that was built for it out.

A folder is complete or not there. It is built under a lock beside its place, so that of many processes
one builds and the others wait; a marker with the key and the hash of every file is written last, and
then it is moved into place. What does not match its marker is built anew.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeAlias

from filelock import FileLock, Timeout

from ocr_onnx.errors import DeviceError, OcrError
from ocr_onnx.files import file_sha256

Say: TypeAlias = Callable[[str], None]
"""Hears, a line at a time, of what takes long or was found damaged."""
Build: TypeAlias = Callable[[Path, Path], None]
"""Puts an engine into the first folder, with what was timed before in the second, which it adds to."""

MARKER: Final = "engine.json"
FORMAT: Final = 1
TIMING: Final = "timing"


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that an engine depends on; two with equal keys can stand for each other.

    `model_sha256` is that of the file the engine is built from, `architecture` the GPU's ("sm_90"),
    `settings` whatever else the provider is told about building.
    """

    model_sha256: str
    stage: str
    group: str
    min_shapes: str
    opt_shapes: str
    max_shapes: str
    precision: str
    onnxruntime: str
    tensorrt: str
    architecture: str
    settings: str = ""

    @property
    def folder(self) -> str:
        """The name of its folder."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.group}-{digest[:24]}"

    @property
    def timing(self) -> str:
        """The name of the folder of times that hold for it: operations are timed per GPU and TensorRT."""
        return f"{TIMING}-{self.architecture}-trt{self.tensorrt}"


def ready(cache: Path, key: EngineKey, build: Build, say: Say, unloadable: bytes | None = None) -> Path:
    """Return the folder with the engine for `key`, built by `build` unless it is there and whole.

    `unloadable` is the marker of an engine that could not be loaded: it is built anew, unless another
    process has done so. Raises what `build` does, and DeviceError where the cache can't be written.
    """
    folder = cache / key.folder
    if flaw(folder, key, unloadable) is None:
        return folder
    with _writing(cache), _lock(cache, key, say):
        found = flaw(folder, key, unloadable)
        if found is not None:
            if folder.exists():
                say(f"the engine in {folder} {found}; building it anew")
            _build(cache, key, build, say)
    return folder


def flaw(folder: Path, key: EngineKey, unloadable: bytes | None = None) -> str | None:
    """Return what is wrong with a folder as the one of `key`; None where nothing is."""
    try:
        written = (folder / MARKER).read_bytes()
        marker = json.loads(written)
        if marker["format"] != FORMAT or marker["key"] != asdict(key):
            return "is another one's"
        for name, sha256 in marker["files"].items():
            if file_sha256(folder / name) != sha256:
                return f"has other bytes in {name} than when it was built"
    except OSError as error:
        return f"is not whole ({error.strerror or error})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"has a damaged {MARKER}"
    return "can't be loaded" if written == unloadable else None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file into the cache, whole or not at all; DeviceError where that can't be."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _writing(path.parent):
        part.write_bytes(content)
        part.replace(path)


def size_bytes(folder: Path) -> int:
    """Return how much a folder's files take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _build(cache: Path, key: EngineKey, build: Build, say: Say) -> None:
    """Build in a folder of another name, and move it into place."""
    folder, started = cache / key.folder, cache / f".{key.folder}.building"
    timing = cache / key.timing
    _fresh(started)
    # a copy, as a process that is ended while it writes would leave half a file
    times = started / TIMING
    if timing.is_dir():
        shutil.copytree(timing, times)
    try:
        build(started, times)
    except OcrError:
        shutil.rmtree(started)
        if not timing.is_dir():
            raise
        say(f"the build failed; trying once more without the times in {timing}")
        shutil.rmtree(timing)
        _fresh(started)
        build(started, times)
    if times.is_dir():
        shutil.rmtree(timing, ignore_errors=True)
        times.replace(timing)
    _mark(started, key)
    shutil.rmtree(folder, ignore_errors=True)
    started.replace(folder)


def _fresh(folder: Path) -> None:
    """Make an empty folder, in place of what a process that was ended may have left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _mark(folder: Path, key: EngineKey) -> None:
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    marker = {"format": FORMAT, "key": asdict(key), "files": files}
    (folder / MARKER).write_text(json.dumps(marker, indent=2), encoding="utf-8")


@contextmanager
def _writing(cache: Path) -> Iterator[None]:
    """Make the folder, and say so where it can't be written."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as cause:
        problem = f"can't be written ({cause.strerror or cause}), and engines are kept there"
        remedy = "free some disk space, or set OCR_ONNX_CACHE_DIR to a folder you may write to"
        raise DeviceError(str(cache), problem, remedy) from cause


@contextmanager
def _lock(cache: Path, key: EngineKey, say: Say) -> Iterator[None]:
    """Hold the one lock of the cache: builds at the same time would time each other's load on the GPU."""
    lock = FileLock(cache / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that builds an engine, to have {key.group}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
