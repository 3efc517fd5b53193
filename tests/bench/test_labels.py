"""Label files as people write them, with what goes wrong in them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ocr_onnx.errors import InputError
from ocr_onnx_bench.labels import (
    LabelledSet,
    read_icdar,
    read_line_pictures,
    read_pp_ocr,
    read_set,
    read_xfund,
)

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
        ("images/bad.png\t" + "[" * 100_000, "recursion"),
        ('images/bad.png\t[{"transcription": "a", "points": [[1e400, 0], [1, 1], [1, 0]]}]', "finite"),
        ('images/bad.png\t[{"transcription": "a", "points": [[1e39, 0], [1, 1], [1, 0]]}]', "finite"),
        (f'images/bad.png\t[{{"transcription": "a", "points": [[1{"0" * 400}, 0], [1, 1], [1, 0]]}}]', "too"),
        ("/images/bad.png\t[]", "relative"),
        ("C:\\images\\bad.png\t[]", "relative"),
        ("\t[]", "relative"),
    ],
)
def test_a_line_that_does_not_parse_is_named_and_the_rest_is_read(
    tmp_path: Path, line: str, reason: str
) -> None:
    pictures(tmp_path, "a.png", "c.png")
    labelled = read_pp_ocr(write_labels(tmp_path, pp_ocr_line("a.png"), "", line, pp_ocr_line("c.png")))
    assert [page.name for page in labelled.pages] == ["images/a.png", "images/c.png"]
    (problem,) = labelled.problems
    assert problem.startswith("label.txt:3: ")
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


def test_a_name_that_no_file_can_have_is_no_picture(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    labelled = read_pp_ocr(write_labels(tmp_path, pp_ocr_line("a.png"), f"{'x' * 5000}.png\t[]"))
    (problem,) = labelled.problems
    assert problem.endswith("x.png: labelled, but there is no such picture")


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


def test_an_icdar_file_in_another_encoding_leaves_its_page_out(tmp_path: Path) -> None:
    icdar_set(tmp_path)
    (tmp_path / "gt/gt_img_2.txt").write_bytes("0,0,1,0,1,1,0,1,CAFÉ\n".encode("latin-1"))
    labelled = read_set(tmp_path)
    assert [page.name for page in labelled.pages] == ["images/img_1.jpg"]
    assert labelled.problems[0] == "gt_img_2.txt: is not UTF-8"


# --- SROIE ---

RECEIPT = (
    "94,214,838,214,838,250,94,250,SHOP GIN KEE\r\n"
    "233,311,686,311,686,350,233,350,NO 290, JALAN AIR,\r\n"
    '45,1276,285,1276,285,1319,45,1319,1" VALVE\r\n'
)
RECEIPT_TEXTS = ["SHOP GIN KEE", "NO 290, JALAN AIR,", '1" VALVE']  # commas and quotes are part of a text


@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_sroie_in_box_and_img(tmp_path: Path, suffix: str) -> None:
    for folder in ("box", "img", "key"):
        (tmp_path / folder).mkdir()
    (tmp_path / "img/000.jpg").touch()
    (tmp_path / "img/001.jpg").touch()
    (tmp_path / "key/000.json").touch()
    (tmp_path / f"box/000.{suffix}").write_bytes(RECEIPT.encode())
    (tmp_path / f"box/002.{suffix}").write_bytes(RECEIPT.encode())
    labelled = read_set(tmp_path)
    assert ([page.name for page in labelled.pages], labelled.format) == (["img/000.jpg"], "ICDAR")
    assert [text for text, _ in flags(labelled)] == RECEIPT_TEXTS
    assert labelled.problems == (
        "img/002.jpg: labelled, but there is no such picture",
        "img/001.jpg: a picture without a label",
    )


def test_sroie_in_one_folder_as_published(tmp_path: Path) -> None:
    folder = tmp_path / "task1train"
    folder.mkdir()
    for name in ("X1.jpg", "X2.jpg"):
        (folder / name).touch()
    (folder / "X1.txt").write_bytes(RECEIPT.encode())
    (folder / "X1(1).txt").write_bytes(RECEIPT.encode())  # there are such, without a picture
    labelled = read_set(folder)
    assert [page.name for page in labelled.pages] == ["X1.jpg"]
    assert [text for text, _ in flags(labelled)] == RECEIPT_TEXTS
    assert labelled.name == "task1train"
    assert labelled.problems == (
        "X1(1).jpg: labelled, but there is no such picture",
        "X2.jpg: a picture without a label",
    )


# --- lists of line pictures ---


def test_line_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png")
    file = tmp_path / "rec_gt_test.txt"
    file.write_text(
        "images/a.png\tTOTAL: 7\n"
        "images/b.png\t###\n"
        "images/c.png\t[1]\tb \n"  # neither JSON nor a second tab end a text, and no space is lost
        "images/none.png no tab\n"
        "images/gone.png\tgone\n",
        encoding="utf-8",
    )
    labelled = read_set(file)
    assert (labelled.format, labelled.name) == ("line pictures", "rec_gt_test")
    assert flags(labelled) == [("TOTAL: 7", False), ("###", True), ("[1]\tb ", False)]
    assert all(region.outline.shape == (0, 2) for page in labelled.pages for region in page.regions)
    assert labelled.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert labelled.problems == (
        "rec_gt_test.txt:4: has no tab between path and label",
        "images/gone.png: labelled, but there is no such picture",
        "images/d.png: a picture without a label",
    )


@pytest.mark.parametrize("name", ["label.txt", "Label.txt", "rec_gt.txt"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["images/a.png\t[]"], "PP-OCR"),
        (["images/a.png\tword", "images/b.png\tother"], "line pictures"),
        (["images/a.png\t[]", "images/a.png\t[{}]", "images/b.png\tbroken"], "PP-OCR"),
        (["images/a.png\t[]", "images/b.png\tword", "images/b.png\tword"], "line pictures"),
    ],
)
def test_the_content_tells_pages_from_lines(
    tmp_path: Path, name: str, lines: list[str], expected: str
) -> None:
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    assert read_set(tmp_path).format == read_set(tmp_path / name).format == expected


def test_a_list_of_no_picture_that_is_there_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("a.png\tword\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.png: labelled, but there is no such picture"):
        read_line_pictures(file)


# --- XFUND ---


def xfund(folder: Path, *documents: object) -> Path:
    file = folder / "zh.val.json"
    file.write_text(json.dumps({"lang": "zh", "documents": documents}), encoding="utf-8")
    return file


def form(name: str, *regions: object) -> dict[str, object]:
    return {"id": name, "img": {"fname": f"{name}.jpg", "width": 9, "height": 9}, "document": regions}


@pytest.mark.parametrize("folder", [".", "zh.val", "images", "img", "image"])
def test_xfund(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "zh_val_0.jpg").touch()
    file = xfund(
        tmp_path,
        form("zh_val_0", {"box": [0, 0, 10, 10], "text": "姓名", "label": "question", "words": []}),
        form("zh_val_1"),
    )
    for data in (file, tmp_path):
        labelled = read_set(data)
        assert (labelled.format, labelled.name) == ("XFUND", "zh.val")
        assert [page.image for page in labelled.pages] == [tmp_path / folder / "zh_val_0.jpg"]
        assert flags(labelled) == [("姓名", False)]
        assert labelled.pages[0].regions[0].outline.tolist() == SQUARE
        assert labelled.problems == ("zh_val_1.jpg: labelled, but there is no such picture",)


def test_xfund_documents_and_regions_that_do_not_parse_are_named(tmp_path: Path) -> None:
    for name in ("zh_val_0.jpg", "spare.jpg"):
        (tmp_path / name).touch()
    good = {"box": [0, 0, 10, 10], "text": "a"}
    bad = ({"text": "b"}, {"box": [0, 0, 1], "text": "b"}, {"box": ["x", 0, 1, 1], "text": "b"}, 7)
    file = xfund(tmp_path, form("zh_val_0", good, *bad), {"document": []}, 5, {"img": {"fname": "/a.jpg"}})
    labelled = read_xfund(file)
    assert flags(labelled) == [("a", False)]
    assert labelled.problems[0] == "zh.val.json: document 1, region 2: lacks 'box'"
    assert labelled.problems[4] == "zh.val.json: document 2: lacks 'img'"
    starts = [f"document 1, region {number}: " for number in (2, 3, 4, 5)]
    starts += [f"document {number}: " for number in (2, 3, 4)]
    for problem, start in zip(labelled.problems[:-1], starts, strict=True):
        assert problem.startswith(f"zh.val.json: {start}")
    assert labelled.problems[-1] == "spare.jpg: a picture without a label"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"documents": {}}', "[" * 100_000, "\udcff"])
def test_json_that_is_not_xfund_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "zh.val.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="is not XFUND's JSON"):
        read_set(tmp_path)


def test_of_several_json_files_one_has_to_be_named(tmp_path: Path) -> None:
    xfund(tmp_path)
    (tmp_path / "zh.train.json").touch()
    with pytest.raises(InputError, match=r"several label files \(zh\.train\.json, zh\.val\.json\)"):
        read_set(tmp_path)


# --- none of them ---


def test_a_folder_without_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"label\.txt"):
        read_set(tmp_path)


def test_a_set_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist.*label\.txt"):
        read_set(tmp_path / "gone")
