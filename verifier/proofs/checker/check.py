"""A proof's file, read in one pass, and whether it proves its claim. docs/proofs.md has the format.

**Trusted**: Python, numpy and IEEE arithmetic; this folder. **Not trusted**: anything in the proof. Each of its numbers is
either checked, or such that any value is sound.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import multiprocessing
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .claim import Claim
from .graph import CheckError, Graph
from .kernel import CHUNK, PREFERENCE, UNIT, Bounds, Kernel, Linear, Regions, Weights, unknown
from .onnx_file import read_bytes, read_network
from .statement import read_statement
from .vnnlib import read_property

FORMAT, VERSION = "pwl-verifier proof", 2
TASKS = 512
"""Refutations that are checked together."""


class ProofError(CheckError):
    """A proof that does not prove what it says."""


@dataclass
class Report:
    """What was checked: numbers of nodes, leaves, sets of bounds and refutations, and the least margin of one."""

    nodes: int = 0
    leaves: int = 0
    records: int = 0
    refutations: int = 0
    margin: float = float("inf")
    seconds: float = 0.0
    words: str = ""
    header: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        about = f"network {self.header['network'][:16]}…, property {self.header['property'][:16]}…"
        return (
            f"the proof is right: {self.words} ({self.header.get('method', '')})\n"
            f"  {about} (SHA-256)\n"
            f"  {self.leaves} leaves, {self.refutations} refutations, {self.records} sets of bounds; "
            f"least margin {self.margin:.3g}; checked in {self.seconds:.2f} s"
        )


@dataclass(eq=False)
class Record:
    """Bounds on a region: by the rule, by ``rows``, or those of ``base`` with one that a lemma proves."""

    region: tuple[Any, Any, Any]
    base: Record | None
    depth: int
    units: Any
    rows: Any = None
    lemma: tuple[int, int, float] | None = None
    found: Bounds | None = None


@dataclass(eq=False)
class Task:
    """A refutation of a disjunct (-1: that ``lemma`` fails) on a region, to be checked; no terms: the region is empty."""

    node: int
    region: tuple[Any, Any, Any]
    record: Record
    disjunct: int
    terms: list[Any]
    rational: bool = False
    lemma: tuple[int, int, float] | None = None


class Stream:
    """The numbers of a proof's file."""

    def __init__(self, path: Path | str) -> None:
        try:
            self._file = io.BufferedReader(lzma.open(path), 1 << 16)  # type: ignore[arg-type]  # noqa: SIM115
            self.header = json.loads(self._file.readline(1 << 28))
        except (lzma.LZMAError, EOFError, ValueError, RecursionError) as error:
            raise CheckError(f"no proof, or a damaged one: {error}") from None
        if not isinstance(self.header, dict) or self.header.get("format") != FORMAT:
            raise CheckError("no proof: it has another header")
        if self.header.get("version") != VERSION:
            raise CheckError(f"a proof of version {self.header.get('version')}; this program reads version {VERSION}")

    def take(self, count: int) -> bytes:
        """So many bytes."""
        try:
            data = self._file.read(count)
        except (lzma.LZMAError, EOFError) as error:
            raise CheckError(f"the proof is damaged: {error}") from None
        if len(data) != count:
            raise CheckError("the proof is cut off")
        return data

    def integer(self, below: int) -> int:
        """A number of seven bits a byte, less than ``below``."""
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise CheckError("the proof has a number of more than 64 bits")
        if value >= below:
            raise CheckError(f"the proof has the number {value} where it must be less than {below}")
        return value

    def double(self) -> float:
        """A finite float64 number."""
        (value,) = struct.unpack("<d", self.take(8))
        if not np.isfinite(value):
            raise CheckError("the proof has a number that is not finite")
        return float(value)

    def ascending(self, below: int) -> Any:
        """Ascending numbers less than ``below``, by their differences."""
        count, at, found = self.integer(below + 1), -1, []
        for _ in range(count):
            at += 1 + self.integer(below)
            found.append(at)
        if at >= below:
            raise CheckError("the proof names what does not exist")
        return np.array(found, dtype=np.intp)

    def vector(self, count: int) -> Any:
        """So many numbers, as bits, float16, float64 or rationals (then an array of `Fraction`)."""
        kind = self.integer(4)
        if kind == 0:
            return np.unpackbits(np.frombuffer(self.take(-(-count // 8)), np.uint8), count=count).astype(np.float64)
        if kind == 3:
            text = self.take(self.integer(1 << 24)).decode("ascii", "replace").split()
            try:
                return np.array([Fraction(t) for t in text] + [None], dtype=object)[:-1].reshape(count)
            except (ValueError, ZeroDivisionError):
                raise CheckError("the proof has a rational that is none") from None
        found = np.frombuffer(self.take(count * (2 if kind == 1 else 8)), "<f2" if kind == 1 else "<f8")
        if not np.isfinite(found).all():
            raise CheckError("the proof has a number that is not finite")
        return found.astype(np.float64)

    def finish(self) -> None:
        """Nothing may follow."""
        try:
            rest = self._file.read(1)
        except (lzma.LZMAError, EOFError) as error:
            raise CheckError(f"the proof is damaged: {error}") from None
        if rest:
            raise ProofError("something follows the proof's end")


class Checker:
    """One pass over one proof; of ``share = (k, of)`` only every ``of``-th part is evaluated."""

    def __init__(self, graph: Graph, claim: Claim, stream: Stream, share: tuple[int, int]) -> None:
        self.graph, self.claim, self.stream, self.share = graph, claim, stream, share
        self.kernel = Kernel(graph)
        self._rational: Kernel | None = None
        self.report = Report(header=stream.header)
        self._tasks: list[Task] = []
        self._parts = 0

    def run(self) -> Report:
        """Check all of it.

        Raises:
            ProofError: where and why it proves nothing.
        """
        disjuncts = self.claim.disjuncts
        groups = self.stream.header.get("groups")
        if not isinstance(groups, list) or not all(isinstance(g, list) and g for g in groups):
            raise CheckError("the proof's header has no groups")
        named = sorted((d for group in groups for d in group), key=str)
        wanted = sorted((d for d, disjunct in enumerate(disjuncts) if not disjunct.empty), key=str)
        if named != wanted or not all(type(d) is int for d in named):
            raise ProofError("its trees are not of the property's disjuncts, each one once")
        for group in groups:
            self.ends = [
                [pick(column) for column in zip(*(getattr(disjuncts[d], name) for d in group), strict=True)]
                for name, pick in (("low", min), ("high", max))
            ]
            low, high = (np.array([_outward(v, sign) for v in e]) for e, sign in zip(self.ends, (-1, 1), strict=True))
            self._tree((low, high, np.zeros(self.graph.relus, dtype=np.int8)), frozenset(group))
            self._flush()
        self.stream.finish()
        return self.report

    # -- reading -----------------------------------------------------------------------------------------
    def _tree(self, region: tuple[Any, Any, Any], disjuncts: frozenset[int]) -> None:
        """Read a tree; its refutations are checked on the way."""
        self.root = region
        none = self.nothing(region)
        stack: list[Any] = [(region, none, disjuncts, None)]
        while stack:
            region, record, left, lemma = stack.pop()
            self.report.nodes += 1
            node, divided = self.report.nodes, False
            while left:
                tag = self.stream.take(1)
                if tag in b"RECL" and record is none:
                    raise ProofError(f"node {node} refutes something before there are bounds")
                if tag in b"BW":
                    self.report.records += 1
                    record = self._record(tag, region, record)
                elif tag in b"RE":
                    d = -1 if lemma else self.stream.integer(len(self.claim.disjuncts))
                    if d not in left:
                        raise ProofError(f"node {node} refutes disjunct {d}, which is not open there")
                    terms = self._terms(record, 1 if lemma else len(self.claim.disjuncts[d].rows))
                    self._add(Task(node, region, record, d, terms, tag == b"E", lemma))
                    left -= {d}
                elif tag == b"C":
                    self._add(Task(node, region, record, -2, []))
                    left = frozenset()
                elif tag == b"D":
                    apart = frozenset(self.stream.ascending(len(self.claim.disjuncts)).tolist())
                    if not apart or not apart < left:
                        raise ProofError(f"node {node} sets disjuncts apart that are not open there")
                    stack += [(region, record, left - apart, lemma), (region, record, apart, lemma)]
                    divided = True
                    break
                elif tag == b"L":
                    unit, side = self.stream.integer(self.graph.units), 1 - 2 * self.stream.integer(2)
                    claim = (unit, side, self.stream.double())
                    stack.append(
                        (region, Record(region, record, record.depth + 1, record.units, None, claim), left, lemma)
                    )
                    stack.append((region, record, frozenset([-1]), claim))
                    divided = True
                    break
                elif tag in b"XU":
                    stack += [(part, record, left, lemma) for part in self._divide(tag, region)[::-1]]
                    divided = True
                    break
                else:
                    raise ProofError(f"node {node} has a tag {tag!r}")
            self.report.leaves += not divided

    def nothing(self, region: tuple[Any, Any, Any]) -> Record:
        """No bounds yet."""
        return Record(region, None, 0, np.zeros(0, dtype=np.intp), found=unknown(self.graph))

    def _divide(self, tag: bytes, region: tuple[Any, Any, Any]) -> list[tuple[Any, Any, Any]]:
        low, high, phases = region
        if tag == b"X":
            j, t = self.stream.integer(len(low)), self.stream.double()
            below, above = high.copy(), low.copy()
            below[j], above[j] = min(high[j], t), max(low[j], t)
            return [(low, below, phases), (above, high, phases)]
        unit, parts = self.stream.integer(self.graph.relus), []
        if phases[unit]:
            raise ProofError("a tree divides by a ReLU twice")
        for sign in (1, -1):
            parts.append((low, high, phases.copy()))
            parts[-1][2][unit] = sign
        return parts

    def _record(self, tag: bytes, region: tuple[Any, Any, Any], base: Record) -> Record:
        record = Record(region, base, base.depth + 1, base.units)
        if tag == b"W":
            record.units = self.stream.ascending(self.graph.units)
            places = self.stream.ascending(2 * self.graph.units)
            starts = np.array([n.first for n in self.graph.nodes if n.first >= 0])
            vectors = []
            for unit in places // 2:  # weights are of the units of earlier nodes
                count = np.searchsorted(record.units, starts[np.searchsorted(starts, unit, side="right") - 1])
                vectors.append(self._weights(record.units[:count]))
            record.rows = places // 2, 1.0 - 2.0 * (places % 2), vectors
        return record

    def _weights(self, units: Any) -> tuple[Any, Any, bool]:
        free, given = bool(self.stream.integer(2)), self.stream.vector(len(units))
        if not free and (given < 0).any():
            raise ProofError("a slope or a multiplier is negative")
        return units, given, free

    def _terms(self, record: Record, rows: int) -> list[Any]:
        terms = []
        for _ in range(self.stream.integer(1 << 16)):
            which = self.stream.ascending(rows)
            factors = self.stream.vector(len(which))
            if (factors < 0).any():
                raise ProofError("a multiplier of a row is negative")
            kind, weights = self.stream.integer(3), None
            if kind:
                units = record.units if kind == 2 else self.stream.ascending(self.graph.units)
                weights = self._weights(units)
            terms.append((which, factors, weights))
        return terms

    # -- checking ----------------------------------------------------------------------------------------
    def _add(self, task: Task) -> None:
        self.report.refutations += 1
        self._tasks.append(task)
        if len(self._tasks) >= TASKS:
            self._flush()

    def _flush(self) -> None:
        tasks, self._tasks = self._tasks, []
        self._parts += 1
        if self._parts % self.share[1] != self.share[0] or not tasks:
            return
        needed: dict[int, dict[int, Record]] = {}
        for task in tasks:
            record: Record | None = task.record
            while record is not None and record.found is None:
                needed.setdefault(record.depth, {})[id(record)] = record
                record = record.base
        for depth in sorted(needed):
            rule = []
            for one in needed[depth].values():
                if one.lemma is None and one.rows is None:
                    rule.append(one)
                else:
                    one.found = self.bounded([one])
            step = max(1, CHUNK // sum(n.size for n in self.graph.nodes))
            for first in range(0, len(rule), step):
                some = rule[first : first + step]
                found = self.bounded(some)
                for k, one in enumerate(some):
                    one.found = found.take(slice(k, k + 1))
        step = max(1, CHUNK // 2 // max(self.kernel.widest, self.graph.units))
        for first in range(0, len(tasks), step):
            self.refuted(tasks[first : first + step])

    def bounded(self, records: list[Record]) -> Bounds:
        base = _joined([r.base.found for r in records if r.base is not None and r.base.found is not None])
        (one, *_) = records
        if one.lemma is not None:
            unit, side, value = one.lemma
            end = (base.low if side > 0 else base.high).copy()
            end[0, unit] = max(end[0, unit], value) if side > 0 else min(end[0, unit], value)
            low, high = (end, base.high) if side > 0 else (base.low, end)
            return Bounds(low, high, base.sizes, base.empty | (low[:, unit] > high[:, unit]), base.phases)
        at, rows = _regions([r.region for r in records]), None
        if one.rows is not None:
            units, signs, vectors = one.rows
            rows = units, signs, lambda which, known: self._dense([vectors[k] for k in which], at, known, 0)
        return self.kernel.bounds(at, base, rows)

    def _dense(self, vectors: list[Any], at: Regions, known: Bounds, region: Any, exactly: bool = False) -> Weights:
        """Weights of rows over all units, default slopes where none are given."""
        count, relus = len(vectors), at.phases.shape[1]
        low, high, phases = (_rows(v, region, 1) for v in (known.low[:, :relus], known.high[:, :relus], at.phases))
        slopes = np.zeros((count, self.graph.units), dtype=object if exactly else np.float64)
        fixed = np.where(phases != 0, phases, _rows(known.phases, region, 1)) != 0
        slopes[:, :relus] = np.where(~fixed & (high > -low * (1 + PREFERENCE)), 1, 0)
        free = None
        for r, vector in enumerate(vectors):
            if vector is None:
                continue
            units, given, anything = vector
            if anything:
                free = np.full(slopes.shape, np.nan, dtype=slopes.dtype) if free is None else free
                free[r, units] = given
            else:
                slopes[r, units] = given
        slopes[:, :relus] = np.where(fixed, slopes[:, :relus], np.minimum(slopes[:, :relus], 1))
        return Weights(slopes, free)

    def refuted(self, tasks: list[Task]) -> None:
        """Check refutations together; those in rational arithmetic one by one."""
        for task in tasks:
            empty = task.record.found is not None and bool(task.record.found.empty[0])
            if task.disjunct == -2 and not empty:
                raise ProofError(f"node {task.node} is said to be empty, and may not be")
            if task.rational and not empty:
                self._exactly(task)
        tasks = [t for t in tasks if t.terms and not t.rational and not t.record.found.empty[0]]  # type: ignore[union-attr]
        if not tasks:
            return
        at = _regions([t.region for t in tasks])
        known = _joined([t.record.found for t in tasks if t.record.found is not None])
        terms = [(k, *term) for k, task in enumerate(tasks) for term in task.terms]
        region = np.array([term[0] for term in terms])
        start, sizes, constant, error = self._start([(tasks[k], which, factors) for k, which, factors, _ in terms])
        weights = None
        if any(term[3] is not None for term in terms):
            weights = self._dense([t[3] for t in terms], at, known, region)
        found = self.kernel.lower(start, constant, region, at, known, weights)
        gamma = self.kernel.gamma + 8 * len(terms) * UNIT
        for number, size in sizes.items():
            error = error + np.einsum("rn,rn->r", size, _rows(known.sizes[number], region, len(terms)))
        slack = (found.slack + 2 * gamma * error) * (1 + 1e-6)
        total = _added(Linear(found.slopes, found.constants, slack), region, len(tasks), known.sizes[0], gamma)
        least = np.where((at.low > at.high).any(axis=1), np.inf, total.least(at.low, at.high))
        for task, value in zip(tasks, least, strict=True):
            if not value > 0:
                raise ProofError(f"node {task.node} does not refute disjunct {task.disjunct}: its bound is {value:.6g}")
        self.report.margin = min(self.report.margin, float(least.min()))

    def _start(self, rows: list[Any]) -> tuple[dict[int, Any], dict[int, Any], Any, Any]:
        """Rows' coefficients by node, those of their absolute values, their constants, and the size of these."""
        start: dict[int, Any] = {}
        sizes: dict[int, Any] = {}
        constant, error = np.zeros(len(rows)), np.zeros(len(rows))
        for r, (task, which, factors) in enumerate(rows):
            for k, factor in zip(which, factors.astype(np.float64), strict=True):
                for number, index, c, bound in self._row(task, k):
                    if number < 0:
                        constant[r] -= factor * float(bound)
                        error[r] += abs(factor * float(bound))
                        continue
                    for table, value in ((start, factor * float(c)), (sizes, abs(factor * float(c)))):
                        if number not in table:
                            table[number] = np.zeros((len(rows), self.graph.nodes[number].size))
                        table[number][r, index] += value
        return start, sizes, constant, error

    def _row(self, task: Task, k: int) -> Iterator[tuple[int, int, Fraction, Fraction]]:
        """The entries of a disjunct's row: node, index, coefficient; and its bound, with -1 as the node."""
        if task.lemma is not None:
            unit, side, value = task.lemma
            node = next(n for n in self.graph.nodes if 0 <= n.first <= unit < n.first + n.size)
            yield node.terms[0][0], unit - node.first, Fraction(side), Fraction(0)
            yield -1, 0, Fraction(0), Fraction(side * value)
            return
        row = self.claim.disjuncts[task.disjunct].rows[k]
        for name, entries in row.coefficients.items():
            for index, c in entries.items():
                yield self.graph.outputs[name], index, c, Fraction(0)
        yield -1, 0, Fraction(0), row.bound

    def _exactly(self, task: Task) -> None:
        """A refutation in rational arithmetic: positive, or not negative with a strict row in it."""
        kernel = self._rational = self._rational or Kernel(self.graph, rational=True)
        assert task.record.found is not None
        low, high = (
            np.array([[e if v == w else Fraction(v) for v, w, e in zip(mine, whole, ends, strict=True)]], dtype=object)
            for mine, whole, ends in zip(task.region, self.root, self.ends, strict=False)
        )
        at, strict, total = Regions(low, high, task.region[2][None]), False, None
        for which, factors, vector in task.terms:
            start: dict[int, Any] = {}
            constant = np.array([Fraction(0)], dtype=object)
            for k, factor in zip(which, factors, strict=True):
                strict |= bool(task.lemma is None and factor > 0 and self.claim.disjuncts[task.disjunct].rows[k].strict)
                for number, index, c, bound in self._row(task, k):
                    if number < 0:
                        constant[0] -= Fraction(factor) * bound
                        continue
                    row = start.setdefault(
                        number, np.full((1, self.graph.nodes[number].size), Fraction(0), dtype=object)
                    )
                    row[0, index] += Fraction(factor) * c
            weights = self._dense([vector], at, task.record.found, 0, exactly=True)
            found = kernel.lower(start, constant, np.zeros(1, dtype=np.intp), at, task.record.found, weights)
            total = (
                found
                if total is None
                else Linear(total.slopes + found.slopes, total.constants + found.constants, total.slack)
            )
        least = total.least(low, high)[0] if total is not None else Fraction(-1)
        if not (least > 0 or (strict and least == 0)):
            raise ProofError(
                f"node {task.node} does not refute disjunct {task.disjunct}: its bound is {float(least):.6g}"
            )


def _added(functions: Linear, groups: Any, count: int, sizes: Any, gamma: float) -> Linear:
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
    slack += gamma * (np.einsum("rn,rn->r", whole, np.broadcast_to(sizes, whole.shape)) + reach)
    return Linear(slopes, constants, slack * (1 + 1e-6))


def _regions(parts: list[tuple[Any, Any, Any]]) -> Regions:
    return Regions(*(np.stack(column) for column in zip(*parts, strict=True)))


def _rows(values: Any, region: Any, count: int) -> Any:
    """Of each row's region; one region may stand for all."""
    return np.broadcast_to(values, (count, values.shape[1])) if len(values) == 1 else values[region]


def _joined(parts: list[Bounds]) -> Bounds:
    if all(p is parts[0] for p in parts):
        return parts[0]
    sizes = {k: np.concatenate([p.sizes[k] for p in parts]) for k in parts[0].sizes}
    low, high, empty, phases = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("low", "high", "empty", "phases")
    )
    return Bounds(low, high, sizes, empty, phases)


def _outward(value: Fraction, sign: int) -> float:
    """The float64 number at a rational or beyond it."""
    found = float(value)
    if (Fraction(found) - value) * sign < 0:
        found = float(np.nextafter(found, sign * np.inf))
    return found


def digest(data: bytes) -> str:
    """A SHA-256."""
    return hashlib.sha256(data).hexdigest()


def check(
    proof: Path | str, network: Path | str, property_file: Path | str | None = None, share: tuple[int, int] = (0, 1)
) -> Report:
    """Check a proof of a property about a network, all of it or a share of its refutations.

    Args:
        property_file: VNN-LIB, or a statement (`read_statement`); None: the statement that the proof itself carries.

    Raises:
        CheckError: a file cannot be read; `ProofError`: the proof does not prove the claim.
    """
    began, stream = time.monotonic(), Stream(proof)
    data = read_bytes(network)
    if property_file is None and not isinstance(stream.header.get("statement"), str):
        raise CheckError("the proof does not carry what it claims: name the property's file")
    text = stream.header["statement"].encode() if property_file is None else read_bytes(property_file)
    for name, found in (("network", data), ("property", text)):
        if stream.header.get(name) != digest(found):
            raise ProofError(f"is a proof about another {name}: the digest differs")
    graph = read_network(data)
    if text.lstrip().startswith(b"{"):
        claim = read_statement(text.decode(), graph)
    else:
        claim = read_property(text.decode(), graph.nodes[0].size, graph.nodes[graph.outputs["y"]].size)
    with np.errstate(invalid="ignore", over="ignore"):
        report = Checker(graph, claim, stream, share).run()
    report.seconds, report.words = time.monotonic() - began, claim.words
    return report


def _share(job: tuple[Any, ...]) -> Report | CheckError:
    try:
        return check(*job)
    except CheckError as error:
        return error


def check_together(
    proof: Path | str, network: Path | str, property_file: Path | str | None = None, jobs: int = 0
) -> Report:
    """`check` by several processes (0: as many as there are processors)."""
    began, jobs = time.monotonic(), jobs or os.cpu_count() or 1
    if jobs == 1 or Path(proof).stat().st_size < 4000:
        return check(proof, network, property_file)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        found = pool.map(_share, [(proof, network, property_file, (k, jobs)) for k in range(jobs)], 1)
    for report in found:
        if isinstance(report, CheckError):
            raise report
    good = [r for r in found if isinstance(r, Report)]
    good[0].margin, good[0].seconds = min(r.margin for r in good), time.monotonic() - began
    return good[0]
