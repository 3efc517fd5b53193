"""PP-OCRv4 text detection and recognition on ONNX Runtime, without PaddlePaddle."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocr_onnx.client import AsyncClient, Client
    from ocr_onnx.config import Config
    from ocr_onnx.data import Detections, ImageBgr, Page, PageResult, Provenance, Quad, TextLine
    from ocr_onnx.engine import Engine
    from ocr_onnx.errors import (
        DependencyError,
        DeviceError,
        DownloadError,
        InputError,
        ModelContractError,
        ModelError,
        ModelHashError,
        ModelMissingError,
        OcrError,
        OptionError,
        ServerError,
        TooLargeError,
    )
    from ocr_onnx.inputs import Readable
    from ocr_onnx.options import (
        ClsOptions,
        CropOptions,
        DetOptions,
        InputOptions,
        ModelOptions,
        Options,
        RecOptions,
        RuntimeOptions,
    )
    from ocr_onnx.recognize import RecognizedLine

    __version__: str
    from ocr_onnx.wire import ServedModels

__all__ = [
    "AsyncClient",
    "Client",
    "ClsOptions",
    "Config",
    "CropOptions",
    "DependencyError",
    "DetOptions",
    "Detections",
    "DeviceError",
    "DownloadError",
    "Engine",
    "ImageBgr",
    "InputError",
    "InputOptions",
    "ModelContractError",
    "ModelError",
    "ModelHashError",
    "ModelMissingError",
    "ModelOptions",
    "OcrError",
    "OptionError",
    "Options",
    "Page",
    "PageResult",
    "Provenance",
    "Quad",
    "Readable",
    "RecOptions",
    "RecognizedLine",
    "RuntimeOptions",
    "ServedModels",
    "ServerError",
    "TextLine",
    "TooLargeError",
    "__version__",
]

_MODULE_OF = {
    "AsyncClient": "client",
    "Client": "client",
    "ServedModels": "wire",
    "Config": "config",
    "Detections": "data",
    "ImageBgr": "data",
    "Page": "data",
    "PageResult": "data",
    "Provenance": "data",
    "Quad": "data",
    "TextLine": "data",
    "Engine": "engine",
    "Readable": "inputs",
    "RecognizedLine": "recognize",
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "errors"),
    **dict.fromkeys((name for name in __all__ if name.endswith("Options")), "options"),
}


def _import(name: str) -> object:
    """Import a public name when it is first asked for, so that `import ocr_onnx` costs next to nothing."""
    value: object
    if name == "__version__":
        from importlib.metadata import version

        value = version("ocr-onnx")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker would take every misspelt name for a public one
    __getattr__ = _import


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
