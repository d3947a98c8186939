"""Train the small networks of the benchmarks of attacks and sufficient pixels; choose images.

    python benchmarks/train_small.py [--networks plain,robust,small,…] [--data FOLDER]
                                     [--out benchmarks/nets]

All are trained on Fashion-MNIST in [0, 1]: seed 0, one thread, batches of 250, Adam with a
one-cycle learning rate up to 0.004.

- `plain`, `robust`: Conv(1, 16, 4, stride 2) – ReLU – Conv(16, 32, 4, stride 2) – ReLU –
  Linear(1568, 64) – ReLU – Linear(64, 10): 4,768 ReLUs, 109,562 parameters.
- `lenet`: Conv(1, 8, 5) – max-pool – ReLU – Conv(8, 16, 5) – max-pool – ReLU – Linear(400, 64) –
  ReLU – Linear(64, 10).
- `small`, `small_plain`: Conv(1, 12, 4, stride 4) – ReLU – Linear(588, 64) – ReLU –
  Linear(64, 10): 652 ReLUs.
- `residual`: Conv(1, 8, 3, stride 2) – two residual blocks of 8 and 16 channels – Linear(784, 10),
  with batch-norm after every convolution.

`plain` and `small_plain` have 2 epochs of cross-entropy; the others are trained on adversarial
images alone (PGD: 4 steps of l2 length 0.6 from the image, within l2 1.5 and [0, 1]), for 4 epochs,
`lenet` and `residual` for 3.

The images of `plain` and `robust` are the first 64 of the test set that both classify correctly
(`images.npz`), those of `lenet` and `residual` the first 32 that these two do (`images2.npz`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fashion import DEBIAN, load
from torch import Tensor, nn
from torch.nn import functional

NETS = Path(__file__).parent / "nets"
BATCH, RADIUS, STEP, STEPS = 250, 1.5, 0.6, 4
EPOCHS = {"plain": 2, "robust": 4, "lenet": 3, "residual": 3, "small": 4, "small_plain": 2}
# Files of images, how many, and the networks that classify them correctly.
IMAGES = {"images.npz": (64, ("plain", "robust")), "images2.npz": (32, ("lenet", "residual"))}


def architecture(name: str) -> nn.Sequential:
    """A network with random weights."""
    if name == "lenet":
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(400, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
    if name in ("small", "small_plain"):
        return nn.Sequential(
            nn.Conv2d(1, 12, 4, 4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(588, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
    if name == "residual":
        start = nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        blocks = Residual(8, 8, 1), Residual(8, 16, 2)
        return nn.Sequential(*start, *blocks, nn.Flatten(), nn.Linear(784, 10))
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Residual(nn.Module):
    """Two convolutions with batch-norm, added to the input or to a 1 × 1 convolution of it."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.around = nn.Sequential()
        if stride > 1 or channels != out:
            shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.around = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) + self.around(x)).relu()


def pgd(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Images within l2 distance RADIUS of x that raise the cross-entropy."""
    delta = torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x + delta), y), delta)
        delta = delta.detach() + STEP * gradient / _length(gradient).clamp_min(1e-12)
        delta = delta * (RADIUS / _length(delta)).clamp(max=1)
        delta = (x + delta).clamp(0, 1) - x
    return x + delta


def _length(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def train(name: str, x: Tensor, y: Tensor) -> nn.Sequential:
    """A network trained from seed 0."""
    torch.manual_seed(0)
    model, epochs, robust = architecture(name), EPOCHS[name], not name.endswith("plain")
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 4e-3, total_steps=epochs * (len(x) // BATCH)
    )
    for epoch in range(epochs):
        order = torch.randperm(len(x))
        for rows in order.split(BATCH):
            images = pgd(model, x[rows], y[rows], STEPS) if robust else x[rows]
            optimiser.zero_grad()
            functional.cross_entropy(model(images), y[rows]).backward()
            optimiser.step()
            rate.step()
        print(f"epoch {epoch + 1} of {epochs}", flush=True)
    return model.eval().requires_grad_(False)


def accuracy(model: nn.Module, x: Tensor, y: Tensor, steps: int = 0) -> float:
    """Share of images classified correctly, on PGD images where `steps` is not 0."""
    right = 0
    for images, labels in zip(x.split(1000), y.split(1000), strict=True):
        attacked = pgd(model, images, labels, steps) if steps else images
        right += int((model(attacked).argmax(1) == labels).sum())
    return right / len(x)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the attack benchmark's small networks.")
    parser.add_argument("--networks", default=",".join(EPOCHS), help="names, separated by commas")
    parser.add_argument("--data", type=Path, default=DEBIAN, help=f"folder (default {DEBIAN})")
    parser.add_argument("--out", type=Path, default=NETS, help="where the files go")
    arguments = parser.parse_args(argv)
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    x, y = load(arguments.data, "train")
    test, labels = load(arguments.data, "test")
    os.makedirs(arguments.out, exist_ok=True)
    right: dict[str, Tensor] = {}
    for name in arguments.networks.split(","):
        model = train(name, x, y)
        clean, attacked = accuracy(model, test, labels), accuracy(model, test, labels, 20)
        print(f"{name}: test accuracy {clean:.4f}, under PGD-20 with l2 {RADIUS}: {attacked:.4f}")
        save_file(model.state_dict(), arguments.out / f"{name}.safetensors")
        right[name] = model(test[:1000]).argmax(1) == labels[:1000]
    for file, (count, names) in IMAGES.items():
        if not set(names) <= set(right):
            continue
        rows = torch.stack([right[name] for name in names]).all(0).nonzero()[:count, 0]
        np.savez_compressed(
            arguments.out / file,
            images=(test[rows, 0] * 255).round().to(torch.uint8).numpy(),
            labels=labels[rows].to(torch.uint8).numpy(),
            index=rows.numpy().astype(np.int32),
        )


if __name__ == "__main__":
    main()
