"""The run: every network, view and method; what is in the records already is not done again."""

from __future__ import annotations

import hashlib
import io
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.evaluation.data.photos import Mask, Photo, names
from guidxmage.evaluation.data.views import View, draw_view
from guidxmage.evaluation.measures import Case, Claimed, Figures, Measure
from guidxmage.evaluation.measures.randomisation import shuffled
from guidxmage.evaluation.methods import METHODS, Map, Method
from guidxmage.evaluation.records import (
    FOLDER,
    MADE_FROM,
    MAPS_KEPT,
    Record,
    Records,
    claimed,
    file_name,
)
from guidxmage.evaluation.settings import DTYPES, Settings
from guidxmage.evaluation.subject import Subject, make_subject
from guidxmage.explainer import Explainer
from guidxmage.files.atomic import alone, sha256_of, write_atomically
from guidxmage.files.locks import BusyError, Turns
from guidxmage.files.names import folded, shown
from guidxmage.models.loaded import LoadedModel
from guidxmage.provenance.fingerprint import makers, of_network, of_values
from guidxmage.provenance.versions import versions

MAPS, KEPT_MAPS = "maps", 6
"""Maps of the first photos are kept for the contact sheet."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class EvaluatedNetwork:
    """A network to evaluate: its name in the report, and what loads it when its turn comes."""

    name: str
    load: Callable[[], LoadedModel]


def run(  # noqa: PLR0917
    settings: Settings,
    networks: Sequence[EvaluatedNetwork],
    photos: Sequence[Photo],
    data: str,
    out: Path,
    advance: Callable[[], None] = lambda: None,
    say: Say = lambda _: None,
) -> dict[str, list[Record]]:
    """Measure what is missing in the folder; the records of what is asked for, in a fixed order.

    data: how the photos are called in the folder's settings. advance: called after each view. say:
    told what was damaged, is left over, or is waited for.
    Raises InputError for a folder that holds something else, photos that cannot be read, and
    networks that cannot be explained.
    """
    methods, measures = settings.chosen_methods(), settings.chosen_measures()
    if len({folded(file_name(network.name)) for network in networks}) != len(networks):
        raise InputError("two networks have the same name; evaluate one of them in another folder")
    libraries = [measure.library for measure in measures if measure.library]
    fixed = {**settings.fixed(), "data": shown(data), "versions": makers(*libraries)}
    if settings.target == "label":
        _check_labels(photos)
    with claimed(out, fixed, names(photos)) as ranked:
        plan = _Evaluation(settings, methods, measures, Photos.of(photos, ranked), out, say)
        turns = Turns(networks)
        for network, wait in turns:
            try:
                plan.measure(network, advance, wait)
            except BusyError:
                turns.put_off(network)
    gone = [name for name in ranked if name not in plan.photos.fingerprints]
    if gone:
        say(f"the records of {len(gone)} photos that are gone are kept: {', '.join(gone[:10])}")
    asked = [network.name for network in networks]
    found = all_records(out, plan.photos, asked, settings.methods, say)
    return {name: [r for r in found.get(name, []) if settings.covers(r)] for name in asked}


def _check_labels(photos: Sequence[Photo]) -> None:
    for photo in photos:
        if photo.label is None:
            raise InputError(f"the class of {photo.name} is not known; explain top1 instead")


@dataclass(frozen=True)
class Photos:
    """The photos with the numbers that they have in the folder, and their fingerprints by name.

    known: how many photos the folder has numbers of.
    """

    numbered: tuple[tuple[int, Photo], ...]
    known: int
    fingerprints: Mapping[str, str]

    @classmethod
    def of(cls, photos: Sequence[Photo], ranked: Sequence[str]) -> Photos:
        """Photos as a folder numbers them: adding some changes no number."""
        by_name = {photo.name: photo for photo in photos}
        numbered = [(n, by_name[name]) for n, name in enumerate(ranked) if name in by_name]
        fingerprints = {photo.name: photo.fingerprint() for photo in photos}
        return cls(tuple(numbered), len(ranked), fingerprints)

    def made_from(self, photo: str, method: Method) -> str | None:
        """What a record depends on besides network and settings; None for photos that are gone."""
        now = self.fingerprints.get(photo)
        library = versions([method.library]) if method.package else {}
        return None if now is None else of_values([now, library])


@dataclass(frozen=True)
class _Evaluation:
    """One run's settings, with what they stand for."""

    settings: Settings
    methods: list[Method]
    measures: list[Measure]
    photos: Photos
    out: Path
    say: Say

    def measure(self, network: EvaluatedNetwork, advance: Callable[[], None], wait: bool) -> None:
        """Measure what is missing of a network. Raises BusyError where another run is at it."""
        place = self.out / FOLDER / file_name(network.name)
        told = f"waiting for another run, which evaluates {network.name}"
        with alone(place, wait=wait, told=lambda: self.say(told)):
            records = Records.open(self.out, network.name)
            if records.damaged:
                self.say(f"{records.path}: {records.damaged} damaged lines are measured again")
            loaded = network.load()
            key = of_network(loaded.model, loaded.preprocessing, loaded.labels, code=loaded.code)
            records.claim(key)
            self._views(network.name, loaded, records, advance)

    def _views(
        self, name: str, loaded: LoadedModel, records: Records, advance: Callable[[], None]
    ) -> None:
        work: _Work | None = None
        for number in range(self.settings.views):
            for rank, photo in self.photos.numbered:
                methods = [
                    m for m in self.methods if not number or m.name in self.settings.everywhere
                ]
                missing = [m for m in methods if not self._is_done(records, name, photo, number, m)]
                if missing:
                    view = draw_view(photo, number, self.settings.seed)
                    work = work or _Work.begin(self, name, loaded, draw_view(photo, 0, 0))
                    for record in work.view(view, rank, missing):
                        records.add(record)
                advance()

    def _is_done(
        self, records: Records, network: str, photo: Photo, number: int, method: Method
    ) -> bool:
        """Whether a record is of the photo as it is now, and the maps that it kept are there."""
        record = records.found.get((photo.name, number, method.name))
        if record is None or record[MADE_FROM] != self.photos.made_from(photo.name, method):
            return False
        folder = self.out / MAPS / file_name(network)
        return all(_sha256(folder / name) == sha for name, sha in record[MAPS_KEPT].items())


