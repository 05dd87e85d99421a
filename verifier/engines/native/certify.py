"""Certificates for boxes: how a region is shown to hold no solution, found with the functions that check it.

A search says which boxes it refuted; what convinced it (half-spaces, cuts, functions made on the way) is not
written down, but found again in the form of a certificate: rows and phase constraints with default slopes, and up to
`ROUNDS` combinations bounded as one row, each with slopes that are right for the point where the functions so far are
least (Kelley's cutting planes, as `verifier.engines.native.decide`). What is not found is not refuted: the search
goes on there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from verifier.network.operators import Array
from verifier.proofs.builder import ProofBuilder, Term
from verifier.proofs.check import added, row_functions
from verifier.proofs.kernel import Bounds, Linear, Phases, ReluGraph
from verifier.proofs.relu_network import relu_network
from verifier.properties.query import Query
from verifier.properties.rows import Conditions

ROUNDS = 4
TURNS = 2
WORTH, OUTWARD = 0.05, 1e-6
"""Slices are cut off that are at least so large a share of the box, and end so far outside what its rows leave."""
RELUCTANCE = 2.0
"""A certificate must be positive even if its slack were so many times as large: another machine rounds otherwise."""


@dataclass(frozen=True, eq=False)
class _Function:
    """A combination of rows of a disjunct, with weights for all ReLUs, and what they bound."""

    combination: Array
    weights: Array
    found: Linear


@dataclass(eq=False)
class Region:
    """A node's box and phases, what is known of the ReLUs there, and where that is in the proof (-1: nowhere yet).

    Attributes:
        neurons: the open and the fixed ReLUs: weights are written for these.
        base: the region around it whose bounds its own started from.
    """

    node: int
    low: Array
    high: Array
    phases: Phases
    bounds: Bounds
    neurons: Array
    base: Region | None
    record: int = -1


class BoxCertifier:
    """Finds certificates on boxes of a query, and records them in its ``builder``."""

    def __init__(self, query: Query) -> None:
        self.builder = ProofBuilder()
        self.conditions = Conditions.of(query)
        self.graph = ReluGraph(relu_network(query.network))

    def phases(self, neurons: Array, signs: Array) -> Phases:
        """Phases of some ReLUs, as `region` wants them."""
        phases = np.zeros(self.graph.neurons, dtype=np.int8)
        phases[neurons] = signs
        return phases

    def region(
        self, node: int, low: Array, high: Array, phases: Phases | None = None, base: Region | None = None
    ) -> Region:
        """A node's region with its bounds, which start from those of a region around it."""
        phases = np.zeros(self.graph.neurons, dtype=np.int8) if phases is None else phases
        bounds = self.graph.bounds(low, high, phases, None if base is None else base.bounds)
        neurons = np.flatnonzero(((bounds.low < 0) & (bounds.high > 0)) | (phases != 0))
        return Region(node, low.copy(), high.copy(), phases, bounds, neurons, base)

    def _record(self, region: Region) -> int:
        """The number of a region's bounds in the proof; they are recorded when they are first needed."""
        if region.record < 0:
            base = -1 if region.base is None else self._record(region.base)
            region.record = self.builder.bounds(region.node, region.neurons, base)
        return region.record

    def refute(self, region: Region, disjuncts: Iterable[int]) -> list[int]:
        """The disjuncts among some that certificates refute on a region; they are recorded."""
        disjuncts = list(disjuncts)
        if region.bounds.contradiction >= 0:
            self.builder.contradiction(region.node, self._record(region))
            return disjuncts
        refuted = []
        for disjunct in disjuncts:
            terms = self._terms(disjunct, region.low, region.high, region.phases, region.bounds, region.neurons)
            if terms is not None:
                self.builder.refute(region.node, disjunct, self._record(region), terms)
                refuted.append(disjunct)
        return refuted

    def cut(self, region: Region, disjuncts: Sequence[int]) -> tuple[int, Array, Array]:
        """What is left of a region when slices of its box in which no disjunct is possible are cut off.

        Each slice is a division of the node; on it every disjunct is refuted by one of its rows, with the bounds that were
        found on the whole region.

        Returns:
            The node that is left, and its box.
        """
        node, bounds = region.node, region.bounds
        if bounds.contradiction >= 0:
            return node, region.low, region.high
        members = np.concatenate([self.conditions.members(disjunct) for disjunct in disjuncts])
        owners = self.conditions.disjunct_of[members]
        rows = np.eye(len(self.conditions))[members]
        found = row_functions(self.graph, self.conditions, rows, region.phases[None], bounds, None)
        slack = RELUCTANCE * found.slack
        low, high = region.low.copy(), region.high.copy()
        for _ in range(TURNS):
            for j in np.flatnonzero(high > low):
                for upper in (True, False):
                    slope = found.slopes[:, j]
                    helps = slope > 0 if upper else slope < 0
                    least = found.least(low, high) + found.slack - slack
                    reach = np.full(len(members), np.inf)
                    np.divide(np.maximum(-least, 0.0), np.abs(slope), out=reach, where=helps)
                    by_disjunct = np.where(owners == np.asarray(disjuncts)[:, None], reach, np.inf)
                    best = by_disjunct.argmin(axis=1)
                    width = high[j] - low[j]
                    kept = by_disjunct.min(axis=1).max() + OUTWARD * width  # so much of the box's width
                    if not kept < (1 - WORTH) * width:
                        continue
                    value = low[j] + kept if upper else high[j] - kept
                    slice_low, slice_high = low.copy(), high.copy()
                    (slice_low if upper else slice_high)[j] = value
                    if not (found.least(slice_low, slice_high) + found.slack - slack > 0)[best].all():
                        continue
                    record = self._record(region)
                    below, above = self.builder.divide_input(node, int(j), float(value))
                    node, gone = (below, above) if upper else (above, below)
                    for disjunct, k in zip(disjuncts, best, strict=True):
                        self.builder.refute(gone, disjunct, record, [Term([members[k]], [1.0])])
                    (high if upper else low)[j] = value
        return node, low, high

    def _terms(
        self, disjunct: int, low: Array, high: Array, phases: Phases, bounds: Bounds, neurons: Array
    ) -> list[Term] | None:
        members = self.conditions.members(disjunct)
        fixed = np.flatnonzero(phases)
        combinations = np.zeros((len(members) + len(fixed), len(self.conditions)))
        combinations[np.arange(len(members)), members] = 1.0
        weights = self.graph.default_slopes(bounds, len(combinations), phases[None])
        weights[len(members) + np.arange(len(fixed)), fixed] = 1.0  # multipliers of phase constraints
        default = weights[0] if len(members) else None
        found = row_functions(self.graph, self.conditions, combinations, phases[None], bounds, weights)
        functions = [
            _Function(combinations[k], weights[k], Linear(found.slopes[[k]], found.constants[[k]], found.slack[[k]]))
            for k in range(len(combinations))
        ]
        least = found.least(low, high) - (RELUCTANCE - 1) * found.slack
        alone = int(least.argmax()) if len(least) else 0
        if len(least) and alone < len(members) and least[alone] > 0:
            return [Term([members[alone]], [1.0])]
        for _ in range(ROUNDS + 1):
            shares, point = _least_of_greatest(functions, low, high)
            terms = self._mixed(functions, shares, default, bounds, phases, low, high, neurons)
            if terms is not None:
                return terms
            mix = np.sum([s * f.combination for s, f in zip(shares, functions, strict=True)], axis=0)
            if not mix.sum() > 1e-9:
                return None
            pre = self._preactivations(point)
            slopes = np.where(phases == 0, (pre > 0).astype(np.float64), 0.0)
            for k, neuron in enumerate(fixed):  # the multipliers stay as they are in the combination
                slopes[neuron] = shares[len(members) + k] / mix.sum()
            one = row_functions(self.graph, self.conditions, mix[None] / mix.sum(), phases[None], bounds, slopes[None])
            functions.append(_Function(mix / mix.sum(), slopes, one))
        return None

    def _mixed(
        self,
        functions: list[_Function],
        shares: Array,
        default: Array | None,
        bounds: Bounds,
        phases: Phases,
        low: Array,
        high: Array,
        neurons: Array,
    ) -> list[Term] | None:
        """The combination of functions as terms (those with default slopes are one), if it proves the disjunct."""
        merged: dict[bytes, list[Array]] = {}
        free = phases == 0
        for share, function in zip(shares, functions, strict=True):
            if share > 0:
                key = function.weights[free].tobytes()
                fixed = np.where(free, 0.0, share * function.weights)
                old = merged.get(key)
                slopes = np.where(free, function.weights, 0.0)
                merged[key] = [
                    share * function.combination + (0 if old is None else old[0]),
                    fixed + (0 if old is None else old[1]),
                    slopes,
                ]
        if not merged:
            return None
        combinations = np.array([m[0] for m in merged.values()])
        weights = np.array([m[1] + m[2] for m in merged.values()])
        weights[:, neurons] = weights[:, neurons].astype(np.float32)  # as they are written
        found = row_functions(self.graph, self.conditions, combinations, phases[None], bounds, weights)
        whole = added(self.graph, found, np.zeros(len(found.slack), dtype=np.intp), bounds)
        if not whole.least(low, high)[0] - (RELUCTANCE - 1) * whole.slack[0] > 0:
            return None
        terms = []
        for combination, weight in zip(combinations, weights, strict=True):
            rows = np.flatnonzero(combination)
            plain = default is not None and np.array_equal(weight[neurons], default[neurons])
            terms.append(Term(rows, combination[rows], () if plain else weight[neurons]))
        return terms

    def _preactivations(self, x: Array) -> Array:
        """Of all ReLUs at a point; for choices only."""
        values = self.graph.network.values(x)
        parts = [values[self.graph.network[name].inputs[0]].reshape(-1) for name in self.graph.relus]
        return np.concatenate([np.zeros(0), *parts])


def _least_of_greatest(functions: list[_Function], low: Array, high: Array) -> tuple[Array, Array]:
    """Weights (sum 1) of the functions whose combination has the greatest least value on a box, and where the greatest
    of the functions is least."""
    from verifier.engines.native.combine import best_weights, put, workspace_of

    middle = low + (high - low) / 2
    radius = (high - low) / 2
    free = np.flatnonzero(radius > 0)
    f = workspace_of(len(functions), len(free), 0)
    for k, function in enumerate(functions):
        found = function.found
        put(f, k, found.slopes[0], float(found.constants[0] - found.slack[0]), middle, radius, free)
    best_weights(f, len(functions))
    point = middle.copy()
    point[free] += f.target * radius[free]
    return f.weights[: len(functions)].copy(), point
