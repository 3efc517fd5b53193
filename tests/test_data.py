import copy
import dataclasses
import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from ocr_onnx.data import Detections, PageResult, Provenance, TextLine

QUAD = ((1.5, 2.0), (90.25, 2.0), (90.25, 20.0), (1.5, 20.0))
LINE = TextLine("登机牌 PASS", 0.9, 0.5, 0.8, QUAD, QUAD)
PROVENANCE = Provenance(
    (("det", "mobile@ab"), ("rec", "mobile@cd")), "cpu", "CPUExecutionProvider", (0.5, 0.5), "1"
)


def result_of(*lines: TextLine) -> PageResult:
    image = np.full((40, 100, 3), 200, np.uint8)
    return PageResult(lines, 100, 40, "scan.pdf", 2, 1, ("a warning",), PROVENANCE, image)


def test_detections_take_keeps_arrays_parallel() -> None:
    quads = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    outlines = tuple(quads[:, :row] for row in (1, 2, 3))
    found = Detections(quads, np.array([0.1, 0.2, 0.3], np.float32), outlines).take([2, 0])
    assert len(found) == 2
    np.testing.assert_array_equal(found.quads_px, quads[[2, 0]])
    np.testing.assert_allclose(found.scores, [0.3, 0.1])
    assert [outline.shape[1] for outline in found.outlines_px] == [3, 1]


def test_detections_take_without_outlines() -> None:
    found = Detections(np.zeros((2, 4, 2), np.float32), np.zeros(2, np.float32)).take([1])
    assert (len(found), found.outlines_px) == (1, ())


def test_text_joins_lines_and_is_empty_without() -> None:
    assert result_of(LINE, LINE).text == "登机牌 PASS\n登机牌 PASS"
    assert result_of(LINE, dataclasses.replace(LINE, text=""), LINE).text == "登机牌 PASS\n登机牌 PASS"
    assert result_of().text == ""


def test_pickle_round_trip_keeps_everything_and_the_image() -> None:
    result = result_of(LINE)
    for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert twin == result
        np.testing.assert_array_equal(twin.image, result.image)


def test_equality_and_hash_ignore_the_image_only() -> None:
    result = result_of(LINE)
    bare = dataclasses.replace(result, image=None)
    assert bare == result
    assert hash(bare) == hash(result)
    assert hash(LINE) == hash(dataclasses.replace(LINE))
    assert dataclasses.replace(LINE, text="x") != LINE
    for change in ({"source": "other"}, {"index": 3}, {"filtered": 0}, {"lines": ()}, {"provenance": None}):
        assert dataclasses.replace(result, **change) != result


@pytest.mark.parametrize("value", [result_of(LINE), LINE, PROVENANCE], ids=lambda value: type(value).__name__)
def test_fields_can_neither_be_set_nor_added(value: object) -> None:
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
    with pytest.raises((AttributeError, TypeError)):
        value.something_new = 1  # type: ignore[attr-defined]


def test_nothing_mutable_inside_but_the_image() -> None:
    def check(value: object) -> None:
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                if field.name != "image":
                    check(getattr(value, field.name))
        elif isinstance(value, tuple):
            for item in value:
                check(item)
        else:
            assert value is None or isinstance(value, (str, int, float))

    check(result_of(LINE))


def test_dict_round_trip_through_json() -> None:
    result = result_of(LINE, dataclasses.replace(LINE, text="", angle=180))
    data = result.to_dict()
    assert PageResult.from_dict(json.loads(json.dumps(data))) == result
    data["lines"][0]["quad_px"][0][0] = 77.0
    assert result.lines[0].quad_px[0][0] == 1.5


def test_print_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    result_of(LINE).print()
    printed = capsys.readouterr().out
    assert json.loads(printed) == result_of(LINE).to_reference()
    assert '\n    "rec_text"' in printed
    assert "登机牌" in printed


def test_print_escaped_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    result_of(LINE).print(indent=1, ensure_ascii=True)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert '\n "rec_text"' in printed
    result_of(LINE).print(format_json=False)
    assert capsys.readouterr().out == f"{result_of(LINE).to_reference()}\n"


def test_print_survives_a_narrow_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    result_of(LINE).print()
    stream.flush()
    written = stream.buffer.getvalue()
    assert json.loads(written)["rec_text"] == ["登机牌 PASS"]


def test_data_loads_neither_opencv_nor_pillow() -> None:
    code = "import sys, ocr_onnx.data; print(sorted({'cv2', 'PIL', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
