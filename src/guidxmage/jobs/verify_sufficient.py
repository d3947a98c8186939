"""A saved result about sufficient pixels, checked with the network: counterexamples and proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isclose
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guidxmage.adversarial.certified.case import in_double
from guidxmage.adversarial.certified.certify import certify
from guidxmage.adversarial.certified.sufficient import SufficientPixels
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.explainer import Explainer
from guidxmage.files.atomic import MANIFEST, is_sealed, sha256_of
from guidxmage.files.untrusted import checked_array, entry, listed, optional, read_arrays
from guidxmage.jobs.sufficient_photos import ARRAYS, FIGURE, SCHEMA
from guidxmage.jobs.sufficient_queries import FOLDER, LIST, NETWORK, queries_of
from guidxmage.jobs.sufficient_summary import KINDS, arrays_of, examples_of, reaches, summary
from guidxmage.jobs.verify_result import Check, Source, Verification, read_manifest_text, unread
from guidxmage.provenance import fingerprint

# ε and an image's values are rounded to float64, and so is their sum.
_ROUNDING = 2.0**-50
# Of sums and scores in float64, made again with other threads.
_SUMS = 1e-9
_NOT_EVIDENCE = {
    "seconds": "how long it took",
    "result.queries": "how it was come by",
    "result.nodes": "how it was come by",
    "result.relus": "how it was come by",
    "result.reason": "how it was come by",
    FIGURE: "a picture of the arrays, which is not drawn again",
}
_NAMES = ("from_name", "rather_than_name", "claim")


def is_sufficient(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is of such a result, of this version or another."""
    return str(manifest.get("schema", "")).startswith("guid-xmage/sufficient/")


def read_sufficient_source(folder: Path) -> tuple[dict[str, Any], Source]:
    """The manifest, and how it names its network. Raises InputError for what is no such thing."""
    manifest, _ = read_manifest_text(folder)
    name = str(folder / MANIFEST)
    schema = entry(manifest, "schema", str, name)
    if schema != SCHEMA:
        raise InputError(f"{folder} holds {schema!r}, not {SCHEMA!r}: run the photo again")
    source = optional(manifest, "source", dict, name) or {}
    stated = {key: optional(source, key, str, name) for key in ("model", "weights", "labels")}
    return manifest, Source(
        model=stated["model"],
        weights=stated["weights"] or "default",
        dtype="float64",
        gates="secant",
        labels=stated["labels"],
    )


def check_sufficient_files(folder: Path) -> Check:
    """Whether the folder holds what its manifest lists, as it was written, and nothing else."""
    manifest, text = read_manifest_text(folder)
    if not is_sealed(text):
        return Check("files", False, f"{MANIFEST} was changed")
    faults = list(_faults(folder, manifest))
    return Check("files", not faults, "; ".join(faults[:5]) or "as they were written")


