"""Which classes lean on the background? 10 000 garments before photographs with true masks.

Two equal networks: one learned from garments whose background gives the class away, the other from
garments whose background says nothing. Both are asked about the same test images, each on the
photo of a random class, so that only the garment tells.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import result_table
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from guidxmage.dataset import Dataset, DatasetOptions, explain_dataset
from guidxmage.dataset.summary import write_summary
from guidxmage.explainer import Explainer
from guidxmage.hardening.data.garments import Garments, build_garments, load_garments
from guidxmage.inputs.preprocessing import Preprocessing

BATCH = 64


class Asked:
    """Garments as a data set of Python: image, true label, mask."""

    def __init__(self, garments: Garments) -> None:
        self._garments = garments

    def __len__(self) -> int:
        return len(self._garments)

    def __getitem__(self, index: int) -> tuple[Any, str, Any]:
        one = self._garments.__getitems__([index])
        pixels = (one.images[0] * 255).round().byte().permute(1, 2, 0).numpy()
        return pixels, self._garments.classes[int(one.labels[0])], one.masks[0].numpy()


def network() -> nn.Module:
    """A small convolutional network for images of 32 × 32."""
    layers: list[nn.Module] = []
    before = 3
    for width, stride in ((16, 1), (32, 2), (64, 2), (64, 1)):
        conv = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def trained(garments: Garments, steps: int) -> nn.Module:
    """A network after so many steps of SGD."""
    torch.manual_seed(0)
    made = network().train()
    optimiser = torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.2, total_steps=steps)
    for _ in range(steps):
        batch = garments.__getitems__(torch.randint(len(garments), (BATCH,)).tolist())
        loss = cross_entropy(made((batch.images - 0.5) / 0.25), batch.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return made.eval()


def accuracy(made: nn.Module, garments: Garments) -> float:
    """Share of a split that is classified right."""
    right = 0
    with torch.no_grad():
        for first in range(0, len(garments), 500):
            batch = garments.__getitems__(range(first, min(first + 500, len(garments))))
            found: Tensor = made((batch.images - 0.5) / 0.25).argmax(1)
            right += int((found == batch.labels).sum())
    return right / len(garments)


def audit(folder: Path, fashion: Path | None, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the result: a network's figures, then a row a class."""
    rows: list[dict[str, Any]] = []
    asked: list[Dataset] = []
    for name, correlation in (("background tells", 0.95), ("background says nothing", 0.0)):
        data = folder / f"garments-{correlation}"
        sizes = {"train": given.train, "validation": 500, "test": given.images}
        build_garments(data, fashion, correlation=correlation, seed=0, **sizes)
        made = trained(load_garments(data, "train"), given.steps)
        test = load_garments(folder / "garments-0.95", "mixed_random")
        known = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
        explainer = Explainer(made, preprocessing=known, labels=test.classes, name=name)
        out = folder / name.replace(" ", "-")
        began = time.perf_counter()
        options = DatasetOptions(target="label")
        explain_dataset(explainer, Asked(test), out, options)
        seconds = time.perf_counter() - began
        asked.append(Dataset(out))
        own = {
            "network": name,
            "accuracy": round(accuracy(made, test), 4),
            "same": round(accuracy(made, load_garments(folder / "garments-0.95", "mixed_same")), 4),
            "images": len(test),
            "per_second": round(len(test) / seconds, 1),
        }
        rows.append(own)
        for row in asked[-1].query("background").to_json():
            rows.append({"network": name, **{k: _round(v) for k, v in row.items()}})
        print(own)
        print(asked[-1].query("background"))
        print(len(asked[-1].query("decides")), "images are decided by the background")
        rows[-11 if len(rows) > 10 else 0]["decided"] = len(asked[-1].query("decides"))
        write_summary(asked[-1])
    drift = asked[0].query("drift", asked[1])
    print(len(drift), "of the images are predicted otherwise, or lean otherwise, by the second")
    return rows


def _round(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as name:
        rows = audit(given.out or Path(name), given.fashion, given)
    if given.json:
        conditions = {"steps": given.steps, "train": given.train, "torch": torch.__version__}
        result_table.write(given.json, conditions, rows)


if __name__ == "__main__":
    main()
