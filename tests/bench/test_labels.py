"""Label files as people write them, with what goes wrong in them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ocr_onnx.errors import InputError
from ocr_onnx_bench.labels import LabelledSet, read_icdar, read_pp_ocr, read_set

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]


def pictures(folder: Path, *names: str) -> Path:
    """The readers look at names only, so empty files do."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / "images" / name).touch()
    return folder


def pp_ocr_line(name: str, *regions: dict[str, object]) -> str:
    return f"images/{name}\t{json.dumps(regions, ensure_ascii=False)}"


def write_labels(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    file = folder / "label.txt"
    file.write_text("\n".join(lines) + "\n", encoding=encoding)
    return file


def flags(labelled: LabelledSet) -> list[tuple[str, bool]]:
    return [(region.text, region.ignored) for page in labelled.pages for region in page.regions]


def test_pp_ocr_lines(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    file = write_labels(
        tmp_path,
        pp_ocr_line("a.png", {"transcription": "登机牌", "points": SQUARE, "difficult": False}),
        pp_ocr_line(
            "b.png",
            {"transcription": "###", "points": SQUARE},
            {"transcription": "hard", "points": SQUARE, "difficult": True},
            {"transcription": "no flag", "points": SQUARE},
        ),
    )
    labelled = read_pp_ocr(file)
    assert [page.name for page in labelled.pages] == ["images/a.png", "images/b.png"]
    assert [page.image for page in labelled.pages] == [tmp_path / "images/a.png", tmp_path / "images/b.png"]
    assert flags(labelled) == [("登机牌", False), ("###", True), ("hard", True), ("no flag", False)]
    assert labelled.pages[0].regions[0].outline.dtype == np.float32
    assert labelled.pages[0].regions[0].outline.tolist() == SQUARE
    assert (labelled.name, labelled.problems) == (tmp_path.name, ())
    assert labelled.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    file = write_labels(tmp_path, pp_ocr_line("a.png"), encoding="utf-8-sig")
    assert [page.name for page in read_pp_ocr(file).pages] == ["images/a.png"]


def test_blank_lines_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    file = tmp_path / "label.txt"
    file.write_bytes(f"{pp_ocr_line('a.png')}\r\n\r\n{pp_ocr_line('b.png')}\r\n".encode())
    labelled = read_pp_ocr(file)
    assert ([page.name for page in labelled.pages], labelled.problems) == (
        ["images/a.png", "images/b.png"],
        (),
    )


def test_a_unicode_line_separator_does_not_end_a_line(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    file = write_labels(tmp_path, pp_ocr_line("a.png", {"transcription": "a\u2028b", "points": SQUARE}))
    assert flags(read_pp_ocr(file)) == [("a\u2028b", False)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("images/bad.png", "no tab"),
        ("images/bad.png\t[{", "Expecting"),
        ('images/bad.png\t[{"points": [[0, 0], [1, 0], [1, 1]]}]', "'transcription'"),
        ('images/bad.png\t[{"transcription": "a"}]', "'points'"),
        ('images/bad.png\t[{"transcription": "a", "points": [[0, 0], [1, 1]]}]', "shape (2, 2)"),
        ('images/bad.png\t[{"transcription": "a", "points": [[0, 0], [1], [1, 1]]}]', ""),
        ('images/bad.png\t[{"transcription": "a", "points": [[0, 0], [NaN, 1], [1, 1]]}]', "finite"),
        ('images/bad.png\t[{"transcription": "a", "points": [["x", 0], [1, 1], [1, 1]]}]', ""),
        ("images/bad.png\t[1, 2]", ""),
        ("images/bad.png\t7", ""),
    ],
)
def test_a_line_that_does_not_parse_is_named_and_the_rest_is_read(
    tmp_path: Path, line: str, reason: str
) -> None:
    pictures(tmp_path, "a.png", "c.png")
    labelled = read_pp_ocr(write_labels(tmp_path, pp_ocr_line("a.png"), line, pp_ocr_line("c.png")))
    assert [page.name for page in labelled.pages] == ["images/a.png", "images/c.png"]
    (problem,) = labelled.problems
    assert problem.startswith("label.txt:2: ")
    assert reason in problem


def test_pictures_and_labels_without_counterpart_are_named(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "unlabelled.JPG", "notes.txt")
    labelled = read_pp_ocr(write_labels(tmp_path, pp_ocr_line("a.png"), pp_ocr_line("gone.png")))
    assert [page.name for page in labelled.pages] == ["images/a.png"]
    assert labelled.problems == (
        "images/gone.png: labelled, but there is no such picture",
        "images/unlabelled.JPG: a picture without a label",
    )


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such picture.*another set"):
        read_pp_ocr(write_labels(tmp_path, pp_ocr_line("gone.png")))


def test_labels_in_another_encoding_are_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    line = pp_ocr_line("a.png", {"transcription": "登机牌", "points": SQUARE})
    file = write_labels(tmp_path, line, encoding="gb18030")
    with pytest.raises(InputError, match="not UTF-8"):
        read_pp_ocr(file)


def icdar_set(folder: Path) -> Path:
    pictures(folder, "img_1.jpg", "img_2.jpg")
    (folder / "gt").mkdir()
    (folder / "gt/gt_img_1.txt").write_bytes(
        "\ufeff0,0,10,0,10,10,0,10,JOINT\r\n"
        "0,0,10,0,10,10,0,10,###\r\n"
        "0,0,10,0,10,10,0,10,1,000 a\r\n".encode()
    )
    (folder / "gt/gt_img_2.txt").write_text("", encoding="utf-8")
    return folder


def test_icdar_ground_truth(tmp_path: Path) -> None:
    labelled = read_set(icdar_set(tmp_path))
    assert flags(labelled) == [("JOINT", False), ("###", True), ("1,000 a", False)]
    assert labelled.pages[0].regions[0].outline.tolist() == SQUARE
    # a page without any text is a page: whatever is found on it counts against precision
    assert [len(page.regions) for page in labelled.pages] == [3, 0]
    assert labelled.problems == ()


def test_icdar_lines_that_do_not_parse_are_named(tmp_path: Path) -> None:
    icdar_set(tmp_path)
    (tmp_path / "gt/gt_img_2.txt").write_text(
        "0,0,10,0\n0,0,a,0,1,1,0,1,x\n0,0,1,0,1,1,0,1,y\n", encoding="utf-8"
    )
    labelled = read_icdar(tmp_path / "gt", tmp_path / "images")
    assert flags(labelled)[3:] == [("y", False)]
    first, second = labelled.problems
    assert first.startswith("gt_img_2.txt:1: ")
    assert second.startswith("gt_img_2.txt:2: ")


def test_icdar_hash_follows_the_ground_truth_alone(tmp_path: Path) -> None:
    icdar_set(tmp_path)
    before = read_set(tmp_path).sha256
    (tmp_path / "images/img_1.jpg").write_bytes(b"other")
    assert read_set(tmp_path).sha256 == before
    (tmp_path / "gt/gt_img_2.txt").write_text("0,0,1,0,1,1,0,1,y\n", encoding="utf-8")
    assert read_set(tmp_path).sha256 != before


def test_icdar_names_what_has_no_counterpart(tmp_path: Path) -> None:
    icdar_set(tmp_path)
    pictures(tmp_path, "img_3.png")
    (tmp_path / "gt/gt_img_4.txt").touch()
    assert read_set(tmp_path).problems == (
        "images/img_4.jpg: labelled, but there is no such picture",
        "images/img_3.png: a picture without a label",
    )


def test_label_txt_goes_before_gt(tmp_path: Path) -> None:
    write_labels(icdar_set(tmp_path), pp_ocr_line("img_1.jpg"), pp_ocr_line("img_2.jpg"))
    assert flags(read_set(tmp_path)) == []


def test_a_folder_without_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"label\.txt"):
        read_set(tmp_path)
