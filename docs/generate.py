"""Writes the generated parts of the documents: tables of commands, settings, errors, doors, kinds.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. Refuses to know the text around
it. `--check` writes nothing and fails, naming the file, where a part is not what it should be.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rootstock_adapters.base_card import ARCHITECTURES
from rootstock_cli.main import app
from rootstock_registry.manifest_schema import manifest_schema
from rootstock_server import errors
from rootstock_server.api import (
    adapters,
    aliases,
    comparisons,
    files,
    fine_tuning,
    importing,
    native,
    openai,
    pages,
    probes,
)
from rootstock_server.api.handle import Handle
from rootstock_server.config import Config, EngineLimits, Limits, TrainingLimits
from rootstock_server.telemetry import Telemetry
from rootstock_wire.methods import SETTINGS, GradientSettings
from rootstock_wire.native import MAX_HEADS
from rootstock_wire.openai import GenerationBody
from rootstock_wire.v1 import inference_pb2

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "docs" / "manifest.schema.json"
BAR = r"\|"  # a bar inside a cell
PLACE = re.compile(r"(<!-- generated: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

# What a name alone does not say. A setting, error or route without its sentence is an error here.
SETTINGS_MEAN = {
    "home": "folder of the registry, the blobs and the caches",
    "bases": "the bases to serve; in the variable `NAME=PATH`, separated by commas",
    "host": "address to listen on, for HTTP and gRPC",
    "port": "HTTP port; 0 takes a free one and prints it",
    "grpc_port": "gRPC port; 0 takes a free one and prints it",
    "dtype": "arithmetic of the bases; `auto` is the folder's own, or float32 where this CPU has "
    "no fast bfloat16; `int8` keeps the linears in 8 bits and all else as `auto` does"
    " (CPUs only)",
    "no_auth": "everybody is the tenant `local`; only on a loopback address",
    "pinned": "adapters to keep resident, as `name` or `name@alias`; of another tenant,"
    " `tenant/name`",
    "require_signature": "load only versions that this public key (a PEM file) has signed; any "
    "other one is refused, and is not kept resident either",
    "database_url": "`postgresql://…` instead of SQLite in the home",
    "blobs": "`s3://BUCKET/PREFIX` instead of a folder in the home",
    "no_sidecar": "start no training sidecar beside the server",
}
LIMITS_MEAN = {
    "max_batch_tokens": "tokens of one step of an engine, of all rows together",
    "max_running": "requests in the batch of one engine",
    "max_waiting": "requests in the queue of one engine; one more is a 503",
    "kv_cache_mib": "memory of one decoder's KV cache",
    "adapter_memory_mib": "memory of the resident versions of one engine",
    "adapter_host_mib": "memory for checked versions that have left their slots, and may return",
    "max_rank": "highest rank of a low-rank part that is served",
    "threads": "threads of one engine; 0 becomes the number of usable cores",
    "backend": "`reference` is plain torch, `cpu` the C++ kernels that `make setup` builds; `auto` "
    "is the fastest that is there",
    "max_body_bytes": "size of one request's body; a larger one is a 413",
    "max_in_flight_per_tenant": "requests of one tenant at a time; one more is a 429",
    "max_rows_per_request": "answers of one request (prompts times `n`), and passes at a time",
    "max_adapters_per_request": "versions that a request may combine in `adapters`; more is a 400",
    "blob_cache_mib": "disk for copies of what `blobs` keeps in a bucket; a folder has none",
    "request_timeout_s": "how long a request may take in an engine, its queue included; then 504",
    "max_file_bytes": "size of one upload; a larger one is a 413",
    "max_files_bytes_per_tenant": "size of all uploaded files of one tenant",
    "max_waiting_per_tenant": "jobs of one tenant that wait or are paused; one more is a 400",
    "jobs": "jobs that the sidecar runs at a time",
    "jobs_per_tenant": "jobs of one tenant that run at a time",
    "jobs_together": "LoRA jobs of one tenant on one base that train in one process, as one job",
    "memory_mib": "resident memory of one job; 0 becomes half of the machine's; more ends the job",
    "seconds": "how long one job may run, over all its interruptions; more ends the job",
    "drain_s": "how long running answers may take to finish after SIGTERM",
}
ERRORS_MEAN = {
    "BadRequest": "change the field that `param` names",
    "TooLarge": "send less at once",
    "Unknown": "look at the list of what you have; another tenant's reads the same",
    "Unauthenticated": "send a valid key",
    "Forbidden": "use a key with a larger role",
    "Untrusted": "have the version signed with the key that this server trusts",
    "Conflict": "look at the object as it is now, then ask again",
    "GateNotMet": "the message has the figures and what was demanded",
    "UnknownModel": "look at `/v1/models`; another tenant's adapter reads the same",
    "AdapterMismatch": "the version exists, but not for this base or this call",
    "OverQuota": "wait for an answer of your own, then ask again",
    "DeadlineExceeded": "ask for less, or allow more time",
    "Overloaded": "ask again in a moment: a queue is full, or an engine is starting",
    "ServerFault": "our mistake; the server's log says more",
    "CorruptAdapter": "stored bytes are damaged: publish or import the same content "
    "again, or bring them back and run `rootstock verify`",
}
ROUTES_MEAN = {
    "/livez": "200 while every engine is heard of or loading, 503 otherwise; needs no key",
    "/readyz": "200 while every base is loaded, the database has answered within the last half "
    "minute and the server is not stopping; needs no key",
    "/health": "as `/readyz`",
    "/metrics": "Prometheus' text format; names no tenant; needs no key",
    "/v1/models": "the bases, and the caller's adapters",
    "/v1/models/{model}": "one of them",
    "/v1/completions": "OpenAI's completions; `prompt` may be token ids",
    "/v1/chat/completions": "OpenAI's chat completions, with the base's chat template",
    "/v1/embeddings": "OpenAI's embeddings",
    "/v1/classify": f"one or several texts, up to {MAX_HEADS} heads; heads of one pass share it",
    "POST /v1/comparisons": "many methods on one uploaded file: a job for each, and one table",
    "GET /v1/comparisons": "the caller's comparisons, newest first",
    "/v1/comparisons/{comparison_id}": "one of them; with its table once its jobs have ended",
    "POST /v1/files": "OpenAI's files: an upload of JSONL, CSV or Parquet, `purpose` `fine-tune`",
    "GET /v1/files": "the caller's files",
    "GET /v1/files/{file_id}": "one of them",
    "/v1/files/{file_id}/content": "its bytes",
    "DELETE /v1/files/{file_id}": "forget it",
    "POST /v1/fine_tuning/jobs": "OpenAI's fine-tuning jobs; any method, and an `Idempotency-Key`",
    "GET /v1/fine_tuning/jobs": "the caller's jobs, newest first",
    "/v1/fine_tuning/jobs/{job_id}": "one of them",
    "/v1/fine_tuning/jobs/{job_id}/cancel": "end it; nothing is registered",
    "/v1/fine_tuning/jobs/{job_id}/pause": "put it aside after a checkpoint",
    "/v1/fine_tuning/jobs/{job_id}/resume": "go on from that checkpoint",
    "/v1/fine_tuning/jobs/{job_id}/events": "what happened to it, newest first",
    "/v1/fine_tuning/jobs/{job_id}/checkpoints": "where it can be taken up again",
    "/jobs": "a page for a browser: the caller's jobs and comparisons, newest first",
    "/jobs/{job_id}": "a page for a browser: one job, its losses drawn while it runs",
    "/jobs.js": "the script of these pages",
    "/jobs.css": "their style",
    "/jobs.svg": "their icon",
    "/v1/tasks/{task}": "whichever version the route of the task chooses: `messages` (chat), "
    "`prompt` (completion) or `input` (classify)",
}
ROUTES_MEAN |= {
    "/v1/bases": "the registered bases",
    "/v1/bases/{name}": "one of them",
    "POST /v1/adapters": "a version from the two files of a PEFT folder; publisher; see "
    "[importing.md](importing.md)",
    "GET /v1/adapters": "the caller's adapters by name, with their kinds and aliases",
    "GET /v1/adapters/{name}": "one of them",
    "DELETE /v1/adapters/{name}": "deletes all its versions; admin; `force=true` where an alias "
    "or a route still leads to one",
    "/v1/adapters/{name}/versions": "its versions, newest first",
    "GET /v1/adapters/{name}/versions/{number}": "one of them, with its manifest, later "
    "evaluations and the keys that signed it",
    "DELETE /v1/adapters/{name}/versions/{number}": "deletes it; admin; `force=true` as above",
    "/v1/adapters/{name}/versions/{number}/yank": "says why nobody should begin to use it; "
    "publisher",
    "/v1/adapters/{name}/versions/{number}/unyank": "takes that back; publisher",
    "/v1/adapters/{name}/versions/{number}/evaluations": "adds `metrics` measured on "
    "`dataset_digest`; publisher",
    "/v1/aliases": "the caller's aliases; of one `adapter`",
    "GET /v1/aliases/{adapter}/{alias}": "what it means",
    "POST /v1/aliases/{adapter}/{alias}": "lets it mean `version` where every gate of `require` "
    "holds; publisher",
    "DELETE /v1/aliases/{adapter}/{alias}": "takes it away; publisher",
    "/v1/aliases/{adapter}/{alias}/history": "all that it meant, newest first",
    "/v1/aliases/{adapter}/{alias}/rollback": "lets it mean what it meant before; publisher",
}
SAMPLING_MEAN = {
    "max_tokens": "tokens of the answer at most; 16 for completions, what the context holds for "
    "chat (there also `max_completion_tokens`)",
    "min_tokens": "neither an end token nor a stop string ends the answer before",
    "n": "answers to each prompt; answer i draws from the seed plus i",
    "seed": "the random numbers; without one they are new each time",
    "temperature": "logits are divided by it; 0 is greedy; 1 where none is given",
    "top_p": "only the smallest set of tokens that has this probability; 1 where none is given",
    "top_k": "only so many of the likeliest tokens; 0 and -1 are off",
    "min_p": "only tokens at least this times as likely as the likeliest; 0 is off",
    "presence_penalty": "taken off the logit of a token that the answer already has",
    "frequency_penalty": "taken off for each time that the answer already has it",
    "repetition_penalty": "logits of tokens of prompt and answer are divided by it where positive, "
    "multiplied where not; 1 is off",
    "logit_bias": "token id, as text → what is added to its logit, -100 to 100; up to 1024 of them",
    "stop": "up to 4 texts; the answer ends before the first of them",
    "ignore_eos": "end tokens do not end the answer",
}
RPCS_MEAN = {
    "Generate": "streams the answer to a text, token ids or chat messages; model or task",
    "Classify": "the verdicts of heads on texts; models or task",
    "Embed": "one embedding per text",
}


def commands() -> str:
    """Every command with the first sentence of its help."""
    root = cast(Any, typer.main.get_command(app))
    rows = [(f"`{name}`", _sentence(command)) for name, command in _leaves(root, "rootstock")]
    return _table(("command", "what it does"), rows)


def _leaves(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{path} {name}", command
            yield from _leaves(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _sentence(command: Any) -> str:
    return " ".join(command.help.split("\n\n")[0].split())


def serve_options() -> str:
    """The settings of `serve`: flag, variable, default, meaning."""
    fields = {name: field for name, field in Config.model_fields.items() if name != "limits"}
    _same_names("settings", fields, SETTINGS_MEAN)
    rows = []
    for name, field in fields.items():
        flag = {"bases": "--base", "pinned": "--pin"}.get(name, f"--{name.replace('_', '-')}")
        default = {"home": "`~/.rootstock`", "bases": "none"}.get(name, _default(field))
        rows.append((f"`{flag}`", f"`ROOTSTOCK_{name.upper()}`", default, SETTINGS_MEAN[name]))
    return _table(("flag", "variable", "default", "what it decides"), rows)


SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("LIMITS__", Limits),
    ("LIMITS__ENGINE__", EngineLimits),
    ("LIMITS__TRAINING__", TrainingLimits),
)


def limits() -> str:
    """The limits; they have variables and no flags."""
    rows = []
    fields: list[tuple[str, str, FieldInfo]] = []
    for prefix, section in SECTIONS:
        fields += [(prefix, name, field) for name, field in _plain_fields(section)]
    _same_names("limits", {name: 0 for _, name, _ in fields}, LIMITS_MEAN)
    for prefix, name, field in fields:
        variable = f"`ROOTSTOCK_{prefix}{name.upper()}`"
        rows.append((variable, _default(field), LIMITS_MEAN[name]))
    return _table(("variable", "default", "what it bounds"), rows)


def _plain_fields(section: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        if not isinstance(field.default, BaseModel):
            yield name, field


def _default(field: FieldInfo) -> str:
    value = field.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def error_tree() -> str:
    """Every class of the server's error tree that an answer may carry."""
    rows = []
    classes = [cls for cls in _subclasses(errors.RootstockError) if cls is not errors.ClientError]
    _same_names("errors", {cls.__name__: 0 for cls in classes}, ERRORS_MEAN)
    for cls in classes:
        retry = f"{cls.retry_after_s} s" if cls.retry_after_s is not None else ""
        code = f"`{cls.code}`" if cls.code else ""
        names = (f"`{cls.__name__}`", str(cls.status), cls.grpc_status, f"`{cls.type}`", code)
        rows.append((*names, retry, ERRORS_MEAN[cls.__name__]))
    heads = ("error", "HTTP", "gRPC", "`type`", "`code`", "`Retry-After`", "what to do")
    return _table(heads, rows)


