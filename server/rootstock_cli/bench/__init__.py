"""Load on a running server over HTTP: who asks what and when, and what came back how fast.

Refuses to know how the server makes its answers.
"""
