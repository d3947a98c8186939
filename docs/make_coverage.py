"""Writes docs/coverage.md from the rows of `guid-xmage models --check`.

guid-xmage models --check --timm --out benchmarks/results/coverage.json
python docs/make_coverage.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from guidxmage.evaluation.coverage import CoverageRow, read_rows, summary, table
from guidxmage.models import available_models
from guidxmage.models.timm_models import PREFIX, REPRESENTATIVES

PAGE = Path(__file__).with_name("coverage.md")
ROWS = Path(__file__).parent.parent / "benchmarks" / "results" / "coverage.json"
TEXT = """# Coverage

<!-- Written by `python docs/make_coverage.py`; do not edit. -->

`guid-xmage models --check --timm` explains one image with each network, in float32 and in float64:
random weights (seed 0, batch-norms calibrated, layers that begin at zero drawn anew, so that every
operator matters), the network's own input size, the best class, the default convention for smooth
operators. The network is captured once; for float64 the captured weights are widened. The residual
is |score − ΣA − b| over the largest of the three; seconds are those of one float32 explanation
after the capture, on one shared CPU core, so only their order of magnitude means anything.
Explanations `on region` hold wherever the trail is followed, `at input` for the image alone
([concepts](concepts.md#beyond-relu)).

## Bundled networks and torchvision

{torchvision}

## timm

One network, mostly the smallest, of each of timm's {families} model modules.

{timm}
"""


def section(rows: Sequence[CoverageRow], expected: Sequence[str]) -> str:
    """How many networks there are, what was refused, what was not run, and the table."""
    parts = [f"**{summary(rows)}.**"]
    refused = [row for row in rows if not row.covered]
    if refused:
        listed = "; ".join(f"{row.network}: {row.error or 'beyond its bound'}" for row in refused)
        parts.append(f"Not explained: {listed}.")
    known = {row.network for row in rows}
    missing = [name for name in expected if name not in known]
    if missing:
        parts.append(f"Not run, for want of time or memory: {', '.join(missing)}.")
    return "\n\n".join([*parts, table(sorted(rows, key=lambda row: row.network))])


def page() -> str:
    """The whole page."""
    rows = read_rows(ROWS)
    own = [row for row in rows if not row.network.startswith(PREFIX)]
    others = [
        replace(row, network=row.network.removeprefix(PREFIX))
        for row in rows
        if row.network.startswith(PREFIX)
    ]
    return TEXT.format(
        torchvision=section(own, [info.name for info in available_models()]),
        timm=section(others, REPRESENTATIVES),
        families=len(REPRESENTATIVES),
    )


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
