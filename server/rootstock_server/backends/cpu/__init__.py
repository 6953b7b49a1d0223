"""The arithmetic in C++: kernels in `src/`, compiled by `build.py`, called by `cpu.py`."""
