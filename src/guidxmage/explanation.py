"""The result of explaining: the numbers, and what is done with them."""

from __future__ import annotations

import datetime
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from guidxmage.attribution.archive import (
    KIND,
    manifest_of,
    read_explanation,
    write_explanation,
)
from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.change_space import Door, with_network
from guidxmage.attribution.exactness import in_words
from guidxmage.attribution.later import placed_later
from guidxmage.attribution.multi_input import JointAttribution, read_joint, write_joint
from guidxmage.attribution.placement import Placement
from guidxmage.errors import InputError
from guidxmage.files.result_folder import atomic_folder
from guidxmage.view.panel import shorten

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from matplotlib.figure import Figure

    from guidxmage.objects.label_map import LabelMap
    from guidxmage.objects.table import ObjectTable, WholeMap
    from guidxmage.proof.certificate import Certificate
    from guidxmage.proof.region.radius import Validity
    from guidxmage.view import Panel, PlacedMap, Style


class Explanation(Attribution):
    """Why the network gave these images these scores: an `Attribution`, and what is done with it.

    Its fields are those of `Attribution`.
    """

    def at(self, depth: Any = None) -> Placement:
        """The whole score on the picture, the network cut at a depth.

        depth: as for `Explainer.explain`; by default the first that was asked for there, else the
        input. What was not asked for is computed now, and kept. Raises InputError for a depth that
        there is not, or where the explanation was loaded without its network.
        """
        if depth is None and self.placements:
            return self.placements[0]
        wanted = "input" if depth is None else depth
        if not isinstance(wanted, Hashable) or isinstance(wanted, tuple) or wanted == "all":
            raise InputError(f"at() gives one depth, not {wanted!r}; name one of them")
        if wanted not in self._later:
            try:
                self._later[wanted] = super().at(wanted)
            except InputError:
                self._later[wanted] = placed_later(self, wanted)[0]
        return self._later[wanted]

    @cached_property
    def _later(self) -> dict[Any, Placement]:
        return {}

    def objects(
        self, regions: Any = "auto", depth: Any = None, sigma: float | None = None
    ) -> ObjectTable | list[ObjectTable]:
        """What each object of a single image adds (a list of tables for several targets).

        regions: anything `read_regions` accepts (label map, masks, annotation file), on the photo
        or, of another size than it, on what the network sees; "auto" cuts it into a few. depth:
        where the network is cut for the whole map, by default the first that was asked for, else
        "default"; sigma: of the Gaussian that it is summed through, by default the depth's. Cells
        of a map cross the borders of objects, so that a sum of raw cells says less.
        """
        if self.batched:
            raise InputError("objects() is for one image; index the explanation first")
        if self.several:
            return [part.objects(regions, depth, sigma) for part in self]  # type: ignore[misc]
        from guidxmage.objects.table import object_table

        return object_table(self._planes(), self.regions(regions), self.whole_map(depth, sigma))

    def whole_map(self, depth: Any = None, sigma: float | None = None) -> WholeMap | None:
        """The whole map of a single result as it is drawn; None where there is none.

        depth, sigma: as for `objects`. There is none for a signal, which is no picture, nor for an
        explanation that was loaded without its network and without depths.
        """
        from guidxmage.objects.table import WholeMap

        asked = self.placements or depth is not None or sigma is not None
        if not (self.placements or self._can_be_placed):
            return None
        if not asked and find_spec("scipy") is None:  # what the core can do without it
            return None
        placed = self.at("default" if depth is None and not self.placements else depth)
        used = placed.sigma if sigma is None else sigma
        map_ = _summed(placed.smoothed(sigma))
        return WholeMap(map_, float(placed.unplaced), placed.depth.site, used)

    def regions(self, regions: Any = "auto", photo: Path | None = None) -> LabelMap:
        """Objects as regions of the network's input, for `objects()` and `figure()`.

        "auto" is what lies inside, near and elsewhere of the box or area that was asked for; where
        there is none, the picture is segmented. photo: the file the image came from, to find its
        own annotation among several.
        """
        from guidxmage.objects.label_map import read_regions

        if isinstance(regions, str) and regions == "auto":
            from guidxmage.objects.around import asked_about

            own = self.preprocessing if self.space == "photo" else None
            found = asked_about(self.meanings, tuple(self.input.shape[self.batched + 1 :]), own)
            return self._segmented() if found is None else found
        found = read_regions(regions, image=photo, photo=self.photo_sizes[0])
        # A tensor is what is explained, and so is the photo where its own pixels are.
        as_is = self.space == "photo" or self.pictures[0] is None
        height, width = self.contributions.shape[-2:]
        own = None if as_is else self.preprocessing
        return found.as_seen(self.photo_sizes[0], (int(height), int(width)), own)

    def _segmented(self) -> LabelMap:
        from guidxmage.objects.segmentation import segment_image

        picture = self.picture()
        if picture is None:
            raise InputError("there is no picture to segment; pass masks of the objects")
        return segment_image(picture)

    # --- pictures ----------------------------------------------------------------------------

    def figure(
        self,
        regions: Any = None,
        *,
        scale: float | None = None,
        style: Style = "bands",
        note: str = "",
        photo: str = "",
        date: str | None = None,
        whole_scale: float | None = None,
        later: bool = True,
    ) -> Figure:
        """The whole score on the picture, at every depth, and what its pixels add by themselves.

        For each target the input, the whole map at the first of the depths that were asked for (by
        default "default" and "all"), with a sentence; the same at every depth; distribution map,
        saliency map and values of the objects. Without whole maps (signals, integrated gradients,
        an explanation that was loaded without its network) only the input and the last three.
        Channels are summed, and so are the frames of a video or the slices of a volume.

        regions: as for `objects()`. scale, whole_scale: share one colour scale between several
        figures, of contributions and of whole maps. note: written behind the exactness, such as how
        far the region reaches. photo: the name of the photo, for the title; date: by default today.
        later: False shows whole maps only where they were asked for when explaining.
        """
        from guidxmage.view import figure

        panels = (self._with_depths() if later else self).panels(regions, note)
        placed = bool(panels[0].depths)
        named = " — ".join(filter(None, (photo, self._network() if placed else self._title())))
        today = str(datetime.date.today()) if date is None else date
        about = "  ·  ".join(filter(None, (self._about(), today))) if placed else ""
        scales = {"scale": scale, "whole_scale": whole_scale}
        return figure(panels, title=named, about=about, style=style, **scales)

    def slices(self, word: str = "slice") -> Figure:
        """The slices of a single volume (C, D, H, W), or a video's frames, with what each adds.

        word: what one is called. Raises InputError for other shapes.
        """
        from guidxmage.view.slices import slices_figure

        input_, added = (a.double().sum(0).cpu().numpy() for a in (self.input, self.contributions))
        return slices_figure(input_, added, str(self.target_name), self._title(), word)

    def _with_depths(self) -> Explanation:
        """With the placements that a figure shows, where there are none and they can be made."""
        if self.placements or not self._can_be_placed:
            return self
        return replace(self, placements=placed_later(self, ["default", "all"]))

    @property
    def _can_be_placed(self) -> bool:
        network = self.symbolic_model.network
        picture = self.input.shape[self.batched + 1 :]
        return network is not None and len(picture) > 1 and prod(picture) > 1

    def panels(self, regions: Any = None, note: str = "") -> list[Panel]:
        """The data behind `figure()`, a panel per image and target; whole maps of `placements`."""
        return [part._panel(regions, note) for part in self.split()]

    def _panel(self, regions: Any, note: str) -> Panel:
        from guidxmage.view import Panel

        found = None if regions is None else self.regions(regions)
        table = None if found is None else self.table(found)
        name = str(self.target_name)
        return Panel(
            image=self.picture(),
            shape=tuple(self.contributions.shape),
            contributions=self._planes(),
            class_name=name,
            target=int(self.target) if int(self.target) >= 0 and self.meaning is None else None,
            unit="" if self.meaning is None else self.meaning.unit,
            score=float(self.score),
            bias=float(self.bias),
            residual=float(self.residual),
            residual_bound=float(self.residual_bound),
            exactness=in_words(self.exactness),
            note=note,
            objects=table,
            labels=None if found is None else found.labels,
            depths=tuple(_placed_map(one) for one in self.placements),
            sentence=self._sentence(table).replace(" -", " −"),
            probability=self.probability,
        )

    def table(self, regions: LabelMap) -> ObjectTable:
        """Objects of a single result, with the whole map where there is one among `placements`."""
        from guidxmage.objects.table import object_table

        whole = self.whole_map() if self.placements else None
        return object_table(self._planes(), regions, whole)

    def sentence(self, regions: LabelMap | None = None) -> str:
        """A single score in words: "espresso 11.40: cup +7.4, table +3.4, no place +0.1".

        Of objects, where they are given, and of the whole map, where there is one among
        `placements`. Raises InputError for several images or targets.
        """
        if self.batched or self.several:
            raise InputError("sentence() is for one image and target; see split()")
        return self._sentence(None if regions is None else self.table(regions))

    def _sentence(self, table: ObjectTable | None) -> str:
        from guidxmage.objects.table import in_words

        name = shorten(str(self.target_name), 60)
        score = float(self.score)
        if table is not None:
            return table.sentence(name, score)
        if not self.placements:
            return in_words(name, score, [("pixels", self._pixel_sum), ("bias", float(self.bias))])
        placed = self.at()
        total, unplaced = float(placed.whole.sum()), float(placed.unplaced)
        return in_words(name, score, [("on the picture", total), ("no place", unplaced)])

    @property
    def _pixel_sum(self) -> float:
        return float(self.contributions.sum(dtype=torch.float64))

    def _network(self) -> str:
        source = f" ({self.weights_source})" if self.weights_source else ""
        return f"{self.model_name}{source}"

    def _title(self) -> str:
        return f"{self._network()}, reference: {self.reference_name}"

    def _about(self) -> str:
        """What was explained, for a figure's heading."""
        height, width = self.input.shape[-2:]
        words = {"pixels": "pixels as the network sees them", "photo": "the photo's own pixels"}
        space = f"space: {words.get(self.space, 'the network’s input')}, {width}×{height}"
        return f"{space}  ·  reference: {self.reference_name}"

    def _repr_html_(self) -> str:
        from guidxmage.view import panel_html

        shown = [part._with_depths() for part in self.split()[:4]]
        panels = [panel for part in shown for panel in part.panels()]
        return panel_html(panels, self._network(), self._about())

    def widget(self, regions: Any = "auto", *, explainer: Any = None, name: str = "") -> AnyWidget:
        """The interactive viewer in a notebook: Jupyter, VS Code, marimo (docs/viewer.md).

        regions: as for `objects()`, or None; "auto" where there is a picture and scikit-image.
        explainer: what made this, where it was loaded from a file; questions that need the network
        are answered in the kernel. name: of the photo. Raises InputError for a batch and for what
        is no picture, MissingExtraError without anywidget.
        """
        from guidxmage.viewer.answers import answers_about
        from guidxmage.viewer.scene import scene_of
        from guidxmage.viewer.widget import widget_of

        lone = explainer is not None and self.symbolic_model.network is None
        shown = (with_network(self, explainer) if lone else self)._with_depths()
        none = regions is None or shown.batched  # scene_of says what is wrong with a batch
        auto = isinstance(regions, str) and regions == "auto"
        if auto and not none:
            none = find_spec("skimage") is None or shown.picture() is None
        found = None if none else shown.regions(regions)
        source = "" if none else "auto" if auto else "given"
        stated = manifest_of(shown)
        evidence = {key: stated[key] for key in ("versions", "fingerprints")}
        scene = scene_of(shown, found, name=name, regions_from=source, evidence=evidence)
        return widget_of(scene, answers_about(shown, scene, explainer))

    def certificate(self, *, primes: int = 3, seed: int | None = None) -> list[Certificate]:
        """Evidence that this is exact, one `Certificate` for each image and target.

        Takes about as long as capturing the network and some ten explanations. Raises InputError
        for an explanation that was loaded without its explainer.
        """
        from guidxmage.proof.certificate import certify

        return certify(self, primes=primes, seed=seed)

    def validity_radius(self) -> Validity:
        """How large a ball around a single image lies in its region, in L2 and L∞.

        Exact for small inputs, a lower bound for large ones. Raises as
        `guidxmage.proof.region.radius.validity_radius` does.
        """
        from guidxmage.proof.region.radius import validity_radius

        return validity_radius(self)

    # --- files -------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write a folder with manifest.json and arrays.npz (plain NumPy arrays, no pickle).

        The folder appears whole or not at all; an earlier explanation there is replaced. Raises
        InputError when the folder cannot be written, or holds anything else.
        """
        with atomic_folder(Path(path), KIND) as folder:
            write_explanation(self, folder)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, explainer: Door | None = None) -> Explanation:
        """Read a saved explanation; with the explainer that made it, trails can be compared again.

        Raises InputError when the folder holds no explanation or a damaged one.
        """
        found = cls.of(read_explanation(Path(path)))
        return found if explainer is None else with_network(found, explainer)


def _placed_map(placed: Placement) -> PlacedMap:
    """A placement of a single result as it is drawn."""
    from guidxmage.view import PlacedMap

    depth = placed.depth
    return PlacedMap(
        depth.site,
        depth.grid,
        depth.stride,
        placed.sigma,
        _summed(placed.whole),
        float(placed.unplaced),
    )


def _summed(values: torch.Tensor) -> np.ndarray[Any, Any]:
    """A map (…, H, W), summed over the frames of a video, (H, W)."""
    frames = values.sum(tuple(range(values.ndim - 2))) if values.ndim > 2 else values
    summed: np.ndarray[Any, Any] = frames.cpu().numpy()
    return summed


@dataclass(frozen=True, eq=False, repr=False)
class JointExplanation(JointAttribution):
    """Why the network gave several inputs these scores: a `JointAttribution` that can be saved."""

    whole: Explanation

    @classmethod
    def of(cls, joint: JointAttribution) -> JointExplanation:
        """The same numbers as one of this class."""
        return cls(Explanation.of(joint.whole), joint.shapes)

    def save(self, path: str | Path) -> Path:
        """Write a folder as `Explanation.save` does; its manifest also has the inputs' shapes."""
        with atomic_folder(Path(path), KIND) as folder:
            write_joint(self, folder)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, explainer: Door | None = None) -> JointExplanation:
        """Read a saved explanation; with the explainer that made it, trails can be compared again.

        Raises InputError when the folder holds none, a damaged one, or one of one input.
        """
        found = cls.of(read_joint(Path(path)))
        if explainer is None:
            return found
        whole = with_network(found.whole, explainer.of_inputs(found.shapes))
        return cls(whole, found.shapes)
