"""Nothing that a result states goes unjudged: every field, array and key is changed and noticed."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, InputError, Preprocessing
from guidxmage.attribution.placement import Placement
from guidxmage.engine.symbolic import SymbolicModel
from guidxmage.engine.trail.trail import Trail
from guidxmage.jobs import verify_result
from guidxmage.jobs.manifest_check import leaves, written
from guidxmage.jobs.verify_result import Verification, verify
from guidxmage.proof import certificate as certificate_module
from guidxmage.proof.evidence.judges import JUDGES
from guidxmage.proof.evidence.statements import (
    STATEMENTS,
    Judgement,
    Place,
    statement_of,
    statements,
)
from tests.results import Arrays, forge, sign
from tests.test_certificate import seeded

LABELS = ["cat", "dog", "eel", "fox"]


@pytest.fixture(autouse=True)
def captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture takes most of the time of a small certificate; one of each network is enough."""
    known: dict[int, Any] = {}
    own = certificate_module.capture

    def capture(model: nn.Module, *args: Any) -> Any:
        if id(model) not in known:
            known[id(model)] = model, own(model, *args)
        return known[id(model)][1]

    monkeypatch.setattr(certificate_module, "capture", capture)


def network(smooth: bool = False) -> nn.Module:
    return seeded(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU() if smooth else nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1), nn.Hardtanh(-0.8, 0.9), nn.Flatten(), nn.Linear(36, 4),
    )  # fmt: skip


def photo(seed: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def explainer_of(smooth: bool = False, **options: Any) -> Explainer:
    way = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.25, 0.2, 0.3))
    return Explainer(network(smooth), preprocessing=way, labels=LABELS, name="tiny", **options)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return explainer_of()


@pytest.fixture(scope="module")
def explanation(explainer: Explainer) -> Explanation:
    reference = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    return explainer.explain(photo(), target=2, reference=reference, depth=["0", "input"])


# --- the list ------------------------------------------------------------------------------------


def test_every_field_is_in_the_list_once() -> None:
    for place, kind in ((Place.EXPLANATION, Explanation), (Place.MODEL, SymbolicModel)):
        names = [statement.name for statement in statements(place)]
        assert sorted(names) == sorted(field.name for field in dataclasses.fields(kind))
    assert len({(one.place, one.name) for one in STATEMENTS}) == len(STATEMENTS)


def test_the_page_says_what_the_list_says() -> None:
    page = Path(__file__).parent.parent / "docs" / "certificates.md"
    rows = [
        line.split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if "`" in line
    ]
    stated = {
        name.strip("`"): row[1]
        for row in rows
        if len(row) == 3
        for name in row[0].removeprefix("| ").split(", ")
    }
    prefixes = {Place.EXPLANATION: "", Place.MODEL: "symbolic_model."}
    for one in STATEMENTS:
        if one.place in prefixes:
            name = prefixes[one.place] + one.name
            alone = stated.get(name)
            assert alone == one.judgement.value or (
                alone is None and one.judgement is Judgement.DERIVED and one.place is Place.MODEL
            ), name


def test_what_is_judged_has_a_judge() -> None:
    judged = {
        (one.place, one.name)
        for one in STATEMENTS
        if one.place in (Place.EXPLANATION, Place.MODEL)
        and one.judgement is not Judgement.NOT_EVIDENCE
    }
    assert judged == set(JUDGES)


