"""Before NumPy is imported: its products in one thread. The calibration has threads of its own, and beside other
programs those of OpenBLAS wait for each other actively: up to a hundred times the processor time."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
