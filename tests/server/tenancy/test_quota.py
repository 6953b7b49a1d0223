"""In-flight limits per tenant."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from rootstock_server.errors import OverQuota
from rootstock_server.tenancy.quota import Quota


def test_the_limit_is_exact_and_per_tenant() -> None:
    quota = Quota(2)
    with ExitStack() as held:
        held.enter_context(quota.admit("acme"))
        held.enter_context(quota.admit("acme"))
        with pytest.raises(OverQuota) as refused, quota.admit("acme"):
            pass
        assert refused.value.status == 429
        assert refused.value.retry_after_s
        with quota.admit("other"):
            assert quota.in_flight == 3
    assert quota.in_flight == 0


def test_a_failed_request_gives_its_place_back() -> None:
    quota = Quota(1)
    with pytest.raises(RuntimeError), quota.admit("acme"):
        raise RuntimeError("the request failed")
    with quota.admit("acme"):
        assert quota.in_flight == 1