def all_records(
    out: Path,
    photos: Photos,
    networks: Sequence[str],
    methods: Sequence[str],
    say: Say = lambda _: None,
) -> dict[str, list[Record]]:
    """All records in a folder by network, but for photos that were changed or are gone.

    networks, methods: those that were asked for last, which their order follows. say: told which
    methods nobody knows here any more. Raises InputError where records cannot be read.
    """
    found: dict[str, list[Record]] = {}
    for path in sorted((out / FOLDER).glob("*.jsonl")):
        records = list(Records.read(path).found.values())
        known = [r for r in records if r["method"] in METHODS]
        current = [
            r for r in known if r[MADE_FROM] == photos.made_from(r["photo"], METHODS[r["method"]])
        ]
        if unknown := {r["method"] for r in records} - {r["method"] for r in known}:
            say(f"{path}: methods that are not known here: {', '.join(sorted(unknown))}")
        if current:
            order = in_order([r["method"] for r in current], methods)
            ranks = {photo.name: rank for rank, photo in photos.numbered}
            found[current[0]["network"]] = sorted(
                current,
                key=lambda r: (r["view"], ranks[r["photo"]], order.index(r["method"])),
            )
    return {name: found[name] for name in in_order(found, networks) if name in found}


def in_order(there: Iterable[str], asked: Sequence[str]) -> list[str]:
    """Names as they are asked for, if these are all; else as they are there, then further ones."""
    earlier = list(dict.fromkeys(there))
    if set(asked) >= set(earlier):
        return list(dict.fromkeys(asked))
    return [*earlier, *(name for name in asked if name not in earlier)]


