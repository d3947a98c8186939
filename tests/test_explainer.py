"""The public door: shapes, spaces, targets, and a model that is left exactly as it was."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from guidxmage import Contrast, Explainer, InputError, Preprocessing, UnsupportedOperatorError
from tests.networks import BAD_NETWORKS, CLASSES, SMALL_NETWORKS

SIZE = 16
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def model() -> nn.Module:
    return SMALL_NETWORKS["batch_norm_after"]().double()


@pytest.fixture
def explainer(model: nn.Module) -> Explainer:
    return Explainer(model)


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, SIZE, SIZE, dtype=torch.float64, generator=generator)


# --- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("target", "several"),
    [("top1", 0), (2, 0), (Contrast(0, 1), 0), (("top", 3), 3), ("all", CLASSES), ("top2", 2)],
)
def test_shapes(explainer: Explainer, batched: bool, target: Any, several: int) -> None:
    X = images(4)
    explained = explainer.explain(X if batched else X[0], target)
    axes = (4,) * batched + ((several,) if several else ())
    for name in ("score", "bias", "residual", "residual_bound", "target", "against"):
        assert getattr(explained, name).shape == axes, name
    for name in ("weights", "contributions"):
        assert getattr(explained, name).shape == (*axes, 3, SIZE, SIZE), name
    assert explained.logits.shape == (4,) * batched + (CLASSES,)
    assert explained.input.shape == X.shape if batched else X[0].shape
    assert all(value.shape == axes for value in explained.bias_by_layer.values())
    assert explained.batched is batched
    assert explained.several is bool(several)


def test_an_image_alone_in_a_batch_and_with_other_targets(explainer: Explainer) -> None:
    X = images(5)
    together = explainer.explain(X, "all")
    for row in range(5):
        alone = explainer.explain(X[row], 3)
        assert torch.allclose(together.weights[row, 3], alone.weights, rtol=1e-10, atol=1e-14)
        assert torch.allclose(together.bias[row, 3], alone.bias, rtol=1e-10)
        assert bool(together.trail.image(row).same(alone.trail).all())


def test_chunks_do_not_show(model: nn.Module) -> None:
    X, labels = images(7), [0, 1, 2, 3, 4, 0, 1]
    whole, chunked = (Explainer(model, batch_rows=rows).explain(X, labels) for rows in (32, 3))
    assert chunked.target.tolist() == labels
    assert torch.allclose(whole.contributions, chunked.contributions, rtol=1e-10, atol=1e-14)
    assert torch.allclose(whole.bias, chunked.bias, rtol=1e-10)
    assert bool(whole.trail.same(chunked.trail).all())


def test_a_model_that_fixes_its_batch_size_is_run_image_by_image() -> None:
    class FixedRows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(x)).reshape(len(x), -1))

    model, X = FixedRows().double().eval(), images(3)
    explained = Explainer(model).explain(X, ("top", 2))
    assert torch.allclose(explained.logits, model(X), rtol=1e-12)
    assert bool((explained.residual.abs() <= explained.residual_bound).all())


# --- targets -------------------------------------------------------------------------------------


def test_targets_mean_what_they_say(model: nn.Module) -> None:
    explainer = Explainer(model, labels=["cat", "dog", "Eel", "fox", "gnu"])
    X = images(3)
    logits = model(X).detach()
    best = logits.topk(2, dim=1)
    assert torch.equal(explainer.explain(X).target, best.indices[:, 0])
    assert torch.equal(explainer.explain(X, ("top", 2)).score, best.values)
    assert explainer.explain(X, "eel").target.tolist() == [2, 2, 2]
    assert explainer.explain(X, np.array([4, 0, 1])).target.tolist() == [4, 0, 1]
    assert explainer.explain(X[0], [4, 0]).target.tolist() == [4, 0]
    assert explainer.explain(X, ("classes", ["dog", 3])).target.tolist() == [[1, 3]] * 3
    contrast = explainer.explain(X, Contrast("top1", "top2"))
    assert torch.allclose(contrast.score, best.values[:, 0] - best.values[:, 1])
    assert torch.equal(contrast.against, best.indices[:, 1])
    a, b = explainer.explain(X, 1), explainer.explain(X, 0)
    difference = explainer.explain(X, ("contrast", 1, 0))
    assert torch.allclose(difference.weights, a.weights - b.weights, atol=1e-12)
    assert difference[0].target_name == "dog rather than cat"
    cotangent = torch.tensor([0.5, 0, -2, 0, 1], dtype=torch.float64)
    mixed = explainer.explain(X, cotangent)
    assert torch.allclose(mixed.score, logits @ cotangent)
    assert mixed.target.tolist() == [-1] * 3


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (CLASSES, "target 5 is out of range: the network has classes 0 to 4"),
        (-1, "out of range"),
        (("top", 0), "cannot take the 0 best"),
        (("top", 6), "cannot take the 6 best of 5 classes"),
        (("classes", []), "empty"),
        ([0, 1], "2 targets were given for 3 images"),
        ("cat", "no class names are known"),
        (1.5, "not understood"),
        (True, "not understood"),
        (None, "not understood"),
        (torch.zeros(4), "does not fit 5 classes"),
        (torch.full((5,), torch.nan), "NaN"),
    ],
)
def test_wrong_targets(explainer: Explainer, target: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        explainer.explain(images(3), target)


def test_a_misspelt_class_name_gets_a_hint(model: nn.Module) -> None:
    explainer = Explainer(model, labels=["cat", "dog", "eel", "fox", "gnu"])
    with pytest.raises(InputError, match="no class is called 'dogg'; did you mean 'dog'"):
        explainer.explain(images(1), "dogg")


# --- spaces and references -----------------------------------------------------------------------


def test_pixel_space_is_the_chain_rule(model: nn.Module) -> None:
    """Δ for pixels = Δ for the normalised input / std; the rest of the score is bias."""
    pixels = images(2)
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (MEAN, STD))
    inside = Explainer(model, preprocessing=Preprocessing(mean=MEAN, std=STD)).explain(pixels, 1)
    outside = Explainer(model).explain((pixels - mean) / std, 1)
    assert inside.space == "pixels"
    assert outside.space == "input"
    assert torch.allclose(inside.weights, outside.weights / std, rtol=1e-10)
    assert torch.allclose(inside.score, outside.score, rtol=1e-12)
    assert torch.allclose(inside.contributions, inside.weights * (pixels - mean))
    assert torch.allclose(inside.contributions, outside.contributions, rtol=1e-10)
    assert torch.allclose(inside.bias, outside.bias, rtol=1e-10)
    assert bool((inside.residual.abs() <= inside.residual_bound).all())
    assert "preprocessing" not in inside.bias_by_layer


def test_a_black_pixel_contributes_nothing(model: nn.Module) -> None:
    pixels = images(1)[0]
    pixels[:, :4] = 0
    explainer = Explainer(model, preprocessing=Preprocessing(mean=MEAN, std=STD))
    explained = explainer.explain(pixels, reference="black")
    assert float(explained.contributions[:, :4].abs().max()) == 0
    assert float(explained.weights[:, :4].abs().max()) > 0


def test_reference(explainer: Explainer) -> None:
    X = images(2)
    plain, grey = explainer.explain(X), explainer.explain(X, reference=0.5)
    assert torch.allclose(grey.contributions, grey.weights * (X - 0.5))
    moved = (plain.weights * 0.5).flatten(1).sum(1)
    assert torch.allclose(grey.bias, plain.bias + moved)
    assert torch.allclose(grey.bias_by_layer["reference"], moved)
    assert bool((grey.residual.abs() <= grey.residual_bound).all())
    own = explainer.explain(X, reference=X)
    assert float(own.contributions.abs().max()) == 0
    assert torch.allclose(own.bias, own.score)


@pytest.mark.parametrize(
    ("reference", "words"),
    [(torch.zeros(2, 5, 5), "does not fit"), (float("nan"), "NaN")],
)
def test_wrong_references(explainer: Explainer, reference: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        explainer.explain(images(2), reference=reference)


# --- images --------------------------------------------------------------------------------------


def test_every_kind_of_image_gives_the_same(model: nn.Module, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "photo.png")
    explainer = Explainer(model, preprocessing=Preprocessing(mean=MEAN, std=STD))
    tensor = torch.from_numpy(array).permute(2, 0, 1).double() / 255
    sources: list[Any] = [tmp_path / "photo.png", str(tmp_path / "photo.png"), picture, array]
    expected = explainer.explain(tensor)
    for source in sources:
        explained = explainer.explain(source)
        assert torch.equal(explained.contributions, expected.contributions)
        assert not explained.batched
    batch = explainer.explain(sources)
    assert batch.batched
    assert torch.allclose(batch.contributions[3], expected.contributions, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.full((3, SIZE, SIZE), torch.nan), "NaN or Inf"),
        (torch.full((3, SIZE, SIZE), torch.inf), "NaN or Inf"),
        (torch.zeros(SIZE, SIZE), "is no image"),
        (torch.zeros(0, 3, SIZE, SIZE), "is no image"),
        (torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), "divide by 255"),
        (torch.zeros(3, SIZE, SIZE) + 200, "undo the normalisation"),
        (torch.zeros(4, SIZE, SIZE), "4|channels"),
        ([], "batch is empty"),
        ("no/such/file.png", "does not exist"),
        (17, "cannot read an image from int"),
    ],
)
def test_wrong_images(model: nn.Module, image: Any, words: str) -> None:
    explainer = Explainer(model, preprocessing=Preprocessing(mean=MEAN, std=STD))
    with pytest.raises(InputError, match=words):
        explainer.explain(image)


def test_a_batch_of_different_sizes_is_refused(model: nn.Module) -> None:
    small, large = (np.zeros((n, n, 3), dtype=np.uint8) for n in (16, 18))
    with pytest.raises(InputError, match=r"different sizes \(3×16×16 and 3×18×18\)"):
        Explainer(model).explain([small, large])


# --- models that are no fit ----------------------------------------------------------------------

SENTENCES = {
    "tuple_output": "returns a tuple of 2 values where one tensor",
    "dict_output": "returns a dict with .* where one tensor",
    "no_derivative": r"aten\._linalg_svd\.default at 'linalg_svd' has no rule, and PyTorch",
    "complex_numbers": r"aten\._fft_r2c\.default at 'fft_r2c' has no rule, and it computes",
    "output_of_rank_3": r"shape \[batch, 5, 1\] where class scores",
    "output_of_rank_1": r"shape \[batch\] where class scores",
    "mixes_the_batch": "for a batch: it gives other scores for 2 images together",
    "training_mode": "in training mode; call model.eval",
    "dropout_in_training_mode": "in training mode",
    "half_precision": "computes in torch.float16",
    "nan_weight": "NaN or Inf in 'conv2.weight'",
    "constant_output": "does not depend on the image",
}


@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_unfit_models_get_one_sentence(name: str) -> None:
    model = BAD_NETWORKS[name]()
    with _untouched(model), pytest.raises((InputError, UnsupportedOperatorError)) as error:
        Explainer(model).explain(images(2).to(next(model.parameters()).dtype))
    assert error.match(SENTENCES[name])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_not_a_module() -> None:
    with pytest.raises(InputError, match=r"torch\.nn\.Module is expected, not str"):
        Explainer("resnet50")  # type: ignore[arg-type]


def test_half_precision_is_explained_as_a_copy() -> None:
    model = BAD_NETWORKS["half_precision"]()
    with _untouched(model):
        explained = Explainer(model, dtype=torch.float32).explain(images(1))
    assert explained.weights.dtype == torch.float32
    with pytest.raises(InputError, match="too coarse"):
        Explainer(model, dtype=torch.bfloat16)


def test_an_absent_device() -> None:
    with pytest.raises(InputError, match="device 'cuda:99' is not available"):
        Explainer(SMALL_NETWORKS["residual"](), device="cuda:99")


# --- the model stays as it was -------------------------------------------------------------------


class _untouched:  # noqa: N801
    """Fails when weights, gradients, flags, modes, hooks, attributes or RNG states changed."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def _state(self) -> dict[str, Any]:
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {
            "weights": {name: (id(t), t._version, t.requires_grad) for name, t in tensors},
            "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in tensors},
            "modes": [module.training for module in self.model.modules()],
            "hooks": [
                {k: list(v) for k, v in vars(module).items() if "hooks" in k and v is not None}
                for module in self.model.modules()
            ],
            "attributes": [sorted(vars(module)) for module in self.model.modules()],
            "torch rng": torch.get_rng_state().tolist(),
            "numpy rng": np.random.get_state()[1].tolist(),
            "grad mode": torch.is_grad_enabled(),
        }

    def __enter__(self) -> None:
        self.before = self._state()

    def __exit__(self, *_: object) -> None:
        after = self._state()
        for key, value in self.before.items():
            if key == "gradients":
                for name, gradient in value.items():
                    now = after[key][name]
                    same = gradient is now if gradient is None else torch.equal(gradient, now)
                    assert same, name
            else:
                assert after[key] == value, key


