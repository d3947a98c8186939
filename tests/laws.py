"""The laws that every rule obeys, as functions that raise AssertionError when one is broken."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from guidxmage import Explainer, Explanation
from guidxmage.engine.capture.capture import capture
from guidxmage.engine.program.plain import PlainProgram
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Pulled, Recording
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import UnsupportedOperatorError


def close(a: Tensor, b: Tensor, relative: float = 1e-12) -> None:
    """Equal to rounding in float64, relative to the larger of the two."""
    size = max(float(a.abs().max()), float(b.abs().max()), 1e-30)
    error = float((a - b).abs().max()) / size
    assert error <= relative, f"relative error {error:.1e}"


def random_like(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def captured(module: torch.nn.Module, x: Tensor) -> tuple[Program, Recording]:
    """The program of a module whose output is flattened to (B, n), and its recording on x."""
    network = torch.nn.Sequential(module, torch.nn.Flatten()).double().eval()
    network.register_buffer("_float64", x.new_zeros(0))  # where the module has no weights
    program = capture(network, x)
    return program, program.record(x if program.batched else x[:1])


def check_all(module: torch.nn.Module, x: Tensor, seed: int = 0) -> None:
    """Every law for one module and one batch of images x (B ≥ 2) without ties."""
    module = module.double().eval()
    program, recording = captured(module, x)
    if not program.batched and len(x) > 1:
        for row in range(len(x)):
            check_all(module, x[row : row + 1], seed)
        return
    assert torch.equal(recording.logits, module(x.clone()).flatten(1).detach()), "not bit-equal"
    check_push(program, recording, x, seed)
    check_adjoint(program, recording, x, seed)
    check_bias(program, recording, x, seed)
    check_jacobian(module, program, recording, x)
    check_rows(program, recording, x, seed)
    check_combinations(module, program, x, seed)
    check_plain(program, x, seed)


def check_push(program: Program, recording: Recording, x: Tensor, seed: int) -> None:
    """Push is linear, and with the constants it reproduces the network along its own trail."""
    u, v = (random_like(tuple(x.shape), seed + i) for i in (1, 2))
    push = lambda d: program.push(recording.trail, d)  # noqa: E731
    close(push(2 * u - 3 * v), 2 * push(u) - 3 * push(v), 1e-11)
    close(program.push(recording.trail, x, affine=True), recording.logits, 1e-11)


def check_adjoint(program: Program, recording: Recording, x: Tensor, seed: int) -> None:
    """⟨push v, u⟩ = ⟨v, pull u⟩ for every image, also with three targets stacked."""
    v = random_like(tuple(x.shape), seed + 3)
    u = random_like((3, *recording.logits.shape), seed + 4)
    pulled = program.pull(recording.trail, u.flatten(0, 1)).weights.unflatten(0, (3, len(x)))
    left = (program.push(recording.trail, v) * u).sum(-1)
    right = (pulled * v).flatten(2).sum(-1)
    size = float((pulled.abs() * v.abs()).sum()) + 1e-30
    assert float((left - right).abs().max()) <= 1e-12 * size, "adjoint identity"


def check_bias(program: Program, recording: Recording, x: Tensor, seed: int) -> None:
    """Σ bias over call sites = ⟨u, symbolic execution at zero⟩."""
    u = random_like(tuple(recording.logits.shape), seed + 5)
    pulled = program.pull(recording.trail, u)
    bias = sum(pulled.bias_by_site.values(), torch.zeros(len(x), dtype=torch.float64))
    at_zero = program.push(recording.trail, torch.zeros_like(x), affine=True)
    expected = (u * at_zero).sum(1)
    size = float((u * at_zero).abs().sum()) + float(recording.logits.abs().max()) + 1e-30
    assert float((bias - expected).abs().max()) <= 1e-11 * size, "bias"


def check_jacobian(
    module: torch.nn.Module, program: Program, recording: Recording, x: Tensor
) -> None:
    """The pull of every unit vector is a row of autograd's dense Jacobian."""
    outputs = recording.logits.shape[1]
    for row in range(len(x)):
        one = x[row : row + 1]
        dense = torch.autograd.functional.jacobian(
            lambda z: module(z.clone()).flatten(1)[0], one, vectorize=False
        )[:, 0]
        identity = torch.eye(outputs, dtype=torch.float64)
        pulled = program.pull(recording.trail.image(row), identity).weights
        scale = max(float(dense.abs().max()), 1e-30)
        assert float((pulled - dense).abs().max()) <= 1e-12 * scale, "dense Jacobian"


def explained_right(model: torch.nn.Module, X: Tensor) -> None:
    """Weights, bias and score of all classes against autograd's Jacobian, for a batch and alone.

    X: images (B, …) in float64. Also with one class and one image, which runs differently.
    """
    explainer = Explainer(model)
    for images in (X, *X[:, None]):
        together = explainer.explain(images, target="all")
        _right(model, together, images)
        for row, image in enumerate(images):
            alone = explainer.explain(image, target=1)
            assert torch.allclose(alone.weights, together.weights[row, 1], rtol=1e-10, atol=1e-13)
            assert torch.allclose(alone.bias, together.bias[row, 1], rtol=1e-10, atol=1e-12)
            assert float(alone.residual.abs()) <= float(alone.residual_bound)


