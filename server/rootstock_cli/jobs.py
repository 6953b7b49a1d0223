"""The commands about training jobs: what waits, what runs, how far it is, and how to stop it.

Refuses to know what a job does.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rootstock_cli.failures import Refused
from rootstock_cli.options import LOCAL, Home, Json, Tenant
from rootstock_cli.registry import check_tenant, open_registry, print_json

if TYPE_CHECKING:
    from rootstock_registry import Job, Registry
    from rootstock_registry.records_work import Event

jobs = typer.Typer(help="Training jobs: list, follow, pause, cancel.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
POLL_S = 0.5
SHOWN_JOBS = 100


@jobs.command("list")
def list_jobs(
    home: Home,
    tenant: Tenant = LOCAL,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = SHOWN_JOBS,
    as_json: Json = False,
) -> None:
    """List a tenant's jobs, newest first."""
    registry = open_registry(home)
    check_tenant(registry, tenant)
    found = registry.jobs(tenant, limit=limit)
    if as_json:
        print_json({"jobs": [_facts(job) for job in found]})
        return
    table = Table(box=None)
    for head in ("job", "method", "adapter", "state", "since", "how far"):
        table.add_column(head, no_wrap=head != "adapter")
    for job in found:
        since = f"{job.created_at:%m-%d %H:%M}"
        method, name = job.spec.get("method", ""), job.spec.get("name", "")
        table.add_row(job.id, method, name, job.state, since, _how_far(job))
    Console().print(table)


@jobs.command("show")
def show_job(job: JobId, home: Home, tenant: Tenant = LOCAL, as_json: Json = False) -> None:
    """Show a job: what it was asked to do, how far it is, and what came of it."""
    registry = open_registry(home)
    found = registry.tenant_job(tenant, job)
    checkpoints = registry.job_checkpoints(tenant, job)
    if as_json:
        kept = [{"step": each.step, "metrics": dict(each.metrics)} for each in checkpoints]
        print_json(_facts(found) | {"checkpoints": kept})
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]{found.id}[/bold] {found.state} {_how_far(found)}")
    for name, value in found.spec.items():
        if name != "request" and value not in (None, {}):
            console.print(f"  {name}: {value}", markup=False)
    for each in checkpoints:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in each.metrics.items())
        console.print(f"  checkpoint at step {each.step}: {figures}")
    if found.error:
        console.print(f"  error: {found.error}", markup=False)
    if found.version_digest:
        console.print(f"  version: {found.version_digest}")
    picture = home.expanduser() / "jobs" / found.id / "loss.png"
    if picture.is_file():
        console.print(f"  losses: {picture}")


@jobs.command("cancel")
def cancel_job(job: JobId, home: Home, tenant: Tenant = LOCAL) -> None:
    """End a job at once; nothing is registered."""
    _say(open_registry(home).cancel_job(tenant, job))


@jobs.command("pause")
def pause_job(job: JobId, home: Home, tenant: Tenant = LOCAL) -> None:
    """Put a job aside; a running one as soon as it has written a checkpoint."""
    _say(open_registry(home).pause_job(tenant, job))


@jobs.command("resume")
def resume_job(job: JobId, home: Home, tenant: Tenant = LOCAL) -> None:
    """Put a paused job back into the queue; it goes on from its checkpoint."""
    _say(open_registry(home).resume_job(tenant, job))


@jobs.command("events")
def job_events(
    job: JobId,
    home: Home,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the job has ended; exit 1 if it failed.")
    ] = False,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Tell what has happened to a job, oldest first."""
    registry = open_registry(home)
    told = 0
    while True:
        # Read before the events: whatever ended the job is then among them.
        now = registry.tenant_job(tenant, job)
        told = _tell(registry, now, told, as_json)
        if not follow or now.finished_at is not None:
            break
        time.sleep(POLL_S)
    if follow and now.state != "succeeded":
        raise Refused(f"job {now.id} {now.state}" + (f": {now.error}" if now.error else ""))


def _tell(registry: Registry, job: Job, told: int, as_json: bool) -> int:
    """Print the events after number `told`; the number of the last one."""
    for event in registry.job_events(job.tenant, job.id)[::-1]:
        if event.seq > told:
            told = event.seq
            _print_event(event, as_json)
    return told


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        facts = {"at": event.created_at.isoformat(), "level": event.level}
        print_json(facts | {"message": event.message, "data": event.data})
        return
    mark = "" if event.level == "info" else f"{event.level}: "
    line = f"{event.created_at:%H:%M:%S} {mark}{event.message}"
    Console(soft_wrap=True).print(line, markup=False, highlight=False)


def _say(job: Job) -> None:
    wanted = f", {job.requested} requested" if job.requested else ""
    Console(soft_wrap=True).print(f"{job.id} is {job.state}{wanted}", markup=False, highlight=False)


def _how_far(job: Job) -> str:
    row = job.progress
    if job.state not in ("running", "paused", "queued") or not row:
        return ""
    counted = f" {row['done']}/{row['total']}" if row.get("total") else ""
    loss = f" loss {row['loss']:.3f}" if row.get("loss") is not None else ""
    return f"{row.get('stage', '')}{counted}{loss}"


def _facts(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "tenant": job.tenant,
        "state": job.state,
        "requested": job.requested,
        "priority": job.priority,
        "spec": job.spec,
        "progress": job.progress,
        "error": job.error,
        "version": job.version_digest,
        "created_at": job.created_at.isoformat(),
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
    }
