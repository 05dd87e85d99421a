"""For which share of Θ do label and attention hold, provably: tiles of Θ by branch and bound, for networks of any size.

A tile is *proved* where bounds show that the label (the map) holds on all of it, *refuted* where they show that it
holds nowhere on it, and else split until it is too small or the time is over; what is left is *open*. All bounds are
rigorous: forward linear bounds on the outputs (`verifier.bounds.forward`), bounds on the saliency maps by linear
propagation of the Jacobian over the phases that are possible on the tile (`verifier.bounds.jacobian`). Neither needs
a region of its own for pixels that are clipped or for neurons that do not matter, so that a tile may hold thousands
of linear regions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.attention.answer import ASPECTS, Answer, AspectAnswer, failing, with_both
from verifier.attention.inconsistency import Inconsistency
from verifier.attention.map_bounds import MapBounder
from verifier.attention.replay import Replay
from verifier.attention.table import Aspect
from verifier.bab.interfaces import Bounded, Children
from verifier.bab.search import BranchAndBound
from verifier.bab.search import Settings as SearchSettings
from verifier.bab.store import PriorityStore
from verifier.bounds.crown import Crown
from verifier.bounds.forward import Forward
from verifier.encodings.perturbations import Perturbed
from verifier.events import Listener, ignore
from verifier.limits import NEVER, Deadline, MemoryBudget
from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Dense, Reshape
from verifier.shown import Shown

OPEN, PROVED, REFUTED = 0, 1, 2
LOOSE = 3.0
"""Forward bounds that miss by this many times the margin at a tile's center are followed by backward ones, which are much
tighter in deep networks and cost some twenty times as much."""
BACKWARD = 5_000
"""Backward bounds are for networks of at most this many ReLUs, those of clipped pixels included."""


@dataclass(frozen=True, kw_only=True)
class AreaSettings:
    """How Θ is cut.

    Attributes:
        smallest: a tile with less than this share of Θ is not split.
        batch: tiles bounded at once.
        threads: that bound tiles side by side; the result does not depend on them.
        grid: points along each of at most two parameters at which a failure is looked for first.
        answers_only: stop as soon as every aspect is Robust or NotRobust, with the shares that are known by then.
        aspects: what is asked.
    """

    smallest: float = 1e-5
    batch: int = 32
    threads: int = 1
    grid: int = 9
    answers_only: bool = False
    aspects: tuple[Aspect, ...] = ASPECTS


@dataclass(frozen=True)
class Tiles:
    """Tiles of Θ: ``low, high (N, d)``, and ``kinds (N, 2)`` of label and attention (OPEN, PROVED, REFUTED)."""

    low: Array
    high: Array
    kinds: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.low)

    def take(self, which: Any) -> Tiles:
        """See `verifier.bab.interfaces.Batch`."""
        return Tiles(self.low[which], self.high[which], self.kinds[which])

    @classmethod
    def join(cls, parts: Sequence[Tiles]) -> Tiles:
        """See `verifier.bab.interfaces.Batch`."""
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("low", "high", "kinds")))

    @property
    def nbytes(self) -> float:
        """See `verifier.bab.interfaces.Batch`."""
        return float(self.low.nbytes + self.high.nbytes + self.kinds.nbytes)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class AreaMap(Shown):
    """How much of Θ is proved, refuted and open.

    Attributes:
        perturbed, settings, delta, label: the question, as in `verifier.attention.RegionMap`.
        tiles: all tiles; together they are Θ.
        shares: by aspect the shares of Θ that are proved, refuted, open; not of an aspect that ``answers_only`` did
            not have to bound.
        answers: Robust is proved here with a bound on every rounding; NotRobust has an exact witness.
        reason: why tiles are open, if any are.
        worst: by aspect the worst of the points that were looked at.
        bounded: tiles that were bounded, split ones included.
        seconds: wall-clock time.
    """

    perturbed: Perturbed
    settings: Inconsistency
    delta: float
    label: int
    tiles: Tiles
    shares: Mapping[Aspect, tuple[float, float, float]]
    answers: Mapping[Aspect, AspectAnswer]
    reason: str
    worst: Mapping[str, Array]
    bounded: int
    seconds: float

    _drawn_by = "verifier.report.attention_areas:tiles_figure"

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts: dict[str, str] = {aspect: found.answer.value for aspect, found in self.answers.items()}
        for aspect, (proved, refuted, left) in self.shares.items():
            facts[aspect] += f" (proved {proved:.1%}, refuted {refuted:.1%}, open {left:.1%})"
        parameters = ", ".join(f"{p.label} in [{p.low:g}, {p.high:g}]" for p in self.perturbed.perturbations)
        return f"AreaMap of {parameters}: {len(self.tiles):,} tiles", facts


class AreaBounder:
    """Bounds label and inconsistency over tiles, and looks for failures where it cannot.

    Args:
        question: network, image, perturbations, how inconsistency is measured, and the label.
        delta: the largest inconsistency that holds.
        how: with ``answers_only`` an aspect that was seen to fail, exactly, is not bounded any further.
        witness: by aspect a parameter at which it fails; those found are added.
    """

    def __init__(self, question: Replay, delta: float, how: AreaSettings, witness: dict[Aspect, Array | None]) -> None:
        perturbed = question.perturbed
        self.question, self.delta, self.how, self.witness = question, delta, how, witness
        self._network = margin_network(perturbed.network, question.label)
        self._margins = Forward(self._network, np.arange(perturbed.dimension))
        self._back: Crown | None = None
        self._maps = MapBounder(perturbed, question.settings, question.label) if "attention" in how.aspects else None
        self._lock, self.finished = threading.Lock(), list[Tiles]()
        self.lowest: tuple[float, list[float]] | None = None
        """The smallest margin met where the label was not proved, and its parameter."""

    def bound(self, batch: Tiles, deadline: Deadline) -> Bounded[Tiles]:
        """See `verifier.bab.interfaces.Bounder`; finished tiles are put aside."""
        kinds = batch.kinds.copy()
        for k, aspect in enumerate(ASPECTS):
            if self.how.answers_only and self.witness[aspect] is not None:
                kinds[kinds[:, k] == OPEN, k] = REFUTED
        todo = np.flatnonzero(kinds[:, 0] == OPEN)
        if len(todo):
            symbolic, boxes = self._margins.bounds(batch.low[todo], batch.high[todo])
            low, high = self._margins.ranges(symbolic, boxes)
            kinds[todo[(low > 0).all(axis=1)], 0] = PROVED
            kinds[todo[(high <= 0).any(axis=1)], 0] = REFUTED
            left = np.flatnonzero(kinds[todo, 0] == OPEN)
            worst = low[left].argmin(axis=1)
            slopes = symbolic.lower[worst, left, :-1]
            self._look(np.where(slopes > 0, batch.low[todo[left]], batch.high[todo[left]]))
            loose = self._loose(batch.take(todo[left]), low[left], high[left])
            if len(loose) and not deadline.passed:
                again = todo[left[loose]]
                found = self._backwards().relax(batch.low[again], batch.high[again], nodes=(self._network.output,))
                low, high = found.intervals[self._network.output]
                kinds[again[(low > 0).all(axis=1)], 0] = PROVED
                kinds[again[(high <= 0).any(axis=1)], 0] = REFUTED
        if self._maps is not None:
            for k in np.flatnonzero(kinds[:, 1] == OPEN).tolist():
                if deadline.passed:  # what is left stays open; the search ends before its next batch
                    break
                least, greatest = self._maps.inconsistency(batch.low[k], batch.high[k])
                kinds[k, 1] = PROVED if greatest <= self.delta else (REFUTED if least > self.delta else OPEN)
        bounded = Tiles(batch.low, batch.high, kinds)
        done = (kinds != OPEN).all(axis=1)
        with self._lock:
            self.finished.append(bounded.take(done))
        return Bounded(bounded, np.where(done, 1.0, -1.0))

    def _backwards(self) -> Crown:
        """Backward bounds, prepared when they are first needed."""
        with self._lock:
            if self._back is None:
                self._back = Crown(self._network, self.question.perturbed.box)
            return self._back

    def _loose(self, tiles: Tiles, low: Array, high: Array) -> npt.NDArray[np.intp]:
        """Tiles on which going back from the outputs may tell what going forward does not.

        Those where the outputs at the center are far from a tie for the bounds' width: deep networks, large tiles.
        """
        if not len(tiles) or self._network.neurons > BACKWARD:
            return np.zeros(0, dtype=np.intp)
        margins = self._network.forward((tiles.low + tiles.high) / 2).reshape(len(tiles), -1)
        holds, fails = (margins > 0).all(axis=1), (margins <= 0).any(axis=1)
        below = (low < -LOOSE * np.abs(margins)).any(axis=1)
        above = (np.where(margins <= 0, high, np.inf) > LOOSE * np.abs(margins)).all(axis=1)
        return np.flatnonzero((holds & below) | (fails & above))

    def _look(self, points: Array) -> None:
        """Note the smallest margin at some points: the corners where bounds on the label are lowest."""
        if not len(points):
            return
        outputs = self.question.perturbed.network.forward(points).reshape(len(points), -1)
        label = self.question.label
        margins = outputs[:, label] - np.delete(outputs, label, axis=1).max(axis=1)
        best = int(margins.argmin())
        found = (float(margins[best]), points[best].tolist())
        with self._lock:
            if self.lowest is None or found < self.lowest:
                self.lowest = found
                if self.how.answers_only and found[0] <= 0 and self.witness["label"] is None:
                    self.witness["label"] = failing(self.question, "label", self.delta, [points[best]])


class Halves:
    """Cuts a tile in two across its longest side, in widths of Θ."""

    def __init__(self, width: Array, smallest: float) -> None:
        self.width, self.smallest = width, smallest
        self.kept: list[Tiles] = []

    def split(self, batch: Tiles, lower: Array) -> Children[Tiles]:
        """See `verifier.bab.interfaces.Brancher`; tiles that are too small have no children."""
        sides = (batch.high - batch.low) / self.width
        large = np.flatnonzero(sides.prod(axis=1) > self.smallest)
        self.kept.append(batch.take(np.setdiff1d(np.arange(len(batch)), large)))
        some, axis = batch.take(large), sides[large].argmax(axis=1)
        rows = np.arange(len(large))
        middle = (some.low[rows, axis] + some.high[rows, axis]) / 2
        left, right = some.high.copy(), some.low.copy()
        left[rows, axis] = right[rows, axis] = middle
        children = Tiles.join([Tiles(some.low, left, some.kinds), Tiles(right, some.high, some.kinds)])
        return Children(children, np.concatenate([large, large]))


def margin_network(network: Network, label: int) -> Network:
    """The same network with the label's output less each other one as outputs."""
    others = [j for j in range(network.output_size) if j != label]
    rows = np.zeros((len(others), network.output_size))
    rows[:, label] = 1.0
    rows[np.arange(len(others)), others] = -1.0
    nodes, last = list(network.nodes), network.output
    if len(network.output_shape) != 1:
        flat = (network.output_size,)
        nodes.append(Node("margins/flat", Reshape(flat), (last,), flat))
        last = "margins/flat"
    nodes.append(Node("margins", Dense(rows, np.zeros(len(others))), (last,), (len(others),)))
    return Network(tuple(nodes), "margins", network.source)


