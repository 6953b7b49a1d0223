"""The `rootstock` command and the demo: the only package that may import every room.

Refuses to know how any room does its work; each command hands over within a screen.
"""
