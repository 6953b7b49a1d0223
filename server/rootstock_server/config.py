"""The server's one configuration: a frozen object, complete and checked before anything starts.

The only file of the server that reads the environment. Refuses to know what the values are for.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

PREFIX = "ROOTSTOCK_"
# The clients' own variables may be set in the same shell.
CLIENT_VARIABLES = frozenset({"ROOTSTOCK_API_KEY", "ROOTSTOCK_URL"})

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """The configuration cannot be used. The message has one line per fault, each with its fix."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseSource(Section):
    """A base to serve: the name callers use and the Hugging Face folder it is in."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    path: Path

    @classmethod
    def parse(cls, text: str) -> BaseSource:
        """`NAME=PATH`, or `PATH` whose last folder is the name."""
        name, separator, path = text.partition("=")
        if not separator:
            name, path = Path(text).resolve().name.lower(), text
        return cls(name=name, path=Path(path).expanduser())


class EngineLimits(Section):
    """What one engine may hold at once. `threads` 0 becomes the number of usable cores."""

    max_batch_tokens: Count = 512
    max_running: Count = 64
    max_waiting: Count = 512
    kv_cache_mib: Count = 256
    adapter_memory_mib: Count = 1024
    adapter_host_mib: Count = 1024
    max_rank: Count = 64
    threads: Annotated[int, Field(ge=0)] = 0
    backend: Literal["auto", "reference", "cpu"] = "auto"


class TrainingLimits(Section):
    """What the sidecar's jobs may take; the sidecar is told all but the first."""

    max_waiting_per_tenant: Count = 100
    jobs: Count = 1
    jobs_per_tenant: Count = 1
    jobs_together: Count = 4
    memory_mib: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(gt=0)] = 24 * 3600.0


class Limits(Section):
    """Bounds on what callers may ask; the bounds of single fields live in rootstock_wire."""

    engine: EngineLimits = EngineLimits()
    training: TrainingLimits = TrainingLimits()
    max_file_bytes: Count = 64 * 1024 * 1024
    max_files_bytes_per_tenant: Count = 1024 * 1024 * 1024
    max_body_bytes: Count = 4 * 1024 * 1024
    max_in_flight_per_tenant: Count = 64
    max_rows_per_request: Count = 64
    max_adapters_per_request: Count = 4
    blob_cache_mib: Annotated[int, Field(ge=0)] = 1024
    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    drain_s: Annotated[float, Field(ge=0)] = 30.0


class Config(Section):
    """Everything `serve` needs to know. Port 0 takes a free one and prints it."""

    home: Path
    bases: tuple[BaseSource, ...] = Field(min_length=1)
    host: str = "127.0.0.1"
    port: Port = 8000
    grpc_port: Port = 8001
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    no_auth: bool = False
    no_sidecar: bool = False
    pinned: tuple[str, ...] = ()
    require_signature: Path | None = None
    database_url: str | None = None
    blobs: str | None = None
    limits: Limits = Limits()

    @field_validator("pinned", mode="before")
    @classmethod
    def _parse_pinned(cls, value: Any) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("bases", mode="before")
    @classmethod
    def _parse_bases(cls, value: Any) -> Any:
        texts = value.split(",") if isinstance(value, str) else value
        return tuple(BaseSource.parse(x) if isinstance(x, str) else x for x in texts)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [base.name for base in self.bases]
        if len(set(names)) != len(names):
            raise ValueError("bases: two bases have the same name; write --base NAME=PATH")
        if self.port == self.grpc_port != 0:
            raise ValueError("grpc_port: must differ from port")
        if self.blobs is not None and not self.blobs.startswith("s3://"):
            raise ValueError(
                "blobs: write s3://BUCKET/PREFIX, or leave it out to keep them in the home"
            )
        if self.no_auth and not is_loopback(self.host):
            raise ValueError(
                f"no_auth: only allowed on the loopback address, not on {self.host}; "
                "create a key (rootstock key create) and drop --no-auth"
            )
        return self


SECTIONS: dict[str, type[Section]] = {
    "limits": Limits,
    "engine": EngineLimits,
    "training": TrainingLimits,
    "bases": BaseSource,
}


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(values: Mapping[str, Any], env: Mapping[str, str] | None = None) -> Config:
    """The configuration from `values` (flags; None means not given) over `env` over the defaults.

    Environment names are `ROOTSTOCK_PORT` or, nested, `ROOTSTOCK_LIMITS__MAX_BODY_BYTES`.
    Raises ConfigError naming every faulty key, with the nearest known key for an unknown one.
    """
    given = _from_environment(os.environ if env is None else env)
    _merge(given, {key: value for key, value in values.items() if value is not None})
    given.setdefault("home", Path.home() / ".rootstock")
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(one) for one in error.errors())) from None
    return _resolve(config)


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in env.items():
        if name.startswith(PREFIX) and name not in CLIENT_VARIABLES:
            nested: Any = value
            for key in reversed(name.removeprefix(PREFIX).lower().split("__")):
                nested = {key: nested}
            _merge(given, nested)
    return given


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    where = ".".join(path)
    if error["type"] != "extra_forbidden":
        message = error["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    section: type[BaseModel] = Config
    for part in path[:-1]:
        section = SECTIONS.get(part, section)
    near = difflib.get_close_matches(path[-1], section.model_fields, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(section.model_fields)}"
    return f"{where}: unknown key; {hint}"


def _resolve(config: Config) -> Config:
    """Replace what means "decide for me" by the decision, in a new object."""
    engine = config.limits.engine
    threads = engine.threads or len(os.sched_getaffinity(0))
    limits = config.limits.model_copy(
        update={"engine": engine.model_copy(update={"threads": threads})}
    )
    home = config.home.expanduser().absolute()
    key = config.require_signature and config.require_signature.expanduser().absolute()
    return config.model_copy(update={"home": home, "limits": limits, "require_signature": key})