def test_the_model_is_left_untouched(model: nn.Module) -> None:
    calls = []
    model.register_forward_hook(lambda *args: calls.append(1))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    next(model.parameters()).requires_grad_(False)
    explainer = Explainer(model)
    with _untouched(model):
        explained = explainer.explain(images(3), "all")
        explained.symbolic_model.follows(images(3))
    before = len(calls)
    with _untouched(model):
        explainer.explain(images(3))
    assert len(calls) == before, "a captured network does not run the user's hooks again"


def test_untouched_also_after_an_exception(model: nn.Module) -> None:
    explainer = Explainer(model)
    with _untouched(model), pytest.raises(InputError):
        explainer.explain(images(3), 99)
    with _untouched(model), pytest.raises(InputError):
        explainer.explain(torch.full((3, SIZE, SIZE), torch.nan))


def test_untouched_watcher_can_fail(model: nn.Module) -> None:
    with pytest.raises(AssertionError, match="rng"), _untouched(model):
        torch.rand(1)
    with pytest.raises(AssertionError, match="modes"), _untouched(model):
        model.train()


# --- the caller's surroundings -------------------------------------------------------------------


def _contexts() -> Iterator[Any]:
    yield torch.inference_mode()
    yield torch.no_grad()
    yield torch.enable_grad()
    yield torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("number", range(4))
