"""What can go wrong in a training job, in words that a job row can carry.

    TrainerError
    ├── BadSpec          the job asks for something that does not exist or does not fit
    ├── BadData          the examples cannot be read; every row at fault is named
    └── TrainingFailed   it ran, and did not come to a usable end

Refuses to know jobs, processes and terminals.
"""

from __future__ import annotations


class TrainerError(Exception):
    """`message` says what is wrong and what to do next."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadSpec(TrainerError):
    pass


class BadData(TrainerError):
    pass


class TrainingFailed(TrainerError):
    pass
