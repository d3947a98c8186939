"""Train the two small networks of the attack benchmark, and choose its images.

    python benchmarks/train_small.py [--data FOLDER] [--out benchmarks/nets]

Both are Conv(1, 16, 4, stride 2) – ReLU – Conv(16, 32, 4, stride 2) – ReLU – Linear(1568, 64) –
ReLU – Linear(64, 10) on Fashion-MNIST in [0, 1]: 4,768 ReLUs, 109,562 parameters. Seed 0, one
thread, batches of 250, Adam with a one-cycle learning rate up to 0.004.

- `plain`: 2 epochs of cross-entropy.
- `robust`: 4 epochs on adversarial images alone (PGD: 4 steps of l2 length 0.6 from the image,
  within l2 1.5 and [0, 1]).

The images are the first 64 of the test set that both networks classify correctly.
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
EPOCHS = {"plain": 2, "robust": 4}
SAMPLES = 64


def architecture() -> nn.Sequential:
    """The network of both, with random weights."""
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


def train(x: Tensor, y: Tensor, epochs: int, robust: bool) -> nn.Sequential:
    """A network trained from seed 0."""
    torch.manual_seed(0)
    model = architecture()
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
    parser.add_argument("--data", type=Path, default=DEBIAN, help=f"folder (default {DEBIAN})")
    parser.add_argument("--out", type=Path, default=NETS, help="where the files go")
    arguments = parser.parse_args(argv)
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    x, y = load(arguments.data, "train")
    test, labels = load(arguments.data, "test")
    os.makedirs(arguments.out, exist_ok=True)
    right = torch.ones(1000, dtype=torch.bool)
    for name, epochs in EPOCHS.items():
        model = train(x, y, epochs, robust=name == "robust")
        clean, attacked = accuracy(model, test, labels), accuracy(model, test, labels, 20)
        print(f"{name}: test accuracy {clean:.4f}, under PGD-20 with l2 {RADIUS}: {attacked:.4f}")
        save_file(model.state_dict(), arguments.out / f"{name}.safetensors")
        right &= model(test[:1000]).argmax(1) == labels[:1000]
    rows = right.nonzero()[:SAMPLES, 0]
    np.savez_compressed(
        arguments.out / "images.npz",
        images=(test[rows, 0] * 255).round().to(torch.uint8).numpy(),
        labels=labels[rows].to(torch.uint8).numpy(),
        index=rows.numpy().astype(np.int32),
    )


if __name__ == "__main__":
    main()
