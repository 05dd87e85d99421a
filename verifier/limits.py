"""What work may use: one deadline and one memory budget, made at the top, passed down and polled between chunks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from verifier.errors import InputError, MemoryLimitError, TimeLimitError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

GIB = 1 << 30
SHARE = 0.6
"""Share of the machine's memory that a budget without a number of its own gets."""


@dataclass(frozen=True)
class Deadline:
    """A wall-clock moment (`time.monotonic` seconds) after which work must stop; None is never."""

    at: float | None

    @staticmethod
    def after(seconds: float | None) -> Deadline:
        """The deadline this many seconds from now (None: never), but no later than the one in force."""
        outer = _in_force.get()
        return outer if seconds is None else outer.sooner(seconds)

    def sooner(self, seconds: float) -> Deadline:
        """The earlier of this deadline and the one so many seconds from now: a stage's share of the time."""
        at = time.monotonic() + seconds
        return Deadline(at if self.at is None else min(at, self.at))

    def later(self, seconds: float) -> Deadline:
        """This deadline put off: what took so long does not count."""
        return Deadline(None if self.at is None else self.at + seconds)

    @property
    def left(self) -> float:
        """Seconds left, at least 0; infinity for never."""
        return float("inf") if self.at is None else max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether the moment has passed."""
        return self.at is not None and time.monotonic() >= self.at

    def check(self, what: str) -> None:
        """Stop if the moment has passed.

        Args:
            what: what was being done, for the message ("while bounding node 'conv_3'").

        Raises:
            TimeLimitError: it has passed.
        """
        if self.passed:
            raise TimeLimitError(f"the time was over {what}")


NEVER = Deadline(None)
"""No limit of time."""

_in_force: ContextVar[Deadline] = ContextVar("deadline in force", default=NEVER)
_memory_in_force: ContextVar[MemoryBudget | None] = ContextVar("memory budget in force", default=None)


@contextmanager
def in_force(deadline: Deadline, memory: MemoryBudget | None = None) -> Iterator[None]:
    """Make a deadline the one that `poll` looks at, and a budget (None: as before) that of `MemoryBudget.of(None)`.

    In this thread and those of a `thread_pool`, until the block is left.
    """
    token = _in_force.set(deadline)
    held = _memory_in_force.set(memory or _memory_in_force.get())
    try:
        yield
    finally:
        _in_force.reset(token)
        _memory_in_force.reset(held)


def deadline_in_force() -> Deadline:
    """The deadline that `poll` looks at."""
    return _in_force.get()


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Threads under the limits that are in force where they are asked for."""
    from concurrent.futures import ThreadPoolExecutor

    deadline, memory = _in_force.get(), _memory_in_force.get()

    def begin() -> None:
        _in_force.set(deadline)
        _memory_in_force.set(memory)

    return ThreadPoolExecutor(threads, initializer=begin)


def poll(what: str) -> None:
    """Stop if the deadline in force has passed.

    For loops over a network's nodes deep inside bounds, forms and exact arithmetic, which have no other use for a
    deadline: searches are handed theirs.

    Raises:
        TimeLimitError: it has passed.
    """
    _in_force.get().check(what)


class Work:
    """Work done so far, in multiplications, by any number of threads.

    What is worth doing next is decided by counted work, so that a run takes the same way on a busy machine and on a
    quiet one; only the deadline looks at the clock.
    """

    def __init__(self) -> None:
        self.done = 0.0
        self._lock = threading.Lock()

    def add(self, amount: float) -> None:
        """Count some more."""
        with self._lock:
            self.done += amount


@dataclass(frozen=True)
class MemoryBudget:
    """How many bytes a piece of work may hold at once, its working arrays included.

    Attributes:
        limit: bytes.
    """

    limit: float

    @staticmethod
    def of(gib: float | None) -> MemoryBudget:
        """The budget of so many GiB; for None the one in force, and if there is none a share (`SHARE`) of the machine's.

        Raises:
            InputError: the number is not positive.
        """
        if gib is None:
            return _memory_in_force.get() or MemoryBudget(SHARE * machine_memory())
        if not gib > 0:
            raise InputError(f"memory must be positive, got {gib}")
        return MemoryBudget(gib * GIB)

    def rows(self, row: float, share: float = 1.0) -> int:
        """How many rows of so many bytes fit into a share of the budget (0: not even one): the size of a chunk."""
        return int(self.limit * share / max(row, 1))

    def part(self, count: int) -> MemoryBudget:
        """The budget of each of so many workers."""
        return MemoryBudget(self.limit / count)

    def check(self, size: float, what: str) -> None:
        """Refuse work that does not fit.

        Args:
            size: bytes that it needs at once.
            what: what needs them, for the message ("bounds of node 'conv_3'").

        Raises:
            MemoryLimitError: with the number that would have been enough.
        """
        if size > self.limit:
            raise MemoryLimitError(
                f"{what}: {size / GIB:.2f} GiB are needed and {self.limit / GIB:.2f} GiB are allowed",
                fix=f"allow at least {size / GIB:.2f} GiB (memory=, --memory)",
            )


@cache
def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that it runs in where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total
