"""The result: indexing, objects, figures, files."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guidxmage import Explainer, Explanation, InputError, Preprocessing
from guidxmage.attribution.attribution import TENSORS
from guidxmage.attribution.exactness import exactness_of
from tests.networks import SMALL_NETWORKS

LABELS = ["cat", "dog", "eel", "fox", "gnu"]


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    model = SMALL_NETWORKS["overlapping_max_pool"]()
    preprocessing = Preprocessing(mean=(0.4,) * 3, std=(0.25,) * 3)
    return Explainer(model, preprocessing=preprocessing, labels=LABELS, name="tiny")


def photos(count: int) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def single(explainer: Explainer) -> Explanation:
    return explainer.explain(photos(1)[0])


@pytest.fixture(scope="module")
def batch(explainer: Explainer) -> Explanation:
    return explainer.explain(photos(3), ("top", 2))


def test_it_is_frozen(single: Explanation) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        single.score = torch.zeros(())  # type: ignore[misc]


def test_indexing_takes_images_then_targets(batch: Explanation, explainer: Explainer) -> None:
    assert len(batch) == 3
    second = batch[1]
    assert len(second) == 2
    one = second[0]
    assert torch.equal(one.weights, batch.weights[1, 0])
    assert float(one.score) == float(batch.score[1, 0])
    assert one.trail.rows == 1
    alone = explainer.explain(photos(3)[1])
    assert torch.allclose(one.contributions, alone.contributions, rtol=1e-4, atol=1e-6)
    assert torch.allclose(one.symbolic_model(one.input), one.score, rtol=1e-4)
    assert [float(part.score) for image in batch for part in image] == [
        float(part.score) for part in batch.split()
    ]


def test_text_tells_the_sum(single: Explanation, batch: Explanation) -> None:
    text = repr(single)
    assert "Explanation of tiny, pixels space, reference: network's zero, exact on region" in text
    assert f"score {float(single.score):.4f}" in text
    assert single.target_name in LABELS
    assert len(repr(batch).splitlines()) == 1 + 6
    assert batch.target_name[2][1] in LABELS


def test_top(single: Explanation) -> None:
    best = single.top(3)
    assert best[0] == (int(single.target), single.target_name, float(single.logits.max()))
    assert [score for _, _, score in best] == sorted((s for _, _, s in best), reverse=True)
    assert len(single.top(99)) == 5


# --- objects -------------------------------------------------------------------------------------


def test_objects_and_the_rest_add_up(single: Explanation) -> None:
    labels = np.zeros((16, 16), dtype=np.uint8)
    labels[2:7, 3:9] = 1
    labels[9:, :4] = 2
    table = single.objects(labels)
    total = float(single.contributions.sum(dtype=torch.float64))
    assert math.isclose(sum(row.sum for row in table), total, rel_tol=1e-9, abs_tol=1e-9)
    expected = float(single.contributions[:, 2:7, 3:9].sum(dtype=torch.float64))
    assert any(math.isclose(row.sum, expected, rel_tol=1e-9) for row in table)


def test_objects_found_by_segmentation(single: Explanation) -> None:
    pytest.importorskip("skimage")
    table = single.objects()
    total = float(single.contributions.sum(dtype=torch.float64))
    assert math.isclose(sum(row.sum for row in table), total, rel_tol=1e-9, abs_tol=1e-9)


def test_objects_of_a_batch_and_of_several_targets(batch: Explanation) -> None:
    labels = np.zeros((16, 16), dtype=np.uint8)
    labels[:8] = 1
    with pytest.raises(InputError, match="one image"):
        batch.objects(labels)
    tables = batch[0].objects(labels)
    assert len(tables) == 2


# --- pictures ------------------------------------------------------------------------------------


def test_figure_has_a_row_for_each_target(batch: Explanation) -> None:
    pytest.importorskip("matplotlib")
    one, two = batch[0][0].figure(), batch[0].figure()
    assert two.get_size_inches()[1] > 1.5 * one.get_size_inches()[1]


def test_notebook_display(single: Explanation) -> None:
    pytest.importorskip("matplotlib")
    html = single._repr_html_()
    assert 'src="data:image/png;base64,' in html
    assert single.target_name in html
    assert "<table>" in html


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["single", "batch"])
def test_saved_and_loaded(
    which: str, request: pytest.FixtureRequest, explainer: Explainer, tmp_path: Path
) -> None:
    explained: Explanation = request.getfixturevalue(which)
    folder = explained.save(tmp_path / "result")
    assert sorted(file.name for file in folder.iterdir()) == ["arrays.npz", "manifest.json"]
    loaded = Explanation.load(folder, explainer)
    for name in TENSORS:
        assert torch.equal(getattr(loaded, name), getattr(explained, name)), name
    assert list(loaded.bias_by_layer) == list(explained.bias_by_layer)
    for site, value in explained.bias_by_layer.items():
        assert torch.equal(loaded.bias_by_layer[site], value)
    assert bool(loaded.trail.same(explained.trail).all())
    assert loaded.trail.header == explained.trail.header
    assert repr(loaded) == repr(explained)
    assert (loaded.labels, loaded.preprocessing) == (explained.labels, explained.preprocessing)
    assert all(
        np.array_equal(a, b) for a, b in zip(loaded.pictures, explained.pictures, strict=True)
    )
    follows = loaded.symbolic_model.follows(loaded.input)
    assert bool(follows.all())


def test_loaded_without_its_network(single: Explanation, tmp_path: Path) -> None:
    loaded = Explanation.load(single.save(tmp_path / "result"))
    model = loaded.symbolic_model
    assert torch.equal(
        model(loaded.input, check=False), single.symbolic_model(single.input, check=False)
    )
    with pytest.raises(InputError, match="loaded without its network"):
        model(loaded.input)


def test_manifest_holds_the_numbers(single: Explanation, tmp_path: Path) -> None:
    folder = single.save(tmp_path / "result")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (result,) = manifest["results"]
    assert manifest["schema"] == "guid-xmage/explanation/3"
    assert manifest["reference"] == "network's zero"
    assert result["score"] == float(single.score)
    total = result["contribution_sum"] + result["bias"] + result["residual"]
    assert math.isclose(total, result["score"], rel_tol=1e-9)
    assert math.isclose(sum(result["bias_by_layer"].values()), result["bias"], rel_tol=1e-9)
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["weights"], single.weights.numpy())


def test_saving_again_replaces_and_other_folders_are_safe(
    single: Explanation, tmp_path: Path
) -> None:
    folder = single.save(tmp_path / "result")
    single.save(folder)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="holds something other than an earlier result"):
        single.save(precious)
    assert (precious / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "result"]


def test_nothing_half_written_stays(
    single: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = single.save(tmp_path / "result")
    before = (folder / "manifest.json").read_bytes()

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    for name in ("result", "other"):
        with pytest.raises(InputError, match="No space left on device"):
            single.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (folder / "manifest.json").read_bytes() == before


def test_unwritable_places(single: Explanation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        single.save(tmp_path / "file" / "result")


@pytest.mark.parametrize("damage", ["nothing", "text", "schema", "arrays", "truncated", "missing"])
def test_damaged_results(single: Explanation, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "result"
    if damage != "nothing":
        single.save(folder)
    manifest, arrays = folder / "manifest.json", folder / "arrays.npz"
    if damage == "text":
        manifest.write_text("{", encoding="utf-8")
    elif damage == "schema":
        text = manifest.read_text(encoding="utf-8").replace("explanation/3", "explanation/9")
        manifest.write_text(text, encoding="utf-8")
    elif damage == "arrays":
        arrays.unlink()
    elif damage == "truncated":
        arrays.write_bytes(arrays.read_bytes()[:500])
    elif damage == "missing":
        np.savez(arrays, logits=np.zeros(5))
    with pytest.raises(InputError) as error:
        Explanation.load(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


# --- pickle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["single", "batch"])
def test_pickled_it_is_the_same_without_its_network(
    which: str, request: pytest.FixtureRequest
) -> None:
    explained: Explanation = request.getfixturevalue(which)
    back: Explanation = pickle.loads(pickle.dumps(explained))
    for name in TENSORS:
        assert torch.equal(getattr(back, name), getattr(explained, name)), name
    assert bool(back.trail.same(explained.trail).all())
    assert repr(back) == repr(explained)
    assert back.preprocessing == explained.preprocessing
    model = back.symbolic_model
    assert torch.equal(model(back.input, check=False), explained.symbolic_model(explained.input))
    for ask in (lambda: model.follows(back.input), back.certificate):
        with pytest.raises(InputError, match="network"):
            ask()
    assert explained.symbolic_model.network is not None


def test_copies_keep_their_network(single: Explanation) -> None:
    for copied in (copy.copy(single), copy.deepcopy(single)):
        assert copied.symbolic_model.network is single.symbolic_model.network
        assert bool(copied.symbolic_model.follows(single.input))
    deep = copy.deepcopy(single)
    deep.symbolic_model.weights.zero_()
    assert bool(single.symbolic_model.weights.any())
    assert torch.equal(deep.weights, deep.symbolic_model.weights)


# --- the reference -------------------------------------------------------------------------------


def test_the_reference_is_kept_as_small_as_it_is(explainer: Explainer, tmp_path: Path) -> None:
    X = photos(2)
    assert explainer.explain(X[0], reference="black").reference is None
    zero = explainer.explain(X[0]).reference
    assert zero is not None
    assert zero.shape == (3, 1, 1)
    number = explainer.explain(X[0], reference=0.25)
    assert number.reference is not None
    assert number.reference.shape == (1, 1, 1)
    colour = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    batch = explainer.explain(X, ("top", 2), reference=colour)
    assert batch.reference is not None
    assert batch.reference.shape == (1, 3, 1, 1)
    each = torch.stack([colour, 2 * colour])
    both = explainer.explain(X, reference=each)
    assert torch.equal(both[1].reference, 2 * colour)  # type: ignore[arg-type]
    for explained in (number, batch, both):
        back = Explanation.load(explained.save(tmp_path / "result"), explainer)
        assert back.reference is not None
        assert explained.reference is not None
        assert torch.equal(back.reference, explained.reference)
        for part in back.split():
            assert part.reference is not None
            expected = part.weights * (part.input - part.reference)
            assert torch.allclose(part.contributions, expected, rtol=1e-6)


def test_other_spaces_keep_their_reference(explainer: Explainer) -> None:
    for space in ("input", "photo"):
        explained = explainer.explain(photos(1)[0], ("top", 2), reference=0.5, space=space)
        assert explained.reference is not None
        assert explained.reference.shape == (1, 1, 1)
        assert explained[1].reference is not None


def test_more_than_rounding_explains_is_not_exact() -> None:
    bound, residual = torch.tensor([1e-3, 1e-3]), torch.tensor([1e-4, -1e-4])
    assert exactness_of(smooth=False, residual=residual, bound=bound) == "on region"
    assert exactness_of(smooth=True, residual=residual, bound=bound) == "at input"
    for wrong in (2e-3, -1.0, float("nan"), float("inf")):
        off = torch.tensor([1e-4, wrong])
        assert exactness_of(smooth=False, residual=off, bound=bound) == "not exact"


# --- cotangents ----------------------------------------------------------------------------------


def test_a_cotangent_that_picks_a_class_is_named_so(explainer: Explainer) -> None:
    eye = torch.eye(5)
    given = {
        "gnu": eye[4],
        "dog rather than eel": eye[1] - eye[2],
        "cotangent": eye[0] * 0.5,
    }
    for name, cotangent in given.items():
        explained = explainer.explain(photos(1)[0], cotangent)
        assert explained.target_name == name
        assert explained.certificate()[0].holds
