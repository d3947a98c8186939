"""Every piecewise-linear network, written with ReLUs alone, is still that network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from guidxmage import InputError, UnsupportedOperatorError
from guidxmage.engine.capture.capture import capture
from guidxmage.engine.linear_regions.relu_form import ReluForm, relu_form
from tests.networks import SMALL_INPUTS, SMALL_NETWORKS

NAMES = [
    "residual",
    "batch_norm_after",
    "overlapping_max_pool",
    "max_pool_ceil_mode",
    "max_pool_dilated_rectangular",
    "adaptive_max_pool",
    "average_pools",
    "amin_over_channels",
    "max_over_one_dimension",
    "relu6",
    "hardtanh",
    "clamp",
    "clamp_max",
    "leaky_relu",
    "abs",
    "prelu",
    "maximum_of_branches",
    "minimum_of_branches",
    "maximum_and_minimum_with_a_constant",
    "joined_with_a_constant",
    "reflect_and_replicate_padding",
]
FREE = 6


def written(name: str) -> tuple[nn.Module, ReluForm, torch.Tensor, torch.Tensor]:
    model = SMALL_NETWORKS[name]().double()
    shape = SMALL_INPUTS.get(name, (3, 16, 16))
    generator = torch.Generator().manual_seed(0)
    origin = torch.randn(shape, generator=generator, dtype=torch.float64)
    basis = torch.randn(FREE, *shape, generator=generator, dtype=torch.float64)
    form = relu_form(capture(model, shape), origin, basis, most=20_000)
    return model, form, origin, basis


@pytest.mark.parametrize("name", NAMES)
def test_the_form_computes_the_network(name: str) -> None:
    model, form, origin, basis = written(name)
    x = np.random.default_rng(0).normal(size=(3, FREE))
    images = origin + torch.einsum("mk,k...->m...", torch.from_numpy(x), basis)
    with torch.no_grad():
        expected = torch.cat([model(image[None]) for image in images]).numpy()
    z, values = form.run(x)
    np.testing.assert_allclose(values @ form.heads.T, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(values[:, 1 + FREE :], z.clip(0))
    for level in form.levels:  # a ReLU uses nothing of its own level or later ones
        assert not form.rows[level, 1 + FREE + level.start :].any()


def test_a_folded_form_agrees_where_the_decisions_hold() -> None:
    _, form, _, _ = written("conv1d")
    x = np.random.default_rng(1).normal(size=(1, FREE))
    z, values = form.run(x)
    decided = np.random.default_rng(2).random(len(form)) < 0.7
    folded, kept = form.folded(decided & (z[0] > 0), decided & (z[0] <= 0), form.heads)
    assert 0 < len(folded) == len(kept) == int((~decided).sum())
    other_z, other = folded.run(x)
    np.testing.assert_allclose(other @ folded.heads.T, values @ form.heads.T, rtol=1e-12)
    np.testing.assert_allclose(other_z, z[:, kept], atol=1e-12)


def test_what_cannot_be_written_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"threshold"):
        written("threshold")
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    program = capture(model.eval(), (2, 2, 2))
    basis = torch.eye(8, dtype=torch.float64).reshape(8, 2, 2, 2)
    with pytest.raises(InputError, match="more than 7 ReLUs"):
        relu_form(program, torch.zeros(2, 2, 2, dtype=torch.float64), basis, most=7)
