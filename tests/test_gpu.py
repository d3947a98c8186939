"""What can be tried on a GPU alone; left out where there is none."""

from __future__ import annotations

import warnings

import pytest
import torch

from guidxmage import Explainer
from tests.networks import network, photo_batch
from tests.test_cuda_graphs import ByMask

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "efficientnet_lite0", "googlenet"])
def test_graphs_give_what_is_given_without_them(name: str) -> None:
    """Some of CUDA's kernels add in any order, so weights are compared to rounding."""
    eager, graphed = (
        Explainer(network(name), device="cuda", cuda_graphs=graphs) for graphs in (False, True)
    )
    photos = photo_batch(6, 96)
    state, stream = torch.cuda.get_rng_state(), torch.cuda.current_stream()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of what was run without a graph
        found = [graphed.explain(photos[n : n + 2], ("top", 2)) for n in (0, 2, 4)]
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.cuda.current_stream() == stream
    for n, one in zip((0, 2, 4), found, strict=True):
        other = eager.explain(photos[n : n + 2], ("top", 2))
        assert bool(one.trail.same(other.trail).all())
        assert torch.equal(one.logits, other.logits)
        size = float(other.weights.abs().max())
        assert float((one.weights - other.weights).abs().max()) <= 1e-5 * size


def test_what_waits_is_explained_without_a_graph() -> None:
    model, X = ByMask().eval(), torch.rand(3, 16, 16)
    graphed = Explainer(model, device="cuda", cuda_graphs=True)
    state, stream = torch.cuda.get_rng_state(), torch.cuda.current_stream()
    with pytest.warns(RuntimeWarning, match="without a CUDA graph"):
        one = graphed.explain(X)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.cuda.current_stream() == stream
    torch.randn(3, device="cuda")  # the generator does not wait for the end of a capture
    other = Explainer(model, device="cuda").explain(X)
    assert torch.equal(one.weights, other.weights)
