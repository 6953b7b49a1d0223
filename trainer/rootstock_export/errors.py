"""Why an export ended without a package.

This room refuses to know how it is reported: the command line turns `message` into one line.

    ExportError
    ├── NotExportable       these versions cannot become this kind of package
    ├── ParityFailed        the package did not answer as the server does, so it was thrown away
    └── OutputExists        the folder asked for is in use
"""

from __future__ import annotations


class ExportError(Exception):
    """`message` says what is wrong and what to do next."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotExportable(ExportError):
    """The versions, or their base, do not fit the target."""


class ParityFailed(ExportError):
    """The package's answers differ from the server's by more than the tolerance."""


class OutputExists(ExportError):
    """The output folder holds something already; nothing in it was touched."""
