"""A job of method `prompt` or `few-shot`: words chosen on training rows, measured on the others.

Refuses to know jobs and the registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from rootstock_adapters.prompt.spec import NO_TENSORS, PromptSpec
from rootstock_registry import NewPart
from rootstock_wire.methods import FewShotSettings, GradientSettings, PromptSettings

from rootstock_trainer.answering import answer_figures, question
from rootstock_trainer.base import Base
from rootstock_trainer.data import Dataset, Rows
from rootstock_trainer.encoding import ChatEncoder
from rootstock_trainer.errors import BadData, BadSpec
from rootstock_trainer.evaluate import accuracy, perplexity
from rootstock_trainer.forgetting import UNTOUCHED
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.methods import prompt
from rootstock_trainer.objectives import Answers
from rootstock_trainer.outcome import Made, Outcome, Telling, row_counts
from rootstock_trainer.rows import Example, Labelled
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.tokens import TokenStore
from rootstock_trainer.tuning import Untouched

# Examples are found and compared among so many rows: more would not choose better.
POOL_ROWS, COMPARED_ROWS = 512, 32
MAX_MEASURED = 256


def run(spec: TrainSpec, base: Base, rows: Rows, tell: Telling) -> Outcome:
    """Raises BadSpec where the base does not continue texts, or nothing can be said."""
    if base.card.task != "generate" or rows.data.task == "token-classify":
        raise BadSpec(
            f"method: {spec.method} asks a decoder in words, and base {base.card.name} is "
            f"{'no decoder' if base.card.task != 'generate' else 'asked for labels of words'}; "
            "use method head"
        )
    settings = spec.settings
    assert isinstance(settings, PromptSettings)
    meter = _Meter(base, spec)
    labels = rows.data.labels[0] if rows.data.labels else ()
    made = prompt.zero_shot(settings, labels)
    if isinstance(settings, FewShotSettings):
        pool = meter.examples(rows.data, _spread(rows.train.tolist(), POOL_ROWS))
        tell("training", 0, settings.candidates)
        tried = iter(range(1, settings.candidates + 1))

        def loss_of(tried_spec: PromptSpec, left: Sequence[Example]) -> float | None:
            loss = meter.loss(tried_spec, left[:COMPARED_ROWS])
            tell("training", next(tried), settings.candidates, loss)
            return loss

        made = prompt.few_shot(settings, made, pool, loss_of, spec.seed)
    tell("evaluating")
    held_out = _spread(rows.held_out.tolist(), MAX_MEASURED)
    evaluation = _evaluate(meter, made, rows.validation or rows.data, held_out, spec.bars)
    tell.note(UNTOUCHED)
    evaluation |= {"trained_parameters": 0.0, "base_share": 0.0, "forgetting": 0.0}
    evaluation |= row_counts(rows.train.tolist(), held_out)
    return Outcome([Made("", [NewPart(made, NO_TENSORS)], evaluation)], rows.data.digest)


class _Meter:
    """The untouched base, which says how likely answers are."""

    def __init__(self, base: Base, spec: TrainSpec) -> None:
        self._tokenizer, self._card, self._spec = base.tokenizer(), base.card, spec
        self._model = base.decoder()
        tuning = Untouched(self._model, base.card)
        self._training = GradientTraining(tuning, Answers(), GradientSettings(), spec.seed)
        self.chats = bool(self._tokenizer.chat_template)

    def examples(self, data: Dataset, indices: Sequence[int]) -> list[Example]:
        """Rows as questions with their answers, labelled ones too."""
        wanted = set(indices)
        rows = (row for index, row in enumerate(data.rows()) if index in wanted)
        return [
            prompt.asked(row, row.labels[0], self.chats) if isinstance(row, Labelled) else row
            for row in rows
            if isinstance(row, Labelled | Example)
        ]

    def loss(self, spec: PromptSpec | None, rows: Sequence[Example]) -> float | None:
        """Nats per token of the answers; None where a row does not fit the context."""
        try:
            store = self._store(prompt.applied(spec, row) for row in rows)
        except BadData:
            return None
        return self._training.mean_loss(store, range(len(store)))

    @torch.inference_mode()
    def label_accuracy(
        self, spec: PromptSpec | None, rows: Sequence[Labelled], labels: Sequence[str]
    ) -> float:
        """How often the right label is the likeliest of all answers."""
        predicted = []
        for row in rows:
            answers = [prompt.asked(row, label, self.chats) for label in labels]
            store = self._store(prompt.applied(spec, answer) for answer in answers)
            losses = [
                self._training.mean_loss(store, [i]) * _length(store, i) for i in range(len(store))
            ]
            predicted.append(min(range(len(labels)), key=losses.__getitem__))
        actual = [labels.index(row.labels[0]) for row in rows]
        return accuracy(torch.tensor(predicted), torch.tensor(actual))

    def answers(self, spec: PromptSpec | None, rows: Sequence[Example]) -> dict[str, float]:
        """How greedy answers compare with the wanted ones."""
        store = self._store(prompt.applied(spec, row) for row in rows)
        questions = [question(store[i]) for i in range(len(store))]
        context = self._card.context_length
        return answer_figures(self._model, self._tokenizer, questions, context)

    def _store(self, rows: Iterable[Example]) -> TokenStore:
        context = self._card.context_length
        encoder = ChatEncoder(self._tokenizer, context, self._spec.data)
        return TokenStore(encoder.rows(rows))


def _length(store: TokenStore, index: int) -> int:
    return sum(target >= 0 for target in store[index].targets[1:])


def _evaluate(
    meter: _Meter, made: PromptSpec, data: Dataset, indices: Sequence[int], bars: bool
) -> dict[str, float]:
    """Raises BadData where the prompt leaves no room for a row."""
    rows = meter.examples(data, indices)
    before, after = meter.loss(None, rows), meter.loss(made, rows)
    if before is None or after is None:
        raise BadData(f"{data.file.name}: with the prompt, a row does not fit the base's context")
    found = {
        "eval_loss": after,
        "perplexity": perplexity(after),
        "base_eval_loss": before,
        "base_perplexity": perplexity(before),
    }
    if data.labels:
        wanted = set(indices)
        labelled = [
            row
            for index, row in enumerate(data.rows())
            if index in wanted and isinstance(row, Labelled)
        ]
        found["accuracy"] = meter.label_accuracy(made, labelled, data.labels[0])
        if bars:
            found["base_accuracy"] = meter.label_accuracy(None, labelled, data.labels[0])
        return found
    base = meter.answers(None, rows) if bars else {}
    base.pop("answered_rows", None)
    return found | meter.answers(made, rows) | {f"base_{name}": x for name, x in base.items()}


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of them, at equal distances: a file may be sorted."""
    if len(indices) <= count:
        return list(indices)
    return [indices[i * len(indices) // count] for i in range(count)]
