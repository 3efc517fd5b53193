"""What a folder with a Paddle model holds, and what is wrong with one that does not."""

import errno
from pathlib import Path
from typing import NoReturn

import pytest

from ocr_onnx.errors import ModelContractError
from ocr_onnx_export.errors import SourceFormatError
from ocr_onnx_export.sources import Source, check_dictionary, read_dictionary, read_source
from tests.export.pir_programs import tiny_rec

SETTINGS = """\
Global:
  model_name: My_rec
PostProcess:
  name: CTCLabelDecode
  character_dict:
  - ''''
  - '2'
  - ~
  - y
  - "\u3000"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_rec().save(tmp_path / "My Model")


def test_settings_name_stage_and_dictionary(folder: Path) -> None:
    (folder / "inference.yml").write_text(SETTINGS, encoding="utf-8")
    source = read_source(folder)
    assert (source.name, source.stage, source.layout) == ("My_rec", "rec", "pir")
    assert source.dictionary == ("'", "2", "~", "y", "\u3000")


def test_without_settings_the_folder_names_it(folder: Path) -> None:
    assert read_source(folder) == Source(
        "My Model", "pir", folder / "inference.json", folder / "inference.pdiparams"
    )


def test_the_one_text_file_is_the_dictionary(folder: Path) -> None:
    (folder / "keys.txt").write_text("a\nb\n", encoding="utf-8")
    assert read_source(folder).dictionary == ("a", "b")
    (folder / "more.txt").write_text("c\n", encoding="utf-8")
    assert read_source(folder).dictionary == ()


def test_a_given_dictionary_wins(folder: Path, tmp_path: Path) -> None:
    (folder / "inference.yml").write_text(SETTINGS, encoding="utf-8")
    keys = tmp_path / "keys.txt"
    keys.write_text("x\ny\n", encoding="utf-8")
    assert read_source(folder, keys).dictionary == ("x", "y")


def test_legacy_program(folder: Path) -> None:
    (folder / "inference.json").rename(folder / "inference.pdmodel")
    assert read_source(folder).layout == "legacy"


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("a\nb\n", ("a", "b")),
        ("a\nb", ("a", "b")),
        ("\ufeffa\r\nb\r\n", ("a", "b")),
        (" \n\u3000\n\u2028\nab\n", (" ", "\u3000", "\u2028", "ab")),
    ],
)
def test_dictionary_lines_are_kept_as_they_are(
    tmp_path: Path, text: str, characters: tuple[str, ...]
) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(text.encode())
    assert read_dictionary(path) == characters


def test_dictionary_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes("疗\n".encode("gb18030"))
    with pytest.raises(SourceFormatError, match="not UTF-8"):
        read_dictionary(path)


@pytest.mark.parametrize(
    ("missing", "problem"), [("inference.json", "no program"), ("inference.pdiparams", "no inf")]
)
def test_file_missing_from_the_folder(folder: Path, missing: str, problem: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(SourceFormatError, match=problem):
        read_source(folder)


def test_folder_that_may_not_be_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", locked)
    with pytest.raises(SourceFormatError, match=r"can't be read \(Permission denied\)"):
        read_source(folder)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceFormatError, match="is not a folder"):
        read_source(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "holds no settings"),
        ("a: \x00", "is not YAML"),
        ("PostProcess: {character_dict: abc}", "no list of texts"),
        ("PostProcess: {character_dict: [[a], b]}", "no list of texts"),
        ('PostProcess: {character_dict: ["a\\nb"]}', "not one character per line"),
    ],
)
def test_broken_settings(folder: Path, text: str, problem: str) -> None:
    (folder / "inference.yml").write_text(text, encoding="utf-8")
    with pytest.raises(SourceFormatError, match=problem):
        read_source(folder)


@pytest.mark.parametrize(
    ("dictionary", "problem"),
    [((), "has no dictionary"), (("a", "b", "c"), "has 4 classes, but a dictionary of 3")],
)
def test_dictionary_of_another_model(folder: Path, dictionary: tuple[str, ...], problem: str) -> None:
    source = Source("m", "pir", folder / "inference.json", folder / "inference.pdiparams", "rec", dictionary)
    with pytest.raises(ModelContractError, match=f"{problem}.*2 lines"):
        check_dictionary(source, 4)


def test_fitting_dictionary(folder: Path) -> None:
    check_dictionary(Source("m", "pir", folder, folder, "rec", ("a", "b")), 4)
