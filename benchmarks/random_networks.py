"""Every claim about explanations, on random small networks.

python benchmarks/random_networks.py [--float64 500] [--float32 300] [--first 0]
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.random_networks import check


def main() -> int:
    """Runs all, prints what failed and how many did not; exit code 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--float64", type=int, default=500)
    parser.add_argument("--float32", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--certify", type=int, default=10, help="certify every so many-th")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, failed, total, worst = time.process_time(), 0, 0, 0.0
    for dtype, count in ((torch.float64, options.float64), (torch.float32, options.float32)):
        for seed in range(options.first, options.first + count):
            total += 1
            try:
                explained = check(seed, dtype)
                worst = max(worst, float(explained.residual.abs() / explained.residual_bound))
                if seed % options.certify == 0:
                    assert explained.certificate()[0].holds, "certificate"
            except Exception as error:  # all of them are told
                failed += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(f"{dtype}, seed {seed}: {type(error).__name__} {error} ({where.name})")
    seconds = time.process_time() - began
    print(
        f"{total - failed} passed, {failed} failed; largest residual / bound {worst:.2g}; "
        f"{seconds:.0f} s of processor time"
    )
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
