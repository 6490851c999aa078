"""One BLAS thread: tests are small, and the same on every machine. It must be said before NumPy is imported."""

import os

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(name, "1")
