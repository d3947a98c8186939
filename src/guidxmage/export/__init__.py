"""Explanations as graphs that run without Python: ONNX, torch.export and compiled libraries."""
