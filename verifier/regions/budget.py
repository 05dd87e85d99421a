"""Limits of a restriction: memory, and a moment at which it must stop."""

from __future__ import annotations

import time
from dataclasses import dataclass

from verifier.errors import InputError, MemoryLimitError, TimeLimitError

GIB = 1 << 30


@dataclass(frozen=True)
class Budget:
    """What a restriction may use.

    Attributes:
        memory: bytes for everything that is kept at the vertices; None for no limit.
        deadline: ``time.monotonic`` seconds at which the work stops; None for never.
    """

    memory: float | None = None
    deadline: float | None = None

    @staticmethod
    def of(memory: float | None, deadline: float | None = None) -> Budget:
        """The budget with its memory in GiB.

        Raises:
            InputError: if the memory is not positive.
        """
        if memory is not None and not memory > 0:
            raise InputError(f"memory must be positive, got {memory}")
        return Budget(None if memory is None else memory * GIB, deadline)

    def rows(self, row: int) -> int:
        """How many rows of so many bytes fit (2^62 without a limit)."""
        return 1 << 62 if self.memory is None else int(self.memory / max(row, 1))

    def take(self, count: int, row: int, what: str) -> None:
        """Check that ``count`` rows of ``row`` bytes fit, and that there is time.

        Raises:
            MemoryLimitError, TimeLimitError: saying how far the work had come (``what``).
        """
        if count > self.rows(row):
            assert self.memory is not None
            raise MemoryLimitError(
                f"more than {self.memory / GIB:g} GiB are needed {what}",
                fix="allow more memory, refine in tiles, or take a smaller polygon",
            )
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise TimeLimitError(f"the time was over {what}")


UNLIMITED = Budget()
