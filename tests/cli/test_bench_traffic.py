"""The traffic of a load: popularity follows its power law, arrivals their rate; within chance."""

from __future__ import annotations

from collections import Counter
from math import exp
from random import Random
from statistics import mean

import pytest
from rootstock_cli.bench.traffic import FIRST_ID, by_power_law, poisson, popularity, prompt

COUNT = 20_000


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_the_kth_model_is_asked_as_often_as_its_power_law_says(exponent: float) -> None:
    names = [f"a{number}" for number in range(20)]
    drawn = Counter(by_power_law(names, exponent, COUNT, Random(1)))
    shares = popularity(len(names), exponent)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] / shares[9] == pytest.approx(10**exponent)
    for name, share in zip(names, shares, strict=True):
        deviation = (COUNT * share * (1 - share)) ** 0.5
        assert abs(drawn[name] - COUNT * share) < 4 * deviation


def test_arrivals_have_the_asked_rate_and_exponential_gaps() -> None:
    rate = 8.0
    due = poisson(rate, COUNT, Random(2))
    gaps = [later - earlier for earlier, later in zip([0.0, *due], due, strict=False)]
    assert all(gap > 0 for gap in gaps)
    # The mean of n exponential gaps deviates by 1 / (rate * sqrt(n)).
    assert abs(mean(gaps) - 1 / rate) < 4 / (rate * COUNT**0.5)
    longer = sum(gap > 1 / rate for gap in gaps) / COUNT
    assert longer == pytest.approx(exp(-1), abs=4 * (0.25 / COUNT) ** 0.5)


def test_counts_in_equal_intervals_vary_as_a_poisson_process_does() -> None:
    due = poisson(5.0, COUNT, Random(3))
    counts = Counter(int(second) for second in due)
    per_second = [counts[second] for second in range(int(due[-1]))]
    middle = mean(per_second)
    variance = mean((count - middle) ** 2 for count in per_second)
    assert variance / middle == pytest.approx(1, abs=0.15)


def test_prompts_have_the_asked_length_and_no_special_tokens() -> None:
    ids = prompt(5000, 40, Random(4))
    assert len(ids) == 5000
    assert (min(ids), max(ids)) == (FIRST_ID, 39)
