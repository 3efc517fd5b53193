"""A folder with a Paddle inference model in; what it holds out: program, parameters, stage, dictionary."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from ocr_onnx.errors import ModelContractError
from ocr_onnx.manifest import Stage
from ocr_onnx_export.errors import SourceFormatError
from ocr_onnx_export.pir import read_bounded

Layout: TypeAlias = Literal["pir", "legacy"]

PROGRAM_FILES: tuple[tuple[str, Layout], ...] = (("inference.json", "pir"), ("inference.pdmodel", "legacy"))
PARAMETERS_FILE = "inference.pdiparams"
SETTINGS_FILE = "inference.yml"
MAX_TEXT_BYTES = 16 * 1024 * 1024  # settings and dictionaries; the largest known has 0.13 MB
MAX_CHARACTERS = 1 << 20
POSTPROCESS_STAGES: dict[str, Stage] = {
    "DBPostProcess": "det",
    "CTCLabelDecode": "rec",
    "ClsPostProcess": "cls",
    "Topk": "cls",
}
FOLDER_REMEDY = (
    "give the folder of a Paddle inference model: inference.json or inference.pdmodel, inference.pdiparams, "
    "and inference.yml where there is one"
)
SETTINGS_REMEDY = "fetch it again, or remove it"
DICTIONARY_REMEDY = "give a text file with one character per line, in UTF-8"


@dataclass(frozen=True, slots=True)
class Source:
    """A Paddle inference model on disk.

    `name` is what its settings call it, else its folder's name. `stage` is None where nothing says
    it but the network itself. `dictionary` has one entry per character, empty where there is none.
    """

    name: str
    layout: Layout
    program: Path
    parameters: Path
    stage: Stage | None = None
    dictionary: tuple[str, ...] = ()


def read_source(folder: Path, dictionary: Path | None = None) -> Source:
    """Look at a folder; PIR is preferred where it holds both layouts.

    `dictionary` is a text file with one character per line; without it `inference.yml` is asked,
    then the one `.txt` file of the folder, if there is exactly one.

    Raises
    ------
    SourceFormatError
        The folder, its program or its parameters are missing, or its settings can't be read.
    """
    try:
        return _look(folder, dictionary)
    except PermissionError as error:  # a folder that may not be entered
        problem = f"can't be read ({error.strerror})"
        raise SourceFormatError(str(folder), problem, "give yourself the right to read it") from error


def _look(folder: Path, dictionary: Path | None) -> Source:
    if not folder.is_dir():
        raise SourceFormatError(str(folder), "is not a folder", FOLDER_REMEDY)
    found = [(folder / name, layout) for name, layout in PROGRAM_FILES if (folder / name).is_file()]
    if not found:
        raise SourceFormatError(str(folder), "holds no program", FOLDER_REMEDY)
    program, layout = found[0]
    parameters = folder / PARAMETERS_FILE
    if not parameters.is_file():
        raise SourceFormatError(str(folder), f"holds {program.name} but no {PARAMETERS_FILE}", FOLDER_REMEDY)
    settings = _read_settings(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else {}
    postprocess = _section(settings, "PostProcess")
    texts = [path for path in sorted(folder.glob("*.txt")) if path.is_file()]
    characters = _listed_characters(postprocess, folder / SETTINGS_FILE)
    if dictionary is not None:
        characters = read_dictionary(dictionary)
    elif not characters and len(texts) == 1:
        characters = read_dictionary(texts[0])
    return Source(
        name=str(_section(settings, "Global").get("model_name") or folder.resolve().name),
        layout=layout,
        program=program,
        parameters=parameters,
        stage=POSTPROCESS_STAGES.get(str(postprocess.get("name"))),
        dictionary=characters,
    )


def read_dictionary(path: Path) -> tuple[str, ...]:
    """Read one character per line: nothing is stripped but the line's end, a space is a character too."""
    try:
        text = read_bounded(path, MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceFormatError(str(path), "is not UTF-8 text", DICTIONARY_REMEDY) from error
    # not splitlines(): U+2028 and its like may be characters of a dictionary
    return _checked(text.replace("\r\n", "\n").removesuffix("\n").split("\n"), path)


def check_dictionary(source: Source, classes: int) -> None:
    """Compare a dictionary with the number of classes a rec network puts out.

    Classes are the CTC blank, the characters and, in all official models, the space.

    Raises
    ------
    ModelContractError
        They do not fit: the dictionary belongs to another model, or is missing.
    """
    count = len(source.dictionary)
    if count + 2 != classes:
        problem = f"has {classes} classes, but a dictionary of {count}" if count else "has no dictionary"
        raise ModelContractError(
            str(source.program.parent),
            problem,
            f"give the dictionary it was trained with, of {classes - 2} lines (--dict FILE)",
        )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader: every scalar stays the text it is, where others turn "1", "y" and "~" into values
        settings = yaml.load(read_bounded(path, MAX_TEXT_BYTES), Loader=_LOADER)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise SourceFormatError(str(path), f"is not YAML ({reason})", SETTINGS_REMEDY) from error
    if not isinstance(settings, dict):
        raise SourceFormatError(str(path), "holds no settings", SETTINGS_REMEDY)
    return settings


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, dict) else {}


def _listed_characters(postprocess: dict[str, Any], path: Path) -> tuple[str, ...]:
    characters = postprocess.get("character_dict")
    if not characters:
        return ()
    if not isinstance(characters, list) or not all(isinstance(entry, str) for entry in characters):
        raise SourceFormatError(str(path), "has a character_dict that is no list of texts", SETTINGS_REMEDY)
    return _checked(characters, path)


def _checked(characters: Sequence[str], path: Path) -> tuple[str, ...]:
    if len(characters) > MAX_CHARACTERS or any("\n" in entry for entry in characters):
        raise SourceFormatError(str(path), "is not one character per line", DICTIONARY_REMEDY)
    return tuple(characters)


_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
