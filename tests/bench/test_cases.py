from pathlib import Path

import pytest

from ocr_onnx.errors import OptionError
from ocr_onnx_bench import cases, reference
from ocr_onnx_bench.cases import Case

MATRIX = """
[[profiles.p.matrix]]
models = ["a", "b"]
devices = ["cpu"]
precisions = ["fp32", "int8"]
threads = [0, 2]
shapes = [[1, 48, 320]]
reference = "cpu_ms"

[[profiles.p.pages]]
models = ["mobile"]
devices = ["cpu"]
threads = [1]
sizes = [[640, 480, 5]]

[[profiles.p.maps]]
drawn = ["lines", "noise"]
sizes = [[64, 96, 3]]
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "cases.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_combination_is_a_case(tmp_path: Path) -> None:
    found = cases.read(write(tmp_path, MATRIX), "p")
    assert len(found) == 2 * 2 * 2 + 1 + 2
    assert found[0] == Case("a", "cpu", "fp32", 0, shape=(1, 48, 320), reference="cpu_ms")
    assert found[-3] == Case("mobile", "cpu", "fp32", 1, page=(640, 480, 5))
    assert found[-1] == Case("noise", "cpu", "fp32", 1, map=(64, 96, 3))
    assert len({str(case) for case in found}) == len(found)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("threads = [0, 2]", "threads = 2"), "threads must be a list of int"),
        (("threads = [0, 2]", "threads = [true]"), "threads must be a list of int"),
        (("[[1, 48, 320]]", "[[1, 48]]"), "shapes must be lists of three whole numbers"),
        (("[[1, 48, 320]]", "[[1, 0, 320]]"), "shapes must be lists of three whole numbers"),
        (('"int8"', '"int4"'), "'int4' is no precision"),
        (('"cpu_ms"', '"tpu_ms"'), "reference 'tpu_ms' is neither"),
        (('models = ["a", "b"]', "models = []"), "models must be a list of str"),
        (("sizes", "size"), "unknown key 'size'"),
        (("drawn", "painted"), "unknown key 'painted'"),
        (('"noise"', '"cats"'), "'cats' is none of lines, noise"),
        (("[[profiles.p.matrix]]", "[[profiles.q.matrix]]\n[[profiles.q.matrix]]"), "models must be a list"),
        (("reference", "= ="), "can't be read"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    file = write(tmp_path, MATRIX.replace(*change))
    with pytest.raises(OptionError, match=problem):
        cases.read(file, "q" if ".q." in change[1] else "p")


def test_an_unknown_profile_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there are: p"):
        cases.read(write(tmp_path, MATRIX), "q")


@pytest.mark.parametrize(("profile", "device"), [("xeon-8t", "cpu"), ("t4", "cuda")])
def test_the_published_settings_have_all_six_models(profile: str, device: str) -> None:
    found = cases.read(cases.default_file(), profile)
    assert {case.model for case in found} == {model.name for model in reference.read()}
    assert {(case.device, case.precision) for case in found} == {(device, "fp32")}
    assert all(case.reference for case in found)


def test_the_default_profile_has_whole_pages_and_maps() -> None:
    found = cases.read(cases.default_file(), "default")
    assert any(case.page for case in found)
    assert {case.model for case in found if case.map} == set(cases.DRAWN)
