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
    chosen, missing = select_pages("a.pdf", 4, InputOptions(pages=text))
    assert (list(chosen), missing) == (indices, None)


@pytest.mark.parametrize(
    ("text", "indices", "missing"),
    [
        ("1-3,7", [0, 1, 2], "7"),
        ("4-9,12,12,7-", [3], "5-9, 7, 12"),
        ("5-", [], "5"),
        ("2-999999999", [1, 2, 3], "5-999999999"),
    ],
)
def test_select_pages_beyond_the_end_takes_those_that_exist(
    text: str, indices: list[int], missing: str
) -> None:
    chosen, error = select_pages("a.pdf", 4, InputOptions(pages=text))
    assert list(chosen) == indices
    assert str(error) == (
        f"a.pdf: has 4 pages, so there is no page {missing}; pick pages from 1 to 4 with input.pages"
    )


def test_select_pages_of_a_single_page() -> None:
    chosen, error = select_pages("a.png", 1, InputOptions(pages="2-"))
    assert list(chosen) == []
    assert str(error) == (
        "a.png: has 1 page, so there is no page 2; "
        "input.pages holds for every input: read this one apart, without it"
    )
    _, error = select_pages("a.gif", 1, InputOptions(pages="2-"), "set input.all_frames")
    assert str(error) == "a.gif: has 1 page, so there is no page 2; set input.all_frames"


def test_select_pages_is_bounded() -> None:
    assert len(select_pages("a.pdf", 3, InputOptions(max_pages=3))[0]) == 3
    assert list(select_pages("a.pdf", 10**6, InputOptions(max_pages=2, pages="7-8"))[0]) == [6, 7]
    with pytest.raises(InputError, match=r"a\.pdf: 4 pages are more than the limit of 3; .*input\.max_pages"):
        select_pages("a.pdf", 4, InputOptions(max_pages=3))
