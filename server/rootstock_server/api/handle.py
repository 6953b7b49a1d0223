"""The one front door behind every transport: authenticate, resolve, admit, submit, stream.

Both doors hand over the same validated request models and get the same events and errors.
Refuses to know HTTP and gRPC.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec
from rootstock_registry import KeyOwner, Registry, Version
from rootstock_registry.errors import CorruptBlob, InvalidName, NotFound
from rootstock_wire.fields import as_list
from rootstock_wire.native import Classification, ClassifiedText, ClassifyBody
from rootstock_wire.openai import ChatBody, CompletionBody, EmbeddingRequest, Usage

from rootstock_server.api import prepare, verdict
from rootstock_server.api.stream import Answers, Delta
from rootstock_server.api.target import ServedBase, Target
from rootstock_server.config import Limits
from rootstock_server.database_watch import DatabaseWatch
from rootstock_server.engine.request import Encode, Encoded, Generate
from rootstock_server.errors import (
    AdapterMismatch,
    BadRequest,
    ClientError,
    Overloaded,
    UnknownModel,
)
from rootstock_server.quarantine import Quarantine
from rootstock_server.telemetry import Telemetry
from rootstock_server.tenancy.auth import Authenticator
from rootstock_server.tenancy.quota import Quota
from rootstock_server.tenancy.routing import candidates
from rootstock_server.tenancy.trust import Trust

C = TypeVar("C", Generate, Encode)


@dataclass(frozen=True)
class Begun:
    """First event of a generation: every check has passed and the first token is there."""

    target: Target
    prompt_ids: list[list[int]]

    @property
    def prompt_tokens(self) -> int:
        return sum(len(ids) for ids in self.prompt_ids)


@dataclass(frozen=True)
class Embedded:
    target: Target
    vectors: list[list[float]]
    prompt_tokens: int


class Handle:
    """`bases` by name. One per server; lives on one event loop."""

    def __init__(
        self,
        registry: Registry,
        bases: Mapping[str, ServedBase],
        limits: Limits,
        telemetry: Telemetry,
        trust: Trust,
        *,
        no_auth: bool,
    ) -> None:
        self.registry = registry
        self.bases = bases
        self.telemetry = telemetry
        self.trust = trust
        self.draining = False
        self._quarantine = Quarantine(registry, telemetry)
        self.database = DatabaseWatch(registry.ask_database)
        self._auth = Authenticator(registry, no_auth=no_auth)
        self._quota = Quota(limits.max_in_flight_per_tenant)
        self.limits = limits
        self._streams: set[Answers] = set()

    @property
    def in_flight(self) -> int:
        return self._quota.in_flight

    @property
    def ready(self) -> bool:
        """Whether every base is loaded and heard of, the database has not been away for longer
        than what it said last counts, and the server is not stopping."""
        engines = [base.engine for base in self.bases.values()]
        loaded = all(engine.alive and engine.heartbeat is not None for engine in engines)
        return loaded and not self.draining and not self.database.away

    @property
    def alive(self) -> bool:
        return all(base.engine.alive for base in self.bases.values())

    def interrupt(self) -> None:
        """End what still streams with an error that says so: the time to drain is over."""
        for stream in list(self._streams):
            stream.fail(Overloaded("the server is stopping; try again in a moment"))

    async def authenticate(self, authorization: str | None) -> KeyOwner:
        """The caller behind an `Authorization` value. Raises Unauthenticated, Forbidden."""
        return await self._auth.authenticate(authorization)

    async def resolve(self, caller: KeyOwner, model: str, param: str = "model") -> Target:
        """What `model` means for this caller now.

        Raises UnknownModel, AdapterMismatch; Untrusted where a signature is asked for in vain.
        """
        return (await self.resolve_all(caller, [model], param))[0]

    async def resolve_all(
        self, caller: KeyOwner, models: Sequence[str], param: str
    ) -> list[Target]:
        """Each of `models`, in one visit to the registry. Raises as `resolve` does."""
        named = dict.fromkeys(model for model in models if model not in self.bases)
        if not named:
            return [Target(model, self.bases[model]) for model in models]
        async with self._quarantine.watch([(caller.tenant, model) for model in named]):
            versions = await asyncio.to_thread(self._versions, caller, named, param)
            return [
                await self._target(model, versions[model], param)
                if model in versions
                else Target(model, self.bases[model])
                for model in models
            ]

    def _versions(self, caller: KeyOwner, models: Iterable[str], param: str) -> dict[str, Version]:
        found = {}
        for model in models:
            try:
                found[model] = self.registry.resolve(caller.tenant, model)
            except (NotFound, InvalidName):
                # One message for unknown and for somebody else's: neither tells the other apart.
                raise UnknownModel(
                    f"{param}: the model `{model}` does not exist; GET /v1/models lists yours",
                    param=param,
                ) from None
        return found

    async def _target(self, model: str, version: Version, param: str) -> Target:
        base = self.base_of(version)
        if base is None:
            served = ", ".join(sorted(self.bases))
            raise AdapterMismatch(
                f"{param}: {model} was made for the base {version.manifest.base.name} "
                f"({version.base_fingerprint[:19]}…), which is not served here (served: {served})",
                param=param,
            )
        # The only place where a version becomes what is answered with.
        await self.trust.check(version.digest)
        return Target(model, base, version)

    def base_of(self, version: Version) -> ServedBase | None:
        """The served base that the version was made for; None where it is not served."""
        for base in self.bases.values():
            if base.card.fingerprint == version.base_fingerprint:
                return base
        return None

    async def route(self, caller: KeyOwner, task: str, user: str | None) -> Target:
        """The target that the caller's route chooses for `task`. Raises UnknownModel."""
        try:
            route = await asyncio.to_thread(self.registry.route, caller.tenant, task)
        except (NotFound, InvalidName):
            raise UnknownModel(f"the task `{task}` has no route", param="task") from None
        for ref in candidates(route, user):
            try:
                return await self.resolve(caller, ref, param="task")
            except (ClientError, CorruptBlob):
                continue
        raise UnknownModel(
            f"the task `{task}` leads to no version that can be served; set its route again",
            param="task",
        )

    async def generate(
        self, caller: KeyOwner, target: Target, body: CompletionBody | ChatBody
    ) -> AsyncGenerator[Begun | list[Delta]]:
        """`Begun`, then the deltas of all answers as they come. Closing it cancels all rows.

        Every refusal is raised before `Begun`; after it, only an engine's fault is.
        """
        if body.stream_options is not None and not body.stream:
            raise BadRequest("stream_options: needs `stream` to be true", param="stream_options")
        async with self._admit(caller, [target]):
            ids = await asyncio.to_thread(prepare.prompts, target, body)
            if len(ids) * (body.n or 1) > self.limits.max_rows_per_request:
                raise BadRequest(
                    f"n: {len(ids)} prompts with n={body.n or 1} make more than "
                    f"{self.limits.max_rows_per_request} answers; ask in several requests",
                    param="n",
                )
            rows = prepare.rows(target, body, ids)
            base = target.base
            theirs = [replace(row, request=self._theirs(caller, row.request)) for row in rows]
            answers = Answers(base.engine, base.tokenizer, theirs)
            self._streams.add(answers)
            try:
                async with aclosing(self._begun_first(answers, Begun(target, ids))) as events:
                    async for event in events:
                        yield event
            finally:
                self._streams.discard(answers)

    async def _begun_first(
        self, answers: Answers, begun: Begun
    ) -> AsyncGenerator[Begun | list[Delta]]:
        """Hold `begun` back until the engine has answered: a refusal still has its own status."""
        name = begun.target.base.card.name
        self.telemetry.tokens("prompt", name, begun.prompt_tokens)
        async with aclosing(aiter(answers)) as batches:
            first = await anext(batches)
            yield begun
            self.telemetry.tokens("completion", name, len(first))
            yield first
            async for deltas in batches:
                self.telemetry.tokens("completion", name, len(deltas))
                yield deltas

    @asynccontextmanager
    async def _admit(self, caller: KeyOwner, targets: Sequence[Target]) -> AsyncIterator[None]:
        """Count the request against its tenant. Raises OverQuota, Overloaded."""
        versions = [target for target in targets if target.version or target.beside]
        digests = {digest for target in versions for digest in target.digests}
        if self.draining:
            raise Overloaded("the server is stopping; try again in a moment")
        names = {(v.tenant, v.ref) for target in targets for v in target.versions}
        with self._quota.admit(caller.tenant), self.telemetry.in_flight(digests):
            async with self._quarantine.watch(names):
                yield

    async def embed(self, caller: KeyOwner, target: Target, body: EmbeddingRequest) -> Embedded:
        """One vector per input, pooled as the base's card says."""
        if target.head_only:
            raise AdapterMismatch(
                f"model: {target.model} has only a head; embed with its base "
                f"({target.base.card.name}), classify with /v1/classify",
                param="model",
            )
        async with self._admit(caller, [target]):
            ids = await asyncio.to_thread(prepare.encode, target, as_list(body.input), "input")
            requests = [_pass(target, one) for one in ids]
            passes = await self._encode_all(caller, target.base, requests)
        vectors = [answer.embedding or [] for answer in passes]
        return Embedded(target, vectors, sum(map(len, ids)))

    async def classify(
        self, caller: KeyOwner, targets: Sequence[Target], body: ClassifyBody
    ) -> Classification:
        """The verdict of each target's head on each text; heads of one pass share it.

        Raises AdapterMismatch where a target has no head, or where bases differ.
        """
        verdict.check_heads(targets)
        groups = verdict.by_pass(targets)
        async with self._admit(caller, targets):
            asked = [
                await asyncio.to_thread(prepare.encode, group[0], body.texts, "input")
                for group in groups
            ]
            requests = [
                verdict.head_pass(group, ids)
                for texts in zip(*asked, strict=True)
                for group, ids in zip(groups, texts, strict=True)
            ]
            pieces = await asyncio.to_thread(verdict.pieces_of, targets, body.texts)
            passes = await self._encode_all(caller, targets[0].base, requests)
        data = []
        for index in range(len(body.texts)):
            mine = passes[index * len(groups) : (index + 1) * len(groups)]
            answers = {head.version: head for one in mine for head in one.heads}
            results = [verdict.verdict(t, answers[t.digest], pieces[index]) for t in targets]
            data.append(ClassifiedText(index=index, results=results))
        read = sum(map(len, asked[0]))
        return Classification(
            data=data,
            system_fingerprint=verdict.made_by(targets),
            usage=Usage(prompt_tokens=read, total_tokens=read),
        )

    def _theirs(self, caller: KeyOwner, command: C) -> C:
        """`command` in its tenant's turn, and with the latest moment at which it is of use."""
        deadline = time.monotonic() + self.limits.request_timeout_s
        return msgspec.structs.replace(command, owner=caller.tenant, deadline=deadline)

    async def _encode_all(
        self, caller: KeyOwner, base: ServedBase, requests: Sequence[Encode]
    ) -> list[Encoded]:
        """All passes, a bounded number at once. Cancelled, or with one failed, all are."""
        turn = asyncio.Semaphore(self.limits.max_rows_per_request)

        async def one(request: Encode) -> Encoded:
            async with turn:
                return await base.engine.encode(self._theirs(caller, request))

        tasks = [asyncio.create_task(one(request)) for request in requests]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        read = sum(len(request.prompt_ids) for request in requests)
        self.telemetry.tokens("prompt", base.card.name, read)
        return answers


def _pass(target: Target, ids: list[int]) -> Encode:
    return Encode(
        id=uuid.uuid4().hex, prompt_ids=ids, adapters=target.adapters, heads=[], embed=True
    )
