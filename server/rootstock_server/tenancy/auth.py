"""Who is asking: an `Authorization: Bearer` key, or a browser's password, becomes its owner.

Refuses to know what the owner asks for.
"""

from __future__ import annotations

import asyncio
import base64

from rootstock_registry import KeyOwner, Registry

from rootstock_server.errors import Forbidden, Unauthenticated

# Each role may do what the ones before it may.
ROLES = ("caller", "publisher", "admin")
LOCAL = KeyOwner(tenant="local", role="admin", key_id="no-auth")
# A longer header is not a key; it is not worth hashing.
MAX_HEADER_CHARS = 512


def check_role(owner: KeyOwner, needs: str) -> KeyOwner:
    """`owner` itself. Raises Forbidden where its role is too small."""
    if ROLES.index(owner.role) < ROLES.index(needs):
        raise Forbidden(f"this key has the role {owner.role}; this call needs the role {needs}")
    return owner


def from_password(authorization: str) -> str:
    """The password of HTTP Basic (RFC 7617) as a bearer key; any other value as it is."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > MAX_HEADER_CHARS:
        return authorization
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:  # not base64, or not UTF-8: refused like any other value that is no key
        return authorization
    return f"Bearer {pair.partition(':')[2]}"


class Authenticator:
    """With `no_auth`, everybody is the tenant `local`: only for the loopback address."""

    def __init__(self, registry: Registry, *, no_auth: bool) -> None:
        self._registry = registry
        self._no_auth = no_auth

    async def authenticate(self, authorization: str | None, needs: str = "caller") -> KeyOwner:
        """The owner of the key in the header's value.

        Raises Unauthenticated without a valid key, Forbidden where its role is too small.
        """
        owner = LOCAL if self._no_auth else await self._owner(authorization)
        return check_role(owner, needs)

    async def _owner(self, authorization: str | None) -> KeyOwner:
        if not authorization:
            raise Unauthenticated("no API key: send the header `Authorization: Bearer rsk_…`")
        scheme, _, secret = authorization.partition(" ")
        owner = None
        if scheme.lower() == "bearer" and len(secret) <= MAX_HEADER_CHARS:
            owner = await asyncio.to_thread(self._registry.key_owner, secret.strip())
        if owner is None:
            raise Unauthenticated("this API key is not valid here")
        return owner
