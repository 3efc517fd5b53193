"""PP-OCR models from Paddle's formats to ONNX files that ocr-onnx runs."""
