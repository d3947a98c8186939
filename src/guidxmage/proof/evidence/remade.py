"""What a single image is certified by: the network run on it again, in both precisions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.change_space import model_shares
from guidxmage.engine.program.program import Program
from guidxmage.engine.symbolic import Network
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError
from guidxmage.proof.evidence.again import Again, made_again
from guidxmage.proof.evidence.judges import Evidence
from guidxmage.proof.evidence.placed import PlacedAgain
from guidxmage.proof.evidence.way import Way
from guidxmage.proof.rounding.deviations import (
    DEVIATIONS,
    SITE_DEVIATIONS,
    RoundingModel,
    unit_of,
)
from guidxmage.proof.rounding.fidelity import (
    Doubts,
    ModelFidelity,
    Runs,
    model_fidelity,
    unexplained,
)
from guidxmage.proof.rounding.numeric import Exact, exact_run

# How many times what our own run is off by, where no rounding model is known, others may be.
_SLACK = 8.0
# Beyond that part of the largest weight no difference is rounding.
_NO_ROUNDING = 1e-3


@dataclass(frozen=True)
class Remade:
    """One image, for all its targets.

    X (1, …): as the network takes it. way: into the network. runs: of it in both precisions. fault:
    why the stored trail is not one of the image, None where it is. same_trail: whether it is the
    recorded one bit for bit. trails: for the plain run and for the pull of the modular identity.
    exact_trail: what float64 runs follow. again: the explanation made again, None where that is not
    possible. doubts: None where operators are smooth. placed: its placements made again.
    """

    X: Tensor
    network: Network
    way: Way | str
    runs: Runs
    fault: str | None
    same_trail: bool
    trails: tuple[Trail, Trail]
    exact_trail: Trail
    again: Again | None
    doubts: Doubts | None
    model: ModelFidelity
    wide: Program
    placed: PlacedAgain | None

    @classmethod
    def of(
        cls, image: Attribution, network: Network, model: nn.Module, fresh: Program, wide: Program
    ) -> Remade:
        """Run the network, the program and a fresh capture of the network on a single image."""
        program, X = network.program, network.to_input(image.input[None])
        runs = Runs.of(program, wide, X)
        recorded, again = runs.deployed.trail, fresh.record(X, norms=False).trail
        fault = unexplained(runs, image.trail)
        same = fault is None and bool(recorded.same(image.trail).all())
        along = recorded if fault is not None else image.trail
        found = cls(
            X=X,
            network=network,
            way=Way.of(image, network),
            runs=runs,
            fault=fault,
            same_trail=same and bool(again.same(image.trail).all()),
            trails=_for_identity(
                image.trail, recorded, again, explained=fault is None and not same
            ),
            exact_trail=_in_float64(along, runs),
            again=_made_again(image, network, runs, along),
            doubts=None if program.smooth else Doubts.of(runs),
            model=model_fidelity(model, program, X, runs.deployed.recording.logits[0]),
            wide=wide,
            placed=None,
        )
        if image.placements:
            placed = PlacedAgain.of(image, (program, X, along), (wide, found.exact_trail))
            found = replace(found, placed=placed)
        if found.model.identical:
            return found
        explained = found.logits_allowed()
        return replace(found, model=replace(found.model, explained=explained))

    def target(self, part: Attribution, number: int, rounding: RoundingModel) -> RemadeTarget:
        """What one target of the image is certified by."""
        return RemadeTarget.of(self, part, number, rounding)

    def logits_allowed(self) -> float:
        """How far other logits may be off: by some times what ours are, beside float64."""
        own = self.runs.deployed.recording.logits[0].double()
        exact = self.wide.push(self.exact_trail, self.X.double(), affine=True)[0]
        explained = 0.0 if self.again is None else float(self.again.largest_bound.max())
        return max(_SLACK * float((own - exact).abs().max()), explained)


@dataclass(frozen=True)
class RemadeTarget:
    """One target of an image: exact Δ and shares of the bias in the explained space.

    weights_allowed, sites_allowed: how far rounding may have moved the printed ones. exact: the
    float64 run, on the network's input.
    """

    exact: Exact
    number: int
    weights: Tensor
    sites: dict[str, float]
    weights_allowed: Tensor
    sites_allowed: dict[str, float]

    @classmethod
    def of(
        cls, image: Remade, part: Attribution, number: int, rounding: RoundingModel
    ) -> RemadeTarget:
        """Pull the target's cotangent in float64, and the variances of rounding."""
        cotangent = part.symbolic_model.cotangent[0]
        exact = exact_run(image.wide, image.exact_trail, image.X.double(), cotangent.double())
        way = Way(None, None) if isinstance(image.way, str) else image.way
        sites = {**way.shares(exact.weights), **exact.sites}
        found = cls(exact, number, way.weights(exact.weights)[0], sites, torch.zeros(()), {})
        deviations = rounding.deviations(image.exact_trail, exact.cotangents)
        if deviations is None:
            return found._measured(image, part)
        unit, eps = unit_of(part.weights.dtype), torch.finfo(part.weights.dtype).eps
        spread = DEVIATIONS * unit * way.deviations(deviations.weights)[0]
        by_site = {**way.share_deviations(deviations.weights), **deviations.sites}
        return replace(
            found,
            weights_allowed=spread + eps * found.weights.abs(),
            sites_allowed={
                site: SITE_DEVIATIONS * unit * by_site.get(site, 0.0) + _rounded(value)
                for site, value in sites.items()
            },
        )

    def _measured(self, image: Remade, part: Attribution) -> RemadeTarget:
        """Where no model says how much rounding explains: some times what our own run is off by."""
        eps = torch.finfo(part.weights.dtype).eps
        own = None if image.again is None else _of_target(image.again.explanation, self.number)
        if own is None or own.weights.shape != self.weights.shape:
            return replace(
                self,
                weights_allowed=eps * self.weights.abs(),
                sites_allowed=dict.fromkeys(self.sites, 0.0),
            )
        off = float((own.weights.double() - self.weights).abs().max())
        most = _NO_ROUNDING * float(self.weights.abs().max())
        shares = {site: float(share) for site, share in model_shares(own).items()}
        worst = max((abs(shares.get(s, 0.0) - v) for s, v in self.sites.items()), default=0.0)
        largest = max(map(abs, self.sites.values()), default=0.0)
        share = min(_SLACK * worst, _NO_ROUNDING * largest) + eps * largest
        return replace(
            self,
            weights_allowed=min(_SLACK * off, most) + eps * self.weights.abs(),
            sites_allowed=dict.fromkeys(self.sites, share),
        )

    def evidence(self, part: Attribution, image: Remade, exactness: str) -> Evidence:
        """Everything that the part is judged by."""
        return Evidence(
            part=part,
            again=None if image.again is None else image.again.of_target(self.number),
            way=image.way,
            logits=image.runs.deployed.recording.logits[0],
            logits_allowed=image.logits_allowed,
            weights=self.weights,
            weights_allowed=self.weights_allowed,
            sites=self.sites,
            sites_allowed=self.sites_allowed,
            trail=image.fault,
            header=image.network.program.header,
            exactness=exactness,
            placed=None if image.placed is None else image.placed.of_target(part, self.number),
        )


def _rounded(value: float) -> float:
    """What rounding a share itself adds: it is kept in float64."""
    return 64 * 2.0**-53 * abs(value)


def _of_target(image: Attribution, number: int) -> Attribution:
    return image[number] if image.several else image


def _for_identity(
    stored: Trail, recorded: Trail, fresh: Trail, *, explained: bool
) -> tuple[Trail, Trail]:
    """The plain run follows a trail recorded anew, the pull the stored one.

    Where rounding explains that the two differ, both follow the stored one.
    """
    if explained:
        return stored, stored
    try:
        recorded.same(stored)
    except ValueError:  # of another network: the trail's own finding says so
        return fresh, recorded
    return fresh, stored


def _in_float64(trail: Trail, runs: Runs) -> Trail:
    """The decisions of a trail with what smooth operators record in float64."""
    wide = runs.other if runs.program.dtype == torch.float32 else runs.deployed
    return replace(trail, gates=wide.trail.gates)


def _made_again(image: Attribution, network: Network, runs: Runs, trail: Trail) -> Again | None:
    try:
        return made_again(image, network, runs.deployed.recording, trail)
    except InputError:
        return None
