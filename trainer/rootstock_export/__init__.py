"""Turn heads on a frozen base into a package that a device runs without PyTorch.

Refuses to know the server and the trainer: the server's answers are handed in.
"""

from rootstock_export.check import ParityReport, ServerAnswers
from rootstock_export.errors import ExportError, NotExportable, OutputExists, ParityFailed
from rootstock_export.package import export

__all__ = [
    "ExportError",
    "NotExportable",
    "OutputExists",
    "ParityFailed",
    "ParityReport",
    "ServerAnswers",
    "export",
]