def test_surroundings_do_not_matter(number: int) -> None:
    model = SMALL_NETWORKS["inplace_relu"]()
    X = images(2).float()
    expected = Explainer(model).explain(X)
    with list(_contexts())[number]:
        explained = Explainer(model).explain(X.clone())
    assert torch.equal(explained.logits, expected.logits)
    assert torch.equal(explained.contributions, expected.contributions)
    assert not explained.weights.requires_grad


def test_an_image_that_requires_gradients(explainer: Explainer) -> None:
    X = images(1).requires_grad_()
    assert not explainer.explain(X).contributions.requires_grad
    assert X.grad is None


def test_the_image_is_not_changed(explainer: Explainer) -> None:
    X = images(2)
    before = X.clone()
    explainer.explain(X, "all", reference=0.3)
    assert torch.equal(X, before)


def test_changed_weights_are_noticed(model: nn.Module) -> None:
    """Training on, loading weights and replacing a layer all take effect at the next call."""
    explainer, X = Explainer(model), images(1)
    first = explainer.explain(X)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    second = explainer.explain(X)
    assert torch.equal(second.logits, model(X).detach())
    assert not torch.equal(first.logits, second.logits)
    model.load_state_dict(copy.deepcopy(SMALL_NETWORKS["batch_norm_after"]().state_dict()))
    assert torch.equal(explainer.explain(X).logits, model(X).detach())
    model.train()
    with pytest.raises(InputError, match="training mode"):
        explainer.explain(X)


