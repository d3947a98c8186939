"""Writes docs/coverage.md from the rows of `guid-xmage models --check`.

guid-xmage models --check --out benchmarks/results/coverage.json && python docs/make_coverage.py
"""

from __future__ import annotations

from pathlib import Path

from guidxmage.coverage import read_rows, summary, table

PAGE = Path(__file__).with_name("coverage.md")
ROWS = Path(__file__).parent.parent / "benchmarks" / "results" / "coverage.json"
TEXT = """# Coverage

<!-- Written by `python docs/make_coverage.py`; do not edit. -->

`guid-xmage models --check` explains one image with each network, in float32 and in float64: random
weights (seed 0, batch-norms calibrated, layers that begin at zero drawn anew, so that every
operator matters), the network's own input size, the best class, the default convention for smooth
operators. The residual is |score − ΣA − b| over the largest of the three; seconds are those of one
float32 explanation after the capture, on one shared CPU core, so only their order of magnitude
means anything. Explanations `on region` hold wherever the trail is followed, `at input` for the
image alone ([concepts](concepts.md#beyond-relu)). Networks with 300 million parameters and more
(regnet_y_128gf, vit_h_14, vit_l_16, vit_l_32) were left out of this run: no memory, no time.

**{summary}.**

{table}
"""


def main() -> None:
    """Write the page."""
    rows = read_rows(ROWS)
    PAGE.write_text(TEXT.format(summary=summary(rows), table=table(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