def test_a_field_that_nobody_judges_counts_against_it(
    explanation: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidxmage.proof.evidence import judges

    assert explanation.certificate()[0].holds
    monkeypatch.setattr(judges, "JUDGES", {k: v for k, v in JUDGES.items() if k[1] != "score"})
    (found,) = explanation.certificate()
    assert found.reasons == ("score: nothing judges it",)


# --- a certificate judges every field ------------------------------------------------------------


def bumped(tensor: Tensor, place: int, factor: float) -> Tensor:
    """One entry changed by a part of the largest."""
    changed = tensor.clone()
    size = float(tensor.abs().max()) or 1.0
    changed.view(-1)[place] += factor * size
    return changed


def other_trail(trail: Trail) -> Trail:
    """A trail with the first decision of the first site taken otherwise."""
    site = next(iter(trail))
    position = torch.zeros(1, dtype=torch.int64)
    taken = trail[site].choice(position, position)
    return trail.flipped([site], position, 1 - taken)


def other_placements(one: Placement) -> Iterator[tuple[str, Placement]]:
    """Every field of a placement, changed."""
    for name in ("whole", "placed_bias", "unplaced", "residual"):
        value: Tensor = getattr(one, name)
        for place in {0, value.numel() // 2, value.numel() - 1}:
            yield f"{name} {place}", replace(one, **{name: bumped(value, place, 1e-2)})
    for name in ("whole", "placed_bias"):
        yield f"{name} moved", replace(one, **{name: getattr(one, name).roll(1, -1)})
    # What is moved from the picture to no place, with the sum as it was.
    place = int(one.whole.abs().argmax())
    share = float(one.whole.view(-1)[place])
    forged = one.whole.clone()
    forged.view(-1)[place] = 0
    yield "whole to no place", replace(one, whole=forged, unplaced=one.unplaced + share)
    site = next(iter(one.unplaced_by_layer))
    shares = {**one.unplaced_by_layer, site: one.unplaced_by_layer[site] + share}
    more = replace(one, unplaced_by_layer=shares, unplaced=one.unplaced + share)
    yield "unplaced_by_layer", replace(more, whole=forged)
    yield "unplaced site", replace(one, unplaced_by_layer={"there": one.unplaced})
    for factor in (0.5, 1e6):
        yield f"bound {factor}", replace(one, residual_bound=one.residual_bound * factor)
    yield "sigma", replace(one, sigma=one.sigma * 2)
    for name, value in (("site", "2"), ("grid", (3, 3)), ("stride", 2.0), ("sigma", 7.0)):
        yield f"depth {name}", replace(one, depth=replace(one.depth, **{name: value}))


def changes(e: Explanation) -> Iterator[tuple[str, Callable[[Explanation], Explanation]]]:
    """Every field that is judged, changed in several ways."""
    model = e.symbolic_model

    def of_explanation(**fields: Any) -> Callable[[Explanation], Explanation]:
        return lambda one: replace(one, **fields)

    def of_model(**fields: Any) -> Callable[[Explanation], Explanation]:
        return lambda one: replace(one, symbolic_model=replace(one.symbolic_model, **fields))

    for name in ("logits", "score", "weights", "contributions", "bias", "residual", "input"):
        value: Tensor = getattr(e, name)
        for place in {0, value.numel() // 2, value.numel() - 1}:
            for factor in (1.0, -1e-3):
                yield (
                    f"{name} {place} {factor}",
                    of_explanation(**{name: bumped(value, place, factor)}),
                )
        if value.ndim:
            yield f"{name} mirrored", of_explanation(**{name: value.flip(-1)})
            yield f"{name} moved", of_explanation(**{name: value.roll(1, -1)})
    for factor in (0.0, 0.5, 1.01, 1e6):
        yield f"bound × {factor}", of_explanation(residual_bound=e.residual_bound * factor)
    for target in (-1, 0, 3):
        yield f"target {target}", of_explanation(target=torch.full_like(e.target, target))
    yield "against", of_explanation(against=e.against + 2)
    sites = dict(e.bias_by_layer)
    first, second = list(sites)[:2]
    yield (
        "bias moved",
        of_explanation(
            bias_by_layer={**sites, first: sites[first] + 0.01, second: sites[second] - 0.01}
        ),
    )
    yield (
        "bias swapped",
        of_explanation(bias_by_layer={**sites, first: sites[second], second: sites[first]}),
    )
    yield (
        "bias renamed",
        of_explanation(bias_by_layer={("there" if k == first else k): v for k, v in sites.items()}),
    )
    yield (
        "bias left out",
        of_explanation(bias_by_layer={k: v for k, v in sites.items() if k != first}),
    )
    for word in ("at input", "not exact", "everywhere"):
        yield f"exactness {word}", of_explanation(exactness=word)
    yield "trail", of_explanation(trail=other_trail(e.trail))
    yield "header", of_explanation(trail=replace(e.trail, header={**e.trail.header, "dtype": "x"}))
    yield "pictures", of_explanation(pictures=(e.pictures[0].rotate(90),))  # type: ignore[union-attr]
    for space in ("photo", "input", "elsewhere"):
        yield f"space {space}", of_explanation(space=space)
    yield (
        "preprocessing",
        of_explanation(preprocessing=Preprocessing(mean=(0.4, 0.5, 0.7), std=(0.25, 0.2, 0.3))),
    )
    yield "no preprocessing", of_explanation(preprocessing=None)
    assert e.reference is not None
    yield "reference", of_explanation(reference=bumped(e.reference, 1, 0.01))
    yield "no reference", of_explanation(reference=None)
    for name, one in other_placements(e.placements[0]):
        yield f"placements {name}", of_explanation(placements=(one, *e.placements[1:]))
    yield "placements swapped", of_explanation(placements=(e.placements[0], e.placements[0]))
    yield "symbolic_model.weights", of_model(weights=bumped(model.weights, 7, 1e-3))
    yield "symbolic_model.bias", of_model(bias=model.bias + 1e-3)
    yield "symbolic_model.trail", of_model(trail=other_trail(model.trail))
    for place in (2, 3):
        yield (
            f"symbolic_model.cotangent {place}",
            of_model(cotangent=bumped(model.cotangent, place, 0.01)),
        )
    yield "symbolic_model.batched", of_model(batched=True)
    yield "symbolic_model.several", of_model(several=True)
    yield "symbolic_model.network", of_model(network=explainer_of().network((3, 8, 8)))
    yield "symbolic_model.input", of_model(input=bumped(e.input, 5, 1e-3))
    yield "symbolic_model.input missing", of_model(input=None)


def test_every_change_is_noticed(explanation: Explanation) -> None:
    assert explanation.certificate()[0].holds
    passed, walked = [], set()
    for name, change in changes(explanation):
        walked.add(name.split()[0])
        try:
            if change(explanation).certificate()[0].holds:
                passed.append(name)
        except InputError:  # it does not fit together
            continue
    # The same network captured by another explainer is no change.
    assert passed == ["symbolic_model.network"]
    judged = {one.name for one in statements(Place.EXPLANATION)} - {"symbolic_model"}
    judged |= {f"symbolic_model.{one.name}" for one in statements(Place.MODEL)}
    named = {
        "bound": "residual_bound",
        "bias": "bias_by_layer",
        "header": "trail",
        "no": "reference",
    }
    free = {one.name for one in STATEMENTS if one.judgement is Judgement.NOT_EVIDENCE}
    free |= {f"symbolic_model.{name}" for name in free}
    assert judged - free <= walked | {named.get(name, "") for name in walked}


def test_changes_that_fit_together_are_noticed_by_the_one_judge_of_each() -> None:
    """A forger who keeps all that is derived in step is left with what is recomputed."""
    pixels = photo()
    pixels[2, 3] = 0
    e = explainer_of().explain(pixels, target=2, reference="black")
    model, sites = e.symbolic_model, e.bias_by_layer
    assert e.certificate()[0].holds
    # A black pixel contributes nothing, whatever its weight.
    weights = e.weights.clone()
    weights[1, 2, 3] += 1e-4 * weights.abs().max()
    black = replace(e, weights=weights, symbolic_model=replace(model, weights=weights))
    # Two weights that contribute as much as before together.
    weights = e.weights.clone()
    step = 1e-3 * float(weights.abs().max())
    weights[0, 4, 4] += step / float(e.input[0, 4, 4])
    weights[0, 5, 5] -= step / float(e.input[0, 5, 5])
    pair = replace(
        e,
        weights=weights,
        contributions=weights * e.input,
        symbolic_model=replace(model, weights=weights),
    )
    total = pair.contributions.sum(dtype=torch.float64)
    pair = replace(pair, residual=e.score.double() - total - e.bias)
    first, second = list(sites)[:2]
    moved = {**sites, first: sites[first] + 1e-4, second: sites[second] - 1e-4}
    other = e.logits.clone()
    other[0] += 1e-3
    forged = {
        "weights": (black, pair),
        "bias_by_layer": (replace(e, bias_by_layer=moved),),
        "logits": (replace(e, logits=other),),
        "residual_bound": (replace(e, residual_bound=e.residual_bound * 1.01),),
    }
    for name, explanations in forged.items():
        for one in explanations:
            (found,) = one.certificate()
            assert [reason.split(":")[0] for reason in found.reasons] == [name]


def test_another_network_is_noticed(explanation: Explanation) -> None:
    other = Explainer(
        seeded(*list(network().children())[:-1], nn.Linear(36, 4)).requires_grad_(False)
    )
    with torch.no_grad():
        other.model[6].bias += 0.5  # type: ignore[index,operator,union-attr]
    model = replace(explanation.symbolic_model, network=other.network((3, 8, 8)))
    (found,) = replace(explanation, symbolic_model=model).certificate()
    assert not found.holds


@pytest.mark.parametrize("space", ["photo", "input", "pixels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_single_weight_is_noticed_in_every_space(space: Any, dtype: Any, smooth: bool) -> None:
    explainer = explainer_of(smooth, dtype=dtype)
    e = explainer.explain(photo(), target="top2", reference=0.25, space=space)
    assert all(one.holds for one in e.certificate()), e.certificate()[0].reasons
    for place in (0, 1, 50, 191):
        off = bumped(e.weights, place, 1e-3 if dtype == torch.float32 else 1e-9)
        assert not e.certificate()[0].reasons
        assert not replace(e, weights=off).certificate()[0].holds
        off = bumped(e.contributions, place, 1e-4 if dtype == torch.float32 else 1e-9)
        assert not replace(e, contributions=off).certificate()[0].holds


def test_what_resizing_rounds_is_judged() -> None:
    way = Preprocessing(
        resize=8, crop=8, mean=(0.4, 0.5, 0.6), std=(0.25, 0.2, 0.3), interpolation="bicubic"
    )
    explainer = Explainer(network(), preprocessing=way, name="tiny")
    pixels = np.random.default_rng(5).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    e = explainer.explain(pixels, target=1, space="photo", reference=0.2)
    assert e.certificate()[0].holds, e.certificate()[0].reasons
    for site in ("resize rounding", "preprocessing", "reference", "0"):
        shares = {**e.bias_by_layer, site: e.bias_by_layer[site] + 1e-4}
        (found,) = replace(e, bias_by_layer=shares).certificate()
        assert any(reason.startswith(f"bias_by_layer: {site}") for reason in found.reasons)


# --- verify judges every array and every key -----------------------------------------------------


@pytest.fixture(scope="module")
def saved(explainer: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two targets, a reference, a known preprocessing: most arrays there are."""
    reference = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    depth = ["0", "input"]
    found = explainer.explain(photo(), target=("top", 2), reference=reference, depth=depth)
    return found.save(tmp_path_factory.mktemp("saved") / "result")


def outcome(folder: Path, explainer: Explainer, photo: Path | None = None) -> Verification | None:
    """The verification; None where the result is refused in a sentence."""
    try:
        return verify(folder, explainer, photo)
    except InputError:
        return None


def noticed(found: Verification | None) -> bool:
    return found is None or not found.passed


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "result"))


def test_the_result_itself_is_verified(folder: Path, explainer: Explainer) -> None:
    forge(folder)  # signed anew, with nothing changed
    found = verify(folder, explainer)
    assert found.passed, found.checks
    # Nothing is left out in silence: what is no evidence is named, with why.
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for path, _ in leaves(manifest):
        key = written(path)
        statement = statement_of(Place.MANIFEST, key)
        assert statement is not None, key
        if statement.judgement is Judgement.NOT_EVIDENCE:
            assert found.not_evidence[statement.name] == statement.how
    with np.load(folder / "arrays.npz") as arrays:
        assert all(statement_of(Place.ARRAYS, name) for name in arrays.files)


def array_changes(name: str, array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """The array changed in several ways, but for those that change nothing."""
    flat = array.reshape(-1)
    if not flat.size:
        return
    for place in {0, flat.size // 2, flat.size - 1}:
        changed = flat.copy()
        if array.dtype.kind == "f":
            changed[place] += np.abs(flat).max() * 1e-3 or 1
        elif name == "trail" or name.endswith("_sites"):  # JSON texts
            changed[place] = ord("x")
        else:
            changed[place] ^= 1 if array.dtype.kind == "i" else 128
        yield changed.reshape(array.shape)
    if array.ndim > 1 and array.shape[-1] > 1:
        yield array[..., ::-1].copy()
        yield np.roll(array, 1, 0)
    yield np.zeros_like(array)
    yield array.astype(np.float16) if array.dtype.kind == "f" else array.astype(np.int16)
    yield array[None]


def test_every_array_is_judged(folder: Path, explainer: Explainer, saved: Path) -> None:
    with np.load(saved / "arrays.npz") as stored:
        arrays = dict(stored.items())
    passed = []
    for name, array in arrays.items():
        for number, changed in enumerate(array_changes(name, array)):
            if np.array_equal(changed, array) and changed.dtype == array.dtype:
                continue

            def change(content: Arrays, name: str = name, changed: Any = changed) -> None:
                content[name] = changed

            shutil.rmtree(folder)
            shutil.copytree(saved, folder)
            forge(folder, change)
            if not noticed(outcome(folder, explainer)):
                passed.append(f"{name} {number}")
        shutil.rmtree(folder)
        shutil.copytree(saved, folder)
        forge(folder, lambda content, name=name: content.pop(name))  # type: ignore[misc]
        if not noticed(outcome(folder, explainer)):
            passed.append(f"{name} left out")
    # Bits that fill the last byte of a plane are no decisions.
    assert [name for name in passed if not name.startswith("picture")] == []
    assert set(arrays) >= {"reference", "bias_values", "picture.0", "trail.0.0", "model_bias"}
    assert set(arrays) >= {"placement.0.whole", "placement.1.placed_bias", "placement.0.unplaced"}


def test_an_array_that_nobody_knows_is_noticed(folder: Path, explainer: Explainer) -> None:
    forge(folder, lambda content: content.update(extra=np.zeros(3)))
    found = verify(folder, explainer)
    assert [one.name for one in found.checks if one.passed is False] == ["arrays"]


def other_value(value: Any) -> Iterator[Any]:
    """Other values: a small change, a large one, another type."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, -value - 7)
    elif isinstance(value, float):
        yield from (value + max(abs(value), 1e-3) * 1e-3, value * 1e6 + 1)
    elif isinstance(value, str):
        yield from (f"{value}x", "")
    yield [] if value is None else {"a": 1}


def put(document: Any, key: str, value: Any) -> None:
    """Set the leaf of a manifest that `leaves` calls so."""
    found = next(path for name, path in paths(document) if name == key)
    for step in found[:-1]:
        document = document[step]
    document[found[-1]] = value


def paths(document: Any, key: str = "", path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The steps to every leaf, by its name."""
    if isinstance(document, dict) and document:
        for name, value in document.items():
            yield from paths(value, f"{key}.{name}" if key else name, (*path, name))
    elif isinstance(document, list) and document:
        for number, value in enumerate(document):
            yield from paths(value, f"{key}[{number}]", (*path, number))
    else:
        yield key, path


def walk(
    folder: Path,
    result: Path,
    explainer: Explainer,
    photo: Path | None,
    keys: Callable[[str], bool],
) -> tuple[list[str], set[str]]:
    """Changes of a manifest that were not noticed, and the statements that were changed."""
    manifest = json.loads((result / "manifest.json").read_text(encoding="utf-8"))
    silent, walked = [], set()
    for path, value in leaves(manifest):
        key = written(path)
        statement = statement_of(Place.MANIFEST, key)
        assert statement is not None, key
        # One label, hash or site stands for all of them.
        if not keys(key) or statement.name in walked or key == "digest":
            continue
        walked.add(statement.name)
        for other in other_value(value):
            if other == value:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(result, folder)
            changed = copy.deepcopy(manifest)
            put(changed, key, other)
            if key.startswith("files."):
                (folder / "manifest.json").write_text(signed_manifest(changed), encoding="utf-8")
            else:
                sign(folder, changed)
            found = outcome(folder, explainer, photo)
            if not noticed(found):
                assert found is not None
                silent.append(
                    f"{key} = {other!r}" if statement.name not in found.not_evidence else ""
                )
    return [one for one in silent if one], walked


def signed_manifest(manifest: dict[str, Any]) -> str:
    from guidxmage.attribution.archive import signed

    return signed(manifest)


def test_every_key_of_the_manifest_is_judged(
    folder: Path, saved: Path, explainer: Explainer
) -> None:
    silent, walked = walk(folder, saved, explainer, None, lambda _: True)
    assert silent == []
    assert {"model.name", "model.labels[]", "results[].name", "exactness", "files.*"} <= walked
    assert {"depths[].*", "results[].depths[].*", "results[].placed"} <= walked


def test_every_key_of_a_depth_is_judged(folder: Path, saved: Path, explainer: Explainer) -> None:
    """Keys that the list has as one: each of them is changed."""
    manifest = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))
    silent = []
    for path, value in leaves(manifest):
        key = written(path)
        if not key.startswith(("depths[1]", "results[1].depths[0]")):
            continue
        for other in other_value(value):
            changed = copy.deepcopy(manifest)
            put(changed, key, other)
            sign(folder, changed)
            if not noticed(outcome(folder, explainer)):
                silent.append(f"{key} = {other!r}")
    assert silent == []


def test_depths_that_are_left_out_are_noticed(
    folder: Path, saved: Path, explainer: Explainer
) -> None:
    manifest = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))
    for depths in ([], manifest["depths"][:1], manifest["depths"][::-1], manifest["depths"] * 2):
        sign(folder, {**manifest, "depths": depths})
        assert noticed(outcome(folder, explainer))


def test_keys_that_are_left_out_or_added_are_noticed(
    folder: Path, saved: Path, explainer: Explainer
) -> None:
    manifest = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))
    for key in manifest:
        if key in ("digest", "files", "versions"):
            continue
        sign(folder, {k: v for k, v in manifest.items() if k != key})
        assert noticed(outcome(folder, explainer)), key
    sign(folder, {**manifest, "approved": True})
    assert noticed(outcome(folder, explainer))


# --- what the command line adds ------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(explainer: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of `explain_photos`, with all that there can be."""
    from PIL import Image

    from guidxmage.jobs.explain_photos import Job, explain_photos

    pytest.importorskip("matplotlib")
    pytest.importorskip("skimage")
    folder = tmp_path_factory.mktemp("made")
    Image.fromarray(photo()).save(folder / "photo.png")
    source = {"model": "net.py:build", "weights": "default", "dtype": "float32", "gates": "secant"}
    job = Job(target="top2", certify=True, radius=True, scale=0.5, source=source)
    (done,) = explain_photos(explainer, [folder / "photo.png"], folder, job)
    assert done.error is None
    return folder


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    """Drawing and radii take most of the time: the same are made once."""
    from guidxmage.jobs import additions

    known: dict[Any, dict[str, bytes]] = {}
    own = additions.draw

    def draw(explanation: Explanation, regions: Any, scratch: Path, drawing: Any) -> None:
        labels = (
            None if regions is None else (regions.labels.tobytes(), tuple(regions.names.items()))
        )
        names = (explanation.labels, explanation.model_name, explanation.weights_source)
        whole = tuple(one.whole.numpy().tobytes() for one in explanation.placements)
        key = (drawing, labels, names, explanation.contributions.numpy().tobytes(), whole)
        if key not in known:
            own(explanation, regions, scratch, drawing)
            known[key] = {path.name: path.read_bytes() for path in scratch.iterdir()}
        for name, content in known[key].items():
            (scratch / name).write_bytes(content)

    monkeypatch.setattr(additions, "draw", draw)
    radii: dict[bytes, Any] = {}
    measured = additions.radius_of

    def radius_of(explanation: Explanation) -> Any:
        key = explanation.weights.numpy().tobytes()
        if key not in radii:
            radii[key] = measured(explanation)
        return copy.deepcopy(radii[key])

    monkeypatch.setattr(additions, "radius_of", radius_of)


ADDED = (
    "photo",
    "seconds",
    "certificate_seconds",
    "top",
    "objects",
    "sentences",
    "pictures",
    "drawing",
    "radius",
    "source",
    "certificate",
)


def test_everything_that_is_added_is_judged(
    made: Path, tmp_path: Path, explainer: Explainer, drawn_once: None
) -> None:
    found = verify(made / "photo", explainer, made / "photo.png")
    assert found.passed, found.checks
    names = {check.name for check in found.checks}
    assert names >= {"image", "manifest", "objects", "picture files", "certificate.json"}
    assert all(check.passed for check in found.checks)
    silent, walked = walk(
        tmp_path / "result",
        made / "photo",
        explainer,
        made / "photo.png",
        lambda k: k.startswith(ADDED),
    )
    assert silent == []
    stated = {one.name for one in statements(Place.MANIFEST) if one.name.startswith(ADDED)}
    assert walked == stated


@pytest.mark.parametrize("what", ["figure.png", "distribution.png", "saliency.png", "whole.png"])
def test_another_picture_is_noticed(
    what: str, made: Path, tmp_path: Path, explainer: Explainer, drawn_once: None
) -> None:
    from PIL import Image

    folder = Path(shutil.copytree(made / "photo", tmp_path / "result"))
    with Image.open(folder / what) as picture:
        changed = picture.copy()
    changed.putpixel((3, 2), tuple(255 - v for v in changed.getpixel((3, 2))))  # type: ignore[union-attr]
    changed.save(folder / what)
    sign(folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    found = verify(folder, explainer)
    assert [one.name for one in found.checks if one.passed is False] == ["picture files"]


def test_pictures_of_other_versions_are_no_evidence(
    made: Path, tmp_path: Path, explainer: Explainer, drawn_once: None
) -> None:
    folder = Path(shutil.copytree(made / "photo", tmp_path / "result"))
    (folder / "figure.png").write_bytes((folder / "saliency.png").read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["drawing"]["versions"]["matplotlib"] = "0.1"
    sign(folder, manifest)
    found = verify(folder, explainer)
    assert found.passed
    assert "other versions are installed" in found.not_evidence["picture files"]


@pytest.mark.parametrize("content", ["[]", "", "{}", "[{}, {}]", "text"])
def test_an_emptied_certificate_is_noticed(
    content: str, made: Path, tmp_path: Path, explainer: Explainer, drawn_once: None
) -> None:
    folder = Path(shutil.copytree(made / "photo", tmp_path / "result"))
    (folder / "certificate.json").write_text(content, encoding="utf-8")
    sign(folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    assert noticed(outcome(folder, explainer))


def test_a_certificate_that_says_otherwise_is_noticed(
    made: Path, tmp_path: Path, explainer: Explainer, drawn_once: None
) -> None:
    folder = Path(shutil.copytree(made / "photo", tmp_path / "result"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    own = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    for key, value in (("holds", False), ("reasons", ["no"]), ("findings", []), ("schema", "x")):
        changed = [{**own[0], key: value}, own[1]]
        (folder / "certificate.json").write_text(json.dumps(changed), encoding="utf-8")
        sign(folder, manifest)
        found = verify(folder, explainer)
        assert [one.name for one in found.checks if one.passed is False] == ["certificate.json"]


def test_files_that_are_added_hidden_or_not_listed_are_noticed(
    folder: Path, explainer: Explainer
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "note.txt").write_text("all is well", encoding="utf-8")
    assert "note.txt was added" in verify(folder, explainer).checks[0].detail
    sign(folder, manifest)  # listed, it is still none of a result's files
    assert "note.txt is none of a result's files" in verify(folder, explainer).checks[0].detail
    (folder / "note.txt").unlink()
    (folder / "sub").mkdir()
    assert "sub was added" in verify(folder, explainer).checks[0].detail
    (folder / "sub").rmdir()
    manifest["files"] = {}
    (folder / "manifest.json").write_text(signed_manifest(manifest), encoding="utf-8")
    assert "arrays.npz is not listed" in verify(folder, explainer).checks[0].detail
    manifest["files"] = {"../arrays.npz": "0" * 64, "arrays.npz": "0" * 64}
    (folder / "manifest.json").write_text(signed_manifest(manifest), encoding="utf-8")
    assert not verify(folder, explainer).passed


def test_a_smooth_network_s_numbers_are_judged(tmp_path: Path, saved: Path) -> None:
    explainer = explainer_of(smooth=True)
    folder = explainer.explain(photo(), target=1).save(tmp_path / "smooth")
    assert verify(folder, explainer).passed
    with np.load(folder / "arrays.npz") as stored:
        gates = [name for name in stored.files if name.startswith("gates.")]
    assert gates
    for name in gates:
        for place in (0, 10):

            def change(content: Arrays, name: str = name, place: int = place) -> None:
                content[name].reshape(-1)[place] += np.float32(1e-2)

            copied = Path(shutil.copytree(folder, tmp_path / f"{name}-{place}"))
            forge(copied, change)
            assert noticed(outcome(copied, explainer))


# --- other results -------------------------------------------------------------------------------


def test_results_of_earlier_versions_are_refused_in_a_sentence(
    folder: Path, explainer: Explainer
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["reference"]
    for number in (1, 2):
        sign(folder, {**manifest, "schema": f"guid-xmage/explanation/{number}"})
        with pytest.raises(InputError, match="written by another version"):
            verify(folder, explainer)
        # They are still read, and their reference has a name.
        loaded = Explanation.load(folder)
        assert loaded.score.shape == (2,)
        assert loaded.reference_name == "0.1, 0.2, 0.3"


def test_a_result_that_was_saved_without_its_network(
    saved: Path, tmp_path: Path, explainer: Explainer
) -> None:
    folder = Explanation.load(saved).save(tmp_path / "again")
    found = verify(folder, explainer)
    assert found.passed, [one for one in found.checks if one.passed is False]
    assert {check.name: check.passed for check in found.checks}["model"] is None
    assert "does not say which weights" in found.not_evidence["fingerprints.model"]


def test_on_other_kernels_a_result_is_still_verified(
    folder: Path, explainer: Explainer, saved: Path
) -> None:
    """Other machines sum in another order: every entry is a little off, none by much."""
    draw = np.random.default_rng(0)

    def rounded(content: Arrays) -> None:
        for name in ("weights", "logits"):
            noise = draw.uniform(-1, 1, content[name].shape).astype(np.float32)
            content[name] *= 1 + noise * np.float32(2e-7)
        X, R = content["input"], content["reference"]
        content["contributions"] = content["weights"] * (X - R)
        content["score"] = np.take(content["logits"], content["target"])
        moved = (content["weights"].astype(float) * R).sum((1, 2, 3))
        content["bias_values"][-1] = moved
        content["bias"] = content["model_bias"] + moved
        total = content["contributions"].sum((1, 2, 3), dtype=np.float64)
        content["residual"] = content["score"] - total - content["bias"]
        for depth in range(2):
            start = f"placement.{depth}."
            for name in ("whole", "placed_bias"):
                size = np.abs(content[start + name]).max()
                noise = draw.uniform(-1, 1, content[start + name].shape)
                content[start + name] += 2e-8 * size * noise
            own = content[f"{start}whole"].sum((1, 2)) + content[f"{start}unplaced"]
            content[f"{start}residual"] = content["score"] - own

    def restated(manifest: dict[str, Any]) -> None:
        with np.load(folder / "arrays.npz") as stored:
            for number, result in enumerate(manifest["results"]):
                for key in ("score", "bias", "residual"):
                    result[key] = float(stored[key][number])
                total = stored["contributions"][number].sum(dtype=np.float64)
                result["contribution_sum"] = float(total)
                result["bias_by_layer"]["reference"] = float(stored["bias_values"][-1][number])
                result["placed"] = float(stored["placement.0.whole"][number].sum() - total)
                for depth, said in enumerate(result["depths"]):
                    for name in ("whole", "placed_bias"):
                        own = stored[f"placement.{depth}.{name}"][number]
                        said[f"{name}_sum"] = float(own.sum())
                    said["residual"] = float(stored[f"placement.{depth}.residual"][number])

    forge(folder, rounded, restated)
    found = verify(folder, explainer)
    assert found.passed, [one for one in found.checks if one.passed is False]


def test_verification_looks_at_files_before_it_loads_any(
    folder: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "arrays.npz").write_bytes(b"no archive")

    def loaded(*_: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(verify_result, "read_result", loaded)
    found = verify(folder, explainer)
    assert [(one.name, one.passed) for one in found.checks] == [("files", False), ("numbers", None)]
