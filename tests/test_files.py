"""The hash of a file, against the published one of three letters."""

from pathlib import Path

from ocr_onnx.files import file_sha256


def test_file_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
