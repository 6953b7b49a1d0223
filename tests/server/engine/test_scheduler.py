"""What runs next, told by the batches: order, budgets, blocks, leases, and their return."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.op import Prepared, Readout
from rootstock_server.adapters.residency import Residency
from rootstock_server.adapters.slots import Slots
from rootstock_server.backends.kv_cache import BLOCK_TOKENS
from rootstock_server.backends.reference import Reference
from rootstock_server.config import EngineLimits
from rootstock_server.engine.kv_blocks import KvBlocks
from rootstock_server.engine.request import (
    Adapter,
    Batch,
    Encode,
    Encoded,
    Generate,
    Sampled,
    Sampling,
)
from rootstock_server.engine.scheduler import Scheduler
from rootstock_server.errors import BadRequest, Overloaded

CARD = BaseCard(
    name="toy", fingerprint="sha256:0", model_type="llama", task="generate", hidden_size=4,
    layers=1, vocab_size=100, context_length=256, pooling="last", normalize=True, linears={},
)  # fmt: skip
EOS = 2


class Desk:
    """A scheduler over real blocks and real residency, whose base answers the same token."""

    def __init__(self, blocks: int | None, limits: EngineLimits) -> None:
        self.residency = Residency(Slots([], 64, Reference()), self._fetch, 1 << 20)
        self.blocks = KvBlocks(blocks) if blocks else None
        self.scheduler = Scheduler(limits, self.residency, self.blocks, frozenset({EOS}), CARD)

    @staticmethod
    def _fetch(digest: str) -> Prepared:
        return Prepared(readout=Readout("mean", False, ("a",), torch.ones(1, 4), torch.ones(1)))

    def add(self, name: str, tokens: int = 4, **more: object) -> None:
        self.ask(name, [5] * tokens, **more)

    def ask(
        self, name: str, prompt: list[int], version: str | None = None, owner: str = "",
        deadline: float | None = None, **more: object,
    ) -> None:  # fmt: skip
        sampling = Sampling(**({"max_tokens": 4, "temperature": 0.0} | more))
        self.scheduler.add(
            Generate(
                id=name, prompt_ids=prompt, sampling=sampling, owner=owner, deadline=deadline,
                adapters=[Adapter(version)] if version else [],
            )
        )  # fmt: skip

    def encode(self, name: str, tokens: int) -> None:
        self.scheduler.add(Encode(id=name, prompt_ids=[5] * tokens, heads=[]))

    def batch(self) -> Batch:
        self.residency.settle([request.versions for request in self.scheduler.waiting])
        return self.scheduler.next_batch()

    def commit(self, batch: Batch, token: int = 7) -> list:
        def output(share):
            if not share.completes:
                return None
            if isinstance(share.request.command, Encode):
                return Encoded(id=share.request.id, embedding=None, heads=[])
            return Sampled(token)

        return self.scheduler.commit(batch, [output(share) for share in batch.shares])

    def step(self, token: int = 7) -> list[tuple[str, int]]:
        """Run one step; what it held, as (request, tokens)."""
        batch = self.batch()
        self.commit(batch, token)
        return [(share.request.id, share.tokens) for share in batch.shares]

    def bring(self, *digests: str) -> None:
        for digest in digests:
            for _ in range(2):
                self.residency.settle([{digest}])
                for load in list(self.residency._loading.values()):
                    load.result(60)

    @property
    def leases(self) -> int:
        return sum(version.leases for version in self.residency)

    def is_empty(self) -> bool:
        nobody = not self.scheduler.running and not self.scheduler.waiting
        return nobody and not self.leases and (self.blocks is None or not self.blocks.used)


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    """`desk(blocks=8, max_running=4)`; `blocks=None` is an encoder's."""
    made: list[Desk] = []

    def build(blocks: int | None = 64, **limits: int) -> Desk:
        made.append(Desk(blocks, EngineLimits(**limits)))
        return made[-1]

    yield build
    for one in made:
        one.residency.close()


