"""Every room's errors in words a person can act on; the one place where they are translated.

Refuses to know which command was running. The trees are imported only once something has failed.
"""

from __future__ import annotations

import sys
import tempfile
import traceback

# Where each room's tree begins. A room that was never imported cannot have raised.
TREES = (
    ("rootstock_registry.errors", "RegistryError"),
    ("rootstock_trainer.errors", "TrainerError"),
    ("rootstock_trainer.pretrain_settings", "PretrainError"),
    ("rootstock_export.errors", "ExportError"),
    ("rootstock_client.errors", "RootstockClientError"),
    ("rootstock_server.errors", "RootstockError"),
    ("rootstock_server.config", "ConfigError"),
    ("rootstock_adapters.errors", "ArtifactError"),
    ("rootstock_adapters.errors", "BaseError"),
)


class Refused(Exception):
    """A command cannot do what it was asked to; `message` says why and what to do next."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def in_words(error: Exception) -> str:
    """What to print for `error`: its own words, or, for a fault of ours, where the details are."""
    if isinstance(error, (Refused, *_trees())):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("rootstock_"):
        return (
            f"the package {error.name} is not installed; install the extra that has it, "
            "for example: pip install 'rootstock-server[demo]'"
        )
    if isinstance(error, OSError):
        return _os_error(error)
    return _our_fault(error)


def _trees() -> tuple[type[Exception], ...]:
    return tuple(getattr(sys.modules[room], root) for room, root in TREES if room in sys.modules)


def _os_error(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}"


def _our_fault(error: Exception) -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="rootstock-fault-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return (
        f"this is a fault in rootstock, not in what you asked ({type(error).__name__}: {error}); "
        f"please report it with {file.name}"
    )
