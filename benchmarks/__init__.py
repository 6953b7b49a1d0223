"""Measurements of this server beside its peers, each with the command that made it.

Not part of any distribution; refuses to know the server's insides, but for one file that says so.
"""
