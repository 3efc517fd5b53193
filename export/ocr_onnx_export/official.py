"""A model of the manifest in, its Paddle files on this machine out, each with the SHA-256 it should have."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ocr_onnx import model_store
from ocr_onnx.download import Patience, download
from ocr_onnx.errors import DependencyError, DownloadError, ModelHashError, ModelMissingError
from ocr_onnx.files import Progress, file_sha256
from ocr_onnx.manifest import ModelSource, ModelSpec, SourceFile
from ocr_onnx_export.paddle_route import PaddleTool

SOURCES_FOLDER = "sources"
PATIENCE = Patience()


def fetch_source(
    spec: ModelSpec,
    *,
    allow_unpinned: bool = False,
    offline: bool = False,
    warn: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    patience: Patience = PATIENCE,
) -> Path:
    """Return a folder or a tar archive with the model's Paddle files, fetched into the cache if need be.

    The manifest's sources are tried in order, those in PIR first, since they need no Paddle; where a
    mirror is set, it has the files under `sources/NAME/LAYOUT/FILE`, as the cache does.
    `allow_unpinned` takes files without a published hash too, tells `warn` the hash they have, and
    prefers PIR files so taken to a pinned legacy program.

    Raises
    ------
    ModelHashError
        No source has a hash for each of its files, and `allow_unpinned` is off.
    ModelMissingError
        The files are published nowhere, or not on this machine when offline.
    DownloadError
        No source could be fetched; the first one's fault.
    DependencyError
        The only sources are legacy programs, and there is no Paddle to read them.
    """
    faults: list[DownloadError | ModelMissingError | DependencyError] = []
    for source in _usable(spec, allow_unpinned):
        try:
            if source.layout == "legacy":
                PaddleTool.find().versions()  # before the download, not after it
            return _fetch(spec, source, offline, warn, progress, patience)
        except (DownloadError, ModelMissingError, DependencyError) as fault:
            faults.append(fault)
    raise faults[0]


def check_source(
    spec: ModelSpec, path: Path, *, allow_unpinned: bool = False, warn: Callable[[str], None] | None = None
) -> None:
    """Compare the files in a folder, or a tar archive, with what the manifest says of the model.

    Raises
    ------
    ModelMissingError
        A file is missing.
    ModelHashError
        A file has other bytes, or there is no hash to tell and `allow_unpinned` is off.
    """
    layout = "tar" if path.is_file() else "pir" if (path / "inference.json").is_file() else "legacy"
    sources = [source for source in spec.sources if source.layout == layout]
    folder = path.parent if path.is_file() else path
    if path.is_file():
        sources = [source for source in sources if source.files[0].name == path.name]
    if not sources:
        known = ", or ".join(_names(source) for source in spec.sources)
        raise ModelMissingError(
            str(path), f"holds no files of {spec.name} that the manifest knows", f"give {known}"
        )
    for file in sources[0].files:
        _check_file(spec, folder / file.name, file, allow_unpinned, warn)


def _check_file(
    spec: ModelSpec, path: Path, file: SourceFile, allow_unpinned: bool, warn: Callable[[str], None] | None
) -> None:
    if not path.is_file():
        raise ModelMissingError(str(path.parent), f"holds no {file.name}", f"give all files of {spec.name}")
    digest = file_sha256(path)
    if file.sha256 is None and not allow_unpinned:
        raise ModelHashError(
            str(path),
            f"can't be checked: nobody has published a SHA-256 for this file of {spec.name}",
            "add --allow-unpinned to take it as it is",
        )
    if file.sha256 not in (None, digest):
        problem = f"has SHA-256 {digest[:16]}..., but the manifest says {file.sha256[:16]}... for {spec.name}"
        raise ModelHashError(
            str(path), problem, "fetch it again, or give the folder itself if it is a model of your own"
        )
    if file.sha256 is None and warn is not None:
        warn(f"{path} is not pinned; its SHA-256 is {digest}")


def _usable(spec: ModelSpec, allow_unpinned: bool) -> Sequence[ModelSource]:
    """Return the sources that may be fetched, best first; raise where there is none."""
    published = [source for source in spec.sources if source.base_url is not None]
    if not published:
        raise ModelMissingError(
            spec.name,
            "its Paddle files are published nowhere",
            "give a folder that has them with --source DIR",
        )
    usable = [source for source in published if allow_unpinned or _is_pinned(source)]
    if not usable:
        urls = " or ".join(f"{source.base_url}{_names(source)}" for source in published)
        raise ModelHashError(
            spec.name,
            f"can't be fetched safely: nobody has published a SHA-256 for {urls}",
            "add --allow-unpinned to `ocr-onnx export` to take the files as they come, or give files of "
            "your own with --source DIR",
        )
    return sorted(usable, key=lambda source: (source.layout != "pir", not _is_pinned(source)))


def _fetch(
    spec: ModelSpec,
    source: ModelSource,
    offline: bool,
    warn: Callable[[str], None] | None,
    progress: Progress | None,
    patience: Patience,
) -> Path:
    place = f"{SOURCES_FOLDER}/{spec.name}/{source.layout}"
    folder = model_store.cache_dir() / place
    mirror = model_store.mirror()
    base = f"{mirror}/{place}" if mirror else (source.base_url or "").rstrip("/")
    for file in source.files:
        path, url = folder / file.name, f"{base}/{file.name}"
        if model_store.is_offline(offline):
            _require(spec, path, file)
        else:
            download(
                [url],
                path,
                sha256=file.sha256,
                size_bytes=file.size_bytes,
                progress=progress,
                patience=patience,
            )
        if file.sha256 is None and warn is not None:
            warn(f"{url} is not pinned; its SHA-256 is {file_sha256(path)}")
    return folder / source.files[0].name if source.layout == "tar" else folder


def _require(spec: ModelSpec, path: Path, file: SourceFile) -> None:
    if not path.is_file() or file.sha256 not in (None, file_sha256(path)):
        raise ModelMissingError(
            spec.name,
            f"its {file.name} is not on this machine, and offline mode forbids to download it",
            "run once without offline mode, or give a folder that has the files with --source DIR",
        )


def _is_pinned(source: ModelSource) -> bool:
    return all(file.sha256 is not None for file in source.files)


def _names(source: ModelSource) -> str:
    return ", ".join(file.name for file in source.files)