def _right(model: torch.nn.Module, explained: Explanation, images: Tensor) -> None:
    for n, image in enumerate(images):

        def scores_of(z: Tensor, n: int = n) -> Tensor:
            batch = torch.cat([images[:n], z[None], images[n + 1 :]])
            return model(batch)[n]

        scores = scores_of(image.clone()).detach()
        dense = torch.autograd.functional.jacobian(scores_of, image.clone())
        bias = scores - (dense * image).flatten(1).sum(1)
        close(explained.weights[n], dense)
        size = float(scores.abs().max()) + float(bias.abs().max())
        assert float((explained.logits[n] - scores).abs().max()) <= 1e-12 * size, "scores"
        assert float((explained.bias[n] - bias).abs().max()) <= 1e-11 * size, "bias"
        shares = torch.stack(list(explained.bias_by_layer.values())).sum(0)[n]
        assert float((shares - bias).abs().max()) <= 1e-11 * size, "shares of the bias"
        residual, bound = explained.residual[n].abs(), explained.residual_bound[n]
        assert bool((residual <= bound).all()), "residual beyond its bound"


def check_combinations(module: torch.nn.Module, program: Program, x: Tensor, seed: int) -> None:
    """One image and one target, three of each, in either memory layout: what autograd says.

    They run differently: what is overwritten, summed on the way or picked depends on them.
    """
    three = torch.cat([x, x.flip(0), x])[:3]
    for images in (x[:1], three):
        for laid_out in _layouts(images):
            recording = program.record(laid_out.clone(memory_format=torch.preserve_format))
            for targets in (1, 3):
                u = random_like((targets, *recording.logits.shape), seed + 7)
                pulled = program.pull(recording.trail, u.flatten(0, 1), recording.norms)
                _right_pull(module, images, u, recording, pulled)


def _layouts(images: Tensor) -> list[Tensor]:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(images.ndim)
    return [images] if last is None else [images, images.contiguous(memory_format=last)]


def _right_pull(
    module: torch.nn.Module, images: Tensor, u: Tensor, recording: Recording, pulled: Pulled
) -> None:
    weights = pulled.weights.unflatten(0, u.shape[:2])
    shares = pulled.shares.sum(-1).unflatten(0, u.shape[:2])
    for number, cotangent in enumerate(u):
        leaf = images.clone().requires_grad_()
        scores = module(leaf * 1).flatten(1)
        (gradient,) = torch.autograd.grad((scores * cotangent).sum(), leaf)
        scale = max(float(gradient.abs().max()), 1e-30)
        assert float((weights[number] - gradient).abs().max()) <= 1e-12 * scale, "weights"
        whole = (recording.logits * cotangent).sum(1)
        bias = whole - (gradient * images).flatten(1).sum(1)
        size = float((recording.logits * cotangent).abs().sum()) + 1e-30
        size += float((gradient * images).abs().sum())
        assert float((shares[number] - bias).abs().max()) <= 1e-12 * size, "bias"


def check_plain(program: Program, x: Tensor, seed: int) -> None:
    """In operators that leave Python: what record and pull give, also on images it never saw.

    Operators without such a form must be refused by name and call site.
    """
    try:
        plain = PlainProgram(program)
    except UnsupportedOperatorError as refused:
        named = r"(aten\.\S+ at '.*' cannot be exported: |the network branches at)"
        assert re.match(named, str(refused)), f"not refused by name: {refused}"  # noqa: PT017
        return
    images = torch.cat([x, x.flip(0), x])[: 5 if program.batched else 1]
    for laid_out in _layouts(images):
        recording = program.record(laid_out.clone(memory_format=torch.preserve_format))
        with torch.no_grad():
            run = plain(laid_out)
        assert torch.equal(run.logits, recording.logits), "plain logits"
        for targets in (1, 3):
            u = random_like((targets, *recording.logits.shape), seed + 8).flatten(0, 1)
            pulled = program.pull(recording.trail, u)
            with torch.no_grad():
                found = plain.pull(run, u, targets)
            close(found.weights, pulled.weights)
            shares = pulled.shares.sum(-1)
            size = float(pulled.shares.abs().max() if pulled.shares.numel() else 0) + 1e-30
            # The bias is what is left of the scores, and is as exact as they are.
            size += float((u.unflatten(0, (targets, -1)) * recording.logits).abs().max())
            apart = float((found.shares.sum(-1) - shares).abs().max())
            assert apart <= 1e-11 * size, "plain bias"


def check_same_trail(alone: Trail, image: Trail) -> None:
    """The same decisions to the bit; numeric gates within rounding.

    Vectorised functions round the numbers that do not fill a last vector otherwise than the rest,
    so a gate's last bit may hang on the size of the batch.
    """
    for site, entry in alone.items():
        assert bool(entry.same(image[site]).all()), "trail depends on batch"
    for site, gate in alone.gates.items():
        for mine, theirs in zip(gate.planes, image.gates[site].planes, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-13, atol=1e-15), "gate depends on batch"


def check_rows(program: Program, recording: Recording, x: Tensor, seed: int) -> None:
    """An image alone gives the trail, weights and bias that it gives in a batch."""
    u = random_like(tuple(recording.logits.shape), seed + 6)
    together = program.pull(recording.trail, u)
    for row in range(len(x)):
        alone = program.record(x[row : row + 1])
        check_same_trail(alone.trail, recording.trail.image(row))
        pulled = program.pull(alone.trail, u[row : row + 1])
        assert torch.allclose(pulled.weights[0], together.weights[row], rtol=1e-10, atol=1e-13)
        for site, value in pulled.bias_by_site.items():
            assert torch.allclose(value[0], together.bias_by_site[site][row], rtol=1e-9, atol=1e-12)
