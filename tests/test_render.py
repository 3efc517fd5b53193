import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocr_onnx import drawing, render
from ocr_onnx.data import Angle, PageResult, Provenance, Quad, TextLine
from ocr_onnx.errors import InputError, OptionError


def box(x: float, y: float, width: float, height: float) -> Quad:
    return ((x, y), (x + width, y), (x + width, y + height), (x, y + height))


def line(text: str = "登机牌", quad: Quad | None = None, angle: Angle = 0) -> TextLine:
    quad = quad or box(10, 10, 150, 30)
    return TextLine(text, 0.9, 0.5, 0.8, quad, quad, angle)


def page(*lines: TextLine, source: str = "a.png", index: int | None = None) -> PageResult:
    return PageResult(lines, 200, 100, source, index, image=np.full((100, 200, 3), 120, np.uint8))


def ink(result: PageResult) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return where text stands on the right half: outlines are coloured, ink is near-black."""
    return np.asarray(result.plot()[:, result.width_px :].max(axis=2) < 60)


finite = st.floats(allow_nan=False, allow_infinity=False)
points = st.tuples(finite, finite)
score = st.floats(0, 1)
text_lines = st.builds(
    TextLine,
    st.text(),
    score,
    score,
    score,
    st.tuples(points, points, points, points),
    st.lists(points, min_size=4, max_size=7).map(tuple),
    st.sampled_from([0, 180]),
)
provenances = st.builds(
    Provenance,
    st.dictionaries(st.text(), st.text(), max_size=3).map(lambda models: tuple(models.items())),
    st.text(),
    st.text(),
    points,
    st.text(),
    st.text(),
    st.text(),
)
results = st.builds(
    PageResult,
    st.lists(text_lines, max_size=3).map(tuple),
    st.integers(1, 9999),
    st.integers(1, 9999),
    st.text(),
    st.none() | st.integers(0, 99),
    st.integers(0, 9),
    st.lists(st.text(), max_size=2).map(tuple),
    st.none() | provenances,
)


@given(results)
def test_jsonl_round_trip(result: PageResult) -> None:
    written = render.to_jsonl(result)
    assert "\n" not in written
    assert PageResult.from_dict(json.loads(written)) == result


@given(results)
def test_tsv_cells_read_back(result: PageResult) -> None:
    rows = [row.split("\t") for row in render.to_tsv(result).split("\n")]
    assert rows[0] == list(render.TSV_COLUMNS)
    assert rows.pop() == [""]
    back = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}
    for row, expected in zip(rows[1:], result.lines, strict=True):
        assert len(row) == len(render.TSV_COLUMNS)
        assert re.sub(r"\\.", lambda match: back[match[0]], row[3]) == expected.text
        assert [float(cell) for cell in row[4:7]] == [
            expected.rec_score,
            expected.rec_min_score,
            expected.det_score,
        ]
        assert [float(cell) for cell in row[8:]] == [value for point in expected.quad_px for value in point]


def test_tsv_row_and_header() -> None:
    row = "a.png\t\t0\t登机牌\t0.9\t0.5\t0.8\t0\t10.0\t10.0\t160.0\t10.0\t160.0\t40.0\t10.0\t40.0\n"
    assert render.to_tsv(page(line()), header=False) == row
    assert render.to_tsv(page()) == "\t".join(render.TSV_COLUMNS) + "\n"
    assert render.to_tsv(page(line(), index=4), header=False).startswith("a.png\t4\t0\t")


def test_dict_holds_plain_types_even_from_numpy_scalars() -> None:
    scores_and_quad: dict[str, Any] = {
        "rec_score": np.float32(0.5),
        "quad_px": tuple(np.ones((4, 2), np.float32)),
    }
    odd = dataclasses.replace(line(), **scores_and_quad)
    data = page(odd).to_dict()
    assert json.loads(json.dumps(data)) == data
    assert type(data["lines"][0]["rec_score"]) is float
    assert data["schema"] == 1
    assert list(data) == [
        *("schema", "source", "index", "width_px", "height_px", "lines", "filtered", "warnings", "provenance")
    ]


def test_reference_form() -> None:
    curved = dataclasses.replace(line(), outline_px=((1.4, 2.6), (9, 2), (9, 8), (5, 9), (1, 8)))
    reference = page(curved).to_reference()
    assert list(reference) == ["input_path", "dt_polys", "dt_scores", "rec_text", "rec_score"]
    assert reference["dt_polys"] == [[[1, 3], [9, 2], [9, 8], [5, 9], [1, 8]]]
    assert all(type(value) is int for point in reference["dt_polys"][0] for value in point)
    assert (reference["dt_scores"], reference["rec_score"]) == ([0.8], [0.9])
    assert (reference["input_path"], reference["rec_text"]) == ("a.png", ["登机牌"])


def test_json_of_a_name_that_is_not_unicode_fits_utf_8() -> None:
    written = render.to_jsonl(page(source="caf\udce9.png"))
    assert json.loads(written.encode("utf-8"))["source"] == "caf\udce9.png"


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("schema",), 2, "schema 2"),
        (("width_px",), "wide", "wide"),
        (("source",), 5, "instead of a string"),
        (("lines",), None, "wrong kind"),
        (("provenance",), "x", "wrong kind"),
        (("lines", 0, "angle"), 90, "angle 90"),
        (("lines", 0, "text"), None, "instead of a string"),
        (("lines", 0, "quad_px"), [[1, 2]], "wrong kind"),
        (("lines", 0, "quad_px", 0, 0), math.nan, "nan instead of a finite number"),
        (("lines", 0, "quad_px", 0, 0), 10**400, "wrong kind"),
        (("lines", 0, "quad_px", 0, 0), "1.5", "'1.5' instead of a number"),
        (("lines", 0, "rec_score"), "0.5", "'0.5' instead of a number"),
        (("lines", 0, "rec_min_score"), True, "True instead of a number"),
        (("lines", 0, "det_score"), math.inf, "inf instead of a finite number"),
        (("lines", 0, "angle"), 180.0, "180.0 instead of a whole number"),
        (("lines",), {}, "instead of a list"),
        (("width_px",), "12", "'12' instead of a whole number"),
        (("height_px",), True, "True instead of a whole number"),
        (("filtered",), 1.9, "1.9 instead of a whole number"),
        (("index",), "0", "'0' instead of a whole number"),
        (("warnings",), "small", "'small' instead of a list"),
    ],
)
def test_from_dict_refuses(path: tuple[str | int, ...], value: object, problem: str) -> None:
    data: Any = page(line()).to_dict()
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(InputError, match=problem):
        PageResult.from_dict(data)


def test_whole_numbers_are_read_as_scores_and_coordinates() -> None:
    data = page(line()).to_dict()
    data["lines"][0] |= {"rec_score": 1, "quad_px": [[0, 0], [9, 0], [9, 9], [0, 9]]}
    read = PageResult.from_dict(data).lines[0]
    assert (read.rec_score, read.quad_px[1]) == (1.0, (9.0, 0.0))
    assert isinstance(read.rec_score, float)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_never_holds_what_json_lacks(number: float, tmp_path: Path) -> None:
    odd_score = page(dataclasses.replace(line(), rec_score=number))
    odd_outline = page(dataclasses.replace(line(), outline_px=((number, 1.0),)))
    for result in (odd_score, odd_outline):
        with pytest.raises(InputError, match=r"^a\.png: .* NaN or infinite, which JSON lacks; read it again"):
            render.to_jsonl(result)
        with pytest.raises(InputError, match=r"^a\.png: .* NaN or infinite"):
            result.save_to_json(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_from_dict_refuses_what_is_no_dict() -> None:
    data: Any = []
    with pytest.raises(InputError, match="schema None"):
        PageResult.from_dict(data)


def test_from_dict_names_a_missing_key() -> None:
    data = page(line()).to_dict()
    del data["lines"][0]["det_score"]
    with pytest.raises(InputError, match="lacks the key 'det_score'"):
        PageResult.from_dict(data)


def test_output_path_of_a_bare_name_is_the_name_with_its_suffix() -> None:
    assert render.output_path(page(), "out", ".json") == Path("out/a.png.json")
    assert render.output_path(page(source="scan.pdf", index=2), "out", ".json") == Path(
        "out/scan.pdf_p0003.json"
    )


def test_output_path_keeps_results_apart() -> None:
    sources = ["a.png", "a.jpg", "x/a.png", "y/a.png", "/x/a.png", "a.png/", "a?.png", "a*.png"]
    sources += [
        "https://h/a.png",
        "https://h/a.png?page=1",
        "https://h/a.png?page=2",
        "n" * 300,
        "n" * 301,
        "",
        ".",
    ]
    paths = {render.output_path(page(source=source), "out", ".json") for source in sources}
    assert len(paths) == len(sources)
    assert all(path.parent == Path("out") and len(path.name.encode()) < 200 for path in paths)
    assert not any(set(path.name) & set('<>:"/\\|?*') for path in paths)


def test_output_path_of_nameless_inputs_follows_the_content() -> None:
    first, second = page(line("one"), source="<bytes>"), page(line("two"), source="<bytes>")
    third = dataclasses.replace(first, image=np.zeros((100, 200, 3), np.uint8))
    names = [render.output_path(result, "out", ".json").name for result in (first, second, third)]
    assert len(set(names)) == 3
    assert all(name.startswith("bytes-") for name in names)
    assert render.output_path(first, "out", ".json").name == names[0]


def test_output_path_under_a_root_keeps_folders_and_never_leaves() -> None:
    assert render.output_path(page(source="in/x/a.png"), "out", ".json", "in") == Path("out/x/a.png.json")
    for source in ("elsewhere/a.png", "in/../../a.png"):
        outside = render.output_path(page(source=source), "out", ".json", "in")
        assert outside.parent == Path("out")
        assert outside.name.startswith("a.png-")


def test_save_to_json_writes_the_reference_form(tmp_path: Path) -> None:
    result = page(line())
    assert result.save_to_json(tmp_path / "new" / "deep.json") == tmp_path / "new" / "deep.json"
    written = (tmp_path / "new" / "deep.json").read_bytes()
    assert json.loads(written) == result.to_reference()
    assert "登机牌".encode() in written
    result.save_to_json(tmp_path / "new" / "deep.json", indent=0, ensure_ascii=True)
    assert (tmp_path / "new" / "deep.json").read_bytes().isascii()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["deep.json"]


@pytest.mark.parametrize("folder", ["there", "fresh", "v1.2/"])
def test_save_to_json_into_a_folder(tmp_path: Path, folder: str) -> None:
    (tmp_path / "there").mkdir()
    saved = page(line(), index=0).save_to_json(f"{tmp_path}/{folder}")
    assert saved == tmp_path / folder / "a.png_p0001.json"
    assert saved.is_file()


def test_saving_refuses_the_input_itself(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    source.write_bytes(b"precious")
    with pytest.raises(OptionError, match="input itself"):
        page(line(), source=str(source)).save_to_img(source)
    assert source.read_bytes() == b"precious"


def test_an_unwritable_place_is_an_option_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="can't be written"):
        page(line()).save_to_json(tmp_path / "file" / "a.json")


def test_a_failed_move_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OptionError, match="No space left"):
        page(line()).save_to_json(target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert target.read_text() == "old"


def test_save_to_img_writes_the_plot(tmp_path: Path) -> None:
    result = page(line())
    saved = result.save_to_img(tmp_path)
    assert saved.name == "a.png_ocr.png"
    np.testing.assert_array_equal(cv2.imread(str(saved)), result.plot())
    assert result.save_to_img(tmp_path / "b.JPG").read_bytes()[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("name", ["a.txt", "a.gif"])
def test_save_to_img_refuses_other_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"\.png"):
        page(line()).save_to_img(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "width_px"), [("a.webp", 16_383), ("a.jpg", 65_500), ("a.JPEG", 65_500), ("a.png", 1_000_000)]
)
def test_save_to_img_refuses_a_picture_beyond_the_format(
    name: str, width_px: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    half = (width_px + 2) // 2
    wide = dataclasses.replace(page(), image=np.zeros((2, half, 3), np.uint8))
    with pytest.raises(OptionError, match=rf"{2 * half}x2; end the name with \.png or \.tiff"):
        wide.save_to_img(tmp_path / name)
    high = dataclasses.replace(page(), image=np.zeros((width_px, 1, 3), np.uint8))
    assert high.save_to_img(tmp_path / name).is_file()
    assert wide.save_to_img(tmp_path / "a.tiff").is_file()
    assert capfd.readouterr() == ("", "")


def test_an_encoder_that_raises_is_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("too large")

    monkeypatch.setattr(cv2, "imencode", fail)
    with pytest.raises(OptionError, match="400x100"):
        page(line()).save_to_img(tmp_path / "a.png")


def test_drawing_needs_the_image() -> None:
    with pytest.raises(InputError, match="no longer holds its image"):
        dataclasses.replace(page(line()), image=None).plot()


def test_plot_shape_and_untouched_input() -> None:
    result = page(line())
    assert result.image is not None
    before = result.image.copy()
    plot = result.plot()
    assert plot.shape == (100, 400, 3)
    assert plot.dtype == np.uint8
    np.testing.assert_array_equal(result.image, before)
    np.testing.assert_array_equal(plot[60:, 10:190], before[60:, 10:190])
    assert (plot[60:, 210:390] == 255).all()


def test_text_stands_inside_its_box_at_its_size() -> None:
    rows, columns = np.nonzero(ink(page(line())))
    assert 10 <= columns.min() < columns.max() < 160
    assert 10 <= rows.min() < rows.max() < 40
    assert np.ptp(rows) > 15


def test_a_long_text_is_squeezed_into_its_box() -> None:
    _, columns = np.nonzero(ink(page(line("squeezed " * 5))))
    assert columns.max() < 161
    assert columns.max() > 140


def test_angle_180_turns_the_text_upside_down() -> None:
    quad = box(10, 10, 150, 60)
    upright, turned = ink(page(line("L", quad))), ink(page(line("L", quad, 180)))
    assert upright.sum() > 100
    np.testing.assert_array_equal(upright[10:71, 10:161], turned[10:71, 10:161][::-1, ::-1])


def test_tall_boxes_stack_chinese_and_turn_latin() -> None:
    tall = box(20, 2, 20, 96)
    stacked = ink(page(line("一一一", tall)))
    strokes = np.diff(np.flatnonzero(stacked.any(axis=1))) > 1
    assert np.count_nonzero(strokes) == 2
    assert np.ptp(np.nonzero(stacked)[1]) > 10
    down, up = ink(page(line("HHH", tall))), ink(page(line("HHH", tall, 180)))
    assert down[:50].sum() > 3 * down[70:].sum()
    assert up[50:].sum() > 3 * up[:30].sum()


def test_a_slanted_box_slants_its_text() -> None:
    slanted = ((10.0, 10.0), (160.0, 60.0), (150.0, 90.0), (0.0, 40.0))
    rows, columns = np.nonzero(ink(page(line("————————", slanted))))
    slope = np.polyfit(columns, rows, 1)[0]
    assert slope == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize(
    "quad",
    [
        box(5, 5, 0, 0),
        box(5, 5, 3, 1),
        box(5, 5, 0.2, 50),
        ((5, 5), (50, 50), (90, 90), (20, 20)),
        box(500, 500, 50, 20),
        box(250, 150, 50, 20),
        box(-80, -80, 90, 90),
        box(-1e30, -1e30, 2e30, 2e30),
        box(math.nan, 5, 5, math.inf),
    ],
)
@pytest.mark.parametrize(
    "text", ["", " \t\n", "中", "a b\nc", "\u0301", "\ud800😀\x00", "x" * 2000, "中" * 500]
)
def test_odd_boxes_and_texts_never_fail(quad: Quad, text: str) -> None:
    assert page(line(text, quad)).plot().shape == (100, 400, 3)


def test_a_page_of_one_pixel() -> None:
    result = PageResult((line("x", box(0, 0, 1, 1)),), 1, 1, "a.png", image=np.zeros((1, 1, 3), np.uint8))
    assert result.plot().shape == (1, 2, 3)


def test_a_missing_glyph_is_a_box() -> None:
    missing, other = ink(page(line("😀"))), ink(page(line("\U0001f4a1")))
    assert missing.any()
    np.testing.assert_array_equal(missing, other)


def test_the_bundled_font_knows_chinese_latin_and_punctuation() -> None:
    box_glyph = ink(page(line("😀")))
    for character in "登牌祺Aé1。，℃①ΩЯ":
        assert not np.array_equal(ink(page(line(character))), box_glyph), character


def test_an_own_font_changes_the_picture_and_a_bad_one_is_named(tmp_path: Path) -> None:
    own = tmp_path / "own.ttf"
    own.write_bytes(drawing.BUNDLED_FONT.read_bytes())
    np.testing.assert_array_equal(page(line()).plot(str(own)), page(line()).plot())
    own.write_text("not a font")
    for font in (str(own), str(tmp_path / "missing.ttf")):
        with pytest.raises(OptionError, match=r"\.ttf: can't be read"):
            page(line()).plot(font)


def test_palette_reads_on_white() -> None:
    for blue, green, red in drawing.PALETTE:
        channels = [value / 255 for value in (red, green, blue)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
        assert 1.05 / (luminance + 0.05) > 4.5
    assert len(set(drawing.PALETTE)) == len(drawing.PALETTE)


def test_outlines_show_on_any_ground() -> None:
    for grey in (0, 120, 255):
        result = dataclasses.replace(page(line()), image=np.full((100, 200, 3), grey, np.uint8))
        edge = result.plot()[10, 60:100].astype(int)
        assert np.abs(edge - np.array(drawing.PALETTE[0])).max() < 40


def test_neighbouring_lines_differ_in_colour() -> None:
    plot = page(line("a", box(5, 5, 80, 30)), line("b", box(5, 55, 80, 30))).plot()
    assert plot[5, 40].tolist() != plot[55, 40].tolist()
