"""Train the colour network of the benchmark of sufficient pixels, and choose its images.

    python benchmarks/train_garments.py [--data FOLDER] [--out benchmarks/nets]

Garments of Fashion-MNIST, tinted, before pieces of three photographs that come with scikit-image
(astronaut: public domain; coffee and chelsea: CC0), which say nothing about the class: 3 × 32 × 32,
in [0, 1], see docs/garments.md. Seed 0, one thread.

`garments`: Conv(3, 32, 4, stride 2) – ReLU – Conv(32, 32, 4, stride 2) – ReLU – Linear(2048, 64) –
ReLU – Linear(64, 10): 10,304 ReLUs. Trained on adversarial images alone: PGD of 4 steps of 3/255
within l∞ 8/255 and [0, 1], batches of 250, Adam with a one-cycle rate up to 0.003. The strength
rises from 0 during the first third.

`images3.npz` holds the first 32 test images that it classifies correctly.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fashion import DEBIAN
from torch import Tensor, nn
from torch.nn import functional

from guidxmage.hardening.data.garments import build_garments, load_garments

NETS = Path(__file__).parent / "nets"
BATCH, RADIUS, STEP, STEPS = 250, 8 / 255, 3 / 255, 4
PHOTOS, TILE = ("astronaut", "coffee", "chelsea"), 150
KEPT = 32


def architecture() -> nn.Sequential:
    """The network with random weights."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def backgrounds(folder: Path) -> Path:
    """Square pieces of the photographs, which the data set takes as photographs of their own."""
    from PIL import Image
    from skimage import data

    for name in PHOTOS:
        photo = getattr(data, name)()
        for top in range(0, photo.shape[0] - TILE + 1, TILE):
            for left in range(0, photo.shape[1] - TILE + 1, TILE):
                piece = photo[top : top + TILE, left : left + TILE]
                Image.fromarray(piece).save(folder / f"{name}-{top:03}-{left:03}.png")
    return folder


def pgd(model: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int = STEPS) -> Tensor:
    """Images within l∞ distance `radius` of x that raise the cross-entropy."""
    delta = torch.zeros_like(x).uniform_(-radius, radius)
    for _ in range(steps):
        delta.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x + delta), y), delta)
        delta = (delta.detach() + min(STEP, radius) * gradient.sign()).clamp(-radius, radius)
        delta = (x + delta).clamp(0, 1) - x
    return x + delta


def train(x: Tensor, y: Tensor, epochs: int) -> nn.Sequential:
    """The network trained from seed 0."""
    torch.manual_seed(0)
    model = architecture()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    total = epochs * (len(x) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=total)
    step = 0
    for epoch in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            radius = RADIUS * min(1.0, 3 * step / total)
            images = pgd(model, x[rows], y[rows], radius) if radius else x[rows]
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(images), y[rows])
            loss.backward()
            optimiser.step()
            rate.step()
            step += 1
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
    return model.eval().requires_grad_(False)


def accuracy(model: nn.Module, x: Tensor, y: Tensor, radius: float = 0.0) -> float:
    """Share of images classified correctly, attacked by PGD-20 where `radius` is not 0."""
    right = 0
    for images, labels in zip(x.split(500), y.split(500), strict=True):
        attacked = pgd(model, images, labels, radius, 20) if radius else images
        right += int((model(attacked).argmax(1) == labels).sum())
    return right / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the colour network of 10,304 ReLUs.")
    parser.add_argument("--data", type=Path, default=DEBIAN, help=f"folder (default {DEBIAN})")
    parser.add_argument("--out", type=Path, default=NETS, help="where the files go")
    parser.add_argument("--images", type=int, default=20_000, help="for training")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args(argv)
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        photos, out = Path(made) / "photos", Path(made) / "garments"
        photos.mkdir()
        sizes = {"train": arguments.images, "validation": 1000, "test": 2000}
        build_garments(
            out, arguments.data, backgrounds=backgrounds(photos), correlation=0.0, **sizes, seed=0
        )
        own, test = load_garments(out, "train"), load_garments(out, "test")
        (x, y), (tx, ty) = ((one.images.float() / 255, one.labels) for one in (own, test))
    model = train(x, y, arguments.epochs)
    clean = accuracy(model, tx, ty)
    robust = [f"{k}/255: {accuracy(model, tx, ty, k / 255):.4f}" for k in (2, 8)]
    print(f"garments: test accuracy {clean:.4f}, under PGD-20 within l∞ {', '.join(robust)}")
    save_file(model.state_dict(), arguments.out / "garments.safetensors")
    rows = (model(tx[:200]).argmax(1) == ty[:200]).nonzero()[:KEPT, 0]
    np.savez_compressed(
        arguments.out / "images3.npz",
        images=(tx[rows] * 255).round().to(torch.uint8).numpy(),
        labels=ty[rows].to(torch.uint8).numpy(),
        index=rows.numpy().astype(np.int32),
    )


if __name__ == "__main__":
    main()
