"""The data sheet of the garments, in the order of Gebru et al., "Datasheets for Datasets"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guidxmage.reports.markdown import rendered


def datasheet(
    manifest: Mapping[str, Any], *, threshold: int, smallest: int, largest: int, left: float
) -> str:
    """The data sheet, in Markdown, of a data set told by its manifest.

    threshold: the grey level that objects exceed; smallest, largest: garments' sides in pixels;
    left: the share of a photo's width that the training split sees.
    """
    drawn = {"threshold": threshold, "smallest": smallest, "largest": largest, "left": left}
    return rendered(__package__, "garments.md", **manifest, **drawn)
