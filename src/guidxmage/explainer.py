"""The public door: give it a network, ask it about images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage.engine.capture import capture
from guidxmage.engine.program import Program, Recording
from guidxmage.engine.symbolic import Network, SymbolicModel, drop_axes, joined, pull_targets
from guidxmage.engine.trail import Trail
from guidxmage.errors import InputError
from guidxmage.explanation import Explanation
from guidxmage.inputs import Batch, Images, InputSpace
from guidxmage.preprocessing import Preprocessing
from guidxmage.targets import Targets, choose_targets

if TYPE_CHECKING:
    from guidxmage.ray import Ray

# How far the residual may lie from zero, in standard deviations of the modelled rounding error.
ROUNDING_DEVIATIONS = 6.0


class Explainer:
    """Explains a classifier pixel by pixel and exactly.

    model: any nn.Module in evaluation mode that maps (batch, channels, height, width) to class
    scores (batch, classes); it is never changed. preprocessing: a `Preprocessing`, a torchvision
    preset, or any callable from a PIL image to a (C, H, W) tensor. With a preprocessing whose
    normalisation is known, pixels in [0, 1] are explained (`space == "pixels"`), otherwise the
    network's own input (`space == "input"`). labels: class names. device, dtype: explain a copy of
    the model there; by default the model itself where it is. batch_rows bounds the memory: how many
    images or image-target pairs are run at once.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocessing: Preprocessing | Callable[[Image.Image], Tensor] | None = None,
        labels: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        name: str | None = None,
        batch_rows: int = 32,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"a torch.nn.Module is expected, not {type(model).__name__}")
        self.model = _copied_to(model, device, dtype)
        self.name = name or type(model).__name__
        self.labels = tuple(labels) if labels is not None else None
        self._space = InputSpace(self.model, preprocessing)
        self.batch_rows = batch_rows
        self.weights_source = ""
        self._programs: dict[tuple[int, ...], Program] = {}
        self._fingerprint: tuple[Any, ...] = ()

    @property
    def space(self) -> str:
        """What is explained: "pixels" in [0, 1], or the network's own "input"."""
        return self._space.name

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing where it is known."""
        return self._space.preprocessing

    @classmethod
    def load(cls, name: str = "efficientnet_lite0", **options: Any) -> Explainer:
        """An explainer for a network by name; options go to `load_model` and to `Explainer`."""
        from guidxmage.models import load_model

        own = {key: options.pop(key) for key in ("device", "dtype", "batch_rows") if key in options}
        loaded = load_model(name, **options)
        explainer = cls(
            loaded.model,
            preprocessing=loaded.preprocessing,
            labels=loaded.labels,
            name=loaded.name,
            **own,
        )
        explainer.weights_source = loaded.weights
        return explainer

    def explain(
        self,
        image: Images,
        target: Any = "top1",
        *,
        reference: Tensor | float | None = None,
    ) -> Explanation:
        """Explain one image (path, PIL, NumPy H×W×C, tensor C×H×W) or a batch.

        A batch is a sequence of images that come out at one size, or a tensor (B, C, H, W). Tensors
        are in the explained space: pixel values in [0, 1] where the preprocessing is known, else
        network inputs. target: see `choose_targets`. reference: R in the explained space (a number,
        or a tensor that broadcasts to C×H×W); contributions are then Δ ⊙ (X − R).

        Every result has an image axis if and only if a batch was given, then a target axis if and
        only if a list of targets was asked for: weights ([B,] [K,] C, H, W), score ([B,] [K]).
        Raises InputError or UnsupportedOperatorError; the model is left untouched in any case.
        """
        with untouched(self.model):
            batch = self._space.read(image)
            program = self._program(batch.tensor.shape[1:])
            parts = [
                self._explain_chunk(program, X, target, batch.batched, first)
                for first, X in _chunks(batch.tensor, self.batch_rows if program.batched else 1)
            ]
            return self._assemble(program, batch, parts, reference)

    def logits(self, image: Images) -> Tensor:
        """The network's class scores, ([B,] classes), exactly as it computes them by itself."""
        with untouched(self.model):
            batch = self._space.read(image)
            with torch.no_grad():
                parts = [
                    self.model(self.to_input(X)) for _, X in _chunks(batch.tensor, self.batch_rows)
                ]
            logits = torch.cat(parts)
            return logits if batch.batched else logits[0]

    def read(self, image: Images) -> Tensor:
        """An image or batch as a tensor in the explained space, ([B,] C, H, W)."""
        batch = self._space.read(image)
        return batch.tensor if batch.batched else batch.tensor[0]

    def trail(self, image: Images) -> Trail:
        """The execution trail of an image or batch."""
        with untouched(self.model):
            batch = self._space.read(image)
            return self.network(batch.tensor.shape[1:]).record(batch.tensor)[1]

    def ray(
        self,
        a: Images,
        b: Images,
        *,
        targets: Any = None,
        cap: int = 10_000,
        progress: Callable[[int, float], None] | None = None,
    ) -> Ray:
        """The exact profile of the scores along the line from image a (s = 0) to image b (s = 1).

        The line is walked from region to region; in each the scores are affine in s. targets: the
        classes to keep, as `choose_targets` takes them; by default those that lead somewhere on
        the walked part and the three best at 33 points of the line. At most `cap` regions are
        entered, each an affine run of the network: the result says where it stopped. `progress` is
        called with their number and s.
        A float64 explainer resolves the breakpoints of deep networks; float32 blurs them.
        Raises InputError for images that do not fit, UnsupportedOperatorError as `explain` does.
        """
        from guidxmage.ray import trace_ray

        with untouched(self.model):
            ends = [self._space.read(image) for image in (a, b)]
            shapes = [tuple(end.tensor.shape[not end.batched :]) for end in ends]
            if shapes[0] != shapes[1] or ends[0].batched or ends[1].batched:
                raise InputError(
                    "a ray joins two single images that come out at one size, not "
                    f"{' and '.join('×'.join(map(str, shape)) for shape in shapes)}"
                )
            return trace_ray(
                self.network(shapes[0]),
                (ends[0].tensor, ends[1].tensor),
                targets=targets,
                cap=cap,
                labels=self.labels,
                progress=progress,
                origin=(self.name, self.weights_source, self.space),
            )

    # --- the run -----------------------------------------------------------------------------

    def _explain_chunk(
        self, program: Program, X: Tensor, target: Any, batched: bool, first: int
    ) -> _Part:
        recording = program.record(self._space.to_input(X))
        _refuse_nonfinite(recording.logits, first)
        if batched and isinstance(target, list | tuple | Tensor | np.ndarray):
            target = _targets_of_rows(target, first, len(X))
        targets = choose_targets(target, recording.logits, self.labels, batched=batched)
        pulled = pull_targets(
            program, recording.trail, targets.cotangent, recording.norms, rows=self.batch_rows
        )
        weights, shift = self._space.to_space(pulled.weights)
        bias = dict(pulled.bias_by_site)
        if shift is not None:
            bias = {"preprocessing": shift, **bias}
        return _Part(recording, targets, weights, bias, pulled.variance)

    def _assemble(
        self,
        program: Program,
        batch: Batch,
        parts: list[_Part],
        reference: Tensor | float | None,
    ) -> Explanation:
        X = batch.tensor
        R = self._space.reference(reference, X)
        logits = joined([part.recording.logits for part in parts])
        trail = Trail.concatenate([part.recording.trail for part in parts])
        cotangent = joined([part.targets.cotangent for part in parts], dim=1)
        weights = joined([part.weights for part in parts])
        by_site = {site: joined([part.bias[site] for part in parts]) for site in parts[0].bias}
        variance = joined([part.variance for part in parts])
        model_bias = sum(by_site.values(), torch.zeros_like(variance))
        contributions = weights * (X if R is None else X - R)[:, None]
        if R is not None:
            by_site = {**by_site, "reference": _moved(weights, R)}
        bias = sum(by_site.values(), torch.zeros_like(model_bias))
        score = (cotangent * logits).sum(-1).t()
        residual = score.double() - contributions.flatten(2).sum(2, dtype=torch.float64) - bias
        bound = _rounding_bound(variance, score, contributions, by_site, weights.dtype)
        several = parts[0].targets.several

        def shaped(tensor: Tensor) -> Tensor:
            return drop_axes(tensor, batch.batched, several)

        return Explanation(
            logits=logits if batch.batched else logits[0],
            target=shaped(joined([p.targets.classes for p in parts], dim=1).t()),
            against=shaped(joined([p.targets.against for p in parts], dim=1).t()),
            score=shaped(score),
            weights=shaped(weights),
            contributions=shaped(contributions),
            bias=shaped(bias),
            bias_by_layer={site: shaped(value) for site, value in by_site.items()},
            residual=shaped(residual),
            residual_bound=shaped(bound),
            exactness="on region",
            trail=trail,
            symbolic_model=SymbolicModel(
                weights=shaped(weights),
                bias=shaped(model_bias),
                trail=trail,
                cotangent=cotangent,
                batched=batch.batched,
                several=several,
                network=Network(program, self._space.to_input),
                input=X if batch.batched else X[0],
            ),
            input=X if batch.batched else X[0],
            pictures=batch.pictures,
            photo_sizes=batch.photo_sizes,
            space=self._space.name,
            labels=self.labels,
            model_name=self.name,
            weights_source=self.weights_source,
            preprocessing=self._space.preprocessing,
        )

    def to_input(self, X: Tensor) -> Tensor:
        """Images (B, C, H, W) of the explained space as the network takes them."""
        return self._space.to_input(X)

    def to_space(self, weights: Tensor) -> Tensor:
        """Weights Δ on the network's input (…, C, H, W) as weights in the explained space."""
        return self._space.to_space(weights)[0]

    # --- captured programs -------------------------------------------------------------------

    def _program(self, shape: Sequence[int]) -> Program:
        fingerprint = _fingerprint(self.model)
        if fingerprint != self._fingerprint:  # trained on, moved or re-loaded since the capture
            self._programs.clear()
            self._fingerprint = fingerprint
        key = tuple(shape)
        if key not in self._programs:
            if len(self._programs) >= 4:
                self._programs.pop(next(iter(self._programs)))
            self._programs[key] = capture(self.model, key)
        return self._programs[key]

    def network(self, shape: Sequence[int]) -> Network:
        """The captured network for images of one shape (C, H, W), with the way into its input."""
        return Network(self._program(shape), self._space.to_input)


