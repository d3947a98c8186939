"""What is explained is the network's own run: on these images, with its branches and its writes."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidxmage import Explainer
from guidxmage.engine.capture.capture import capture
from guidxmage.errors import GuidXmageError, InputError, OffTrailError, UnsupportedOperatorError
from tests.laws import close, explained_right, random_like

SHAPE = (3, 8, 9)
Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A small network whose forward pass is a function of it and of the images."""

    def __init__(self, forward: Forward, **buffers: Tensor) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.tail = nn.Sequential(nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(24, 4))
        self.how = forward
        self.cache: Tensor | None = None
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)

    def plain(self, x: Tensor) -> Tensor:
        return self.tail(self.trunk(x))


def net(forward: Forward, **buffers: Tensor) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(forward, **buffers).double().eval()


def photos(count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *SHAPE, dtype=torch.float64, generator=generator)


# --- several copies, parts and crops of the images along the first dimension ----------------------


def _mirrored(s: Net, x: Tensor) -> Tensor:
    return s.plain(torch.cat([x, x.flip(3)]))


def _five_crops(s: Net, x: Tensor) -> Tensor:
    crops = [x[..., top : top + 7, left : left + 8] for top in (0, 1) for left in (0, 1)]
    crops.append(crops[3].flip(3))
    scores = s.plain(torch.cat(crops))
    return scores.view(5, len(x), -1).mean(0)


def _by_image(s: Net, x: Tensor) -> Tensor:
    return torch.stack([s.plain(image[None])[0] for image in x])


def _without_batch(s: Net, x: Tensor) -> Tensor:
    """Convolutions of single images, which have no dimension for the batch."""
    return torch.stack([s.tail(s.trunk(image)[None])[0] for image in x])


def _largest_of_two(s: Net, x: Tensor) -> Tensor:
    return torch.stack([s.plain(x), s.plain(x.flip(3))]).amax(0)


def _decided_in_a_stack(s: Net, x: Tensor) -> Tensor:
    stacked = torch.stack([s.trunk[0](x), s.trunk[0](x.flip(2))], 0).relu()
    return s.tail(stacked.sum(0))


def _weighted_copies(s: Net, x: Tensor) -> Tensor:
    y = _mirrored(s, x)
    return y[: len(x)] - 2 * y[len(x) :]


def _images_first_and_last(s: Net, x: Tensor) -> Tensor:
    """The sequence before the batch, as attention likes it."""
    tokens = s.trunk(x).flatten(2).permute(2, 0, 1)
    return s.tail(tokens.permute(1, 2, 0).unflatten(2, (6, 7)))


def _interleaved(s: Net, x: Tensor) -> Tensor:
    y = s.plain(torch.stack([x, x.flip(3)], 1).flatten(0, 1))
    return y[::2] + 3 * y[1::2]


def _repeated(s: Net, x: Tensor) -> Tensor:
    return s.plain(x.repeat_interleave(2, 0)).unflatten(0, (len(x), 2)).sum(1)


SEVERAL: dict[str, Forward] = {
    "halves": lambda s, x: sum(_mirrored(s, x)[half] for half in (slice(len(x)), slice(len(x), 9))),
    "chunks": lambda s, x: sum(_mirrored(s, x).chunk(2)),
    "splits": lambda s, x: _mirrored(s, x).split(len(x))[1] * 2,
    "narrow": lambda s, x: _mirrored(s, x).narrow(0, len(x), len(x)),
    "view": lambda s, x: _mirrored(s, x).view(2, len(x), -1).sum(0),
    "unflatten": lambda s, x: _mirrored(s, x).unflatten(0, (2, -1)).sum(0),
    "stacked": lambda s, x: torch.stack([s.plain(x), s.plain(x.flip(3))]).mean(0),
    "largest of two": _largest_of_two,
    "decided in a stack": _decided_in_a_stack,
    "weighted copies": _weighted_copies,
    "five crops": _five_crops,
    "crops beside each other": _interleaved,
    "repeated": _repeated,
    "image by image": _by_image,
    "without a batch": _without_batch,
    "sequence first": _images_first_and_last,
    "unbound": lambda s, x: torch.stack([s.plain(x[n : n + 1])[0] for n in range(len(x))]),
    "index of all": lambda s, x: s.plain(x)[torch.arange(len(x))],
}


