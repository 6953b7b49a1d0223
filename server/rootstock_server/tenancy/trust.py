"""Which versions may answer at all: every one, or those alone that a trusted key has signed.

Refuses to know how a signature is made, and who asks.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from rootstock_registry import Registry
from rootstock_registry import errors as registry_errors
from rootstock_registry.signing import PublicKey, preload

from rootstock_server.errors import Untrusted

# A digest's content never changes, so one good signature is good for ever. Forgotten all at once
# where there are more: checking again takes milliseconds.
MAX_CHECKED = 65_536


class Trust:
    """With `public_key`, only versions that it verifies. Raises InvalidKey where it is no key."""

    def __init__(self, registry: Registry, public_key: Path | None) -> None:
        self._registry = registry
        self._checked: set[str] = set()
        self._key: PublicKey | None = None
        if public_key is not None:
            # Now, so that the first request does not wait; and only for those who ask for it.
            preload()
            self._key = PublicKey(public_key)

    @property
    def key(self) -> PublicKey | None:
        """Whose signatures this server asks for; None where it asks for none."""
        return self._key

    async def check(self, digest: str) -> None:
        """Raises Untrusted where the version `digest` may not be loaded here.

        A refusal is not remembered: a version that is signed later is served from then on.
        """
        if self._key is None or digest in self._checked:
            return
        try:
            await asyncio.to_thread(self._registry.evidence.verify, digest, self._key)
        except registry_errors.Untrusted as error:
            raise Untrusted(
                f"this server loads signed versions only, and {error.message}; "
                "sign it with: rootstock sign NAME:VERSION --key key.pem"
            ) from error
        if len(self._checked) >= MAX_CHECKED:
            self._checked.clear()
        self._checked.add(digest)
