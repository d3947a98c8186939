"""What a network's output means, and what of it is to be explained."""

from guidxmage.outputs.detections import Box, BoxSide
from guidxmage.outputs.kinds import Boxes, Embedding, Regression, Scores, Segmentation
from guidxmage.outputs.likeness import Similarity
from guidxmage.outputs.places import Mask, Pixel
from guidxmage.outputs.values import Value

__all__ = [
    "Box",
    "BoxSide",
    "Boxes",
    "Embedding",
    "Mask",
    "Pixel",
    "Regression",
    "Scores",
    "Segmentation",
    "Similarity",
    "Value",
]
