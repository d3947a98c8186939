"""Everything that an explanation states, in memory and on a disk, and how each of it is judged.

This is the one list. A certificate and `guid-xmage verify` go through it entry by entry, and what
is not in it counts against a result; a test changes every entry and sees that it is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache


class Judgement(str, Enum):
    """recomputed: made again from the image and the network, and compared within rounding.

    derived: what it must be follows from other statements. not evidence: nothing can be said of it.
    """

    RECOMPUTED = "recomputed"
    DERIVED = "derived"
    NOT_EVIDENCE = "not evidence"


class Place(str, Enum):
    """Where it is stated: a field of a dataclass, or a name in a file."""

    EXPLANATION = "Explanation"
    MODEL = "SymbolicModel"
    ARRAYS = "arrays.npz"
    MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Statement:
    """One of them. In names of files * stands for any text, [] for an index.

    how: from what it is recomputed or derived, or why it is no evidence.
    """

    place: Place
    name: str
    judgement: Judgement
    how: str

    def matches(self, name: str) -> bool:
        """Whether it is this statement that a name in its file makes, its indices left out."""
        return re.fullmatch(re.escape(self.name).replace(r"\*", ".+"), name) is not None


_RECOMPUTED, _DERIVED, _NONE = Judgement.RECOMPUTED, Judgement.DERIVED, Judgement.NOT_EVIDENCE
_E, _M, _A, _J = Place.EXPLANATION, Place.MODEL, Place.ARRAYS, Place.MANIFEST

STATEMENTS: tuple[Statement, ...] = (
    # --- an explanation in memory --------------------------------------------------------------
    Statement(_E, "logits", _RECOMPUTED, "the network is run again"),
    Statement(_E, "target", _DERIVED, "the class that the cotangent picks"),
    Statement(_E, "against", _DERIVED, "the class that the cotangent subtracts"),
    Statement(_E, "score", _DERIVED, "the cotangent times the logits"),
    Statement(_E, "weights", _RECOMPUTED, "pulled again in float64, nothing folded"),
    Statement(_E, "contributions", _DERIVED, "the weights times input minus reference"),
    Statement(_E, "bias", _DERIVED, "the sum of its shares, the model's and the reference's"),
    Statement(_E, "bias_by_layer", _RECOMPUTED, "pulled again in float64, site by site"),
    Statement(_E, "residual", _DERIVED, "the score minus contributions and bias"),
    Statement(_E, "residual_bound", _RECOMPUTED, "explained again; the residual is within it"),
    Statement(_E, "exactness", _DERIVED, "the smooth operators, the residual and its bound"),
    Statement(_E, "trail", _RECOMPUTED, "recorded again"),
    Statement(_E, "symbolic_model", _DERIVED, "each of its fields, below"),
    Statement(_E, "input", _RECOMPUTED, "all else is made from it; `verify` reads the photo again"),
    Statement(_E, "pictures", _DERIVED, "their pixels are the input's, where the way is known"),
    Statement(_E, "photo_sizes", _NONE, "only the photo tells; `verify` compares them with it"),
    Statement(_E, "space", _DERIVED, "the way from the input into the network"),
    Statement(_E, "labels", _NONE, "names, which no number depends on; `verify` compares them"),
    Statement(_E, "model_name", _NONE, "a name; the network's fingerprint is stated"),
    Statement(_E, "weights_source", _NONE, "a name; the network's fingerprint is stated"),
    Statement(_E, "preprocessing", _DERIVED, "the way from the input into the network"),
    Statement(_E, "reference", _DERIVED, "what the contributions are counted from"),
    Statement(_E, "placements", _RECOMPUTED, "cut and pulled again in float64, nothing folded"),
    Statement(_E, "output", _NONE, "the kind of output that the explainer was told of"),
    Statement(_E, "meanings", _NONE, "words for the cotangent, which is judged"),
    Statement(_M, "weights", _DERIVED, "the explanation's own"),
    Statement(_M, "bias", _DERIVED, "the sum of the shares of all call sites"),
    Statement(_M, "trail", _DERIVED, "the explanation's own"),
    Statement(_M, "cotangent", _RECOMPUTED, "weights, bias and score are made from it"),
    Statement(_M, "batched", _DERIVED, "the arrays' axes"),
    Statement(_M, "several", _DERIVED, "the arrays' axes"),
    Statement(_M, "network", _RECOMPUTED, "captured again, and compared with the module"),
    Statement(_M, "choices", _NONE, "asked of other images only; `meanings` says what was chosen"),
    Statement(_M, "input", _DERIVED, "the explanation's own"),
    # --- its arrays on a disk ------------------------------------------------------------------
    *(
        Statement(_A, name, _RECOMPUTED, "read into the explanation, whose fields are judged")
        for name in (
            "logits",
            "target",
            "against",
            "score",
            "weights",
            "contributions",
            "bias",
            "residual",
            "residual_bound",
            "input",
            "cotangent",
            "model_bias",
            "reference",
            "bias_values",
            "bias_sites",
            "trail",
            "trail.*.*",
            "gates.*.*",
            "picture.*",
            "placement.*",
        )
    ),
    Statement(_A, "objects", _RECOMPUTED, "segmented again; no evidence where masks were given"),
    # --- its manifest --------------------------------------------------------------------------
    Statement(_J, "schema", _DERIVED, "the only one that is verified"),
    Statement(_J, "versions.*", _NONE, "what was installed when it was made"),
    Statement(_J, "model.name", _RECOMPUTED, "the network's own"),
    Statement(_J, "model.weights", _RECOMPUTED, "the network's own"),
    Statement(_J, "model.classes", _DERIVED, "the logits' number"),
    Statement(_J, "model.labels", _RECOMPUTED, "the network's own"),
    Statement(_J, "model.labels[]", _RECOMPUTED, "the network's own"),
    Statement(_J, "model.output", _NONE, "the kind of output that the explainer was told of"),
    Statement(_J, "photo_sizes[][]", _RECOMPUTED, "the photo's own, where it is at hand"),
    Statement(_J, "space", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "reference", _DERIVED, "the name of the stored reference"),
    Statement(_J, "preprocessing", _RECOMPUTED, "the network's own"),
    Statement(_J, "preprocessing.*", _RECOMPUTED, "the network's own"),
    Statement(_J, "input_shape[]", _DERIVED, "the arrays' shapes"),
    Statement(_J, "batched", _DERIVED, "the arrays' shapes"),
    Statement(_J, "several", _DERIVED, "the arrays' shapes"),
    Statement(_J, "exactness", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "trail.call_sites", _DERIVED, "the trail, which is recorded again"),
    Statement(_J, "trail.decisions_per_image", _DERIVED, "the trail, which is recorded again"),
    Statement(_J, "trail.gates_per_image", _DERIVED, "the trail, which is recorded again"),
    Statement(_J, "trail.bytes", _DERIVED, "the trail, which is recorded again"),
    Statement(_J, "trail.dtype", _RECOMPUTED, "the network's own"),
    Statement(_J, "trail.input_shape[]", _RECOMPUTED, "the network's own"),
    Statement(_J, "trail.gates.*", _RECOMPUTED, "the network's own conventions"),
    Statement(_J, "trail.branches[]", _RECOMPUTED, "the network's own, in this run"),
    Statement(_J, "trail.device", _NONE, "where it was recorded; numbers are compared here"),
    Statement(_J, "trail.tf32", _NONE, "how it was recorded; numbers are compared here"),
    Statement(_J, "trail.torch", _NONE, "what was installed when it was made"),
    Statement(_J, "fingerprints.model", _RECOMPUTED, "the network's own"),
    Statement(_J, "fingerprints.image", _DERIVED, "the SHA-256 of the stored image"),
    Statement(_J, "fingerprints.trail", _DERIVED, "the SHA-256 of the stored trail"),
    Statement(_J, "results[].target", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "results[].meaning.*", _NONE, "words for the cotangent, which is judged"),
    Statement(_J, "results[].against", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "results[].name", _DERIVED, "the labels of target and against"),
    Statement(_J, "results[].score", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "results[].contribution_sum", _DERIVED, "the sum of the contributions"),
    Statement(_J, "results[].bias", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "results[].residual", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "results[].residual_bound", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "results[].bias_by_layer.*", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "results[].placed", _DERIVED, "the whole map's sum without the contributions'"),
    Statement(_J, "results[].unplaced", _DERIVED, "the explanation's own, which is judged"),
    Statement(_J, "depths[].*", _DERIVED, "the explanation's own, which are judged"),
    Statement(_J, "results[].depths[].*", _DERIVED, "the explanation's own, which are judged"),
    Statement(_J, "arrays", _DERIVED, "the name of the file with the arrays"),
    Statement(_J, "files.*", _RECOMPUTED, "the SHA-256 of every file in the folder"),
    Statement(_J, "digest", _RECOMPUTED, "the SHA-256 of the manifest itself"),
    # What `guid-xmage explain` adds.
    Statement(_J, "photo", _NONE, "where the photo was; its SHA-256 is what counts"),
    Statement(_J, "photo_sha256", _RECOMPUTED, "the photo's own, where it is at hand"),
    Statement(_J, "provenance.photo", _DERIVED, "the photo's SHA-256"),
    Statement(_J, "provenance.*", _NONE, "how a later run knows that it can be kept"),
    Statement(_J, "seconds", _NONE, "how long it took"),
    Statement(_J, "certificate_seconds", _NONE, "how long it took to certify it"),
    Statement(_J, "top[].*", _DERIVED, "the largest logits and the labels"),
    Statement(_J, "objects[].*", _DERIVED, "contributions and label map"),
    Statement(_J, "sentences[]", _DERIVED, "the scores, whole maps and label map"),
    Statement(_J, "objects_from", _NONE, "where the masks were; the label map is what counts"),
    Statement(_J, "pictures.*", _DERIVED, "the names of the pictures, which are drawn again"),
    Statement(_J, "drawing.versions.*", _NONE, "what was installed when they were drawn"),
    Statement(_J, "drawing.*", _DERIVED, "how the pictures are drawn again"),
    Statement(_J, "radius.*", _RECOMPUTED, "computed again"),
    Statement(_J, "source.*", _NONE, "how the network was named; its fingerprint is what counts"),
    Statement(_J, "certificate[]", _DERIVED, "the lines of certificate.json"),
)


def statements(place: Place) -> tuple[Statement, ...]:
    """Those made in one place."""
    return tuple(statement for statement in STATEMENTS if statement.place is place)


def statement_of(place: Place, name: str) -> Statement | None:
    """The first statement that a name in a place makes; None for what nobody judges."""
    return _statement_of(place, re.sub(r"\[\d+\]", "[]", name))


@lru_cache(maxsize=4096)
def _statement_of(place: Place, name: str) -> Statement | None:
    return next((one for one in statements(place) if one.matches(name)), None)


def unjudged(place: Place, names: Iterable[str]) -> list[str]:
    """Those of the names in a place that are no statement of the list."""
    return [name for name in names if statement_of(place, name) is None]
