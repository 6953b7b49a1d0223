"""Soft prompts: learned tokens before the prompt (arXiv 2104.08691, arXiv 2101.00190)."""
