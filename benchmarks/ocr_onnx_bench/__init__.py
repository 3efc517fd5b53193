"""Measurements of ocr-onnx: labelled sets in, figures with their conditions out."""
