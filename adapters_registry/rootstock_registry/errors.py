"""The registry's one error tree: what can be wrong with a name, an artifact, a stored byte.

This room refuses to know statuses and transports: the server and the command line translate these.

    RegistryError
    ├── NotFound            no such thing for this tenant; a foreign thing reads exactly the same
    ├── InvalidName         a name, alias or role is not written as the rules say
    ├── InvalidArtifact     bytes, config or folder are not what they claim to be
    ├── WrongBase           the parts do not fit the base they were offered for
    ├── Conflict            somebody else was first, or holds the job now
    ├── GateNotMet          a version's figures fall short of what its promotion demands
    ├── Untrusted           a version has no signature by the key that must have signed it
    ├── InvalidKey          a file is no key that can sign or verify
    ├── BrokenAudit         a row of the audit log does not fit the chain
    ├── CorruptBlob         stored bytes no longer match their digest
    │   └── Quarantined     which is known of this version, so that it is not read again
    ├── NewerDatabase       the database was written by a later version of this program
    └── Unavailable         database or blobs do not answer, or cannot be written: try again later
        └── StorageFull     because no room is left
"""

from __future__ import annotations

from rootstock_adapters.errors import printable


class RegistryError(Exception):
    """`message` says what is wrong and what to do next."""

    def __init__(self, message: str) -> None:
        self.message = printable(message)
        super().__init__(self.message)


class NotFound(RegistryError):
    pass


class InvalidName(RegistryError):
    pass


class InvalidArtifact(RegistryError):
    pass


class WrongBase(RegistryError):
    pass


class Conflict(RegistryError):
    pass


class GateNotMet(RegistryError):
    pass


class Untrusted(RegistryError):
    pass


class InvalidKey(RegistryError):
    pass


class BrokenAudit(RegistryError):
    pass


class CorruptBlob(RegistryError):
    pass


class Quarantined(CorruptBlob):
    pass


class NewerDatabase(RegistryError):
    pass


class Unavailable(RegistryError):
    pass


class StorageFull(Unavailable):
    pass
