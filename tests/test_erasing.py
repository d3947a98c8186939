"""Erase and check: the prediction, what the network does, the flips between, and the bound."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from guidxmage import Contrast, Explainer, Explanation, InputError, Preprocessing
from guidxmage.analysis.erasing import Erasing, erase
from guidxmage.analysis.integrated_gradients import integrated_gradients
from tests.networks import CLASSES, SMALL_INPUTS, SMALL_NETWORKS, imagenet_photos

SEEN = Preprocessing(resize=(20, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def network(seed: int = 0) -> nn.Sequential:
    """ReLU and max-pool, with batch-norm in between."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
        made = nn.Sequential(*layers, nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten())
        made.append(nn.Linear(5 * 6 * 8, 4))
        made[1].running_mean.normal_()
        made[1].running_var.uniform_(0.5, 2)
        return made.eval()


def smooth() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(4 * 12 * 16, 3)).eval()


def image(seed: int = 0, size: tuple[int, int] = (16, 20)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, *size, generator=generator, dtype=torch.float64)


def rectangle(size: tuple[int, ...], top: int, left: int, height: int, width: int) -> Tensor:
    area = torch.zeros(size, dtype=torch.bool)
    area[top : top + height, left : left + width] = True
    return area


def explained(dtype: torch.dtype = torch.float64, target: Any = "top1") -> Explanation:
    return Explainer(network(), dtype=dtype).explain(image(), target)


