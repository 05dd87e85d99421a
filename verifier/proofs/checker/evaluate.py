"""Whether refutations hold: bounds of regions, combinations of rows, and their least values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from .backward import UNIT, Bounds, Linear, Regions, lower, norm
from .claim import Claim
from .graph import CheckError, Graph
from .kernel import Kernel

CHUNK = 1 << 22
"""Numbers in one working array at most."""
Region = tuple[Any, Any, Any]
"""Ends of a box, and phases."""


class ProofError(CheckError):
    """A proof that does not prove what it says."""


@dataclass(eq=False)
class Record:
    """Bounds on a region, from those of ``base`` on: by the rule, or by ``rows`` (units, signs, and weights of each)."""

    region: Region
    base: Record | None
    depth: int
    units: Any
    rows: Any = None
    found: Any = None


@dataclass(eq=False)
class Task:
    """A refutation of a disjunct (-1: of all, the region is empty) on a region, to be checked."""

    node: int
    region: Region
    record: Record
    disjunct: int
    terms: list[Any]


class Evaluator:
    """Bounds and refutations on one graph, for one claim.

    Attributes:
        margin: the least value of a refutation so far.
    """

    def __init__(self, graph: Graph, claim: Claim) -> None:
        self.graph, self.claim, self.kernel = graph, claim, Kernel(graph)
        self.margin = float("inf")
        self._rows: dict[tuple[int, int], Any] = {}

    def begin(self, disjuncts: Sequence[int]) -> Region:
        """The box around some disjuncts, rounded outwards: the region of a root."""
        low, high = (
            np.array(
                [
                    _outward(pick(column), sign)
                    for column in zip(*(getattr(self.claim.disjuncts[d], name) for d in disjuncts), strict=True)
                ]
            )
            for name, pick, sign in (("low", min, -1), ("high", max, 1))
        )
        return low, high, np.zeros(self.graph.relus, dtype=np.int8)

    def nothing(self, region: Region) -> Record:
        """No bounds yet."""
        return Record(region, None, 0, np.zeros(0, dtype=np.intp), found=self.kernel.nothing())

    def bounded(self, records: list[Record]) -> Bounds:
        """The bounds of records, whose bases have theirs: several by the rule, or one by rows."""
        base, rows = _joined([r.base.found for r in records if r.base is not None]), records[0].rows
        if rows is not None:
            units, signs, vectors = rows
            rows = units, signs, lambda which: self._dense([vectors[k] for k in which])
        return self.kernel.bounds(_regions([r.region for r in records]), base, rows)

    def _dense(self, vectors: list[Any]) -> Any:
        """Weights of rows over all units: see `lower`."""
        weights = np.full((2, len(vectors), self.graph.units), np.nan)
        for r, vector in enumerate(vectors):
            if vector is not None:
                units, given, free = vector
                weights[int(free), r, units] = given
        return weights

    def check(self, tasks: list[Task]) -> None:
        """Check refutations, whose records need not have their bounds yet.

        Raises:
            ProofError: one of them does not hold.
        """
        needed: dict[int, dict[int, Record]] = {}
        for task in tasks:
            record: Record | None = task.record
            while record is not None and record.found is None:
                needed.setdefault(record.depth, {})[id(record)] = record
                record = record.base
        step = max(1, CHUNK // sum(n.size for n in self.graph.nodes))
        for _, level in sorted(needed.items()):
            rule = [r for r in level.values() if r.rows is None]
            alone = [[r] for r in level.values() if r.rows is not None]
            for part in alone + [rule[k : k + step] for k in range(0, len(rule), step)]:
                found = self.bounded(part)
                for k, record in enumerate(part):
                    record.found = found.take(slice(k, k + 1))
        step = max(1, CHUNK // 2 // max(self.kernel.widest, self.graph.units))
        for first in range(0, len(tasks), step):
            self.refuted(tasks[first : first + step])

    def refuted(self, tasks: list[Task]) -> None:
        """Check refutations together.

        Raises:
            ProofError: one of them does not hold.
        """
        left = [t for t in tasks if not (t.record.found.empty[0] or (t.region[0] > t.region[1]).any())]
        for task in left:
            if task.disjunct < 0:
                raise ProofError(f"node {task.node} is said to be empty, and may not be")
        for task, value in zip(left, self._least(left) if left else [], strict=True):
            if not value > 0:
                raise ProofError(f"node {task.node} does not refute disjunct {task.disjunct}: its bound is {value:.6g}")
            self.margin = min(self.margin, float(value))

    def _least(self, tasks: list[Task]) -> Any:
        """The least values of combinations, ``(tasks,)``."""
        at, known = _regions([t.region for t in tasks]), _joined([t.record.found for t in tasks])
        known = replace(known, phases=np.where(at.phases != 0, at.phases, known.phases))
        terms = [(k, *term) for k, task in enumerate(tasks) for term in task.terms]
        region, start = np.array([k for k, *_ in terms], dtype=np.intp), dict[int, Any]()
        constant, error = np.zeros((2, len(terms)))
        norms = np.broadcast_to(known.norms, (len(tasks), len(self.graph.nodes)))
        for r, (k, which, factors, _) in enumerate(terms):
            for row, factor in zip(which.tolist(), factors.tolist(), strict=True):
                entries, bound = self._row(tasks[k].disjunct, row)
                for number, index, coefficients in entries:
                    start.setdefault(number, np.zeros((len(terms), self.graph.nodes[number].size)))
                    start[number][r, index] += factor * coefficients
                    error[r] += norm(factor * coefficients[None])[0] * norms[k, number]
                constant[r] -= factor * bound
                error[r] += abs(factor * bound)
        weights = self._dense([t[3] for t in terms]) if any(t[3] is not None for t in terms) else None
        found = lower(self.kernel, start, region, known, weights)

        def summed(values: Any) -> Any:
            """Those of the same refutation."""
            out = np.zeros((len(tasks), *values.shape[1:]))
            np.add.at(out, region, values)
            return out

        error = summed(error + abs(constant) + abs(found.constants)) + norm(summed(abs(found.slopes))) * norms[:, 0]
        slack = summed(found.slack) + 4 * (self.kernel.gamma + 8 * len(terms) * UNIT) * error
        total = Linear(summed(found.slopes), summed(found.constants + constant), slack * (1 + 1e-6))
        return total.least(at.low, at.high)

    def _row(self, disjunct: int, k: int) -> tuple[list[tuple[int, Any, Any]], float]:
        """A row of a disjunct: by node indices and coefficients, and its bound, as float64."""
        if (disjunct, k) not in self._rows:
            row = self.claim.disjuncts[disjunct].rows[k]
            entries = [
                (self.graph.outputs[name], np.array(list(c), dtype=np.intp), np.array(list(map(float, c.values()))))
                for name, c in row.coefficients.items()
            ]
            self._rows[disjunct, k] = entries, float(row.bound)
        found: tuple[list[tuple[int, Any, Any]], float] = self._rows[disjunct, k]
        return found


def _regions(parts: list[Region]) -> Regions:
    return Regions(*(np.stack(column) for column in zip(*parts, strict=True)))


def _joined(parts: list[Bounds]) -> Bounds:
    if all(p is parts[0] for p in parts):
        return parts[0]
    names = ("low", "high", "norms", "empty", "phases")
    low, high, norms, empty, phases = (np.concatenate([getattr(p, name) for p in parts]) for name in names)
    return Bounds(low, high, norms, empty, phases)


def _outward(value: Fraction, sign: int) -> float:
    """The float64 number at a rational or beyond it."""
    found = float(value)
    return found if (Fraction(found) - value) * sign >= 0 else float(np.nextafter(found, sign * np.inf))
