"""Targets among embeddings: how like another image this one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidxmage.errors import InputError
from guidxmage.outputs.kinds import Embedding, Output
from guidxmage.outputs.meaning import Asked, Meaning, Seen
from guidxmage.outputs.target import checked_dimensions, needs


@dataclass(frozen=True, eq=False)
class Similarity:
    """How like another image, or a vector, this one is.

    With rather_than, another image or vector: ⟨φ, t_a − t_b⟩ of unit vectors, which decides which
    of the two is the more alike. Without: the cosine, its own length |φ| held as it is here, so
    that the number is the cosine of this image alone.
    """

    other: Any
    rather_than: Any = None

    def of(self, output: Output, seen: Seen) -> Asked:
        """See `Target`."""
        needs(output, Embedding, self)
        (own,) = seen.outputs
        checked_dimensions(own, 1, "an embedding", "(batch, n)")
        first, name = _direction(self.other, own, seen)
        if self.rather_than is not None:
            second, against = _direction(self.rather_than, own, seen)
            words = f"like {name} rather than {against}"
            return seen.asked([first - second], Meaning(words, choice={"kind": "similarity"}))
        length = float(torch.linalg.vector_norm(own.double()))
        if length == 0:
            raise InputError("the embedding of this image is 0, which is like nothing")
        choice = {"kind": "similarity", "length": length}
        return seen.asked([first / length], Meaning(f"like {name} (cosine)", choice=choice))


def _direction(given: Any, own: Tensor, seen: Seen) -> tuple[Tensor, str]:
    """A unit vector, and what it is called."""
    if isinstance(given, Tensor | np.ndarray) and np.ndim(given) == 1:
        vector, name = torch.as_tensor(given).to(own), "a vector"
    elif seen.embed is None:
        raise InputError("give a vector (n,) to compare with")
    else:
        (vector,), name = seen.embed(given), _name_of(given)
    if vector.shape != own.shape:
        raise InputError(
            f"a vector of {vector.numel()} numbers is compared with an embedding of {own.numel()}"
        )
    length = torch.linalg.vector_norm(vector.double())
    if not bool(torch.isfinite(length)) or float(length) == 0:
        raise InputError("the vector to compare with is 0, or holds NaN or Inf")
    return (vector.double() / length).to(own), name


def _name_of(given: Any) -> str:
    text = str(getattr(given, "filename", "") or (given if isinstance(given, str) else ""))
    name = getattr(given, "name", "") or text.replace("\\", "/").rsplit("/", 1)[-1]
    return str(name) or "the other image"
