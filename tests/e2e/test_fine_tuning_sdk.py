"""The `openai` SDK, unmodified, from an uploaded file to an answer of the model made from it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import openai
import pytest

THINGS = ["kettle", "lamp", "chair", "mug", "clock", "rug", "fan", "desk", "shelf", "radio"]


def rows() -> bytes:
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"the {thing} {number}"},
                {"role": "assistant", "content": f"{thing} noted"},
            ]
        }
        for thing in THINGS
        for number in range(3)
    ]
    return "".join(json.dumps(chat) + "\n" for chat in chats).encode()


def test_a_job_is_created_followed_and_its_model_answers(
    filled, start_server, tmp_path: Path
) -> None:
    filled(tmp_path).close()
    server = start_server(tmp_path, no_sidecar=False)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        file = client.files.create(file=("chats.jsonl", rows()), purpose="fine-tune")
        lora = {"hyperparameters": {"rank": 4, "n_epochs": 3, "learning_rate": 1e-2}}
        asked = {
            "model": "tiny", "training_file": file.id, "suffix": "clerk", "seed": 3,
            "method": {"type": "lora", "lora": lora}, "metadata": {"promote": "prod"},
            "extra_headers": {"Idempotency-Key": "one"},
        }  # fmt: skip
        job = client.fine_tuning.jobs.create(**asked)
        assert client.fine_tuning.jobs.create(**asked).id == job.id
        late = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
        assert client.fine_tuning.jobs.cancel(late.id).status == "cancelled"
        statuses = follow(client, job.id)
        assert statuses[-1] == "succeeded", client.fine_tuning.jobs.retrieve(job.id).error
        done = client.fine_tuning.jobs.retrieve(job.id)
        assert done.fine_tuned_model == "clerk:1"
        check_story(client, job.id)
        csv, picture = (client.files.content(each).read() for each in done.result_files)
        assert csv.startswith(b"step,train_loss,valid_loss") and picture.startswith(b"\x89PNG")
        question = [{"role": "user", "content": "the lamp 1"}]
        answers = {
            model: client.chat.completions.create(
                model=model, messages=question, max_tokens=8, temperature=0
            )
            for model in ("tiny", "clerk:1", "clerk")
        }
    said = {model: answer.choices[0].message.content for model, answer in answers.items()}
    assert said["clerk"] == said["clerk:1"] != said["tiny"]
    assert server.stop() == 0


def follow(client: openai.OpenAI, job: str, seconds: float = 600.0) -> list[str]:
    """Every status that was seen, in order."""
    statuses: list[str] = []
    end = time.monotonic() + seconds
    while not statuses or statuses[-1] not in ("succeeded", "failed", "cancelled"):
        if time.monotonic() > end:
            pytest.fail(f"the job did not end: {statuses}")
        status = client.fine_tuning.jobs.retrieve(job).status
        if status not in statuses[-1:]:
            statuses.append(status)
        time.sleep(0.05)
    return statuses


def check_story(client: openai.OpenAI, job: str) -> None:
    events = list(client.fine_tuning.jobs.list_events(job, limit=5))[::-1]
    messages = [event.message for event in events]
    assert messages[0] == f"Created fine-tuning job: {job}"
    assert messages[-1] == "Fine-tuning job succeeded. New model: clerk:1"
    losses = [e.data["train_loss"] for e in events if e.type == "metrics"]  # type: ignore[index]
    assert losses[-1] < losses[0]
    (last, *_) = client.fine_tuning.jobs.checkpoints.list(job)
    assert last.metrics.train_loss == pytest.approx(losses[-1])
    assert last.step_number == len(losses)
