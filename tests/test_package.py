import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import ocr_onnx
from ocr_onnx import data, errors, inputs, options, recognize


def test_all_is_sorted_and_complete() -> None:
    assert ocr_onnx.__all__ == sorted(ocr_onnx.__all__)
    expected = {
        "AsyncClient",
        "Client",
        "Config",
        "Detections",
        "Engine",
        "ImageBgr",
        "Page",
        "PageResult",
        "Provenance",
        "Quad",
        "Readable",
        "RecognizedLine",
        "ServedModels",
        "TextLine",
        "__version__",
    }
    expected |= {name for name in vars(errors) if name.endswith("Error")}
    expected |= {name for name in vars(options) if name.endswith("Options")}
    assert set(ocr_onnx.__all__) == expected


def test_every_public_name_is_the_one_of_its_module() -> None:
    for name in set(ocr_onnx.__all__) - {"__version__", "ImageBgr", "Quad", "Readable"}:
        value = getattr(ocr_onnx, name)
        assert isinstance(value, type)
        assert value is getattr(sys.modules[value.__module__], name)
    assert ocr_onnx.ImageBgr is data.ImageBgr
    assert ocr_onnx.Quad is data.Quad
    assert ocr_onnx.Readable is inputs.Readable
    assert ocr_onnx.__version__ == version("ocr-onnx")


def test_the_public_names_suffice_to_annotate_a_callers_code() -> None:
    """Mypy checks the names; at run time they must resolve."""

    def first(
        engine: ocr_onnx.Engine, source: ocr_onnx.Readable, lines: list[ocr_onnx.ImageBgr]
    ) -> tuple[ocr_onnx.Quad, ocr_onnx.RecognizedLine]:
        return engine.read(source).lines[0].quad_px, engine.recognize(lines)[0]

    assert first.__annotations__["return"] == tuple[data.Quad, recognize.RecognizedLine]


def test_names_are_listed_before_they_are_imported() -> None:
    assert set(ocr_onnx.__all__) <= set(dir(ocr_onnx))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ocr_onnx' has no attribute 'Motor'"):
        _ = ocr_onnx.Motor  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, ocr_onnx; print(*(name for name in sys.modules if name.startswith('ocr_onnx.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_reading_a_picture_loads_nothing_it_does_not_use() -> None:
    """Each of these takes its share of a cold start."""
    code = (
        "import sys; from ocr_onnx import Engine; Engine.load().read(sys.argv[1]);"
        "print(*{'httpx', 'filelock', 'yaml', 'numpy.ma', 'PIL.TiffImagePlugin', 'PIL.PdfImagePlugin'}"
        " & set(sys.modules))"
    )
    picture = Path(__file__).parent / "data" / "boarding-pass.png"
    found = subprocess.run([sys.executable, "-c", code, picture], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
