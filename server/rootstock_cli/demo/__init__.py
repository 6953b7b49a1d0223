"""What `rootstock demo` shows: a small invented shop, a base that grew up in it, and its data.

Nothing here is imported by the server, the registry or the trainer.
"""