def test_other_sizes_are_captured_anew() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    explainer = Explainer(model)
    for size in (8, 11, 9, 16, 12, 8):
        X = torch.rand(1, 3, size, size + 1)
        explained = explainer.explain(X)
        assert torch.equal(explained.logits, model(X).detach())
    assert len(explainer._programs._known) <= 4


def test_logits_read_and_trail_are_those_of_the_explanation(explainer: Explainer) -> None:
    X = images(2)
    explained = explainer.explain(X)
    assert torch.equal(explainer.logits(X), explained.logits)
    assert torch.equal(explainer.logits(X[0])[None], explainer.explain(X[:1]).logits)
    assert torch.equal(explainer.read(X), explained.input)
    assert bool(explainer.trail(X).same(explained.trail).all())


def test_nan_inside_the_network() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2)).eval()
    nn.init.constant_(model[1].weight, 1e38)
    with pytest.raises(InputError, match="returns NaN or Inf for image 1"):
        Explainer(model).explain(
            torch.stack([torch.zeros(3, SIZE, SIZE), torch.ones(3, SIZE, SIZE)])
        )


class Cast(nn.Module):
    """Writes an assertion on the image's dtype into the exported graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(x.float())
        return scores


def test_networks_that_cast_their_input_to_its_own_dtype() -> None:
    model = Cast().eval()
    X = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    explanation = Explainer(model).explain(X)
    assert abs(float(explanation.residual)) <= float(explanation.residual_bound)
    plain = Explainer(model.layers).explain(X)
    assert torch.equal(explanation.contributions, plain.contributions)


def test_a_list_of_targets_of_another_length_is_refused() -> None:
    """Also where the batch is explained in parts, which the list would fit."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    explainer = Explainer(model, batch_rows=2)
    for targets in ([0, 1], (0, 1), torch.tensor([0, 1]), torch.rand(2, 5), [0, 1, 2, 3, 4]):
        with pytest.raises(InputError, match=r"targets were given for 4 images"):
            explainer.explain(torch.rand(4, 3, 2, 2), targets)


@pytest.mark.parametrize("batched", [False, True])
def test_networks_and_explanations_are_freed_with_their_last_reference(batched: bool) -> None:
    """Not when Python next looks for circles: a network may have gigabytes."""
    shape = (2, 3, 16, 16) if batched else (3, 16, 16)
    Explainer(SMALL_NETWORKS["residual"]()).explain(torch.rand(3, 16, 16))  # what is kept is made
    gc.collect()
    gc.disable()
    try:
        model = SMALL_NETWORKS["residual"]()
        explainer = Explainer(model)
        explained = explainer.explain(torch.rand(shape))
        held = [model, explainer, explained.weights, explained.symbolic_model.network.program]
        watched = [weakref.ref(one) for one in (*held, *model.parameters())]
        del model, explainer, explained, held
        assert [one() for one in watched if one() is not None] == []
    finally:
        gc.enable()
