"""Tests of finding, checking and fetching model files; the network is a function of the test."""

import hashlib
import logging
import os
import re
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import platformdirs
import pytest

from ocr_onnx import download as download_module
from ocr_onnx import model_store
from ocr_onnx.errors import ModelError, ModelHashError, ModelMissingError, OptionError
from ocr_onnx.files import Progress
from ocr_onnx.model_store import ModelFiles, ModelSpec, cache_dir, fetch, load_manifest, resolve, verify
from ocr_onnx.options import ModelOptions, RuntimeOptions
from ocr_onnx.runtime import Session

ENTRY = """
[[model]]
name = "{name}"
stage = "{stage}"
file = "{name}.onnx"
license = "Apache-2.0"
origin = "made by a test"
precision = "fp32"
"""
SET = '[[set]]\nname = "{name}"\ndet = "{det}"\nrec = "{rec}"\ncls = "{cls}"\n'
URL = "https://models.example.org/"


def bytes_of(name: str) -> bytes:
    return f"the model {name}".encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(name: str, *, pinned: bool = True, ready: bool = False, content: bytes | None = None) -> str:
    text = ENTRY.format(name=name, stage=name.rsplit("-", 1)[-1])
    if pinned:
        text += f'sha256 = "{sha256(content or bytes_of(name))}"\n'
    return text + (f'urls = ["{URL}{name}.onnx"]\n' if ready else "")


