"""The doors: each transport translated into the one handle, and its answers translated back.

Refuses to know how tokens are made and how artifacts are stored.
"""
