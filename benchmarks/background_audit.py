"""Which classes lean on the background? 9,999 garments before photographs with true masks.

Two equal networks: one learned from garments whose background gives the class away, the other from
garments whose background says nothing. Both are asked about the same test images, each on the
photo of a random class, so that only the garment tells.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import result_table
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from guidxmage.dataset import Dataset, DatasetOptions, explain_dataset
from guidxmage.dataset.summary import write_summary
from guidxmage.explainer import Explainer
from guidxmage.hardening.data.garments import Garments, build_garments, load_garments
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.jobs.explain_notable import explain_notable

BATCH = 64
# How the backgrounds of the training images were drawn: of the own class with this probability.
TELLS, SAYS_NOTHING = "background tells", "background says nothing"
CORRELATIONS = {TELLS: 0.95, SAYS_NOTHING: 0.0}
COLOURS = ("#c44e52", "#8fb4d9")


def save(garments: Garments, folder: Path) -> tuple[Path, Path]:
    """Images as PNG files in class folders, and masks in a mirror of them."""
    photos, masks = folder / "photos", folder / "masks"
    for first in range(0, len(garments), 500):
        numbers = range(first, min(first + 500, len(garments)))
        batch = garments.__getitems__(numbers)
        pixels = (batch.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for number, image, label, mask in zip(
            numbers, pixels, batch.labels, batch.masks, strict=True
        ):
            name = f"{garments.classes[int(label)].replace('/', ' or ')}/{number:05}.png"
            for root, values in ((photos, image), (masks, mask.byte().numpy())):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(root / name)
    return photos, masks


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


def audit(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the result: a network's figures, then a row a class."""
    rows: list[dict[str, Any]] = []
    asked: list[Dataset] = []
    sizes = {"train": given.train, "validation": 500, "test": given.images}
    for correlation in CORRELATIONS.values():
        data = folder / f"garments-{correlation}"
        build_garments(data, given.fashion, correlation=correlation, seed=0, **sizes)
    told = folder / f"garments-{CORRELATIONS[TELLS]}"
    test, same = (load_garments(told, split) for split in ("mixed_random", "mixed_same"))
    photos, masks = save(test, folder)
    for name, correlation in CORRELATIONS.items():
        made = trained(load_garments(folder / f"garments-{correlation}", "train"), given.steps)
        labels = [one.replace("/", " or ") for one in test.classes]
        known = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
        explainer = Explainer(made, preprocessing=known, labels=labels, name=name)
        options = DatasetOptions(target="label", objects=masks)
        out = folder / name.replace(" ", "-")
        result = explain_dataset(explainer, photos, out, options)
        asked.append(Dataset(out))
        own = {
            "kind": "network",
            "network": name,
            "accuracy": round(accuracy(made, test), 4),
            "same": round(accuracy(made, same), 4),
            "images": len(test),
            "per_second": round(len(test) / result.seconds, 1),
            "decided": len(asked[-1].query("decides")),
        }
        classes = asked[-1].query("background")
        rows.append(own)
        for row in classes.to_json():
            plain = {key: _round(value) for key, value in row.items()}
            rows.append({"kind": "class", "network": name, **plain})
        print(own, classes, sep="\n")
        explain_notable(asked[-1], explainer, given.explain, say=print)
        write_summary(asked[-1])
    drift = asked[0].query("drift", asked[1])
    rows.append({"kind": "drift", "images": len(drift)})
    print(len(drift), "of the images are predicted otherwise, or lean otherwise, by the second")
    return rows


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of each class for both networks, with their intervals and the share of the area."""
    from matplotlib.figure import Figure

    classes = [row for row in rows if row.get("kind") == "class"]
    names = [row["class"] for row in classes if row["network"] == TELLS][::-1]
    drawn = Figure(figsize=(8, 4.2), layout="constrained")
    axes = drawn.subplots()
    for number, (network, colour) in enumerate(zip(CORRELATIONS, COLOURS, strict=True)):
        of = {row["class"]: row for row in classes if row["network"] == network}
        places = [place + 0.2 - 0.4 * number for place in range(len(names))]
        shares = [of[name]["background"] for name in names]
        half = [of[name]["to"] - of[name]["background"] for name in names]
        style = {"height": 0.38, "color": colour, "ecolor": "#333333", "capsize": 2}
        axes.barh(places, shares, xerr=half, label=f"trained where the {network}", **style)
    areas = [next(row["area"] for row in classes if row["class"] == name) for name in names]
    axes.plot(
        areas, range(len(names)), "k|", markersize=16, label="the background's share of the area"
    )
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the background in what adds to the true class's score")
    figures = axes.get_legend_handles_labels()
    drawn.legend(*figures, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    drawn.savefig(path, dpi=130, metadata={"Software": None})


def told(rows: list[dict[str, Any]]) -> str:
    """The page's tables."""
    networks = [row for row in rows if row["kind"] == "network"]
    lines = ["| trained where the | accuracy, own backgrounds | random ones | decided by the "]
    lines[0] += "background | images a second |"
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for row in networks:
        same, random = (f"{100 * row[key]:.1f} %" for key in ("same", "accuracy"))
        decided = f"{100 * row['decided'] / row['images']:.0f} %"
        cells = (row["network"], same, random, decided, f"{row['per_second']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| class | background tells | background says nothing | share of the area |"]
    lines.append("| --- | ---: | ---: | ---: |")
    of: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in CORRELATIONS}
    for row in rows:
        if row["kind"] == "class":
            of[row["network"]][row["class"]] = row
    for name, row in of[TELLS].items():
        both = (row, of[SAYS_NOTHING][name])
        shares = [f"{one['background']:.3f} ± {one['to'] - one['background']:.3f}" for one in both]
        lines.append(f"| {name} | {shares[0]} | {shares[1]} | {row['area']:.3f} |")
    lines += [f"\n{row['images']} images differ" for row in rows if row["kind"] == "drift"]
    return "\n".join(lines)


def _round(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--images", type=int, default=9_999)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--explain", type=int, default=20, help="photos that are shown again")
    parser.add_argument("--out", type=Path, help="keep photos, masks, data sets and pages here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--table", action="store_true", help="print what the file of --json has")
    given = parser.parse_args()
    if given.table:
        print(told(result_table.read(given.json)[1]))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as name:
        rows = audit(given.out or Path(name), given)
    if given.figure:
        figure(rows, given.figure)
    if given.json:
        conditions = {"steps": given.steps, "train": given.train, "torch": torch.__version__}
        result_table.write(given.json, conditions, rows)


if __name__ == "__main__":
    main()
