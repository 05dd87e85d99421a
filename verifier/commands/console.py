"""What the commands say beside their results, on standard error: nothing where it is not wanted."""

from __future__ import annotations

from verifier.events import Listener, ignore
from verifier.listening import describe, progress, say

__all__ = ["describe", "progress_listener", "say"]


def progress_listener(quiet: bool) -> Listener:
    """A listener that shows the state of work: one changing line on a terminal, elsewhere a line a stage."""
    return ignore if quiet else progress(log=True)
