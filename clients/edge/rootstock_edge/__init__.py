"""Classify on a device with an exported package: onnxruntime, tokenizers and numpy, nothing else.

Refuses to know PyTorch, the server and the network.
"""

from rootstock_edge.manifest import PackageError
from rootstock_edge.package import Package, Result

__all__ = ["Package", "PackageError", "Result"]