def test_decode_rows_come_first_and_prompts_share_what_is_left(desk):
    one = desk(max_batch_tokens=10)
    one.add("a", 4)
    one.add("b", 3)
    assert one.step() == [("a", 4), ("b", 3)]
    one.add("c", 20)
    batch = one.batch()
    assert [(s.request.id, s.tokens) for s in batch.shares] == [("a", 1), ("b", 1), ("c", 8)]
    assert batch.decode_rows == 2
    one.commit(batch)
    assert one.step() == [("a", 1), ("b", 1), ("c", 8)]
    assert one.step() == [("a", 1), ("b", 1), ("c", 4)]


def test_a_prompt_that_is_half_read_goes_before_new_ones(desk):
    one = desk(max_batch_tokens=8)
    one.add("long", 14)
    one.add("short", 3)
    assert one.step() == [("long", 8)]
    assert one.step() == [("long", 6), ("short", 2)]
    assert one.step() == [("long", 1), ("short", 1)]


@pytest.mark.parametrize("budget", [1, 2, 5, 64])
def test_no_step_is_over_the_token_budget_and_all_are_answered(desk, budget):
    one = desk(max_batch_tokens=budget, max_running=16)
    chance = random.Random(budget)
    for number in range(20):
        one.add(str(number), chance.randint(1, 30), max_tokens=chance.randint(1, 9))
    steps = 0
    while not one.is_empty():
        assert sum(tokens for _, tokens in one.step()) <= budget
        steps += 1
        assert steps < 2000


def test_no_more_than_max_running_run_and_the_rest_come_in_order(desk):
    one = desk(max_running=2)
    for name in "abc":
        one.add(name, max_tokens=2)
    assert [name for name, _ in one.step()] == ["a", "b"]
    assert [name for name, _ in one.step()] == ["a", "b"]
    assert [name for name, _ in one.step()] == ["c"]


def test_who_waits_for_a_version_lets_others_pass(desk):
    one = desk()
    one.bring("here")
    one.add("waits", version="elsewhere")
    one.add("ready", version="here")
    one.add("base")
    batch = one.scheduler.next_batch()
    assert {share.request.id for share in batch.shares} == {"ready", "base"}
    one.commit(batch)
    one.bring("elsewhere")
    assert ("waits", 4) in one.step()


def test_who_waits_for_blocks_lets_nobody_pass(desk):
    """Or a long request would wait for ever behind a stream of short ones."""
    one = desk(blocks=5)
    one.add("a", 60, max_tokens=4)  # two blocks
    one.ask("long", [6] * 90, max_tokens=4)  # three
    one.ask("short", [7] * 4, max_tokens=4)
    assert [name for name, _ in one.step()] == ["a"]
    while any(request.id == "a" for request in one.scheduler.running):
        assert [name for name, _ in one.step()] == ["a"]
    assert [name for name, _ in one.step()] == ["long", "short"]


def test_blocks_are_taken_as_they_are_needed(desk):
    one = desk(blocks=4)
    one.add("a", 31, max_tokens=40)
    held = [len(one.scheduler.running[0].blocks) for _ in range(35) if one.step()]
    assert held == [1] * 2 + [2] * 32 + [3]


def test_the_last_to_enter_makes_room_and_is_read_again(desk):
    one = desk(blocks=3)
    one.add("old", 30, max_tokens=40, owner="x")
    one.add("new", 20, max_tokens=20, owner="y")
    steps = [one.step() for _ in range(4)]
    assert steps[:3] == [[("old", 30), ("new", 20)]] + [[("old", 1), ("new", 1)]] * 2
    while one.scheduler.preemptions == 0:
        steps.append(one.step())
    assert [request.id for request in one.scheduler.running] == ["old"]
    assert one.scheduler.waiting[0].computed == 0
    events = []
    while not one.is_empty():
        batch = one.batch()
        events += one.commit(batch)
    tokens = [event.id for event in events]
    # What was generated before is not generated again.
    generated = {name: sum(1 for s in steps for n, t in s if n == name) for name in ("old", "new")}
    assert tokens.count("new") + generated["new"] >= 20
    assert {e.id: e.finish_reason for e in events if e.finish_reason} == {
        "old": "length",
        "new": "length",
    }


