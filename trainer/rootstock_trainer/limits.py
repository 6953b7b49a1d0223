"""What the jobs of a machine and of a tenant may take, and the words when one takes more.

Refuses to know how a job is run.
"""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field

MIB = 1 << 20


class JobLimits(BaseModel):
    """Bounds on jobs beside a server.

    `jobs` run at once, at most `jobs_per_tenant` of one tenant. A job may hold `memory_mib` of
    resident memory (0: half of the machine's) and run `seconds`, over all its interruptions.
    `jobs_together` LoRA jobs of a tenant on one base train in one process, and are one of `jobs`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: int = Field(default=1, ge=1)
    jobs_per_tenant: int = Field(default=1, ge=1)
    jobs_together: int = Field(default=4, ge=1)
    memory_mib: int = Field(default=0, ge=0)
    seconds: float = Field(default=24 * 3600.0, gt=0)

    @property
    def memory(self) -> int:
        """Bytes."""
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return self.memory_mib * MIB or whole // 2

    def exceeded(self, memory: int, seconds: float) -> str | None:
        """Why a job that holds `memory` bytes after `seconds` has to end; None: it may go on."""
        if memory > self.memory:
            return (
                f"it needed more than the {self.memory // MIB} MiB of memory that a job may have: "
                "lower batch_size or max_length, or raise limits.training.memory_mib"
            )
        if seconds > self.seconds:
            return (
                f"it ran for more than the {self.seconds:g} seconds that a job may take: "
                "lower n_epochs, or raise limits.training.seconds"
            )
        return None
