"""A task's weighted targets: shares, stickiness, fallback."""

from __future__ import annotations

from collections import Counter

from rootstock_registry import Route
from rootstock_server.tenancy.routing import candidates, choose


def _route(targets: dict[str, int], fallback: str | None = None, tenant: str = "acme") -> Route:
    return Route(tenant=tenant, task="triage", targets=targets, fallback=fallback)


def _shares(route: Route, users: int = 4000) -> Counter[str]:
    return Counter(candidates(route, f"user-{number}")[0] for number in range(users))


def test_users_are_shared_out_by_weight() -> None:
    shares = _shares(_route({"a@prod": 90, "b@prod": 10}))
    assert abs(shares["b@prod"] / 4000 - 0.1) < 0.02


def test_one_user_stays_with_one_target_however_the_route_was_written() -> None:
    one, other = _route({"a": 50, "b": 50}), _route({"b": 50, "a": 50})
    for number in range(50):
        first = candidates(one, f"user-{number}")
        assert first == candidates(one, f"user-{number}") == candidates(other, f"user-{number}")


def test_tenants_do_not_share_their_users_places() -> None:
    targets = {"a": 50, "b": 50}
    acme = [candidates(_route(targets), f"user-{n}") for n in range(200)]
    zeta = [candidates(_route(targets, tenant="zeta"), f"user-{n}") for n in range(200)]
    assert acme != zeta


def test_without_a_user_every_request_draws_anew() -> None:
    drawn = Counter(candidates(_route({"a": 50, "b": 50}), None)[0] for _ in range(500))
    assert set(drawn) == {"a", "b"}


def test_the_fallback_comes_after_the_chosen_target_and_never_twice() -> None:
    assert candidates(_route({"a": 1}, "safe"), "u") == ["a", "safe"]
    assert candidates(_route({"a": 1}, "a"), "u") == ["a"]
    assert candidates(_route({"a": 0}, "safe"), "u") == ["safe"]


def test_a_target_without_weight_is_never_chosen() -> None:
    assert choose({"a": 0, "b": 1}, 0.0) == "b"
    assert choose({"a": 1, "b": 0}, 0.999999) == "a"
    assert choose({"a": 0}, 0.5) is None
