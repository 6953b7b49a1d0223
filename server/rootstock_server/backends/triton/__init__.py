"""Arithmetic on a GPU: Triton kernels, recorded decode steps. Imported only where they run."""
