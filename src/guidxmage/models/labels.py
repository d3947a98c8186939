"""Class names: ImageNet-1k's, those of two small data sets, and the user's own files.

``imagenet_classes.txt`` holds the names that torchvision publishes with its weights
(``torchvision.models._meta``, BSD-3-Clause, Copyright (c) Soumith Chintala 2016), one per line in
the order of the class indices.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from guidxmage.errors import InputError
from guidxmage.files.untrusted import parsed_json, read_text

_LARGEST = 2**24

CIFAR10_LABELS = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
FASHION_MNIST_LABELS = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 ImageNet-1k class names, in the order of the class indices."""
    file = resources.files("guidxmage.models") / "imagenet_classes.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names from a file: text with one name per line, or JSON.

    The JSON is a list of names or an object {index: name} with the indices 0, 1, 2, … Raises
    InputError for a file that is missing, empty or holds something else.
    """
    file = Path(path)
    if file.suffix.lower() not in (".txt", ".json"):
        raise InputError(f"{file} cannot hold class names; give a .txt or .json file")
    try:
        text = read_text(file, _LARGEST).removeprefix("\ufeff")
    except InputError as error:
        raise InputError(f"class names cannot be read from {file}: {error}") from None
    is_json = file.suffix.lower() == ".json"
    names = _from_json(text, file) if is_json else [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise InputError(f"{file} holds no class names")
    if "" in names:
        raise InputError(f"{file} has no name for class {names.index('')}; give every class one")
    return tuple(names)


def _from_json(text: str, file: Path) -> list[str]:
    content = parsed_json(text, str(file))
    if isinstance(content, dict):
        content = _in_order(content, file)
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise InputError(
            f"{file} must hold a list of class names or an object that maps class indices to names"
        )
    return [name.strip() for name in content]


def _in_order(by_index: dict[str, Any], file: Path) -> list[Any]:
    indices = [str(number) for number in range(len(by_index))]
    missing = next((index for index in indices if index not in by_index), None)
    if missing is not None:
        raise InputError(
            f"{file} names {len(by_index)} classes but none of them has the index {missing}; "
            "count them from 0"
        )
    return [by_index[index] for index in indices]
