"""Training that goes on where it was stopped, bit for bit; one process, or several by torchrun."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidxmage.errors import InputError
from guidxmage.files.atomic import alone
from guidxmage.files.result_folder import sweep
from guidxmage.hardening.data.dataset import LabelledBatch
from guidxmage.hardening.training.batches import Recipe
from guidxmage.hardening.training.checkpoint import (
    check_weights_can_be_saved,
    clear_checkpoints,
    load_checkpoint,
    restoring,
    save_checkpoint,
    save_weights,
)
from guidxmage.hardening.training.metrics import Curves, Log, Metrics, check_tensorboard, curves
from guidxmage.hardening.training.processes import Processes, processes
from guidxmage.hardening.training.random_streams import global_draws_from, stream, stream_seed
from guidxmage.hardening.training.schedule import TrainingConfig, learning_rate

BEST, FINAL = "best.safetensors", "final.safetensors"
Evaluation = Callable[[nn.Module], float]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    steps: optimiser steps in all; resumed_from: the step this call went on from, 0 for a new run;
    seconds, processor_seconds: of all calls together, as far as they led here. best_step,
    best_score, best_weights: the evaluation with the highest score, the first of equals; None
    without evaluations. curves: step and value by name.
    """

    steps: int
    resumed_from: int
    seconds: float
    processor_seconds: float
    best_step: int | None
    best_score: float | None
    best_weights: Path | None
    final_weights: Path
    curves: Curves


