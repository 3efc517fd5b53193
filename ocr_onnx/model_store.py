"""The one place that knows model files: `ModelOptions` in, verified files with their specs out."""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import platformdirs

from ocr_onnx.errors import ModelError, ModelHashError, ModelMissingError, OptionError
from ocr_onnx.files import Progress, file_sha256
from ocr_onnx.manifest import Manifest, ModelSet, ModelSpec, Stage, read_manifest
from ocr_onnx.options import ModelOptions

__all__ = [
    "FileStatus",
    "Make",
    "Manifest",
    "ModelFile",
    "ModelFiles",
    "ModelSet",
    "ModelSpec",
    "Place",
    "Progress",
    "Stage",
    "State",
    "at_hand",
    "cache_dir",
    "embedded_dir",
    "exported_dir",
    "fetch",
    "is_offline",
    "load_manifest",
    "mirror",
    "resolve",
    "verify",
]

Make: TypeAlias = Callable[[ModelSpec], None]
"""Makes a model of which no ready file is published and puts it into `exported_dir()`."""
Place: TypeAlias = Literal["folder", "embedded", "exported", "cache"]
State: TypeAlias = Literal["ok", "missing", "corrupt", "unpinned"]

MANIFEST_NAME: Final = "manifest.toml"

_LOG = logging.getLogger(__name__)
_HASH_REMEDY: Final[dict[Place, str]] = {
    "folder": "copy it again, correct the folder's manifest.toml, or name the file itself as an own model "
    "(--det-model, --rec-model) if it is meant to differ",
    "embedded": "reinstall ocr-onnx",
    "exported": "delete the folder it is in; `ocr-onnx models pull` makes it anew",
    "cache": "run again without offline mode to fetch it anew, or delete it",
}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that was checked, with its spec. `sha256` is that of its bytes, and so is `spec.sha256`."""

    path: Path
    spec: ModelSpec
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What an engine runs on. `dictionary` is the text file given for an own rec model, else None."""

    det: ModelFile
    rec: ModelFile
    cls: ModelFile
    dictionary: Path | None = None


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What `verify` found: where the model's file lies, if anywhere, and whether its bytes are right.

    `state` "unpinned" is a file whose manifest entry has no SHA-256: `resolve` refuses it.
    """

    spec: ModelSpec
    state: State
    path: Path | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class _Shelf:
    """A folder to look in, and the manifest that names and pins its files."""

    place: Place
    folder: Path
    manifest: Manifest


def resolve(options: ModelOptions, progress: Progress | None = None, make: Make | None = None) -> ModelFiles:
    """Return the three model files that `options` ask for, checked and on this machine.

    Each is searched in this order: the own file of the options, `options.folder` (else the folder
    in OCR_ONNX_MODEL_DIR), the embedded models, the models made here before, the cache, the
    network. The entries of a manifest.toml in the folder win over ours for the files in it.
    `make` is called for a model that has no hash, as nobody publishes a ready file of it; without
    `make` such a model is an error. Offline, by the options or by OCR_ONNX_OFFLINE=1, no socket is opened.

    Raises ModelMissingError, ModelHashError, DownloadError, ModelError for a broken manifest, and
    whatever `make` does.
    """
    is_offline(options.offline)  # a mistyped variable is an error, also where nothing is missing
    shelves = _shelves(options)
    named = shelves[0].manifest.set_models(options.name)
    own = (_own_file(options.det, "det"), _own_file(options.rec, "rec"), _own_file(options.cls, "cls"))
    dictionary = _own_path(options.dictionary, "dictionary") if options.dictionary else None
    # All three are looked for before the first is downloaded: what can't be had is told at once.
    at_hand = [
        file or _at_hand(spec, shelves, options.offline, can_make=make is not None)
        for file, spec in zip(own, named, strict=True)
    ]
    det, rec, cls = (
        file or _obtain(_published(spec, shelves), options, progress, make)
        for file, spec in zip(at_hand, named, strict=True)
    )
    return ModelFiles(det, rec, cls, dictionary)


def _obtain(
    spec: ModelSpec, options: ModelOptions, progress: Progress | None, make: Make | None
) -> ModelFile:
    """Make or fetch a model that is not on this machine."""
    if make is not None and spec.sha256 is None:
        make(spec)
        made = _at_hand(spec, _shelves(options), options.offline, can_make=False)
        if made is not None:
            return made
    return fetch(spec, offline=options.offline, progress=progress)


def fetch(spec: ModelSpec, *, offline: bool = False, progress: Progress | None = None) -> ModelFile:
    """Return `spec`'s file from the cache, downloading it if it is absent or its bytes are wrong.

    OCR_ONNX_MIRROR, the address of a folder, replaces the manifest's addresses. Raises
    ModelMissingError, ModelHashError (the cached bytes are wrong and can't be fetched) or
    DownloadError.
    """
    cached = _cached(spec, offline)
    if cached is not None:
        return cached
    path = cache_dir() / spec.file
    if path.is_file():
        _LOG.warning("%s has other bytes than the manifest pins; fetching it again", path)
    digest = spec.sha256 or ""  # _cached refused a spec without one
    # Here and not above: the network takes its time to load, and most models are at hand.
    from ocr_onnx.download import download

    download(_urls(spec), path, sha256=digest, size_bytes=spec.size_bytes, progress=progress)
    return ModelFile(path, spec, digest)


def at_hand(name: str, precision: str, options: ModelOptions) -> ModelFile | None:
    """Return a model's file of a precision wherever it lies on this machine; None where there is none.

    Other than `resolve`, a file of another precision does not hide it. Raises ModelHashError.
    """
    for place, path, spec in _found(name, _shelves(options)):
        if spec.precision == precision and spec.sha256 is not None:
            return _checked(place, path, spec)
    return None


def verify(options: ModelOptions, model_set: str | None = None) -> tuple[FileStatus, ...]:
    """Say of every model in the manifests, or of one set's, where it lies and whether its bytes are right.

    Only looks: nothing is fetched, removed or raised for a bad file. Raises ModelMissingError for
    an unknown set.
    """
    shelves = _shelves(options)
    manifest = shelves[0].manifest
    models = manifest.models if model_set is None else manifest.set_models(model_set)
    return tuple(_status(spec, shelves) for spec in models)


def load_manifest() -> Manifest:
    """Return the manifest that comes with ocr-onnx."""
    path = embedded_dir() / MANIFEST_NAME
    if not path.is_file():
        raise ModelMissingError(str(path), "is not in this installation", "reinstall ocr-onnx")
    return read_manifest(path)


def embedded_dir() -> Path:
    """Return the folder of the embedded models: in the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def cache_dir() -> Path:
    """Return the folder that downloads go to: OCR_ONNX_CACHE_DIR, else the platform's user cache."""
    chosen = os.environ.get("OCR_ONNX_CACHE_DIR")
    return _path(chosen) if chosen else platformdirs.user_cache_path("ocr-onnx") / "models"


def exported_dir() -> Path:
    """Return the folder of the models that were converted on this machine, with their own manifest."""
    return cache_dir() / "exported"


def mirror() -> str | None:
    """Return the address in OCR_ONNX_MIRROR, without a slash at its end; raises OptionError."""
    address = os.environ.get("OCR_ONNX_MIRROR")
    if address and not address.startswith(("https://", "http://")):
        raise OptionError("OCR_ONNX_MIRROR", f"{address!r} is no http(s) address", "give a folder's address")
    return address.rstrip("/") if address else None


def is_offline(chosen: bool) -> bool:
    """Tell whether nothing may be downloaded, by an option or by OCR_ONNX_OFFLINE; raises OptionError."""
    return chosen or _flag("OCR_ONNX_OFFLINE")


def _shelves(options: ModelOptions) -> tuple[_Shelf, ...]:
    """Return where to look, in order; the first shelf's manifest knows every model and set."""
    ours = load_manifest()
    shelves = (
        _Shelf("embedded", embedded_dir(), ours),
        _Shelf("exported", exported_dir(), _manifest_in(exported_dir())),
        _Shelf("cache", cache_dir(), ours),
    )
    chosen = options.folder or os.environ.get("OCR_ONNX_MODEL_DIR")
    if not chosen:
        return shelves
    folder = _path(chosen)
    if not folder.is_dir():
        raise ModelMissingError(str(folder), "is not a folder", "correct --model-dir or OCR_ONNX_MODEL_DIR")
    return (_Shelf("folder", folder, ours.overlaid(_manifest_in(folder))), *shelves)


def _manifest_in(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    return read_manifest(path) if path.is_file() else Manifest()


def _found(name: str, shelves: tuple[_Shelf, ...]) -> Iterator[tuple[Place, Path, ModelSpec]]:
    """Yield the places where the model's file lies, in search order, each with its own spec."""
    for shelf in shelves:
        spec = shelf.manifest.find(name)
        if spec is not None and (shelf.folder / spec.file).is_file():
            yield shelf.place, shelf.folder / spec.file, spec


def _at_hand(
    spec: ModelSpec, shelves: tuple[_Shelf, ...], offline: bool, *, can_make: bool
) -> ModelFile | None:
    """Return the file if it is on this machine, None if it is to be had, or raise if it can't be."""
    for place, path, pinned in _found(spec.name, shelves):
        if place != "cache":
            return _checked(place, path, pinned)
    published = _published(spec, shelves)
    if can_make and published.sha256 is None and not (cache_dir() / published.file).is_file():
        return None
    return _cached(published, offline)


def _published(spec: ModelSpec, shelves: tuple[_Shelf, ...]) -> ModelSpec:
    """Return our own entry for a model where there is one: a folder's manifest speaks for its files only."""
    return shelves[-1].manifest.find(spec.name) or spec


def _cached(spec: ModelSpec, offline: bool) -> ModelFile | None:
    """Return the cache's file, None if it is to be downloaded, or raise if that is not possible."""
    path = cache_dir() / spec.file
    offline = is_offline(offline)
    has_source = spec.sha256 is not None and bool(_urls(spec))
    if path.is_file():
        if offline or not has_source or _digest(path) == spec.sha256:
            return _checked("cache", path, spec)
        return None
    if not has_source:
        problem = "is not on this machine, and no ready ONNX file of it is published"
        remedy = (
            "install 'ocr-onnx[export]' and let `ocr-onnx models pull` convert its set, or make it elsewhere "
            f"with `ocr-onnx export {spec.name} --out DIR` and add `--model-dir DIR`"
        )
        raise ModelMissingError(spec.name, problem, remedy)
    if offline:
        problem = "is not on this machine, and may not be downloaded here"
        remedy = f"run `ocr-onnx models pull` for its set, or copy {spec.file} to a folder for --model-dir"
        raise ModelMissingError(spec.name, problem, remedy)
    return None


def _status(spec: ModelSpec, shelves: tuple[_Shelf, ...]) -> FileStatus:
    for place, path, pinned in _found(spec.name, shelves):
        if pinned.sha256 is None:
            return FileStatus(pinned, "unpinned", path, place)
        try:
            state: State = "ok" if _digest(path) == pinned.sha256 else "corrupt"
        except ModelError:
            state = "corrupt"  # there, but unreadable
        return FileStatus(pinned, state, path, place)
    return FileStatus(spec, "missing")


def _checked(place: Place, path: Path, spec: ModelSpec) -> ModelFile:
    """Return the file if its bytes are those of the manifest, else raise ModelHashError."""
    if spec.sha256 is None:
        problem = f"can't be checked, because the manifest has no SHA-256 for {spec.name}"
        remedy = (
            "put the manifest.toml that `ocr-onnx export` wrote beside it, or name the file itself with "
            f"--{spec.stage}-model"
        )
        raise ModelHashError(str(path), problem, remedy)
    digest = _digest(path)
    if digest != spec.sha256:
        problem = f"has SHA-256 {digest[:16]}..., but the manifest says {spec.sha256[:16]}... for {spec.name}"
        raise ModelHashError(str(path), problem, _HASH_REMEDY[place])
    return ModelFile(path, spec, digest)


def _own_file(given: str, stage: Stage) -> ModelFile | None:
    if not given:
        return None
    path = _own_path(given, f"{stage} model")
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise ModelError(str(path), "is empty", "give an ONNX file")
    digest = _digest(path)
    spec = ModelSpec(path.stem, stage, path.name, sha256=digest, size_bytes=size_bytes, origin="own file")
    return ModelFile(path, spec, digest)


def _own_path(given: str, what: str) -> Path:
    path = _path(given)
    if not path.is_file():
        raise ModelMissingError(str(path), "is not a file", f"give the path of the {what}'s file")
    return path


def _path(given: str) -> Path:
    try:
        return Path(given).expanduser()
    except RuntimeError:  # "~name" of nobody on this machine: then it is a file name
        return Path(given)


def _digest(path: Path) -> str:
    """Return a file's SHA-256; read once per process while its size and time of change stay the same."""
    try:
        state = path.stat()
        return _digest_of_state(path.resolve(), state.st_size, state.st_mtime_ns)
    except OSError as cause:
        raise ModelError(str(path), f"can't be read ({cause.strerror})", "correct its permissions") from cause


@functools.lru_cache(maxsize=256)
def _digest_of_state(path: Path, size_bytes: int, mtime_ns: int) -> str:  # noqa: ARG001 (the cache's key)
    return file_sha256(path)


def _urls(spec: ModelSpec) -> tuple[str, ...]:
    base = mirror()
    return (f"{base}/{spec.file}",) if base else spec.urls


def _flag(variable: str) -> bool:
    value = os.environ.get(variable, "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise OptionError(variable, f"{value!r} is neither on nor off", "set it to 1 or 0")
