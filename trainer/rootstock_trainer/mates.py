"""Which queued jobs can train in one pass with a job that was just claimed.

Refuses to know torch, and how they are trained.
"""

from __future__ import annotations

from rootstock_registry import Job, Registry
from rootstock_wire.methods import GradientSettings, canonical, parse_settings

from rootstock_trainer.lease import LEASE_S

METHODS = ("lora", "rslora")
LOOKED_AT = 200  # a tenant's newest jobs


def claim_mates(registry: Registry, first: Job, owner: str, most: int) -> list[Job]:
    """Up to `most` further jobs, oldest first, now claimed by `owner`.

    All are of one tenant: one process reads the data of all of them. They do not count against
    the tenant's running jobs before they run, for they take little beside the first.
    """
    kind = _kind(registry, first)
    if kind is None or most < 1:
        return []
    mates: list[Job] = []
    for job in reversed(registry.jobs(first.tenant, limit=LOOKED_AT)):
        if len(mates) == most:
            break
        if job.state != "queued" or _kind(registry, job) != kind:
            continue
        claimed = registry.claim_job(owner, LEASE_S, job.id)
        if claimed is not None:
            mates.append(claimed)
    return mates


def _kind(registry: Registry, job: Job) -> tuple[str, str] | None:
    """Jobs of one kind go together; None: this one goes alone.

    So does a job whose worker was lost, for it may be what killed it; and one whose time counts,
    because it is bounded or compared with others'.
    """
    spec = job.spec
    method = canonical(str(spec.get("method")))
    if method not in METHODS:
        return None
    try:
        settings = parse_settings(method, spec.get("hyperparameters") or {})
    except ValueError:
        return None  # its own worker says what is wrong
    assert isinstance(settings, GradientSettings)
    if settings.packing or settings.bf16 or settings.gradient_checkpointing:
        return None
    if settings.max_seconds is not None or spec.get("bars"):
        return None
    events = registry.job_events(job.tenant, job.id) if job.fence else []
    if any(event.data and event.data.get("lost") for event in events):
        return None
    return str(spec.get("base")), str(spec.get("base_path"))