def test_every_block_belongs_to_one_request_or_to_one_prefix(desk):
    one = desk(blocks=12, max_batch_tokens=16)
    chance = random.Random(3)
    for number in range(60):
        prompt = [chance.choice([5, 6])] * 32 + [chance.randint(3, 9)] * chance.randint(1, 38)
        one.ask(str(number), prompt, max_tokens=chance.randint(1, 40), owner=chance.choice("xy"))
    while not one.is_empty():
        one.step()
        running = one.scheduler.running
        held = Counter(block for request in running for block in request.blocks)
        assert len(held) == one.blocks.used
        for block in (block for block, holders in held.items() if holders > 1):
            sharing = [request for request in running if block in request.blocks]
            [place] = {request.blocks.index(block) for request in sharing}
            stop = (place + 1) * BLOCK_TOKENS
            assert len({tuple(request.tokens[:stop]) for request in sharing}) == 1
            assert len({request.owner for request in sharing}) == 1
            assert all(request.computed >= stop for request in sharing)
        if chance.random() < 0.2 and running:
            one.scheduler.cancel(chance.choice(running).id)
    assert one.scheduler.prefix_hit_tokens > 0


def test_a_prefix_is_found_again_under_the_same_adapters_and_owner_only(desk):
    one = desk()
    one.bring("v", "w")
    prompt = list(range(3, 73))  # two full blocks and a rest

    def hits(name: str, tokens: list[int], **more: object) -> int:
        before = one.scheduler.prefix_hit_tokens
        one.ask(name, tokens, max_tokens=1, **more)
        while not one.is_empty():
            one.step()
        return one.scheduler.prefix_hit_tokens - before

    assert hits("first", prompt, version="v", owner="x") == 0
    assert hits("again", prompt, version="v", owner="x") == 64
    assert hits("other version", prompt, version="w", owner="x") == 0
    assert hits("base", prompt, owner="x") == 0
    assert hits("other owner", prompt, version="v", owner="y") == 0
    assert hits("other end", [*prompt[:40], 9, *prompt[41:]], version="v", owner="x") == 32
    assert hits("other start", [9, *prompt[1:]], version="v", owner="x") == 0
    # The last token is always read: the answer comes from it.
    assert hits("exactly two blocks", prompt[:64], version="v", owner="x") == 32


def test_a_prompt_that_was_never_read_to_its_end_is_no_prefix(desk):
    one = desk(max_batch_tokens=32)
    one.add("a", 70)
    one.step()
    one.scheduler.cancel("a")
    one.add("b", 70)
    one.step()
    assert one.scheduler.prefix_hit_tokens == 0


def test_a_kept_prefix_gives_way_to_new_content(desk):
    one = desk(blocks=4)
    for number in range(10):
        one.ask(str(number), [number + 3] * 90, max_tokens=2)
        while not one.is_empty():
            one.step()
    assert one.blocks.available == 4


def test_a_flood_from_one_owner_does_not_delay_another(desk):
    one = desk(max_running=2)
    for number in range(50):
        one.add(f"flood{number}", 4, max_tokens=3, owner="loud")
    for _ in range(7):
        one.step()
    one.add("quiet", 4, max_tokens=3, owner="quiet")
    names = [name for _ in range(4) for name, _ in one.step()]
    assert "quiet" in names


def test_owners_get_equal_shares_of_tokens_whatever_they_ask_for(desk):
    one = desk(max_running=4, blocks=256, max_waiting=1000)
    for number in range(200):
        one.add(f"long{number}", 60, max_tokens=60, owner="long")
        one.add(f"short{number}", 4, max_tokens=4, owner="short")
    cost = Counter()
    for _ in range(150):
        batch = one.batch()
        for share in batch.shares:
            cost[share.request.owner] += 2 if share.request.decoding else share.tokens
        one.commit(batch)
    # VTC bounds the difference by what may run at once: four of the longest requests.
    assert abs(cost["long"] - cost["short"]) <= 4 * (60 + 2 * 60)


def test_who_returns_has_not_saved_up_turns(desk):
    one = desk(max_running=1)
    one.add("a", 4, max_tokens=1, owner="x")
    one.step()
    for number in range(20):
        one.add(f"y{number}", 50, max_tokens=2, owner="y")
    for _ in range(20):
        one.step()
    for number in range(20):
        one.add(f"x{number}", 50, max_tokens=2, owner="x")
    names = [name[0] for _ in range(16) for name, _ in one.step()]
    assert 3 < names.count("x") < 13


