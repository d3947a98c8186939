"""From a photo to a result, and from a question to an answer, in stages that can be stopped."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from guidxmage.attribution.archive import manifest_of
from guidxmage.attribution.change_space import with_network
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.files.names import folder_name, with_suffix
from guidxmage.inputs.photos import open_image_bytes, read_image, read_image_bytes
from guidxmage.jobs.explain_photos import Job, depths_for, explain_photos
from guidxmage.objects.label_map import LabelMap
from guidxmage.provenance import fingerprint
from guidxmage.serving.held import Held, held_of, open_saved
from guidxmage.serving.uploads import formats
from guidxmage.serving.work_queue import Outcome, Say, Stop
from guidxmage.viewer.answers import Answer

# Below --out, for photos that came by a browser.
UPLOADED = "uploaded-photos"


@dataclass(frozen=True)
class Photo:
    """What is to be explained: a file of the command line, or what a browser sent."""

    name: str
    path: Path | None = None
    content: bytes = b""

    def read(self) -> Image.Image:
        """The picture. Raises InputError."""
        if self.path is not None:
            return read_image(self.path)
        return read_image_bytes(self.content, self.name, formats())

    def sha256(self) -> str:
        """Of the file."""
        if self.path is not None:
            return fingerprint.of_file(self.path)
        return hashlib.sha256(self.content).hexdigest()


class Answerer(Protocol):
    """Answers a question about a result; raises InputError for what is none."""

    def __call__(
        self, explainer: Explainer, held: Held, question: Any, say: Say, stop: Stop
    ) -> Answer:
        """The answer."""
        ...


@dataclass(frozen=True)
class Maker:
    """Explains photos as the command line says. out: where results are saved, where at all."""

    explainer: Explainer
    job: Job
    answerer: Answerer
    out: Path | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _model: dict[str, str] = field(default_factory=dict, repr=False)

    def explain(self, photo: Photo, say: Say, stop: Stop) -> Held:
        """One photo. Raises InputError, and StoppedError by `stop`."""
        if self.out is not None:
            return self._saved(photo, self.out, say, stop)
        say("reading the photo", 0.0)
        image = photo.read()
        stop()
        say("following the network", 0.1)
        self.explainer.network(self.explainer.read_batch(image).tensor[:1])
        stop()
        say("explaining", 0.3)
        explanation = self.explainer.explain(
            image,
            self.job.target,
            reference=self.job.reference,
            space=self.job.space,
            depth=depths_for(self.job, lambda: (image.height, image.width)),
        )
        stop()
        say("looking for objects", 0.8)
        regions = self._regions(explanation, photo)
        stop()
        say("preparing the view", 0.9)
        evidence = {"photo_sha256": photo.sha256(), **_evidence(explanation)}
        source = "" if regions is None else str(self.job.objects)
        return held_of(explanation, regions, photo.name, source, evidence)

    def answer(self, held: Held, question: Any, say: Say, stop: Stop) -> Outcome:
        """One question about a result. Raises InputError, and StoppedError by `stop`."""
        if held.obstacle:
            raise InputError(held.obstacle)
        with held.lock:
            if not held.joined:
                say("following the network", 0.0)
                self._join(held)
                stop()
        found = self.answerer(self.explainer, held, question, say, stop)
        described = {
            name: {"dtype": values.dtype.name, "shape": list(values.shape)}
            for name, values in found.arrays.items()
        }
        return Outcome(answer={**found.json, "arrays": described}, arrays=found.arrays)

    def _regions(self, explanation: Explanation, photo: Photo) -> LabelMap | None:
        masks = self.job.objects
        if masks == "none" or (masks == "auto" and explanation.picture() is None):
            return None
        if isinstance(masks, Path) and photo.path is None:
            return None  # masks are found by the photo's file
        return explanation.regions(masks, photo.path)

    def _join(self, held: Held) -> None:
        """Give a result that was read from a folder its network again. Raises InputError."""
        with self._lock:
            if "sha256" not in self._model:
                self._model["sha256"] = fingerprint.of_model(self.explainer.model)
        if held.model is not None and held.model != self._model["sha256"]:
            raise InputError(
                f"{held.name} was explained with another network than {self.explainer.name}, which "
                "this server has; start it with --model and --weights of the result"
            )
        held.explanation = with_network(held.explanation, self.explainer)
        held.joined = True

    def _saved(self, photo: Photo, out: Path, say: Say, stop: Stop) -> Held:
        """Explained into a folder as `guid-xmage explain` does, and read from there."""
        say("reading the photo", 0.0)
        path = photo.path or _kept(photo, out / UPLOADED)
        stop()
        say("explaining and saving", 0.2)
        outcome = next(iter(explain_photos(self.explainer, [path], out, self.job)))
        if outcome.folder is None:
            raise InputError(outcome.error or f"{photo.name} cannot be explained")
        stop()
        say("preparing the view", 0.9)
        return open_saved(outcome.folder)


def _kept(photo: Photo, folder: Path) -> Path:
    """An upload as a file, under a name that every file system takes and no other photo has."""
    with open_image_bytes(photo.content, photo.name, formats()) as opened:
        suffix = f".{(opened.format or 'png').lower()}"
    stem = folder_name(Path(photo.name).stem)[:100]
    path = folder / f"{with_suffix(stem, photo.sha256()[:12])}{suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(photo.content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def _evidence(explanation: Explanation) -> Mapping[str, Any]:
    """What can be compared with another run."""
    manifest = manifest_of(explanation)
    return {key: manifest[key] for key in ("versions", "fingerprints")}
