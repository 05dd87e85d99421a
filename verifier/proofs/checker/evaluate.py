"""Whether refutations hold: bounds of regions, combinations of rows, and their least values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .backward import PREFERENCE, UNIT, Bounds, Linear, Regions, Weights, norm
from .claim import Claim
from .graph import Graph
from .kernel import CHUNK, Kernel, unknown
from .stream import ProofError

Region = tuple[Any, Any, Any]
"""Ends of a box, and phases."""


@dataclass(eq=False)
class Record:
    """Bounds on a region: by the rule, by ``rows`` (units, signs, and weights of each), or those of ``base`` with one that a lemma
    proves (``lemma``: unit, side, value)."""

    region: Region
    base: Record | None
    depth: int
    units: Any
    rows: Any = None
    lemma: tuple[int, int, float] | None = None
    found: Any = None


@dataclass(eq=False)
class Task:
    """A refutation of a disjunct (-1: that ``lemma`` fails; -2: of all, the region is empty) on a region, to be checked."""

    node: int
    region: Region
    record: Record
    disjunct: int
    terms: list[Any]
    rational: bool = False
    lemma: tuple[int, int, float] | None = None


class Evaluator:
    """Bounds and refutations on one graph, for one claim.

    Attributes:
        margin: the least value of a refutation so far.
    """

    def __init__(self, graph: Graph, claim: Claim) -> None:
        self.graph, self.claim, self.kernel = graph, claim, Kernel(graph)
        self.margin = float("inf")
        self._rational: Kernel | None = None
        self._rows: dict[tuple[int, int], Any] = {}

    def begin(self, disjuncts: Sequence[int]) -> Region:
        """The box around some disjuncts, rounded outwards, as the region that the next ones are parts of."""
        some = [self.claim.disjuncts[d] for d in disjuncts]
        self.ends = [
            [pick(column) for column in zip(*(getattr(d, name) for d in some), strict=True)]
            for name, pick in (("low", min), ("high", max))
        ]
        low, high = (np.array([_outward(v, sign) for v in e]) for e, sign in zip(self.ends, (-1, 1), strict=True))
        self.root = low, high, np.zeros(self.graph.relus, dtype=np.int8)
        return self.root

    def nothing(self, region: Region) -> Record:
        """No bounds yet."""
        return Record(region, None, 0, np.zeros(0, dtype=np.intp), found=unknown(self.graph))

    def bounded(self, records: list[Record]) -> Bounds:
        """The bounds of records, whose bases have theirs: several by the rule, or one of any kind."""
        base = _joined([r.base.found for r in records if r.base is not None])
        (one, *_) = records
        if one.lemma is not None:
            unit, side, value = one.lemma
            end = (base.low if side > 0 else base.high).copy()
            end[0, unit] = max(end[0, unit], value) if side > 0 else min(end[0, unit], value)
            low, high = (end, base.high) if side > 0 else (base.low, end)
            return Bounds(low, high, base.norms, base.empty | (low[:, unit] > high[:, unit]), base.phases)
        at, rows = _regions([r.region for r in records]), None
        if one.rows is not None:
            units, signs, vectors = one.rows
            rows = units, signs, lambda which, known: self._dense([vectors[k] for k in which], at, known, 0)
        return self.kernel.bounds(at, base, rows)

    def _dense(self, vectors: list[Any], at: Regions, known: Bounds, region: Any, dtype: Any = np.float64) -> Weights:
        """Weights of rows over all units, default slopes where none are given."""
        count, relus = len(vectors), at.phases.shape[1]
        phases = np.where(at.phases != 0, at.phases, known.phases)
        low, high, fixed = (_rows(v, region, count) for v in (known.low[:, :relus], known.high[:, :relus], phases != 0))
        slopes, free = np.zeros((count, self.graph.units), dtype=dtype), None
        slopes[:, :relus] = np.where(~fixed & (high > -low * (1 + PREFERENCE)), 1, 0)
        for r, vector in enumerate(vectors):
            if vector is None:
                continue
            units, given, anything = vector
            if anything:
                free = np.full(slopes.shape, np.nan, dtype=dtype) if free is None else free
                free[r, units] = given
            else:
                slopes[r, units] = given
        slopes[:, :relus] = np.where(fixed, slopes[:, :relus], np.minimum(slopes[:, :relus], 1))
        return Weights(slopes, free)

    # -- refutations -------------------------------------------------------------------------------------
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
            rule = [r for r in level.values() if r.lemma is None and r.rows is None]
            parts = [[r] for r in level.values() if r.lemma is not None or r.rows is not None]
            for part in parts + [rule[k : k + step] for k in range(0, len(rule), step)]:
                found = self.bounded(part)
                for k, record in enumerate(part):
                    record.found = found.take(slice(k, k + 1))
        step = max(1, CHUNK // 2 // max(self.kernel.widest, self.graph.units))
        for first in range(0, len(tasks), step):
            self.refuted(tasks[first : first + step])

    def refuted(self, tasks: list[Task]) -> None:
        """Check refutations together; those in rational arithmetic one by one.

        Raises:
            ProofError: one of them does not hold.
        """
        together = []
        for task in tasks:
            if task.record.found.empty[0] or (task.region[0] > task.region[1]).any():
                continue
            if task.disjunct == -2:
                raise ProofError(f"node {task.node} is said to be empty, and may not be")
            if task.rational:
                self._exactly(task)
            else:
                together.append(task)
        if not together:
            return
        for task, value in zip(together, self._least(together), strict=True):
            if not value > 0:
                raise _unrefuted(task, value)
            self.margin = min(self.margin, float(value))

    def _least(self, tasks: list[Task]) -> Any:
        """The least values of combinations, ``(tasks,)``."""
        at, known = _regions([t.region for t in tasks]), _joined([t.record.found for t in tasks])
        terms = [(k, *term) for k, task in enumerate(tasks) for term in task.terms]
        if {k for k, *_ in terms} != set(range(len(tasks))):
            return np.full(len(tasks), -np.inf)
        region = np.array([term[0] for term in terms])
        start, sizes = dict[int, Any](), dict[int, Any]()
        constant, error = np.zeros(len(terms)), np.zeros(len(terms))
        for r, (k, which, factors, _) in enumerate(terms):
            for row, factor in zip(which.tolist(), factors.astype(np.float64).tolist(), strict=True):
                entries, bound = self.row(tasks[k], row)
                for number, (index, coefficients) in entries.items():
                    for table, values in ((start, coefficients), (sizes, abs(coefficients))):
                        if number not in table:
                            table[number] = np.zeros((len(terms), self.graph.nodes[number].size))
                        table[number][r, index] += factor * values.astype(np.float64)
                constant[r] -= factor * float(bound)
                error[r] += abs(factor * float(bound))
        weights = None
        if any(term[3] is not None for term in terms):
            weights = self._dense([t[3] for t in terms], at, known, region)
        found = self.kernel.lower(start, constant, region, at, known, weights)
        gamma = self.kernel.gamma + 8 * len(terms) * UNIT
        for number in start:
            error = error + norm(sizes[number]) * _rows(known.norms[:, [number]], region, len(terms))[:, 0]
        slack = (found.slack + 2 * gamma * error) * (1 + 1e-6)
        total = _added(Linear(found.slopes, found.constants, slack), region, len(tasks), known.norms[:, 0], gamma)
        return total.least(at.low, at.high)

    def row(self, task: Task, k: int) -> tuple[dict[int, tuple[Any, Any]], Fraction]:
        """A row of a task's disjunct: by node indices and coefficients, and its bound."""
        if task.lemma is not None:
            unit, side, value = task.lemma
            node = next(n for n in self.graph.nodes if 0 <= n.first <= unit < n.first + n.size)
            entry = np.array([unit - node.first]), np.array([Fraction(side)])
            return {node.terms[0][0]: entry}, Fraction(side * value)
        if (task.disjunct, k) not in self._rows:
            row = self.claim.disjuncts[task.disjunct].rows[k]
            self._rows[task.disjunct, k] = (
                {
                    self.graph.outputs[name]: (
                        np.array(list(entries), dtype=np.intp),
                        np.array([*entries.values(), None])[:-1],
                    )
                    for name, entries in row.coefficients.items()
                },
                row.bound,
            )
        found: tuple[dict[int, tuple[Any, Any]], Fraction] = self._rows[task.disjunct, k]
        return found

    def _exactly(self, task: Task) -> None:
        """A refutation in rational arithmetic: positive, or not negative with a strict row in it."""
        kernel = self._rational = self._rational or Kernel(self.graph, rational=True)
        low, high = (
            np.array([[e if v == w else Fraction(v) for v, w, e in zip(mine, whole, ends, strict=True)]], dtype=object)
            for mine, whole, ends in zip(task.region, self.root, self.ends, strict=False)
        )
        at, zero = Regions(low, high, task.region[2][None]), np.array([Fraction(0)], dtype=object)
        strict, slopes, constants = False, zero[None], zero
        for which, factors, vector in task.terms:
            start, constant = dict[int, Any](), zero
            for k, factor in zip(which, map(Fraction, factors), strict=True):
                strict |= bool(task.lemma is None and factor > 0 and self.claim.disjuncts[task.disjunct].rows[k].strict)
                entries, bound = self.row(task, k)
                constant = constant - factor * bound
                for number, (index, coefficients) in entries.items():
                    size = self.graph.nodes[number].size
                    row = start.setdefault(number, np.full((1, size), Fraction(0), dtype=object))
                    row[0, index] += factor * coefficients
            weights = self._dense([vector], at, task.record.found, 0, dtype=object)
            found = kernel.lower(start, constant, np.zeros(1, dtype=np.intp), at, task.record.found, weights)
            slopes, constants = slopes + found.slopes, constants + found.constants
        least = Linear(slopes, constants, 0).least(low, high)[0]
        if not (least > 0 or (strict and least == 0)):
            raise _unrefuted(task, float(least))


