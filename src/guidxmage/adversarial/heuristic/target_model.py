"""The attacked network: scores and exact region models on demand, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guidxmage.engine.symbolic import Network, pull_targets
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError, UnsupportedOperatorError
from guidxmage.explainer import Explainer


@dataclass(frozen=True)
class Goal:
    """What counts as success, for n rows: class (n,), and whether to reach it or to leave it."""

    classes: Tensor
    targeted: bool

    def rows(self, index: Tensor) -> Goal:
        """The goal of some rows, or of rows repeated."""
        return Goal(self.classes[index], self.targeted)

    def rival(self, logits: Tensor) -> Tensor:
        """The best class beside the goal's own, (n,)."""
        others = logits.scatter(1, self.classes[:, None], -torch.inf)
        return others.argmax(1)

    def margin(self, logits: Tensor) -> Tensor:
        """Positive where the goal is reached: the winning score minus the losing one, (n,)."""
        own = logits.gather(1, self.classes[:, None])[:, 0]
        best = logits.gather(1, self.rival(logits)[:, None])[:, 0]
        return own - best if self.targeted else best - own

    def pair(self, logits: Tensor, via: Tensor) -> tuple[Tensor, Tensor]:
        """The classes whose difference of scores must rise: up and down, (n,) each.

        `via` is the class to go through until the goal is reached, −1 for the best rival.
        """
        through = (via >= 0) & (self.margin(logits) <= 0)
        rival = torch.where(through, via, self.rival(logits))
        return (self.classes, rival) if self.targeted else (rival, self.classes)


@dataclass(frozen=True)
class Local:
    """The network at n points: logits, and along each point's trail up − down = ⟨w, Z⟩ + const.

    `value` (n,) is that difference of scores at the point itself, `normal` (n, C, H, W) is w.
    """

    logits: Tensor
    value: Tensor
    normal: Tensor

    def rows(self, index: Tensor) -> Local:
        """The models of some rows, or of rows repeated."""
        return Local(self.logits[index], self.value[index], self.normal[index])


