"""A proof while it is found: a tree of regions, what is recorded of each, and its file (docs/proofs.md)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifier.errors import VerifierError
from verifier.network.operators import Array

ALL = -1
"""In place of a disjunct: every disjunct that is still open."""


class NoCertificate(VerifierError):
    """Why what was proved has no certificate."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Numbers for some units of a row on its way back to the input.

    Attributes:
        units: ascending; None: those of the bounds in force.
        values: slopes of units whose phase is free and multipliers of fixed ones, or, with ``free``, what is handed on.
    """

    units: Array | None
    values: Array
    free: bool = False


@dataclass(frozen=True, eq=False)
class Term:
    """A combination of rows of a disjunct, with the weights that take it back to the input (None: default slopes)."""

    rows: Sequence[int] | Array
    multipliers: Sequence[float] | Array
    weights: Weights | None = None


@dataclass(frozen=True)
class _Division:
    tag: bytes
    children: tuple[int, int]


@dataclass(frozen=True)
class _At:
    """Where the writer is: a region, with disjuncts and their disjuncts."""

    node: int
    left: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Part:
    """A division of some disjuncts, set apart from others that are divided otherwise."""

    left: tuple[tuple[int, int], ...]
    division: _Division
    apart: bool


@dataclass(eq=False)
class ProofTree:
    """Regions by number, as the search makes them; several threads may write.

    Of each region: *events* in the order in which they are written (bounds, which hold from then on here and below;
    refutations of disjuncts), and then how it is divided for the disjuncts that are left.
    """

    roots: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    _events: dict[int, list[tuple[Any, ...]]] = field(default_factory=lambda: defaultdict(list))
    _divisions: dict[tuple[int, int], _Division] = field(default_factory=dict)
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def root(self, disjuncts: Sequence[int]) -> int:
        """A tree for some disjuncts, on the box around them; its number."""
        (node,) = self._new(1)
        self.roots.append((node, tuple(int(k) for k in disjuncts)))
        return node

    def divide_input(self, node: int, axis: int, value: float, disjunct: int = ALL) -> tuple[int, int]:
        """Divide a region at a value of an input; the parts below and above."""
        return self._divide(node, disjunct, b"X" + integer(axis) + vector([value]))

    def divide_neuron(self, node: int, unit: int, disjunct: int = ALL) -> tuple[int, int]:
        """Divide a region by the phase of a ReLU; the parts where it is on and off."""
        return self._divide(node, disjunct, b"U" + integer(unit))

    def bounds(self, node: int) -> None:
        """From here on, bounds by the rule on this region."""
        self._events[node].append((b"B",))

    def weighted_bounds(self, node: int, units: Array, rows: Sequence[tuple[int, int, Array]]) -> None:
        """From here on, bounds of single units with weights of their own.

        Args:
            units: ``(U,)`` ascending, that the weights are for.
            rows: unit, sign (1 for the lower bound, -1 for the upper one), weights of the units of earlier nodes; by unit.
        """
        places = [2 * unit + (sign < 0) for unit, sign, _ in rows]
        vectors = [b"\0" + vector(weights) for _, _, weights in rows]
        self._events[node].append((b"W" + ascending(units) + ascending(places) + b"".join(vectors),))

    def refute(self, node: int, disjunct: int, terms: Sequence[Term]) -> None:
        """A disjunct has no point here: the sum of the terms is positive."""
        self._events[node].append((b"R", disjunct, terms))

    def contradiction(self, node: int) -> None:
        """The region has no point, by its bounds."""
        self._events[node].append((b"C",))

    def _divide(self, node: int, disjunct: int, tag: bytes) -> tuple[int, int]:
        first, second = self._new(2)
        self._divisions[node, disjunct] = _Division(tag, (first, second))
        return first, second

    def _new(self, count: int) -> range:
        with self._lock:
            self._count += count
            return range(self._count - count, self._count)

    def write(self, root: int, disjuncts: Sequence[tuple[int, int]], names: Any) -> bytes:
        """A tree's bytes.

        Args:
            disjuncts: the claim's disjuncts, each with the disjunct that its refutations are of.
            names: for a disjunct and a row of its disjunct: the disjunct's row and a factor, None where it has none.

        Raises:
            NoCertificate: a region is neither refuted nor divided.
        """
        out: list[bytes] = []
        stack: list[_At | _Part] = [_At(root, tuple(disjuncts))]
        while stack:
            here = stack.pop()
            if isinstance(here, _Part):
                if here.apart:
                    out.append(b"D" + ascending(sorted(d for d, _ in here.left)))
                out.append(here.division.tag)
                stack += [_At(child, here.left) for child in here.division.children[::-1]]
                continue
            left = here.left
            for tag, *details in self._events.get(here.node, []):
                if not left:
                    break
                if not details:
                    out.append(tag)
                    left = () if tag == b"C" else left
                    continue
                out += [_refutation(tag, d, details[1], names) for d, disjunct in left if disjunct == details[0]]
                left = tuple(pair for pair in left if pair[1] != details[0])
            stack += self._parts(here.node, left)[::-1]
        return b"".join(out)

    def _parts(self, node: int, left: tuple[tuple[int, int], ...]) -> list[_Part]:
        parts: dict[_Division, list[tuple[int, int]]] = {}
        for d, disjunct in left:
            division = self._divisions.get((node, disjunct)) or self._divisions.get((node, ALL))
            if division is None:
                raise NoCertificate("a part of the search was closed without a certificate")
            parts.setdefault(division, []).append((d, disjunct))
        return [_Part(tuple(p), division, k < len(parts) - 1) for k, (division, p) in enumerate(parts.items())]


def _refutation(tag: bytes, disjunct: int, terms: Sequence[Term], names: Any) -> bytes:
    out = [tag, integer(disjunct)]
    kept = []
    for term in terms:
        rows: dict[int, float] = {}
        for row, multiplier in zip(term.rows, term.multipliers, strict=True):
            found = names(disjunct, int(row))
            if found is not None and multiplier:
                rows[found[0]] = rows.get(found[0], 0.0) + float(multiplier) * float(found[1])
        kept.append((sorted(rows), [rows[k] for k in sorted(rows)], term.weights))
    out.append(integer(len(kept)))
    for which, factors, weights in kept:
        out += [ascending(which), vector(factors)]
        if weights is None:
            out.append(b"\0")
            continue
        out.append(b"\2" if weights.units is None else b"\1" + ascending(weights.units))
        out += [b"\1" if weights.free else b"\0", vector(weights.values)]
    return b"".join(out)


# -- numbers as bytes --------------------------------------------------------------------------------------
def integer(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    value, out = int(value), bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def ascending(values: Sequence[int] | Array) -> bytes:
    """Ascending numbers: how many, and their differences less one.

    Shapes: values ``(k,)``.
    """
    found, before = [integer(len(values))], -1
    for value in values:
        found.append(integer(int(value) - before - 1))
        before = int(value)
    return b"".join(found)


def vector(values: Sequence[Any] | Array) -> bytes:
    """Numbers in the shortest form that holds them exactly: bits, float16, float64.

    Shapes: values ``(k,)``.
    """
    array = np.asarray(values, dtype=np.float64)
    if ((array == 0) | (array == 1)).all():
        return b"\0" + np.packbits(array.astype(np.uint8)).tobytes()
    with np.errstate(over="ignore"):
        half = array.astype("<f2")
    return b"\1" + half.tobytes() if (half == array).all() else b"\2" + array.astype("<f8").tobytes()
