"""Training: a tenant's examples become a version. Torch-free at this level.

`spec.TrainSpec` says what to do, `foreground.run_foreground` does it and shows how far it is.
"""
