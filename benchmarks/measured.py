"""What an attack achieved: passes counted by a wrapper, samples checked by the network itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from statistics import fmean, median

import torch
from torch import Tensor, nn

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]

# Libraries leave samples on the boundary, which a batch of another size may round to the other
# side; such a sample is lengthened by the least of these shares that the network confirms.
_LENGTHEN = (1e-6, 1e-5, 1e-4, 1e-3)
# Outside of [0, 1] by no more than rounding.
_BOX = 1e-6
# Entries changed by less do not count for l0, if the sample is adversarial without the change.
_UNCHANGED = 1e-6
# Norms this close, relatively, are as good as each other.
TIE = 1e-4


class Counted(nn.Module):
    """A network that counts the images run through it forward and backward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forwards = 0
        self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits: Tensor = self.network(x)
        if logits.requires_grad:
            logits.register_hook(self._backward)
        return logits

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@dataclass(frozen=True)
class Row:
    """One attack on one network's samples. `norms` has a number per sample, None for a failure.

    Passes and seconds (of the processor) are per sample.
    """

    network: str
    norm: str
    attack: str
    library: str
    norms: list[float | None]
    forwards: float
    backwards: float
    seconds: float

    @property
    def sizes(self) -> list[float]:
        """The norms, infinite for failures."""
        return [inf if size is None else size for size in self.norms]


@dataclass(frozen=True)
class Summary:
    """Of a row among all others on the same samples.

    median counts failures as infinite; mean and gap (mean of norm / best known − 1) are over the
    successes; best is the share of all samples on which no attack found less, ties included.
    """

    success: float
    median: float
    mean: float
    gap: float
    best: float


def size_of(delta: Tensor, norm: str) -> float:
    """Of one sample's perturbation (C, H, W); l0 counts pixels."""
    delta = delta.double()
    if norm == "l0":
        return float((delta != 0).any(0).sum())
    return float(delta.flatten().norm(p={"l1": 1, "l2": 2, "linf": inf}[norm]))


@torch.no_grad()
def checked(
    network: nn.Module, X: Tensor, labels: Tensor, samples: Tensor, norm: str
) -> list[float | None]:
    """The norm of each sample that the network, alone with it, confirms; None for the others."""

    def confirmed(sample: Tensor, label: Tensor) -> bool:
        logits = network(sample[None])[0]
        return bool(torch.isfinite(logits).all()) and int(logits.argmax()) != int(label)

    sizes: list[float | None] = []
    for x, label, found in zip(X, labels, samples.detach(), strict=True):
        # NaN is not inside either.
        inside = float(found.min()) >= -_BOX and float(found.max()) <= 1 + _BOX
        size = None
        if inside:
            for sample in _readings(x, found.clamp(0, 1), norm):
                if confirmed(sample, label):
                    size = size_of(sample - x, norm)
                    break
        sizes.append(size)
    return sizes


def _readings(x: Tensor, found: Tensor, norm: str) -> list[Tensor]:
    """What a sample may be taken for, the most favourable first."""
    delta = found - x
    if norm == "l0":
        return [torch.where(delta.abs() > _UNCHANGED, found, x), found]
    return [found, *((x + delta * (1 + share)).clamp(0, 1) for share in _LENGTHEN)]


def samples_of(attack: Attack, network: nn.Module, X: Tensor, labels: Tensor) -> Tensor:
    """What an attack returns for a batch; image by image where it fails on the whole of it."""
    try:
        return attack(network, X.clone(), labels.clone()).detach()
    except Exception as error:
        print(f"    on the batch: {type(error).__name__}: {str(error)[:120]}", flush=True)
    samples = []
    for x, label in zip(X.split(1), labels.split(1), strict=True):
        try:
            samples.append(attack(network, x.clone(), label.clone()).detach())
        except Exception:
            samples.append(torch.full_like(x, float("nan")))
    return torch.cat(samples)


def measure(attack: Attack, network: nn.Module, X: Tensor, labels: Tensor, norm: str) -> dict:
    """The fields of a Row that are measured. The attack sees a network that counts."""
    torch.manual_seed(0)
    counted = Counted(network).eval()
    start = time.process_time()
    samples = samples_of(attack, counted, X, labels)
    seconds = time.process_time() - start
    return {
        "norms": checked(network, X, labels, samples, norm),
        "forwards": counted.forwards / len(X),
        "backwards": counted.backwards / len(X),
        "seconds": seconds / len(X),
    }


def best_known(rows: list[Row]) -> list[float]:
    """The smallest norm of each sample in any of the rows, infinite where none has one."""
    return [min(column) for column in zip(*(row.sizes for row in rows), strict=True)]


def summarise(row: Row, best: list[float]) -> Summary:
    """A row against the best known norm of each sample."""
    pairs = [(size, least) for size, least in zip(row.sizes, best, strict=True) if isfinite(size)]
    count = len(row.norms)
    return Summary(
        success=len(pairs) / count,
        median=median(row.sizes),
        mean=fmean(size for size, _ in pairs) if pairs else inf,
        gap=fmean(size / least for size, least in pairs) - 1 if pairs else inf,
        best=sum(size <= least * (1 + TIE) for size, least in pairs) / count,
    )


@dataclass(frozen=True)
class Duel:
    """A row against the best of a set of others, sample by sample.

    smaller, equal, larger are shares of the samples; ratio is the mean of norm / their best.
    """

    smaller: float
    equal: float
    larger: float
    ratio: float


def against(row: Row, others: list[Row]) -> Duel:
    """Samples on which nobody succeeds count as equal; a failure where one does is larger."""
    best = best_known(others)
    smaller = larger = 0
    ratios = []
    for size, least in zip(row.sizes, best, strict=True):
        smaller += size * (1 + TIE) < least
        larger += size > least * (1 + TIE)
        if isfinite(size) and isfinite(least):
            ratios.append(size / least)
    count = len(best)
    return Duel(
        smaller / count,
        (count - smaller - larger) / count,
        larger / count,
        fmean(ratios) if ratios else inf,
    )
