"""`PageResult`s go in, one by one; what goes to stdout for each comes out."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocr_onnx.data import PageResult


class Format(StrEnum):
    """How `run` writes results to stdout."""

    text = "text"
    json = "json"
    jsonl = "jsonl"
    tsv = "tsv"
    reference = "reference"


def chunks(results: Iterable["PageResult"], output_format: Format, *, titled: bool) -> Iterator[str]:
    """Turn results, one by one, into what goes to stdout; `titled` heads each page's text with its name."""
    from ocr_onnx import render

    match output_format:
        case Format.text:
            yield from _text_chunks(results, titled=titled)
        case Format.json:
            yield from _array_chunks(render.to_json(render.to_dict(result), indent=2) for result in results)
        case Format.jsonl:
            yield from (render.to_jsonl(result) + "\n" for result in results)
        case Format.tsv:
            yield "\t".join(render.TSV_COLUMNS) + "\n"
            yield from (render.to_tsv(result, header=False) for result in results)
        case Format.reference:
            yield from (render.to_json(render.to_reference(result)) + "\n" for result in results)


def _text_chunks(results: Iterable["PageResult"], *, titled: bool) -> Iterator[str]:
    from ocr_onnx import render

    gap = ""
    for result in results:
        title = f"==> {page_name(result)} <==\n" if titled else ""
        text = render.to_text(result)
        yield gap + title + (f"{text}\n" if text else "")
        gap = "\n"


def _array_chunks(objects: Iterable[str]) -> Iterator[str]:
    opening = "[\n"
    for text in objects:
        yield opening + text
        opening = ",\n"
    yield "[]\n" if opening == "[\n" else "\n]\n"


def page_name(result: "PageResult") -> str:
    """Name a page for people, who count from one."""
    return result.source if result.index is None else f"{result.source}, page {result.index + 1}"