@pytest.mark.parametrize("name", SEVERAL)
def test_what_an_image_gives_in_a_batch_is_its_own(name: str) -> None:
    explained_right(net(SEVERAL[name]), photos(3))


@pytest.mark.parametrize("threads", [1, 2])
def test_copies_and_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        explained_right(net(_weighted_copies), photos(2))
        explained_right(
            net(_weighted_copies), photos(2).contiguous(memory_format=torch.channels_last)
        )
    finally:
        torch.set_num_threads(before)


MIXING: dict[str, Forward] = {
    "centred by the batch": lambda s, x: s.plain(x - x.mean(0, keepdim=True)),
    "centred by all": lambda s, x: s.plain(x) - s.plain(x).mean(),
    "shifted": lambda s, x: s.plain(x).roll(1, 0),
    "turned round": lambda s, x: s.plain(x).flip(0),
    "shifted by slices": lambda s, x: torch.cat([s.plain(x)[1:], s.plain(x)[:1]]),
    "pairs": lambda s, x: s.plain(x) + s.plain(x)[torch.arange(len(x)) // 2],
    "softmax over images": lambda s, x: s.plain(x).softmax(0),
    "place in the batch": lambda s, x: s.plain(x) + torch.arange(len(x))[:, None],
    "number of images": lambda s, x: s.plain(x) / len(x),
    "sorted": lambda s, x: s.plain(x)[s.plain(x)[:, 0].argsort()],
    "attention among images": lambda s, x: F.scaled_dot_product_attention(*[s.plain(x)] * 3),
    "matrix product": lambda s, x: torch.ones(len(x), len(x)).double() @ s.plain(x),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_the_images_of_a_batch_is_refused(name: str) -> None:
    model, X = net(MIXING[name]), photos(3)
    with pytest.raises(UnsupportedOperatorError, match=r"images|batch|rule|index"):
        Explainer(model).explain(X, target=0)


NUMBERS: dict[str, Forward] = {
    "norm of many": lambda s, x: s.plain(x if len(x) < 2 else x.flip(2)),
    "another layer for three": lambda s, x: s.plain(x) if len(x) != 3 else s.plain(2 * x),
    "one image is special": lambda s, x: s.plain(x.flip(3)) if x.shape[0] == 1 else s.plain(x),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_branch_on_the_number_of_images(name: str, count: int) -> None:
    """Explained as that batch runs, or refused by a sentence about the batch."""
    model = net(NUMBERS[name])
    explainer = Explainer(model)
    for other in (1, 2, 3, 4, count):  # what was explained before does not matter
        X = photos(other)
        explained = None
        with contextlib.suppress(UnsupportedOperatorError):
            explained = explainer.explain(X, target="all")
        if explained is None:
            with pytest.raises(UnsupportedOperatorError, match="batch"):
                explainer.explain(X)
        else:
            with torch.no_grad():
                assert torch.allclose(explained.logits, model(X), rtol=0, atol=1e-12)


def test_more_images_than_are_run_at_once_are_compared_with_all_of_them() -> None:
    model = net(lambda s, x: s.plain(x if len(x) < 5 else x.flip(2)))
    explainer = Explainer(model, batch_rows=2)
    explainer.explain(photos(4))
    with pytest.raises(UnsupportedOperatorError, match="for 6 images together"):
        explainer.explain(photos(6))


# --- branches that depend on the image ------------------------------------------------------------


def _early_exit(s: Net, x: Tensor) -> Tensor:
    features = s.trunk(x)
    if features.mean().item() > 100:
        return features.mean((2, 3))
    return s.tail(features)


def _flagged(s: Net, x: Tensor) -> Tensor:
    return s.plain(x) if s.flag else s.plain(-x)


def _counted(s: Net, x: Tensor) -> Tensor:
    return s.plain(x * len((x > 0.5).nonzero()))


def _chosen_by_argmax(s: Net, x: Tensor) -> Tensor:
    return s.plain(x) * (1 + int(x.flatten().argmax()) % 3)


def _chosen_by_list(s: Net, x: Tensor) -> Tensor:
    return s.plain(x if (x[0, 0, 0] > 0.5).tolist()[0] else -x)


BRANCHES: dict[str, Forward] = {
    "mean above 0": lambda s, x: s.plain(x) if x.mean() > 0 else s.plain(-x),
    "any pixel": lambda s, x: s.plain(x) if (x > 0.99).any() else s.plain(x * 0.5),
    "equal": lambda s, x: s.plain(x) if torch.equal(x, x.flip(2)) else s.plain(x * 2),
    "flag in a buffer": _flagged,
    "number of bright pixels": _counted,
    "position of the maximum": _chosen_by_argmax,
    "list of truths": _chosen_by_list,
}


@pytest.mark.parametrize("name", BRANCHES)
def test_branches_are_taken_as_the_image_takes_them(name: str) -> None:
    model = net(BRANCHES[name], flag=torch.tensor(True))
    explained_right(model, photos(1))
    explained = Explainer(model).explain(photos(1)[0])
    assert explained.exactness == "on region"


@pytest.mark.parametrize("name", ["number of bright pixels", "position of the maximum"])
def test_what_python_counts_is_a_decision(name: str) -> None:
    """Another count is another trail, and the network's own score there is another one."""
    model, image = net(BRANCHES[name]), photos(1)[0]
    flat = image.clone().flatten()
    dark = (flat < 0.5).nonzero()[:, 0]
    flat[dark[dark % 3 != int(flat.argmax()) % 3][0]] = (
        2  # one more that is bright, and the largest
    )
    other = flat.reshape(SHAPE)
    symbolic = Explainer(model).explain(image, 0).symbolic_model
    replay = symbolic.replay(torch.stack([image, other]))
    assert replay.follows.tolist() == [True, False]
    with torch.no_grad():
        expected = torch.stack([model(one[None])[0, 0] for one in (image, other)])
    assert torch.equal(replay.network_score, expected)
    assert not torch.allclose(replay.score[1], replay.network_score[1])


def test_a_number_that_python_was_told_belongs_to_the_image() -> None:
    """What Python makes of a number cannot be seen: the model is that of this image alone."""
    for forward in (_early_exit, lambda s, x: s.plain(x * float(x.max()))):
        explained = Explainer(net(forward)).explain(photos(1)[0])
        assert explained.exactness == "at input"
        assert abs(float(explained.residual)) < 1e-12


def test_branches_are_listed_in_the_trail() -> None:
    model = net(BRANCHES["mean above 0"])
    trail = Explainer(model).explain(photos(1)[0]).trail
    assert trail.header["branches"] == ["aten.is_nonzero.default at 'is_nonzero': True"]
    assert "is_nonzero" in trail
    assert trail["is_nonzero"].count == 1


def test_another_branch_is_another_trail() -> None:
    model = net(
        lambda s, x: s.plain(x) if x.mean() > 0.5 else s.plain(x.flip(3)).relu() - x.mean((1, 2, 3))
    )
    bright, dark = photos(1)[0] * 0.1 + 0.8, photos(1)[0] * 0.1
    explainer = Explainer(model)
    symbolic = explainer.explain(bright).symbolic_model
    assert bool(symbolic.follows(bright))
    assert not bool(symbolic.follows(dark))
    replay = symbolic.replay(torch.stack([bright, dark]))
    assert torch.equal(replay.follows, torch.tensor([True, False]))
    best = int(explainer.explain(bright).target)
    with torch.no_grad():
        expected = torch.stack([model(image[None])[0, best] for image in (bright, dark)])
    assert torch.equal(replay.network_score, expected)
    assert str(replay.first_difference[1]).startswith("is_nonzero")
    with pytest.raises(OffTrailError, match="is_nonzero"):
        symbolic(dark)
    explained_right(model, bright[None])
    explained_right(model, dark[None])


def test_images_that_branch_otherwise_are_not_explained_in_one_batch() -> None:
    model = net(BRANCHES["mean above 0"])
    with pytest.raises(GuidXmageError, match=r"branch|batch"):
        Explainer(model).explain(torch.stack([photos(1)[0], -photos(1)[0]]))


def test_regions_behind_a_branch_are_not_walked() -> None:
    explained = Explainer(net(BRANCHES["mean above 0"])).explain(photos(1)[0])
    with pytest.raises(UnsupportedOperatorError, match=r"branches at 'is_nonzero'"):
        explained.symbolic_model.step_length(torch.ones(SHAPE).double())


# --- random numbers -------------------------------------------------------------------------------

RANDOM: dict[str, Forward] = {
    "randn of a fixed shape": lambda s, x: s.plain(x + torch.randn(SHAPE).double()),
    "rand_like": lambda s, x: s.plain(x * torch.rand_like(x)),
    "bernoulli": lambda s, x: s.plain(x * torch.bernoulli(torch.full(SHAPE[1:], 0.7)).double()),
    "dropout": lambda s, x: s.plain(F.dropout(x, 0.3, training=True)),
    "dropout of channels": lambda s, x: s.plain(F.dropout2d(x, 0.3, training=True)),
    "rrelu": lambda s, x: s.plain(F.rrelu(x - 0.5, training=True)),
    "permutation": lambda s, x: s.plain(x[:, torch.randperm(3)]),
    "a random branch": lambda s, x: s.plain(x) if torch.rand(()) > 0.5 else s.plain(-x),
    "a random crop": lambda s, x: s.plain(x[..., int(torch.randint(0, 2, ())) :, :]),
    "in place": lambda s, x: s.plain(x + torch.zeros(SHAPE).double().normal_()),
    "a generator of its own": lambda s, x: s.plain(
        x + torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)).double()
    ),
    "a random branch of Python's": lambda s, x: s.plain(x if random.random() > 0.5 else -x),
    "NumPy": lambda s, x: s.plain(x + torch.from_numpy(np.random.rand(*SHAPE))),
    "Python": lambda s, x: s.plain(x * random.random()),
    "caught": lambda s, x: s.plain(x + _caught(x)),
}


def _caught(x: Tensor) -> Tensor:
    try:
        return torch.randn(SHAPE).double()
    except GuidXmageError:
        return torch.zeros_like(x)


def _random_states() -> list[Any]:
    numpy_state = np.random.get_state()
    return [torch.get_rng_state().tolist(), numpy_state[1].tolist(), random.getstate()]


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("count", [1, 2])
def test_random_networks_are_refused_and_the_random_state_is_kept(name: str, count: int) -> None:
    before = _random_states()
    with pytest.raises(UnsupportedOperatorError, match=r"random|computed outside"):
        Explainer(net(RANDOM[name])).explain(photos(count))
    assert _random_states() == before


def test_a_random_number_is_refused_by_name() -> None:
    model = nn.Sequential()
    model.add_module("noisy", net(RANDOM["randn of a fixed shape"]))
    model.eval()
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.randn\.default at 'noisy\.randn'"):
        Explainer(model).explain(photos(1))


# --- writing --------------------------------------------------------------------------------------


def _reads_what_was_written(s: Net, x: Tensor) -> Tensor:
    first = s.trunk[0](x)
    second = first.add_(1)
    F.hardtanh_(second, -0.5, 0.5)
    return s.tail(first * 2 + second)


def _writes_under_a_view(s: Net, x: Tensor) -> Tensor:
    out = s.trunk[0](x)
    view = out.flatten(2)
    F.relu_(out)
    return s.tail(view.unflatten(2, (6, 7)))


def _writes_over_a_view(s: Net, x: Tensor) -> Tensor:
    out = s.trunk[0](x)
    left, right = out[:, :2], out[:, 2:]
    F.relu_(left)
    return s.tail(out * 2) + s.tail(torch.cat([right, left], 1))


def _writes_over_pieces(s: Net, x: Tensor) -> Tensor:
    """Autograd forbids it where gradients are taken; evaluation does not."""
    out = s.trunk[0](x)
    left, right = out.chunk(2, 1)
    F.relu_(left)
    right.unbind(1)[1].add_(left[:, 0])
    out.split([1, 3], 1)[1].mul_(2)
    return s.tail(out * 2) + s.tail(torch.cat([right, left], 1))


def _as_written_over_pieces(s: Net, x: Tensor) -> Tensor:
    out = s.trunk[0](x)
    first, second, third, fourth = out.unbind(1)
    first, second = first.relu(), second.relu()
    fourth = fourth + first
    out = torch.stack([first, 2 * second, 2 * third, 2 * fourth], 1)
    return s.tail(out * 2) + s.tail(torch.cat([out[:, 2:], out[:, :2]], 1))


def _as_given_a_place(s: Net, x: Tensor) -> Tensor:
    return s.plain(2 * x)


def _writes_through_views(s: Net, x: Tensor) -> Tensor:
    out = s.trunk[0](x)
    out.transpose(2, 3)[:, 1:3, 2].mul_(3)
    out.permute(0, 2, 3, 1)[..., 0].clamp_(min=0.1)
    out.view(len(x), 2, 2, -1)[:, 1, :, ::2].neg_()
    out.select(1, 3).add_(out[:, 0])
    out.narrow(2, 1, 2).sub_(0.1)
    return s.tail(out)


def _fills_a_buffer(s: Net, x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 8, 6, 7, dtype=x.dtype)
    out[:, :4] = s.trunk(x)
    out[:, 4:] = s.trunk(x.flip(3))
    out[:, 5] = 0.25
    return s.tail(out[:, :4]) + s.tail(out[:, 4:])


def _turned_in_place(s: Net, x: Tensor) -> Tensor:
    out = s.trunk[0](x)
    out.transpose_(2, 3).unsqueeze_(2)
    out.relu_()
    return s.tail(out.squeeze(2).transpose(2, 3))


def _given_a_place(s: Net, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    torch.mul(x, 2, out=out)
    return s.plain(out)


def _constant_read_before_it_is_written(s: Net, x: Tensor) -> Tensor:
    scale = torch.full((1, 3, 1, 1), 2.0, dtype=x.dtype)
    once = x * scale
    scale.mul_(5)
    return s.plain(once + x * scale)


def _through_data(s: Net, x: Tensor) -> Tensor:
    out = s.trunk[0](x)
    alias = out.data
    alias.relu_()
    return s.tail(out + alias)


WRITES: dict[str, Forward] = {
    "on the input": lambda s, x: s.plain(x.sub_(0.5).div_(0.2)),
    "on a part of the input": lambda s, x: s.plain(x.clamp_(0.2, 0.8)) + s.plain(x),
    "read by its first name": _reads_what_was_written,
    "under a view": _writes_under_a_view,
    "over a view": _writes_over_a_view,
    "through views": _writes_through_views,
    "filling": _fills_a_buffer,
    "turned in place": _turned_in_place,
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_are_followed(name: str) -> None:
    X = photos(3)
    kept = X.clone()
    explained_right(net(WRITES[name]), X)
    assert torch.equal(X, kept)


@pytest.mark.parametrize(
    ("forward", "twin"),
    [
        (_writes_over_pieces, _as_written_over_pieces),
        (_given_a_place, _as_given_a_place),
        (_constant_read_before_it_is_written, lambda s, x: s.plain(12 * x)),
        (_through_data, lambda s, x: s.tail(2 * s.trunk(x))),
        (lambda s, x: s.tail(s.trunk[0](x).data.relu()), lambda s, x: s.tail(s.trunk(x))),
    ],
)
def test_writes_without_gradients_are_followed(forward: Forward, twin: Forward) -> None:
    """Where autograd cannot be asked: the same network, written without writes."""
    X = photos(3)
    found, expected = (Explainer(net(one)).explain(X, target="all") for one in (forward, twin))
    with torch.no_grad():
        assert torch.equal(found.logits, net(forward)(X.clone()))
    assert found.exactness == expected.exactness == "on region"
    close(found.weights, expected.weights)
    close(found.bias, expected.bias)


def _counts(s: Net, x: Tensor) -> Tensor:
    s.calls += 1
    return s.plain(x)


def _scratch(s: Net, x: Tensor) -> Tensor:
    s.room.copy_(x[0])
    return s.plain(s.room[None] * 2)


def _reads_its_counter(s: Net, x: Tensor) -> Tensor:
    s.calls += 1
    return s.plain(x * s.calls)


def test_what_the_network_writes_to_itself_is_given_back() -> None:
    model = net(_counts, calls=torch.zeros((), dtype=torch.long))
    explained_right(model, photos(1))
    before = int(model.calls)
    Explainer(model).explain(photos(2))
    assert int(model.calls) == before
    room = net(_scratch, room=torch.full(SHAPE, 7.0))
    Explainer(room).explain(photos(1))
    assert torch.equal(room.room, torch.full(SHAPE, 7.0).double())


def test_a_network_that_depends_on_what_it_changes_is_refused() -> None:
    model = net(_reads_its_counter, calls=torch.ones(()))
    with pytest.raises(UnsupportedOperatorError, match="changes its own buffers"):
        Explainer(model).explain(photos(1))
    assert float(model.calls) == 1
    trained = net(lambda s, x: s.tail(F.batch_norm(s.trunk(x), None, None, training=True)))
    with pytest.raises(UnsupportedOperatorError, match="statistics of the batch"):
        Explainer(trained).explain(photos(2))


def test_a_cache_that_is_filled_on_the_first_run_does_not_matter() -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        if s.cache is None:
            s.cache = torch.linspace(0, 1, 9, dtype=x.dtype) * 2
        return s.plain(x * s.cache)

    explained_right(net(forward), photos(2))


# --- out of PyTorch -------------------------------------------------------------------------------

OUTSIDE: dict[str, Forward] = {
    "numpy": lambda s, x: s.plain(torch.from_numpy(np.clip(x.numpy(), 0.2, 0.8))),
    "asarray": lambda s, x: s.plain(x) * float(np.asarray(x).mean()),
    "dlpack": lambda s, x: s.plain(torch.from_dlpack(x.flip(2))),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_values_that_leave_pytorch_are_refused(name: str) -> None:
    for count in (1, 2):
        with pytest.raises(UnsupportedOperatorError, match=r"out of PyTorch|outside PyTorch"):
            Explainer(net(OUTSIDE[name])).explain(photos(count))


def test_a_hidden_dependence_on_the_image_comes_to_light() -> None:
    """Numbers that no operator tells: the program would take them for constants."""
    runs = []

    def forward(s: Net, x: Tensor) -> Tensor:
        runs.append(x)
        return s.plain(x) + len(runs)

    for count in (1, 2):
        with pytest.raises(UnsupportedOperatorError, match="outside PyTorch"):
            Explainer(net(forward)).explain(photos(count))


# --- nothing is left behind -----------------------------------------------------------------------


class _Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        raise ValueError("something\nis broken")


def _traces() -> tuple[Any, ...]:
    hooks = torch.nn.modules.module
    return (
        len(hooks._global_forward_pre_hooks),
        len(hooks._global_forward_hooks),
        torch.backends.mha.get_fastpath_enabled(),
        torch.is_grad_enabled(),
        torch._C._len_torch_dispatch_stack(),
    )


@pytest.mark.parametrize("forward", [SEVERAL["halves"], RANDOM["dropout"], BRANCHES["any pixel"]])
def test_nothing_is_left_behind(forward: Forward) -> None:
    model, before = net(forward), _traces()
    model.trunk[0].weight.grad = torch.ones_like(model.trunk[0].weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with contextlib.suppress(GuidXmageError):
        Explainer(model).explain(photos(2))
    assert _traces() == before
    assert torch.equal(model.trunk[0].weight.grad, torch.ones_like(model.trunk[0].weight))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_a_network_that_fails_says_why_in_one_sentence() -> None:
    before = _traces()
    with pytest.raises(
        InputError, match=r"_Broken could not be run on an image of 3×4×4: something; see that"
    ):
        Explainer(_Broken().eval()).explain(torch.rand(3, 4, 4).double())
    assert _traces() == before


def test_compiled_networks_and_parts_of_them_run_as_they_were_written() -> None:
    inner = net(lambda s, x: s.plain(x))
    X = photos(2)
    with torch.no_grad():
        expected = inner(X)
    explained = Explainer(torch.compile(inner)).explain(X, 0)
    assert explained.model_name == "Net"
    assert torch.equal(explained.logits, expected)
    part = net(lambda s, x: s.tail(s.compiled(x)))
    part.compiled = torch.compile(part.trunk)
    assert torch.equal(Explainer(part).explain(X, 0).logits, expected)
    assert torch.equal(Explainer(nn.DataParallel(inner)).explain(X, 0).logits, expected)


# --- threads --------------------------------------------------------------------------------------


def _work(
    n: int, explainer: Explainer, found: list[Any], X: Tensor, start: threading.Barrier
) -> None:
    start.wait()
    for _ in range(3):
        found[n] = explainer.explain(X[n], "all")


def test_threads_share_an_explainer() -> None:
    """From the first explanation on, in which the network is captured: the same to the bit."""
    model, X = net(SEVERAL["crops beside each other"]), photos(8)
    plain = net(lambda s, x: s.plain(x))
    for network in (model, plain):
        expected = [Explainer(network).explain(image, "all") for image in X]
        explainer, found = Explainer(network), [None] * len(X)
        start = threading.Barrier(len(X))

        together = (explainer, found, X, start)
        threads = [threading.Thread(target=_work, args=(n, *together)) for n in range(len(X))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for mine, alone in zip(found, expected, strict=True):
            assert mine is not None
            assert torch.equal(mine.weights, alone.weights)
            assert torch.equal(mine.bias, alone.bias)


# --- the program ----------------------------------------------------------------------------------


def test_a_program_knows_whether_it_is_for_batches() -> None:
    assert capture(net(lambda s, x: s.plain(x)), SHAPE).batched
    assert not capture(net(SEVERAL["halves"]), SHAPE).batched
    assert capture(net(_repeated), SHAPE).batched
    assert not capture(net(BRANCHES["any pixel"]), SHAPE).batched


def test_constants_that_grow_with_the_batch() -> None:
    """A token for every image, as transformers have it."""

    def forward(s: Net, x: Tensor) -> Tensor:
        token = s.token.expand(len(x), -1, -1)
        y = torch.cat([token, x.flatten(2).transpose(1, 2)], 1)
        return y.relu().mean(1)[:, :3] + torch.zeros(len(x), 3, dtype=x.dtype)

    model = net(forward, token=random_like((1, 2, 3), 3))
    assert capture(model, SHAPE).batched
    explained_right(model, photos(3))


def test_weights_that_are_computed_in_the_forward_pass() -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        weight = s.trunk[0].weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std(
            (1, 2, 3), keepdim=True
        )
        return s.tail(F.relu(F.conv2d(x, weight, s.trunk[0].bias)))

    model = net(forward)
    assert capture(model, SHAPE).batched
    explained_right(model, photos(2))


def test_weights_may_be_standardised_by_batch_norm() -> None:
    """With statistics of the weights, which are the same for every image (as timm does it)."""

    def forward(s: Net, x: Tensor) -> Tensor:
        weight = s.trunk[0].weight
        rows = F.batch_norm(weight.reshape(1, len(weight), -1), None, None, training=True)
        return s.tail(F.relu(F.conv2d(x, rows.reshape_as(weight), s.trunk[0].bias)))

    explained_right(net(forward), photos(2))


def test_threads_with_explainers_of_their_own() -> None:
    """A run is recorded by one thread at a time, whoever's network it is."""
    forwards = [SEVERAL["halves"], BRANCHES["any pixel"], lambda s, x: s.plain(x)] * 4
    models = [net(forward) for forward in forwards]
    expected = [Explainer(model).explain(photos(2), 1) for model in models]
    found: dict[int, Any] = {}
    start = threading.Barrier(len(models))

    def work(number: int) -> None:
        start.wait()
        found[number] = Explainer(models[number]).explain(photos(2), 1)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[n].weights, one.weights) for n, one in enumerate(expected))
