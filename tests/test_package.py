import subprocess
import sys
from importlib.metadata import version

import pytest

import ocr_onnx
from ocr_onnx import config, data, engine, errors, options


def test_all_is_sorted_and_complete() -> None:
    assert ocr_onnx.__all__ == sorted(ocr_onnx.__all__)
    expected = {
        "Config",
        "Detections",
        "Engine",
        "Page",
        "PageResult",
        "Provenance",
        "TextLine",
        "__version__",
    }
    expected |= {name for name in vars(errors) if name.endswith("Error")}
    expected |= {name for name in vars(options) if name.endswith("Options")}
    assert set(ocr_onnx.__all__) == expected


def test_every_public_name_is_the_one_of_its_module() -> None:
    homes = (config, data, engine, errors, options)
    for name in set(ocr_onnx.__all__) - {"__version__"}:
        (home,) = {getattr(home, name).__module__ for home in homes if hasattr(home, name)}
        assert getattr(ocr_onnx, name) is getattr(sys.modules[home], name)
    assert ocr_onnx.__version__ == version("ocr-onnx")


def test_names_are_listed_before_they_are_imported() -> None:
    assert set(ocr_onnx.__all__) <= set(dir(ocr_onnx))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ocr_onnx' has no attribute 'Motor'"):
        _ = ocr_onnx.Motor  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, ocr_onnx; print(*(name for name in sys.modules if name.startswith('ocr_onnx.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
