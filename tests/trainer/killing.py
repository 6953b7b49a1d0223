"""A LoRA run in processes of its own, killed one after another until one reaches the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_trainer.base import Base
from rootstock_trainer.checkpoints import Checkpoints
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.methods import table
from rootstock_trainer.objectives import Answers
from rootstock_trainer.tokens import IGNORED, TokenRow, TokenStore
from rootstock_wire.methods import LoraSettings
from safetensors.torch import save_file

STEPS = 30
WEIGHTS = "weights.safetensors"
# One process that has imported everything, and gives birth to all others.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "rootstock_trainer.gradient_run",
        "transformers.models.llama.modeling_llama",
        "peft.tuners.lora",
        "pytest",
    ]
)


def train(base_folder: Path, folder: Path, fence: int, last: int | None) -> None:
    """Go on from the last checkpoint; die after step `last`, or write the weights at the end."""
    torch.set_num_threads(1)
    torch.manual_seed(fence)  # nothing but the checkpoint is left of the run before
    base = Base(BaseCard.read(base_folder, "tiny"), base_folder)
    settings = LoraSettings(rank=4, n_epochs=3, batch_size=4, learning_rate=1e-2)
    tuning = table.build("lora", base.model(), base.card, settings, 0)
    training = GradientTraining(tuning, Answers(), settings, 0)
    # Two runs of three save every step; the third leaves its last steps to be done again.
    checkpoints = Checkpoints(folder / "checkpoints", fence, wanted=lambda: fence % 3 != 0)
    for step in training.run(_rows(), range(STEPS // 3 * 4), (), checkpoints):
        assert step.total == STEPS
        if step.done == last:
            os.kill(os.getpid(), signal.SIGKILL)
    save_file(training.parts()[0].tensors, folder / WEIGHTS)


def killed_at(base_folder: Path, folder: Path, steps: list[int]) -> bytes:
    """The bytes of the final weights, after a death at each of `steps`, in their order."""
    folder.mkdir()
    for fence, last in enumerate([*steps, None]):
        process = PROCESSES.Process(target=train, args=(base_folder, folder, fence, last))
        process.start()
        process.join(300)
        assert process.exitcode == (0 if last is None else -signal.SIGKILL), process.exitcode
    return (folder / WEIGHTS).read_bytes()


def _rows() -> TokenStore:
    rows = []
    for number in range(STEPS // 3 * 4):
        ids = [10 + (7 * number + 13 * place) % 200 for place in range(8 + number % 5)]
        rows.append(TokenRow(ids, [IGNORED] * 4 + ids[4:]))
    return TokenStore(rows)
