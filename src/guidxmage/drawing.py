"""The pictures of a result: what is drawn into its folder, and the same drawn again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidxmage.explanation import Explanation
from guidxmage.versions import versions

if TYPE_CHECKING:
    from guidxmage.regions import Regions
    from guidxmage.view import Style

FIGURE = "figure.png"
DISTRIBUTION = "distribution.png"
SALIENCY = "saliency.png"
# By their keys in the manifest.
PICTURES = {"figure": FIGURE, "distribution": DISTRIBUTION, "saliency": SALIENCY}
# What the same numbers are drawn alike with, pixel by pixel.
_DRAWN_WITH = ("matplotlib", "pillow", "numpy", "scikit-image", "scipy")


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn: the colours' style, a scale that others share, a note."""

    style: Style = "bands"
    scale: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """For the manifest, with the versions that the pixels depend on."""
        return {
            "style": self.style,
            "scale": self.scale,
            "note": self.note,
            "versions": versions(_DRAWN_WITH),
        }


def drawn_alike(described: Mapping[str, Any]) -> bool:
    """Whether what is installed draws the same pixels as it did for a manifest's `drawing`."""
    return bool(described.get("versions") == versions(_DRAWN_WITH))


def draw(explanation: Explanation, regions: Regions | None, folder: Path, drawing: Drawing) -> None:
    """The figure of all targets and, for the first target, the bare maps at native resolution."""
    from guidxmage.view import map_image, overlay_image, save_figure

    figure = explanation.figure(
        regions, scale=drawing.scale, style=drawing.style, note=drawing.note
    )
    save_figure(figure, folder / FIGURE)
    first = explanation.split()[0]
    values = first.pixel_contributions().cpu().numpy()
    labels = None if regions is None else regions.labels
    map_image(values, drawing.scale, drawing.style).save(folder / DISTRIBUTION)
    overlay_image(first.picture(), values, labels=labels).save(folder / SALIENCY)
