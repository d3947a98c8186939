"""The data sheet of the garments, in the order of Gebru et al., "Datasheets for Datasets"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHEET = """\
# Data sheet: garments before photographs

Seed {seed}, correlation {correlation}. `manifest.json` holds the same facts for machines, and the
SHA-256 of every file of arrays and of every source.

## Motivation

To measure how much an image classifier leans on backgrounds, and whether training makes it lean
less. For that it must be known which pixels are the object, and how well the background alone
predicts the class. Both are known here by construction.

## Composition

{channels}×{height}×{width} colour images, each of one garment before a piece of a photograph.
{count} classes: {classes}. A few garments are shown worn, and some photographs show people or parts
of them; at this size nobody can be recognised.

| split | images | background of the own class | object's share of the pixels | part of the photos |
| --- | ---: | ---: | ---: | --- |
{splits}

Images per class:

| split | {head} |
| --- | {rule} |
{per_class}

Arrays of each `.npz`, N images:

- `images` uint8 (N, 3, H, W);
- `labels` uint8 (N,);
- `masks` (N, H, W/8): the object's pixels, packed as by `numpy.packbits`;
- `backgrounds` uint8 (N,): the class that the background's photo belongs to;
- `photos` uint16 (N,): the photo's number, in the manifest's order;
- `corners` uint16 (N, 2): row and column of the crop within the scaled part of the photo;
- `sources` uint32 (N,): the garment's number in its IDX file.

## Collection and preparation

Garments are those of Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), 28×28 grey. The mask is what
is brighter than {threshold} of 255, gaps of one or two pixels closed (3×3 closing). Garment and
mask are scaled to a side of {smallest} to {largest} pixels and placed at random. The garment is
tinted with a random colour. None of these draws depends on the class.

Each photo belongs to one class. With the probability {correlation} a background is cut from a
photo of the image's own class, else from a photo of a class drawn from all, the own one included.
Photos are cut in two before they are scaled: the training split sees the left {left:.0%} of their
width, all other splits the rest. Inside the mask an image is the garment, outside the photo;
nothing is blended.

## Splits

Train and validation garments come from Fashion-MNIST's training file, test garments from its test
file; no garment occurs twice. Train and test backgrounds share no pixel of a photo; validation and
test backgrounds may. `mixed_same` and `mixed_random` (Xiao et al., 2021, "Noise or Signal") are the
test garments, pixel for pixel, on other backgrounds: cut from a photo of the own class, and from a
photo of any class.

## Licences

Fashion-MNIST: MIT, © 2017 Zalando SE. The photos keep the licences of their owners. foolbox names
its photos after ImageNet, whose terms allow research that is not commercial, and states no other
licence for them; the documentation of `skimage.data` describes those of scikit-image. Nothing here
grants rights to them, so build the data set where it is used rather than hand it on.

{photos}

## Known limits

- Garments are grey pictures with a made-up colour and hard outlines: easier than photos of them.
- White prints are dark in Fashion-MNIST. Wider than two pixels they count as openings, and the
  background shows through. Gaps between trouser legs of up to two pixels count as object.
- Few photos are behind many crops, so backgrounds can be learned by heart. The two parts of a photo
  can differ; a background of the test split may say less than its class suggests.
- Labels are Fashion-MNIST's; shirt, T-shirt, pullover and coat are hard to tell apart.
- The same seed gives the same bytes with the same photos as Pillow decodes them; decoders of JPEG
  may differ in single grey levels.
"""


def datasheet(
    manifest: Mapping[str, Any], *, threshold: int, smallest: int, largest: int, left: float
) -> str:
    """The data sheet, in Markdown, of a data set told by its manifest.

    threshold: the grey level that objects exceed; smallest, largest: garments' sides in pixels;
    left: the share of a photo's width that the training split sees.
    """
    classes, splits = manifest["classes"], manifest["splits"]
    channels, height, width = manifest["size"]
    return _SHEET.format(
        seed=manifest["seed"],
        correlation=manifest["correlation"],
        channels=channels,
        height=height,
        width=width,
        count=len(classes),
        classes=", ".join(classes),
        splits="\n".join(_facts(name, own) for name, own in splits.items()),
        head=" | ".join(classes),
        rule=" | ".join("---:" for _ in classes),
        per_class="\n".join(
            f"| {name} | {' | '.join(map(str, own['per_class']))} |" for name, own in splits.items()
        ),
        photos="\n".join(
            f"- `{photo['name']}`: {classes[photo['class']]}"
            for photo in manifest["sources"]["photos"]
        ),
        threshold=threshold,
        smallest=smallest,
        largest=largest,
        left=left,
    )


def _facts(name: str, own: Mapping[str, Any]) -> str:
    shares = f"{own['own_background']:.1%} | {own['object_share']:.1%}"
    return f"| {name} | {own['images']} | {shares} | {own['photo_part']} |"