class TargetModel:
    """A classifier on images in [low, high], with counts of the rows run forward and backward.

    A network with operators that are smooth or have no rule is attacked all the same, with
    PyTorch's own gradient; `piecewise_linear` is then False and no statement about regions is made.
    """

    def __init__(self, explainer: Explainer, images: Tensor) -> None:
        self.explainer = explainer
        self.model = explainer.model
        self.network: Network | None = None
        self.reason = ""
        try:
            self.network = explainer.network(images[: explainer.batch_rows])
        except UnsupportedOperatorError as error:
            self.reason = str(error)
        if self.network is not None and self.network.program.branches:
            branch = self.network.program.branches[0]
            self.reason = f"the network branches at '{branch.site}' on what it computes"
            self.network = None
        if self.network is not None and self.network.program.smooth:
            call = self.network.program.smooth[0]
            self.reason = f"{call.op} at '{call.site}' is smooth: there are no regions"
            self.network = None
        self.to_input = explainer.to_input
        self.forwards = 0
        self.backwards = 0

    @property
    def piecewise_linear(self) -> bool:
        """Whether the answers of `local` are models of whole regions."""
        return self.network is not None

    @property
    def chunk(self) -> int:
        """How many rows are run at once."""
        if self.network is None:
            return self.explainer.batch_rows
        return self.explainer.rows(self.network.program)

    @torch.no_grad()
    def logits(self, X: Tensor) -> Tensor:
        """Class scores of images X (n, C, H, W) as the network itself computes them."""
        self.forwards += len(X)
        parts = [self.explainer.run(part) for part in X.split(self.chunk)]
        return torch.cat(parts) if parts else X.new_zeros(0, 1)

    def local(self, X: Tensor, goal: Goal, via: Tensor | None = None) -> Local:
        """The region models at images X of the difference that the goal wants to rise."""
        self.forwards += len(X)
        self.backwards += len(X)
        via = torch.full_like(goal.classes, -1) if via is None else via
        index = torch.arange(len(X), device=X.device).split(self.chunk)
        parts = [self._part(X[i], goal.rows(i), via[i]) for i in index]
        return _joined(parts)

    def rivals(self, X: Tensor, goal: Goal, classes: Tensor) -> Local:
        """The region models at images X for several classes to go through, (n, k).

        The rows of an image follow one another, n·k in all; its trail is recorded once.
        """
        count, k = classes.shape
        if self.network is None:
            rows = torch.arange(count, device=X.device).repeat_interleave(k)
            return self.local(X[rows], goal.rows(rows), classes.flatten())
        self.forwards += count
        self.backwards += count * k
        program = self.network.program
        index = torch.arange(count, device=X.device).split(max(1, self.chunk // k))
        parts = []
        for i in index:
            recording = program.record(self.to_input(X[i]), norms=False)
            own = goal.rows(i)
            pairs = (own.pair(recording.logits, via) for via in classes[i].unbind(1))
            cotangent = torch.stack([_difference(recording.logits, *pair) for pair in pairs])
            pulled = pull_targets(program, recording.trail, cotangent, rows=self.chunk)
            value = (cotangent * recording.logits).sum(2).t().flatten()
            normal = self.explainer.to_space(pulled.weights.flatten(0, 1))
            parts.append(Local(recording.logits.repeat_interleave(k, 0), value, normal))
        return _joined(parts)

    def _part(self, X: Tensor, goal: Goal, via: Tensor) -> Local:
        if self.network is None:
            return self._by_autograd(X, goal, via)
        program = self.network.program
        recording = program.record(self.to_input(X), norms=False)
        cotangent = _difference(recording.logits, *goal.pair(recording.logits, via))
        pulled = program.pull(recording.trail, cotangent)
        normal = self.explainer.to_space(pulled.weights)
        return Local(recording.logits, (cotangent * recording.logits).sum(1), normal)

    def _by_autograd(self, X: Tensor, goal: Goal, via: Tensor) -> Local:
        with torch.enable_grad():
            leaf = X.detach().requires_grad_()
            logits = self.explainer.run(leaf)
            pair = goal.pair(logits.detach(), via)
            value = (_difference(logits.detach(), *pair) * logits).sum(1)
            (normal,) = torch.autograd.grad(value.sum(), leaf)
        return Local(logits.detach(), value.detach(), normal)

    def trail(self, X: Tensor) -> Trail | None:
        """The trails of images X, None for a network that is not piecewise linear."""
        return None if self.network is None else self.network.record(X)[1]


def _joined(parts: list[Local]) -> Local:
    return Local(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.value for part in parts]),
        torch.cat([part.normal for part in parts]),
    )


def _difference(logits: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Cotangents of score `up` minus score `down`, (n, classes)."""
    cotangent = torch.zeros_like(logits)
    cotangent.scatter_(1, up[:, None], 1)
    return cotangent.scatter_add_(1, down[:, None], -torch.ones_like(cotangent[:, :1]))


def refuse_other_outputs(explainer: Explainer, X: Tensor | None = None) -> None:
    """Raises InputError for a network whose outputs are no class scores, with the way out.

    X: images of the explained space, which tell whether scores are one for each class.
    """
    outputs = explainer.outputs
    shapes = () if X is None else outputs.shapes(explainer.model, explainer.to_input(X[:1]))
    if outputs.kind not in ("scores", "labels") or not outputs.holds_scores(shapes):
        kind = "scores of several axes" if outputs.kind in ("scores", "labels") else outputs.kind
        raise InputError(
            f"the outputs are {kind}, not class scores; attack "
            "guidxmage.adversarial.margin(explainer, image, target), one number of them"
        )


def as_explainer(model: nn.Module | Explainer) -> Explainer:
    """An explainer for a plain module, which then takes images in [0, 1] itself."""
    if isinstance(model, Explainer):
        return model
    if isinstance(model, nn.Module):
        return Explainer(model)
    raise InputError(f"a torch.nn.Module or an Explainer is expected, not {type(model).__name__}")
