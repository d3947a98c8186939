"""Every reader of files of others, by name; run as a script it tells how much memory each took.

`python -m tests.reading NAME FILE [NAME FILE …]` prints a JSON line for each file: what kind of
error there was, what it said, and by how many MiB the process grew at most. Growth is that of its
address space, so that memory counts that was only asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _photos(folder: Path) -> Any:
    from guidxmage.hardening.data.image_folder import ImageFolder

    data = ImageFolder(folder, None, 8)
    data.check()
    return data


def _regions(file: Path) -> Any:
    from guidxmage.objects.label_map import read_regions

    return read_regions(file, image="photo.jpg")


def _sized_regions(file: Path) -> Any:
    from guidxmage.objects.label_map import read_regions

    return read_regions(file, image="photo.jpg", size=(4, 6))


def _weights(file: Path) -> Any:
    from guidxmage.models import read_weights

    return read_weights(file)


def _checkpoint(folder: Path) -> Any:
    from guidxmage.hardening.training.checkpoint import load_checkpoint

    return load_checkpoint(folder)


def _image(file: Path) -> Any:
    from guidxmage.inputs.photos import read_image

    return read_image(file)


def _labels(file: Path) -> Any:
    from guidxmage.models import read_labels

    return read_labels(file)


def _idx(file: Path) -> Any:
    from guidxmage.hardening.data.fashion_mnist import read_idx

    return read_idx(file)


def _masks(file: Path) -> Any:
    from guidxmage.hardening.data.cifar10 import read_masks

    return read_masks(file)


def _cifar(folder: Path) -> Any:
    from guidxmage.hardening.data.cifar10 import load_cifar10

    return load_cifar10(folder, train=False)


def _garments(folder: Path) -> Any:
    from guidxmage.hardening.data.garments import load_garments

    return load_garments(folder, "test")


def _series(folder: Path) -> Any:
    from guidxmage.hardening.samples.series import Series

    return Series.load(folder)


def _trained(folder: Path) -> Any:
    from guidxmage.hardening.training.trained import load_trained

    return load_trained(folder / "alexnet-0" / "plain")


def _huggingface(folder: Path) -> Any:
    from guidxmage.models import load_huggingface

    return load_huggingface(folder)


def _settings(file: Path) -> Any:
    from guidxmage.hardening.settings import read_settings

    return read_settings(file)


def _rows(file: Path) -> Any:
    from guidxmage.evaluation.coverage import read_rows

    return read_rows(file)


def _records(file: Path) -> Any:
    from guidxmage.evaluation.records import Records

    return Records.read(file)


READERS: dict[str, Callable[[Path], Any]] = {
    "photos": _photos,
    "regions": _regions,
    "sized regions": _sized_regions,
    "weights": _weights,
    "checkpoint": _checkpoint,
    "image": _image,
    "labels": _labels,
    "idx": _idx,
    "masks": _masks,
    "cifar": _cifar,
    "garments": _garments,
    "series": _series,
    "trained": _trained,
    "huggingface": _huggingface,
    "settings": _settings,
    "rows": _rows,
    "records": _records,
}


def refusal(name: str, path: Path) -> str | None:
    """The sentence of the package's own error, None where a file was read."""
    from guidxmage.errors import GuidXmageError

    try:
        READERS[name](path)
    except GuidXmageError as error:
        return str(error)
    return None


def peak() -> int:
    """The largest address space of the process so far, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmPeak:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("the system does not tell how large the process was")


def _main(arguments: list[str]) -> None:
    for name, path in zip(arguments[::2], arguments[1::2], strict=True):
        refusal(name, Path("there is no such file"))  # imports what it needs
        before = peak()
        try:
            said, kind = refusal(name, Path(path)), "InputError"
        except BaseException as error:
            said, kind = str(error), type(error).__name__
        print(json.dumps({"kind": kind, "said": said, "grown": peak() - before}), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
