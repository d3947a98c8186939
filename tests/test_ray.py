"""Rays: the scores along a line between two images, against the network at many points of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage import Explainer, InputError, Preprocessing, UnsupportedOperatorError
from guidxmage.ray import leaders
from tests.test_cli import folder, run, save_photo  # noqa: F401, the fixture of its name

LABELS = ["ant", "bee", "cow", "doe"]


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(4, 6, 3), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 4, bias=False))
        network[-1].weight.data.normal_()
        return network.eval()


@pytest.fixture
def explainer() -> Explainer:
    return Explainer(small(), labels=LABELS, dtype=torch.float64)


def ends(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 3, 10, 10, generator=generator, dtype=torch.float64)
    return a, 12 * b - 6


def test_the_profile_is_the_network_at_every_point(explainer: Explainer) -> None:
    a, b = ends()
    ray = explainer.ray(a, b)
    assert ray.regions > 20
    assert ray.capped_at is None
    assert ray.end == 1
    s = torch.linspace(0, 1, 501, dtype=torch.float64)
    network = small().double()(a + s[:, None, None, None] * (b - a))
    assert torch.allclose(ray.scores(s), network[:, list(ray.classes)], rtol=1e-11, atol=1e-12)
    # Between knots nothing but straight lines: with them, interpolation is exact.
    drawn = np.interp(s.numpy(), ray.knots.numpy(), ray.logits[:, 0].numpy())
    assert np.allclose(drawn, ray.scores(s)[:, 0], rtol=1e-11, atol=1e-12)


def test_the_best_class_changes_where_it_does(explainer: Explainer) -> None:
    changed = 0
    for seed in range(12):
        a, b = ends(seed)
        ray = explainer.ray(a, b)
        leader, low = ray.first_class, 0.0
        for change in (*ray.class_changes, None):
            high = change.s if change else 1.0
            s = torch.linspace(low, high, 20, dtype=torch.float64)[1:-1]
            best = small().double()(a + s[:, None, None, None] * (b - a)).argmax(1)
            assert bool((best == leader).all())
            if change:
                assert change.before == leader
                both = ray.scores(change.s)
                order = [ray.classes.index(n) for n in (change.before, change.after)]
                assert float(both[order].diff().abs()) < 1e-10
                leader, low = change.after, high
                changed += 1
    assert changed > 1


def test_leaders_by_hand() -> None:
    value, slope = torch.tensor([[1.0, 0.0, -3.0], [0.0, 1.0, 3.0]]).double()
    # 1, s and 3s − 3: the second leads from 1 to 1.5, then the third.
    found = leaders(0, value, slope, (0.0, 4.0))
    assert [(c.s, c.before, c.after) for c in found] == [(1.0, 0, 1), (1.5, 1, 2)]
    assert leaders(0, value, slope, (0.0, 0.9)) == []
    # All three meet in one point: the steepest leads behind it.
    value = torch.tensor([1.0, 0.0, -2.0]).double()
    (only,) = leaders(0, value, slope, (0.0, 4.0))
    assert (only.s, only.after) == (1.0, 2)


def test_a_capped_walk_says_where_it_stopped(explainer: Explainer) -> None:
    a, b = ends()
    whole, part = explainer.ray(a, b), explainer.ray(a, b, cap=7)
    assert (part.regions, part.capped_at) == (7, float(whole.knots[7]))
    assert torch.equal(part.breakpoints, whole.breakpoints[:6])
    assert part.flips == whole.flips[:6]
    assert f"capped at s = {part.end:.6g}" in repr(part)
    with pytest.raises(InputError, match="walked from s = 0 to"):
        part.scores(1.0)
    # The rest is shown by the network's own answers.
    assert torch.allclose(part.sampled[-1], small().double()(b[None])[0, list(part.classes)])
    assert int(part.distance.total[0]) <= len(whole.flips)


def test_from_an_image_to_itself(explainer: Explainer) -> None:
    ray = explainer.ray(ends()[0], ends()[0])
    assert (ray.regions, ray.flips, ray.class_changes) == (1, (), ())


def test_pixels_are_joined_in_pixel_space() -> None:
    """A normalisation moves the line, not the profile."""
    a, b = (end.clamp(0, 1).float() for end in ends())
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    preprocessing = Preprocessing(mean=mean, std=std)
    ray = Explainer(small(), preprocessing=preprocessing, dtype=torch.float64).ray(a, b)
    m, d = (torch.tensor(part).double().reshape(3, 1, 1) for part in (mean, std))
    for s in (0.0, 0.3, 1.0):
        z = (a.double() + s * (b.double() - a.double()) - m) / d
        assert torch.allclose(ray.scores(s), small().double()(z[None])[0, list(ray.classes)])


def test_targets(explainer: Explainer) -> None:
    a, b = ends()
    assert explainer.ray(a, b, targets=["cow", 0]).classes == (2, 0)
    assert explainer.ray(a, b, targets="all").logits.shape[1] == 4
    with pytest.raises(InputError, match="name classes rather than contrasts"):
        explainer.ray(a, b, targets=torch.eye(4)[0] / 2)
    assert explainer.ray(a, b, targets=torch.eye(4)[0]).classes == (0,)


def test_what_cannot_be_walked(explainer: Explainer) -> None:
    a, b = ends()
    with pytest.raises(InputError, match="two single images"):
        explainer.ray(a, torch.stack([b, b]))
    with pytest.raises(InputError, match="two single images"):
        explainer.ray(a, b[:, :9])
    with pytest.raises(InputError, match="at least one region"):
        explainer.ray(a, b, cap=0)
    broken = small()
    broken[-1].weight.data[0, 0] = float("inf")
    with pytest.raises(InputError, match="NaN or Inf"):
        Explainer(broken).ray(a.float(), b.float())
    with pytest.raises(UnsupportedOperatorError, match="sigmoid"):
        Explainer(nn.Sequential(small(), nn.Sigmoid()).eval()).ray(a.float(), b.float())


def test_step_length_is_the_first_breakpoint(explainer: Explainer) -> None:
    a, b = ends()
    ray, model = explainer.ray(a, b), explainer.explain(a).symbolic_model
    step = model.step_length(b - a)
    assert step.length == pytest.approx(float(ray.breakpoints[0]), rel=1e-12)
    assert (step.site, step.position) == (ray.flips[0].site, ray.flips[0].position)
    assert bool(model.follows(a + step.length * (1 - 1e-6) * (b - a)))
    outside = a + step.length * (1 + 1e-6) * (b - a)
    assert not bool(model.follows(outside))
    (difference,) = model.replay(outside[None]).first_difference
    assert difference is not None
    assert (difference.site, difference.position) == (step.site, step.position)
    assert f"{step.site} at" in str(step)


def test_step_lengths_of_several_directions_and_images(explainer: Explainer) -> None:
    a, b = ends()
    one = explainer.explain(a).symbolic_model
    several = one.step_length(torch.stack([b - a, a - b, torch.zeros_like(a)]))
    assert several[0] == one.step_length(b - a)
    assert several[1] == one.step_length(a - b)
    assert several[2].length == float("inf")
    assert str(several[2]) == "no decision ever flips in this direction"
    pair = explainer.explain(torch.stack([a, b])).symbolic_model
    both = pair.step_length(torch.stack([b - a, a - b]))
    assert both[0].length == pytest.approx(several[0].length, rel=1e-12)
    with pytest.raises(InputError):
        one.step_length(torch.zeros(3, 9, 9))


# --- guid-xmage ray ------------------------------------------------------------------------------


def ray_of(*arguments: str):
    save_photo(Path("other.png"), (40, 30))
    Image.fromarray(255 - np.asarray(Image.open("other.png"))).save("other.png")
    return run("ray", "photo.png", "other.png", "--model", "net.py:build", *arguments)


def test_the_command(folder: Path) -> None:  # noqa: F811
    result = ray_of("--cap", "5000")
    assert result.exit_code == 0, result.stderr
    assert "photo.png → other.png: ray/" in result.stdout
    assert "to s = 1\n" in result.stdout
    kept = json.loads((folder / "ray" / "ray.json").read_text())
    assert kept["schema"] == "guid-xmage/ray/1"
    assert kept["regions"] > 3
    assert kept["capped_at"] is None
    assert len(kept["knots"]) == len(kept["logits"]) == len(kept["breakpoints"]) + 2
    with Image.open(folder / "ray" / "ray.png") as picture:
        assert picture.size[0] == 1500
        whole = picture.size[1]
    capped = ray_of("--cap", "3", "--json", "--target", "1,2")
    printed = json.loads(capped.stdout)
    assert printed["capped_at"] == kept["knots"][3] < 1
    assert [entry["class"] for entry in printed["classes"]] == [1, 2]
    with Image.open(folder / "ray" / "ray.png") as picture:  # with the whole line below
        assert picture.size[1] > whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "net.py:smooth"), "sigmoid"),
        (("--target", "wolf"), "wolf"),
        (("--out", "photo.png"), "photo.png"),
    ],
)
def test_what_the_command_refuses(
    folder: Path,  # noqa: F811
    arguments: tuple[str, ...],
    words: str,
) -> None:
    result = ray_of(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "ray").exists()


def test_a_photo_that_is_missing() -> None:
    result = run("ray", "photo.png", "nowhere.png", "--model", "net.py:build")
    assert result.exit_code == 2
    assert "nowhere.png" in result.stderr
