"""Norms of a gradient where ReLUs have assumed phases: bounds, and whether the regions exist, by linear programs.

With hundreds of inputs what decides is phases. On a box with some of them assumed the gradient has one symbol for each unstable
ReLU (`verifier.bounds.jacobian_symbols`), and its norm a bound by a semidefinite relaxation
(`verifier.bounds.norm_of_symbols`). Most combinations of phases that would make the norm large are of no input: a linear
program says so, or gives an input deep inside its region. Its rows are exact where all unstable ReLUs in front have an
assumed phase, and linear bounds elsewhere.
"""

from __future__ import annotations

import time

import numpy as np
import scipy.sparse as sp

from verifier.bab import LastResort, LeafAnswer, Verdict
from verifier.bab.interfaces import Bounded
from verifier.bounds.crown import Relaxation
from verifier.bounds.jacobian_symbols import gradient_symbols
from verifier.bounds.norm_of_symbols import norm_of_symbols
from verifier.bounds.relaxation import Slopes
from verifier.engines.maps.boxes import Boxes, Phases
from verifier.engines.maps.enclosure import Enclosures, possible_phases
from verifier.explain.extreme_search import ObjectiveBounder
from verifier.limits import Deadline
from verifier.lp.program import LinearProgram, LpAnswer, LpStatus
from verifier.network.operators import Array
from verifier.rounding import SPACING

AIMS = 0.25
"""Share of the time in which inputs with large norms are looked for."""


class Regions:
    """Linear programs over the inputs with given phases."""

    def __init__(self, enclosures: Enclosures) -> None:
        self.enclosures = enclosures

    def relaxed(self, batch: Boxes) -> Relaxation:
        """Bounds and relaxations on boxes with their phases."""
        crown, relus, network = self.enclosures.crown, self.enclosures.relus, self.enclosures.network
        known = {network[name].inputs[0]: batch.phase[:, part] for name, part in relus.items()}
        return crown.relax(batch.low, batch.high, parents=crown.root_bounds, phases=known)

    def rows(self, batch: Boxes, k: int, relaxed: Relaxation) -> tuple[Array, Array]:
        """The assumed phases of the k-th box as rows over the input, ``rows @ x <= bound``, rounding included."""
        enclosures, network = self.enclosures, self.enclosures.network
        rows, bounds = [np.zeros((0, batch.low.shape[1]))], [np.zeros(0)]
        for name, part in enclosures.relus.items():
            phase = batch.phase[k, part]
            entries = np.flatnonzero(phase)
            if not len(entries):
                continue
            # z >= 0 where active: a proved upper bound of z that is linear in x is at least 0
            coefficients = np.zeros((len(entries), len(phase)))
            coefficients[np.arange(len(entries)), entries] = -phase[entries]
            box_of = np.full(len(entries), k, dtype=np.intp)
            ends = batch.low, batch.high
            found = enclosures.crown.lower(network[name].inputs[0], coefficients, box_of, relaxed.relaxations, *ends)
            radius = (batch.high[k] - batch.low[k]) / 2
            middle = batch.low[k] + radius
            least = found.slopes @ middle - np.abs(found.slopes) @ radius
            # lower = least + constant - slack: what the linear function may miss, and as much again for these sums
            slack = 2 * np.maximum(least + found.constants - found.lower, 0.0) + 1e3 * SPACING * np.abs(found.constants)
            rows.append(found.slopes)
            bounds.append(slack - found.constants)
        return np.concatenate(rows), np.concatenate(bounds)

    def deepest(self, batch: Boxes, k: int, relaxed: Relaxation, deadline: Deadline) -> LpAnswer:
        """The input deepest inside all rows of the k-th box; a column beyond the inputs' is its depth."""
        rows, bound = self.rows(batch, k, relaxed)
        matrix = np.concatenate([rows, np.abs(rows).sum(axis=1)[:, None]], axis=1)
        low, high = np.append(batch.low[k], 0.0), np.append(batch.high[k], 1.0)
        cost = np.append(np.zeros(rows.shape[1]), -1.0)
        free = np.full(len(bound), -np.inf)
        return LinearProgram(sp.csr_array(matrix), free, bound, low, high, cost).solve(deadline)

    def nearest(self, box: Boxes, shares: Array, deadline: Deadline) -> Array | None:
        """An input of the box that breaks as little as possible of what one box's phases ask, by their shares.

        Args:
            shares: ``(neurons,)`` what each phase is worth.
        """
        rows, bound = self.rows(box, 0, self.relaxed(box))
        count, n = rows.shape
        size = np.abs(rows).sum(axis=1)
        matrix = sp.hstack([sp.csr_array(rows), sp.diags_array(-size)])
        low, high = np.append(box.low[0], np.zeros(count)), np.append(box.high[0], np.full(count, np.inf))
        worth = np.concatenate([shares[part][box.phase[0, part] != 0] for part in self.enclosures.relus.values()])
        cost = np.append(np.zeros(n), worth + 1e-6 * worth.max(initial=1.0))
        deep = bound - 1e-3 * size * np.max(box.high[0] - box.low[0])
        answer = LinearProgram(sp.csr_array(matrix), np.full(count, -np.inf), deep, low, high, cost).solve(deadline)
        return None if answer.point is None else np.clip(answer.point[:n], box.low[0], box.high[0])


