"""The pictures of a result: what is drawn into its folder, and the same drawn again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from guidxmage.errors import InputError
from guidxmage.explanation import Explanation
from guidxmage.provenance.versions import versions

if TYPE_CHECKING:
    from guidxmage.objects.label_map import LabelMap
    from guidxmage.view import Panel, Style

CONTRIBUTIONS, WHOLE_MAP = "contributions", "whole"
MAPS = (CONTRIBUTIONS, WHOLE_MAP)

FIGURE = "figure.png"
DISTRIBUTION = "distribution.png"
SALIENCY = "saliency.png"
WHOLE = "whole.png"
# What the same numbers are drawn alike with, pixel by pixel.
_DRAWN_WITH = ("matplotlib", "pillow", "numpy", "scikit-image", "scipy")


def pictures_of(*, placed: bool) -> dict[str, str]:
    """The pictures of a result, by their keys in the manifest; placed: with whole maps."""
    whole = {"whole": WHOLE} if placed else {}
    return {"figure": FIGURE, "distribution": DISTRIBUTION, "saliency": SALIENCY, **whole}


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn.

    style: the colours of contributions; scale, whole_scale: of contributions and of whole maps,
    where others share them; map: which of the two the distribution and saliency maps show by
    themselves; note: behind the exactness; photo, date: in the figure's heading.
    """

    style: Style = "bands"
    scale: float | None = None
    note: str = ""
    whole_scale: float | None = None
    map: str = CONTRIBUTIONS
    photo: str = ""
    date: str = ""

    def to_json(self) -> dict[str, Any]:
        """For the manifest, with the versions that the pixels depend on."""
        return {**asdict(self), "versions": versions(_DRAWN_WITH)}


def drawn_alike(described: Mapping[str, Any]) -> bool:
    """Whether what is installed draws the same pixels as it did for a manifest's `drawing`."""
    return bool(described.get("versions") == versions(_DRAWN_WITH))


def draw(
    explanation: Explanation, regions: LabelMap | None, folder: Path, drawing: Drawing
) -> None:
    """The figure of all targets and, for the first target, the bare maps at native resolution.

    Whole maps are those of `placements` alone, so that a saved result is drawn alike. Raises
    InputError where whole maps are to be shown and there are none.
    """
    from guidxmage.view import map_image, overlay_image, save_figure

    figure = explanation.figure(
        regions,
        scale=drawing.scale,
        style=drawing.style,
        note=drawing.note,
        photo=drawing.photo,
        date=drawing.date,
        whole_scale=drawing.whole_scale,
        later=False,
    )
    save_figure(figure, folder / FIGURE)
    first = explanation.split()[0]
    (panel,) = first.panels()
    if drawing.map == CONTRIBUTIONS:
        values, scale, sigma = panel.pixels(), drawing.scale, None
    elif panel.depths:
        values, sigma = panel.depths[0].values, panel.depths[0].sigma
        scale = None
    else:
        raise InputError("there is no whole map to be shown; leave --map out, or --depth none")
    labels = None if regions is None or drawing.map != CONTRIBUTIONS else regions.labels
    map_image(values, scale, drawing.style).save(folder / DISTRIBUTION)
    overlay_image(panel.image, values, labels=labels, sigma=sigma).save(folder / SALIENCY)
    if panel.depths:
        _whole(panel, drawing.whole_scale).save(folder / WHOLE)


def _whole(panel: Panel, scale: float | None) -> Image.Image:
    from guidxmage.view import whole_image

    photo = None if panel.image is None else np.asarray(panel.image.convert("RGB"))
    return Image.fromarray(whole_image(panel.depths[0], photo, scale))
