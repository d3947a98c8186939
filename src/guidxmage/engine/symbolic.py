"""The symbolic model: what is left of the network for one image and class, f(Z) = ⟨Δ, Z⟩ + b."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.engine.capture.programs import Programs
from guidxmage.engine.capture.user_model import untouched
from guidxmage.engine.cuda.graphs import Graphed
from guidxmage.engine.linear_regions.walk import Lines, piece
from guidxmage.engine.program.program import Program
from guidxmage.engine.program.steps import Pulled, Recording
from guidxmage.engine.program.watch import PositionMaps, Watch
from guidxmage.engine.trail.trail import Difference, Trail
from guidxmage.errors import InputError, OffTrailError
from guidxmage.reports.short_repr import short_repr


@dataclass(frozen=True)
class Network:
    """A captured program together with the affine map from the explained space to its input.

    model: the user's own module that was captured, where it is at hand; programs: all that are
    known of it.
    """

    program: Program
    to_input: Callable[[Tensor], Tensor]
    model: nn.Module | None = None
    programs: Programs | None = None

    __repr__ = short_repr

    def record(self, Z: Tensor) -> tuple[Tensor, Trail]:
        """Logits (n, classes) and trail of images Z (n, C, H, W), a bounded number at a time.

        Raises InputError where images take different branches, and so have trails of other sites.
        """
        parts = list(self.recordings(Z))
        if any(part.trail.sites != parts[0].trail.sites for part in parts):
            raise InputError(
                "these images make the network take different branches, so that their trails have "
                "different decisions; ask about one image at a time"
            )
        logits = torch.cat([part.logits for part in parts])
        return logits, Trail.concatenate([part.trail for part in parts])

    def recordings(self, Z: Tensor) -> Iterator[Recording]:
        """What the network does on images Z (n, C, H, W), some at a time, in order."""
        for part in Z.split(16 if self.program.batched else 1):
            given = self.to_input(part)
            program = self.program
            if self.programs is not None:
                with untouched(self.programs.model):
                    program = self.programs.of(given)
            if not program.batched and len(given) > 1:
                for image in given.split(1):
                    yield program.record(image, norms=False)
            else:
                yield program.record(given, norms=False)

    def lines(self, X: Tensor, direction: Tensor) -> Lines:
        """Lines X + s·direction of the explained space, (n, C, H, W) each, in the input."""
        size = direction.flatten(1).abs().amax(1).reshape(-1, *[1] * (X.ndim - 1))
        size = torch.where(size > 0, size, 1)  # the map is affine: at unit size it keeps its digits
        linear = self.to_input(direction / size) - self.to_input(torch.zeros_like(direction))
        return Lines(self.to_input(X), linear * size)


@dataclass(frozen=True)
class StepLength:
    """How far one may go along a direction before the trail changes, and what changes it.

    X + s·direction follows the trail for 0 ≤ s < length. At `length` one decision flips: the one at
    call site `site` and `position`, from `before` to `after` (words, or the position taken in a
    window). In a direction that never leaves the region length is inf and the rest None.
    """

    length: float
    site: str | None = None
    position: tuple[int, ...] | None = None
    before: str | int | None = None
    after: str | int | None = None

    def __str__(self) -> str:
        if self.site is None:
            return "no decision ever flips in this direction"
        where = list(self.position or ())
        return f"{self.length:.6g}: {self.site} at {where} goes {self.before} → {self.after}"


@dataclass(frozen=True)
class Replay:
    """The symbolic model evaluated on other images, beside the network itself.

    score: the symbolic model's; network_score: the network's own; follows: whether each image
    follows the trail (only there the two must agree); distance: decisions that differ, per call
    site; first_difference: the first of them, None where there is none. choices: whether what was
    chosen of the outputs, such as the box that is kept, would be chosen again; an image follows
    only then. None where nothing was chosen.
    """

    score: Tensor
    network_score: Tensor
    follows: Tensor
    distance: dict[str, Tensor]
    first_difference: list[Difference | None]
    choices: Tensor | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class SymbolicModel:
    """f(Z) = ⟨weights, Z⟩ + bias, exact for every Z that follows the trail.

    weights ([B,] [K,] C, H, W) and bias ([B,] [K]) with an image axis for batches and a target
    axis for lists of targets. `several` tells whether the target axis is there, `batched` the
    image axis; cotangent is (K, B, classes). `input` is X, ([B,] C, H, W). choices: for each image
    and target, (B) (K), whether what was chosen of its outputs would be chosen of others (N,);
    empty where nothing was.
    """

    weights: Tensor
    bias: Tensor
    trail: Trail
    cotangent: Tensor
    batched: bool
    several: bool
    network: Network | None = None
    input: Tensor | None = None
    choices: tuple[tuple[Callable[[Tensor], bool], ...], ...] = ()

    __repr__ = short_repr

    def __getstate__(self) -> dict[str, Any]:
        """For pickling: the network stays behind, as it does when an explanation is saved."""
        return {**vars(self), "network": None, "choices": ()}

    def __copy__(self) -> SymbolicModel:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SymbolicModel:
        """Tensors are copied; the network is the user's own, and stays that."""
        copied = {
            name: deepcopy(value, memo)
            for name, value in vars(self).items()
            if name not in ("network", "choices")
        }
        return SymbolicModel(**copied, network=self.network, choices=self.choices)

    def __call__(self, Z: Tensor, *, check: bool = True) -> Tensor:
        """The scores of images Z in the explained space.

        Z is (C, H, W) or (n, C, H, W) for a single image's model and (B, C, H, W), paired, for a
        batch's; the result is ([n,] [K]). With `check` (the default) every Z must follow the
        trail; OffTrailError names the first decision that differs. Without it the affine
        function is evaluated wherever Z lies.
        """
        images, single = self._images(Z)
        if check:
            self._refuse_other_trails(images)
        scores = self._evaluate(images)
        return scores[0] if single else scores

    def _refuse_other_trails(self, images: Tensor) -> None:
        row = 0
        for recording, own in self._recorded(images):
            self._refuse_other_gates(recording.trail, own)
            for difference in own.first_difference(recording.trail):
                if difference is not None:
                    raise OffTrailError(
                        f"image {row} does not follow the trail: it differs first in {difference}; "
                        "use replay() to compare it with the network, or check=False to evaluate "
                        "the affine function all the same"
                    )
                row += 1
            first = row - len(recording.logits)
            if self.choices and not bool(self._chosen_again([recording.logits], first).all()):
                raise OffTrailError(
                    f"image {first} or one after it follows the trail, but of its outputs another "
                    "choice would be made; use replay() to compare it with the network, or "
                    "check=False to evaluate the affine function all the same"
                )

    def _chosen_again(self, parts: list[Tensor], first: int = 0) -> Tensor:
        """Whether of outputs (n, N) the same would be chosen; the first is of image `first`."""
        outputs = [own for part in parts for own in part]
        rows = [self.choices[(first + row) if self.batched else 0] for row in range(len(outputs))]
        found = [all(ask(own) for ask in row) for own, row in zip(outputs, rows, strict=True)]
        return torch.tensor(found, device=parts[0].device)

    def _recorded(self, images: Tensor) -> Iterator[tuple[Recording, Trail]]:
        """What the network does on images, some at a time, beside the trail that is explained."""
        first = 0
        for recording in self._network().recordings(images):
            end = first + recording.trail.rows
            yield recording, self.trail.take(slice(first, end)) if self.batched else self.trail
            first = end

    def _refuse_other_gates(self, trail: Trail, own: Trail) -> None:
        if own.gates and not bool(trail.same(own).all()):
            raise OffTrailError(
                f"this model is exact at its own image alone: {next(iter(self.trail.gates))} and "
                f"{len(self.trail.gates) - 1} more operators are smooth; use replay() to compare "
                "it with the network, or check=False to evaluate the affine function all the same"
            )

    def follows(self, Z: Tensor) -> Tensor:
        """Whether images Z follow the trail, T(Z) = T(X): bool, 0-d for one image, else (n,)."""
        images, single = self._images(Z)
        pairs = list(self._recorded(images))
        verdict = torch.cat([recording.trail.same(own) for recording, own in pairs])
        if self.choices:
            verdict &= self._chosen_again([found.logits for found, _ in pairs])
        return verdict[0] if single else verdict

    def replay(self, Z: Tensor) -> Replay:
        """Evaluate images Z (n, C, H, W) and say for each whether the answer is exact."""
        images, _ = self._images(Z)
        pairs = list(self._recorded(images))
        if any(found.logits.shape[1] != self.cotangent.shape[2] for found, _ in pairs):
            raise InputError("these images make the network give out another number of numbers")
        logits = torch.cat([recording.logits for recording, _ in pairs])
        apart = [own.hamming(recording.trail) for recording, own in pairs]
        cotangent = self.cotangent if self.batched else self.cotangent.expand(-1, len(images), -1)
        network_score = (cotangent * logits).sum(-1).t()
        follows = torch.cat([recording.trail.same(own) for recording, own in pairs])
        choices = self._chosen_again([logits]) if self.choices else None
        return Replay(
            score=self._evaluate(images),
            network_score=network_score if self.several else network_score[:, 0],
            follows=follows if choices is None else follows & choices,
            distance={site: torch.cat([one[site] for one in apart]) for site in apart[0]},
            first_difference=[
                difference
                for recording, own in pairs
                for difference in own.first_difference(recording.trail)
            ],
            choices=choices,
        )

    def step_length(self, direction: Tensor) -> StepLength | tuple[StepLength, ...]:
        """How far X + s·direction follows the trail, s ≥ 0, and which decision ends it.

        direction is in the explained space: (C, H, W) gives one result, (n, C, H, W) one for each
        of n directions; for a batch's model it is (B, C, H, W), paired with the images. Computed in
        closed form, to the precision of the network's dtype. Raises InputError for a direction that
        does not fit, UnsupportedOperatorError where the network has no regions.
        """
        network, X = self._network(), self.input
        if X is None:
            raise InputError("this symbolic model was built without the image it belongs to")
        directions, single = self._images(direction)
        count = len(directions)
        X = X if self.batched else X.expand(count, *X.shape)
        trail = self.trail if self.batched else self.trail.take(torch.zeros(count).long())
        now = torch.zeros(count, dtype=torch.float64, device=X.device)
        lines = network.lines(X, directions)
        ahead = piece(network.program, trail, lines, now, recorded=True).ahead
        steps = tuple(
            StepLength(float("inf"))
            if flip is None
            else StepLength(flip.s, flip.site, flip.position, flip.before, flip.after)
            for flip in ahead.describe(network.program, trail)
        )
        return steps[0] if single else steps

    def bias_maps(self) -> dict[str, Tensor]:
        """What each call site's constants add at each position: site → ([B,] [K,] *positions).

        Summed over positions they give that site's entry of the explanation's `bias_by_layer`.
        """
        program = self._network().program
        parts = [
            pull_targets(
                program,
                self.trail.image(row),
                self.cotangent[:, row : row + 1],
                watch=PositionMaps(),
            )
            for row in range(self.cotangent.shape[1])
        ]
        maps = {site: torch.cat([p.watched[site] for p in parts]) for site in parts[0].watched}
        return {site: drop_axes(m, self.batched, self.several) for site, m in maps.items()}

    def _network(self) -> Network:
        if self.network is None:
            raise InputError(
                "this explanation was loaded without its network (from a file, or by pickle); load "
                "it with Explanation.load(path, explainer=…) to compare trails"
            )
        return self.network

    def _images(self, Z: Tensor) -> tuple[Tensor, bool]:
        shape = self.weights.shape[-len(self.weights.shape) + self.batched + self.several :]
        single = Z.ndim == len(shape)
        images = Z[None] if single else Z
        expected = self.cotangent.shape[1] if self.batched else len(images)
        if images.shape[1:] != shape or len(images) != expected or len(images) == 0:
            count = str(expected) if self.batched else "n"
            wanted = f"({count}, {', '.join(map(str, shape))})"
            raise InputError(f"Z has shape {tuple(Z.shape)} where {wanted} is expected")
        if not torch.isfinite(images).all():
            raise InputError("Z holds NaN or Inf")
        return images.to(self.weights), single

    def _evaluate(self, images: Tensor) -> Tensor:
        weights, bias = self.weights.double(), self.bias.double()
        if not self.batched:
            weights, bias = weights[None], bias[None]
        if not self.several:
            weights, bias = weights[:, None], bias[:, None]
        scores = (weights * images.double()[:, None]).flatten(2).sum(2) + bias
        return (scores if self.several else scores[:, 0]).to(self.weights.dtype)


