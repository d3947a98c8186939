"""Training: what a run draws, keeps and resumes, alone and on several processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.hardening.data.dataset import InMemory, LabelledBatch
from guidxmage.hardening.robustness.pgd import PGD
from guidxmage.hardening.training import checkpoint
from guidxmage.hardening.training.batches import Shuffled, augmented
from guidxmage.hardening.training.loop import TrainingResult, train
from guidxmage.hardening.training.random_streams import stream
from guidxmage.hardening.training.schedule import TrainingConfig, learning_rate
from tests.training_runs import STEPS, config, dataset, network, recipe, run, score

ROOT = Path(__file__).parent.parent
FINAL = "final.safetensors"


class StoppedError(Exception):
    pass


class Stopping(Shuffled):
    """Raises before one step, as Ctrl-C would."""

    def batch(self, step: int, rank: int, world: int, generator: torch.Generator) -> LabelledBatch:
        if step == self.stop:
            raise StoppedError
        return super().batch(step, rank, world, generator)

    stop = -1


def stopping(step: int) -> Stopping:
    usual = recipe()
    made = Stopping(usual.dataset, usual.batch_size, seed=usual.seed, crop=1, lesson=usual.lesson)
    made.stop = step
    return made


def weights(folder: Path, name: str = FINAL) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(folder / name)
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def started(folder: Path, die: str, *more: str, count: int = 1) -> int:
    """The exit status of a run in processes of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
        # Without it restarts sometimes hang (pytorch issue 135712).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    start = [sys.executable]
    if count > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        start += ["--max-restarts=1"]
    script = str(ROOT / "tests" / "training_runs.py")
    done = subprocess.run(
        [*start, script, str(folder), die, *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode not in (0, -signal.SIGKILL):
        print(done.stderr)
    return done.returncode


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    # Sums over several threads are rounded in another order.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder, "never")
    torch.set_num_threads(before)
    return folder


# --- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 3, 5, 11])
def test_goes_on_bit_for_bit(whole: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(StoppedError):
        train(network(), stopping(step), config(), folder=tmp_path, evaluate=score)
    # What the network holds by now does not matter: the checkpoint does.
    result = train(network(seed=2), recipe(), config(), folder=tmp_path, evaluate=score)
    assert result.resumed_from == step // 4 * 4
    for name in (FINAL, "best.safetensors"):
        assert same(weights(tmp_path, name), weights(whole, name))
    assert (tmp_path / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_goes_on_after_sigkill(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert started(folder, "0:6") == -signal.SIGKILL
    assert not (folder / FINAL).exists()
    assert started(folder, "0:6") == 0
    assert folder.with_suffix(".resumed").read_text() == "4"
    assert same(weights(folder), weights(whole))


# Only with three does the order of a sum matter, and so how the gradients are put together.
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_goes_on_after_one_of_several_is_killed(tmp_path: Path, count: int) -> None:
    assert started(tmp_path / "whole", "never", count=count) == 0
    assert started(tmp_path / "killed", "1:6", count=count) == 0
    assert (tmp_path / "killed.died").exists()
    assert (tmp_path / "killed.resumed").read_text() == "4"
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_two_processes_equal_one(tmp_path: Path) -> None:
    assert started(tmp_path / "two", "never", "plain", count=2) == 0
    run(tmp_path / "one", "never", normed=False)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    start = network(normed=False).state_dict()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=0, atol=1e-6)
        assert not torch.allclose(tensor, start[name], rtol=0, atol=1e-4)


def test_a_finished_run_is_not_repeated(whole: Path, tmp_path: Path) -> None:
    first = train(network(), recipe(), config(), folder=tmp_path, evaluate=score)
    net = network(seed=2)
    again = train(net, stopping(0), config(), folder=tmp_path, evaluate=score)
    assert again.resumed_from == again.steps == STEPS
    assert (again.best_step, again.curves) == (first.best_step, first.curves)
    assert again.seconds >= first.seconds / 2
    assert again.processor_seconds >= first.processor_seconds / 2
    assert same(dict(net.state_dict()), weights(whole))


def test_resume_can_be_declined(tmp_path: Path) -> None:
    train(network(), recipe(), config(), folder=tmp_path)
    result = train(network(), recipe(), config(seed=8), folder=tmp_path, resume=False)
    assert result.resumed_from == 0
    assert [step for step, _ in result.curves["loss"]] == list(range(1, STEPS + 1))
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["bit", "cut", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_previous_one(
    whole: Path, tmp_path: Path, how: str
) -> None:
    with pytest.raises(StoppedError):
        train(network(), stopping(10), config(), folder=tmp_path, evaluate=score)
    newest = max(tmp_path.glob("checkpoint-*"))
    if how == "bit":
        damage(newest)
    else:
        newest.write_bytes(newest.read_bytes()[: 1000 if how == "cut" else 0])
    result = train(network(), recipe(), config(), folder=tmp_path, evaluate=score)
    assert result.resumed_from == 4
    assert same(weights(tmp_path), weights(whole))


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    train(network(), recipe(), config(), folder=tmp_path)
    for path in tmp_path.glob("checkpoint-*"):
        damage(path)
    with pytest.raises(InputError, match="are damaged; choose another folder"):
        train(network(), recipe(), config(), folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"learning_rate": 0.07}, r"learning_rate 0\.05, not 0\.07"),
        ({"steps": 20}, "steps 12, not 20"),
        ({"batch_size": 6}, "recipe batch_size 12, not 6"),
        ({"lesson": None}, "recipe lesson"),
        ({"normed": False}, "network"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    train(network(), recipe(), config(), folder=tmp_path)
    mine = {k: v for k, v in change.items() if k in ("batch_size", "lesson")}
    net = network(normed=change.get("normed", True))
    theirs = {k: v for k, v in change.items() if k in ("learning_rate", "steps")}
    with pytest.raises(InputError, match=f"belongs to another run .*{sentence}.*resume=False"):
        train(net, recipe(**mine), config(**theirs), folder=tmp_path)


def test_what_changes_nothing_learnt_may_change(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(network(), stopping(6), config(), folder=tmp_path)
    result = train(network(), recipe(), config(checkpoint_every=5), folder=tmp_path)
    assert result.resumed_from == 4


# --- random draws --------------------------------------------------------------------------------


def test_the_seed_decides(whole: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # of no importance
    run(tmp_path / "same", "never")
    assert same(weights(tmp_path / "same"), weights(whole))
    run(tmp_path / "other", "never", seed=8)
    assert not same(weights(tmp_path / "other"), weights(whole))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_random_state_stays(whole: Path, tmp_path: Path, workers: int) -> None:
    before = torch.get_rng_state()
    train(network(), recipe(workers=workers), config(), folder=tmp_path, evaluate=score)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(weights(tmp_path), weights(whole))


def test_dropout_is_drawn_anew_every_step(tmp_path: Path) -> None:
    seen = []

    class Watching(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            seen.append((y == 0).flatten())
            return y

    net = nn.Sequential(nn.Flatten(), Watching(0.5), nn.Linear(192, 3))
    train(net, recipe(lesson=None), config(steps=2), folder=tmp_path)
    assert not torch.equal(seen[0], seen[1])


def test_an_epoch_has_every_image_once() -> None:
    batches = recipe()
    epochs = []
    for epoch in range(2):
        steps = range(epoch * 5, epoch * 5 + 5)
        rows = [batches.rows(step, rank, 2) for step in steps for rank in range(2)]
        epochs.append([row for part in rows for row in part])
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(60))
    assert epochs[0] != epochs[1]
    assert batches.rows(3, 0, 1) == batches.rows(3, 0, 2) + batches.rows(3, 1, 2)


def test_crops_and_flips() -> None:
    images = torch.arange(1.0, 1 + 40 * 3 * 6 * 8).view(40, 3, 6, 8)
    masks = images[:, 0] % 5 == 0
    batch = LabelledBatch(images, torch.arange(40), masks, torch.arange(40))
    moved = augmented(batch, 2, True, stream(0, "test"))
    found = moved.images
    # A mask moves along with its image; what comes in from outside is background.
    assert torch.equal(moved.masks, (found[:, 0] % 5 == 0) & (found[:, 0] > 0))
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    places = set()
    for number, image in enumerate(found):
        matches = [
            (y, x, flipped)
            for y in range(5)
            for x in range(5)
            for flipped in (False, True)
            if torch.equal(
                image.flip(2) if flipped else image, padded[number, :, y : y + 6, x : x + 8]
            )
        ]
        assert len(matches) == 1
        places.add(matches[0])
    assert len(places) > 20
    assert {flipped for _, _, flipped in places} == {False, True}
    assert torch.equal(augmented(batch, 0, False, stream(0)).images, images)


# --- adversarial training ------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.5)])
def test_pgd_stays_inside_and_raises_the_loss(norm: Any, eps: float) -> None:
    net = network().eval()
    batch = dataset().__getitems__(range(30))
    moved = PGD(norm, eps, 5)(net, batch, stream(0, "pgd")).images
    change = (moved - batch.images).flatten(1)
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert size.max() <= eps + 1e-6
    assert size.min() > eps / 2
    assert moved.min() >= 0
    assert moved.max() <= 1
    loss = nn.functional.cross_entropy
    assert loss(net(moved), batch.labels) > loss(net(batch.images), batch.labels) + 0.05
    assert all(p.grad is None for p in net.parameters())


def test_the_network_learns_from_the_moved_images_in_training_mode(tmp_path: Path) -> None:
    seen: list[tuple[bool, float]] = []

    class Watched(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, float(x.mean())))
            return super().forward(x)

    told = []

    def white(
        net: nn.Module, batch: LabelledBatch, draw: torch.Generator, progress: float
    ) -> LabelledBatch:
        net(batch.images)
        told.append(progress)
        return batch._replace(images=torch.ones_like(batch.images))

    net = Watched(*network())
    train(net, recipe(lesson=white), config(steps=2), folder=tmp_path)
    assert told == [0, 0.5]
    assert [training for training, _ in seen] == [False, True] * 2
    assert [mean for training, mean in seen if training] == [1, 1]
    assert not net.training


@pytest.mark.parametrize("wrong", [{"norm": "l7"}, {"eps": 0}, {"steps": 0}, {"step_size": -1.0}])
def test_wrong_pgd(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        PGD(**{"norm": "linf", "eps": 0.1, "steps": 2, **wrong})


# --- choosing the best, curves -------------------------------------------------------------------


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    scores = iter([0.1, 0.7, 0.7, 0.2])
    held: list[dict[str, Tensor]] = []

    def scripted(net: nn.Module) -> float:
        assert not net.training
        held.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return next(scores)

    net = network()
    options = config(evaluate_every=3)
    result = train(net, recipe(), options, folder=tmp_path, evaluate=scripted)
    assert (result.best_step, result.best_score) == (6, 0.7)
    assert result.curves["score"] == [(3, 0.1), (6, 0.7), (9, 0.7), (12, 0.2)]
    assert same(weights(tmp_path, "best.safetensors"), held[1])
    assert same(weights(tmp_path), held[3])
    assert same(dict(net.state_dict()), held[3])
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        assert json.loads(file.metadata()["about"]) == {"step": 6, "score": 0.7}


def test_the_result(tmp_path: Path) -> None:
    lines: list[dict[str, float]] = []
    net = network()
    result = train(net, recipe(), config(), folder=tmp_path, evaluate=score, log=lines.append)
    assert isinstance(result, TrainingResult)
    assert result.steps == STEPS
    assert result.seconds > 0
    assert not net.training
    assert result.best_score is not None
    assert result.best_score >= 0.9
    assert [step for step, _ in result.curves["score"]] == [5, 10, 12]
    losses = [loss for _, loss in result.curves["loss"]]
    assert sum(losses[-3:]) < sum(losses[:3]) / 2
    noted = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == [json.loads(line) for line in noted]


def test_without_evaluation_there_is_no_best(tmp_path: Path) -> None:
    result = train(network(), recipe(), config(), folder=tmp_path)
    assert (result.best_step, result.best_score, result.best_weights) == (None, None, None)
    assert not (tmp_path / "best.safetensors").exists()


def test_tensorboard_only_where_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(network(), recipe(), config(), folder=tmp_path / "a")
    with pytest.raises(MissingExtraError, match=r"guid-xmage\[train\]"):
        train(network(), recipe(), config(tensorboard=True), folder=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(network(), recipe(), config(tensorboard=True), folder=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, STEPS + 1))


def test_schedules() -> None:
    cosine = [learning_rate(config(), step) for step in range(STEPS)]
    assert cosine[0] == 0.05
    assert cosine[6] == pytest.approx(0.025)
    assert cosine == sorted(cosine, reverse=True)
    steps = 50
    options = TrainingConfig(steps=steps, learning_rate=0.3, schedule="one-cycle")
    own = [learning_rate(options, step) for step in range(steps)]
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1)
    torch_schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.3, total_steps=steps, cycle_momentum=False
    )
    theirs = []
    for _ in range(steps):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        torch_schedule.step() if len(theirs) < steps else None
    # torch's top lies at step 0.3·50 − 1, ours at 0.3·49.
    assert max(own) == pytest.approx(0.3, rel=1e-2)
    assert own[0] == pytest.approx(theirs[0])
    assert own[-1] == pytest.approx(theirs[-1])
    assert max(abs(a - b) for a, b in zip(own, theirs, strict=True)) < 0.02


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_says_so(tmp_path: Path, workers: int) -> None:
    class Damaged(InMemory):
        def __getitems__(self, indices: Any) -> LabelledBatch:
            if 17 in indices:
                raise InputError("image 17 is damaged; remove it")
            return super().__getitems__(indices)

    good = dataset()
    damaged = Damaged(good.images, good.labels, good.masks, good.classes)
    batches = Shuffled(damaged, 12, seed=0, workers=workers)
    with pytest.raises(InputError) as caught:
        train(network(), batches, config(), folder=tmp_path)
    assert str(caught.value) == "image 17 is damaged; remove it"


def test_a_killed_worker_says_so(tmp_path: Path) -> None:
    class Deadly(InMemory):
        def __getitems__(self, indices: Any) -> LabelledBatch:
            if torch.utils.data.get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitems__(indices)

    good = dataset()
    deadly = Deadly(good.images, good.labels, good.masks, good.classes)
    with pytest.raises(InputError, match=r"reading images ahead failed.*use fewer workers"):
        train(network(), Shuffled(deadly, 12, seed=0, workers=1), config(), folder=tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(tmp_path: Path, value: float) -> None:
    class Spoiled(Shuffled):
        def batch(self, step: int, *rest: Any) -> LabelledBatch:
            batch = super().batch(step, *rest)
            return batch._replace(images=batch.images * (value if step == 5 else 1))

    batches = Spoiled(dataset(), 12, seed=0)
    with pytest.raises(InputError, match=r"the loss became \w+ at step 5; lower the learning rate"):
        train(network(normed=False), batches, config(), folder=tmp_path)
    state = checkpoint.load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 4
    assert all(tensor.isfinite().all() for tensor in state["network"].values())


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * float("inf")

    class Spoilt(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = Infinite.apply(super().forward(x))
            return y

    plain = recipe(lesson=None)
    with pytest.raises(InputError, match="weights are no longer finite at step 1"):
        train(Spoilt(*network()), plain, config(checkpoint_every=1), folder=tmp_path)
    state = checkpoint.load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 0


@pytest.mark.parametrize("where", ["os.replace", "os.fsync", "torch.save"])
def test_a_full_disk(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Filling(Stopping):
        def batch(self, step: int, *rest: Any) -> LabelledBatch:
            if step == 6:
                monkeypatch.setattr(where, full)
            return super().batch(step, *rest)

    usual = recipe()
    filling = Filling(usual.dataset, 12, seed=3, crop=1, lesson=usual.lesson)
    with pytest.raises(InputError, match="No space left on device"):
        train(network(), filling, config(evaluate_every=100), folder=tmp_path, evaluate=score)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*"))
    state = checkpoint.load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 4
    train(network(), recipe(), config(evaluate_every=100), folder=tmp_path, evaluate=score)
    assert same(weights(tmp_path), weights(whole))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.tensor([0, 1, 3]), "label 3 is not among the network's 3 classes"),
        (torch.tensor([0, -1, 2]), "label -1 is not among"),
        (torch.tensor([0.0, 1, 2]), "int64 labels"),
        (torch.tensor([0, 1]), "int64 labels"),
    ],
)
def test_wrong_labels(tmp_path: Path, labels: Tensor, sentence: str) -> None:
    class Wrong(Shuffled):
        def batch(self, *place: Any) -> LabelledBatch:
            return super().batch(*place)._replace(labels=labels)

    with pytest.raises(InputError, match=sentence):
        train(network(), Wrong(dataset(), 3, seed=0), config(), folder=tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"learning_rate": 0}, {"learning_rate": float("nan")}, {"momentum": 1},
        {"momentum": 0}, {"weight_decay": -1}, {"label_smoothing": 1}, {"schedule": "linear"},
        {"precision": "fp8"}, {"log_every": 0}, {"evaluate_every": 0},
    ],
)  # fmt: skip
def test_wrong_configurations(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        config(**wrong)


def test_what_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a batch of 61 images cannot be taken from 60"):
        recipe(batch_size=61)
    with pytest.raises(InputError, match="2 processes cannot share batches of 15 images evenly"):
        recipe(batch_size=15).rows(0, 0, 2)
    with pytest.raises(InputError, match="no parameters to train"):
        train(network().requires_grad_(False), recipe(), config(), folder=tmp_path)
    with pytest.raises(InputError, match="returned NaN"):
        train(network(), recipe(), config(), folder=tmp_path, evaluate=lambda _: float("nan"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="precision bf16 needs a GPU"):
            train(network(), recipe(), config(precision="bf16"), folder=tmp_path)
        with pytest.raises(InputError, match="device 'cuda' is not available"):
            train(network(), recipe(), config(device="cuda"), folder=tmp_path)


def test_channels_last(tmp_path: Path) -> None:
    net = network()
    train(net, recipe(), config(channels_last=True), folder=tmp_path)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert weights(tmp_path)["0.weight"].shape == (6, 3, 3, 3)