@dataclass
class Network:
    """Stands in for `download`: serves files by address and counts."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def download(
        self,
        urls: tuple[str, ...],
        path: Path,
        *,
        sha256: str,
        size_bytes: int | None,
        progress: Progress | None,
    ) -> None:
        self.asked.append(urls)
        content = self.files[urls[0]]
        assert hashlib.sha256(content).hexdigest() == sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if progress is not None:
            progress(path.name, len(content), size_bytes)


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OFFLINE", "MIRROR", "MODEL_DIR"):
        monkeypatch.delenv(f"OCR_ONNX_{name}", raising=False)
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network({f"{URL}{name}.onnx": bytes_of(name) for name in ("big-det", "big-rec")})
    monkeypatch.setattr(download_module, "download", network.download)
    return network


@pytest.fixture
def store(tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded folder of three small models, with a big set to download and a new one to make."""
    assert network.asked == []
    folder = tmp_path / "embedded"
    folder.mkdir()
    small = ("small-det", "small-rec", "small-cls")
    for name in small:
        (folder / f"{name}.onnx").write_bytes(bytes_of(name))
    (folder / "manifest.toml").write_text(
        "".join(entry(name) for name in small)
        + entry("big-det", ready=True)
        + entry("big-rec", ready=True)
        + entry("new-rec", pinned=False)
        + SET.format(name="mobile", det="small-det", rec="small-rec", cls="small-cls")
        + SET.format(name="big", det="big-det", rec="big-rec", cls="small-cls")
        + SET.format(name="new", det="small-det", rec="new-rec", cls="small-cls")
    )
    monkeypatch.setattr(model_store, "embedded_dir", lambda: folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def names(files: ModelFiles) -> list[str]:
    return [file.path.name for file in (files.det, files.rec, files.cls)]


# ---------------------------------------------------------------------------- what ships


def test_the_embedded_files_match_the_manifest() -> None:
    embedded = [spec for spec in load_manifest().models if (model_store.embedded_dir() / spec.file).is_file()]
    assert {spec.name for spec in embedded} == {
        "ppocrv4-mobile-det",
        "ppocrv4-mobile-rec",
        "ppocr-mobile-v2-cls",
    }
    for spec in embedded:
        content = (model_store.embedded_dir() / spec.file).read_bytes()
        assert (len(content), sha256(content)) == (spec.size_bytes, spec.sha256)


def test_no_model_file_lies_outside_the_manifest() -> None:
    described = {spec.file for spec in load_manifest().models}
    assert {path.name for path in model_store.embedded_dir().glob("*.onnx")} <= described


@pytest.mark.parametrize(
    ("model_set", "det", "rec"),
    [
        ("mobile", "PP-OCRv4_mobile_det", "PP-OCRv4_mobile_rec"),
        ("server", "PP-OCRv4_server_det", "PP-OCRv4_server_rec"),
        ("svtrv2", "PP-OCRv4_server_det", "ch_SVTRv2_rec"),
        ("repsvtr", "PP-OCRv4_mobile_det", "ch_RepSVTR_rec"),
    ],
)
def test_every_set_names_its_models(model_set: str, det: str, rec: str) -> None:
    models = load_manifest().set_models(model_set)
    assert (models.det.official, models.rec.official) == (det, rec)
    assert models.cls.official == "ch_ppocr_mobile_v2.0_cls"


def test_every_model_says_what_it_takes_and_where_it_comes_from() -> None:
    for spec in load_manifest().models:
        assert spec.license == "Apache-2.0"
        assert spec.sources
        assert spec.input is not None
        assert spec.input.color == "BGR"
        axes = dict(zip(spec.input.layout, spec.input.opt_shape, strict=True))
        assert axes["C"] == 3
        assert spec.stage == "det" or axes["H"] == 48


def test_the_embedded_graphs_match_their_contracts() -> None:
    files = resolve(ModelOptions())
    for file in (files.det, files.rec, files.cls):
        assert file.spec.input is not None
        session = Session(file.path, RuntimeOptions(threads=1))
        taken = session.inputs[0]
        assert taken.name == file.spec.input.name
        for axis, low, high in zip(
            taken.shape, file.spec.input.min_shape, file.spec.input.max_shape, strict=True
        ):
            assert axis is None or axis == low == high
        if file.spec.stage == "rec":
            assert len(session.metadata["character"].split("\n")) + 2 == file.spec.classes


@pytest.mark.usefixtures("no_socket")
def test_the_mobile_set_needs_no_network() -> None:
    files = resolve(ModelOptions())
    assert names(files) == [
        "ppocrv4-mobile-det.onnx",
        "ppocrv4-mobile-rec.onnx",
        "ppocr-mobile-v2-cls.onnx",
    ]


@pytest.mark.parametrize("model_set", ["svtrv2", "repsvtr"])
def test_a_set_without_ready_file_names_the_export_command(model_set: str) -> None:
    spec = load_manifest().set_models(model_set).rec
    with pytest.raises(ModelMissingError) as caught:
        fetch(spec)
    assert f"`ocr-onnx export {spec.name} --out DIR`" in caught.value.remedy
    assert "`--model-dir DIR`" in caught.value.remedy


# ---------------------------------------------------------------------------- search order


@pytest.mark.usefixtures("store")
def test_embedded_then_download_then_cache(network: Network) -> None:
    heard: list[str] = []
    files = resolve(ModelOptions("big"), lambda name, _done, _total: heard.append(name))
    assert files.det.path == cache_dir() / "big-det.onnx"
    assert heard == ["big-det.onnx", "big-rec.onnx"]
    assert files.cls.path.read_bytes() == bytes_of("small-cls")
    assert resolve(ModelOptions("big", offline=True)) == files
    assert len(network.asked) == 2


def test_the_folder_wins_over_the_embedded(store: Path, folder: Path) -> None:
    (folder / "small-det.onnx").write_bytes(bytes_of("small-det"))
    files = resolve(ModelOptions(folder=str(folder)))
    assert files.det.path.parent == folder
    assert files.rec.path.parent == store


@pytest.mark.usefixtures("store")
def test_the_folder_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "small-det.onnx").write_bytes(bytes_of("small-det"))
    monkeypatch.setenv("OCR_ONNX_MODEL_DIR", str(folder))
    assert resolve(ModelOptions()).det.path.parent == folder
    other = folder / "other"
    other.mkdir()
    assert resolve(ModelOptions(folder=str(other))).det.path.parent != folder


