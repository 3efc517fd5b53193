"""Official models' Paddle files: fetched from a local server, or taken from a folder and checked."""

import errno
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import pytest

from ocr_onnx import download as download_module
from ocr_onnx import model_store
from ocr_onnx.download import Patience
from ocr_onnx.errors import (
    DependencyError,
    DownloadError,
    ModelHashError,
    ModelMissingError,
    OptionError,
)
from ocr_onnx.manifest import ModelSource, ModelSpec, SourceFile, SourceLayout
from ocr_onnx_export.official import check_source, fetch_source
from ocr_onnx_export.paddle_route import PYTHON_VARIABLE

FILES = {name: f"the file {name}".encode() for name in ("inference.json", "inference.pdiparams", "a.tar")}
QUICK = Patience(attempts=1, sleep=lambda _: None)


@dataclass
class Site:
    """Serves `files` by path and remembers what it was asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site(files={f"/hub/{name}": content for name, content in FILES.items()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            content = site.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("OFFLINE", "MIRROR", "MODEL_DIR"):
        monkeypatch.delenv(f"OCR_ONNX_{name}", raising=False)
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "no-such-python"))
    return tmp_path / "cache"


def source(layout: SourceLayout, base_url: str | None, *names: str, pinned: bool = True) -> ModelSource:
    files = [SourceFile(name, hashlib.sha256(FILES[name]).hexdigest() if pinned else None) for name in names]
    return ModelSource(layout, base_url, tuple(files))


def spec(*sources: ModelSource) -> ModelSpec:
    return ModelSpec("new-rec", "rec", "new-rec.onnx", official="New_rec", sources=sources)


PIR = ("inference.json", "inference.pdiparams")


def written(folder: Path) -> set[str]:
    """Return the files below a folder, locks aside."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_files_arrive_in_the_cache_once(site: Site, cache: Path) -> None:
    model = spec(source("pir", f"{site.address}/hub/", *PIR))
    folder = fetch_source(model)
    assert folder == cache / "sources" / "new-rec" / "pir"
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in FILES} == {
        name: FILES[name] for name in PIR
    }
    assert fetch_source(model) == folder
    assert site.asked == [f"/hub/{name}" for name in PIR]


def test_pir_comes_before_what_needs_paddle(site: Site) -> None:
    hub = f"{site.address}/hub/"
    model = spec(source("tar", hub, "a.tar"), source("pir", hub, *PIR))
    assert fetch_source(model).name == "pir"


def test_the_next_source_is_taken_where_the_first_fails(site: Site) -> None:
    model = spec(source("pir", f"{site.address}/gone/", *PIR), source("tar", f"{site.address}/hub/", "a.tar"))
    assert fetch_source(model, patience=QUICK).read_bytes() == FILES["a.tar"]


def test_without_hash_nothing_is_fetched(site: Site, cache: Path) -> None:
    model = spec(source("pir", f"{site.address}/hub/", *PIR, pinned=False))
    with pytest.raises(ModelHashError, match=rf"{site.address}/hub/inference\.json") as caught:
        fetch_source(model)
    assert "--allow-unpinned" in caught.value.remedy
    assert site.asked == []
    assert not cache.exists()


def test_unpinned_files_are_taken_when_allowed_and_their_hash_is_told(site: Site) -> None:
    hub = f"{site.address}/hub/"
    model = spec(source("legacy", hub, *PIR), source("pir", hub, *PIR, pinned=False))
    told: list[str] = []
    assert fetch_source(model, allow_unpinned=True, warn=told.append).name == "pir"
    assert [text.split()[0] for text in told] == [f"{hub}{name}" for name in PIR]
    assert all(hashlib.sha256(FILES[name]).hexdigest() in text for name, text in zip(PIR, told, strict=True))


def test_other_bytes_are_refused_and_not_kept(site: Site, cache: Path) -> None:
    site.files["/hub/inference.json"] = b"something else"
    with pytest.raises(DownloadError, match="sent other bytes"):
        fetch_source(spec(source("pir", f"{site.address}/hub/", *PIR)), patience=QUICK)
    assert written(cache) == set()


