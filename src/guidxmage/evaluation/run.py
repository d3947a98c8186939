"""The run: every network, view and method; what is in the records already is not done again."""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guidxmage import fingerprint
from guidxmage.errors import InputError
from guidxmage.evaluation.measures import Case, Claimed, Figures, Measure
from guidxmage.evaluation.measures.randomisation import shuffled
from guidxmage.evaluation.methods import Map, Method
from guidxmage.evaluation.photos import Mask, Photo, names
from guidxmage.evaluation.records import Record, Records, claim, file_name
from guidxmage.evaluation.settings import DTYPES, Settings
from guidxmage.evaluation.subject import Subject, make_subject
from guidxmage.evaluation.views import View, draw_view, view_numbers
from guidxmage.explainer import Explainer
from guidxmage.files import write_atomically
from guidxmage.models.loaded import LoadedModel

MAPS, KEPT_MAPS = "maps", 6
"""Maps of the first photos are kept for the contact sheet."""


@dataclass(frozen=True)
class Network:
    """A network to evaluate: its name in the report, and what loads it when its turn comes."""

    name: str
    load: Callable[[], LoadedModel]


def run(  # noqa: PLR0917
    settings: Settings,
    networks: Sequence[Network],
    photos: Sequence[Photo],
    data: str,
    out: Path,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, list[Record]]:
    """Measure what is missing in the folder; all records of these networks, in a fixed order.

    data: how the photos are called in the folder's settings. advance: called after each view.
    Raises InputError for a folder that holds something else, photos that cannot be read, and
    networks that cannot be explained.
    """
    methods, measures = settings.chosen_methods(), settings.chosen_measures()
    if len({file_name(network.name) for network in networks}) != len(networks):
        raise InputError("two networks have the same name; evaluate one of them in another folder")
    claim(out, {**settings.fixed(), "data": data, "photos": names(photos)})
    return {
        network.name: _Evaluation(settings, methods, measures, photos, out).network(
            network, advance
        )
        for network in networks
    }


@dataclass(frozen=True)
class _Evaluation:
    """One run's settings, with what they stand for."""

    settings: Settings
    methods: list[Method]
    measures: list[Measure]
    photos: Sequence[Photo]
    out: Path

    def network(self, network: Network, advance: Callable[[], None]) -> list[Record]:
        """All records of one network."""
        loaded = network.load()
        records = Records.open(self.out, network.name)
        records.claim(fingerprint.of_model(loaded.model))
        work: _Work | None = None
        plan = view_numbers(self.photos, self.settings.views)
        found = []
        for place, (photo, number) in enumerate(plan):
            methods = [m for m in self.methods if not number or m.name in self.settings.everywhere]
            missing = [m for m in methods if (photo.name, number, m.name) not in records.found]
            if missing:
                work = work or _Work.begin(self, network.name, loaded, draw_view(photo, number, 0))
                view = draw_view(photo, number, self.settings.seed)
                for record in work.view(view, place, missing):
                    records.add(record)
            keys = [(photo.name, number, method.name) for method in methods]
            found += [records.found[key] for key in keys]
            advance()
        return found


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

    def view(self, view: View, place: int, methods: Sequence[Method]) -> Iterator[Record]:
        """The records of some methods on one view."""
        settings = self.plan.settings
        image, mask = read(self.exact.explainer, view)
        target = self._target(view, image)
        explanation = self.exact.explainer.explain(image, target)
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
        if place < KEPT_MAPS and image.min() >= 0 and image.max() <= 1:
            self._keep("image", place, image)
        for method in methods:
            yield {**common, "method": method.name, **self._record(case, method, place)}

    def _target(self, view: View, image: Tensor) -> int:
        if self.plan.settings.target == "top1":
            return int(self.exact.scores(image[None])[0].argmax())
        if view.photo.label is None:
            raise InputError(f"the class of {view.photo.name} is not known; explain top1 instead")
        return view.photo.label

    def _record(self, case: Case, method: Method, place: int) -> Record:
        """Figures of all measures; what went wrong where, in its own words."""
        each = method.passes(self.fast) * case.image[0].numel()
        if place and (place + 1) * each > self.plan.settings.pixels:
            return {"left_out": "too many passes for so many views"}
        began = time.perf_counter()
        try:
            values = method.explain(self.fast, case.image, case.target, case.seed)
        except Exception as error:  # whatever a library raises is part of the result
            self._unhook()
            return {"failed": said(error)}
        claimed = Claimed(method, values, time.perf_counter() - began)
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
        if place < KEPT_MAPS:
            self._keep(method.name, place, values)
        found: Record = {"layer": self.fast.layer, "figures": figures}
        return {**found, "errors": errors} if errors else found

    def _skipped(self, measure: Measure, place: int) -> bool:
        if measure.name == "cost":
            return place >= self.plan.settings.costs
        deep = min(self.plan.settings.deep, len(self.plan.photos))
        return not measure.every_view and place >= deep

    def _keep(self, name: str, place: int, values: Map | Tensor) -> None:
        """For the contact sheet: a map, or the image as the network sees it."""
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
