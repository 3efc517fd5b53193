"""A PIR program and its parameters in, an ONNX model of opset 17 out, with numpy and onnx alone."""

from ocr_onnx_export.translate.program import supported_ops, translate

__all__ = ["supported_ops", "translate"]