def _sha256(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


@dataclass
class _Work:
    """A loaded network and what is measured on it."""

    plan: _Evaluation
    name: str
    exact: Subject
    fast: Subject
    untrained: Subject

    @classmethod
    def begin(cls, plan: _Evaluation, name: str, loaded: LoadedModel, view: View) -> _Work:
        """Make the copies of a network, for images of the size of a view."""
        reader = Explainer(loaded.model, preprocessing=loaded.preprocessing)
        size = read(reader, view)[0].shape
        exact = make_subject(loaded, size, torch.float64)
        fast = make_subject(loaded, size, DTYPES[plan.settings.dtype])
        return cls(plan, name, exact, fast, shuffled(fast, plan.settings.seed))

    def view(self, view: View, rank: int, methods: Sequence[Method]) -> Iterator[Record]:
        """The records of some methods on one view; rank: the photo's number in the folder."""
        settings = self.plan.settings
        image, mask = read(self.exact.explainer, view)
        target = self._target(view, image)
        # From black, as the map: completeness compares the map's sum with this bias.
        explanation = self.exact.explainer.explain(image, target, reference=0.0)
        seed = zlib.crc32(f"{settings.seed}/{view.photo.name}/{view.number}".encode())
        case = Case(self.exact, self.fast, self.untrained, image, target, explanation, mask, seed)
        common = {
            "network": self.name,
            "weights": self.exact.weights,
            "photo": view.photo.name,
            "view": view.number,
            "box": list(view.box),
            "mirrored": view.mirrored,
            "label": view.photo.label,
            "target": target,
            "score": case.score,
            "bias": float(explanation.bias),
            "residual": float(explanation.residual),
        }
        place = view.number * self.plan.photos.known + rank
        kept = place < KEPT_MAPS and not view.number
        picture = {}
        if kept and image.min() >= 0 and image.max() <= 1:
            picture = self._keep("image", place, image)
        for method in methods:
            record, values = self._record(case, method, place)
            maps = self._keep(method.name, place, values) if kept and values is not None else {}
            own = {
                MADE_FROM: self.plan.photos.made_from(view.photo.name, method),
                MAPS_KEPT: {**picture, **maps},
            }
            yield {**common, **own, "method": method.name, **record}

    def _target(self, view: View, image: Tensor) -> int:
        if self.plan.settings.target == "top1":
            return int(self.exact.scores(image[None])[0].argmax())
        assert view.photo.label is not None  # checked before anything was measured
        return view.photo.label

    def _record(self, case: Case, method: Method, place: int) -> tuple[Record, Map | None]:
        """Figures of all measures, and the map; what went wrong where, in its own words."""
        each = method.passes(self.fast) * case.image[0].numel()
        if place and (place + 1) * each > self.plan.settings.pixels:
            return {"left_out": "too many passes for so many views"}, None
        began = time.perf_counter()
        try:
            values = method.explain(self.fast, case.image, case.target, case.seed)
        except Exception as error:  # whatever a library raises is part of the result
            self._unhook()
            return {"failed": said(error)}, None
        raw, seconds = values, time.perf_counter() - began
        values = method.drawn(self.fast, raw, tuple(case.image.shape))
        claimed = Claimed(method, values, seconds, raw)
        figures: Figures = {}
        errors: dict[str, str] = {}
        for measure in self.plan.measures:
            if self._skipped(measure, place):
                continue
            try:
                figures.update(measure.take(case, claimed))
            except Exception as error:
                self._unhook()
                errors[measure.name] = said(error)
        found: Record = {"layer": self.fast.layer, "figures": figures}
        return ({**found, "errors": errors} if errors else found), values

    def _skipped(self, measure: Measure, place: int) -> bool:
        if measure.name == "cost":
            return place >= self.plan.settings.costs
        deep = min(self.plan.settings.deep, self.plan.photos.known)
        return not measure.every_view and place >= deep

    def _keep(self, name: str, place: int, values: Map | Tensor) -> dict[str, str]:
        """For the contact sheet: a map, or the image as the network sees it; name and SHA-256."""
        path = self.plan.out / MAPS / file_name(self.name) / f"{place}-{file_name(name)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(values, Tensor):
            levels = (255 * values.clamp(0, 1)).round().byte().permute(1, 2, 0)
            array = levels.expand(-1, -1, 3).numpy()
        else:
            array = values.astype(np.float32)
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        write_atomically(path, content.getvalue())
        return {path.name: hashlib.sha256(content.getvalue()).hexdigest()}

    def _unhook(self) -> None:
        """Take off what a library left behind when it failed."""
        for subject in (self.exact, self.fast, self.untrained):
            for module in subject.whole.modules():
                for hooks in (
                    module._forward_hooks,
                    module._forward_pre_hooks,
                    module._backward_hooks,
                    module._backward_pre_hooks,
                ):
                    hooks.clear()


def read(explainer: Explainer, view: View) -> tuple[Tensor, Mask | None]:
    """A view as the network sees it, (C, H, W) in float64, and the object's mask there, (H, W)."""
    image = explainer.read(view.image()).double()
    mask = view.mask()
    if mask is not None and explainer.preprocessing is not None:
        mask = explainer.preprocessing.crop_labels(mask.astype(np.uint8)).astype(bool)
    if mask is not None and mask.shape != tuple(image.shape[1:]):
        raise InputError(
            f"the mask of {view.photo.name} cannot follow the network's own preprocessing; "
            "give the network with a guidxmage Preprocessing, or leave the masks out"
        )
    return image, mask


def said(error: Exception) -> str:
    """What went wrong, in the library's own words, on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
