"""How much the convention for smooth operators matters: the cosine between two Δ.

    python benchmarks/conventions.py [--networks efficientnet_b0,…] [--images 4]

Random weights with calibrated batch-norms; the best class of natural-like images, in float64.
"""

from __future__ import annotations

import argparse

import torch

from guidxmage import Explainer, load_model
from guidxmage.models.calibration import natural_like_images

NETWORKS = "efficientnet_b0,mobilenet_v3_small,regnet_y_400mf,convnext_tiny,swin_t,vit_b_16"


def cosine(name: str, images: int) -> float:
    """Mean over images of the cosine between the Δ of secants and of tangents."""
    loaded = load_model(name, weights="none")
    pixels = natural_like_images(images, 224, torch.Generator().manual_seed(0)).double()
    found = []
    for gates in ("secant", "tangent"):
        explainer = Explainer(
            loaded.model, preprocessing=loaded.preprocessing, dtype=torch.float64, gates=gates
        )
        found.append(explainer.explain(pixels).weights.flatten(1))
    return float(torch.nn.functional.cosine_similarity(*found).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--images", type=int, default=4)
    options = parser.parse_args()
    print("| network | cosine of secant and tangent Δ |\n| --- | ---: |")
    for name in options.networks.split(","):
        print(f"| {name} | {cosine(name, options.images):.2f} |", flush=True)


if __name__ == "__main__":
    main()
