"""Every parameter, alone and together, against a slow computation in plain Python."""

from __future__ import annotations

import math
import random

import pytest
import torch
from rootstock_server.engine.request import Fault, Generate, Request, Sampling
from rootstock_server.engine.sampler import sample

WORDS = 6  # of the vocabulary
DRAWS = 3000
EOS = frozenset({0})


def reference(
    logits: list[float], sampling: Sampling, prompt: list[int], made: list[int]
) -> list[float]:
    """The probability of each token, straight from the definitions."""
    changed = list(logits)
    for token in range(len(changed)):
        changed[token] += sampling.logit_bias.get(token, 0.0)
        if token in prompt or token in made:
            if changed[token] > 0:
                changed[token] /= sampling.repetition_penalty
            else:
                changed[token] *= sampling.repetition_penalty
        changed[token] -= sampling.frequency_penalty * made.count(token)
        changed[token] -= sampling.presence_penalty * (token in made)
        if token in EOS and len(made) < sampling.min_tokens:
            changed[token] = -math.inf
    order = sorted(range(len(changed)), key=lambda token: -changed[token])
    if sampling.temperature == 0:
        return [float(token == order[0]) for token in range(len(changed))]
    weights = [math.exp((x - changed[order[0]]) / sampling.temperature) for x in changed]
    kept = [token for token in order if weights[token] >= sampling.min_p]
    kept = kept[: sampling.top_k] if sampling.top_k else kept
    total, mass, nucleus = sum(weights[token] for token in kept), 0.0, []
    for token in kept:
        if mass < sampling.top_p * total:
            nucleus.append(token)
        mass += weights[token]
    total = sum(weights[token] for token in nucleus)
    return [weights[t] / total if t in nucleus else 0.0 for t in range(len(changed))]


def request_of(sampling: Sampling, prompt: list[int], made: list[int]) -> Request:
    command = Generate(id="a", prompt_ids=prompt, sampling=sampling)
    request = Request(command, [*prompt, *made])
    if sampling.temperature > 0:
        request.generator = torch.Generator().manual_seed(sampling.seed or 0)
    return request


def check(sampling: Sampling, seed: int, words: int = WORDS) -> None:
    """Draws follow the reference: Pearson's chi-square, 27.9 is beyond 99.99 % of 5 degrees."""
    rng = random.Random(seed)
    logits = [rng.gauss(0, 1.5) for _ in range(words)]
    prompt, made = rng.choices(range(words), k=3), rng.choices(range(words), k=3)
    expected = reference(logits, sampling, prompt, made)
    row, request = torch.tensor([logits]), request_of(sampling, prompt, made)
    tokens = [sample(row, [request], EOS)[0].token_id for _ in range(DRAWS)]
    statistic = 0.0
    for token, share in enumerate(expected):
        found = tokens.count(token)
        assert share > 0 or not found, (token, expected)
        statistic += (found - share * DRAWS) ** 2 / (share * DRAWS) if share else 0.0
    assert statistic < 27.9, (expected, [tokens.count(t) / DRAWS for t in range(words)])