@pytest.mark.usefixtures("store")
def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelMissingError, match="is not a folder"):
        resolve(ModelOptions(folder=str(tmp_path / "absent")))


@pytest.mark.usefixtures("store")
def test_a_user_nobody_knows_is_a_file_name() -> None:
    with pytest.raises(ModelMissingError, match="~nobody-of-that-name"):
        resolve(ModelOptions(folder="~nobody-of-that-name/models"))


@pytest.mark.usefixtures("store")
def test_the_folders_manifest_wins_for_its_files(folder: Path) -> None:
    tuned = b"a fine-tuned model"
    (folder / "small-rec.onnx").write_bytes(tuned)
    (folder / "manifest.toml").write_text(entry("small-rec", content=tuned))
    files = resolve(ModelOptions(folder=str(folder)))
    assert files.rec.spec.sha256 == sha256(tuned)
    assert files.det.path.parent != folder


@pytest.mark.usefixtures("store")
def test_the_folders_manifest_brings_models_and_sets(folder: Path) -> None:
    for name in ("new-rec", "tuned-det"):
        (folder / f"{name}.onnx").write_bytes(bytes_of(name))
    tuned = SET.format(name="tuned", det="tuned-det", rec="new-rec", cls="small-cls")
    (folder / "manifest.toml").write_text(entry("new-rec") + entry("tuned-det") + tuned)
    options = ModelOptions("tuned", folder=str(folder))
    assert names(resolve(options)) == ["tuned-det.onnx", "new-rec.onnx", "small-cls.onnx"]
    assert names(resolve(replace(options, name="new"))) == [
        "small-det.onnx",
        "new-rec.onnx",
        "small-cls.onnx",
    ]


@pytest.mark.usefixtures("store")
def test_a_manifest_entry_whose_file_is_absent_falls_back(folder: Path, store: Path) -> None:
    (folder / "manifest.toml").write_text(entry("small-det", content=b"not here"))
    assert resolve(ModelOptions(folder=str(folder))).det.path.parent == store


@pytest.mark.usefixtures("store")
def test_a_folder_with_a_broken_manifest(folder: Path) -> None:
    (folder / "manifest.toml").write_text("[[model")
    with pytest.raises(ModelError, match="not valid TOML"):
        resolve(ModelOptions(folder=str(folder)))


def test_what_can_not_be_had_is_told_before_any_download(store: Path, network: Network) -> None:
    with (store / "manifest.toml").open("a") as manifest:
        manifest.write(SET.format(name="half", det="big-det", rec="new-rec", cls="small-cls"))
    with pytest.raises(ModelMissingError, match="ocr-onnx export new-rec"):
        resolve(ModelOptions("half"))
    assert network.asked == []


@pytest.mark.usefixtures("store")
def test_an_unknown_set() -> None:
    with pytest.raises(ModelMissingError, match=r"did you mean mobile\? there are: mobile, big, "):
        resolve(ModelOptions("mobil"))


# ---------------------------------------------------------------------------- own files


@pytest.mark.usefixtures("store")
def test_own_files_replace_the_sets(folder: Path, network: Network) -> None:
    own, dictionary = folder / "my-rec.onnx", folder / "keys.txt"
    own.write_bytes(b"my own")
    dictionary.write_text("a\nb\n")
    files = resolve(ModelOptions("new", rec=str(own), dictionary=str(dictionary)))
    assert (files.rec.path, files.rec.spec.sha256, files.dictionary) == (own, sha256(b"my own"), dictionary)
    assert (files.rec.spec.name, files.rec.spec.stage, files.rec.spec.size_bytes) == ("my-rec", "rec", 6)
    assert resolve(ModelOptions(rec=str(own))).dictionary is None
    assert network.asked == []


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("stage", ["det", "rec", "cls"])
def test_a_missing_own_file_is_told_before_any_download(folder: Path, network: Network, stage: str) -> None:
    absent = str(folder / "absent.onnx")
    options = {
        "det": ModelOptions("big", det=absent),
        "rec": ModelOptions("big", rec=absent),
        "cls": ModelOptions("big", cls=absent),
    }
    with pytest.raises(ModelMissingError, match=f"the {stage} model's file"):
        resolve(options[stage])
    assert network.asked == []


