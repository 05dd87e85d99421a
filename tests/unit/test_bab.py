"""Branch and bound on a toy problem: is a polynomial above zero on a box, by interval bounds and halving?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from verifier.bab import (
    Bounded,
    BranchAndBound,
    Children,
    DepthStore,
    Ending,
    Items,
    LeafAnswer,
    PriorityStore,
    Settings,
    Verdict,
)
from verifier.bab.interfaces import Open
from verifier.errors import EngineError, TimeLimitError
from verifier.events import Progress
from verifier.limits import Deadline, MemoryBudget

ROOM = MemoryBudget(1e9)


@dataclass(frozen=True)
class Pieces:
    """Intervals ``[low, high]``."""

    low: Any
    high: Any

    def __len__(self) -> int:
        return len(self.low)

    def take(self, which: Any) -> Pieces:
        return Pieces(self.low[which], self.high[which])

    @classmethod
    def join(cls, parts: Any) -> Pieces:
        return cls(np.concatenate([p.low for p in parts]), np.concatenate([p.high for p in parts]))

    @property
    def nbytes(self) -> float:
        return 16.0 * len(self)


@dataclass
class Parabola:
    """Bounds x² - 2x + c by intervals (a witness: a centre where it is at most 0), and halves."""

    c: float
    smallest: float = 1e-6
    seconds: float = 0.0

    def bound(self, batch: Pieces, deadline: Deadline) -> Bounded[Pieces]:
        time.sleep(self.seconds)
        square = np.where(batch.low * batch.high < 0, 0.0, np.minimum(batch.low**2, batch.high**2))
        middle = (batch.low + batch.high) / 2
        hits = middle[middle**2 - 2 * middle + self.c <= 0]
        return Bounded(batch, square - 2 * batch.high + self.c, hits[:1] if len(hits) else None)

    def split(self, batch: Pieces, lower: Any) -> Children[Pieces]:
        middle = (batch.low + batch.high) / 2
        wide = np.flatnonzero(batch.high - batch.low > self.smallest)
        low, high = np.concatenate([batch.low, middle]), np.concatenate([middle, batch.high])
        both = np.concatenate([wide, len(batch) + wide])
        return Children(Pieces(low, high).take(both), np.concatenate([wide, wide]))


class Near:
    """Refutes short intervals about 1, and leaves others open."""

    asked = 0

    def takes(self, batch: Pieces, lower: Any) -> Any:
        return batch.high - batch.low < 0.01

    def solve(self, leaf: Pieces, deadline: Deadline) -> LeafAnswer:
        self.asked += 1
        near = abs(leaf.low[0] - 1) < 0.02
        return LeafAnswer(Verdict.REFUTED if near else Verdict.OPEN, reason="too far")


def search(problem: Parabola, store: Any = None, **changes: Any) -> BranchAndBound[Pieces]:
    store = DepthStore(ROOM) if store is None else store
    return BranchAndBound(store=store, bounder=problem, brancher=problem, **changes)


def root(count: int = 1) -> Pieces:
    ends = np.linspace(-3.0, 4.0, count + 1)
    return Pieces(ends[:-1], ends[1:])


@pytest.mark.parametrize("store", [DepthStore, PriorityStore])
def test_a_positive_polynomial_is_proved(store: Any) -> None:
    result = search(Parabola(1.01), store(ROOM)).run(root())
    assert result.ending is Ending.PROVED
    assert result.left == 0
    assert result.closed == pytest.approx(1.0)
    assert result.done > 20


@pytest.mark.parametrize("store", [DepthStore, PriorityStore])
def test_a_witness_is_found(store: Any) -> None:
    result = search(Parabola(0.999), store(ROOM)).run(root())
    assert result.ending is Ending.WITNESS
    assert result.witness is not None
    assert result.witness[0] ** 2 - 2 * result.witness[0] + 0.999 <= 0


def test_what_cannot_be_split_is_open_and_counted() -> None:
    result = search(Parabola(1.0 + 1e-9, smallest=0.1), settings=Settings(batch=4, piece=2)).run(root())
    assert result.ending is Ending.OPEN
    assert not result.late
    assert "cannot be split" in result.reason
    assert result.left > 0
    assert result.worst < 0
    assert 0.5 < result.closed < 1


def test_leaves_are_asked_before_they_are_split() -> None:
    leaf = Near()
    result = search(Parabola(1.0 + 1e-9), leaf=leaf).run(root())
    assert result.ending is Ending.PROVED
    assert leaf.asked > 0


@pytest.mark.parametrize("store", [DepthStore, PriorityStore])
def test_the_result_does_not_depend_on_threads(store: Any) -> None:
    results = []
    for threads in (1, 2, 3):
        settings = Settings(batch=16, piece=3, threads=threads)
        results.append(search(Parabola(1.0 + 1e-4, smallest=1e-3), store(ROOM), settings=settings).run(root(7)))
    assert results[0].done > 100
    assert results[0] == results[1] == results[2]


def test_the_deadline_is_kept_and_events_come() -> None:
    events: list[Any] = []
    began = time.monotonic()
    result = search(Parabola(1.0, seconds=0.01), settings=Settings(batch=4, pause=0.0)).run(
        root(), Deadline.after(0.15), events.append
    )
    assert time.monotonic() - began < 1
    assert (result.ending, result.late, result.reason) == (
        Ending.OPEN,
        True,
        "the time was over before the next subproblem",
    )
    assert result.left > 0
    assert all(isinstance(e, Progress) for e in events)
    assert events[-1].done == result.done


def test_limits_that_a_bounder_meets_leave_the_search_open() -> None:
    for error, late in ((TimeLimitError("late"), True), (MemoryError(), False)):

        class Failing(Parabola):
            def bound(self, batch: Pieces, deadline: Deadline, error: Any = error) -> Bounded[Pieces]:
                raise error

        result = search(Failing(2.0)).run(root(3))
        assert (result.ending, result.late, result.left) == (Ending.OPEN, late, 3)


def test_nan_and_lost_subproblems_prove_nothing() -> None:
    class Nan(Parabola):
        def bound(self, batch: Pieces, deadline: Deadline) -> Bounded[Pieces]:
            return Bounded(batch, np.full(len(batch), np.nan))

    class Losing(Parabola):
        def bound(self, batch: Pieces, deadline: Deadline) -> Bounded[Pieces]:
            return Bounded(batch.take(slice(1)), np.ones(1))

    assert search(Nan(2.0, smallest=1.0)).run(root()).ending is Ending.OPEN
    with pytest.raises(EngineError):
        search(Losing(2.0)).run(root(2))


@pytest.mark.parametrize("store", [DepthStore, PriorityStore])
def test_memory_is_bounded(store: Any) -> None:
    small = MemoryBudget(16 * 20)
    result = search(Parabola(1.0), store(small), settings=Settings(batch=64)).run(root(16))
    assert result.ending is Ending.OPEN
    assert "GiB" in result.reason


def test_a_search_can_be_given_up() -> None:
    result = search(Parabola(1.0), stop=lambda so_far: "enough" if so_far.done > 50 else "").run(root())
    assert (result.ending, result.reason, result.late) == (Ending.OPEN, "enough", False)
    assert result.done > 50


def test_priority_takes_the_lowest_bound_and_near_the_limit_the_highest() -> None:
    def filled(memory: float) -> PriorityStore[Items[str]]:
        store: PriorityStore[Items[str]] = PriorityStore(MemoryBudget(memory))
        store.push(Open(Items(("b", "a", "c"), 10.0), np.array([-2.0, -3.0, -1.0]), np.ones(3)))
        return store

    assert filled(1e3).pop(2).batch.items == ("a", "b")
    assert filled(40.0).pop(1).batch.items == ("c",)
    assert filled(1e3).worst == -3.0


def test_depth_takes_the_last_and_of_these_the_highest() -> None:
    store: DepthStore[Items[str]] = DepthStore(ROOM)
    store.push(Open(Items(("old",)), np.array([-9.0]), np.ones(1)))
    store.push(Open(Items(("x", "y", "z")), np.array([-2.0, -1.0, -3.0]), np.ones(3)))
    assert set(store.pop(2).batch.items) == {"x", "y"}
    assert set(store.pop(2).batch.items) == {"z", "old"}
    assert len(store) == 0


FREE = Settings(batch=1, piece=1, threads=3, free=True)


@pytest.mark.parametrize("store", [DepthStore, PriorityStore])
def test_free_threads_prove_and_refute(store: Any) -> None:
    proved = search(Parabola(1.01), store(ROOM), settings=FREE).run(root(5))
    assert (proved.ending, proved.left) == (Ending.PROVED, 0)
    assert proved.closed == pytest.approx(5.0)
    found = search(Parabola(0.999), store(ROOM), settings=FREE).run(root(5))
    assert found.ending is Ending.WITNESS
    assert found.witness is not None
    assert found.witness[0] ** 2 - 2 * found.witness[0] + 0.999 <= 0


def test_free_threads_stop_for_a_witness_the_deadline_and_a_reason() -> None:
    class Slow(Parabola):
        """Only the middle piece is quick, and has a witness."""

        def bound(self, batch: Pieces, deadline: Deadline) -> Bounded[Pieces]:
            while not (batch.low[0] <= 1 <= batch.high[0]):
                deadline.check("while waiting")
                time.sleep(0.01)
            return super().bound(batch, deadline)

    began = time.monotonic()
    assert search(Slow(0.5), settings=FREE).run(root(3), Deadline.after(30)).ending is Ending.WITNESS
    late = search(Slow(5.0), settings=FREE).run(root(3), Deadline.after(0.3))
    assert (late.ending, late.late) == (Ending.OPEN, True)
    assert late.left > 0
    stopped = search(Parabola(1.0), settings=FREE, stop=lambda so_far: "enough" if so_far.done > 50 else "").run(root())
    assert (stopped.ending, stopped.reason) == (Ending.OPEN, "enough")
    assert time.monotonic() - began < 10


def test_an_error_in_one_free_thread_ends_the_search() -> None:
    class Broken(Parabola):
        def bound(self, batch: Pieces, deadline: Deadline) -> Bounded[Pieces]:
            if batch.low[0] > 1:
                raise ValueError("broken")
            while True:
                deadline.check("while waiting")
                time.sleep(0.01)

    with pytest.raises(ValueError, match="broken"):
        search(Broken(1.0), settings=FREE).run(root(3), Deadline.after(30))


def test_what_a_pause_interrupts_is_done_when_the_search_goes_on() -> None:
    limit = [0]

    class Slow(Parabola):
        def bound(self, batch: Pieces, deadline: Deadline) -> Bounded[Pieces]:
            time.sleep(0.002)
            deadline.check("while bounding")
            return super().bound(batch, deadline)

    paused = search(Slow(1.01), settings=FREE, stop=lambda so_far: "pause" if so_far.done >= limit[0] else "")
    result = paused.run(root(5))
    pauses = 0
    while result.ending is Ending.OPEN:
        assert result.reason == "pause"
        limit[0] = result.done + 1
        result = paused.resume(Deadline.after(20))
        pauses += 1
    assert result.ending is Ending.PROVED
    assert result.closed == pytest.approx(5.0)
    assert pauses > 20


@pytest.mark.parametrize("threads", [1, 3])
def test_what_the_deadline_interrupts_is_still_open(threads: int) -> None:
    class Slow(Parabola):
        def bound(self, batch: Pieces, deadline: Deadline) -> Bounded[Pieces]:
            time.sleep(0.05)
            deadline.check("while bounding")
            return super().bound(batch, deadline)

    settings = Settings(batch=1, piece=1, threads=threads, free=True)
    late = search(Slow(1.01), settings=settings)
    result = late.run(root(4), Deadline.after(0.12))
    assert (result.ending, result.late) == (Ending.OPEN, True)
    result = late.resume(Deadline.after(30))
    assert result.ending is Ending.PROVED
    assert result.closed == pytest.approx(4.0)
