"""Explanations as graphs that run without Python: ONNX, torch.export and compiled libraries."""

from guidxmage.export.module import OUTPUTS, ExplainingModule
from guidxmage.export.packing import read_trail, trail_hash
from guidxmage.export.reading import Checked, check
from guidxmage.export.writing import Exported, explaining, export

__all__ = [
    "OUTPUTS",
    "Checked",
    "ExplainingModule",
    "Exported",
    "check",
    "explaining",
    "export",
    "read_trail",
    "trail_hash",
]
