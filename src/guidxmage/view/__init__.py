"""Pictures of contributions: colours, maps, figures. Works on plain arrays and images."""

from guidxmage.view.colors import (
    Style,
    pixel_contributions,
    shared_scale,
    thresholds,
)
from guidxmage.view.figure import figure
from guidxmage.view.files import save_figure
from guidxmage.view.maps import (
    distribution_map,
    map_image,
    overlay_image,
    smooth_contributions,
)
from guidxmage.view.notebook import panel_html
from guidxmage.view.panel import ObjectRow, ObjectTable, Panel
from guidxmage.view.placed import PlacedMap, whole_image

__all__ = [
    "ObjectRow",
    "ObjectTable",
    "Panel",
    "PlacedMap",
    "Style",
    "distribution_map",
    "figure",
    "map_image",
    "overlay_image",
    "panel_html",
    "pixel_contributions",
    "save_figure",
    "shared_scale",
    "smooth_contributions",
    "thresholds",
    "whole_image",
]
