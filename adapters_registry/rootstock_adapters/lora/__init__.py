"""LoRA: low-rank updates of the base's linears (Hu et al., arXiv 2106.09685)."""