def drop_axes(tensor: Tensor, batched: bool, several: bool) -> Tensor:
    """(B, K, …) without the image axis of a single image and the target axis of a single target."""
    if not several:
        tensor = tensor[:, 0]
    return tensor if batched else tensor[0]


def joined(pieces: list[Tensor], dim: int = 0) -> Tensor:
    """Pieces concatenated; a single piece as it is."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)


def pull_targets(
    program: Program | Graphed,
    trail: Trail,
    cotangent: Tensor,
    norms: Mapping[int, Tensor] | None = None,
    *,
    rows: int = 32,
    watch: Watch | None = None,
) -> Pulled:
    """Pull cotangents (K, B, classes), about `rows` at a time; results have shape (B, K, …)."""
    targets, images, _ = cotangent.shape
    # What a trail keeps is another constant for each image: so is what it rounds.
    if images > 1 and (not program.batched or program.kept):
        return _pulled_one_by_one(program, trail, cotangent, norms, watch)
    chunk = max(1, rows // images) if program.batched else 1
    parts = [
        program.pull(trail, part.flatten(0, 1), norms, watch=watch)
        for part in cotangent.split(chunk)
    ]

    def by_image(pieces: list[Tensor]) -> Tensor:
        return joined(pieces).unflatten(0, (targets, images)).transpose(0, 1)

    return Pulled(
        weights=by_image([part.weights for part in parts]),
        sites=parts[0].sites,
        shares=by_image([part.shares for part in parts]),
        variance=by_image([part.variance for part in parts]),
        worst=by_image([part.worst for part in parts]),
        watched={name: by_image([p.watched[name] for p in parts]) for name in parts[0].watched},
    )


def _pulled_one_by_one(
    program: Program | Graphed,
    trail: Trail,
    cotangent: Tensor,
    norms: Mapping[int, Tensor] | None,
    watch: Watch | None,
) -> Pulled:
    """`pull_targets` where a program takes a single image."""
    parts = [
        pull_targets(
            program,
            trail.image(n),
            cotangent[:, n : n + 1],
            None if norms is None else {id_: norm[n : n + 1] for id_, norm in norms.items()},
            watch=None if watch is None else watch.image(n),
        )
        for n in range(cotangent.shape[1])
    ]
    return Pulled(
        weights=joined([part.weights for part in parts]),
        sites=parts[0].sites,
        shares=joined([part.shares for part in parts]),
        variance=joined([part.variance for part in parts]),
        worst=joined([part.worst for part in parts]),
        watched={name: joined([p.watched[name] for p in parts]) for name in parts[0].watched},
    )
