"""What each pixel adds to a score: the numbers, one frozen record of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from guidxmage.attribution.exactness import in_words
from guidxmage.attribution.placement import Placement
from guidxmage.engine.program.places import INPUT
from guidxmage.engine.symbolic import SymbolicModel
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.inputs.input_space import displayable
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.inputs.reference import reference_name
from guidxmage.outputs.meaning import Meaning

if TYPE_CHECKING:
    from typing_extensions import Self

# The fields that are tensors, one row per image.
TENSORS = [
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
]


@dataclass(frozen=True, eq=False)
class Attribution:
    """Why the network gave these images these scores.

    Below, [B,] is there for a batch of images and [K,] for a list of targets, in that order.

    logits ([B,] classes): exactly the network's own. target, against ([B,] [K]): class index and,
    for a contrast, the class it is compared with; −1 where there is none. score ([B,] [K]):
    f_t(X). weights ([B,] [K,] C, H, W): the pixel weight matrix Δ_t. contributions: the
    contribution matrix A_t = Δ_t ⊙ (X − R). bias ([B,] [K]) float64: the rest of the score, and
    bias_by_layer: call site → its part. residual = score − Σ contributions − bias, beside
    residual_bound, what rounding explains. exactness: "on region" when the symbolic model is exact
    wherever the trail is followed, "at input" when smooth operators make it a model of X alone, and
    "not exact" when a residual, of any image and target, is beyond its bound.
    trail: the decisions taken. symbolic_model: f(Z) = ⟨Δ, Z⟩ + b.
    input: X in the explained `space`: "pixels" in [0, 1] as the network sees them, the "photo" at
    its own size, or the network's "input" after the normalisation. reference: R, with as many
    dimensions as the input and size 1 where it is the same throughout; None where R is 0.
    placements: the whole score on the picture, at each depth that was asked for. output: what is
    explained, "scores" of classes, "labels" (each score for itself), "regression", "segmentation",
    "boxes" or "embedding"; meanings: what each number is, for each image and target, (B) (K), where
    it is not the score of a class.
    """

    logits: Tensor
    target: Tensor
    against: Tensor
    score: Tensor
    weights: Tensor
    contributions: Tensor
    bias: Tensor
    bias_by_layer: dict[str, Tensor]
    residual: Tensor
    residual_bound: Tensor
    exactness: str
    trail: Trail
    symbolic_model: SymbolicModel
    input: Tensor
    pictures: tuple[Image.Image | None, ...]
    photo_sizes: tuple[tuple[int, int], ...]
    space: str
    labels: tuple[str, ...] | None
    model_name: str
    weights_source: str
    preprocessing: Preprocessing | None
    reference: Tensor | None = None
    placements: tuple[Placement, ...] = ()
    output: str = "scores"
    meanings: tuple[tuple[Meaning, ...], ...] = ()

    @classmethod
    def of(cls, other: Attribution) -> Self:
        """The same numbers as one of this class."""
        if isinstance(other, cls):
            return other
        return cls(**{field.name: getattr(other, field.name) for field in fields(Attribution)})

    # --- axes --------------------------------------------------------------------------------

    @property
    def batched(self) -> bool:
        """Whether there is an image axis."""
        return self.symbolic_model.batched

    @property
    def several(self) -> bool:
        """Whether there is a target axis."""
        return self.symbolic_model.several

    def __len__(self) -> int:
        if not self.batched and not self.several:
            raise TypeError("the explanation of one image and one target has no length")
        return len(self.score)

    def __getitem__(self, index: int) -> Self:
        """One image of a batch, or one target of a list for a single image."""
        if not hasattr(index, "__index__"):  # a slice
            raise InputError(f"an explanation is indexed by a whole number, not by {index!r}")
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)}")
        index %= len(self)
        return self._of_image(index) if self.batched else self._of_target(index)

    def __iter__(self) -> Iterator[Self]:
        return (self[index] for index in range(len(self)))

    def split(self) -> list[Self]:
        """One explanation per image and target, images first."""
        if not self.batched and not self.several:
            return [self]
        return [single for part in self for single in part.split()]

    def _of_image(self, index: int) -> Self:
        model = self.symbolic_model
        trail = self.trail.image(index)
        return replace(
            self,
            **{name: getattr(self, name)[index] for name in TENSORS},
            bias_by_layer={site: value[index] for site, value in self.bias_by_layer.items()},
            pictures=(self.pictures[index],),
            photo_sizes=(self.photo_sizes[index],),
            reference=self._reference_of(index),
            placements=tuple(one.part(index) for one in self.placements),
            meanings=self.meanings[index : index + 1],
            trail=trail,
            symbolic_model=replace(
                model,
                weights=model.weights[index],
                bias=model.bias[index],
                trail=trail,
                cotangent=model.cotangent[:, index : index + 1],
                batched=False,
                input=None if model.input is None else model.input[index],
                choices=model.choices[index : index + 1],
            ),
        )

    def _reference_of(self, index: int) -> Tensor | None:
        """R of one image of a batch."""
        R = self.reference
        return None if R is None else R[index if len(R) > 1 else 0]

    def _of_target(self, index: int) -> Self:
        model = self.symbolic_model
        per_target = [name for name in TENSORS if name not in ("logits", "input")]
        return replace(
            self,
            **{name: getattr(self, name)[index] for name in per_target},
            bias_by_layer={site: value[index] for site, value in self.bias_by_layer.items()},
            placements=tuple(one.part(index) for one in self.placements),
            meanings=tuple(row[index : index + 1] for row in self.meanings),
            symbolic_model=replace(
                model,
                weights=model.weights[index],
                bias=model.bias[index],
                cotangent=model.cotangent[index : index + 1],
                several=False,
                choices=tuple(row[index : index + 1] for row in model.choices),
            ),
        )

    # --- reading -----------------------------------------------------------------------------

    @property
    def reference_name(self) -> str:
        """R in words: "network's zero", "black", "0.5", "an image", "one for each image"."""
        R, space, known = self.reference, self.space, self.preprocessing
        return reference_name(R, space, known, batched=self.batched)

    @property
    def target_name(self) -> str | list[Any]:
        """The name of what was explained, nested like `target`."""
        if self.batched or self.several:
            return [part.target_name for part in self]
        if self.meaning is not None:
            return self.meaning.name
        name = self._class_name(int(self.target))
        if int(self.against) >= 0:
            return f"{name} rather than {self._class_name(int(self.against))}"
        return name

    @property
    def meaning(self) -> Meaning | None:
        """What the number of a single result is, where it is not the score of a class."""
        if self.batched or self.several:
            raise InputError("meaning is of one image and target; see split()")
        return self.meanings[0][0] if self.meanings else None

    def _class_name(self, index: int) -> str:
        if index < 0:
            return "cotangent"
        if self.labels is not None and index < len(self.labels):
            return self.labels[index]
        return f"class {index}"

    @property
    def probability(self) -> float | None:
        """The softmax of a single result's class, 0–1, or the score where scores are shares of 1.

        None for contrasts and cotangents, and where there is one score only.
        """
        if int(self.target) < 0 or int(self.against) >= 0 or self.logits.numel() < 2:
            return None
        if self.output != "scores" or self.meanings:
            return None
        logits = self.logits.double()
        shares = bool((logits >= 0).all()) and abs(float(logits.sum()) - 1) < 1e-3
        if not shares and bool(((logits >= 0) & (logits <= 1)).all()):
            return None  # each by itself, as of a sigmoid
        return float((logits if shares else logits.softmax(-1))[int(self.target)])

    def top(self, k: int = 5) -> list[tuple[int, str, float]]:
        """The k best classes of a single image: (index, name, logit); none of other outputs."""
        if self.batched:
            raise InputError("top() is for one image; index the explanation first")
        if self.output not in ("scores", "labels") or self.meanings:
            return []
        best = self.logits.topk(min(k, len(self.logits)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(index, self._class_name(index), value) for index, value in pairs]

    def picture(self) -> Image.Image | None:
        """What the network saw of a single image; None where its input cannot be shown."""
        if self.batched:
            raise InputError("picture() is for one image; index the explanation first")
        return self.pictures[0] or displayable(self.input)

    def pixel_contributions(self) -> Tensor:
        """Contributions summed over channels, ([B,] [K,] H, W); of videos for every frame."""
        return self.contributions.sum(self.batched + self.several)

    def _planes(self) -> NDArray[Any]:
        """What is drawn of a single result: (channels, H, W), a video's frames among them."""
        contributions = self.contributions
        flat = contributions.flatten(0, -3) if contributions.ndim > 3 else contributions
        planes: NDArray[Any] = flat.double().cpu().numpy()
        return planes

    # --- the whole score on the picture --------------------------------------------------------

    def at(self, depth: Any = None) -> Placement:
        """The whole score on the picture, the network cut at a depth as in `Explainer.explain`.

        By default the first depth that was asked for, else the input. Raises InputError for one
        that is not among `placements`.
        """
        if depth is None:
            return self.placements[0] if self.placements else self.at(INPUT)
        for one in self.placements:
            if depth in (one.depth, one.depth.site):
                return one
        asked = ", ".join(one.depth.site for one in self.placements) or "none"
        raise InputError(f"depth {depth!r} was not asked for when explaining; there is {asked}")

    @property
    def whole(self) -> Tensor:
        """The map whose sum is the score but for `unplaced`, ([B,] [K,] H, W), float64."""
        return self.at().whole

    @property
    def placed_bias(self) -> Tensor:
        """Of `whole`, the shares of the bias behind the cut, ([B,] [K,] H, W), float64."""
        return self.at().placed_bias

    @property
    def unplaced(self) -> Tensor:
        """What of the score has no place on the picture, ([B,] [K]), float64."""
        return self.at().unplaced

    @property
    def unplaced_by_layer(self) -> dict[str, Tensor]:
        """Call site → its part of `unplaced`."""
        return self.at().unplaced_by_layer

    def __repr__(self) -> str:
        kind = type(self).__name__
        what = f"{self.space} space, reference: {self.reference_name}"
        lines = [f"{kind} of {self.model_name}, {what}, {in_words(self.exactness)}"]
        for part in self.split()[:10]:
            lines.append(f"  {part._line()}")
        if len(self.split()) > 10:
            lines.append(f"  … {len(self.split()) - 10} more")
        return "\n".join(lines)

    def _line(self) -> str:
        total = float(self.contributions.sum(dtype=torch.float64))
        return (
            f"{self.target_name}: score {float(self.score):.4f} = Σ pixels {total:.4f} + bias "
            f"{float(self.bias):.4f} (residual {float(self.residual):.1e}, "
            f"bound {float(self.residual_bound):.1e})"
        )
