"""The GPU backend under a whole base: mixed batches, many adapters, recorded decode steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from rootstock_server.backends.triton.recordings import Recording, Recordings

from benchmarks import gpu_batches

CUDA = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not CUDA, reason="CUDA graphs and bf16 need a GPU; make gpu runs it")


class Rehearsal(Recordings):
    """Replays by running the recorded step again, off the same buffers: all but the graph."""

    def _record(self, step, forward):
        hidden = forward(step).clone()
        return Recording(SimpleNamespace(replay=lambda: hidden.copy_(forward(step))), hidden)


def test_a_mixed_batch_answers_as_plain_torch_does_and_so_do_replayed_steps():
    device = "cuda" if CUDA else "cpu"
    gpu_batches.mixed_batches(device, torch.float32, Rehearsal(torch.device(device)))


@needs_gpu
@pytest.mark.parametrize("recorded", [False, True])
def test_mixed_batches_in_bf16_answer_as_plain_torch_does(recorded):
    recordings = Recordings(torch.device("cuda")) if recorded else None
    gpu_batches.mixed_batches("cuda", torch.bfloat16, recordings)
