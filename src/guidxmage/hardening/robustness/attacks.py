"""Attacks of other libraries on a part of the image: everything, the background, or the object."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from guidxmage.adversarial import attack
from guidxmage.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

Part = Literal["all", "background", "object"]
Norm = Literal["linf", "l2"]
# AutoAttack's targeted loss compares with the third of the other classes.
_DLR_CLASSES = 4
PARTS: tuple[Part, ...] = ("all", "background", "object")


class PartNetwork(nn.Module):
    """A network of which only a part of each image can be attacked.

    What an attack writes elsewhere is replaced by the original before the network sees it, so any
    library's attack is confined to the part. Batches of the originals' length are taken row by row;
    of others every row belongs to the original that is nearest on the fixed pixels and the rest.
    """

    def __init__(self, model: nn.Module, originals: Tensor, free: Tensor) -> None:
        super().__init__()
        self.model = model
        self.originals, self.free = originals, free

    def rows(self, x: Tensor) -> Tensor:
        """The number of the original that each row of x was made from."""
        if len(x) == len(self.originals):
            return torch.arange(len(x), device=x.device)
        return torch.cdist(x.detach().flatten(1), self.originals.flatten(1)).argmin(1)

    def confine(self, x: Tensor) -> Tensor:
        """x on the free part, the original elsewhere."""
        rows = self.rows(x)
        return torch.where(self.free[rows], x, self.originals[rows])

    def forward(self, x: Tensor) -> Tensor:
        """The scores of the confined images."""
        scores: Tensor = self.model(self.confine(x))
        return scores


@dataclass(frozen=True)
class Target:
    """Images to attack: model, images (B, C, H, W) in [0, 1], labels (B,), free part as bool."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    masks: Tensor
    part: Part = "all"

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise InputError(f"part {self.part!r} is unknown; choose one of {', '.join(PARTS)}")

    @property
    def free(self) -> Tensor:
        """Where the images may change, like the images."""
        masks = self.masks[:, None].expand_as(self.images)
        if self.part == "all":
            return torch.ones_like(masks)
        return masks if self.part == "object" else ~masks

    @property
    def confined(self) -> PartNetwork:
        """The network with everything but the part held fast."""
        return PartNetwork(self.model, self.images, self.free)

    def fooled(self, adversarial: Tensor) -> Tensor:
        """Whether the network itself answers wrongly to the confined images, (B,)."""
        with torch.no_grad():
            confined = torch.where(self.free, adversarial, self.images).clamp(0, 1)
            wrong: Tensor = self.model(confined).argmax(1) != self.labels
        return wrong

    def size(self, adversarial: Tensor, norm: Norm) -> Tensor:
        """How far the confined images are from the originals, (B,)."""
        moved = torch.where(self.free, adversarial - self.images, 0).flatten(1)
        return moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global random state set to a seed within, and as it was afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def pgd(target: Target, norm: Norm, eps: float, *, steps: int, restarts: int, seed: int) -> Tensor:
    """foolbox's PGD: which images withstand all restarts within eps, (B,) bool."""
    foolbox = _foolbox()
    kind = {"linf": "LinfPGD", "l2": "L2PGD"}[norm]
    withstood = torch.ones_like(target.labels, dtype=torch.bool)
    with seeded(seed):
        for _ in range(restarts):
            method = getattr(foolbox.attacks, kind)(steps=steps, rel_stepsize=2.5 / steps)
            found = _run_foolbox(foolbox, method, target, eps)
            inside = target.size(found, norm) <= eps * (1 + 1e-5) + 1e-7
            withstood &= ~(target.fooled(found) & inside)
    return withstood


def carlini_wagner(target: Target, *, steps: int, searches: int, seed: int) -> Tensor:
    """foolbox's Carlini-Wagner attack: the l2 norm of what it finds, inf where nothing, (B,)."""
    foolbox = _foolbox()
    method = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=searches, steps=steps)
    with seeded(seed):
        return _sizes(target, _run_foolbox(foolbox, method, target, None))


def ddn(target: Target, *, steps: int, seed: int) -> Tensor:
    """foolbox's DDN attack: the l2 norm of what it finds, inf where nothing, (B,)."""
    foolbox = _foolbox()
    method = foolbox.attacks.DDNAttack(steps=steps)
    with seeded(seed):
        return _sizes(target, _run_foolbox(foolbox, method, target, None))


def minimal(target: Target, *, budget: int, seed: int) -> Tensor:
    """The project's own attack: the l2 norm of what it finds, inf where nothing, (B,)."""
    free = None if target.part == "all" else target.free
    found = attack(target.model, target.images, target.labels, mask=free, budget=budget, seed=seed)
    return torch.where(found.success, found.norm, torch.inf)


def autoattack(
    target: Target,
    norm: Norm,
    eps: float,
    *,
    seed: int,
    attacks: list[str] | None = None,
    queries: int | None = None,
) -> Tensor:
    """AutoAttack, standard version: which images withstand it within eps, (B,) bool.

    Below four classes its two targeted attacks have no meaning, and APGD on the cross-entropy, FAB
    and Square are run. `attacks` runs some of its attacks alone, such as ["square"], the black box,
    with at most `queries` images shown to the network.
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise MissingExtraError("pyautoattack", "robust") from error
    network = target.confined.eval()
    with torch.no_grad():
        right: Tensor = network(target.images).argmax(1) == target.labels
    if not bool(right.any()):
        return torch.zeros_like(target.labels, dtype=torch.bool)
    if attacks is None and network(target.images[:1]).shape[1] < _DLR_CLASSES:
        attacks = ["apgd-ce", "fab", "square"]
    options: dict[str, Any] = {"version": "custom", "attacks": attacks} if attacks else {}
    with seeded(seed):
        runner = AutoAttack(
            network,
            norm={"linf": "Linf", "l2": "L2"}[norm],
            eps=eps,
            seed=seed,
            device=target.images.device,
            **options,
        )
        runner.verbose = False
        if queries is not None:
            runner.square.n_queries = queries
        found = runner.run_standard_evaluation(
            target.images, target.labels, batch_size=len(target.images)
        )
    adversarial = found[0] if isinstance(found, tuple) else found
    adversarial = torch.as_tensor(adversarial).to(target.images)
    inside = target.size(adversarial, norm) <= eps * (1 + 1e-5) + 1e-6
    withstood: Tensor = right & ~(target.fooled(adversarial) & inside)
    return withstood


def _sizes(target: Target, found: Tensor) -> Tensor:
    """l2 norms where the network is fooled, 0 where it was wrong to begin with."""
    size = torch.where(target.fooled(found), target.size(found, "l2"), torch.inf)
    return torch.where(target.fooled(target.images), 0, size)


def _run_foolbox(foolbox: Any, method: Any, target: Target, eps: float | None) -> Tensor:
    model = foolbox.PyTorchModel(target.confined.eval(), bounds=(0, 1), device=target.images.device)
    _, clipped, _ = method(model, target.images, target.labels, epsilons=eps)
    found: Tensor = clipped.detach()
    return torch.where(torch.isfinite(found), found, target.images)


def _foolbox() -> Any:
    try:
        import foolbox
    except ImportError as error:
        raise MissingExtraError("foolbox", "robust") from error
    return foolbox
