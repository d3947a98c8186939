"""A saved explanation made again from the image and the network, and compared."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from guidxmage.attribution.archive import (
    ARRAYS,
    SCHEMA,
    is_signed,
    read_result,
    restored,
    unread_arrays,
)
from guidxmage.attribution.change_space import with_network
from guidxmage.errors import InputError
from guidxmage.explainer import Explainer
from guidxmage.explanation import Explanation
from guidxmage.files.atomic import MANIFEST
from guidxmage.files.untrusted import LARGEST_MARK, Array, entry, optional, parsed_json, read_text
from guidxmage.jobs.additions import Additions
from guidxmage.jobs.drawing import pictures_of
from guidxmage.jobs.explain_photos import CERTIFICATE
from guidxmage.jobs.manifest_check import LABELS, NAMES, compared, expected_manifest
from guidxmage.proof.certificate import Certificate
from guidxmage.proof.evidence.statements import Place, unjudged
from guidxmage.provenance import fingerprint

# How the schemas of results begin that can be verified.
_VERIFIED = ("guid-xmage/explanation/", "guid-xmage/sufficient/")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; passed is None where it could not be, and detail says why."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """All checks of one result, and what it states that is no evidence, with why it is not."""

    checks: tuple[Check, ...]
    not_evidence: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema": "guid-xmage/verification/2",
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "not_evidence": dict(self.not_evidence),
        }


@dataclass(frozen=True)
class Source:
    """How a result names its network: as the options of the command line do, None where not."""

    model: str | None
    weights: str
    dtype: str
    gates: str
    labels: str | None
    output: str | None = None

    @property
    def runs_code(self) -> bool:
        """Whether loading it would run code that somebody wrote for it."""
        return self.model is not None and ":" in self.model.removeprefix("timm:")


# --- reading -------------------------------------------------------------------------------------


def find_results(folder: Path) -> list[Path]:
    """The folder itself where it holds a result, else all folders below that do, in order.

    Raises InputError where there is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} holds no saved explanation: it is no folder")
    if (folder / MANIFEST).exists():
        return [folder]
    found = sorted(
        Path(where)
        for where, _, names in os.walk(folder)
        if MANIFEST in names and _schema(Path(where)).startswith(_VERIFIED)
    )
    if not found:
        raise InputError(f"{folder} holds no saved explanation: no {MANIFEST}")
    return found


def _schema(folder: Path) -> str:
    """What a manifest says that it is; a damaged one is looked at when its turn comes."""
    try:
        return entry(read_manifest_text(folder)[0], "schema", str, str(folder))
    except InputError:
        return SCHEMA


