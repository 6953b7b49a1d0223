"""Prompts: an instruction around what is asked, with examples; no weights."""
