"""Random networks; all of them by `python benchmarks/random_networks.py`."""

from __future__ import annotations

import pytest
import torch

from tests.random_networks import check


@pytest.mark.parametrize("seed", range(40))
def test_in_float64(seed: int) -> None:
    explained = check(seed, torch.float64)
    if seed % 8 == 0:
        (certificate,) = explained.certificate()
        assert certificate.holds


@pytest.mark.parametrize("seed", range(25))
def test_in_float32(seed: int) -> None:
    explained = check(seed, torch.float32)
    if seed % 8 == 0:
        (certificate,) = explained.certificate()
        assert certificate.holds


@pytest.mark.parametrize("seed", range(100, 130))
def test_with_masks_and_places_computed_from_the_image(seed: int) -> None:
    explained = check(seed, torch.float64, masks=True)
    if seed % 8 == 0:
        (certificate,) = explained.certificate()
        assert certificate.holds
    check(seed, torch.float32, masks=True)
