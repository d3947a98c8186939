"""Explain photo after photo, each into a folder of its own, in constant memory."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidxmage.attribution.archive import KIND, write_explanation
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.files.names import shown
from guidxmage.files.result_folder import PROVENANCE
from guidxmage.inputs.photos import upright_size
from guidxmage.jobs.drawing import CONTRIBUTIONS, Drawing, draw, pictures_of
from guidxmage.jobs.photo_results import Outcome, PhotoResults, Say, Write
from guidxmage.objects.annotations import annotation_of
from guidxmage.outputs.choosing import files_named
from guidxmage.provenance import fingerprint

if TYPE_CHECKING:
    from guidxmage.analysis.integrated_gradients import IntegratedGradients
    from guidxmage.attribution.change_space import Space
    from guidxmage.view import Style

CERTIFICATE = "certificate.json"
PROFILE = "profile.png"
DEPTHS = "suitable"
# A whole map is kept in 16 bytes a pixel; of photos with more pixels, explained at their own size,
# only the chosen depth and the pixels' own are.
_LARGE = 4_000_000


@dataclass(frozen=True)
class Job:
    """How every photo is explained.

    objects: "auto", "none", or masks as `read_regions` takes; reference, space: as
    `Explainer.explain` has them.
    certify, radius: also write certificates and how far the region reaches. method: what is
    attributed, with the baseline and pieces of a `line`. source: how the network was named, for
    `guid-xmage verify`. depth: where the network is cut for the whole maps, as `Explainer.explain`
    has it, the chosen one first; None for none, DEPTHS for what suits the photo. map: which one
    the bare maps show, see `Drawing`.
    """

    target: Any = "top1"
    objects: Any = "auto"
    reference: Any = None
    space: Space | None = None
    scale: float | None = None
    style: Style = "bands"
    arrays: bool = True
    certify: bool = False
    radius: bool = False
    method: str = "contributions"
    line: tuple[float | None, int | None] = (None, None)
    source: Mapping[str, str] | None = None
    depth: Any = DEPTHS
    map: str = CONTRIBUTIONS
    whole_scale: float | None = None


def explain_photos(  # noqa: PLR0917
    explainer: Explainer,
    photos: Iterable[Path],
    out: Path,
    job: Job,
    overwrite: bool = False,
    say: Say = lambda _: None,
) -> Iterator[Outcome]:
    """Explain each photo into a folder of its own below `out`; see `PhotoResults`.

    A photo that cannot be read or written is reported and the rest goes on. What is there from the
    same photo, network, masks, options and versions is kept, unless told to overwrite. say: told
    when another run has to be waited for. Raises MissingExtraError when drawing needs a package.
    """

    def make(photo: Path) -> Write:
        return _explain_photo(explainer, photo, job)

    results = PhotoResults(out, KIND, overwrite, say)
    return results.each(photos, _dependence(explainer, job), make)


def _dependence(explainer: Explainer, job: Job) -> Callable[[Path], dict[str, Any]]:
    """What the result of a photo depends on besides its place."""
    network = explainer.fingerprint()
    masks = isinstance(job.objects, Path)
    reference = "zero" if job.reference is None else job.reference
    if isinstance(reference, Path):
        reference = fingerprint.of_photo(reference)
    own = replace(job, objects=None if masks else job.objects, reference=reference)
    embeds = explainer.outputs.kind == "embedding"
    others = [fingerprint.of_photo(file) for file in files_named(job.target)] if embeds else []
    options = fingerprint.of_values([own, others] if others else own)
    versions = fingerprint.makers(*(["scikit-image"] if job.objects == "auto" else []))

    def depends(photo: Path) -> dict[str, Any]:
        return {
            "photo": fingerprint.of_photo(photo),
            "network": network,
            "masks": fingerprint.of_masks(annotation_of(photo, job.objects)) if masks else None,
            "options": options,
            "versions": versions,
        }

    return depends


def shared_scales(
    explainer: Explainer, photos: Iterable[Path], job: Job
) -> tuple[float, float | None]:
    """One colour scale for all photos, of contributions and, where there are any, of whole maps.

    They are the largest of their own. Unreadable photos are left out.
    """
    from guidxmage.view import shared_scale
    from guidxmage.view.page import WIDE
    from guidxmage.view.placed import common_scale

    scales, wholes = [0.0], []
    for photo in photos:
        try:
            explanation = explainer.explain(
                photo, job.target, reference=job.reference, space=job.space, depth=_chosen(job)
            )
        except InputError:
            continue
        panels = explanation.panels()
        scales.append(shared_scale(panel.pixels() for panel in panels))
        wholes += [panel.depths[0].drawn(WIDE) for panel in panels if panel.depths]
    return max(scales), common_scale(wholes) if wholes else None


def _chosen(job: Job) -> Any:
    """The depth that is shown large; None where there is none."""
    if job.depth == DEPTHS:
        return "default"
    return None if job.depth is None else job.depth[:1]


def depths_for(job: Job, size: Callable[[], tuple[int, int]]) -> Any:
    """The depths at which a photo of this size, (height, width), is explained."""
    if job.depth != DEPTHS:
        return job.depth
    if job.space == "photo" and prod(size()) > _LARGE:
        return ["default", "input"]
    return ["default", "all"]


def _explain_photo(explainer: Explainer, photo: Path, job: Job) -> Write:
    """Explain a photo; returns what draws and writes the result."""
    started = time.perf_counter()
    explanation, integrated = _explained(explainer, photo, job)
    seconds = time.perf_counter() - started
    regions = None
    if job.objects != "none":
        regions = explanation.regions(job.objects, photo)
    extra: dict[str, Any] = {"photo": shown(photo), "seconds": round(seconds, 4)}
    if best := explanation.top():
        extra["top"] = [
            {"class": index, "name": name, "score": score} for index, name, score in best
        ]
    if regions is not None:
        tables = [part.table(regions) for part in explanation.split()]
        extra["objects"] = [table.to_dict() for table in tables]
        extra["objects_from"] = str(job.objects)
    extra["sentences"] = [part.sentence(regions) for part in explanation.split()]
    extra["pictures"] = pictures_of(placed=bool(explanation.placements))
    if integrated is not None:
        extra["integrated_gradients"] = _about(integrated, job)
        extra["pictures"]["profile"] = PROFILE
    note = ""
    if job.radius:
        extra["radius"], note = radius_of(explanation)
    if job.source is not None:
        extra["source"] = dict(job.source)
    drawing = Drawing(
        style=job.style,
        scale=job.scale,
        note=note,
        whole_scale=job.whole_scale,
        map=job.map,
        photo=shown(photo.name),
        date=str(datetime.date.today()),
    )
    extra["drawing"] = drawing.to_json()

    def write(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
        draw(explanation, regions, folder, drawing)
        if integrated is not None:
            _draw_profile(integrated, folder)
        own = {"photo_sha256": provenance["photo"], PROVENANCE: dict(provenance)}
        if job.certify:
            began = time.perf_counter()
            own["certificate"] = _certify(explanation, folder)
            own["certificate_seconds"] = round(time.perf_counter() - began, 4)
        labels = None if regions is None else regions.labels
        told = {**extra, **own}
        return write_explanation(explanation, folder, told, arrays=job.arrays, objects=labels)

    return write


def _explained(
    explainer: Explainer, photo: Path, job: Job
) -> tuple[Explanation, IntegratedGradients | None]:
    """By the job's method; with all about the line, where it has one."""
    if job.method == "contributions":
        found = explainer.explain(
            photo,
            job.target,
            reference=job.reference,
            space=job.space,
            depth=depths_for(job, lambda: upright_size(photo)),
        )
        return found, None
    from guidxmage.analysis.integrated_gradients import METHODS, PIECES

    if job.reference is not None or job.space not in (None, explainer.space):
        raise InputError(f"{job.method} has a baseline; leave --reference and --space out")
    baseline, pieces = job.line
    integrated = METHODS[job.method](
        explainer, photo, job.target, baseline=baseline, pieces=pieces or PIECES
    )
    return integrated.explanation, integrated


