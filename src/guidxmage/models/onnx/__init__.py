"""Networks from ONNX files: read as data, converted, and compared with onnxruntime."""
