"""Records and the description of the machine they carry."""

import getpass
import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from ocr_onnx.errors import OptionError
from ocr_onnx_bench import environment, record


@dataclass(frozen=True, slots=True)
class Inner:
    z: float
    a: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    inner: Inner | None


def test_keys_are_sorted_and_floats_rounded(tmp_path: Path) -> None:
    file = tmp_path / "new" / "r.json"
    record.write(file, Outer("文", Inner(1 / 3, (("k", "v"),))))
    assert file.read_text(encoding="utf-8") == (
        '{\n  "inner": {\n    "a": [\n      [\n        "k",\n        "v"\n      ]\n    ],\n'
        '    "z": 0.333333\n  },\n  "name": "文"\n}\n'
    )


def test_a_figure_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        record.write(tmp_path / "r.json", Outer("x", Inner(float("nan"), ())))
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "-x"])
def test_a_record_name_is_no_path(name: str) -> None:
    with pytest.raises(OptionError, match="is not a name"):
        record.path_of(name)


def test_records_lie_in_the_results_folder() -> None:
    assert record.path_of("v1.0_cpu-2") == Path("benchmarks/results/v1.0_cpu-2.json")


def test_the_environment_says_what_figures_depend_on() -> None:
    found = environment.describe()
    assert found.cores >= 1
    assert found.cpu_quota is None or found.cpu_quota > 0
    assert {"numpy", "ocr-onnx", "shapely"} <= dict(found.packages).keys()
    assert any(name.startswith("onnxruntime") for name, _ in found.packages)
    assert set(found.cpu_flags) <= environment.CPU_FLAGS
    assert found.cpu_flags == tuple(sorted(found.cpu_flags))


def test_the_environment_names_nobody() -> None:
    text = json.dumps(asdict(environment.describe()))
    assert socket.gethostname() not in text
    assert str(Path.cwd()) not in text
    assert f'"{getpass.getuser()}"' not in text


def test_outside_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "a" / "b" / "environment.py"))
    assert environment.describe().commit is None
