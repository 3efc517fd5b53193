"""A labelled set goes in, as a folder or a label file; its pages with their true regions and texts come out.

What the set is written in is told by its layout and content, see `read_set`. A line that does not
parse, a picture without a label and a label without its picture are listed as problems, and the
rest of the set is read.
"""

import hashlib
import json
import os.path
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeAlias

import numpy as np

from ocr_onnx.errors import InputError
from ocr_onnx_bench.metrics import Outline

Format: TypeAlias = Literal["PP-OCR", "ICDAR", "XFUND", "line pictures"]

IGNORED_TEXT = "###"
PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
BOX_SUFFIXES = frozenset({".csv", ".txt"})
LABEL_NAMES = ("label.txt", "Label.txt", "rec_gt.txt")
BOX_FOLDERS = ("gt", "box")
PICTURE_FOLDERS = ("images", "img", "image")
BAD_LABEL = (ValueError, KeyError, TypeError, OverflowError, RecursionError)  # of JSON and numbers in it
KNOWN = (
    "give a folder with label.txt, with gt/ and images/, with box/ and img/, with pictures and their .txt or "
    ".csv beside them, or with one XFUND .json; or such a label file itself"
)


@dataclass(frozen=True, slots=True, eq=False)
class TrueRegion:
    """One labelled region. `ignored` means that whether and how it is read does not count.

    The region of a line picture is the whole picture: its outline has no corners.
    """

    outline: Outline
    text: str
    ignored: bool


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPage:
    """A picture and what is on it. `name` is its path inside the set."""

    name: str
    image: Path
    regions: tuple[TrueRegion, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSet:
    """A set as read: `sha256` is that of the label file, or over all files of a folder of them.

    `problems` are sentences about what could not be used. With "line pictures", each page is the
    picture of one line.
    """

    name: str
    sha256: str
    pages: tuple[LabelledPage, ...]
    problems: tuple[str, ...]
    format: Format


def read_set(data: Path) -> LabelledSet:
    """Read the set `data`: a label file, or a folder with the first of these in it.

    1. `label.txt`, `Label.txt` or `rec_gt.txt`: PP-OCR lines or a list of line pictures
    2. `gt` or `box` beside `images`, `img` or `image`: one text file per picture (ICDAR, SROIE)
    3. text files named as the pictures that they lie beside (SROIE as published)
    4. one `.json`: XFUND

    Raises `InputError` where none is there, or not one page could be read.
    """
    if data.is_file():
        return read_xfund(data) if data.suffix.lower() == ".json" else _read_lines(data)
    if not data.is_dir():
        raise InputError(str(data), "does not exist", KNOWN)
    for name in LABEL_NAMES:
        if (data / name).is_file():
            return _read_lines(data / name)
    for name in BOX_FOLDERS:
        if (data / name).is_dir():
            return read_icdar(data / name, _picture_folder(data))
    if _stems(_pictures(data)) & _stems(_box_files(data)):
        return read_icdar(data, data)
    documents = sorted(file for file in data.iterdir() if file.suffix.lower() == ".json")
    if len(documents) > 1:
        names = ", ".join(file.name for file in documents)
        raise InputError(str(data), f"holds several label files ({names})", "give one of them")
    if documents:
        return read_xfund(documents[0])
    raise InputError(str(data), "holds no labels", KNOWN)


def read_pp_ocr(file: Path) -> LabelledSet:
    """Read PP-OCR lines: path of the picture, relative to `file`, a tab, a JSON list of regions.

    A region is {"transcription": text, "points": [[x, y], ...], "difficult": bool}; it is ignored
    when difficult, or when its text is "###". Source: PaddleOCR's `SimpleDataSet` label files.
    """
    pages: list[LabelledPage] = []
    problems: list[str] = []
    content = _bytes(file)
    for number, line in _lines(file.name, content):
        try:
            name, labels = _name_and_label(line)
            regions = tuple(map(_pp_ocr_region, json.loads(labels)))
        except BAD_LABEL as error:
            problems.append(f"{file.name}:{number}: {_why(error)}")
        else:
            pages.append(LabelledPage(name, file.parent / name, regions))
    return _of_file(file, content, pages, problems, "PP-OCR")


def read_line_pictures(file: Path) -> LabelledSet:
    """Read lines of a picture's path, relative to `file`, a tab, and the text that the picture shows.

    "###" marks a picture that does not count. Source: PaddleOCR's `SimpleDataSet` files for
    recognition.
    """
    pages: list[LabelledPage] = []
    problems: list[str] = []
    content = _bytes(file)
    whole = np.empty((0, 2), dtype=np.float32)
    for number, line in _lines(file.name, content):
        try:
            name, text = _name_and_label(line)
        except ValueError as error:
            problems.append(f"{file.name}:{number}: {error}")
        else:
            region = TrueRegion(whole, text, text == IGNORED_TEXT)
            pages.append(LabelledPage(name, file.parent / name, (region,)))
    return _of_file(file, content, pages, problems, "line pictures")


def read_icdar(gt: Path, images: Path) -> LabelledSet:
    """Read the text files of folder `gt`, each with the regions of one picture of folder `images`.

    A file is named as its picture, with or without "gt_" before it, and ends in .txt or .csv. A
    line is x1,y1,...,x4,y4,text in UTF-8, the file with or without a byte order mark; the text may
    hold commas, and quotes are part of it; "###" marks an ignored region. Sources: ICDAR 2015 task
    4.4, and SROIE tasks 1 and 2, in either of the layouts that are around (box/ beside img/, or all
    in one folder).
    """
    digest = hashlib.sha256()
    pages: list[LabelledPage] = []
    problems: list[str] = []
    pictures = _pictures(images)
    by_stem = {picture.stem: picture for picture in pictures}
    base = gt if gt == images else gt.parent
    for file in _box_files(gt):
        content = _bytes(file)
        digest.update(file.name.encode() + b"\0" + content + b"\0")
        stem = file.stem.removeprefix("gt_")
        picture = by_stem.get(stem, images / f"{stem}.jpg")
        try:
            regions = _icdar_regions(file.name, content, problems)
        except InputError as error:
            problems.append(f"{file.name}: {error.problem}")
        else:
            pages.append(LabelledPage(picture.relative_to(base).as_posix(), picture, regions))
    return _finish(base, base.resolve().name, digest.hexdigest(), pages, problems, pictures, "ICDAR")


def read_xfund(file: Path) -> LabelledSet:
    """Read XFUND's JSON: {"documents": [{"img": {"fname": ...}, "document": [region, ...]}, ...]}.

    A region is {"box": [left, top, right, bottom], "text": ...}. It is an entity of a form, which
    may span several lines, and counts as it is labelled. Pictures are looked for beside `file`, in
    a folder called as it ("zh.val" of zh.val.json) and in `images`, `img` or `image`.
    """
    content = _bytes(file)
    pages: list[LabelledPage] = []
    problems: list[str] = []
    for number, document in enumerate(_xfund_documents(file, content), start=1):
        try:
            name = _inside(document["img"]["fname"])
            regions = _xfund_regions(f"{file.name}: document {number}", document["document"], problems)
        except BAD_LABEL as error:
            problems.append(f"{file.name}: document {number}: {_why(error)}")
        else:
            picture = _beside(file, name)
            pages.append(LabelledPage(picture.relative_to(file.parent).as_posix(), picture, regions))
    return _of_file(file, content, pages, problems, "XFUND")


def _read_lines(file: Path) -> LabelledSet:
    """Read a file of lines as what most of them are: a JSON list of regions after the tab, or a text."""
    labels = [line.partition("\t")[2].strip() for _, line in _lines(file.name, _bytes(file))]
    of_regions = sum(label == "[]" or label.startswith("[{") for label in labels)
    of_text = sum(bool(label) for label in labels) - of_regions
    return read_pp_ocr(file) if of_regions >= of_text else read_line_pictures(file)


def _name_and_label(line: str) -> tuple[str, str]:
    name, tab, label = line.partition("\t")
    if not tab:
        raise ValueError("has no tab between path and label")
    return _inside(name), label


def _inside(name: str) -> str:
    """Return `name`, the path of a picture, if it is a relative one: records name it."""
    if not name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
        raise ValueError("names no picture by a path relative to the labels")
    return name


def _pp_ocr_region(label: dict[str, Any]) -> TrueRegion:
    return _region(label["points"], str(label["transcription"]), bool(label.get("difficult", False)))


def _icdar_regions(name: str, content: bytes, problems: list[str]) -> tuple[TrueRegion, ...]:
    regions: list[TrueRegion] = []
    for number, line in _lines(name, content):
        try:
            regions.append(_icdar_line(line))
        except ValueError as error:
            problems.append(f"{name}:{number}: {_why(error)}")
    return tuple(regions)


def _icdar_line(line: str) -> TrueRegion:
    fields = line.split(",", maxsplit=8)
    if len(fields) < 9:
        raise ValueError("is not eight coordinates and a text")
    numbers = [float(field) for field in fields[:8]]
    return _region(list(zip(numbers[::2], numbers[1::2], strict=True)), fields[8], ignored=False)


def _xfund_documents(file: Path, content: bytes) -> list[Any]:
    try:
        documents = json.loads(content)["documents"]
        if not isinstance(documents, list):
            raise TypeError("'documents' is not a list")
    except BAD_LABEL as error:
        raise InputError(
            str(file), f"is not XFUND's JSON ({_why(error)})", "give a file such as zh.val.json"
        ) from error
    return documents


def _xfund_regions(where: str, labels: Iterable[Any], problems: list[str]) -> tuple[TrueRegion, ...]:
    regions: list[TrueRegion] = []
    for number, label in enumerate(labels, start=1):
        try:
            left, top, right, bottom = label["box"]
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            regions.append(_region(corners, str(label["text"]), ignored=False))
        except BAD_LABEL as error:
            problems.append(f"{where}, region {number}: {_why(error)}")
    return tuple(regions)


def _region(points: Iterable[Iterable[float]], text: str, ignored: bool) -> TrueRegion:
    with np.errstate(over="ignore"):  # infinite then, and refused below
        outline = np.array(points, dtype=np.float32)
    if outline.ndim != 2 or outline.shape[0] < 3 or outline.shape[1] != 2:
        raise ValueError(f"has a region of shape {outline.shape}, not three or more points")
    if not np.isfinite(outline).all():
        raise ValueError("has a coordinate that is not a finite number")
    return TrueRegion(outline, text, ignored or text == IGNORED_TEXT)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(str(file), f"can't be read ({reason})", "correct its permissions") from error


def _lines(name: str, content: bytes) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers from one."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(name, "is not UTF-8", "convert the labels to UTF-8") from error
    # not splitlines(): a label's text may hold U+2028 and its like
    numbered = enumerate(text.split("\n"), start=1)
    return [(number, line.rstrip("\r")) for number, line in numbered if line.strip()]


def _pictures(folder: Path) -> list[Path]:
    return _files(folder, PICTURE_SUFFIXES)


def _box_files(folder: Path) -> list[Path]:
    return _files(folder, BOX_SUFFIXES)


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes)


