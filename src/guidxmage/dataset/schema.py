"""The columns of a data set's rows, one for each photo and target."""

from __future__ import annotations

from typing import Any

SCHEMA = "guid-xmage/rows/1"
"""Changes when readers must change."""
PARTS = ("object", "background", "ignored")

# Column → type and meaning, in their order. Units: scores are the network's own, areas are pixels
# of the network's input.
COLUMNS: dict[str, tuple[str, str]] = {
    "item": ("int64", "place among the wanted or drawn photos, in the source's order, from 0"),
    "id": ("string", "SHA-256 of the photo's bytes; of its array where a data set in Python"),
    "path": ("string", "its name in the source"),
    "label": ("string", "the true label as the source has it"),
    "label_class": ("int32", "the class of that name or number, where there is one"),
    "mask": ("string", "SHA-256 of its masks as the network sees them; null where it has none"),
    "height": ("int32", "of the photo, upright, in pixels"),
    "width": ("int32", "of the photo, upright, in pixels"),
    "predicted": ("int32", "the class with the largest score"),
    "predicted_name": ("string", "its name"),
    "rank": ("int32", "place of the target among those of the photo, from 0"),
    "target": ("int32", "the class that is explained; null where it is none"),
    "target_name": ("string", "what is explained, in words"),
    "against": ("int32", "the class that it is compared with; null where there is none"),
    "score": ("float64", "the network's number for it"),
    "probability": ("float64", "the softmax of it; null where it is none"),
    "pixels": ("float64", "Σ of the contributions of all pixels"),
    "pixels_positive": ("float64", "of pixels that add to the score (channels summed)"),
    "pixels_negative": ("float64", "of pixels that take from it"),
    "bias": ("float64", "the rest of the score: score = pixels + bias + residual"),
    "placed_bias": ("float64", "what of the bias sits at a place, the network cut at the input"),
    "unplaced": ("float64", "what of it has none, the network cut at the input"),
    "whole_input": ("float64", "Σ of the whole map, the network cut at the input"),
    "whole": ("float64", "Σ of the whole map at `depth`"),
    "whole_positive": ("float64", "of places of the smoothed map that add to the score"),
    "whole_negative": ("float64", "of places of the smoothed map that take from it"),
    "whole_unplaced": ("float64", "what has no place: score = whole + whole_unplaced"),
    "depth": ("string", "the call site behind which the network was cut for `whole`"),
    "sigma": ("float64", "of the Gaussian through which `whole` is summed, in pixels"),
    **{
        f"{part}_{name}": (kind, f"{words} {of}")
        for part, of in (
            ("object", "of all objects together"),
            ("background", "of the background"),
            ("ignored", "of what the mask leaves out"),
        )
        for name, kind, words in (
            ("area", "int64", "pixels of the network's input"),
            ("pixels", "float64", "Σ of the contributions"),
            ("pixels_positive", "float64", "positive part of the contributions"),
            ("pixels_negative", "float64", "negative part of the contributions"),
            ("bias", "float64", "whole − pixels, what comes from the bias,"),
            ("whole", "float64", "Σ of the smoothed whole map at `depth`"),
            ("whole_positive", "float64", "positive part of that"),
            ("whole_negative", "float64", "negative part of that"),
            ("whole_input", "float64", "Σ of the whole map, the network cut at the input,"),
        )
    },
    "objects": ("objects", "the objects one by one: name, label, area, pixels, whole"),
    "residual": ("float64", "score − pixels − bias"),
    "bound": ("float64", "what of the residual rounding explains"),
    "whole_residual": ("float64", "score − whole − whole_unplaced"),
    "whole_bound": ("float64", "what of that rounding explains"),
    "exactness": ("string", "on region, at input, or not exact"),
    "decisions": ("int64", "decisions of the trail"),
    "ambiguous": ("int64", "of them within rounding; null where they were not counted"),
    "trail": ("string", "SHA-256 of the trail"),
    "network": ("string", "SHA-256 of the network and all that its answers depend on"),
    "versions": ("string", "of guid-Xmage and PyTorch, as JSON"),
    "error": ("string", "why the photo could not be explained; all numbers are null then"),
}


def arrow_schema() -> Any:
    """The schema for pyarrow, with its name and the meanings in its metadata."""
    import pyarrow as pa

    kinds = {
        "int64": pa.int64(),
        "int32": pa.int32(),
        "string": pa.string(),
        "float64": pa.float64(),
        "objects": pa.list_(
            pa.struct(
                [
                    ("name", pa.string()),
                    ("label", pa.int32()),
                    ("area", pa.int64()),
                    ("pixels", pa.float64()),
                    ("whole", pa.float64()),
                ]
            )
        ),
    }
    fields = [
        pa.field(name, kinds[kind], metadata={"meaning": words})
        for name, (kind, words) in COLUMNS.items()
    ]
    return pa.schema(fields, metadata={"schema": SCHEMA})