def _unrefuted(task: Task, value: float) -> ProofError:
    return ProofError(f"node {task.node} does not refute disjunct {task.disjunct}: its bound is {value:.6g}")


def _added(functions: Linear, groups: Any, count: int, norms: Any, gamma: float) -> Linear:
    """The sums of functions of the same group."""
    if len(groups) == count:  # each one alone
        return functions
    slopes, constants, slack, reach = np.zeros((count, functions.slopes.shape[1])), *np.zeros((3, count))
    whole = np.zeros_like(slopes)
    np.add.at(slopes, groups, functions.slopes)
    np.add.at(whole, groups, abs(functions.slopes))
    np.add.at(constants, groups, functions.constants)
    np.add.at(reach, groups, abs(functions.constants))
    np.add.at(slack, groups, functions.slack)
    slack += gamma * (norm(whole) * norms + reach)
    return Linear(slopes, constants, slack * (1 + 1e-6))


def _regions(parts: list[Region]) -> Regions:
    return Regions(*(np.stack(column) for column in zip(*parts, strict=True)))


def _rows(values: Any, region: Any, count: int) -> Any:
    """Of each row's region; one region may stand for all."""
    return np.broadcast_to(values, (count, values.shape[1])) if len(values) == 1 else values[region]


def _joined(parts: list[Bounds]) -> Bounds:
    if all(p is parts[0] for p in parts):
        return parts[0]
    names = ("low", "high", "norms", "empty", "phases")
    low, high, norms, empty, phases = (np.concatenate([getattr(p, name) for p in parts]) for name in names)
    return Bounds(low, high, norms, empty, phases)


def _outward(value: Fraction, sign: int) -> float:
    """The float64 number at a rational or beyond it."""
    found = float(value)
    if (Fraction(found) - value) * sign < 0:
        found = float(np.nextafter(found, sign * np.inf))
    return found
