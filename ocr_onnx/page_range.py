"""A page range as text ("1-3,7,10-") and a page count go in, zero-based page indices come out."""

import re
from collections.abc import Sequence
from typing import TypeAlias

from ocr_onnx.errors import InputError, OptionError, TooLargeError
from ocr_onnx.options import InputOptions

PageRange: TypeAlias = tuple[int, int | None]
"""First and last page, one-based and inclusive; no last page means up to the end."""

_PART = re.compile(r"\s*([0-9]{1,9})\s*(-)?\s*([0-9]{1,9})?\s*")


def parse_page_ranges(text: str) -> tuple[PageRange, ...]:
    """Read "1-3,7,10-" as ((1, 3), (7, 7), (10, None)); blank text is no range at all.

    Raises
    ------
    OptionError
        A part is no number and no range, counts from 0, or runs backwards.
    """
    return tuple(_parse_part(part, text) for part in text.split(",")) if text.strip() else ()


def _parse_part(part: str, text: str) -> PageRange:
    match = _PART.fullmatch(part)
    if match is None or (match[3] and not match[2]):
        raise _range_error(text, f"{part!r} is no page and no range")
    first = int(match[1])
    last = int(match[3]) if match[3] else None if match[2] else first
    if first < 1:
        raise _range_error(text, "pages count from 1")
    if last is not None and last < first:
        raise _range_error(text, f"{part.strip()!r} runs backwards")
    return first, last


def _range_error(text: str, problem: str) -> OptionError:
    return OptionError("input.pages", f"{text!r}: {problem}", 'give pages like "1-3,7,10-"')


def select_pages(
    source: str, count: int, options: InputOptions, remedy: str = ""
) -> tuple[Sequence[int], InputError | None]:
    """Return the zero-based pages of `source`, which has `count`, that the options ask for.

    In the order of the document, each once; without `options.pages`, all of them. Beside them comes
    an error, with `remedy` or one of its own, if pages beyond the end are asked for: to be reported
    after the pages that exist.

    Raises
    ------
    InputError
        More than `options.max_pages` are wanted.
    OptionError
        `options.pages` is no page range.
    """
    ranges = parse_page_ranges(options.pages)
    chosen: Sequence[int] = range(count)
    if ranges:
        wanted = (index for first, last in ranges for index in range(first - 1, min(last or count, count)))
        chosen = sorted(set(wanted))
    if len(chosen) > options.max_pages:
        raise TooLargeError(
            source,
            f"{len(chosen)} pages are more than the limit of {options.max_pages}",
            "pick fewer with input.pages or raise input.max_pages",
        )
    return chosen, _missing(source, count, ranges, remedy)


def _missing(source: str, count: int, ranges: Sequence[PageRange], remedy: str) -> InputError | None:
    beyond = [(max(first, count + 1), last or first) for first, last in ranges if (last or first) > count]
    if not beyond:
        return None
    if count == 1:
        remedy = remedy or "input.pages holds for every input: read this one apart, without it"
    names = [str(first) if first == last else f"{first}-{last}" for first, last in sorted(set(beyond))]
    return InputError(
        source,
        f"has {count} page{'s' if count > 1 else ''}, so there is no page {', '.join(names)}",
        remedy or f"pick pages from 1 to {count} with input.pages",
    )