@pytest.mark.usefixtures("store")
def test_a_missing_dictionary(folder: Path) -> None:
    own = folder / "my-rec.onnx"
    own.write_bytes(b"my own")
    with pytest.raises(ModelMissingError, match="the dictionary's file"):
        resolve(ModelOptions(rec=str(own), dictionary=str(folder / "absent.txt")))


@pytest.mark.usefixtures("store")
def test_an_own_file_that_is_a_folder(folder: Path) -> None:
    with pytest.raises(ModelMissingError, match="is not a file"):
        resolve(ModelOptions(det=str(folder)))


@pytest.mark.usefixtures("store")
def test_an_empty_own_file(folder: Path) -> None:
    own = folder / "my-det.onnx"
    own.touch()
    with pytest.raises(ModelError, match="is empty"):
        resolve(ModelOptions(det=str(own)))


@pytest.mark.usefixtures("store")
def test_an_unreadable_own_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    own = folder / "my-det.onnx"
    own.write_bytes(b"my own, which nobody may read")
    monkeypatch.setattr(model_store, "file_sha256", refuse)
    with pytest.raises(ModelError, match=r"can't be read \(Permission denied\)"):
        resolve(ModelOptions(det=str(own)))


# ---------------------------------------------------------------------------- hashes


def test_a_corrupt_embedded_file(store: Path) -> None:
    (store / "small-rec.onnx").write_bytes(b"half")
    with pytest.raises(ModelHashError, match="reinstall ocr-onnx") as caught:
        resolve(ModelOptions())
    assert caught.value.subject == str(store / "small-rec.onnx")


@pytest.mark.usefixtures("store")
def test_a_folder_file_of_other_bytes(folder: Path) -> None:
    (folder / "small-det.onnx").write_bytes(b"something else")
    with pytest.raises(ModelHashError, match="--det-model"):
        resolve(ModelOptions(folder=str(folder)))


@pytest.mark.usefixtures("store")
def test_a_folder_file_without_known_hash_is_refused(folder: Path) -> None:
    (folder / "new-rec.onnx").write_bytes(bytes_of("new-rec"))
    with pytest.raises(ModelHashError, match="no SHA-256 for new-rec") as caught:
        resolve(ModelOptions("new", folder=str(folder)))
    assert "manifest.toml" in caught.value.remedy
    assert "--rec-model" in caught.value.remedy


@pytest.mark.usefixtures("store")
def test_a_cached_file_without_known_hash_is_refused() -> None:
    cache_dir().mkdir()
    (cache_dir() / "new-rec.onnx").write_bytes(bytes_of("new-rec"))
    with pytest.raises(ModelHashError, match="no SHA-256 for new-rec"):
        resolve(ModelOptions("new"))


