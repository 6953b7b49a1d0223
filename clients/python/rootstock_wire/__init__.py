"""What travels between a Rootstock server and its callers: request and response models, protos.

Imports nothing of ours. Refuses to know how a message is carried and who answers it.
"""
