"""Draws the pictures of docs/outputs.md: docs/images/outputs-*.png.

pip install facenet-pytorch --no-deps  # MTCNN with its weights
python docs/make_outputs.py
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from skimage import data
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, Preprocessing
from guidxmage.models import import_torchvision, load_model
from guidxmage.outputs import Box, Boxes, BoxSide, Embedding, Mask, Segmentation, Similarity
from guidxmage.view import whole_image

DOCS = Path(__file__).parent
PHOTOS = DOCS.parent / "examples"
FACE = (130, 40, 260, 170)  # of the photo: what O-Net is given, the face not in its middle
MTCNN = {"mean": (0.5,) * 3, "std": (128 / 255,) * 3}
SIDES = ("left", "top", "right", "bottom")
Sides = tuple[float, float, float, float]


@dataclass
class Part:
    """One picture of a row; title above it, words below; boxes and areas are outlined."""

    picture: npt.NDArray[np.uint8]
    title: str
    words: str
    boxes: Sequence[Sides] = ()
    area: npt.NDArray[np.bool_] | None = None


def drawn(parts: Sequence[Part], name: str, *, height: float = 2.9) -> None:
    """A row of pictures as a small file."""
    widths = [part.picture.shape[1] / part.picture.shape[0] for part in parts]
    figure = Figure(figsize=(sum(widths) * 2.2 + 0.1 * len(parts), height))
    grid = figure.subplots(1, len(parts), width_ratios=widths, squeeze=False)[0]
    for axes, part in zip(grid, parts, strict=True):
        down, across = part.picture.shape[:2]
        extent = (0, across, down, 0)
        axes.imshow(part.picture, extent=extent, interpolation="nearest")
        for left, top, right, bottom in part.boxes:
            for colour, width in (("white", 2.6), ("black", 1.2)):
                place = (left, top), right - left, bottom - top
                axes.add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=width))
        if part.area is not None:
            rows, columns = (np.arange(n) + 0.5 for n in part.area.shape)
            axes.contour(columns, rows, part.area, [0.5], colors="black", linewidths=1.2)
        axes.set(xlim=(0, across), ylim=(down, 0), xticks=[], yticks=[])
        axes.set_title(part.title, fontsize=9, loc="left")
        axes.text(0, -0.04, part.words, fontsize=8, va="top", transform=axes.transAxes)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.19, wspace=0.06)
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=110)
    shown = Image.open(raw).convert("RGB").quantize(224, dither=Image.Dither.NONE)
    shown.save(DOCS / "images" / name, optimize=True)


def mapped(found: Explanation) -> npt.NDArray[np.uint8]:
    """The whole map over the picture."""
    (panel,) = found.panels()
    assert panel.image is not None
    return whole_image(panel.depths[0], np.asarray(panel.image.convert("RGB")))


def shares(found: Explanation) -> str:
    """What lies inside, near, elsewhere, and what has no place, in a few lines."""
    table = found.objects()
    unit = "" if found.meaning is None or not found.meaning.unit else f" {found.meaning.unit}"
    rows = {row.name: row.whole or 0.0 for row in table}
    rows = {name: rows[name] for name in ("inside", "near", "elsewhere") if name in rows}
    rows["no place"] = float(found.at().unplaced)
    words = [f"{name} {value:+.2f}".replace("-", "−") for name, value in rows.items()]
    halves = [", ".join(words[:2]), ", ".join(words[2:])]
    return f"{float(found.score):.2f}{unit} =\n" + ",\n".join(filter(None, halves))


# --- MTCNN -------------------------------------------------------------------------------------


def cells(output: tuple[Tensor, Tensor]) -> Tensor:
    """P-Net's boxes: a cell of 12 pixels at every second one, moved by the offsets."""
    offsets = output[0]
    rows, columns = (torch.arange(n, dtype=offsets.dtype) for n in offsets.shape[2:])
    y, x = torch.meshgrid(2 * rows + 1, 2 * columns + 1, indexing="ij")
    corners = torch.stack([x, y, x + 11, y + 11], -1).reshape(-1, 4)
    return corners + 11 * offsets.flatten(2).mT


def margin(logits: Tensor) -> Tensor:
    """Face rather than no face, (B, N, 1)."""
    flat = logits.flatten(2) if logits.ndim > 2 else logits[..., None]
    return (flat[:, 1:] - flat[:, :1]).mT


def one_box(output: tuple[Tensor, ...]) -> Tensor:
    """O-Net's: its input of 48 pixels, moved by the offsets."""
    return (48 * output[0] + 48 * torch.tensor([0.0, 0, 1, 1]).to(output[0]))[:, None]


def network(name: str, softmax: str, size: int, boxes: Callable[..., Tensor]) -> Explainer:
    """One of MTCNN's, logits in place of its softmax."""
    from facenet_pytorch.models import mtcnn

    model = getattr(mtcnn, name)()
    setattr(model, softmax, nn.Identity())
    output = Boxes(boxes, lambda o: margin(o[-1]), threshold=float(np.log(0.6 / 0.4)))
    seen = Preprocessing(resize=(size, size), **MTCNN)
    return Explainer(model.eval(), preprocessing=seen, output=output, labels=["face"], name=name)


