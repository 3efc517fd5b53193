"""A Markdown file goes in; the figures in it that no record holds come out.

`ocr-onnx bench report --check FILE` runs it from the command line; `benchmarks/README.md` has the rule.
"""

import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from ocr_onnx.errors import InputError

MEASURED = re.compile(r"\b(accuracy|latency|measured|memory|peers|scaling|speed|throughput)\b", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w.,/-])\d[\d,]*(?:\.\d+)?(?![\w/]|[.,]\d)")
UNIT = re.compile(r"\s?(?:ms|s|MiB|GiB|MB|GB|pages/s|lines/s|times|x)\b|\s?[%×]|-fold\b")
PUBLISHED = "reference.toml"


class Block(NamedTuple):
    """A table's row or a paragraph; `above` is the paragraph just above a row's table."""

    line: int
    text: str
    is_row: bool
    above: str


def unbacked(file: Path, results: Path) -> tuple[str, ...]:
    """Return a sentence for every figure in the measured sections of `file` that its record lacks.

    Raises InputError for a file that can't be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(file), "can't be read", "name a Markdown file") from error
    return tuple(
        f"{file.name}:{block.line}: {problem}"
        for block in blocks(text)
        for problem in _problems(block, results)
    )


def blocks(markdown: str) -> Iterator[Block]:
    """Yield the rows and paragraphs of measured sections, without code blocks and heads of tables."""
    measured, in_code, in_table = False, False, False
    paragraph: list[str] = []
    above = ""
    lines = markdown.splitlines()
    for number, line in enumerate([*lines, ""], start=1):
        if line.startswith("```"):
            in_code = not in_code
        is_row = line.startswith("|") and not in_code
        is_text = bool(line.strip()) and not (in_code or is_row or line.startswith(("#", "```")))
        if paragraph and not is_text:
            above = " ".join(paragraph)
            if measured:
                yield Block(number - len(paragraph), above, is_row=False, above="")
            paragraph = []
        if line.startswith("#") and not in_code:
            measured, above = bool(MEASURED.search(line)), ""
        if is_text:
            paragraph.append(line)
        # the first two lines of a table are its head and its rule
        if is_row and in_table and measured and not re.fullmatch(r"[|:\s-]+", line):
            yield Block(number, line, is_row=True, above=above)
        in_table = is_row


def _problems(block: Block, results: Path) -> Iterator[str]:
    names = _named(block.text, results) or _named(block.above, results)
    prose = re.sub(r"`[^`]*`|!?\[[^]]*\]\([^)]*\)", " ", block.text)
    found = list(NUMBER.finditer(prose))
    if not names:
        for number in found:
            if block.is_row or UNIT.match(prose, number.end()) or len(number[0].partition(".")[2]) > 1:
                yield f"{number[0]} names no record"
        return
    held = [value for name in names for value in _numbers_of(name, results)]
    for number in found:
        per_cent = re.match(r"\s?%", prose[number.end() :]) is not None
        if not _holds(held, number[0], per_cent=per_cent):
            yield f"{number[0]} is not in {', '.join(names)}"


def _named(text: str, results: Path) -> list[str]:
    named = re.findall(r"`([\w.-]+)`", text)
    return [name for name in named if name == PUBLISHED or (results / f"{name}.json").is_file()]


def _numbers_of(name: str, results: Path) -> list[float]:
    if name == PUBLISHED:
        text = resources.files("ocr_onnx_bench").joinpath(PUBLISHED).read_text(encoding="utf-8")
        return _in_text(text)
    file = results / f"{name}.json"
    try:
        return list(_numbers(json.loads(file.read_text(encoding="utf-8"))))
    except ValueError as error:
        raise InputError(str(file), f"can't be read as JSON ({error})", "measure it again") from error


def _numbers(value: Any) -> Iterator[float]:
    """Yield all numbers of a record, those within its texts too."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, str):
        yield from _in_text(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def _in_text(text: str) -> list[float]:
    return [float(number.replace("_", "")) for number in re.findall(r"\d[\d_]*(?:\.\d+)?", text)]


def _holds(held: Sequence[float], told: str, *, per_cent: bool) -> bool:
    """Return whether one of `held` rounds to `told`, or, for a percentage, a hundred times one does."""
    value = float(told.replace(",", ""))
    half = 0.5 * 10.0 ** -len(told.partition(".")[2]) + 1e-9
    factors = (1.0, 100.0) if per_cent else (1.0,)
    return any(abs(abs(one) * factor - value) <= half for one in held for factor in factors)
