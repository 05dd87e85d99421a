"""A proof's file, read in one pass, and whether it proves its claim. docs/proofs.md has the format.

**Trusted**: Python, numpy and IEEE arithmetic; this folder. **Not trusted**: anything in the proof. Each of its numbers is
either checked, or such that any value is sound.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .claim import Claim
from .evaluate import Evaluator, ProofError, Record, Region, Task
from .graph import CheckError, Graph
from .onnx_file import read_bytes, read_network
from .stream import Stream
from .vnnlib import read_property

TASKS = 512
"""Refutations that are checked together."""


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


@dataclass(frozen=True, eq=False)
class _Part:
    """A node of the tree: its region, the bounds in force, and the disjuncts that are open."""

    region: Region
    record: Record
    left: frozenset[int]


class Checker:
    """One pass over one proof; of ``share = (k, of)`` only every ``of``-th part is evaluated."""

    def __init__(self, graph: Graph, claim: Claim, stream: Stream, share: tuple[int, int]) -> None:
        self.graph, self.claim, self.stream, self.share = graph, claim, stream, share
        self.evaluator = Evaluator(graph, claim)
        self.report = Report(header=stream.header)
        self._tasks: list[Task] = []
        self._parts = 0

    def run(self) -> Report:
        """Check all of it.

        Raises:
            ProofError: where and why it proves nothing.

        Raises:
            CheckError, ProofError: what is wrong with the proof, and where.
        """
        groups = self.stream.header.get("groups")
        if not isinstance(groups, list) or not all(isinstance(g, list) and g for g in groups):
            raise CheckError("the proof's header has no groups")
        named = sorted((d for group in groups for d in group), key=str)
        wanted = sorted((d for d, disjunct in enumerate(self.claim.disjuncts) if not disjunct.empty), key=str)
        if named != wanted or not all(type(d) is int for d in named):
            raise ProofError("its trees are not of the property's disjuncts, each one once")
        for group in groups:
            region = self.evaluator.begin(group)
            self._tree(_Part(region, self.evaluator.nothing(region), frozenset(group)))
            self._flush()
        if self.stream.take(0, most=1):
            raise ProofError("something follows the proof's end")
        self.report.margin = self.evaluator.margin
        return self.report

    def _tree(self, root: _Part) -> None:
        """Read a tree; its refutations are checked on the way."""
        stack = [root]
        while stack:
            part, children = stack.pop(), list[_Part]()
            self.report.nodes += 1
            while part.left and not children:
                part, children = self._event(self.stream.take(1), part)
            self.report.leaves += not children
            stack += children[::-1]

    def _event(self, tag: bytes, part: _Part) -> tuple[_Part, list[_Part]]:
        """What a node says next: what holds from then on, and its children, if it ends there."""
        node, record, stream, count = self.report.nodes, part.record, self.stream, len(self.claim.disjuncts)
        if tag in b"RC" and not record.depth:
            raise ProofError(f"node {node} refutes something before there are bounds")
        if tag in b"BW":
            self.report.records += 1
            return replace(part, record=self._record(tag, part)), []
        if tag == b"R":
            d = stream.integer(count)
            if d not in part.left:
                raise ProofError(f"node {node} refutes disjunct {d}, which is not open there")
            self._add(Task(node, part.region, record, d, self._terms(record, len(self.claim.disjuncts[d].rows))))
            return replace(part, left=part.left - {d}), []
        if tag == b"C":
            self._add(Task(node, part.region, record, -1, []))
            return replace(part, left=frozenset()), []
        if tag == b"D":
            apart = frozenset(stream.ascending(count).tolist())
            if not apart or not apart < part.left:
                raise ProofError(f"node {node} sets disjuncts apart that are not open there")
            return part, [replace(part, left=apart), replace(part, left=part.left - apart)]
        if tag in b"XU":
            return part, [replace(part, region=region) for region in self._divide(tag, part.region)]
        raise ProofError(f"node {node} has a tag {tag!r}")

    def _divide(self, tag: bytes, region: Region) -> list[Region]:
        """By an input ``x_j <= t`` and ``x_j >= t``, or by a ReLU, on and off."""
        low, high, phases = region
        if tag == b"X":
            j, t = self.stream.integer(len(low)), self.stream.vector(1)[0]
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

    def _record(self, tag: bytes, part: _Part) -> Record:
        record = Record(part.region, part.record, part.record.depth + 1, part.record.units)
        if tag == b"W":
            record.units = self.stream.ascending(self.graph.units)
            places = self.stream.ascending(2 * self.graph.units)
            starts = np.array([n.part.start for n in self.graph.nodes if n.part.stop])
            before = starts[np.searchsorted(starts, places // 2, side="right") - 1]
            counts = np.searchsorted(record.units, before)  # weights are of the units of earlier nodes
            vectors = [self._weights(record.units[:count]) for count in counts]
            record.rows = places // 2, 1.0 - 2.0 * (places % 2), vectors
        return record

    def _weights(self, units: Any) -> tuple[Any, Any, bool]:
        free = bool(self.stream.integer(2))
        return units, self.stream.vector(len(units)), free

    def _terms(self, record: Record, rows: int) -> list[Any]:
        """Combinations of rows, with multipliers that are not negative, and weights."""
        terms = []
        for _ in range(self.stream.integer(1 << 16)):
            which = self.stream.ascending(rows)
            factors, kind = self.stream.vector(len(which)), self.stream.integer(3)
            if (factors < 0).any():
                raise ProofError("a multiplier of a row is negative")
            units = record.units if kind == 2 else self.stream.ascending(self.graph.units) if kind else None
            terms.append((which, factors, None if units is None else self._weights(units)))
        return terms

    def _add(self, task: Task) -> None:
        self.report.refutations += 1
        self._tasks.append(task)
        if len(self._tasks) >= TASKS:
            self._flush()

    def _flush(self) -> None:
        tasks, self._tasks = self._tasks, []
        self._parts += 1
        if tasks and self._parts % self.share[1] == self.share[0]:
            self.evaluator.check(tasks)


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
    began, stream, data = time.monotonic(), Stream(proof), read_bytes(network)
    if property_file is None and not isinstance(stream.header.get("statement"), str):
        raise CheckError("the proof does not carry what it claims: name the property's file")
    text = stream.header["statement"].encode() if property_file is None else read_bytes(property_file)
    for name, found in (("network", data), ("property", text)):
        if stream.header.get(name) != digest(found):
            raise ProofError(f"is a proof about another {name}: the digest differs")
    graph, claim = read_question(data, text)
    with np.errstate(invalid="ignore", over="ignore"):
        report = Checker(graph, claim, stream, share).run()
    report.seconds, report.words = time.monotonic() - began, claim.words
    return report


def read_question(network: bytes, text: bytes) -> tuple[Graph, Claim]:
    """A network and what is claimed of it.

    Raises:
        CheckError: one of them cannot be read.
    """
    from .statement import read_statement

    for twins in (True, False):  # at 0 two ReLUs of z and -z have a gradient of 0 both
        graph = read_network(network, twins)
        try:
            if text.lstrip().startswith(b"{"):
                claim = read_statement(text.decode(), graph)
            else:
                claim = read_property(text.decode(), graph.nodes[0].size, graph.nodes[graph.outputs["y"]].size)
        except (UnicodeDecodeError, OverflowError, RecursionError) as error:
            raise CheckError(f"no property that can be read: {error}") from None
        if graph.inversion is None:
            break
    return graph, claim
