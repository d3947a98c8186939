"""The data sheet that is written beside the garments (after Gebru et al. 2021)."""

from __future__ import annotations

from typing import Any

_SHEET = """# Data sheet: garments before photographs

**Motivation.** To measure how much a classifier leans on backgrounds, and what lowering that gains,
one needs real images with true object masks and a known relation between background and class.

**Composition.** {size} RGB images of {count} classes:
{classes}.
Each is a garment of Fashion-MNIST in its own size, at a random place and with a random tint that
does not depend on the class, before a crop of a photograph. The mask is the garment's pixels with
gaps of one or two pixels closed; in the mask the image is the tinted garment, outside of it the
photograph, unblended.

| split | images | background of its own class | object's share of the pixels |
| --- | ---: | ---: | ---: |
{table}

With chance {correlation:g} a background comes from a photograph of the image's own class, else from
one of the other classes. `mixed_same` and `mixed_random` are the test images with other
backgrounds: from the own class, and from a class drawn at random out of all (terms of Xiao et al.
2021, “Noise or Signal”).

**Photographs by class.**

{photos}

**Splits.** Training and validation garments are from Fashion-MNIST's training set, test garments
from its test set, none used twice. Training backgrounds are cut from the left 3/5 of each
photograph, all others from the right 2/5: no background pixel occurs on both sides.

**Determinism.** Everything is drawn from seed {seed}; `manifest.json` holds a digest of each split.

**Licences.** Fashion-MNIST: MIT, © 2017 Zalando SE (Xiao, Rasul, Vollgraf 2017). The photographs
are those named above, under their own terms; crops of 32 × 32 pixels of them are in the data.

**Limits.** Garments are grey pictures with a tint, backgrounds come from a few photographs, the
border between them is hard, and shirts, coats and pullovers are hard to tell apart for people too.
Accuracies here say nothing about photographs of clothes.
"""


def datasheet(manifest: dict[str, Any]) -> str:
    """The sheet of one built data set."""
    rows = [
        f"| {name} | {split['images']} | {split['own_background']:.1%} | "
        f"{split['object_share']:.1%} |"
        for name, split in manifest["splits"].items()
    ]
    photos = [f"- {name}: {', '.join(files)}" for name, files in manifest["photos"].items()]
    return _SHEET.format(
        size=" × ".join(str(side) for side in manifest["size"][1:]),
        count=len(manifest["classes"]),
        classes=", ".join(manifest["classes"]),
        table="\n".join(rows),
        correlation=manifest["plan"]["correlation"],
        photos="\n".join(photos),
        seed=manifest["plan"]["seed"],
    )
