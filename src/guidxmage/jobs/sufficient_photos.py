"""The sufficient pixels of photo after photo, each in a folder of its own; what is done is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from guidxmage.adversarial.certified.sufficient import sufficient
from guidxmage.explainer import Explainer
from guidxmage.files.names import shown
from guidxmage.files.result_folder import PROVENANCE, Kind, write_mark
from guidxmage.jobs.photo_results import Outcome, PhotoResults, Say, Write
from guidxmage.jobs.sufficient_drawing import draw
from guidxmage.jobs.sufficient_queries import write_queries
from guidxmage.jobs.sufficient_summary import EXAMPLES, arrays_of, examples_of, summary
from guidxmage.objects.annotations import annotation_of
from guidxmage.objects.label_map import LabelMap
from guidxmage.outputs.classes import class_number
from guidxmage.provenance import fingerprint
from guidxmage.provenance.versions import __version__

SCHEMA = "guid-xmage/sufficient/1"
KIND = Kind((SCHEMA,))
FIGURE, ARRAYS = "figure.png", "arrays.npz"


@dataclass(frozen=True)
class SufficientJob:
    """What is asked of every photo: see `sufficient`.

    objects: None for single pixels, "auto" for the picture's segments, or masks as `read_regions`
    takes them. queries: also write each claim for other verifiers. source: how the network was
    named, for `guid-xmage verify`.
    """

    epsilon: float
    norm: str = "linf"
    order: str | tuple[int, ...] = "contribution"
    objects: Any = None
    label: int | str | None = None
    rather_than: int | str | None = None
    seconds: float = 60
    queries: bool = False
    source: Mapping[str, str] | None = None


def sufficient_photos(  # noqa: PLR0917
    explainer: Explainer,
    photos: Iterable[Path],
    out: Path,
    job: SufficientJob,
    overwrite: bool = False,
    say: Say = lambda _: None,
) -> Iterator[Outcome]:
    """Find the sufficient pixels of each photo, into a folder of its own; see `PhotoResults`.

    A photo that cannot be read or written, or whose network is not piecewise linear, is reported
    and the rest goes on. Raises MissingExtraError when drawing needs a package.
    """

    def make(photo: Path) -> Write:
        return _one_photo(explainer, photo, job)

    results = PhotoResults(out, KIND, overwrite, say)
    return results.each(photos, _dependence(explainer, job), make)


def _dependence(explainer: Explainer, job: SufficientJob) -> Callable[[Path], dict[str, Any]]:
    """What the result of a photo depends on besides its place."""
    network = explainer.fingerprint()
    masks = isinstance(job.objects, Path)
    options = fingerprint.of_values(replace(job, objects=None if masks else job.objects))
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


def _one_photo(explainer: Explainer, photo: Path, job: SufficientJob) -> Write:
    """Find the sufficient pixels of a photo; returns what draws and writes the result."""
    X = explainer.read(photo)
    scores = explainer.logits(X)
    label, rival = (
        None if given is None else class_number(given, len(scores), explainer.labels)
        for given in (job.label, job.rather_than)
    )
    found = sufficient(
        explainer,
        X,
        job.epsilon,
        norm=job.norm,
        order=job.order,
        objects=_objects(explainer, photo, job),
        rather_than=rival,
        label=label,
        seconds=job.seconds,
    )

    def write(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
        np.savez_compressed(folder / ARRAYS, **arrays_of(explainer, found))
        examples = examples_of(explainer, found)
        _write_pictures(examples, folder)
        manifest = {
            "schema": SCHEMA,
            "photo": shown(photo),
            "sha256": provenance["photo"],
            "network": {"name": explainer.name, "weights": explainer.weights_source},
            "fingerprints": {"model": fingerprint.of_model(explainer.model)},
            "source": None if job.source is None else dict(job.source),
            "options": _options(job),
            "version": __version__,
            "seconds": round(found.seconds, 2),
            "result": summary(explainer, found, scores),
            "counterexamples": examples,
            "pictures": {"figure": FIGURE},
            "arrays": ARRAYS,
            PROVENANCE: dict(provenance),
        }
        if job.queries:
            manifest["queries"] = write_queries(explainer, found, folder, job.seconds)
        draw(explainer, found, scores, folder / FIGURE)
        return write_mark(folder, manifest)

    return write


def _objects(explainer: Explainer, photo: Path, job: SufficientJob) -> LabelMap | None:
    if job.objects is None:
        return None
    return explainer.explain(photo).regions(job.objects, photo)


def _options(job: SufficientJob) -> dict[str, Any]:
    own = {key: value for key, value in asdict(job).items() if key not in ("source", "queries")}
    return {**own, "objects": None if job.objects is None else shown(job.objects)}


def _write_pictures(examples: list[dict[str, Any]], folder: Path) -> None:
    """Each counterexample that 8 bits can hold as a PNG; takes the levels out of what is said."""
    for one in examples:
        levels = one.pop("levels")
        if levels is not None:
            (folder / EXAMPLES).mkdir(exist_ok=True)
            Image.fromarray(levels).save(folder / one["png"])
