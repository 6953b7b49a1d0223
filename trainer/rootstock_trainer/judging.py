"""What is measured around a training, before and after: held-out answers, and general text.

Refuses to know the method; a model goes in as the base's own class answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from rootstock_trainer.answering import Question, answer_figures
from rootstock_trainer.base import Base
from rootstock_trainer.forgetting import ForgettingProbe, GeneralText


class Judge:
    """The same questions and the same text for the base and for what was made of it."""

    def __init__(
        self, base: Base, questions: Sequence[Question], general: GeneralText, bars: bool
    ) -> None:
        """Without `bars` the base is asked no questions: answering is what takes time."""
        self._base, self._questions, self._bars = base, questions, bars
        self._probe = ForgettingProbe(base, general)
        self.note = self._probe.note

    def before(self, model: PreTrainedModel) -> dict[str, float]:
        """The base's own answers as `base_…`, where they are asked for."""
        self._probe.before(model)
        figures = self._answers(model) if self._bars else {}
        figures.pop("answered_rows", None)
        return {f"base_{name}": value for name, value in figures.items()}

    def after(self, model: PreTrainedModel, virtual: int) -> dict[str, float]:
        """`virtual` tokens stand before a row's own."""
        return self._answers(model, virtual) | self._probe.after(model)

    def _answers(self, model: PreTrainedModel, virtual: int = 0) -> dict[str, float]:
        if not self._questions:
            return {}
        context = self._base.card.context_length
        return answer_figures(model, self._base.tokenizer(), self._questions, context, virtual)
