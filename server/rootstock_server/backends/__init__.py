"""How the arithmetic is done. `backend.py` says what, `reference.py` is the truth."""
