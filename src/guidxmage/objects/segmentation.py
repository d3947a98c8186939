"""A label map of a picture for which nobody drew masks: parts of even colour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.objects.label_map import LabelMap

_SUPERPIXELS = 250
# Larger pictures are segmented at this size: the parts look the same, and quickly.
_LONGER_SIDE = 400
# Colours in CIELAB that differ by less look the same.
_JUST_NOTICEABLE = 1.0


def segment_image(image: Image.Image, regions: int = 6) -> LabelMap:
    """Split a picture into at most ``regions`` connected parts of similar colour, largest first.

    The parts are called "A", "B", … and labelled 1, 2, …; there is no background. The same picture
    always gives the same parts. They are a fallback where masks of the objects are missing.
    Needs scikit-image (MissingExtraError).
    """
    if regions < 1:
        raise InputError(f"regions is {regions}; give 1 or more")
    pixels, parts = _small_superpixels(image)  # says so where scikit-image is missing
    from skimage.color import rgb2lab

    return _largest_first(_at_size(_merge(parts, rgb2lab(pixels), regions), image))


def superpixels(image: Image.Image) -> npt.NDArray[np.int32]:
    """Some 250 small connected parts of even colour, (H, W), numbered from 0.

    The same picture always gives the same parts. Needs scikit-image (MissingExtraError).
    """
    return _at_size(_small_superpixels(image)[1], image)


def _small_superpixels(
    image: Image.Image,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The picture at the size that it is segmented at, (H, W, 3), and its superpixels."""
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MissingExtraError("scikit-image", "view") from error
    small = image.convert("RGB")
    small.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    pixels = np.asarray(small)
    parts = slic(pixels, n_segments=_SUPERPIXELS, compactness=10, sigma=1, start_label=0)
    return pixels, parts


def _at_size(parts: npt.NDArray[np.int64], image: Image.Image) -> npt.NDArray[np.int32]:
    small = Image.fromarray(parts.astype(np.int32))
    labels: npt.NDArray[np.int32] = np.asarray(small.resize(image.size, Image.Resampling.NEAREST))
    return labels


def _merge(
    superpixels: npt.NDArray[np.int64], colours: npt.NDArray[np.float64], regions: int
) -> npt.NDArray[np.int64]:
    """Join neighbours, the most alike first, until ``regions`` are left that look different.

    The cost of joining is the growth of the squared colour error over the square root of the
    common border (Mumford and Shah's criterion divides by the border itself, which leaves more
    specks): the long frayed borders within a texture go first.
    """
    part_of = np.unique(superpixels, return_inverse=True)[1].reshape(superpixels.shape)
    counts = np.bincount(part_of.ravel()).astype(np.float64)
    means = np.stack(
        [np.bincount(part_of.ravel(), colours[..., k].ravel()) / counts for k in range(3)], axis=1
    )
    borders = _borders(part_of, len(counts))
    while len(counts) > 1:
        distances = ((means[:, None] - means) ** 2).sum(-1)
        sizes = counts[:, None] * counts / (counts[:, None] + counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            costs = np.where(borders > 0, sizes * distances / np.sqrt(borders), np.inf)
        keep, gone = sorted(int(k) for k in np.unravel_index(costs.argmin(), costs.shape))
        if len(counts) <= regions and distances[keep, gone] >= _JUST_NOTICEABLE**2:
            break
        means[keep] = np.average(means[[keep, gone]], axis=0, weights=counts[[keep, gone]])
        counts[keep] += counts[gone]
        borders[keep] += borders[gone]
        borders[:, keep] = borders[keep]
        borders[keep, keep] = 0
        counts, means = np.delete(counts, gone), np.delete(means, gone, axis=0)
        borders = np.delete(np.delete(borders, gone, axis=0), gone, axis=1)
        part_of = np.where(part_of == gone, keep, part_of - (part_of > gone))
    return part_of


def _borders(part_of: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.float64]:
    """How many pixel edges each two parts share, (parts, parts), 0 on the diagonal."""
    borders = np.zeros((parts, parts))
    for one, other in (
        (part_of[:, 1:], part_of[:, :-1]),
        (part_of[1:], part_of[:-1]),
    ):
        np.add.at(borders, (one, other), 1)
    borders += borders.T
    np.fill_diagonal(borders, 0)
    return borders


def _largest_first(parts: npt.NDArray[np.int32]) -> LabelMap:
    found, index, counts = np.unique(parts, return_inverse=True, return_counts=True)
    rank = np.empty(len(found), dtype=np.int32)
    rank[np.argsort(-counts, kind="stable")] = np.arange(1, len(found) + 1)
    names = {label: _letters(label) for label in range(1, len(found) + 1)}
    return LabelMap(rank[index.reshape(parts.shape)], names, seen=True)


def _letters(number: int) -> str:
    """1 → A, 26 → Z, 27 → AA."""
    more, last = divmod(number - 1, 26)
    return (_letters(more) if more else "") + chr(ord("A") + last)
