"""Deltas: parameter-based tuning, kept as the difference to the base's own parameters."""
