"""Shared helpers of the course "AIGC: principles and code"; each module opens with what it is for."""

import os

__version__ = "0.1.0"

# Threads that wait shall sleep, not spin: on a machine that does other work too, spinning threads hold up the one that
# they wait for (two threads beside one busy process: a quarter of the steps). torch reads this when it is loaded, so
# `aigc-course lab`, recipes and benchmarks come here first, and notebooks inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