@dataclass(frozen=True)
class _Part:
    """One chunk of images, explained: weights (B, K, C, H, W), bias by site (B, K)."""

    recording: Recording
    targets: Targets
    weights: Tensor
    bias: dict[str, Tensor]
    variance: Tensor


def _moved(weights: Tensor, R: Tensor) -> Tensor:
    """⟨Δ, R⟩, what a reference moves from the pixels to the bias, (B, K) float64."""
    return (weights.double() * R.double()[:, None]).flatten(2).sum(2)


def _rounding_bound(
    variance: Tensor,
    score: Tensor,
    contributions: Tensor,
    by_site: dict[str, Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """What rounding explains of the residual, (B, K) float64.

    `variance` covers the layers; to it come the roundings of the products Δ·x, of the printed
    score, and of the bias entries.
    """
    norms: Tensor = torch.linalg.vector_norm(contributions.flatten(2), dim=2)
    products = norms.double().square() * 4
    biases = torch.stack([variance * 0, *by_site.values()]).square().sum(0)
    total = variance + products + biases + score.double().square()
    return total.sqrt() * (ROUNDING_DEVIATIONS * torch.finfo(dtype).eps / 2)


def _chunks(X: Tensor, size: int) -> list[tuple[int, Tensor]]:
    return [(first, X[first : first + size]) for first in range(0, len(X), size)]


def _targets_of_rows(target: Any, first: int, count: int) -> Any:
    """The part of a per-image target list that belongs to a chunk of images."""
    per_image = isinstance(target, list | tuple) and not isinstance(target[0], str)
    if isinstance(target, Tensor | np.ndarray):
        floating = torch.as_tensor(target).is_floating_point()
        per_image = target.ndim == (2 if floating else 1)
    return target[first : first + count] if per_image else target


def _refuse_nonfinite(logits: Tensor, first: int) -> None:
    bad = (~torch.isfinite(logits)).any(1).nonzero()
    if len(bad):
        raise InputError(f"the network returns NaN or Inf for image {first + int(bad[0])}")


def _copied_to(
    model: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """The model itself, or a converted copy of it when it is asked for elsewhere."""
    if dtype not in (None, torch.float32, torch.float64):
        raise InputError(f"dtype {dtype} is too coarse; use torch.float32 or torch.float64")
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    try:
        target = None if device is None else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r} is not available: {str(error).splitlines()[0]}"
        ) from error
    stays = all(
        (dtype is None or t.dtype == dtype) and (target is None or t.device == target)
        for t in tensors
    )
    return model if stays else copy.deepcopy(model).to(device=target, dtype=dtype)


def _fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """Changes whenever a weight is replaced, moved or changed in place, or the mode changes."""
    seen: set[nn.Module] = set()
    waiting: list[nn.Module | None] = [model]
    found: list[Any] = []
    while waiting:  # one walk: Module.parameters() and its kin take milliseconds on deep networks
        module = waiting.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        found.append(module.training)
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    found += (id(tensor), tensor.data_ptr(), _version(tensor))
        waiting.extend(module._modules.values())
    return tuple(found)


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def untouched(model: nn.Module) -> ExitStack:
    """A context for runs that autocast, inference mode and gradient tracking do not reach."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())
    stack.enter_context(torch.autocast(device, enabled=False))
    return stack