def _stems(files: Sequence[Path]) -> set[str]:
    return {file.stem for file in files}


def _picture_folder(folder: Path) -> Path:
    """Return the first of PICTURE_FOLDERS that is there, else the name it should have."""
    candidates = [folder / name for name in PICTURE_FOLDERS]
    return next((candidate for candidate in candidates if candidate.is_dir()), candidates[0])


def _beside(file: Path, name: str) -> Path:
    """Return where the picture `name` of the XFUND file `file` lies, or where it should."""
    folders = [file.parent, file.with_suffix(""), *(file.parent / folder for folder in PICTURE_FOLDERS)]
    candidates = [folder / name for folder in folders]
    return next((candidate for candidate in candidates if _is_file(candidate)), candidates[0])


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises on a name that is too long)


def _of_file(
    file: Path, content: bytes, pages: list[LabelledPage], problems: list[str], found: Format
) -> LabelledSet:
    """Finish a set of one label file; its pictures are all those in the labelled ones' folders."""
    folders = {page.image.parent for page in pages} or {_picture_folder(file.parent)}
    pictures = [picture for folder in sorted(folders) for picture in _pictures(folder)]
    name = file.parent.resolve().name if file.name in LABEL_NAMES else file.stem
    digest = hashlib.sha256(content).hexdigest()
    return _finish(file.parent, name, digest, pages, problems, pictures, found)


def _finish(
    folder: Path,
    name: str,
    sha256: str,
    pages: list[LabelledPage],
    problems: list[str],
    pictures: list[Path],
    found: Format,
) -> LabelledSet:
    """Keep the pages whose picture is there, and name what has no counterpart."""
    present = [page for page in pages if _is_file(page.image)]
    problems += [
        f"{page.name}: labelled, but there is no such picture" for page in pages if not _is_file(page.image)
    ]
    labelled = {page.image for page in pages}
    problems += [
        f"{picture.relative_to(folder).as_posix()}: a picture without a label"
        for picture in pictures
        if picture not in labelled
    ]
    if not present:
        reason = f"no page could be used ({problems[0]})" if problems else "has no labelled page"
        raise InputError(str(folder), reason, "correct the labels, or give another set")
    return LabelledSet(name, sha256, tuple(present), tuple(problems), found)


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"lacks {error}"
    return str(error)
