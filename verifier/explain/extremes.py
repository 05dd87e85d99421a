"""How large a function of a saliency map gets on a box: branch and bound with proved bounds from above.

An `Objective` is a function of the map (a norm; minus one entry; how far another feature overtakes the top K). On a box
with some ReLU phases assumed, CROWN on the Jacobian encloses the map, and the objective's value on the enclosure is a
bound from above; its value at points (boxes' centers and corners) is one from below. Boxes are split on the ReLU that
moves the map most, or on an input, until bound and value are as near as asked. Where all ReLUs that matter are decided
the map is known, and a linear program says whether the region exists.

What is reported as reached is the value at a point in rational arithmetic; what is reported as bound covers all rounding.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.bab import BranchAndBound, LastResort, LeafAnswer, PriorityStore, Settings, Verdict
from verifier.bab.interfaces import Bounded, Children
from verifier.engines.maps.boxes import Boxes
from verifier.engines.maps.enclosure import Enclosure, Enclosures
from verifier.errors import PropertyError
from verifier.events import Listener, ignore
from verifier.limits import Deadline, MemoryBudget
from verifier.lp.program import LinearProgram, LpStatus
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array
from verifier.properties.builders import Domain, condition_at, network_domain, network_of
from verifier.properties.conjunction import Conjunction
from verifier.properties.maps import SaliencyMap
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box
from verifier.rounding import SPACING
from verifier.shown import Shown

LEAST_GAP = 1e-9
"""No search goes nearer than this: bounds cover rounding errors, and so never meet what is reached."""


class Objective(Protocol):
    """A function of the map, to be as large as possible."""

    def above(self, lower: Array, upper: Array) -> Array:
        """``(B,)``: at least its value at every map between ``lower`` and ``upper (B, n)``, rounding included."""

    def linear(self, lower: Array, upper: Array) -> tuple[Array, Array] | None:
        """Coefficients ``(B, n)`` and constants ``(B,)`` of linear functions that are at least its value between ``lower``
        and ``upper``, rounding included; None where that gains nothing.
        """

    def values(self, maps: Array) -> Array:
        """Its value at maps ``(B, n)``, ``(B,)``, in float64."""

    def exact(self, found: Sequence[Fraction]) -> float:
        """At most its value at one map, next to it."""


@dataclass(frozen=True, kw_only=True)
class ExtremeSettings:
    """How boxes are searched.

    Attributes:
        cells: boxes times neurons bounded at once.
        few_inputs: with more inputs than this, only ReLUs are split.
        few_unstable: with fewer inputs, a box with at most so many unstable ReLUs is split on one of them.
        narrow: boxes narrower than this share of the root in every input are not split again.
        stuck: more subproblems than this that cannot be split end the search.
        samples, seed: points that are evaluated first.
    """

    cells: int = 1 << 15
    few_inputs: int = 12
    few_unstable: int = 12
    narrow: float = 1e-9
    stuck: int = 200
    samples: int = 256
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Extreme(Shown):
    """Between what the largest value of an objective lies.

    Attributes:
        lower: reached, by exact evaluation, at ``input``.
        upper: proved for the whole box.
        input: ``(n,)``; None if no point was evaluated.
        map: the map there, ``(n,)``, rounded to nearest.
        subproblems: that were bounded.
        reason: why the search ended before both are as near as asked; "" if they are.
        seconds: wall-clock time.
    """

    lower: float
    upper: float
    input: Array | None
    map: Array | None
    subproblems: int
    reason: str
    seconds: float

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {"reached": f"{self.lower:.6g}", "proved at most": f"{self.upper:.6g}"}
        facts["took"] = f"{self.subproblems} subproblems, {self.seconds:.2f} s"
        if self.reason:
            facts["ended"] = self.reason
        return "Extreme", facts

    @property
    def gap(self) -> float:
        """``upper / lower - 1``; 0 where both are 0."""
        if self.upper <= self.lower:
            return 0.0
        return self.upper / self.lower - 1 if self.lower > 0 else float("inf")


def maps_on_box(
    network: Network,
    x: npt.ArrayLike,
    epsilon: float,
    *,
    label: int | None = None,
    domain: Domain = "network",
    map: str | SaliencyMap = "gradient",
) -> Query:
    """The maps on the ε-box around x, as a query that every point meets.

    Args:
        network, x, epsilon, label, domain, map: as for `verifier.saliency_robustness`; the label may be of a network
            with one output.

    Raises:
        PropertyError: as `verifier.saliency_robustness`.
    """
    ends = network_domain(network, domain)
    condition = condition_at(network, x, 0.0, label, domain=ends, map=map)
    host, weights = network_of(condition)
    if not (condition.map.by_gradient or condition.map.path):
        raise PropertyError(f"extremes of the map {condition.map.name!r} are not known", fix="choose another map")
    gradient = None
    if condition.map.by_gradient:
        free = np.full(network.input_size, np.inf)
        gradient = GradientBox(output=weights, lower=-free, upper=free)
    point = np.asarray(x, dtype=np.float64).reshape(-1)
    if ends is not None:
        point = np.clip(point, *ends)  # `condition_at` has refused what is farther outside than rounding
    return Query(
        network=host,
        box=Box.around(point, epsilon, ends),
        disjuncts=(Conjunction(bound=np.zeros(0)),),
        gradient=gradient,
        condition=condition,
        anchor=point,
    )


def largest(
    query: Query,
    objective: Objective,
    *,
    gap: float = 0.0,
    target: float | None = None,
    deadline: Deadline,
    memory: float | None = None,
    threads: int = 1,
    starts: Array | None = None,
    settings: ExtremeSettings = ExtremeSettings(),
    listener: Listener = ignore,
) -> Extreme:
    """The largest value of an objective over the maps on a query's box.

    Args:
        query: the box and the map, by `maps_on_box`.
        gap: how near ``upper`` has to come to ``lower``, relatively.
        target: what matters is only whether the objective exceeds this: the search ends when a point does, or none can.
        memory: GiB; None for a share of the machine's.
        starts: points ``(k, n)`` that are evaluated first.
    """
    began = time.monotonic()
    assert query.condition is not None
    bounder = _Bounder(query, objective, gap, target)
    bounder.look(query.box.clip(np.stack([query.start, query.box.center])))
    bounder.look(query.box.sample(settings.samples, np.random.default_rng(settings.seed)))
    bounder.look(_corners(query, settings))
    if starts is not None and len(starts):
        bounder.look(query.box.clip(starts))
    size = max(4, settings.cells // max(1, query.network.neurons))
    search = BranchAndBound(
        store=PriorityStore(MemoryBudget.of(memory)),
        bounder=bounder,
        brancher=_Brancher(query.box.width, settings, constant=query.condition.map.baseline is None),
        leaf=_Region(bounder),
        settings=Settings(batch=size * threads, piece=size, threads=threads, unit="boxes"),
        stop=lambda so_far: bounder.over or ("too many boxes cannot be split" if so_far.stuck > settings.stuck else ""),
    )
    root = Boxes.root(query.box.lower, query.box.upper, bounder.enclosures.neurons)
    found = search.run(root, deadline, listener)
    worst = min(found.worst, 0.0) if found.left else 0.0
    lower, point, at = bounder.reached()
    upper = max(bounder.highest, bounder.limit - worst if worst else -np.inf, lower)
    return Extreme(
        lower=lower,
        upper=float(np.nextafter(upper, np.inf)) if worst else upper,
        input=point,
        map=at,
        subproblems=found.done,
        reason="" if bounder.over else found.reason,
        seconds=time.monotonic() - began,
    )


def _corners(query: Query, settings: ExtremeSettings) -> Array:
    """Corners of the box that random combinations of the first preactivations point to: activation patterns far apart, which
    points at random hardly meet where there are many inputs.
    """
    assert query.condition is not None
    network, box = query.condition.network, query.box
    first = next((network[node.inputs[0]] for node in network.activations if network[node.inputs[0]].inputs), None)
    if first is None or first.inputs[0] != network.input or not isinstance(first.operator, AffineOperator):
        return box.center[None]
    rng = np.random.default_rng(settings.seed)
    rows = rng.normal(size=(settings.samples, *first.shape)) * (rng.random((settings.samples, *first.shape)) < 0.3)
    slopes = first.operator.transpose(rows, network.input_shape)[0].reshape(settings.samples, -1)
    return box.clip(np.where(slopes > 0, box.upper, np.where(slopes < 0, box.lower, box.center)))


@dataclass(eq=False)
class _Bounder:
    """Bounds of the objective on boxes, and the best point so far."""

    query: Query
    objective: Objective
    gap: float
    target: float | None
    best: float = -np.inf
    highest: float = -np.inf
    """The highest bound of a box that was closed."""
    candidates: list[tuple[float, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.query.condition is not None
        self.condition = self.query.condition
        self.enclosures = Enclosures(self.query)
        self._lock = threading.Lock()
        self._exact: ExactNetwork | None = None
        plain = self.condition.map.baseline is None and not self.condition.map.absolute and not self.condition.map.path
        free = np.zeros((1, self.query.network.input_size))
        self._linear: Any = self.objective.linear if plain and self.objective.linear(free, free) is not None else None
        """For maps that are ∇F itself."""

    @property
    def limit(self) -> float:
        """Boxes whose bound is not above this are closed."""
        if self.target is not None:
            return self.target
        return self.best + max(self.gap, LEAST_GAP) * abs(self.best) if np.isfinite(self.best) else -np.inf

    @property
    def over(self) -> str:
        """Why the search may end: a point exceeds the target."""
        if self.target is None or self.best <= self.target:
            return ""
        return "a point exceeds the target" if self.reached()[0] > self.target else ""

    def look(self, points: Array) -> None:
        """Evaluate the objective at points ``(k, n)``."""
        c = self.condition
        values = self.objective.values(c.map.values(c.network, c.output, points))
        k = int(values.argmax())
        with self._lock:
            if values[k] > self.best:
                self.best = float(values[k])
                self.candidates.append((self.best, points[k].copy()))

    def reached(self) -> tuple[float, Array | None, Array | None]:
        """The best value by exact evaluation, the point, and the map there."""
        with self._lock:
            candidates = self.candidates[-3:]
        c, results = self.condition, []
        self._exact = self._exact or ExactNetwork(c.network)
        for _, point in candidates:
            found = c.map.exact(self._exact, c.output, self.query.box.point(point))
            results.append((self.objective.exact(found), point, np.array([float(v) for v in found])))
        return max(results, key=lambda r: r[0]) if results else (-np.inf, None, None)

    def bound(self, batch: Boxes, deadline: Deadline) -> Bounded[Boxes]:
        """See `verifier.bab.Bounder.bound`: 1 for a closed box, else how far its bound is above the limit, negated."""
        found = self.enclosures.of(batch.low, batch.high, batch.phase, self._linear)
        lower, upper = map_bounds(self.condition.map.baseline, self.condition.map.absolute, batch, found)
        above = np.where(found.open, np.minimum(self.objective.above(lower, upper), found.above), -np.inf)
        bounded = Boxes(batch.low, batch.high, batch.phase, found.influence, found.neurons)
        if found.open.any():
            low, high = batch.low[found.open], batch.high[found.open]
            self.look(np.concatenate([low + (high - low) / 2, np.clip(found.corners[found.open], low, high)]))
        limit = self.limit
        with self._lock:
            self.highest = max(self.highest, float(above[above <= limit].max(initial=-np.inf)))
        return Bounded(bounded, np.where(above <= limit, 1.0, np.minimum(limit - above, -1e-300)))


def map_bounds(baseline: Array | None, absolute: bool, batch: Boxes, found: Enclosure) -> tuple[Array, Array]:
    """Bounds on the map from those on ∇F, ``(B, n)`` each, rounded outwards."""
    lower, upper = found.g_lower, found.g_upper
    if baseline is not None:
        left = np.nextafter(batch.low - baseline, -np.inf)
        right = np.nextafter(batch.high - baseline, np.inf)
        ends = np.stack([left * lower, left * upper, right * lower, right * upper])
        lower, upper = np.nextafter(ends.min(axis=0), -np.inf), np.nextafter(ends.max(axis=0), np.inf)
    if absolute:
        size = np.maximum(np.abs(lower), np.abs(upper))
        lower, upper = np.where((lower <= 0) & (upper >= 0), 0.0, np.minimum(np.abs(lower), np.abs(upper))), size
    return lower, upper


class _Brancher:
    """Splits on the ReLU that moves the map most; with few inputs and many unstable ReLUs, on an input.

    Args:
        width: ``(n,)`` of the root.
        constant: whether the map is the same on all of a box that has no unstable ReLU: splitting it gains nothing.
    """

    def __init__(self, width: Array, settings: ExtremeSettings, constant: bool) -> None:
        self.constant = constant
        self.width, self.narrow = np.where(width > 0, width, 1.0), settings.narrow
        self.by_inputs = int((width > 0).sum()) <= settings.few_inputs
        self.few = settings.few_unstable if self.by_inputs else width.size + (1 << 30)

    def split(self, batch: Boxes, lower: Array) -> Children[Boxes]:
        """See `verifier.bab.Brancher.split`."""
        width = batch.high - batch.low
        splittable = (width > self.narrow * self.width) & self.by_inputs
        score = np.where(splittable, width / self.width * (batch.influence + 1e-3), 0.0)
        unstable = (batch.effect > 0).sum(axis=1)
        by_phase = (unstable > 0) & ((unstable <= self.few) | (score.max(axis=1) == 0))
        divided = by_phase | ((score.max(axis=1) > 0) & ~((unstable == 0) & self.constant))
        parent = np.repeat(np.flatnonzero(divided), 2)
        lows, highs, phases = batch.low[parent], batch.high[parent], batch.phase[parent]
        for k in range(0, len(parent), 2):
            p = int(parent[k])
            if by_phase[p]:
                neuron = int(batch.effect[p].argmax())
                phases[k, neuron], phases[k + 1, neuron] = 1, -1
            else:
                i = int(score[p].argmax())
                highs[k, i] = lows[k + 1, i] = batch.low[p, i] + width[p, i] / 2
        return Children(Boxes.unbounded(lows, highs, phases), parent)


class _Region(LastResort):
    """Where nothing is left to split: does the region of the assumed phases exist? A point of it shows the map's value."""

    def __init__(self, bounder: _Bounder) -> None:
        self.bounder = bounder

    def solve(self, leaf: Boxes, deadline: Deadline) -> LeafAnswer:
        """See `verifier.bab.LeafSolver.solve`."""
        rows, bound = self._rows(leaf)
        n = leaf.low.shape[1]
        # the deepest point, by a column t with rows · x + t <= bound
        matrix = sp.hstack([sp.csr_array(rows), sp.csr_array(np.abs(rows).sum(axis=1)[:, None])])
        low, high = np.append(leaf.low[0], 0.0), np.append(leaf.high[0], 1.0)
        cost = np.append(np.zeros(n), -1.0)
        program = LinearProgram(sp.csr_array(matrix), np.full(len(bound), -np.inf), bound, low, high, cost)
        answer = program.solve(deadline)
        if answer.status is LpStatus.INFEASIBLE:
            return LeafAnswer(Verdict.REFUTED)
        if answer.point is not None:
            self.bounder.look(np.clip(answer.point[None, :n], leaf.low, leaf.high))
            again = self.bounder.bound(leaf, deadline)
            if again.lower[0] > 0:
                return LeafAnswer(Verdict.REFUTED)
        return LeafAnswer(Verdict.OPEN, reason="a region's bound is not reached")

    def _rows(self, leaf: Boxes) -> tuple[Array, Array]:
        """The assumed phases as rows over the input, ``rows @ x <= bound``; the bound has the rounding added."""
        enclosures, network = self.bounder.enclosures, self.bounder.query.network
        known = {network[name].inputs[0]: leaf.phase[:, part] for name, part in enclosures.relus.items()}
        crown = enclosures.crown
        relaxed = crown.relax(leaf.low, leaf.high, parents=crown.root_bounds, phases=known)
        rows, bounds = [np.zeros((0, leaf.low.shape[1]))], [np.zeros(0)]
        for name, phase in known.items():
            entries = np.flatnonzero(phase[0])
            if not len(entries):
                continue
            # z >= 0 where active: a proved upper bound of z that is linear in x is at least 0
            coefficients = np.zeros((len(entries), network[name].size))
            coefficients[np.arange(len(entries)), entries] = -phase[0, entries]
            found = crown.lower(
                name, coefficients, np.zeros(len(entries), dtype=np.intp), relaxed.relaxations, leaf.low, leaf.high
            )
            middle = leaf.low[0] + (leaf.high[0] - leaf.low[0]) / 2
            radius = (leaf.high[0] - leaf.low[0]) / 2
            least = found.slopes @ middle - np.abs(found.slopes) @ radius
            # lower = least + constant - slack: what the linear function may miss, and as much again for these sums
            slack = 2 * np.maximum(least + found.constants - found.lower, 0.0) + 1e3 * SPACING * np.abs(found.constants)
            rows.append(found.slopes)
            bounds.append(slack - found.constants)
        return np.concatenate(rows), np.concatenate(bounds)
