"""A folder or file goes in; the pages that engines read come out, with their labels where there are any."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from ocr_onnx import inputs
from ocr_onnx.errors import InputError, OcrError
from ocr_onnx.options import InputOptions
from ocr_onnx_bench import labels
from ocr_onnx_bench.labels import LabelledPage


@dataclass(frozen=True, slots=True, eq=False)
class PageSet:
    """The pages to read. Without labels their `regions` are empty; `problems` are sentences."""

    name: str
    sha256: str
    pages: tuple[LabelledPage, ...]
    labelled: bool
    problems: tuple[str, ...]


def read_pages(data: Path, limit_images: int | None = None) -> PageSet:
    """Read the labelled set in `data`, else the pictures of a folder, else the one picture.

    A picture that can't be read, or holds several pages, is left out: the engines would fail at it
    in different ways. Raises InputError where nothing is left.
    """
    found = _labelled_or_pictures(data)
    pages: list[LabelledPage] = []
    problems = list(found.problems)
    for page in found.pages[:limit_images]:
        try:
            count = len(list(islice(inputs.pages(page.image, InputOptions()), 2)))
        except OcrError as error:
            problems.append(f"{page.name}: {error.problem}")
            continue
        if count == 1:
            pages.append(replace(page, image=page.image.resolve()))
        else:
            problems.append(f"{page.name}: holds several pages")
    if not pages:
        raise InputError(str(data), f"no page could be used ({problems[-1]})", "give other pictures")
    return replace(found, pages=tuple(pages), problems=tuple(problems))


def _labelled_or_pictures(data: Path) -> PageSet:
    pictures = _pictures(data)
    if pictures == [data]:
        return _unlabelled(data, pictures, "accuracy: one picture has no labels")
    try:
        found = labels.read_set(data)
    except InputError as error:
        if not pictures:
            raise
        return _unlabelled(data, pictures, f"accuracy: {error.problem}")
    if found.format == "line pictures":
        problems = (*found.problems, "accuracy: the labels of line pictures have no regions")
        return PageSet(found.name, found.sha256, found.pages, False, problems)
    return PageSet(found.name, found.sha256, found.pages, True, found.problems)


def _unlabelled(data: Path, pictures: Sequence[Path], problem: str) -> PageSet:
    pages = tuple(LabelledPage(picture.name, picture, ()) for picture in pictures)
    return PageSet(data.resolve().stem, _digest(pictures), pages, False, (problem,))


def _pictures(data: Path) -> list[Path]:
    files = sorted(data.iterdir()) if data.is_dir() else [data]
    return [file for file in files if file.is_file() and file.suffix.lower() in labels.PICTURE_SUFFIXES]


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
