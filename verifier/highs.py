"""HiGHS without its greeting: from 1.16 on the first instance in a process prints two lines on standard output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_greeted = False


def new_highs() -> Any:
    """A ``highspy.Highs`` that prints nothing.

    Raises:
        ImportError: highspy is not installed.
    """
    import highspy

    global _greeted
    with _lock:
        if not _greeted:
            with _standard_output_to_nowhere():
                highspy.Highs()
            _greeted = True
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    return solver


@contextlib.contextmanager
def _standard_output_to_nowhere() -> Iterator[None]:
    """Inside the block what C code prints goes nowhere."""
    try:
        flush, kept = ctypes.CDLL(None).fflush, os.dup(1)
    except (AttributeError, OSError):  # no C library of this kind, or no standard output
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    flush(None)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
