"""How the regions of a map are walked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WalkSettings:
    """How the regions of a map are walked, and by how many threads: the regions found do not depend on `threads`.

    Attributes:
        threads: that walk side by side.
        probe: regions after which a walk of one or two parameters looks how many there may be.
        large: with at least so many, Θ is walked in slabs, which threads share; a smaller map is walked in one go.
        slab: regions that a slab should have, about.
        wave: regions that are opened before the next are chosen, where linear programs or a guided search open them.
    """

    threads: int = 1
    probe: int = 20_000
    large: int = 100_000
    slab: int = 40_000
    wave: int = 8