def decisions(model: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """Signs before ReLUs and winners of max-pools, by hooks, apart from the package's own way."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            given = inputs[0]
            if isinstance(module, nn.ReLU):
                found[name] = (given > 0)[0]
            else:
                found[name] = F.max_pool2d(given, 2, return_indices=True)[1][0]

        return note

    hooks = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.ReLU | nn.MaxPool2d)
    ]
    with torch.no_grad():
        model(x[None])
    for one in hooks:
        one.remove()
    return found


def check(found: Erasing, explanation: Explanation, model: nn.Module, X: Tensor) -> None:
    """What must hold of every result, in whatever space the network itself takes X."""
    part = explanation.symbolic_model
    predicted = (part.weights.double() * X.double()).sum() + part.bias
    assert found.predicted == pytest.approx(float(predicted), rel=1e-13, abs=1e-13)
    with torch.no_grad():
        logits = model(X[None])[0]
    assert torch.equal(found.logits, logits)
    assert found.after == float((part.cotangent[0, 0] * logits).sum())
    assert found.before == float(explanation.score)
    assert found.gap == found.after - found.predicted
    assert found.real_change == found.after - found.before
    assert found.predicted_change == found.predicted - found.before
    if found.follows:
        assert found.flipped == 0
        assert abs(found.gap) <= found.bound
    assert found.answer_after[0] == int(logits.argmax())


# --- the mathematics ------------------------------------------------------------------------------


def test_prediction_network_and_flips_are_what_they_say() -> None:
    explanation, model = explained(), network().double()
    area = rectangle((16, 20), 3, 5, 6, 7)
    found = erase(explanation, area)
    X = torch.where(area, torch.zeros(()), image())
    check(found, explanation, model, X)
    assert torch.equal(found.erased, X)
    assert found.pixels == 42
    before, after = decisions(model, image()), decisions(model, X)
    flips = {name: int((before[name] != after[name]).sum()) for name in before}
    assert {site: n for site, (n, _) in found.flipped_by_layer.items()} == flips
    assert {site: of for site, (_, of) in found.flipped_by_layer.items()} == {
        name: one.numel() for name, one in before.items()
    }
    assert found.flipped == sum(flips.values()) > 10
    assert found.decisions == explanation.trail.count
    assert abs(found.gap) > 1e4 * found.bound
    assert "decisions flipped" in found.sentence
    assert "theirs" in str(found)


def test_what_is_taken_away_is_what_the_pixels_added() -> None:
    explanation = explained()
    area = rectangle((16, 20), 0, 0, 4, 4)
    lost = explanation.contributions[:, area].sum()
    assert erase(explanation, area).predicted_change == pytest.approx(-float(lost), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_flip_the_gap_is_rounding(dtype: torch.dtype) -> None:
    explanation, model = explained(dtype), network().to(dtype)
    area = rectangle((16, 20), 4, 4, 3, 3)
    near = explanation.input + 1e-6 * torch.ones(()).to(dtype)
    found = erase(explanation, area, near)
    assert found.follows
    check(found, explanation, model, torch.where(area, near, explanation.input))
    assert "no decision flipped" in found.sentence
    assert found.bound < (1e-3 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("target", [2, Contrast("top1", "top2"), torch.tensor([0.5, -1, 0, 2.0])])
def test_every_kind_of_target(target: Any) -> None:
    explanation = explained(target=target)
    area = rectangle((16, 20), 8, 8, 5, 5)
    found = erase(explanation, area, "blur")
    check(found, explanation, network().double(), found.erased)
    assert str(explanation.target_name) in found.sentence


areas = st.tuples(*(st.integers(0, 12) for _ in range(2)), *(st.integers(1, 20) for _ in range(2)))
fills = st.sampled_from(["zero", "blur", "number", "noise", "near"])


@settings(max_examples=40, deadline=None)
@given(areas, fills, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 3))
def test_areas_and_fills(box: Any, fill: str, dtype: torch.dtype, seed: int) -> None:
    explanation = Explainer(network(seed), dtype=dtype).explain(image(seed))
    X = explanation.input
    pixels: dict[str, Any] = {
        "number": 0.75,
        "noise": image(seed + 10).to(dtype),
        "near": X + 1e-5 * (image(seed + 20) - 0.5).to(dtype),
    }
    area = rectangle((16, 20), *box)
    found = erase(explanation, area, pixels.get(fill, fill))
    check(found, explanation, network(seed).to(dtype), found.erased)
    assert torch.equal(found.erased[:, ~area], X[:, ~area])
    if fill == "noise":
        assert torch.equal(found.erased[:, area], pixels["noise"][:, area])


PICTURES = [name for name in SMALL_NETWORKS if len(SMALL_INPUTS.get(name, (3, 16, 16))) == 3]


@pytest.mark.parametrize("name", PICTURES)
def test_the_bound_holds_on_every_small_network(name: str) -> None:
    model = SMALL_NETWORKS[name]().eval()
    shape = SMALL_INPUTS.get(name, (3, 16, 16))
    X = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    explanation = Explainer(model).explain(X, target=CLASSES - 1)
    area = rectangle(shape[1:], 2, 3, 5, 6)
    for fill in (0.5, X + 1e-6):
        found = erase(explanation, area, fill)
        check(found, explanation, model, found.erased)
        if not found.follows:
            assert found.flipped > 0


# --- spaces ---------------------------------------------------------------------------------------


def photo(size: tuple[int, int] = (33, 27)) -> Image.Image:
    levels = np.random.default_rng(5).integers(0, 256, (*size, 3))
    return Image.fromarray(levels.astype(np.uint8))


@pytest.fixture(scope="module")
def seeing() -> Explainer:
    sized = nn.Sequential(nn.AdaptiveAvgPool2d((16, 20)), network()).eval()
    return Explainer(sized, preprocessing=SEEN, dtype=torch.float64, labels=list("abcd"))


def test_pixels_are_those_that_the_network_sees(seeing: Explainer) -> None:
    explanation = seeing.explain(photo())
    area = rectangle((20, 16), 5, 5, 8, 9)
    colours = {"zero": torch.tensor(SEEN.mean, dtype=torch.float64), "black": torch.zeros(3)}
    for name, colour in colours.items():
        found = erase(explanation, area.numpy(), name)
        X = torch.where(area, colour.double()[:, None, None], explanation.input)
        assert torch.equal(found.erased, X)
        assert torch.equal(found.logits, seeing.logits(X))
        assert found.picture is not None
        assert np.array_equal(found.picture[~area], np.asarray(explanation.picture())[~area])
        levels = (colour * 255).round().numpy().astype(np.uint8)
        assert (found.picture[area] == levels).all()
    other = erase(explanation, area, photo((40, 40)))
    seen = np.asarray(SEEN.crop_image(photo((40, 40))))
    assert other.picture is not None
    assert np.array_equal(other.picture[area], seen[area])
    assert found.answer_before[1] in "abcd"


def test_the_networks_input_of_a_photo(seeing: Explainer) -> None:
    area = rectangle((20, 16), 5, 5, 8, 9)
    pixels, carried = (seeing.explain(photo(), space=space) for space in ("pixels", "input"))
    for fill in ("zero", "black", photo((40, 40))):
        one, other = erase(pixels, area, fill), erase(carried, area, fill)
        assert one.after == pytest.approx(other.after, abs=1e-12)
        assert one.predicted == pytest.approx(other.predicted, abs=1e-12)
        assert one.flipped == other.flipped
        assert one.picture is not None
        assert other.picture is not None
        assert np.array_equal(one.picture, other.picture)


def test_a_photo_at_its_own_size(seeing: Explainer) -> None:
    explanation = seeing.explain(photo(), space="photo")
    area = rectangle((33, 27), 10, 4, 12, 12)
    found = erase(explanation, area)
    mapped = explanation.symbolic_model.network
    assert mapped is not None
    with torch.no_grad():
        logits = seeing.model(mapped.to_input(found.erased[None]))[0]
    assert torch.equal(found.logits, logits)
    same = erase(explanation, area, photo())
    assert same.follows
    assert abs(same.gap) <= same.bound
    assert same.picture is not None
    assert np.array_equal(same.picture, np.asarray(photo()))


# --- other networks -------------------------------------------------------------------------------


def test_smooth_networks_are_affine_at_the_image_alone() -> None:
    X = image()
    explanation = Explainer(smooth(), dtype=torch.float64).explain(X)
    area = rectangle((16, 20), 3, 3, 5, 5)
    found = erase(explanation, area)
    check(found, explanation, smooth().double(), found.erased)
    assert found.smooth
    assert not found.follows
    assert "affine model of this image alone" in found.sentence
    same = erase(explanation, area, X)
    assert same.follows
    assert abs(same.gap) <= same.bound


class Branching(nn.Module):
    """Bright pictures and dark ones take other layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bright, self.dark = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0.45:
            return F.relu(self.bright(x)).sum((2, 3))
        return F.relu(self.dark(x)).sum((2, 3))[:, :2]


def test_another_branch_is_a_jump() -> None:
    with torch.random.fork_rng():
        model = Branching().eval()
    explanation = Explainer(model, dtype=torch.float64).explain(image())
    area = rectangle((16, 20), 0, 0, 16, 19)
    found = erase(explanation, area)
    with torch.no_grad():
        assert torch.equal(found.logits, copy.deepcopy(model).double()(found.erased[None])[0])
    assert not found.follows
    assert not explanation.symbolic_model.follows(found.erased)
    assert found.flipped == found.decisions > 0
    assert np.isfinite(found.bound)


def test_nothing_of_the_users_is_touched() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.runs = network(), 0
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            self.seen += 1
            out: Tensor = self.inner(x)
            return out

    model = Counting().eval()
    explanation = Explainer(model).explain(image())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random, runs = torch.random.get_rng_state(), model.runs
    erase(explanation, rectangle((16, 20), 1, 1, 3, 3), "blur")
    assert torch.equal(torch.random.get_rng_state(), random)
    assert model.runs == runs
    assert not model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# --- what cannot be -------------------------------------------------------------------------------


def _refused() -> Iterator[tuple[str, Any]]:
    area = rectangle((16, 20), 1, 1, 3, 3)
    yield "must be boolean", lambda e: erase(e, area.float())
    yield r"shape \(20, 16\) does not fit", lambda e: erase(e, area.t())
    yield "no pixel", lambda e: erase(e, ~area & area)
    yield "not str", lambda e: erase(e, "all")
    yield "reference", lambda e: erase(e, area, torch.zeros(7, 7))
    yield "NaN or Inf", lambda e: erase(e, area, float("nan"))
    yield "number of pixels", lambda e: erase(e, area, "blur", sigma=-1)
    yield 'sigma is for fill="blur"', lambda e: erase(e, area, "zero", sigma=2)
    yield "does not exist|no such|not found|cannot", lambda e: erase(e, area, "nowhere.png")
    yield "index the explanation", lambda e: erase(explained(target="top2"), area)


@pytest.mark.parametrize(("words", "ask"), list(_refused()))
def test_misuse_is_a_sentence(words: str, ask: Any) -> None:
    with pytest.raises(InputError, match=words):
        ask(explained())


def test_black_is_not_known_of_an_opaque_input() -> None:
    explanation = Explainer(network()).explain(3 * image() - 1)
    with pytest.raises(InputError, match="black"):
        erase(explanation, rectangle((16, 20), 1, 1, 3, 3), "black")
    assert erase(explanation, rectangle((16, 20), 1, 1, 3, 3)).picture is None


def test_explanations_without_their_network_are_refused(tmp_path: Any) -> None:
    explainer = Explainer(network(), dtype=torch.float64)
    explanation = explainer.explain(image())
    area = rectangle((16, 20), 1, 1, 3, 3)
    explanation.save(tmp_path / "kept")
    with pytest.raises(InputError, match="without its network"):
        erase(Explanation.load(tmp_path / "kept"), area)
    again = Explanation.load(tmp_path / "kept", explainer)
    assert erase(again, area).after == erase(explanation, area).after
    path = integrated_gradients(explainer, image())
    with pytest.raises(InputError, match="none of one region"):
        erase(path.explanation, area)


def test_a_network_that_has_changed_is_refused() -> None:
    model = network()
    explanation = Explainer(model).explain(image())
    with torch.no_grad():
        model[-1].bias.add_(1)
    with pytest.raises(InputError, match="not as it was"):
        erase(explanation, rectangle((16, 20), 1, 1, 3, 3))


@pytest.mark.slow
def test_a_real_network() -> None:
    explainer = Explainer.load()
    explanation = explainer.explain(imagenet_photos()[0][0])
    area = rectangle((224, 224), 60, 60, 90, 100)
    for fill in ("zero", "black", "blur"):
        found = erase(explanation, area, fill)
        assert torch.equal(found.logits, explainer.logits(found.erased))
        check(found, explanation, Seeing(explainer).eval(), found.erased)
        assert found.flipped > 1000


class Seeing(nn.Module):
    def __init__(self, explainer: Explainer) -> None:
        super().__init__()
        self.explainer = explainer

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.explainer.model(self.explainer.to_input(x))
        return scores