def train(
    network: nn.Module,
    recipe: Recipe,
    config: TrainingConfig,
    *,
    folder: str | Path,
    evaluate: Evaluation | None = None,
    log: Log | None = None,
    resume: bool = True,
) -> TrainingResult:
    """Train the network in place; it ends with the last step's weights and in evaluation mode.

    The folder gets checkpoints, metrics.jsonl, final.safetensors and, with `evaluate` (network in
    evaluation mode → score, higher is better), best.safetensors; under torchrun all processes see
    the same folder, and the first one evaluates. Started again after an interruption, the run goes
    on from the newest intact checkpoint and ends with the same weights, bit for bit, on the same
    kind of machine; `resume=False` starts anew. Every random draw is seeded by the configuration's
    seed, the step and the rank; the global random state stays as it is.
    Raises InputError for a batch that does not fit, a loss or weights that are not finite, a full
    disk, a checkpoint of another configuration or of other data, a folder that another run trains
    in; MissingExtraError for an absent package.
    """
    check_weights_can_be_saved()
    if config.tensorboard:
        check_tensorboard()
    with processes(config.device) as team, ExitStack() as stack:
        if config.precision in _AUTOCAST and team.device.type != "cuda":
            raise InputError(
                f"precision {config.precision} needs a GPU; use precision='float32' on the "
                f"{team.device.type.upper()}"
            )
        # cuDNN's fastest algorithms differ from run to run.
        stack.enter_context(
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        )
        team.first_does(lambda: stack.enter_context(_held(Path(folder))))
        run = _Run(network, recipe, config, folder=Path(folder), team=team, evaluate=evaluate)
        stack.callback(run.close)
        run.start(resume=resume, log=log)
        return run.finish()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, and clear away what killed ones left in it."""
    busy = f"another run trains in {folder}; wait for it, or choose another folder"
    with alone(folder / FINAL, wait=False, busy=busy):
        sweep(folder, below=True)
        yield


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        config: TrainingConfig,
        *,
        folder: Path,
        team: Processes,
        evaluate: Evaluation | None,
    ) -> None:
        self.recipe, self.config, self.folder, self.team = recipe, config, folder, team
        self.evaluate = evaluate
        self.network = network.to(team.device)
        if config.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained = [p for p in network.parameters() if p.requires_grad]
        if not trained:
            raise InputError("the network has no parameters to train; set requires_grad on some")
        self.optimiser = torch.optim.SGD(
            trained,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=config.precision == "fp16")
        self.identity = _identity(network, recipe, config, team.count)
        self.step = self.resumed_from = 0
        self.resumed = False
        self.best: tuple[int, float] | None = None
        self.metrics: Metrics | None = None
        self.parallel = self.network
        self.earlier, self.begun = 0.0, time.monotonic()
        self.earlier_processor, self.begun_processor = 0.0, time.process_time()

    def start(self, *, resume: bool, log: Log | None) -> None:
        """Read the newest checkpoint, if there is one to go on from, and open the log."""
        team = self.team
        if resume and (state := load_checkpoint(self.folder)) is not None:
            with restoring(self.folder):
                self._restore(state)
        if not team.agree(self.step):
            raise InputError(
                f"the processes see different checkpoints in {self.folder}; use a folder that all "
                "of them share"
            )
        team.first_does(lambda: self._open(log))
        self.parallel = team.shared(self.network)

    def _open(self, log: Log | None) -> None:
        # A damaged checkpoint must not outlive the run that goes on from the one before it.
        clear_checkpoints(self.folder, after=self.step if self.resumed else -1)
        since = self.step if self.resumed else -1
        self.metrics = Metrics(self.folder, since, tensorboard=self.config.tensorboard, log=log)
        if not self.resumed:
            for name in (BEST, FINAL):
                (self.folder / name).unlink(missing_ok=True)
            # Also where it is stopped at once, a run goes on from the weights it was begun with.
            self._save()

    def close(self) -> None:
        """Let go of the log and of what is connected to other processes."""
        self.parallel = self.network
        if self.metrics is not None:
            self.metrics.close()

    def finish(self) -> TrainingResult:
        """Do the steps that are left."""
        while self.step < self.config.steps:
            self._advance()
        self.network.eval()
        self.team.first_does(self._save_final)
        return TrainingResult(
            steps=self.step,
            resumed_from=self.resumed_from,
            seconds=self._seconds(),
            processor_seconds=self._processor_seconds(),
            best_step=self.best[0] if self.best else None,
            best_score=self.best[1] if self.best else None,
            best_weights=self.folder / BEST if self.best else None,
            final_weights=self.folder / FINAL,
            curves=curves(self.folder),
        )

    # --- a step ------------------------------------------------------------------------------

    def _advance(self) -> None:
        config, team = self.config, self.team
        seed = stream_seed(config.seed, "global", self.step, team.rank)
        with global_draws_from(seed, team.device):
            loss = self._learn()
        self.step += 1
        last = self.step == config.steps
        if self.step % config.log_every == 0 or last:
            self._note(loss=loss, learning_rate=learning_rate(config, self.step - 1))
        every = config.evaluate_every or self.recipe.steps_per_epoch
        if self.evaluate is not None and (self.step % every == 0 or last):
            self._select(self.evaluate)
        if self.step % config.checkpoint_every == 0 or last:
            team.first_does(self._save)

    def _learn(self) -> float:
        """One optimiser step; the loss, averaged over the processes."""
        rate = learning_rate(self.config, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss, failure = None, None
        try:
            loss = self._loss()
        except Exception as error:  # raised below, once the other processes know
            failure = error
        total, ok = self.team.total(0 if loss is None else loss.detach(), ok=failure is None)
        mean = total / self.team.count
        if failure is not None:
            raise failure
        if not ok:
            raise InputError(
                f"another process of this run stopped at step {self.step}; its own message says why"
            )
        if not math.isfinite(mean):
            raise InputError(
                f"the loss became {mean} at step {self.step}; lower the learning rate "
                f"(it was {rate:.3g} there)"
            )
        assert loss is not None
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.team.share_buffers(self.network)
        return mean

    def _loss(self) -> Tensor:
        config, team = self.config, self.team
        place = (self.step, team.rank)
        read = self.recipe.batch(
            self.step, team.rank, team.count, stream(config.seed, "batch", *place)
        )
        _check_batch(read.images, read.labels)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        batch = LabelledBatch(*(part.to(team.device) for part in read))
        with self._autocast():
            if self.recipe.lesson is not None:
                self.network.eval()
                draw = stream(config.seed, "lesson", *place)
                batch = self.recipe.lesson(self.network, batch, draw, self.step / config.steps)
            self.network.train()
            inputs = batch.images.detach().contiguous(memory_format=layout)
            scores: Tensor = self.parallel(inputs)
        _check_scores(scores, read.labels)
        return nn.functional.cross_entropy(
            scores.float(), batch.labels, label_smoothing=config.label_smoothing
        )

    def _autocast(self) -> torch.autocast:
        kind = _AUTOCAST.get(self.config.precision)
        return torch.autocast(self.team.device.type, dtype=kind, enabled=kind is not None)

    # --- evaluation and files ----------------------------------------------------------------

    def _select(self, evaluate: Evaluation) -> None:
        """Keep the weights if they are the best so far."""

        def work() -> float:
            seed = stream_seed(self.config.seed, "evaluation", self.step)
            with torch.no_grad(), global_draws_from(seed, self.team.device):
                score = float(evaluate(self.network.eval()))
            if math.isnan(score):
                raise InputError(f"the evaluation at step {self.step} returned NaN, not a score")
            if self.best is None or score > self.best[1]:
                about = {"step": self.step, "score": score}
                save_weights(self.folder / BEST, self.network.state_dict(), about)
            return score

        score = self.team.first_does(work)
        # Every process counts along, so that all of them return the same.
        score, _ = self.team.total(score or 0)
        if self.best is None or score > self.best[1]:
            self.best = self.step, score
        self._note(score=score)

    def _note(self, **values: float) -> None:
        def work() -> None:
            if self.metrics is not None:
                self.metrics.add(self.step, **values)

        self.team.first_does(work)

    def _save(self) -> None:
        weights = self.network.state_dict()
        if not all(t.isfinite().all() for t in weights.values() if t.is_floating_point()):
            raise InputError(
                f"the weights are no longer finite at step {self.step}; lower the learning rate"
            )
        if self.metrics is not None:
            self.metrics.keep()
        state = {
            "step": self.step,
            "identity": json.dumps(self.identity),
            "network": weights,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": list(self.best) if self.best else None,
            "seconds": self._seconds(),
            "processor_seconds": self._processor_seconds(),
        }
        save_checkpoint(self.folder, self.step, state)

    def _save_final(self) -> None:
        about = {"step": self.step, "identity": self.identity}
        save_weights(self.folder / FINAL, self.network.state_dict(), about)

    def _restore(self, state: dict[str, Any]) -> None:
        _refuse_other(self.folder, json.loads(state["identity"]), self.identity)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = self.resumed_from = int(state["step"])
        self.resumed = True
        self.earlier = float(state["seconds"])
        self.earlier_processor = float(state["processor_seconds"])
        if state["best"] is not None:
            step, score = state["best"]
            self.best = int(step), float(score)

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.begun

    def _processor_seconds(self) -> float:
        return self.earlier_processor + time.process_time() - self.begun_processor


# --- what a run is -----------------------------------------------------------------------------


def _identity(
    network: nn.Module, recipe: Recipe, config: TrainingConfig, count: int
) -> dict[str, Any]:
    """What the final weights depend on besides the initial ones, as JSON values."""
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    own = {
        **config.describe(),
        **{f"recipe {name}": value for name, value in recipe.describe().items()},
        "network": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16],
        "processes": count,
    }
    found: dict[str, Any] = json.loads(json.dumps(own))
    return found


def _refuse_other(folder: Path, theirs: dict[str, Any], own: dict[str, Any]) -> None:
    for name in {**theirs, **own}:
        if theirs.get(name) != own.get(name):
            raise InputError(
                f"the checkpoint in {folder} belongs to another run ({name} {theirs.get(name)!r}, "
                f"not {own.get(name)!r}); choose another folder, or start anew with resume=False"
            )


def _check_batch(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise InputError(
            "a batch holds images (B, C, H, W) of floating point, not "
            f"{tuple(images.shape)} of {images.dtype}"
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise InputError(
            f"a batch of {len(images)} images needs as many int64 labels, not "
            f"{tuple(labels.shape)} of {labels.dtype}"
        )


def _check_scores(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 2 or len(scores) != len(labels):
        raise InputError(f"a classifier returns (B, classes), not {tuple(scores.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise InputError(
            f"label {low if low < 0 else high} is not among the network's {scores.shape[1]} classes"
        )
