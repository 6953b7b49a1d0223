"""Methods `prompt` and `few-shot`: words around the caller's text, chosen on training rows.

Few-shot prompting: Brown et al., arXiv 2005.14165; the choice matters (Lu et al., arXiv
2104.08786). Refuses to know models: how good a choice is, somebody else says.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rootstock_adapters.prompt.spec import Example as Shown
from rootstock_adapters.prompt.spec import PromptSpec
from rootstock_wire.methods import FewShotSettings, PromptSettings

from rootstock_trainer.errors import BadSpec
from rootstock_trainer.rows import Chat, Completion, Example, Labelled, Message


def zero_shot(settings: PromptSettings, labels: Sequence[str]) -> PromptSpec:
    """The prompt without examples. Labelled texts have an instruction where none is given.

    Raises BadSpec where there is nothing to say.
    """
    template, system = settings.template, settings.system
    if labels and template is None and system is None:
        system = f"Classify the text. Answer with one of these labels only: {', '.join(labels)}."
        template = "Text: {input}\nLabel:"
    if template is None and system is None and not isinstance(settings, FewShotSettings):
        raise BadSpec(
            "hyperparameters: method prompt says nothing without a template or a system text; give "
            "one, or use few-shot, which finds examples"
        )
    given = {} if template is None else {"template": template}
    # Few-shot alone is made of its examples: they come with the choice.
    return PromptSpec.model_construct(system=system, **given)


def few_shot(
    settings: FewShotSettings,
    plain: PromptSpec,
    rows: Sequence[Example],
    loss_of: Callable[[PromptSpec, Sequence[Example]], float | None],
    seed: int,
) -> PromptSpec:
    """`plain` with the best of `candidates` choices of `shots` from `rows`, by `loss_of` on rows
    that are not shown; None from it means that the choice does not fit the base's context.

    Raises BadSpec where no choice fits, or where rows are too few.
    """
    usable = [row for row in rows if shown(row) is not None]
    if len(usable) <= settings.shots:
        raise BadSpec(
            f"hyperparameters.shots: {settings.shots}, and there are {len(usable)} training rows "
            "of one question and one answer, of which some must be left to compare on"
        )
    chooser, best = random.Random(seed), None
    for _ in range(settings.candidates):
        order = _spread_over_answers(chooser.sample(usable, len(usable)))
        examples = tuple(each for row in order[: settings.shots] if (each := shown(row)))
        spec = PromptSpec(template=plain.template, system=plain.system, examples=examples)
        loss = loss_of(spec, order[settings.shots :])
        if loss is not None and (best is None or loss < best[0]):
            best = (loss, spec)
    if best is None:
        raise BadSpec(
            f"hyperparameters.shots: {settings.shots} examples and a row do not fit the base's "
            "context; ask for fewer"
        )
    return best[1]


def shown(row: Example) -> Shown | None:
    """A row as an example; None for a conversation of several turns."""
    if isinstance(row.row, Completion):
        return Shown(input=row.row.prompt, output=row.row.completion.strip())
    own = [message for message in row.row.messages if message.role != "system"]
    if len(own) != 2:
        return None
    return Shown(input=own[0].content, output=own[1].content)


def applied(spec: PromptSpec | None, row: Example) -> Example:
    """The row as a server would ask it under `spec` (None: as it is); its last answer counts."""
    if isinstance(row.row, Completion):
        if spec is None:
            return row
        prompt = spec.text(row.row.prompt)
        return Example(row.line, row.row.model_copy(update={"prompt": prompt}))
    asked = [message.said for message in row.row.messages[:-1]]
    turns = asked if spec is None else spec.messages(asked)
    messages = [
        Message(**turn, weight=0 if turn["role"] == "assistant" else None) for turn in turns
    ]
    return Example(row.line, Chat(messages=[*messages, row.row.messages[-1]]))


def asked(row: Labelled, label: str, chats: bool) -> Example:
    """A labelled text as a question, and `label` as its answer."""
    if chats:
        turns = [Message(role="user", content=row.text), Message(role="assistant", content=label)]
        return Example(row.line, Chat(messages=turns))
    return Example(row.line, Completion(prompt=row.text, completion=f" {label}"))


def _spread_over_answers(rows: Sequence[Example]) -> list[Example]:
    """In turns between answers, where these repeat as labels do: each is shown before any twice."""
    turns: dict[str, int] = {}
    order = []
    for place, row in enumerate(rows):
        answer = row.row.answer
        turns[answer] = turns.get(answer, -1) + 1
        order.append((turns[answer], place))
    return [rows[place] for _, place in sorted(order)]