def read_manifest_text(folder: Path) -> tuple[dict[str, Any], str]:
    """The manifest of a saved result, and its text. Raises InputError where there is none."""
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(f"{folder} holds no saved explanation: no {MANIFEST}")
    text = read_text(path, LARGEST_MARK)
    found = parsed_json(text, str(path))
    if not isinstance(found, dict):
        raise InputError(f"{path} is no object")
    return found, text


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a result that can be verified.

    Raises InputError where there is none, where it is damaged, and for what is not verified:
    results of earlier versions, integrated gradients, results without arrays.
    """
    manifest, _ = read_manifest_text(folder)
    schema = entry(manifest, "schema", str, str(folder / MANIFEST))
    if schema != SCHEMA:
        raise InputError(
            f"{folder} holds {schema!r}, not {SCHEMA!r}: it was written by another version, or is "
            "something else; explain the photo again to have it verified"
        )
    if "integrated_gradients" in manifest:
        raise InputError(
            f"{folder} holds integrated gradients, which are of a line; what is verified are "
            "explanations of one region"
        )
    if optional(manifest, "arrays", str, str(folder / MANIFEST)) is None:
        raise InputError(f"{folder} holds no arrays (--no-arrays), so there is nothing to verify")
    return manifest


def read_source(manifest: Mapping[str, Any], folder: Path) -> Source:
    """How a result names its network. Raises InputError for what is no such thing."""
    name = str(folder / MANIFEST)
    source = optional(manifest, "source", dict, name) or {}
    trail = entry(manifest, "trail", dict, name)
    stated = {key: optional(source, key, str, name) for key in ("model", "weights", "labels")}
    dtype = optional(source, "dtype", str, name) or entry(trail, "dtype", str, name)
    gates = optional(source, "gates", str, name) or "secant"
    output = optional(source, "output", str, name)
    if dtype not in ("float32", "float64") or gates not in ("secant", "tangent"):
        raise InputError(f"{name} names a network in {dtype!r} with {gates!r} gates")
    return Source(
        model=stated["model"],
        weights=stated["weights"] or "default",
        dtype=dtype,
        gates=gates,
        labels=stated["labels"],
        output=output,
    )


# --- the files -----------------------------------------------------------------------------------


def check_files(folder: Path) -> Check:
    """Whether the folder holds the files that its manifest lists, as they were written, no others.

    Nothing of them is loaded. Raises InputError as `read_manifest` does.
    """
    manifest, text = read_manifest_text(folder)
    if not is_signed(text):
        return Check("files", False, f"{MANIFEST} was changed")
    faults = list(_faults(folder, manifest))
    return Check("files", not faults, "; ".join(faults) or "as they were written")


def _faults(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    listed = entry(manifest, "files", dict, str(folder / MANIFEST))
    pictures = pictures_of(placed="depths" in manifest).values()
    belonging = {ARRAYS, *(pictures if "pictures" in manifest else ())}
    if "certificate" in manifest:
        belonging.add(CERTIFICATE)
    there = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(belonging - listed.keys()):
        yield f"{name} is not listed"
    for name in sorted(there - listed.keys()):
        yield f"{name} was added"
    for name in sorted(listed.keys() - belonging):
        yield f"{name} is none of a result's files"
    for name in sorted(listed.keys() & belonging):
        path = folder / name
        if not path.is_file() or path.is_symlink():
            yield f"{name} is missing"
        elif fingerprint.of_file(path) != listed[name]:
            yield f"{name} was changed"


# --- verification --------------------------------------------------------------------------------


def verify(
    folder: Path,
    explainer: Explainer,
    photo: Path | None = None,
    *,
    named: bool = True,
    labelled: bool = True,
) -> Verification:
    """Check a result with an explainer of the network that it is said to come from.

    photo: the file that was explained; without it the image stored with the result is used. named,
    labelled: whether the explainer has the name, and the class names, that the result was made
    with; then they must agree, too.
    Raises InputError where the folder holds no explanation with arrays.
    """
    manifest = read_manifest(folder)
    files = check_files(folder)
    if files.passed is False:
        return unread(files)
    checks = [files, _model(manifest, explainer, folder)]
    if checks[-1].passed is False:  # of another network nothing else can be right
        return Verification(tuple(checks), {})
    try:
        _, arrays = read_result(folder, (SCHEMA,))
        explanation = Explanation.of(restored(manifest, arrays, folder))
        explanation = with_network(explanation, explainer)
    except InputError as error:
        return Verification((*checks, Check("arrays", False, str(error))), {})
    own = _with_names(explanation, explainer, named=named, labelled=labelled)
    excused = _excused(photo, named=named, labelled=labelled)
    if checks[1].passed is None:
        excused["fingerprints.model"] = checks[1].detail
    result = _Result(folder, manifest, arrays, own, explainer, photo, excused)
    return result.verified(checks)


def unread(files: Check) -> Verification:
    """The verification of a result whose files are not as they were written."""
    return Verification((files, Check("numbers", None, "not checked: the files are damaged")), {})


def _model(manifest: dict[str, Any], explainer: Explainer, folder: Path) -> Check:
    stated = optional(entry(manifest, "fingerprints", dict, str(folder)), "model", str, str(folder))
    own = fingerprint.of_model(explainer.model)
    if stated is None:
        return Check("model", None, "the result does not say which weights it was made with")
    words = f"SHA-256 {own[:16]}…"
    if stated != own:
        words += f" is not {stated[:16]}…: these are not the weights that were explained"
    return Check("model", stated == own, words)


@dataclass(frozen=True)
class _Result:
    """A result whose files are whole, with the network that it says it was made with."""

    folder: Path
    manifest: dict[str, Any]
    arrays: dict[str, Array]
    explanation: Explanation
    explainer: Explainer
    photo: Path | None
    excused: Mapping[str, str]

    def verified(self, checks: Iterable[Check]) -> Verification:
        """Everything else that can be checked."""
        not_evidence: dict[str, str] = {}
        found = [*checks, self._image()]
        unknown = {
            *unjudged(Place.ARRAYS, self.arrays),
            *unread_arrays(self.explanation, self.arrays),
        }
        if unknown:
            found.append(Check("arrays", False, f"{', '.join(sorted(unknown))}: judged by nothing"))
        certificates = self._certificates()
        if isinstance(certificates, Check):
            return Verification((*found, certificates), not_evidence)
        found += _by_statement(certificates, not_evidence)
        for number, certificate in enumerate(certificates):
            name = "certificate" if len(certificates) == 1 else f"certificate {number}"
            found.append(Check(name, certificate.holds, str(certificate)))
        # What is compared with the explainer in the manifest, a certificate cannot judge.
        for name in ("labels", "model_name", "weights_source", "photo_sizes"):
            not_evidence.pop(name, None)
        return Verification((*found, *self._stated(certificates, not_evidence)), not_evidence)

    def _stated(
        self, certificates: list[Certificate], not_evidence: dict[str, str]
    ) -> Iterator[Check]:
        """The manifest, and what the command line adds."""
        additions = Additions(self.folder, self.manifest, self.arrays, self.explanation, self.photo)
        try:
            expected = {**expected_manifest(self.explanation), **additions.expected()}
            findings = additions.findings(certificates)
        except InputError as error:
            yield Check("manifest", False, str(error))
            return
        comparison = compared(self.manifest, expected, self.explanation, self.excused)
        not_evidence |= comparison.not_evidence
        words = "; ".join(comparison.faults[:5]) or "every key follows from the numbers"
        yield Check("manifest", not comparison.faults, words)
        for name, passed, detail in findings:
            if passed is None:
                not_evidence[name] = detail
            else:
                yield Check(name, passed, detail)

    def _image(self) -> Check:
        """Whether the image that was explained is the photo's."""
        if self.photo is None:
            return Check("image", None, "the photo is not at hand; the stored image was used")
        stated = self.manifest.get("photo_sha256")
        if stated is not None and fingerprint.of_file(self.photo) != stated:
            return Check("image", False, f"{self.photo} is not the file that was explained")
        space: Any = self.explanation.space
        try:
            read = self.explainer.explain(self.photo, 0, space=space)
        except InputError as error:
            return Check("image", False, f"{self.photo} cannot be explained: {error}")
        own = self.explanation
        same = torch.equal(read.input, own.input.to(read.input))
        same = same and read.photo_sizes == own.photo_sizes
        return Check("image", same, f"{self.photo}" if same else f"{self.photo} is read otherwise")

    def _certificates(self) -> list[Certificate] | Check:
        try:
            return self.explanation.certificate()
        except InputError as error:
            return Check("certificate", False, str(error))


