"""The protobuf messages and stubs of package `rootstock.v1`, generated from `proto/`.

Nothing here is written by hand: run `python clients/python/generate_protos.py` instead.
"""