class Region(LastResort):
    """Where nothing is left to split: does the region of the assumed phases exist? A point of it shows the map's value."""

    def __init__(self, bounder: ObjectiveBounder) -> None:
        self.bounder, self.regions = bounder, Regions(bounder.enclosures)

    def solve(self, leaf: Boxes, deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`."""
        answer = self.regions.deepest(leaf, 0, self.regions.relaxed(leaf), deadline)
        if answer.status is LpStatus.INFEASIBLE:
            return LeafAnswer(Verdict.REFUTED)
        if answer.point is not None:
            n = leaf.low.shape[1]
            self.bounder.look(np.clip(answer.point[None, :n], leaf.low, leaf.high))
            again = self.bounder.bound(leaf, deadline)
            if again.lower[0] > 0:
                return LeafAnswer(Verdict.REFUTED)
        return LeafAnswer(Verdict.OPEN, reason="a region's bound is not reached")


class PhaseBounder(ObjectiveBounder):
    """Bounds on boxes of which only the ReLUs' phases differ: those of no input are closed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.regions = Regions(self.enclosures)

    def bound(self, batch: Boxes, deadline: Deadline) -> Bounded[Boxes]:
        """See `verifier.bab.Bounder.bound` and `ObjectiveBounder.bound`."""
        found = super().bound(batch, deadline)
        lower = found.lower.copy()
        some = np.flatnonzero((lower <= 0) & batch.phase.any(axis=1))
        if len(some):
            left = batch.take(some)
            relaxed = self.regions.relaxed(left)
            for k, place in enumerate(some.tolist()):
                if self.over:
                    break
                if not self.exists(left, k, relaxed, deadline):
                    lower[place] = 1.0
        return Bounded(found.batch, lower)

    def exists(self, batch: Boxes, k: int, relaxed: Relaxation, deadline: Deadline) -> bool:
        """Whether some input may have the phases of the k-th box; one that has is looked at."""
        answer = self.regions.deepest(batch, k, relaxed, deadline)
        if answer.status is LpStatus.INFEASIBLE:
            return False
        if answer.point is not None:
            self.look(np.clip(answer.point[None, :-1], batch.low[k], batch.high[k]))
        return True


class NormBounder(PhaseBounder):
    """Bounds of a norm of ∇F on boxes of which only the ReLUs' phases differ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.began, self.aimed = time.monotonic(), 0.0
        assert self.query.gradient is not None
        self._weights = self.query.gradient.output[None]

    def bound(self, batch: Boxes, deadline: Deadline) -> Bounded[Boxes]:
        """See `verifier.bab.Bounder.bound` and `ObjectiveBounder.bound`."""
        relaxed = self.regions.relaxed(batch)
        above, effect = np.full(len(batch), -np.inf), np.zeros(batch.phase.shape)
        for k in np.flatnonzero(~relaxed.empty).tolist():
            above[k], effect[k], signs = self._norm(batch, k, relaxed)
            if above[k] <= self.limit:
                continue
            if batch.phase[k].any() and not self.exists(batch, k, relaxed, deadline):
                above[k] = -np.inf
            else:
                self._aim(batch, k, signs, effect[k], deadline)
        bounded = Boxes(batch.low, batch.high, batch.phase, batch.influence, effect)
        return Bounded(bounded, self.closed(above))

    def _norm(self, batch: Boxes, k: int, relaxed: Relaxation) -> tuple[float, Array, Phases]:
        """The norm's bound on the k-th box, each ReLU's share in it, and the phases for which the norm is large."""
        network, relus = self.enclosures.network, self.enclosures.relus
        intervals = {name: (a[k : k + 1], b[k : k + 1]) for name, (a, b) in relaxed.intervals.items()}
        fixed = {name: batch.phase[k : k + 1, part] for name, part in relus.items()}
        slopes = {n: s for n, s in possible_phases(network, intervals, fixed).items() if isinstance(s, Slopes)}
        symbols = gradient_symbols(network, self._weights, slopes)
        phases, shares = batch.phase[k].copy(), np.zeros(batch.phase.shape[1])
        if symbols is None:
            return np.inf, shares, phases
        found = norm_of_symbols(
            symbols.terms.reshape(len(symbols.terms), -1), symbols.error.reshape(-1), self.objective.symbolic
        )
        first = 0
        for name, neurons in symbols.owners:
            places, mine = relus[name].start + neurons, slice(first, first + len(neurons))
            shares[places], phases[places] = found.shares[mine], found.signs[mine]
            first += len(neurons)
        return found.above, shares, phases

    def _aim(self, batch: Boxes, k: int, phases: Phases, shares: Array, deadline: Deadline) -> None:
        """Look at an input whose phases come near to some for which the norm is large."""
        begun = time.monotonic()
        if self.aimed > AIMS * (begun - self.began):
            return
        box = Boxes.unbounded(batch.low[k : k + 1], batch.high[k : k + 1], phases[None])
        point = self.regions.nearest(box, np.where(batch.phase[k] != 0, shares.max(initial=0.0), shares), deadline)
        if point is not None:
            self.look(point[None])
        self.aimed += time.monotonic() - begun