def test_a_full_disk_leaves_nothing(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download_module, "_write", full)
    with pytest.raises(DownloadError, match="No space left on device"):
        fetch_source(spec(source("pir", f"{site.address}/hub/", *PIR)), patience=QUICK)
    assert written(cache) == set()


def test_a_mirror_has_the_files_as_the_cache_does(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files = {f"/m/sources/new-rec/pir/{name}": FILES[name] for name in PIR}
    monkeypatch.setenv("OCR_ONNX_MIRROR", f"{site.address}/m/")
    fetch_source(spec(source("pir", "https://models.example.org/", *PIR)), patience=QUICK)
    assert site.asked == list(site.files)


def test_a_mirror_must_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_ONNX_MIRROR", "/mnt/models")
    with pytest.raises(OptionError, match="OCR_ONNX_MIRROR"):
        fetch_source(spec(source("pir", "https://models.example.org/", *PIR)))


@pytest.mark.parametrize("by_environment", [True, False])
def test_offline_takes_only_what_is_there(
    site: Site, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    model = spec(source("pir", f"{site.address}/hub/", *PIR))
    if by_environment:
        monkeypatch.setenv("OCR_ONNX_OFFLINE", "1")
    with pytest.raises(ModelMissingError, match="offline mode forbids"):
        fetch_source(model, offline=not by_environment)
    assert site.asked == []
    folder = model_store.cache_dir() / "sources" / "new-rec" / "pir"
    folder.mkdir(parents=True)
    for name in PIR:
        (folder / name).write_bytes(FILES[name])
    assert fetch_source(model, offline=not by_environment) == folder


def test_a_legacy_program_without_paddle_is_told_before_the_download(site: Site) -> None:
    with pytest.raises(DependencyError, match=PYTHON_VARIABLE):
        fetch_source(spec(source("legacy", f"{site.address}/hub/", *PIR)))
    assert site.asked == []


def test_files_that_are_published_nowhere() -> None:
    with pytest.raises(ModelMissingError, match="published nowhere") as caught:
        fetch_source(spec(source("legacy", None, *PIR)))
    assert "--source" in caught.value.remedy


# ---------------------------------------------------------------------------- a folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_with_the_right_files(folder: Path) -> None:
    model = spec(source("pir", None, *PIR), source("tar", None, "a.tar"))
    check_source(model, folder)
    check_source(model, folder / "a.tar")


def test_a_folder_with_other_bytes(folder: Path) -> None:
    (folder / "inference.pdiparams").write_bytes(b"other")
    with pytest.raises(ModelHashError, match=r"the manifest says .* for new-rec") as caught:
        check_source(spec(source("pir", None, *PIR)), folder)
    assert caught.value.subject == str(folder / "inference.pdiparams")


def test_a_folder_that_lacks_a_file(folder: Path) -> None:
    (folder / "inference.pdiparams").unlink()
    with pytest.raises(ModelMissingError, match=r"holds no inference\.pdiparams"):
        check_source(spec(source("pir", None, *PIR)), folder)


def test_a_folder_of_a_layout_nobody_published(folder: Path) -> None:
    with pytest.raises(ModelMissingError, match=r"holds no files of new-rec.*give a\.tar"):
        check_source(spec(source("tar", None, "a.tar")), folder)
    with pytest.raises(ModelMissingError, match="holds no files of new-rec"):
        check_source(spec(source("tar", None, "a.tar")), folder / "inference.json")


def test_a_folder_without_published_hashes(folder: Path) -> None:
    model = spec(source("pir", None, *PIR, pinned=False))
    with pytest.raises(ModelHashError, match="nobody has published a SHA-256"):
        check_source(model, folder)
    told: list[str] = []
    check_source(model, folder, allow_unpinned=True, warn=told.append)
    assert len(told) == 2
