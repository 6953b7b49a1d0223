"""A run that is interrupted anywhere goes on from its last whole checkpoint, to the same bits."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rootstock_registry import Job, Registry
from rootstock_trainer import checkpoints as room
from rootstock_trainer import launch
from rootstock_trainer.checkpoints import MARKER, TENSORS, Checkpoints
from rootstock_trainer.inputs import job_folder
from rootstock_trainer.launch import Worker
from rootstock_trainer.loop import Descent, Step, Summed, descend
from rootstock_trainer.recompute import recompute
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.worker import REGISTERED, work

STEPS = 24
HOW = Descent(1e-2, weight_decay=0.1, gradient_accumulation=2, early_stopping=100, evaluate_every=3)


def always() -> bool:
    return True


class Killed(Exception):
    pass


class Run:
    """A small network with dropout and a validation loss: all that a checkpoint must hold."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)
        )
        self.rows = torch.randn(2 * STEPS, 5, 6)

    def to(self, last: int, checkpoints: Checkpoints | None) -> list[Step]:
        """Train; killed after step `last` was reported."""
        parameters = list(self.model.parameters())

        def loss_of(row: torch.Tensor) -> Summed:
            return Summed((self.model(row) - row.sum(1, keepdim=True)).square().sum(), 5)

        def validate() -> float:
            with torch.no_grad():
                return loss_of(self.rows[0]).loss.item()

        steps = []
        for step in descend(parameters, self.rows, loss_of, HOW, checkpoints, validate):  # type: ignore[arg-type]
            steps.append(step)
            if step.done == last:
                break
        return steps

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


@pytest.fixture(scope="module")
def whole() -> tuple[list[torch.Tensor], list[Step]]:
    run = Run()
    steps = run.to(10**9, None)
    return run.weights(), steps


def test_killed_at_twenty_random_steps_it_ends_in_the_same_bits(
    tmp_path: Path, whole: tuple[list[torch.Tensor], list[Step]]
) -> None:
    weights, steps = whole
    kills = sorted(random.Random(5).sample(range(1, STEPS), 20))
    seen: dict[int, Step] = {}
    for fence, last in enumerate([*kills, 10**9]):
        torch.manual_seed(fence)  # a new process: nothing but the checkpoint is left
        run = Run()
        # Not every step is saved: some are done again.
        checkpoints = Checkpoints(tmp_path, fence, wanted=lambda often=fence % 3: bool(often))
        seen |= {step.done: step for step in run.to(last, checkpoints)}
    assert [seen[number] for number in sorted(seen)] == steps
    assert all(map(torch.equal, run.weights(), weights))


@pytest.mark.parametrize("damage", ["no marker", "cut", "flipped", "other facts"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(
    tmp_path: Path, whole: tuple[list[torch.Tensor], list[Step]], damage: str
) -> None:
    Run().to(9, Checkpoints(tmp_path, wanted=always))
    last = tmp_path / "step-00000009-0"
    data = (last / TENSORS).read_bytes()
    if damage == "no marker":
        (last / MARKER).unlink()
    elif damage == "cut":
        (last / TENSORS).write_bytes(data[:-7])
    elif damage == "flipped":
        (last / TENSORS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        (last / "state.json").write_text('{"about": "", "done": 9, "total": 24}')
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    assert loaded.facts["done"] == 8
    resumed = Run()
    steps = resumed.to(10**9, Checkpoints(tmp_path, 1, wanted=always))
    assert steps[0].done == 9
    assert all(map(torch.equal, resumed.weights(), whole[0]))


def test_killed_while_a_checkpoint_is_written_the_one_before_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run().to(4, Checkpoints(tmp_path, wanted=always))
    syncs = iter(range(100))

    def die_at(last: int) -> Callable[[Path], None]:
        def sync(_: Path) -> None:
            if next(syncs) == last:
                raise Killed

        return sync

    for last in (0, 1, 2):
        syncs = iter(range(100))
        monkeypatch.setattr(room, "_sync", die_at(last))
        with pytest.raises(Killed):
            Run().to(5, Checkpoints(tmp_path, wanted=always))
        loaded = Checkpoints(tmp_path).load()
        assert loaded is not None and loaded.facts["done"] == 4


def test_only_the_last_few_stay_and_a_late_claim_removes_nothing_of_a_later_one(
    tmp_path: Path,
) -> None:
    Run().to(6, Checkpoints(tmp_path, 2, wanted=always))
    assert len(list(tmp_path.iterdir())) == room.KEPT
    Run().to(10, Checkpoints(tmp_path, 1, wanted=always))
    kept = {place.name for place in tmp_path.iterdir()}
    assert {f"step-{n:08d}-2" for n in (4, 5, 6)} <= kept


def test_a_checkpoint_about_other_examples_is_not_taken(tmp_path: Path) -> None:
    Run().to(5, Checkpoints(tmp_path, about="sha256:a", wanted=always))
    assert Checkpoints(tmp_path, about="sha256:b").load() is None
    assert Checkpoints(tmp_path, about="sha256:a").load() is not None


def test_recomputed_layers_give_the_same_gradients() -> None:
    def gradients(again: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
        if again:
            recompute(model)
        model(torch.ones(2, 4)).square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]  # type: ignore[misc]

    assert all(map(torch.equal, gradients(True), gradients(False)))


def test_a_job_that_was_stopped_and_then_killed_goes_on_to_the_same_weights(
    registry: Registry,
    home: Path,
    lora_spec: TrainSpec,
    claimed: Callable[[TrainSpec], Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "STOP_S", 60.0)  # a busy machine must not kill it before it stops
    spec = lora_spec.model_copy(update={"hyperparameters": {"n_epochs": 60}})
    whole = claimed(spec)
    assert work(registry, home, whole) == REGISTERED
    job: Job | None = claimed(spec.model_copy(update={"name": "resumed"}))
    assert job is not None
    process = Worker(home, job, {"OMP_NUM_THREADS": str(torch.get_num_threads())})
    eventually(lambda: trained(registry, job.id) > 0)
    # Told to stop, it writes a checkpoint and ends; the next claim is killed where it stands.
    process.stop()
    process.close(registry)
    assert registry.job(job.id).state == "queued"
    stopped_at = registry.job_checkpoints("local", job.id)[0].step
    job = registry.claim_job("the test", 60.0, job.id)
    assert job is not None
    process = Worker(home, job, {"OMP_NUM_THREADS": str(torch.get_num_threads())})
    eventually(lambda: trained(registry, job.id) > stopped_at)
    os.kill(process.pid, signal.SIGKILL)
    process.close(registry)
    job = registry.claim_job("the test", 60.0, job.id)
    assert job is not None
    assert work(registry, home, job) == REGISTERED
    blobs = [registry.resolve("local", f"{name}:1").manifest.parts[0].blob
             for name in ("clerk", "resumed")]  # fmt: skip
    assert blobs[0] == blobs[1]
    assert not (job_folder(home, job.id) / "checkpoints").exists()
    assert (job_folder(home, job.id) / "loss.png").read_bytes().startswith(b"\x89PNG")


def trained(registry: Registry, job_id: str) -> int:
    progress = registry.job(job_id).progress
    return int(progress["done"]) if progress.get("stage") == "training" else 0


def eventually(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