@pytest.mark.usefixtures("store")
def test_a_corrupt_cached_file_is_fetched_again(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    cache_dir().mkdir()
    (cache_dir() / "big-det.onnx").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        files = resolve(ModelOptions("big"))
    assert files.det.path.read_bytes() == bytes_of("big-det")
    assert len(network.asked) == 2
    assert "fetching it again" in caplog.text


@pytest.mark.usefixtures("store")
def test_a_corrupt_cached_file_offline(network: Network) -> None:
    cache_dir().mkdir()
    (cache_dir() / "big-det.onnx").write_bytes(b"half")
    with pytest.raises(ModelHashError, match="without offline mode"):
        resolve(ModelOptions("big", offline=True))
    assert network.asked == []
    assert (cache_dir() / "big-det.onnx").exists()


@pytest.mark.usefixtures("store")
def test_a_file_is_hashed_once_until_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    own = folder / "my-det.onnx"

    def counted(path: Path) -> str:
        hashed.append(path)
        return sha256(path.read_bytes())

    monkeypatch.setattr(model_store, "file_sha256", counted)
    own.write_bytes(b"first")
    first = [resolve(ModelOptions(det=str(own))).det.spec.sha256 for _ in range(3)]
    own.write_bytes(b"other")
    os.utime(own, ns=(1, 1))
    second = resolve(ModelOptions(det=str(own))).det.spec.sha256
    assert first == [sha256(b"first")] * 3
    assert second == sha256(b"other")
    assert hashed.count(own.resolve()) == 2


# ---------------------------------------------------------------------------- offline, mirror, cache


@pytest.mark.usefixtures("store", "no_socket")
def test_offline_by_option(network: Network) -> None:
    with pytest.raises(ModelMissingError, match="may not be downloaded") as caught:
        resolve(ModelOptions("big", offline=True))
    assert "--model-dir" in caught.value.remedy
    assert network.asked == []


@pytest.mark.usefixtures("no_socket")
def test_offline_with_the_real_downloader() -> None:
    with pytest.raises(ModelMissingError, match="may not be downloaded"):
        resolve(ModelOptions("server", offline=True))


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("value", "off"), [("1", True), ("TRUE", True), (" yes ", True), ("on", True), ("0", False), ("", False)]
)
def test_offline_by_environment(
    network: Network, monkeypatch: pytest.MonkeyPatch, value: str, *, off: bool
) -> None:
    monkeypatch.setenv("OCR_ONNX_OFFLINE", value)
    if off:
        with pytest.raises(ModelMissingError, match="may not be downloaded"):
            resolve(ModelOptions("big"))
    else:
        resolve(ModelOptions("big"))
    assert bool(network.asked) is not off


@pytest.mark.usefixtures("store")
def test_offline_must_be_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_ONNX_OFFLINE", "maybe")
    with pytest.raises(OptionError, match="'maybe' is neither on nor off"):
        resolve(ModelOptions("big"))


@pytest.mark.usefixtures("store")
def test_fetch_downloads_once(network: Network) -> None:
    spec = load_manifest().model("big-det")
    first = fetch(spec)
    assert (first.path, first.sha256) == (cache_dir() / "big-det.onnx", spec.sha256)
    assert fetch(spec) == first
    assert len(network.asked) == 1


