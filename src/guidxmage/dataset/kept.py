"""What is kept beside the rows where it is wanted: maps as a Zarr array, previews as small PNGs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from guidxmage.dataset.reading import Read
from guidxmage.errors import InputError
from guidxmage.explanation import Explanation
from guidxmage.files.atomic import alone, sha256_of, write_atomically
from guidxmage.view.diverging import over_photo

MAPS, ARRAY, PREVIEWS = "maps.zarr", "contributions", "previews"
# The longer side of a preview, in pixels.
_SIDE = 96


@dataclass(frozen=True)
class Kept:
    """Of one block. maps: (photos, K, [C,] H, W) float32, NaN for photos that failed.

    first: place of the first photo; previews: a Parquet file's bytes.
    """

    first: int = 0
    maps: npt.NDArray[np.float32] | None = None
    previews: bytes | None = None

    def with_previews(self, pictures: Sequence[Mapping[str, Any]]) -> Kept:
        """The same with small pictures."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [("item", pa.int64()), ("photo", pa.binary()), ("map", pa.binary())]
        rows = sorted(pictures, key=lambda one: int(one["item"]))
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), buffer)
        return replace(self, previews=buffer.getvalue())


def keep_maps(maps: Mapping[int, npt.NDArray[np.float32]], first: int, photos: int) -> Kept:
    """Maps by their photos' places, as one array. Raises InputError where sizes differ."""
    shapes = {array.shape for array in maps.values()}
    if len(shapes) > 1:
        sizes = " and ".join(sorted("×".join(map(str, shape)) for shape in shapes))
        raise InputError(
            f"maps of different sizes ({sizes}) are no one array; leave the maps out, or give a "
            "preprocessing that resizes photos to one size"
        )
    if not shapes:
        return Kept(first)
    found = np.full((photos, *shapes.pop()), np.nan, np.float32)
    for number, array in maps.items():
        found[number - first] = array
    return Kept(first, found)


def previews_of(found: Explanation, reads: Sequence[Read]) -> list[dict[str, Any]]:
    """A photo as the network saw it, and over it its first target's map, for every photo.

    That is the whole map through its Gaussian where there is one, else the contributions.
    """
    pictures = []
    for image, read in zip(found, reads, strict=True):
        part = image.split()[0]
        photo = part.picture()
        map_ = part.placements[0].smoothed() if part.placements else part.contributions.sum(0)
        values = map_.double().cpu().numpy()
        under = None if photo is None else np.asarray(photo.convert("RGB"))
        drawn = over_photo(under, values, float(np.abs(values).max()))
        pictures.append(
            {
                "item": read.number,
                "photo": None if photo is None else _png(photo),
                "map": _png(Image.fromarray(drawn)),
            }
        )
    return pictures


def _png(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


# --- files ---------------------------------------------------------------------------------------


def preview_path(folder: Path, block: int) -> Path:
    """Where the previews of a block lie."""
    return folder / PREVIEWS / f"{block // 1000:03}" / f"{block:06}.parquet"


def fit_maps(folder: Path, photos: int) -> None:
    """Let an array of maps that is there have an entry for each of so many photos."""
    if not (folder / MAPS / ARRAY / "zarr.json").is_file():
        return
    import zarr

    with alone(folder / MAPS):
        array: Any = zarr.open_group(folder / MAPS, mode="a", zarr_format=3)[ARRAY]
        if array.shape[0] != photos:
            array.resize((photos, *array.shape[1:]))


def write_kept(folder: Path, block: int, kept: Kept, size: int) -> dict[str, str]:
    """Write what is kept of a block of so many photos; what was written, by its SHA-256.

    Every block is a file of its own, also of the array. Raises InputError.
    """
    written: dict[str, str] = {}
    if kept.previews is not None:
        path = preview_path(folder, block)
        write_atomically(path, kept.previews)
        written[path.relative_to(folder).as_posix()] = sha256_of(path)
    if kept.maps is not None:
        _write_maps(folder, kept, size)
        inner = "/".join("0" * (kept.maps.ndim - 1))
        name = f"{MAPS}/{ARRAY}/c/{block}/{inner}"
        if (folder / name).is_file():  # not where all is NaN
            written[name] = sha256_of(folder / name)
    return written


def _write_maps(folder: Path, kept: Kept, size: int) -> None:
    import zarr

    assert kept.maps is not None
    shape, end = kept.maps.shape[1:], kept.first + len(kept.maps)
    try:
        with alone(folder / MAPS):  # the array is made, and made longer, by one at a time
            group = zarr.open_group(folder / MAPS, mode="a", zarr_format=3)
            if ARRAY not in group:
                group.create_array(
                    ARRAY,
                    shape=(end, *shape),
                    chunks=(1, *shape),
                    shards=(size, *shape),
                    dtype="float32",
                    fill_value=float("nan"),
                    compressors=None,  # such numbers hardly get smaller
                )
            array: Any = group[ARRAY]
            if array.shape[1:] != shape:
                raise InputError(f"{folder / MAPS} holds maps of another size; choose a new folder")
            if array.shape[0] < end:
                array.resize((end, *shape))
        array[kept.first : end] = kept.maps
    except OSError as error:
        raise InputError(f"cannot write {folder / MAPS}: {error.strerror or error}") from error
