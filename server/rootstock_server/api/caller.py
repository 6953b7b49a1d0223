"""Who asks: the owner of the key that came with a request, as the outermost skin let it in.

Refuses to know keys: `tenancy/auth.py` has read them.
"""

from __future__ import annotations

from typing import cast

from fastapi import Request
from rootstock_registry import KeyOwner

from rootstock_server.tenancy.auth import check_role


def caller_of(request: Request, needs: str = "caller") -> KeyOwner:
    """Raises Forbidden where the caller's role is smaller than `needs`."""
    return check_role(cast(KeyOwner, request.scope["caller"]), needs)
