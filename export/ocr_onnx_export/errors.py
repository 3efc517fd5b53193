"""What can go wrong between a Paddle model and its ONNX file: three kinds of `ocr_onnx.errors.ModelError`."""

from ocr_onnx.errors import ModelError


class SourceFormatError(ModelError):
    """A Paddle file is missing, truncated, overlong or contradicts the file beside it."""


class UnsupportedOpError(ModelError):
    """A program uses an operation, an attribute or a shape that has no translation."""


class ConversionError(ModelError):
    """A conversion ran, but what came out is not usable or differs from the source."""
