"""PP-OCRv4 text detection and recognition on ONNX Runtime, without PaddlePaddle."""
