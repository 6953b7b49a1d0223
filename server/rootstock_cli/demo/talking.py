"""The demo's questions: base and voices in one batch over HTTP, fresh sentences over gRPC.

Refuses to know how the versions were made.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from typing import TYPE_CHECKING

from rich.table import Column, Table

from rootstock_cli.asking import Reply, reply, side_by_side
from rootstock_cli.demo.stage import Stage, program, variable
from rootstock_cli.demo.texts import LETTER, SENTENCES
from rootstock_cli.failures import Refused
from rootstock_cli.options import LOCAL
from rootstock_cli.registry import SHOWN_DIGEST

if TYPE_CHECKING:
    from rootstock_wire.v1 import inference_pb2 as pb

SPEAKERS = ("demo", "formal", "cheerful")
HEADS = ("sentiment", "type")

Verdicts = list[dict[str, dict[str, float]]]


def ask_voices(stage: Stage) -> None:
    """One prompt, three requests at the same moment, one batch in the engine."""
    stage.chapter("One letter, answered by the base and both voices at once")
    stage.say(f"The customer: [italic]{LETTER}[/italic]")
    began = time.perf_counter()
    replies = asyncio.run(_ask(stage))
    seconds = time.perf_counter() - began
    stage.console.print(side_by_side(replies))
    for each in replies:
        if each.failed:
            raise Refused(f"{each.model} did not answer: {each.text}")
    if len({each.text for each in replies}) < len(replies):
        raise Refused("two of the three gave the same answer: an adapter had no effect")
    stage.say(f"Three answers over HTTP in {seconds:.1f} s, together.")
    stage.remember(
        "ask them side by side",
        f"{program('rootstock')} ask {shlex.quote(LETTER)} {' '.join(SPEAKERS)}",
        f'--url {stage.server.url} --api-key "${variable(LOCAL)}"',
    )
    message = {"role": "user", "content": LETTER}
    body = {"model": "formal", "messages": [message], "temperature": 0}
    stage.remember_post("ask one voice", "/v1/chat/completions", body)


async def _ask(stage: Stage) -> list[Reply]:
    from rootstock_client import AsyncClient

    async with AsyncClient(stage.server.url, stage.keys[LOCAL]) as client:
        asked = (reply(client, model, LETTER, {"temperature": 0.0}) for model in SPEAKERS)
        return await asyncio.gather(*asked)


def classify_sentences(stage: Stage) -> Verdicts:
    """Fresh sentences over gRPC: both heads read out of one pass. Returns the probabilities."""
    stage.chapter("Fresh sentences, classified over gRPC by both heads in one pass")
    answer = asyncio.run(_classify(stage))
    table = Table(Column("sentence", no_wrap=True, max_width=44), *HEADS)
    for row in answer.data:
        verdicts = (f"{each.label} {each.score:.2f}" for each in row.results)
        table.add_row(SENTENCES[row.index], *verdicts)
    stage.console.print(table)
    for each in answer.data[0].results:
        stage.say(f"  {each.model} answered as {each.digest[:SHOWN_DIGEST]}")
    body = {"input": list(SENTENCES[:2]), "models": list(HEADS)}
    stage.remember_post("classify over HTTP", "/v1/classify", body)
    stage.remember(
        "classify over gRPC",
        f'grpcurl -plaintext -H "authorization: Bearer ${variable(LOCAL)}" '
        f"-d {shlex.quote(json.dumps(body))} {stage.server.grpc} rootstock.v1.Inference/Classify",
    )
    return [{each.model: dict(each.probs) for each in row.results} for row in answer.data]


async def _classify(stage: Stage) -> pb.ClassifyResponse:
    from rootstock_client import GrpcClient

    async with GrpcClient(stage.server.grpc, stage.keys[LOCAL]) as client:
        return await client.classify(SENTENCES, HEADS)
