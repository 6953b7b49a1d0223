"""Heads: feature-based tuning, a classifier on the frozen base's pooled hidden states."""
