"""Runs leave the user's network, images and random states as they were, and changes are noticed."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer, Explanation
from guidxmage.adversarial import attack, certify
from guidxmage.errors import InputError, UnsupportedOperatorError
from tests.laws import close, explained_right
from tests.test_capture import Forward, Net, net, photos

# --- what a forward pass may do to its own network ------------------------------------------------


def _writes_parts(s: Net, x: Tensor) -> Tensor:
    s.numbers[0] += 1
    s.numbers[3:].fill_(8)
    s.numbers.mul_(3)
    return s.plain(x)


def _writes_past_gradients(s: Net, x: Tensor) -> Tensor:
    s.numbers.data[:2].zero_()
    s.numbers.data.mul_(2)
    return s.plain(x)


def _writes_by_numpy(s: Net, x: Tensor) -> Tensor:
    s.numbers.numpy()[:] += 1
    return s.plain(x)


def _replaces(s: Net, x: Tensor) -> Tensor:
    s.numbers = s.numbers + 1
    s.tail[2].bias.data = s.tail[2].bias.data.clone()
    return s.plain(x)


def _resizes(s: Net, x: Tensor) -> Tensor:
    s.numbers.resize_(9)
    return s.plain(x)


def _keeps_features(s: Net, x: Tensor) -> Tensor:
    s.features = s.trunk(x)
    s.log.append(s.features)
    s.seen["last"] = x
    return s.tail(s.features)


def _hooks(s: Net, x: Tensor) -> Tensor:
    s.tail.register_forward_hook(lambda *_: None)
    s.trunk[0].weight.requires_grad_(False)
    return s.plain(x)


def _backward(s: Net, x: Tensor) -> Tensor:
    with torch.enable_grad():
        s.plain(x.detach()).sum().backward()
    return s.plain(x)


def _seeds(s: Net, x: Tensor) -> Tensor:
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    return s.plain(x)


def _writes_over_its_input(s: Net, x: Tensor) -> Tensor:
    return s.plain(x.sub_(0.5).mul_(2))


HABITS: dict[str, Forward] = {
    "writes parts": _writes_parts,
    "writes past gradients": _writes_past_gradients,
    "writes by numpy": _writes_by_numpy,
    "replaces": _replaces,
    "resizes": _resizes,
    "keeps features": _keeps_features,
    "hooks": _hooks,
    "backward": _backward,
    "seeds": _seeds,
    "writes over its input": _writes_over_its_input,
}
USES: dict[str, Callable[[Net, Tensor], Any]] = {
    "explain": lambda model, images: Explainer(model).explain(images),
    "certificate": lambda model, images: Explainer(model).explain(images[0]).certificate(),
    "logits": lambda model, images: Explainer(model).logits(images),
    "attack": lambda model, images: attack(model, images, budget=3),
    "certify": lambda model, images: certify(model, images[0], seconds=0.1),
}


def _habitual(name: str) -> Net:
    model = net(HABITS[name], numbers=torch.arange(6.0))
    model.log, model.seen = [], {}
    return model


def _held(model: nn.Module) -> list[Any]:
    """Everything a network holds, and the random states, in a form that compares."""
    generator: Any = np.random.get_state()
    return [
        [(name, t.tolist(), t.shape, t.requires_grad, t.grad) for name, t in _tensors(model)],
        [
            (type(one), one.training, len(one._forward_hooks), sorted(one.__dict__))
            for one in model.modules()
        ],
        [(len(model.log), dict(model.seen))],  # type: ignore[arg-type]
        torch.get_rng_state().tolist(),
        generator[1].tolist(),
        random.getstate(),
    ]


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("habit", HABITS)
def test_network_images_and_random_states_stay(habit: str, use: str) -> None:
    model, images = _habitual(habit), photos(2)
    before = _held(model)
    found = USES[use](model, images)
    assert _held(model) == before
    assert torch.equal(images, photos(2))
    if use == "certificate":
        assert all(one.holds for one in found)


def test_numbers_that_other_threads_draw_are_left_to_them() -> None:
    """They would draw the same ones again."""
    started, done = threading.Event(), threading.Event()

    def forward(s: Net, x: Tensor) -> Tensor:
        started.set()
        done.wait(5)
        return s.plain(x)

    drawn = []

    def other() -> None:
        started.wait(5)
        drawn.append(random.random())
        done.set()
        finished.wait(5)

    finished = threading.Event()
    thread = threading.Thread(target=other)
    random.seed(4)
    expected = [random.random(), random.random()]
    random.seed(4)
    thread.start()
    Explainer(net(forward)).explain(photos(1))
    assert [*drawn, random.random()] == expected
    finished.set()
    thread.join()


# --- what becomes of a network between two explanations -------------------------------------------


def _layers() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.LeakyReLU(0.1),
            nn.AdaptiveAvgPool2d((2, 3)),
            nn.Flatten(),
            nn.Linear(24, 4),
        )
    model.add_module("last", nn.Identity())
    model.last.also = [torch.ones(4).double()]  # type: ignore[union-attr]
    return model.double().eval()


def _set(path: str, value: Any) -> Callable[[nn.Sequential], None]:
    place, _, name = path.rpartition(".")

    def change(model: nn.Sequential) -> None:
        setattr(model.get_submodule(place), name, value)

    return change


def _exchanged(model: nn.Sequential) -> None:
    model[1] = nn.Tanh().eval()


def _hooked(model: nn.Sequential) -> None:
    model[1].register_forward_hook(lambda _module, _inputs, output: output * 2)


def _another_class(model: nn.Sequential) -> None:
    model[1].__class__ = nn.Tanh  # type: ignore[assignment]


def _doubled(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[4].weight.mul_(2)  # type: ignore[operator]


CHANGES: dict[str, Callable[[nn.Sequential], None]] = {
    "a number": _set("1.negative_slope", 0.5),
    "a layer": _exchanged,
    "a hook": _hooked,
    "a method": _set("1.forward", lambda x: x * 3),
    "its own method": _set("forward", lambda x: x.mean((2, 3)) @ torch.ones(3, 4).double()),
    "a class": _another_class,
    "a weight": _doubled,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_a_network_are_noticed(change: str) -> None:
    model, image = _layers(), photos(1)[0]
    explainer = Explainer(model)
    first = explainer.explain(image, 1)
    CHANGES[change](model)
    found, expected = explainer.explain(image, 1), Explainer(model).explain(image, 1)
    assert not torch.equal(found.weights, first.weights)
    assert torch.equal(found.weights, expected.weights)
    assert torch.equal(found.bias, expected.bias)


def test_a_network_that_has_not_changed_is_not_captured_again() -> None:
    explainer = Explainer(_layers())
    program = explainer.network(photos(1)).program
    explainer.explain(photos(1), 1)
    assert explainer.network(photos(1, seed=2)).program is program


# --- values that become active, or leave ----------------------------------------------------------


def _sums_up(s: Net, x: Tensor) -> Tensor:
    total = torch.zeros(len(x), 4, dtype=x.dtype)
    for start in range(3):
        total += s.plain(x[..., start:])
    return total


def test_constants_that_become_active_count_as_they_were() -> None:
    explained_right(net(_sums_up), photos(2))


def test_copies_by_python_are_followed() -> None:
    model = net(lambda s, x: s.plain(x * copy.deepcopy(x).amax((2, 3), keepdim=True)))
    twin = net(lambda s, x: s.plain(x * x.amax((2, 3), keepdim=True)))
    found, expected = (Explainer(one).explain(photos(2), 1) for one in (model, twin))
    close(found.weights, expected.weights)


@pytest.mark.parametrize("way", ["untyped_storage", "data_ptr", "__reduce_ex__"])
def test_ways_to_the_bytes_are_refused(way: str) -> None:
    arguments = (2,) if way == "__reduce_ex__" else ()

    def forward(s: Net, x: Tensor) -> Tensor:
        getattr(x, way)(*arguments)
        return s.plain(x)

    with pytest.raises(UnsupportedOperatorError, match="out of PyTorch"):
        Explainer(net(forward)).explain(photos(1))


def test_text_that_python_read_belongs_to_the_image() -> None:
    model = net(lambda s, x: s.plain(x) * float(repr(x.mean())[7:12]))
    explainer = Explainer(model)
    for seed in (1, 2):
        image = photos(1, seed=seed)[0]
        with torch.no_grad():
            assert torch.equal(explainer.explain(image, 1).score, model(image[None])[0, 1])


# --- branches -------------------------------------------------------------------------------------


def _branches(s: Net, x: Tensor) -> Tensor:
    return s.plain(x) if x.mean() > 0.5 else s.plain(-x)


def test_no_statement_about_a_region_passes_over_a_branch() -> None:
    model, image = net(_branches), photos(1)[0]
    image = image - image.mean() + 0.5 + 1e-6  # a branch is nearer than any decision
    explained = Explainer(model).explain(image)
    with pytest.raises(UnsupportedOperatorError, match="branches at 'is_nonzero'"):
        explained.validity_radius()
    with pytest.raises(UnsupportedOperatorError, match="branches at 'is_nonzero'"):
        certify(model, image.clamp(0, 1), seconds=1)


@pytest.mark.parametrize(
    "forward", [_branches, lambda s, x: s.plain(x * (2 if x.mean().item() > 0.5 else 3))]
)
def test_explanations_behind_branches_are_certified_and_saved(
    forward: Forward, tmp_path: Any
) -> None:
    explainer, image = Explainer(net(forward)), photos(1)[0]
    explained = explainer.explain(image)
    assert all(one.holds for one in explained.certificate())
    explained.save(tmp_path)
    again = Explanation.load(tmp_path, explainer)
    assert torch.equal(again.weights, explained.weights)
    assert bool(again.symbolic_model.follows(image))


# --- inputs that are none -------------------------------------------------------------------------

STRANGE: dict[str, Callable[[Tensor], Any]] = {
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[1]]),
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "masked": lambda x: torch.masked.masked_tensor(x, x > 0.5),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.filterwarnings("ignore")
def test_strange_tensors_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match=f"a {kind} tensor is no image"):
        Explainer(_layers()).explain(STRANGE[kind](photos(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_rows": "3"}, "batch_rows is '3'"),
        ({"batch_rows": 0}, "batch_rows is 0"),
        ({"memory_budget": float("nan")}, "memory_budget is nan"),
        ({"gates": None}, "gates is None"),
        ({"labels": 5}, "labels is 5"),
        ({"preprocessing": 5}, "preprocessing is 5"),
        ({"device": "meta"}, "device 'meta'"),
    ],
)
def test_strange_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Explainer(_layers(), **options)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda s, x: s.plain(x)[:, :0], "is empty for this image"),
        (lambda s, x: s.plain(x) + 0j, "real scores"),
        (lambda s, x: torch.cat([s.plain(x[:1]) * 2, s.plain(x[1:])]), "is empty"),
    ],
)
def test_strange_outputs_are_refused(forward: Forward, message: str) -> None:
    with pytest.raises((InputError, UnsupportedOperatorError), match=message):
        Explainer(net(forward)).explain(photos(1))


def test_weights_without_a_size_are_named() -> None:
    with pytest.raises(InputError, match=r"'0\.weight' has no size yet"):
        Explainer(nn.Sequential(nn.LazyLinear(3)))


def test_images_that_mix_a_little_are_not_explained_together() -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        return s.plain(x) + 1e-9 * s.plain(x).flip(0)

    with pytest.raises(UnsupportedOperatorError, match="for a batch"):
        Explainer(net(forward)).explain(photos(3))