def area_map(
    perturbed: Perturbed,
    settings: Inconsistency,
    delta: float,
    label: int,
    *,
    how: AreaSettings | None = None,
    deadline: Deadline = NEVER,
    listener: Listener = ignore,
) -> AreaMap:
    """Cut Θ into tiles until every one is proved or refuted, too small, or the time is over.

    Raises:
        UnsupportedOperatorError: an operator without bounds.
    """
    how, began = how or AreaSettings(), time.monotonic()
    box, replay = perturbed.box, Replay(perturbed, settings, label)
    worst = _look(perturbed, settings, label, how)
    witness: dict[Aspect, Array | None] = {
        a: failing(replay, a, delta, [worst[a]]) if a in how.aspects else None for a in ASPECTS
    }
    kinds = np.array([[OPEN if a in how.aspects else PROVED for a in ASPECTS]], dtype=np.int8)
    start = Tiles(box.lower[None].copy(), box.upper[None].copy(), kinds)
    reason, bounded, found = "", 0, start
    seen: dict[Aspect, list[Array]] = {a: [] for a in ASPECTS}
    if not how.answers_only or any(witness[a] is None for a in how.aspects):
        bounder, brancher = AreaBounder(replay, delta, how, witness), Halves(box.width, how.smallest)
        store = PriorityStore[Tiles](MemoryBudget.of(None), key=lambda some: -some.share)
        search = BranchAndBound(
            store, bounder, brancher, settings=SearchSettings(
                batch=how.batch, piece=max(1, how.batch // how.threads), threads=how.threads, unit="tiles"
            )
        )  # fmt: skip
        result = search.run(start, deadline, listener)
        if bounder.lowest is not None:
            seen["label"].append(np.array(bounder.lowest[1]))
        bounded, reason = result.done, result.reason if result.late else ""
        rest = [*brancher.kept, *([store.pop(len(store)).batch] if len(store) else [])]
        found = Tiles.join([start.take([]), *bounder.finished, *rest])
        if result.left and not reason:
            reason = f"{result.left} tiles smaller than {how.smallest:g} of Θ were not split"
    order = np.lexsort(found.low.T[::-1])
    found = found.take(order)
    volume = ((found.high - found.low) / box.width).prod(axis=1)
    shares: dict[Aspect, tuple[float, float, float]] = {}
    answers: dict[Aspect, AspectAnswer] = {}
    for k, aspect in enumerate(ASPECTS):
        if aspect not in how.aspects:
            continue
        if how.answers_only and witness[aspect] is not None:
            answers[aspect] = _answer(witness[aspect], False, deadline, reason)
            continue
        parts = [float(volume[found.kinds[:, k] == kind].sum()) for kind in (PROVED, REFUTED, OPEN)]
        shares[aspect] = (parts[0], parts[1], parts[2])
        points = [*(found.low + found.high)[found.kinds[:, k] == REFUTED][:1] / 2, *seen[aspect]]
        theta = witness[aspect] if witness[aspect] is not None else failing(replay, aspect, delta, points)
        answers[aspect] = _answer(theta, bool((found.kinds[:, k] == PROVED).all()), deadline, reason)
    return AreaMap(
        perturbed=perturbed,
        settings=settings,
        delta=delta,
        label=label,
        tiles=found,
        shares=shares,
        answers=with_both(answers),
        reason=reason,
        worst={a: v[None] for a, v in worst.items()},
        bounded=bounded,
        seconds=time.monotonic() - began,
    )


def _answer(theta: Array | None, proved: bool, deadline: Deadline, reason: str) -> AspectAnswer:
    if theta is not None:
        return AspectAnswer(answer=Answer.NOT_ROBUST, reason="fails at a parameter, exactly", theta=theta)
    if proved:
        return AspectAnswer(answer=Answer.ROBUST, reason="proved on tiles that fill Θ, rounding included")
    kind = Answer.TIMEOUT if deadline.passed else Answer.UNDECIDED
    return AspectAnswer(answer=kind, reason=reason or "some tiles are open")


def _look(perturbed: Perturbed, settings: Inconsistency, label: int, how: AreaSettings) -> dict[Aspect, Array]:
    """The worst of some points for each aspect: a grid over at most two parameters, and corners."""
    box, d = perturbed.box, perturbed.dimension
    if d <= 2:
        axes = [np.linspace(a, b, how.grid) for a, b in zip(box.lower, box.upper, strict=True)]
        points = np.stack([g.reshape(-1) for g in np.meshgrid(*axes, indexing="ij")], axis=1)
    else:
        corners = np.stack([g.reshape(-1) for g in np.meshgrid(*[[0.0, 1.0]] * d, indexing="ij")], axis=1)
        inside = np.random.default_rng(0).random((how.grid**2, d))
        points = box.lower + np.concatenate([corners, inside]) * box.width
    outputs = perturbed.network.forward(points).reshape(len(points), -1)
    margin = outputs[:, label] - np.delete(outputs, label, axis=1).max(axis=1)
    result: dict[Aspect, Array] = {"label": points[int(margin.argmin())], "attention": points[0]}
    if "attention" in how.aspects:
        step = max(1, (1 << 24) // (perturbed.image.size * perturbed.network.output_size * 8))
        values = [settings(perturbed, points[k : k + step], label) for k in range(0, len(points), step)]
        result["attention"] = points[int(np.concatenate(values).argmax())]
    return result
