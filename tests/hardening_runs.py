"""An experiment that torchrun starts on several processes; the argument is its folder."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from guidxmage.hardening.data.splits import Splits
from guidxmage.hardening.experiment import run
from tests.test_hardening import MINIATURE, SMALL, shapes

if __name__ == "__main__":
    kinds = [shapes(120, 0), *(shapes(40, seed) for seed in range(1, 5))]
    few = replace(
        MINIATURE,
        arms=("plain", "longer", "ours", "series"),
        plain_steps=4,
        retrain_steps=2,
        effort=replace(SMALL, images=4, parts=("background",), budget=0),
    )
    run(few, Splits(*kinds), Path(sys.argv[1]))
