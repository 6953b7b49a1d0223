"""Talk to a Rootstock server from Python: blocking, with an event loop, or over gRPC.

It refuses to know the server's code: `rootstock_wire` holds all that both sides share.
"""

from rootstock_client.async_client import AsyncClient
from rootstock_client.client import BlockingTextStream, Client
from rootstock_client.errors import ApiError, RootstockClientError, Unreachable
from rootstock_client.grpc_client import GrpcClient
from rootstock_client.streaming import TextStream

__all__ = [
    "ApiError",
    "AsyncClient",
    "BlockingTextStream",
    "Client",
    "GrpcClient",
    "RootstockClientError",
    "TextStream",
    "Unreachable",
]
