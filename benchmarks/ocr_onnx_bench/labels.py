"""A folder with a labelled set goes in; its pages with their true regions and texts come out.

A line that does not parse, a picture without a label and a label without its picture are listed
as problems, and the rest of the set is read.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ocr_onnx.errors import InputError
from ocr_onnx_bench.metrics import Outline

IGNORED_TEXT = "###"
PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, slots=True, eq=False)
class TrueRegion:
    """One labelled region. `ignored` means that whether and how it is read does not count."""

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
    """A set as read: `sha256` is that of the label file, or over all files of a gt folder.

    `problems` are sentences about what could not be used.
    """

    name: str
    sha256: str
    pages: tuple[LabelledPage, ...]
    problems: tuple[str, ...]


def read_set(folder: Path) -> LabelledSet:
    """Read the set in `folder`: its `label.txt` (PP-OCR lines), else its `gt` folder (ICDAR).

    Raises `InputError` where neither is there, or not one page could be read.
    """
    if (folder / "label.txt").is_file():
        return read_pp_ocr(folder / "label.txt")
    if (folder / "gt").is_dir():
        return read_icdar(folder / "gt", folder / "images")
    raise InputError(str(folder), "holds neither label.txt nor gt/", "give the folder of a labelled set")


def read_pp_ocr(file: Path) -> LabelledSet:
    """Read PP-OCR lines: path of the picture, relative to `file`, a tab, a JSON list of regions.

    A region is {"transcription": text, "points": [[x, y], ...], "difficult": bool}; it is ignored
    when difficult, or when its text is "###". Source: PaddleOCR's `SimpleDataSet` label files.
    """
    content = file.read_bytes()
    pages: list[LabelledPage] = []
    problems: list[str] = []
    for number, line in enumerate(_lines(file.name, content), start=1):
        try:
            name, regions = _pp_ocr_line(line)
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{file.name}:{number}: {_why(error)}")
        else:
            pages.append(LabelledPage(name, file.parent / name, regions))
    labelled = {page.image.parent for page in pages} or {file.parent / "images"}
    pictures = [picture for folder in sorted(labelled) for picture in _pictures(folder)]
    return _finish(file.parent, hashlib.sha256(content).hexdigest(), pages, problems, pictures)


def read_icdar(gt: Path, images: Path) -> LabelledSet:
    """Read ICDAR 2015 task 4.4 ground truth: one `gt_<picture>.txt` per picture of `images`.

    A line is x1,y1,...,x4,y4,text in UTF-8, the file with or without a byte order mark; the text
    may hold commas; "###" marks an ignored region.
    """
    digest = hashlib.sha256()
    pages: list[LabelledPage] = []
    problems: list[str] = []
    pictures = _pictures(images)
    by_stem = {picture.stem: picture for picture in pictures}
    for file in sorted(gt.glob("*.txt")):
        content = file.read_bytes()
        digest.update(file.name.encode() + b"\0" + content + b"\0")
        stem = file.stem.removeprefix("gt_")
        picture = by_stem.get(stem, images / f"{stem}.jpg")
        regions: list[TrueRegion] = []
        for number, line in enumerate(_lines(file.name, content), start=1):
            try:
                regions.append(_icdar_line(line))
            except ValueError as error:
                problems.append(f"{file.name}:{number}: {_why(error)}")
        pages.append(LabelledPage(f"{images.name}/{picture.name}", picture, tuple(regions)))
    return _finish(gt.parent, digest.hexdigest(), pages, problems, pictures)


def _pp_ocr_line(line: str) -> tuple[str, tuple[TrueRegion, ...]]:
    name, tab, labels = line.partition("\t")
    if not tab:
        raise ValueError("has no tab between path and labels")
    regions = tuple(
        _region(label["points"], str(label["transcription"]), bool(label.get("difficult", False)))
        for label in json.loads(labels)
    )
    return name, regions


def _icdar_line(line: str) -> TrueRegion:
    fields = line.split(",", maxsplit=8)
    if len(fields) < 9:
        raise ValueError("is not eight coordinates and a text")
    numbers = [float(field) for field in fields[:8]]
    return _region(list(zip(numbers[::2], numbers[1::2], strict=True)), fields[8], ignored=False)


def _region(points: Iterable[Iterable[float]], text: str, ignored: bool) -> TrueRegion:
    outline = np.array(points, dtype=np.float32)
    if outline.ndim != 2 or outline.shape[0] < 3 or outline.shape[1] != 2:
        raise ValueError(f"has a region of shape {outline.shape}, not three or more points")
    if not math.isfinite(float(outline.sum())):
        raise ValueError("has a coordinate that is not a finite number")
    return TrueRegion(outline, text, ignored or text == IGNORED_TEXT)


def _lines(name: str, content: bytes) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(name, "is not UTF-8", "convert the labels to UTF-8") from error
    # not splitlines(): a label's text may hold U+2028 and its like
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)


def _finish(
    folder: Path, sha256: str, pages: list[LabelledPage], problems: list[str], pictures: list[Path]
) -> LabelledSet:
    """Keep the pages whose picture is there, and name what has no counterpart."""
    present = [page for page in pages if page.image.is_file()]
    problems += [
        f"{page.name}: labelled, but there is no such picture" for page in pages if not page.image.is_file()
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
    return LabelledSet(folder.resolve().name, sha256, tuple(present), tuple(problems))


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"has a region without {error}"
    return str(error)