def test_a_deadline_ends_a_request_wherever_it_is(desk):
    one = desk(max_running=1)
    one.add("runs", deadline=100.0)
    one.add("waits", deadline=100.0)
    one.add("stays", deadline=300.0)
    one.step()
    assert one.scheduler.expire(99.0) == []
    events = one.scheduler.expire(101.0)
    assert {(e.id, e.error) for e in events} == {
        ("runs", "DeadlineExceeded"), ("waits", "DeadlineExceeded"),
    }  # fmt: skip
    assert one.step() == [("stays", 4)]


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_cancel_frees_blocks_and_leases_at_once_at_every_stage(desk, steps):
    """Waiting, half read, just read, decoding."""
    one = desk(max_batch_tokens=8)
    one.bring("v")
    one.add("a", 12, version="v", max_tokens=9)
    for _ in range(steps):
        one.step()
    assert one.leases == (1 if steps else 0)
    assert one.blocks.used == (1 if steps else 0)
    one.scheduler.cancel("a")
    assert one.is_empty()
    one.scheduler.cancel("a")
    one.scheduler.cancel("never heard of")
    assert one.step() == []


def test_blocks_and_leases_are_free_when_answered(desk):
    one = desk()
    one.bring("v")
    one.add("length", version="v", max_tokens=2)
    one.add("stop", version="v", max_tokens=9)
    one.step()
    assert one.leases == 2
    events = one.commit(one.batch(), token=EOS)
    assert {e.id: e.finish_reason for e in events} == {"length": "stop", "stop": "stop"}
    assert one.is_empty()


@pytest.mark.parametrize(("ignore_eos", "tokens"), [(False, 1), (True, 5)])
def test_the_end_token_ends_unless_it_is_to_be_ignored(desk, ignore_eos, tokens):
    one = desk()
    one.add("a", max_tokens=5, ignore_eos=ignore_eos)
    count = 0
    while not one.is_empty():
        one.step(token=EOS)
        count += 1
    assert count == tokens


def test_a_full_queue_is_overloaded_and_a_place_in_it_comes_free(desk):
    one = desk(max_waiting=2, max_running=1)
    one.add("a")
    one.add("b")
    with pytest.raises(Overloaded, match="try again"):
        one.add("c")
    one.step()
    one.add("c")


@pytest.mark.parametrize(("tokens", "new"), [(257, 1), (256, 1), (200, 57), (0, 1)])
def test_what_does_not_fit_the_context_is_a_bad_request(desk, tokens, new):
    one = desk()
    with pytest.raises(BadRequest, match="context of 256"):
        one.add("a", tokens, max_tokens=new)
    assert one.is_empty()
    one.add("b", 200, max_tokens=56)


def test_what_can_never_fit_the_cache_is_a_bad_request(desk):
    one = desk(blocks=2)
    with pytest.raises(BadRequest, match="kv_cache_mib"):
        one.add("a", 60, max_tokens=5)
    one.add("b", 60, max_tokens=4)


def test_an_encoder_takes_whole_texts_as_many_as_fit(desk):
    one = desk(blocks=None, max_batch_tokens=10)
    for name, tokens in (("a", 6), ("b", 4), ("c", 9), ("huge", 50), ("d", 2)):
        one.encode(name, tokens)
    assert one.step() == [("a", 6), ("b", 4)]
    assert one.step() == [("c", 9)]
    assert one.step() == [("huge", 50)]
    assert one.step() == [("d", 2)]
    assert one.is_empty()


def test_a_decoder_reads_a_text_for_its_heads_in_chunks(desk):
    one = desk(max_batch_tokens=10)
    one.encode("a", 25)
    assert [one.step() for _ in range(3)] == [[("a", 10)], [("a", 10)], [("a", 5)]]
    assert one.is_empty()


def test_a_failed_version_fails_only_who_waits_for_it(desk):
    one = desk()
    one.bring("here")
    one.add("a", version="broken")
    one.add("b", version="here")
    [failed] = one.scheduler.drop_unloadable({"broken": BadRequest("no")})
    assert (failed.id, failed.error, failed.message) == ("a", "BadRequest", "no")
    assert [request.id for request in one.scheduler.waiting] == ["b"]
