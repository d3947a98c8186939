"""Attack photo after photo, each into a folder of its own; what is done already is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guidxmage.adversarial.heuristic.attack import attack
from guidxmage.adversarial.heuristic.result import AttackResult
from guidxmage.adversarial.margin import margin
from guidxmage.explainer import Explainer
from guidxmage.files.names import shown
from guidxmage.files.result_folder import PROVENANCE, Kind, write_mark
from guidxmage.jobs.photo_results import Outcome, PhotoResults, Say, Write
from guidxmage.objects.annotations import annotation_of
from guidxmage.outputs.choosing import files_named
from guidxmage.provenance import fingerprint
from guidxmage.provenance.versions import __version__

if TYPE_CHECKING:
    from guidxmage.view.attack import Side

SCHEMA = "guid-xmage/attack/2"
KIND = Kind((SCHEMA,))
FIGURE, ADVERSARIAL = "figure.png", "adversarial.png"


@dataclass(frozen=True)
class AttackJob:
    """How every photo is attacked: see `attack`.

    number, move: of other outputs than class scores, which number is to change and by how much, see
    `margin`. mask: a file or folder as `read_regions` takes it; only its objects may change or,
    with `outside`, only what lies outside of them.
    """

    norm: str = "l2"
    label: int | str | None = None
    target: int | str | None = None
    budget: int = 100
    quantise: bool = True
    mask: Path | None = None
    outside: bool = False
    seed: int = 0
    count_regions: int = 0
    number: str | None = None
    move: float | None = None


def attack_photos(  # noqa: PLR0917
    explainer: Explainer,
    photos: Iterable[Path],
    out: Path,
    job: AttackJob,
    overwrite: bool = False,
    say: Say = lambda _: None,
) -> Iterator[Outcome]:
    """Attack each photo into a folder of its own below `out`; see `PhotoResults`.

    A photo that cannot be read or written is reported and the rest goes on. What is there from the
    same photo, network, mask, options and versions is kept, unless told to overwrite. say: told
    when another run has to be waited for. Raises MissingExtraError when drawing needs a package.
    """

    def make(photo: Path) -> Write:
        return _attack_photo(explainer, photo, job)

    results = PhotoResults(out, KIND, overwrite, say)
    return results.each(photos, _dependence(explainer, job), make)


def _dependence(explainer: Explainer, job: AttackJob) -> Callable[[Path], dict[str, Any]]:
    """What the result of a photo depends on besides its place."""
    network = explainer.fingerprint()
    embeds = explainer.outputs.kind == "embedding"
    others = [fingerprint.of_photo(file) for file in files_named(job.number)] if embeds else []
    own = replace(job, mask=None)
    options = fingerprint.of_values([own, others] if others else own)

    def depends(photo: Path) -> dict[str, Any]:
        mask = None if job.mask is None else annotation_of(photo, job.mask)
        return {
            "photo": fingerprint.of_photo(photo),
            "network": network,
            "masks": None if mask is None else fingerprint.of_masks(mask),
            "options": options,
            "versions": fingerprint.makers(),
        }

    return depends


def _attack_photo(explainer: Explainer, photo: Path, job: AttackJob) -> Write:
    """Attack a photo; returns what draws and writes the result."""
    started = time.perf_counter()
    X = explainer.read(photo)
    free, label = _mask(explainer, photo, job), job.label
    if job.number is not None:
        explainer, label = margin(explainer, photo, job.number, job.move), 0
    result = attack(
        explainer,
        X[None],
        label,
        norm=job.norm,
        targets=job.target,
        mask=free,
        budget=job.budget,
        quantise=job.quantise,
        seed=job.seed,
        count_regions=job.count_regions,
    )
    seconds = round(time.perf_counter() - started, 2)

    def write(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
        manifest = {
            "schema": SCHEMA,
            "photo": shown(photo),
            "sha256": provenance["photo"],
            "network": {"name": explainer.name, "weights": explainer.weights_source},
            "options": {**asdict(job), "mask": None if job.mask is None else shown(job.mask)},
            "version": __version__,
            "seconds": seconds,
            "result": {**result.summary(0), **_names(explainer, result)},
            PROVENANCE: dict(provenance),
        }
        if bool(result.success[0]):
            manifest["pictures"] = _write_images(explainer, result, job, folder, manifest)
        return write_mark(folder, manifest)

    return write


def _mask(explainer: Explainer, photo: Path, job: AttackJob) -> Tensor | None:
    """The free pixels (H, W) for a mask of objects: inside them, or outside."""
    if job.mask is None:
        return None
    labels = torch.from_numpy(np.array(explainer.explain(photo).regions(job.mask, photo).labels))
    objects = (labels > 0) & (labels != 255)
    return (labels == 0) if job.outside else objects


def _names(explainer: Explainer, result: AttackResult) -> dict[str, str | None]:
    to = _name(explainer, int(result.to_class[0])) if bool(result.success[0]) else None
    return {"from_name": _name(explainer, int(result.from_class[0])), "to_name": to}


def _name(explainer: Explainer, index: int) -> str:
    return explainer.labels[index] if explainer.labels else f"class {index}"


def _write_images(
    explainer: Explainer,
    result: AttackResult,
    job: AttackJob,
    folder: Path,
    manifest: dict[str, Any],
) -> dict[str, str]:
    """The figure and the adversarial image; also notes in the manifest how the PNG is read back."""
    from guidxmage.view.attack import attack_figure
    from guidxmage.view.files import save_figure

    adversarial = result.adversarial[0]
    files = {"figure": FIGURE}
    if job.quantise:
        levels = (adversarial * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        Image.fromarray(levels.squeeze(-1) if levels.shape[2] == 1 else levels).save(
            folder / ADVERSARIAL
        )
        files["adversarial"] = ADVERSARIAL
        manifest["result"]["reloaded"] = _reloaded(explainer, folder / ADVERSARIAL, result)
    else:
        np.save(folder / "adversarial.npy", adversarial.cpu().numpy(), allow_pickle=False)
        files["adversarial"] = "adversarial.npy"
    sides = [_side(explainer, result, X) for X in (result.original[0], adversarial)]
    summary = manifest["result"]
    title = f"{summary['from_name']} → {summary['to_name']}"
    if result.evidence == "region":  # contributions are drawn, too
        title += " · contributions counted from the network's zero"
    figure = attack_figure(sides[0], sides[1], title, _lines(summary))
    save_figure(figure, folder / FIGURE)
    return files


def _reloaded(explainer: Explainer, path: Path, result: AttackResult) -> dict[str, Any]:
    """What the network says of the saved PNG, pixel for pixel and through its preprocessing."""
    with Image.open(path) as image:
        pixels = np.atleast_3d(np.asarray(image)).astype(np.float64) / 255
    X = torch.from_numpy(pixels).permute(2, 0, 1).to(result.original)
    index = int(explainer.logits(X).argmax())
    through = None if explainer.preprocessing is None else int(explainer.logits(path).argmax())
    return {"class": index, "name": _name(explainer, index), "class_through_preprocessing": through}


def _side(explainer: Explainer, result: AttackResult, X: Tensor) -> Side:
    """The network's answer for X, and what its pixels say for the new class against the old."""
    from guidxmage.view.attack import Side

    logits = explainer.logits(X)
    best = int(logits.argmax())
    new, old = int(result.to_class[0]), int(result.from_class[0])
    values, whole, difference = None, None, float(logits[new] - logits[old])
    if result.evidence == "region":
        # An image that was misclassified already has one class only.
        asked = ("contrast", new, old) if new != old else new
        explanation = explainer.explain(X, asked, reference="zero", depth="default")
        (panel,) = explanation.panels()
        values, whole = panel.pixels(), panel.depths[0]
    image = X.permute(1, 2, 0).cpu().numpy()
    return Side(image, _name(explainer, best), float(logits[best]), values, difference, whole)


def _lines(summary: dict[str, Any]) -> list[str]:
    sizes = summary["norms"]
    first = (
        f"l2 {sizes['l2']:.4g}   l∞ {sizes['linf'] * 255:.3g}/255   l1 {sizes['l1']:.4g}   "
        f"pixels changed: {sizes['l0']:.0f}   margin {summary['margin']:.3g}   "
        f"{summary['forwards']:.0f} forward and {summary['backwards']:.0f} backward passes"
    )
    flipped = summary["decisions_flipped"]
    return [first if flipped is None else f"{first}   {flipped:,.0f} decisions flipped"]
