"""Each row's token by its own rules: distributions, seeds, bounds, and rows that are broken."""

from __future__ import annotations

import pytest
import torch
from rootstock_server.engine.request import Fault, Generate, Request, Sampling
from rootstock_server.engine.sampler import sample

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
EOS = frozenset({0})
DRAWS = 4000


def row(seed: int | None = 0, **sampling: object) -> Request:
    """A request that has generated nothing yet."""
    options: dict[str, object] = {"max_tokens": 9, "temperature": 1.0} | sampling
    command = Generate(id="a", prompt_ids=[1], sampling=Sampling(seed=seed, **options))
    request = Request(command, [1])
    if command.sampling.temperature > 0:
        request.generator = torch.Generator().manual_seed(seed or 0)
    return request


def drawn(request: Request, logits: torch.Tensor = LOGITS) -> torch.Tensor:
    """How often each token came, in many draws by one request's generator."""
    tokens = [sample(logits[None], [request], EOS)[0].token_id for _ in range(DRAWS)]
    return torch.bincount(torch.tensor(tokens), minlength=len(logits))


def assert_follows(counts: torch.Tensor, expected: torch.Tensor) -> None:
    """Pearson's chi-square; 20.5 is the 99.9 % point of 5 degrees of freedom."""
    assert not counts[expected == 0].any()
    possible = expected > 0
    wanted = expected[possible] * DRAWS
    statistic = ((counts[possible] - wanted) ** 2 / wanted).sum()
    assert statistic < 20.5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_tokens_follow_the_softmax_at_a_temperature(temperature: float) -> None:
    counts = drawn(row(temperature=temperature))
    assert_follows(counts, torch.softmax(LOGITS / temperature, 0))


def test_the_chi_square_tells_one_temperature_from_another() -> None:
    """Precondition of the tests above: what is wrong fails."""
    with pytest.raises(AssertionError):
        assert_follows(drawn(row(temperature=1.0)), torch.softmax(LOGITS / 1.2, 0))


@pytest.mark.parametrize("top_k", [1, 3, 6, 100])
def test_top_k_draws_among_the_k_best(top_k: int) -> None:
    kept = torch.where(torch.arange(6) < top_k, LOGITS, float("-inf"))
    assert_follows(drawn(row(top_k=top_k)), torch.softmax(kept, 0))


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.7, 2), (0.85, 3), (1.0, 6), (1e-9, 1)])
def test_top_p_draws_from_the_smallest_set_that_reaches_p(top_p: float, kept: int) -> None:
    expected = torch.where(torch.arange(6) < kept, LOGITS, float("-inf"))
    assert_follows(drawn(row(top_p=top_p)), torch.softmax(expected, 0))


@pytest.mark.parametrize("flatness", [1.0, 1000.0])
def test_top_p_keeps_the_same_tokens_of_a_large_vocabulary_however_many_they_are(flatness):
    """A few of 3000, or nearly half of them: more than are looked at first."""
    logits = torch.randn(3000, generator=torch.Generator().manual_seed(4)) * 3 / flatness
    order = torch.softmax(logits, 0).sort(descending=True)
    before = order.values.cumsum(0) - order.values
    kept = set(order.indices[before < 0.5].tolist())
    assert (len(kept) > 1000) == (flatness > 1)
    request = row(top_p=0.5)
    tokens = [sample(logits[None], [request], EOS)[0].token_id for _ in range(DRAWS)]
    assert set(tokens) <= kept
    assert len(set(tokens)) > len(kept) / 2


def test_top_p_comes_after_top_k() -> None:
    """Of the two best, the first has 73 %: with top_p 0.7 it is alone."""
    assert drawn(row(top_k=2, top_p=0.7))[0] == DRAWS
    assert_follows(
        drawn(row(top_k=2, top_p=0.75)),
        torch.softmax(torch.tensor([2.0, 1.0, *[float("-inf")] * 4]), 0),
    )


def test_the_order_of_the_vocabulary_does_not_matter() -> None:
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    counts = drawn(row(top_p=0.85), LOGITS[order])
    kept = torch.where(order < 3, LOGITS[order], float("-inf"))
    assert_follows(counts, torch.softmax(kept, 0))


def test_greedy_takes_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    [output] = sample(logits, [row(temperature=0.0)], frozenset())
    assert output.token_id == 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45, 5e-324])
def test_a_tiny_temperature_is_greedy_and_breaks_nothing(temperature: float) -> None:
    logits = torch.tensor([[0.0, 30.0, 29.0, -1e30]])
    requests = [row(temperature=temperature, **more) for more in ({}, {"top_p": 0.9}, {"top_k": 2})]
    outputs = sample(logits.expand(3, -1), requests, EOS)
    assert [output.token_id for output in outputs] == [1, 1, 1]


def test_a_seeded_row_draws_the_same_beside_others() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(1))
    alone = [sample(logits[2:3], [one], EOS)[0].token_id for one in [row(seed=7)] * 20]
    others = [row(seed=n) for n in range(5)]
    others[2] = row(seed=7)
    beside = [sample(logits, others, EOS)[2].token_id for _ in range(20)]
    assert alone == beside
    assert len(set(alone)) > 3


def test_the_end_is_not_drawn_before_min_tokens() -> None:
    greedy, drawing = row(temperature=0.0, min_tokens=2), row(min_tokens=2)
    for request in (greedy, drawing):
        tokens = []
        for _ in range(4):
            [output] = sample(LOGITS[None], [request], EOS)
            request.tokens.append(output.token_id)
            tokens.append(output.token_id)
        assert 0 not in tokens[:2]
    assert greedy.tokens == [1, 1, 1, 0, 0]


def test_logprobs_are_those_of_the_base_distribution() -> None:
    """As OpenAI and vLLM give them: before temperature and cuts."""
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(2))
    wanted = torch.log_softmax(logits[0], 0)
    [output] = sample(logits, [row(temperature=0.3, top_k=5, logprobs=7)], EOS)
    assert output.logprob == pytest.approx(float(wanted[output.token_id]))
    best = wanted.topk(7)
    assert [token for token, _ in output.top_logprobs] == best.indices.tolist()
    assert [value for _, value in output.top_logprobs] == pytest.approx(best.values.tolist())
    [output] = sample(logits, [row(logprobs=0)], EOS)
    assert output.logprob is not None and output.top_logprobs == ()
    [output] = sample(logits, [row(logprobs=99)], EOS)
    assert len(output.top_logprobs) == 40


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_is_a_fault_and_its_neighbours_are_not(broken: float) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 4] = broken
    outputs = sample(logits, [row(temperature=0.0) for _ in range(3)], EOS)
    assert isinstance(outputs[1], Fault) and "numerical_error" in outputs[1].message
    assert [outputs[0].token_id, outputs[2].token_id] == [0, 0]