def faces() -> None:
    """A face is found, and where its box ends."""
    photo = Image.fromarray(data.astronaut())
    first = network("PNet", "softmax4_1", 92, cells)
    found = first.explain(photo, Box(0), depth=2)
    boxes = [
        one.meaning.box
        for one in first.explain(photo, ("targets", [Box(n) for n in range(4)])).split()
    ]
    parts = [
        Part(
            np.asarray(found.picture()),
            "(a) P-Net, the four best boxes",
            "each a cell of 12 pixels\nthat is moved and resized",
            boxes,
        )
    ]
    second, crop = network("ONet", "softmax6_1", 48, one_box), photo.crop(FACE)
    asked = [("(c) that it is a face", Box(0)), ("(d) where its left side is", BoxSide(0, "left"))]
    for title, target in asked:
        one = second.explain(crop, target, depth="prelu3")
        boxes = [one.meaning.box]
        if len(parts) == 1:
            words = "48 × 48 pixels, the box\nthat it makes of them"
            parts.append(Part(np.asarray(one.picture()), "(b) O-Net's input", words, boxes))
        parts.append(Part(mapped(one), title, shares(one), boxes))
    drawn(parts, "outputs-faces.png")


# --- EfficientNet-Lite0 ------------------------------------------------------------------------


class Dense(nn.Module):
    """The classifier at every place, before the average is taken."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.features = nn.Sequential(model.stem, model.blocks, model.head)
        self.classifier = model.classifier

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, (B, classes, h, w)."""
        scores: Tensor = self.classifier(self.features(x).movedim(1, -1))
        return scores.movedim(-1, 1)


class Tower(nn.Module):
    """The features behind the average."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.features = nn.Sequential(model.stem, model.blocks, model.head)

    def forward(self, x: Tensor) -> Tensor:
        """A vector for each image, (B, n)."""
        return self.features(x).mean((2, 3))


def square(path: Path) -> Image.Image:
    """The middle of a photo."""
    photo = Image.open(path).convert("RGB")
    side = min(photo.size)
    left, top = ((n - side) // 2 for n in photo.size)
    return photo.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)


def two_photos() -> tuple[Image.Image, Image.Image, Image.Image]:
    """A cat, a cup, and the one beside the other."""
    cat, cup = square(PHOTOS / "chelsea.png"), square(PHOTOS / "coffee.png")
    both = Image.new("RGB", (448, 224))
    both.paste(cat, (0, 0))
    both.paste(cup, (224, 0))
    return cat, cup, both


def places() -> None:
    """What the network sees where."""
    loaded = load_model("efficientnet_lite0")
    both = two_photos()[2]
    seen = replace(loaded.preprocessing, resize=(224, 448), crop=None)
    explainer = Explainer(
        Dense(loaded.model).eval(),
        preprocessing=seen,
        labels=loaded.labels,
        output=Segmentation(),
    )
    half = np.zeros((224, 448), dtype=bool)
    half[:, :224] = True
    cat = Mask(half, "Egyptian cat", against="espresso")
    parts = []
    for title, target in (
        ("(a) espresso rather than the runner-up, where it is seen", Mask("espresso")),
        ("(b) cat rather than espresso, over the left half", cat),
    ):
        found = explainer.explain(both, target, depth="default")
        words = shares(found).replace(",\n", ", ")
        parts.append(Part(mapped(found), title, words, area=found.regions().labels == 1))
    drawn(parts, "outputs-places.png", height=2.8)


def likeness() -> None:
    """Why two photos side by side are like the one rather than like the other."""
    loaded = load_model("efficientnet_lite0")
    cat, cup, both = two_photos()
    tower = Tower(loaded.model).eval()
    alone = Explainer(tower, preprocessing=loaded.preprocessing, output=Embedding())
    seen = replace(loaded.preprocessing, resize=(224, 448), crop=None)
    wide = Explainer(tower, preprocessing=seen, output=Embedding())
    a, b = alone.logits([cup, cat])
    found = wide.explain(both, Similarity(a, b), depth="default")
    map_ = found.at().smoothed()
    left, right = (float(half.sum()) for half in (map_[:, :224], map_[:, 224:]))
    score = float(found.score)
    words = f"{score:+.2f} = on the cat {left:+.2f}, on the cup {right:+.2f}".replace("-", "−")
    parts = [
        Part(np.asarray(cup), "(a) like this photo …", ""),
        Part(np.asarray(cat), "(b) … rather than this", ""),
        Part(mapped(found), "(c) what makes both photos together so", words),
    ]
    drawn(parts, "outputs-likeness.png", height=2.7)


def main() -> None:
    """Draw them all."""
    import_torchvision()
    faces()
    places()
    likeness()


if __name__ == "__main__":
    main()