def _about(integrated: IntegratedGradients, job: Job) -> dict[str, Any]:
    """What the manifest says of a line."""
    return {
        "method": job.method,
        "baseline": job.line[0] or 0.0,
        "pieces": integrated.pieces,
        "exact": integrated.exact,
        "gap": integrated.gap.tolist(),
        "profile": {"s": integrated.knots.tolist(), "scores": integrated.scores.T.tolist()},
    }


def _draw_profile(integrated: IntegratedGradients, folder: Path) -> None:
    from guidxmage.view import save_figure

    save_figure(integrated.figure(), folder / PROFILE)


def radius_of(explanation: Explanation) -> tuple[dict[str, Any], str]:
    """How far the region reaches, for the manifest and for the figure.

    All around the image it is the same for all targets; Δ as a direction is the first target's.
    """
    from guidxmage.proof.region.radius import validity_radius
    from guidxmage.proof.region.reach import reaches

    found = validity_radius(explanation)
    ways = reaches(explanation.split()[0])
    least = min(ways, key=lambda one: one.l2)
    lines = [str(found), *(f"reach {one}" for one in ways)]
    about = {**found.to_json(), "reaches": [one.to_json() for one in ways], "lines": lines}
    shortest = f"shortest reach L2 {least.l2:.2g} ({least.direction})"
    return about, f"region: {found.words()}; {shortest}"


def _certify(explanation: Explanation, folder: Path) -> list[str]:
    """Write the certificates of all targets; their lines."""
    found = explanation.certificate()
    text = json.dumps([one.to_json() for one in found], indent=2, ensure_ascii=False)
    (folder / CERTIFICATE).write_text(text + "\n", encoding="utf-8")
    return [str(one) for one in found]
