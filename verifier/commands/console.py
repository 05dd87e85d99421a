"""What the commands say beside their results, on standard error: nothing where it is not wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from verifier.events import Listener, ignore
from verifier.listening import describe, progress, say

__all__ = ["describe", "say", "watched"]


@contextlib.contextmanager
def watched(quiet: bool) -> Iterator[Listener]:
    """A listener that shows the state of work while the block runs: one changing line on a terminal, else a line a stage."""
    if quiet:
        yield ignore
        return
    with progress(log=True) as listener:
        yield listener
