import pytest

from ocr_onnx.errors import InputError, OptionError
from ocr_onnx.options import InputOptions
from ocr_onnx.page_range import parse_page_ranges, select_pages


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("", ()),
        ("  ", ()),
        ("4", ((4, 4),)),
        ("1-3,7,10-", ((1, 3), (7, 7), (10, None))),
        (" 2 - 2 , 1", ((2, 2), (1, 1))),
    ],
)
def test_parse_page_ranges(text: str, ranges: tuple[tuple[int, int | None], ...]) -> None:
    assert parse_page_ranges(text) == ranges


@pytest.mark.parametrize("text", ["0", "0-2", "3-1", "-3", "a", "1,", "1--2", "1 2", "1.5", "٣", "9" * 30])
def test_parse_page_ranges_refuses(text: str) -> None:
    with pytest.raises(OptionError, match=r"^input\.pages: .*1-3,7,10-"):
        parse_page_ranges(text)


@pytest.mark.parametrize(
    ("text", "indices"), [("", [0, 1, 2, 3]), ("2-3", [1, 2]), ("4,1-2,2", [0, 1, 3]), ("3-", [2, 3])]
)
def test_select_pages(text: str, indices: list[int]) -> None:
    assert list(select_pages("a.pdf", 4, InputOptions(pages=text))) == indices


@pytest.mark.parametrize(("text", "count"), [("5", 4), ("1-5", 4), ("5-", 4), ("1-999999999", 4), ("2", 1)])
def test_select_pages_beyond_the_end_names_the_count(text: str, count: int) -> None:
    with pytest.raises(InputError, match=rf"^a\.pdf: has {count} pages?, so there is no page [0-9]+; pick"):
        select_pages("a.pdf", count, InputOptions(pages=text))


def test_select_pages_is_bounded() -> None:
    assert len(select_pages("a.pdf", 3, InputOptions(max_pages=3))) == 3
    assert list(select_pages("a.pdf", 10**6, InputOptions(max_pages=2, pages="7-8"))) == [6, 7]
    with pytest.raises(InputError, match=r"a\.pdf: 4 pages are more than the limit of 3; .*input\.max_pages"):
        select_pages("a.pdf", 4, InputOptions(max_pages=3))
