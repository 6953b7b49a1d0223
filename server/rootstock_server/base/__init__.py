"""The frozen base: how it is loaded, tokenised and made to run packed batches.

Refuses to know requests, tenants and where adapters come from.
"""
