"""Where adapters are right now: on their way, resident in a slot, attached to a step.

What an adapter is, `rootstock_adapters` says.
"""
