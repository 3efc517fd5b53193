"""Archives from outside: what is unpacked, and what is refused before a byte of it is written."""

import io
import tarfile
from pathlib import Path

import pytest

from ocr_onnx_export.convert import convert
from ocr_onnx_export.errors import SourceFormatError
from ocr_onnx_export.unpack import MAX_MEMBERS, open_source, unpack
from tests.export.pir_programs import tiny_det


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    folder = tiny_det().save(tmp_path / "net")
    return {f"my_det_infer/{path.name}": path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz")])
def test_export_of_an_archive(tmp_path: Path, files: dict[str, bytes], suffix: str, mode: str) -> None:
    archive = make_tar(
        tmp_path / f"My_det_infer{suffix}", {**files, "my_det_infer/README.md": b"hello"}, mode
    )
    published = convert(archive, tmp_path / "out")
    assert published.path.name == "my-det.onnx"


def test_unpacked_files_are_gone_afterwards(tmp_path: Path, files: dict[str, bytes]) -> None:
    with open_source(make_tar(tmp_path / "a.tar", files)) as source:
        assert source.program.is_file()
    assert not source.program.exists()


@pytest.mark.parametrize(
    "name", ["../inference.json", "/etc/inference.json", "a/../../inference.json", "..\\inference.json"]
)
def test_path_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceFormatError, match="leads outside"):
        unpack(make_tar(tmp_path / "a.tar", {name: b"{}"}), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "inference.json").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_what_is_no_plain_file(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("inference.json")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(SourceFormatError, match="no plain file"):
        unpack(path, tmp_path)


def test_two_models_in_one_archive(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {"a/inference.json": b"{}", "b/inference.json": b"{}"})
    with pytest.raises(SourceFormatError, match="twice"):
        unpack(archive, tmp_path)


def test_more_entries_than_any_model_has(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {f"{n}.md": b"" for n in range(MAX_MEMBERS + 1)})
    with pytest.raises(SourceFormatError, match="more than"):
        unpack(archive, tmp_path)


def test_more_bytes_than_any_model_has(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    member = tarfile.TarInfo("inference.pdiparams")
    member.size = 1 << 40
    path.write_bytes(member.tobuf())
    with pytest.raises(SourceFormatError, match="more than"):
        unpack(path, tmp_path)


def test_truncated_archive(tmp_path: Path, files: dict[str, bytes]) -> None:
    archive = make_tar(tmp_path / "a.tar", {"inference.pdiparams": bytes(100_000), **files})
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(SourceFormatError, match="tar archive|unpacked"):  # noqa: RUF043
        unpack(archive, tmp_path)


@pytest.mark.parametrize("data", [b"", b"not a tar at all" * 100, b"\x1f\x8b\x08" + bytes(100)])
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(SourceFormatError):
        unpack(path, tmp_path)