ALONE = [
    {}, {"temperature": 0.4}, {"top_k": 2}, {"top_p": 0.6}, {"min_p": 0.3}, {"min_p": 1.0},
    {"presence_penalty": 1.5}, {"presence_penalty": -1.5}, {"frequency_penalty": 1.0},
    {"frequency_penalty": -0.7}, {"repetition_penalty": 1.8}, {"repetition_penalty": 0.5},
    {"logit_bias": {1: 3.0, 4: -3.0}}, {"logit_bias": {2: -100.0}}, {"logit_bias": {5: 100.0}},
    {"min_tokens": 4}, {"min_tokens": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", ALONE, ids=str)
def test_each_parameter_alone_does_what_its_definition_says(options: dict) -> None:
    check(Sampling(max_tokens=9, seed=1, **options), seed=7)


def test_a_parameter_that_is_not_applied_would_be_seen() -> None:
    """Precondition of this file: the check tells settings apart."""
    plain = Sampling(max_tokens=9, seed=1)
    told = Sampling(max_tokens=9, seed=1, presence_penalty=1.5)
    logits = [0.3, -0.2, 0.5, 0.1, -1.0, 0.0]
    apart = zip(
        reference(logits, plain, [1], [2, 2, 3]),
        reference(logits, told, [1], [2, 2, 3]),
        strict=True,
    )
    assert sum(abs(a - b) for a, b in apart) > 0.3


@pytest.mark.parametrize("seed", range(25))
def test_any_parameters_together_do_what_their_definitions_say(seed: int) -> None:
    rng = random.Random(seed)
    options = {
        "temperature": rng.choice([0.5, 1.0, 1.6]),
        "top_k": rng.choice([0, 3, 5]),
        "top_p": rng.choice([1.0, 0.8]),
        "min_p": rng.choice([0.0, 0.05, 0.2]),
        "presence_penalty": rng.uniform(-2, 2),
        "frequency_penalty": rng.uniform(-2, 2),
        "repetition_penalty": rng.choice([1.0, 1.3, 0.8]),
        "logit_bias": {rng.randrange(WORDS): rng.uniform(-3, 3)},
        "min_tokens": rng.choice([0, 5]),
    }
    check(Sampling(max_tokens=9, seed=seed, **options), seed=seed)


def test_greedy_rows_follow_the_reference_token_by_token() -> None:
    """Counts are kept over a whole answer, and each row keeps its own."""
    rng = random.Random(0)
    draws = torch.Generator().manual_seed(0)
    samplings = [
        Sampling(max_tokens=99, temperature=0.0),
        Sampling(max_tokens=99, temperature=0.0, frequency_penalty=0.6),
        Sampling(max_tokens=99, temperature=0.0, presence_penalty=1.2, min_tokens=20),
        Sampling(max_tokens=99, temperature=0.0, repetition_penalty=1.7),
        Sampling(max_tokens=99, temperature=0.0, logit_bias={3: 1.0, 2: -1.0}),
    ]
    rows = [request_of(each, rng.choices(range(30), k=4), []) for each in samplings]
    for _ in range(40):
        logits = torch.randn(len(rows), 30, generator=draws)
        outputs = sample(logits, rows, EOS)
        for row, each, output in zip(rows, logits, outputs, strict=True):
            prompt, made = row.tokens[:4], row.tokens[4:]
            expected = reference(each.tolist(), row.command.sampling, prompt, made)
            assert expected[output.token_id] == 1.0
            row.tokens.append(output.token_id)


def test_a_seeded_row_with_every_parameter_draws_the_same_beside_any_others() -> None:
    def rows(seed: int) -> list[Request]:
        options = {"frequency_penalty": 0.5, "repetition_penalty": 1.2, "min_p": 0.02, "top_p": 0.9}
        return [
            request_of(Sampling(max_tokens=9, seed=seed, **options), [1, 2], []),
            request_of(Sampling(max_tokens=9, temperature=0.0), [3], []),
            request_of(Sampling(max_tokens=9, seed=99, logit_bias={4: 5.0}), [4], []),
        ]

    generator = torch.Generator().manual_seed(3)
    steps = [torch.randn(3, 50, generator=generator) for _ in range(30)]

    def answers(requests: list[Request], which: list[int]) -> list[list[int]]:
        for logits in steps:
            for request, output in zip(requests, sample(logits[which], requests, EOS), strict=True):
                request.tokens.append(output.token_id)
        return [request.tokens for request in requests]

    [alone] = answers(rows(5)[:1], [0])
    mixed = rows(5)
    assert answers([mixed[2], mixed[1], mixed[0]], [2, 1, 0])[2] == alone
    assert len(set(alone)) > 5
    assert answers(rows(6)[:1], [0])[0] != alone


def test_logits_are_not_changed_for_others_and_logprobs_are_the_models_own() -> None:
    logits = torch.randn(2, 20, generator=torch.Generator().manual_seed(4))
    before = logits.clone()
    options = {"logprobs": 20, "logit_bias": {1: 50.0}, "min_tokens": 3, "presence_penalty": 1.0}
    [output] = sample(logits[:1], [request_of(Sampling(max_tokens=9, **options), [1], [2])], EOS)
    assert torch.equal(logits, before)
    assert output.token_id == 1
    wanted = torch.log_softmax(before[0], 0)
    assert output.logprob == pytest.approx(float(wanted[1]))
    assert dict(output.top_logprobs) == pytest.approx(dict(enumerate(wanted.tolist())))


def test_a_row_that_cannot_be_sampled_is_a_fault_and_its_neighbours_draw_once(caplog) -> None:
    """A step whose rows were drawn is never tried again: their random numbers are used up."""
    logits = torch.zeros(2, 20)
    good = request_of(Sampling(max_tokens=9, seed=1), [1], [])
    broken = request_of(Sampling(max_tokens=9, seed=1), [1], [])
    broken.command = None  # type: ignore[assignment]  # our own mistake, whatever it is
    [token, fault] = sample(logits, [good, broken], EOS)
    assert isinstance(fault, Fault) and fault.error == "ServerFault"
    [alone] = sample(logits[:1], [request_of(Sampling(max_tokens=9, seed=1), [1], [])], EOS)
    assert token.token_id == alone.token_id