@pytest.mark.usefixtures("store")
def test_a_mirror_replaces_the_addresses(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_ONNX_MIRROR", "http://mirror.example.org/ocr/")
    network.files = {
        f"http://mirror.example.org/ocr/{name}.onnx": bytes_of(name) for name in ("big-det", "big-rec")
    }
    resolve(ModelOptions("big"))
    assert network.asked[0] == ("http://mirror.example.org/ocr/big-det.onnx",)


@pytest.mark.usefixtures("store")
def test_a_mirror_can_not_bring_an_unknown_file(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_ONNX_MIRROR", "http://mirror.example.org/ocr")
    with pytest.raises(ModelMissingError, match="ocr-onnx export new-rec"):
        resolve(ModelOptions("new"))
    assert network.asked == []


@pytest.mark.usefixtures("store")
def test_a_mirror_must_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_ONNX_MIRROR", "/mnt/models")
    with pytest.raises(OptionError, match="OCR_ONNX_MIRROR"):
        resolve(ModelOptions("big"))


def test_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("OCR_ONNX_CACHE_DIR")
    assert cache_dir() == platformdirs.user_cache_path("ocr-onnx") / "models"


def test_embedded_dir_of_a_wheel_and_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "ocr_onnx"
    package.mkdir()
    monkeypatch.setattr(model_store, "__file__", str(package / "model_store.py"))
    assert model_store.embedded_dir() == tmp_path / "models"
    (package / "models").mkdir()
    assert model_store.embedded_dir() == package / "models"


def test_an_installation_without_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_store, "embedded_dir", lambda: tmp_path)
    with pytest.raises(ModelMissingError, match="reinstall"):
        load_manifest()


# ---------------------------------------------------------------------------- verify


@pytest.mark.usefixtures("no_socket")
def test_verify_says_what_is_where(store: Path, folder: Path) -> None:
    (store / "small-rec.onnx").write_bytes(b"half")
    (folder / "new-rec.onnx").write_bytes(bytes_of("new-rec"))
    cache_dir().mkdir()
    (cache_dir() / "big-det.onnx").write_bytes(bytes_of("big-det"))
    found = {
        status.spec.name: (status.state, status.place) for status in verify(ModelOptions(folder=str(folder)))
    }
    assert found == {
        "small-det": ("ok", "embedded"),
        "small-rec": ("corrupt", "embedded"),
        "small-cls": ("ok", "embedded"),
        "big-det": ("ok", "cache"),
        "big-rec": ("missing", None),
        "new-rec": ("unpinned", "folder"),
    }


def test_verify_calls_an_unreadable_file_corrupt(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(model_store, "file_sha256", refuse)
    first = verify(ModelOptions())[0]
    assert (first.state, first.path) == ("corrupt", store / "small-det.onnx")


def test_errors_are_one_line() -> None:
    spec = ModelSpec("lonely-rec", "rec", "lonely-rec.onnx")
    with pytest.raises(ModelMissingError) as caught:
        fetch(spec, offline=True)
    assert re.fullmatch(r"lonely-rec: .*export lonely-rec --out DIR.*", str(caught.value))


# ---------------------------------------------------------------------------- models made here


def made_here(spec: ModelSpec) -> None:
    folder = model_store.exported_dir()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "made.onnx").write_bytes(b"made here")
    text = entry(spec.name, content=b"made here").replace(f"{spec.name}.onnx", "made.onnx")
    (folder / "manifest.toml").write_text(text)


@pytest.mark.usefixtures("store", "no_socket")
def test_a_model_that_nobody_publishes_is_made_once() -> None:
    asked: list[str] = []

    def make(spec: ModelSpec) -> None:
        asked.append(spec.name)
        made_here(spec)

    for _ in range(2):
        files = resolve(ModelOptions("new"), make=make)
        assert (files.rec.path, files.rec.sha256) == (
            cache_dir() / "exported/made.onnx",
            sha256(b"made here"),
        )
    assert resolve(ModelOptions("new")).rec.path == files.rec.path
    assert asked == ["new-rec"]
    assert [(one.state, one.place) for one in verify(ModelOptions()) if one.spec.name == "new-rec"] == [
        ("ok", "exported")
    ]


@pytest.mark.usefixtures("store")
def test_only_what_can_not_be_downloaded_is_made(network: Network) -> None:
    def make(spec: ModelSpec) -> NoReturn:
        raise AssertionError(spec.name)

    resolve(ModelOptions("big"), make=make)
    assert len(network.asked) == 2


@pytest.mark.usefixtures("store")
def test_an_own_file_needs_no_making(folder: Path) -> None:
    own = folder / "my-rec.onnx"
    own.write_bytes(b"my own")

    def make(spec: ModelSpec) -> NoReturn:
        raise AssertionError(spec.name)

    assert resolve(ModelOptions("new", rec=str(own)), make=make).rec.path == own


@pytest.mark.usefixtures("store")
def test_a_model_made_here_that_was_damaged() -> None:
    made_here(load_manifest().model("new-rec"))
    (model_store.exported_dir() / "made.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelHashError, match="makes it anew"):
        resolve(ModelOptions("new"))


@pytest.mark.usefixtures("store")
def test_making_that_makes_nothing_is_told() -> None:
    with pytest.raises(ModelMissingError, match=r"install 'ocr-onnx\[export\]'.*ocr-onnx export new-rec"):
        resolve(ModelOptions("new"), make=lambda _: None)