def _with_names(
    explanation: Explanation, explainer: Explainer, *, named: bool, labelled: bool
) -> Explanation:
    """The explanation with the names that it must have."""
    if named:
        explanation = replace(
            explanation, model_name=explainer.name, weights_source=explainer.weights_source
        )
    if labelled:
        explanation = replace(explanation, labels=explainer.labels)
    return replace(explanation, preprocessing=explainer.preprocessing)


def _excused(photo: Path | None, *, named: bool, labelled: bool) -> dict[str, str]:
    """Statements that are recomputed, but not this time, and why."""
    excused: dict[str, str] = {}
    if photo is None:
        reason = "the photo is not at hand"
        excused |= {"photo_sha256": reason, "photo_sizes[][]": reason}
    if not named:
        reason = "another name was given for the network; its fingerprint counts"
        excused |= dict.fromkeys(NAMES, reason)
    if not labelled:
        excused |= dict.fromkeys(LABELS, "the class names that it was made with are not at hand")
    return excused


def _by_statement(certificates: list[Certificate], not_evidence: dict[str, str]) -> Iterator[Check]:
    """One check for each statement, of all images and targets together."""
    for findings in zip(*(one.findings for one in certificates), strict=True):
        first = findings[0]
        failed = [one for one in findings if one.passed is False]
        if failed:
            yield Check(first.name, False, failed[0].detail)
        elif all(one.passed is None for one in findings):
            not_evidence[first.name] = first.detail
        else:
            yield Check(first.name, True, first.detail)
