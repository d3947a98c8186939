"""The numbers that a viewer shows, beside NumPy's of the same scene, to the printed digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from guidxmage.attribution.placement import smoothed
from guidxmage.view.colors import color_index, shared_scale
from guidxmage.viewer.scene import Scene
from tests.browsing import until

BANDS = ["subtracts strongly", "subtracts", "calm", "adds", "adds strongly"]


def printed(value: float) -> str:
    return format(float(value), ".6g").replace("-", "−")


def contributions(scene: Scene, number: int = 0) -> Any:
    """A, as the viewer has it."""
    stored = scene.arrays.get(f"contributions.{number}")
    if stored is not None:
        return stored
    counted = scene.arrays["input"]
    if "reference" in scene.arrays:
        counted = counted - scene.arrays["reference"]
    return scene.arrays[f"weights.{number}"] * counted


def check_pixels(page: Any, scene: Scene, count: int = 50) -> None:
    """Hover so many pixels of the first target, and compare every number under the cursor."""
    depth = scene.manifest["depth"]
    A = contributions(scene)
    pixels = A.astype(np.float64).sum(0)
    bands = color_index(pixels, shared_scale([pixels]))
    box = page.locator("[data-gx=stage]").bounding_box()
    place = page.locator("[data-gx=cursor]")
    until(page, "document.querySelector('[data-gx=cursor] [data-value=sum]').textContent !== '–'")
    rng = np.random.default_rng(0)
    seen = set()
    height, width = scene.manifest["size"]
    side = min(box["width"] / width, box["height"] / height) * 0.95
    while len(seen) < count:
        row, column = int(rng.integers(height)), int(rng.integers(width))
        x = box["x"] + box["width"] / 2 + (column + 0.5 - width / 2) * side
        y = box["y"] + box["height"] / 2 + (row + 0.5 - height / 2) * side
        page.mouse.move(x, y)
        found = place.evaluate(
            "element => Object.fromEntries([...element.querySelectorAll('[data-value]')]"
            ".map((cell) => [cell.dataset.value, cell.textContent]))"
        )
        row, column = int(found["row"]), int(found["column"])
        seen.add((row, column))
        wanted = {
            "sum": printed(pixels[row, column]),
            "placed": printed(scene.arrays[f"placed.0.{depth}"][row, column]),
            "whole": printed(scene.arrays[f"whole.0.{depth}"][row, column]),
            "band": BANDS[bands[row, column]],
        }
        for channel, color in enumerate(("red", "green", "blue")):
            wanted[color] = str(scene.arrays["picture"][row, column, channel])
            wanted[f"weights.{channel}"] = printed(scene.arrays["weights.0"][channel, row, column])
            wanted[f"contributions.{channel}"] = printed(A[channel, row, column])
        assert {name: found[name] for name in wanted} == wanted, (row, column)


def random_areas(size: Sequence[int], count: int = 20) -> list[Any]:
    """Rectangles, some of which overlap."""
    rng = np.random.default_rng(1)
    masks = []
    for _ in range(count):
        top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
        mask = np.zeros(size, dtype=int)
        mask[top : top + rng.integers(2, 12), left : left + rng.integers(2, 14)] = 1
        masks.append(mask)
    return masks


def areas_address(masks: Sequence[Any]) -> str:
    """What the address has of areas "area0", "area1", …"""
    return "a=" + "!".join(f"area{number}~{_packed(mask)}" for number, mask in enumerate(masks))


def _packed(mask: Any) -> str:
    """Run lengths in pairs, in the base 36."""
    flat = mask.ravel()
    ends = np.flatnonzero(np.diff(flat, prepend=0))
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    pairs = [runs[at : at + 2] for at in range(0, len(runs), 2)]
    return "-".join(".".join(np.base_repr(run, 36).lower() for run in pair) for pair in pairs)


def check_areas(page: Any, scene: Scene, masks: Sequence[Any]) -> None:
    """Compare every sum of the table, when the areas are those of `areas_address`."""
    depth = scene.manifest["depth"]
    page.wait_for_selector(f"[data-gx=areas] [data-area=area{len(masks) - 1}] [data-value=whole]")
    until(
        page,
        "document.querySelector('[data-area=total] [data-value=whole]')?.textContent.length > 1",
    )
    found = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('[data-gx=areas] [data-area]')].map("
        "(row) => [row.dataset.area, Object.fromEntries([...row.querySelectorAll('[data-value]')]"
        ".map((cell) => [cell.dataset.value, cell.textContent]))]))"
    )
    pixels = contributions(scene).astype(np.float64).sum(0)
    placed = scene.arrays[f"placed.0.{depth}"].astype(np.float64)
    sigma = scene.manifest["depths"][depth]["sigma"]
    whole = smoothed(torch.from_numpy(scene.arrays[f"whole.0.{depth}"].copy()), sigma).numpy()
    free = np.ones(pixels.shape, dtype=bool)
    rows = {}
    for number, mask in enumerate(masks):
        rows[f"area{number}"] = free & (mask > 0)
        free &= mask == 0
    rows["rest"] = free
    for name, inside in rows.items():
        own = pixels[inside]
        assert found[name] == {
            "pixels": str(int(inside.sum())),
            "sum": printed(own.sum()),
            "placed": printed(placed[inside].sum()),
            "whole": printed(whole[inside].sum()),
            "positive": printed(own[own > 0].sum()),
            "negative": printed(own[own < 0].sum()),
        }, name
    score = float(found["total"]["whole"].replace("−", "-"))
    assert score == pytest.approx(scene.manifest["targets"][0]["score"], rel=1e-5)
