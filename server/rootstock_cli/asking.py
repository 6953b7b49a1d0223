"""The ask command: one prompt, several models at the same time, their answers side by side.

Refuses to know which models generate and which classify: the server says so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rootstock_cli.options import ApiKey, Url
from rootstock_cli.registry import SHOWN_DIGEST

if TYPE_CHECKING:
    from rootstock_client import AsyncClient


class Reply(NamedTuple):
    """What one model said to the prompt; `digest` names the version that said it."""

    model: str
    digest: str
    text: str
    failed: bool = False


def ask(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What every model is asked.")],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL…", help="Bases, NAME, NAME:VERSION, NAME@ALIAS.")
    ],
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
) -> None:
    """Ask several models the same at once and show their answers side by side."""
    options: dict[str, float] = {"temperature": temperature}
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    with Console(stderr=True).status("waiting for the answers"):
        replies = asyncio.run(_ask_all(url, api_key, prompt, models, options))
    Console().print(side_by_side(replies))
    if any(reply.failed for reply in replies):
        raise typer.Exit(1)


def side_by_side(replies: list[Reply]) -> Table:
    """One column for each reply, its digest below its model's name."""
    table = Table()
    for reply in replies:
        table.add_column(Text(f"{reply.model}\n{reply.digest[:SHOWN_DIGEST]}"), ratio=1)
    table.add_row(*(Text(each.text, style="red" if each.failed else "") for each in replies))
    return table


async def _ask_all(
    url: str, api_key: str | None, prompt: str, models: list[str], options: dict[str, float]
) -> list[Reply]:
    from rootstock_client import AsyncClient

    async with AsyncClient(url, api_key) as client:
        return await asyncio.gather(*(reply(client, model, prompt, options) for model in models))


async def reply(client: AsyncClient, model: str, prompt: str, options: dict[str, float]) -> Reply:
    """The model's chat answer; for a head, its verdict; what the server refuses, in its words.

    Raises Unreachable where there is no server.
    """
    from rootstock_client import ApiError
    from rootstock_wire.native import TokensResult

    try:
        try:
            answer = await client.chat(model, [{"role": "user", "content": prompt}], **options)
            return Reply(model, answer.system_fingerprint, answer.choices[0].message.content)
        except ApiError as error:
            if error.code != "adapter_mismatch":
                raise
        verdict = await client.classify(prompt, [model])
        head = verdict.data[0].results[0]
        if isinstance(head, TokensResult):
            lines = [f"{each.word} {each.entity} {each.score:.3f}" for each in head.tokens]
        else:
            lines = [f"{label} {share:.3f}" for label, share in _ranked(head.probs)]
        return Reply(model, head.digest, "\n".join(lines))
    except ApiError as error:
        return Reply(model, "", error.message, failed=True)


def _ranked(probs: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(probs.items(), key=lambda item: -item[1])
