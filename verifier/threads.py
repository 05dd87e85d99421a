"""Threads: the engines have their own, so the numerical libraries below them get one each.

A BLAS that starts its own threads inside each of several workers makes small products many times slower. `VARIABLES`
tell libraries that are not loaded yet, in this process or in a child; `one_thread_each` those that are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

VARIABLES = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment variables under which BLAS, OpenMP and torch use one thread."""


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside the block the loaded numerical libraries use one thread; afterwards what they used before."""
    if VARIABLES.items() <= os.environ.items():  # set before they were loaded: there is nothing to do
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