def _subclasses(cls: type[errors.RootstockError]) -> Iterator[type[errors.RootstockError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def http_routes() -> str:
    """Method and path of every HTTP route, as the application registers them."""
    nobody = cast(Handle, None)  # the routes only keep it for when they are asked
    doors = (probes, openai, native, adapters, importing, aliases, files, fine_tuning)
    rooms = [cast(Any, room.routes(nobody)) for room in (*doors, comparisons, pages)]
    found = [
        (route.path.replace(":path", ""), ", ".join(route.methods))
        for room in rooms
        for route in room.routes
    ]
    # A path that is asked in several ways has a sentence for each of them.
    known = {
        (path if path in ROUTES_MEAN else f"{how} {path}"): f"{how} {path}" for path, how in found
    }
    _same_names("routes", known, ROUTES_MEAN)
    rows = [(f"`{route}`", ROUTES_MEAN[name]) for name, route in known.items()]
    return _table(("route", "what it answers"), rows)


def rpcs() -> str:
    """The methods of our gRPC service."""
    service = inference_pb2.DESCRIPTOR.services_by_name["Inference"]
    names = [method.name for method in service.methods]
    _same_names("rpcs", dict.fromkeys(names), RPCS_MEAN)
    rows = [(f"`{service.full_name}/{name}`", RPCS_MEAN[name]) for name in names]
    return _table(("method", "what it answers"), rows)


def metrics() -> str:
    """Every metric, as `/metrics` describes it."""
    text = Telemetry(dict, max_adapters=1).exposition().decode()
    found = re.findall(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)", text, re.MULTILINE)
    rows = [(f"`{name}`", kind, help) for name, help, kind in found if not name.endswith("created")]
    return _table(("metric", "type", "meaning"), rows)


def sampling() -> str:
    """The fields that decide how tokens are drawn, with their defaults and ranges."""
    described = GenerationBody.model_json_schema()["properties"]
    rows = []
    for name, meaning in SAMPLING_MEAN.items():
        default = GenerationBody.model_fields[name].default
        told = "" if default is None else f"`{str(default).lower()}`"
        rows.append((f"`{name}`", told, _range(described[name]), meaning))
    return _table(("field", "default", "range", "what it decides"), rows)


def _range(described: Mapping[str, Any]) -> str:
    """The bounds of a number in a JSON schema; those of 64 bits say nothing."""
    for each in described.get("anyOf", [described]):
        if "exclusiveMinimum" in each:
            return f"above {each['exclusiveMinimum']} to {each['maximum']}"
        if "minimum" in each and each["minimum"] > -(2**63):
            return (
                f"{each['minimum']} to {each['maximum']}"
                if "maximum" in each
                else (f"from {each['minimum']}")
            )
    return ""


def hyperparameters() -> str:
    """What a job's spec may set: what all that train by gradient share, then what is a method's."""
    shared = GradientSettings.model_fields
    rows = [("by gradient", f"`{name}`", _default(field)) for name, field in shared.items()]
    for method, settings in SETTINGS.items():
        for name, field in settings.model_fields.items():
            inherited = issubclass(settings, GradientSettings) and name in shared
            if not inherited or field.default != shared[name].default:
                rows.append((f"`{method}`", f"`{name}`", _default(field)))
    return _table(("method", "hyperparameter", "default"), rows)


def architectures() -> str:
    """The `model_type`s that can be served, by what they do."""
    rows = []
    for task, word in (
        ("generate", "decoders"),
        ("encode", "encoders"),
        ("text2text", "encoder-decoders"),
    ):
        names = [f"`{name}`" for name, known in ARCHITECTURES.items() if known.task == task]
        rows.append((word, ", ".join(names)))
    return _table(("bases", "`model_type` in `config.json`"), rows)


def _same_names(what: str, known: Mapping[str, object], told: Mapping[str, str]) -> None:
    if stale := told.keys() ^ known.keys():
        raise SystemExit(f"docs/generate.py: {what}: {', '.join(sorted(stale))} has no place")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', BAR) for cell in line)} |\n" for line in lines)


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "serve-options": serve_options,
    "limits": limits,
    "errors": error_tree,
    "http-routes": http_routes,
    "rpcs": rpcs,
    "metrics": metrics,
    "sampling": sampling,
    "hyperparameters": hyperparameters,
    "architectures": architectures,
}


def documents() -> list[Path]:
    """Every page of the documentation."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def wanted() -> dict[Path, str]:
    """What every page should contain, and the manifest's schema."""
    made = {name: part() for name, part in PARTS.items()}
    used: set[str] = set()
    files = {}
    for file in documents():
        text = file.read_text(encoding="utf-8")
        used |= {match[2] for match in PLACE.finditer(text)}
        files[file] = PLACE.sub(lambda match: match[1] + made[match[2]] + match[4], text)
    files[SCHEMA] = json.dumps(manifest_schema(), indent=2, ensure_ascii=False) + "\n"
    if unused := PARTS.keys() - used:
        raise SystemExit(f"docs/generate.py: no document shows {', '.join(sorted(unused))}")
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated parts of the documents.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args().check
    stale = []
    for file, text in wanted().items():
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(file)
            if not check:
                file.write_text(text, encoding="utf-8")
    for file in stale:
        verb = "is not current: run python docs/generate.py" if check else "written"
        print(f"{file.relative_to(ROOT)}: {verb}", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
