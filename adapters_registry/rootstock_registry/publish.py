"""Publishing: everything is checked, then blobs, then the manifest, then one transaction.

That transaction is the only point of visibility: killed anywhere, a publish is whole or absent.
Refuses to know where parts came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import TensorHeader, check_tensors
from rootstock_adapters.kinds import parse_spec
from sqlalchemy import Connection

from rootstock_registry import evaluations, index, jobs, quarantine
from rootstock_registry.blobs import BlobStore, digest_of
from rootstock_registry.database import Database
from rootstock_registry.errors import GateNotMet, InvalidArtifact, WrongBase
from rootstock_registry.gates import NO_GATES, Gates
from rootstock_registry.keeping import store
from rootstock_registry.manifest import BaseRef, Lineage, Manifest, Part, TensorInfo
from rootstock_registry.names import check_name
from rootstock_registry.records import Job, NewPart

_NO_BLOB = f"sha256:{'0' * 64}"


@dataclass(frozen=True)
class Publication:
    """What is to become a version; `job` is the run that made it, and ends with it unless more
    versions of the same run are to come. `gates` are what `promote` demands of its figures."""

    tenant: str
    name: str
    base: BaseCard
    parts: Sequence[NewPart]
    lineage: Lineage
    evaluation: Mapping[str, float]
    promote: str | None
    job: Job | None
    ends_job: bool = True
    gates: Gates = NO_GATES


def publish(database: Database, blobs: BlobStore, new: Publication) -> int:
    """The version's number. The same content twice is one version.

    Raises InvalidName, NotFound (tenant), InvalidArtifact, WrongBase; Conflict where `job` has
    been taken over meanwhile; StorageFull, Unavailable.
    """
    _check_names(database, new)
    manifest = _manifest(new)
    canonical = manifest.canonical()
    contents = [*(part.data for part in new.parts), canonical]
    digest = digest_of(canonical)

    def register(connection: Connection) -> int:
        index.check_adapter_name(connection, new.name)
        if not index.knows_base(connection, new.base.fingerprint):
            index.add_base(connection, new.base)
        number = index.add_version(connection, new.tenant, new.name, digest, manifest)
        quarantine.release(connection, digest)  # all its blobs have just been put: they are whole
        if new.promote is not None:
            _promote(connection, new, new.promote, number, digest, manifest)
        if new.job is not None and new.ends_job:
            jobs.finish(connection, new.job, digest)
        elif new.job is not None:
            made = f"New model: {new.name}:{number}"
            jobs.tell(connection, new.job, "info", made, {"version": digest})
        return number

    return store(database, blobs, contents, register)


def _promote(
    connection: Connection, new: Publication, alias: str, number: int, digest: str, made: Manifest
) -> None:
    """Where a job's version falls short of a gate, it stays, and so does the alias."""
    ref = f"{new.name}:{number}"
    try:
        if new.gates.figures:
            evaluations.check_gates(connection, new.gates, new.tenant, ref, digest, made)
    except GateNotMet as error:
        if new.job is None:
            raise
        said = f"Alias {alias} stays where it is: {error.message}"
        jobs.tell(connection, new.job, "warn", said, None)
        return
    demanded = {"require": new.gates.texts} if new.gates.texts else None
    index.move_alias(connection, new.tenant, new.name, alias, number, demanded)


def _check_names(database: Database, new: Publication) -> None:
    check_name("base", new.base.name)
    if new.promote is not None:
        check_name("alias", new.promote)
    with database.reads.connect() as connection:
        index.check_tenant(connection, new.tenant)
        index.check_adapter_name(connection, new.name)


def _manifest(new: Publication) -> Manifest:
    """Made before anything is stored, so that nothing is stored for what is refused."""
    try:
        manifest = Manifest(
            base=BaseRef(name=new.base.name, fingerprint=new.base.fingerprint),
            parts=tuple(_part(part, new.base) for part in new.parts),
            lineage=new.lineage,
            evaluation=dict(new.evaluation),
        )
        manifest.canonical()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidArtifact(f"{field}: {first['msg']}") from error
    except ValueError as error:
        raise InvalidArtifact(f"the manifest has no JSON form: {error}") from error
    _check_disjoint(manifest.parts)
    return manifest


def _part(part: NewPart, base: BaseCard) -> Part:
    config = part.spec.model_dump(mode="json")
    try:
        # Parsed again: what is stored must be what a server will be able to read.
        spec = parse_spec(part.spec.kind, config)
        tensors = spec.check(part.data, base)
    except ArtifactError as error:
        raise _why(part, base, error) from error
    return Part(
        kind=spec.kind,
        config=config,
        blob=digest_of(part.data),
        size=len(part.data),
        tensors={name: _info(tensor) for name, tensor in sorted(tensors.items())},
    )


def _info(tensor: TensorHeader) -> TensorInfo:
    return TensorInfo(dtype=tensor.dtype, shape=tensor.shape)


def _why(part: NewPart, base: BaseCard, error: ArtifactError) -> InvalidArtifact | WrongBase:
    """A sound file whose tensors have the right names but other sizes was made for another base."""
    misfit = WrongBase(f"the part does not fit base {base.name!r}: {error}")
    try:
        found = check_tensors(part.data)
    except ArtifactError:
        return InvalidArtifact(str(error))
    try:
        expected = part.spec.tensor_shapes(base)
    except ArtifactError:
        return misfit
    return misfit if expected.keys() == found.keys() else InvalidArtifact(str(error))


def _check_disjoint(parts: Sequence[Part]) -> None:
    """Two parts that name one tensor would change one place of the base: neither could be right."""
    wordy = [part.kind for part in parts if not part.tensors]
    if len(set(wordy)) < len(wordy):
        raise InvalidArtifact(f"two parts of kind {wordy[0]} would speak at once: keep one of them")
    seen: set[str] = set()
    for part in parts:
        if shared := sorted(seen & part.tensors.keys()):
            raise InvalidArtifact(f"two parts change the same place of the base: {shared[0]}")
        seen |= part.tensors.keys()
