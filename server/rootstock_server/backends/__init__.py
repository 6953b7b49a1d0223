"""How the arithmetic is done. `reference.py` is the truth, in plain torch."""