def _faults(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    name = str(folder / MANIFEST)
    stated = entry(manifest, "files", dict, name)
    belonging = {ARRAYS, FIGURE}
    belonging |= {str(one.get("png")) for one in listed(manifest, "counterexamples", dict, name)}
    if "queries" in manifest:
        belonging |= {str(one.get("file")) for one in listed(manifest, "queries", dict, name)}
        belonging |= {f"{FOLDER}/{NETWORK}", f"{FOLDER}/{LIST}"}
    belonging.discard("None")
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    there = {name for name, path in paths.items() if not path.is_dir() or path.is_symlink()}
    for name in sorted(belonging - stated.keys()):
        yield f"{name} is not listed"
    for name in sorted(there - stated.keys() - {MANIFEST}):
        yield f"{name} was added"
    for name in sorted(stated.keys() - belonging):
        yield f"{name} is none of a result's files"
    for name in sorted(stated.keys() & belonging):
        if name not in there or not paths[name].is_file() or paths[name].is_symlink():
            yield f"{name} is missing"
        elif sha256_of(paths[name]) != stated[name]:
            yield f"{name} was changed"


def verify_sufficient(
    folder: Path,
    explainer: Explainer,
    photo: Path | None = None,
    *,
    labelled: bool = True,
    seconds: float = 60,
) -> Verification:
    """Check a result with an explainer, in float64, of the network that it is said to come from.

    photo: the file in question; without it the stored image is used. labelled: whether the
    explainer has the class names that the result was made with. seconds: to prove the claim again,
    and each single one about objects; what is not proved again in that time is not counted as
    right. Raises InputError where the folder holds no such result.
    """
    manifest, _ = read_sufficient_source(folder)
    files = check_sufficient_files(folder)
    if files.passed is False:
        return unread(files)
    checks = [files, _network(manifest, explainer, folder)]
    if checks[-1].passed is False:
        return Verification(tuple(checks), {})
    try:
        found = restored(manifest, folder)
    except InputError as error:
        return Verification((*checks, Check("arrays", False, str(error))), {})
    labels = explainer.labels
    explainer = in_double(explainer)
    explainer.labels = labels
    case = _Saved(folder, manifest, found, explainer, labelled, seconds)
    checks += [case.image(photo), case.answer()]
    if all(check.passed is not False for check in checks):
        checks += case.checks()
    not_evidence = dict(_NOT_EVIDENCE)
    if "queries" in manifest:
        not_evidence[f"{FOLDER}/{NETWORK}"] = "the exported network is not run again"
    if not labelled:
        not_evidence |= dict.fromkeys(_NAMES, "the class names it was made with are not at hand")
    return Verification(tuple(checks), not_evidence)


def _network(manifest: Mapping[str, Any], explainer: Explainer, folder: Path) -> Check:
    prints = entry(manifest, "fingerprints", dict, str(folder))
    stated = entry(prints, "model", str, str(folder))
    own = fingerprint.of_model(explainer.model)
    words = f"SHA-256 {own[:16]}…"
    if stated != own:
        words += f" is not {stated[:16]}…: this is not the network that the claims are about"
    return Check("model", stated == own, words)


def restored(manifest: Mapping[str, Any], folder: Path) -> SufficientPixels:
    """The result in a folder, nothing of it believed. Raises InputError where it does not fit."""
    name = f"the result in {folder}"
    result, arrays = entry(manifest, "result", dict, name), read_arrays(folder / ARRAYS)
    image = checked_array(arrays, "image", "float64", (None, None, None), name)
    shape = image.shape
    parts = checked_array(arrays, "parts", "int64", shape[1:], name)
    units = checked_array(arrays, "unit_verdicts", "uint8", (None,), name)
    examples = checked_array(arrays, "counterexamples", "float64", (None, *shape), name)
    of = checked_array(arrays, "counterexample_of", "int64", (len(examples),), name)
    names = tuple(listed(result, "names", str, name))
    words = {number: word for word, number in KINDS.items()}
    if parts.size == 0 or parts.min() < -1 or parts.max() >= len(units) or units.max() > 2:
        raise InputError(f"{name}: the parts or verdicts are out of range")
    if len(of) and (of.min() < 0 or of.max() >= len(units)):
        raise InputError(f"{name}: a counterexample is of a unit that there is not")
    if names and len(names) != len(units):
        raise InputError(f"{name}: there are {len(names)} names for {len(units)} units")
    if not names and not np.array_equal(parts.ravel(), np.arange(len(units))):
        raise InputError(f"{name}: without names, the units are the single pixels")
    objects = listed(result, "objects", dict, name) if names else []
    if len(objects) != len(names):
        raise InputError(f"{name}: something is said of {len(objects)} of {len(names)} objects")
    verdicts = tuple(words[int(number)] for number in units)
    return SufficientPixels(
        image=torch.from_numpy(np.array(image)),
        epsilon=entry(result, "epsilon", float, name),
        norm=entry(result, "norm", str, name),
        from_class=entry(result, "from_class", int, name),
        rather_than=entry(result, "rather_than", int, name),
        parts=torch.from_numpy(np.array(parts)),
        names=names,
        verdicts=verdicts,
        counterexamples=torch.from_numpy(np.array(examples)),
        counterexample_of=torch.from_numpy(np.array(of)),
        claim=None,  # type: ignore[arg-type]  # it is what is to be proved again
        minimal="unknown" not in verdicts,
        suffices=tuple(entry(one, "suffices", str, name) for one in objects),
        cannot_flip=tuple(entry(one, "cannot_flip", str, name) for one in objects),
        queries=entry(result, "queries", int, name),
        nodes=entry(result, "nodes", int, name),
        seconds=entry(manifest, "seconds", float, name),
        relus=entry(result, "relus", int, name),
        reason=entry(result, "reason", str, name),
    )


@dataclass(frozen=True)
class _Saved:
    """A result whose files are whole, with the network that it says it is about."""

    folder: Path
    manifest: Mapping[str, Any]
    found: SufficientPixels
    explainer: Explainer
    labelled: bool
    seconds: float

    def image(self, photo: Path | None) -> Check:
        """Whether the image in the arrays is the photo's."""
        if photo is None:
            return Check("image", None, "the photo is not at hand; the stored image was used")
        if fingerprint.of_photo(photo) != self.manifest.get("sha256"):
            return Check("image", False, f"{photo} is not the file that was asked about")
        same = torch.equal(self.explainer.read(photo).double(), self.found.image)
        return Check("image", same, f"{photo}" if same else f"{photo} is read otherwise")

    def answer(self) -> Check:
        """Whether the question makes sense: an image in [0, 1] of that class, a radius above 0."""
        found = self.found
        X, own, rival = found.image, found.from_class, found.rather_than
        if not (0 < found.epsilon < inf and found.norm in ("linf", "l2")):
            return Check("answer", False, "there is no such radius or norm")
        if float(X.min()) < 0 or float(X.max()) > 1:
            return Check("answer", False, "the image does not lie in [0, 1]")
        scores = self.explainer.logits(X)
        if not (-1 <= rival < len(scores) and rival != own):
            return Check("answer", False, f"there is no class {rival} to be rather than")
        best = int(scores.argmax())
        return Check("answer", best == own, f"the network answers class {best}")

    def checks(self) -> list[Check]:
        """Everything that is claimed."""
        pictures = [self._pictures(), *([self._queries()] if "queries" in self.manifest else [])]
        return [self._stated(), self._examples(), *pictures, self._claim(), *self._objects()]

    def _stated(self) -> Check:
        """Whether all numbers and sentences follow from the arrays and the network."""
        found, arrays = self.found, read_arrays(self.folder / ARRAYS)
        wanted = arrays_of(self.explainer, found)
        for name in sorted(wanted.keys() | arrays.keys()):
            if name not in wanted:
                return Check("manifest", False, f"the array {name} is judged by nothing")
            if name not in arrays or not np.array_equal(arrays[name], wanted[name]):
                return Check("manifest", False, f"the array {name} does not follow from the others")
        scores = self.explainer.logits(found.image)
        expected = summary(self.explainer, found, scores)
        given = entry(self.manifest, "result", dict, str(self.folder))
        skipped = () if self.labelled else _NAMES
        faults = [
            key
            for key in sorted(expected.keys() | given.keys())
            if key not in skipped and not _same(given.get(key), expected.get(key))
        ]
        examples = examples_of(self.explainer, found)
        for one in examples:
            one.pop("levels")
            if not self.labelled:
                one.pop("name")
        stated = listed(self.manifest, "counterexamples", dict, str(self.folder))
        stated = [{k: v for k, v in one.items() if self.labelled or k != "name"} for one in stated]
        if not _same(stated, examples):
            faults.append("counterexamples")
        words = f"{', '.join(faults)}: not what follows from the arrays" if faults else ""
        return Check("manifest", not faults, words or "every number follows from the arrays")

    def _examples(self) -> Check:
        """Whether each needed unit has a counterexample, and each of these is one."""
        found = self.found
        needed = {n for n, verdict in enumerate(found.verdicts) if verdict == "needed"}
        shown = set(found.counterexample_of.tolist())
        if needed != shown:
            unit = min(needed ^ shown)
            words = (
                "needed, without a counterexample" if unit in needed else "not said to be needed"
            )
            return Check("counterexamples", False, f"unit {unit} is {words}")
        for number, Z in enumerate(found.counterexamples):
            if fault := self._fault(Z, int(found.counterexample_of[number])):
                return Check("counterexamples", False, f"counterexample {number}: {fault}")
        return Check("counterexamples", True, f"{len(found.counterexamples)}, each by the network")

    def _fault(self, Z: Tensor, unit: int) -> str:
        """Why an image (C, H, W) shows nothing of a unit; empty where it does."""
        found = self.found
        delta = Z - found.image
        if float(Z.min()) < 0 or float(Z.max()) > 1:
            return "it does not lie in [0, 1]"
        size = float(delta.abs().max() if found.norm == "linf" else delta.norm())
        if size > found.epsilon + _ROUNDING:
            return f"it is {size!r} away, farther than {found.epsilon!r}"
        free = found.irrelevant | (found.parts == unit)
        if bool((delta != 0).any(0)[~free].any()):
            return f"it changes pixels besides the irrelevant ones and those of unit {unit}"
        if not reaches(self.explainer.logits(Z), found.from_class, found.rather_than):
            return "the network does not answer otherwise"
        return ""

    def _pictures(self) -> Check:
        """Whether the PNGs are counterexamples themselves, pixel for pixel."""
        count = 0
        for number, one in enumerate(listed(self.manifest, "counterexamples", dict, "manifest")):
            if one.get("png") is None:
                continue
            fault = self._fault_of_picture(self.folder / str(one["png"]), number)
            if fault:
                return Check("pictures", False, f"{one['png']}: {fault}")
            count += 1
        return Check("pictures", True, f"{count} PNGs, read back and run")

    def _fault_of_picture(self, path: Path, number: int) -> str:
        """Why a PNG is not that counterexample in 8 bits; empty where it is."""
        if number >= len(self.found.counterexample_of):
            return "there is no such counterexample"
        try:
            with Image.open(path) as picture:
                pixels = np.atleast_3d(np.asarray(picture)).astype(np.float64) / 255
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return f"it cannot be read ({error})"
        Z = torch.from_numpy(pixels).permute(2, 0, 1)
        if Z.shape != self.found.image.shape:
            return "it is of another size than the image"
        return self._fault(Z, int(self.found.counterexample_of[number]))

    def _queries(self) -> Check:
        """Whether the files for other verifiers ask what is claimed."""
        expected = queries_of(self.explainer, self.found)
        stated = listed(self.manifest, "queries", dict, str(self.folder))
        wanted = [{"file": f"{FOLDER}/{one.file}", "expected": one.expected} for one in expected]
        if stated != wanted:
            return Check("queries", False, "they are not one for each claim")
        for one in expected:
            if (self.folder / FOLDER / one.file).read_bytes() != one.text.encode():
                return Check("queries", False, f"{one.file} asks something else")
        return Check("queries", True, f"{len(expected)} files, as they would be written now")

    def _claim(self) -> Check:
        """The claim proved again: the irrelevant pixels together never change the answer."""
        free = self.found.irrelevant
        if not bool(free.any()):
            return Check("claim", True, "nothing is claimed: no pixel is irrelevant")
        verdict, words = self._decided(free)
        if verdict == "proved":
            return Check("claim", True, f"{int(free.sum()):,} irrelevant pixels: {words}")
        return Check("claim", False if verdict == "sample" else None, words)

    def _objects(self) -> Iterator[Check]:
        """What is claimed of single objects."""
        found, inside = self.found, self.found.parts >= 0
        for unit, name in enumerate(found.names):
            own = found.parts == unit
            pairs = ((found.suffices, inside & ~own), (found.cannot_flip, own))
            for words, (stated, free) in zip(("suffices", "cannot flip"), pairs, strict=True):
                if stated[unit] == "unknown":
                    continue
                verdict, said = self._decided(free)
                contrary = {"proved": "sample", "refuted": "proved"}.get(stated[unit])
                passed = None if verdict == "unknown" else verdict != contrary
                if contrary is None:
                    passed, said = False, f"{stated[unit]!r} is no verdict"
                yield Check(f"{name} {words}", passed, f"{stated[unit]}: {said}")

    def _decided(self, free: Tensor) -> tuple[str, str]:
        """proved, sample or unknown for free pixels (H, W), and what is said of it."""
        if not bool(free.any()):
            return "proved", "nothing may change"
        found = self.found
        try:
            answer = certify(
                self.explainer,
                found.image,
                norm=found.norm,
                mask=free,
                within=found.epsilon,
                rather_than=None if found.rather_than < 0 else found.rather_than,
                seconds=self.seconds,
            )
        except (InputError, UnsupportedOperatorError) as error:
            return "unknown", f"not re-proved: {error}"
        if answer.verdict == "proved":
            return "proved", f"proved again, {answer.nodes:,} branches in {answer.seconds:.1f} s"
        if answer.verdict == "sample":
            return "sample", f"there is a sample within {found.epsilon:g}, class {answer.to_class}"
        return "unknown", f"not re-proved in the time ({answer.reason})"


def _same(given: Any, wanted: Any) -> bool:
    """Whether two JSON values are the same, sums and scores within rounding."""
    if isinstance(given, float) and isinstance(wanted, float):
        return isclose(given, wanted, rel_tol=_SUMS, abs_tol=_SUMS)
    if isinstance(given, Mapping) and isinstance(wanted, Mapping):
        return given.keys() == wanted.keys() and all(_same(given[k], wanted[k]) for k in wanted)
    if isinstance(given, Sequence) and isinstance(wanted, Sequence) and not isinstance(wanted, str):
        pairs = zip(given, wanted, strict=False)
        return len(given) == len(wanted) and all(_same(a, b) for a, b in pairs)
    return bool(type(given) is type(wanted) and given == wanted)
