"""The truth about a saliency question on a small dense network, by enumeration of its linear regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction as F
from itertools import product

import numpy as np
from edge_kinds.enumeration import Affine, Layers, Region, at, combined, forward, regions

from verifier.properties.maps import SaliencyMap


@dataclass(frozen=True, kw_only=True)
class SaliencyQuestion:
    """ "Has an input within ε of x̂ whose map is within δ of x̂'s another label?", in exact numbers.

    Attributes:
        map: the map's own numbers are float64, and part of its definition.
        weights: of the outputs that the map explains.
        top: for "top-k", k.
    """

    layers: Layers
    center: tuple[F, ...]
    epsilon: F
    delta: F
    label: int
    map: SaliencyMap
    weights: tuple[F, ...]
    similarity: str = "linf"
    top: int = 0

    @property
    def copies(self) -> list[tuple[F, tuple[F, ...]]]:
        """The network itself, and the copies of it that the map looks at."""
        m, n = self.map, len(self.center)
        if m.points is None:
            return [(F(1), ())]
        shifts = np.broadcast_to(m.points, (len(m.factors), n))
        return [(F(1), ())] + [
            (F(float(t)), tuple(F(float(v)) for v in c)) for t, c in zip(m.factors, shifts, strict=True)
        ]

    def entries(self, gradients: Sequence[Sequence[Sequence[F]]]) -> list[Affine]:
        """The map's entries as functions of x, from the derivatives of the network and of its copies."""
        m, n = self.map, len(self.center)
        parts = gradients if m.points is None else gradients[1:]
        factors = [F(float(v)) * F(float(t)) for v, t in zip(m.weights, m.factors, strict=True)]
        g = [
            sum(
                (
                    f * w * part[o][j]
                    for f, part in zip(factors, parts, strict=True)
                    for o, w in enumerate(self.weights)
                ),
                F(0),
            )
            for j in range(n)
        ]
        if m.absolute:
            g = [abs(v) for v in g]
        if m.baseline is None:
            return [((F(0),) * n, v) for v in g]
        return [
            (tuple(v if i == j else F(0) for i in range(n)), -v * F(float(b)))
            for j, (v, b) in enumerate(zip(g, m.baseline, strict=True))
        ]

    def map_at(self, x: Sequence[F]) -> list[F]:
        """The map at a point."""
        slopes = [
            forward(self.layers, [t * v + (c[j] if c else 0) for j, v in enumerate(x)])[1] for t, c in self.copies
        ]
        return [at(entry, x) for entry in self.entries(slopes)]

    def conditions(self, entries: Sequence[Affine], reference: Sequence[F]) -> list[list[Affine]]:
        """Similarity as alternatives of functions that are >= 0 (none: nowhere; an empty one: everywhere)."""
        n, constant = len(reference), not any(any(c) for c, _ in entries)
        apart = [combined([(F(1), e)], -r, n) for e, r in zip(entries, reference, strict=True)]
        minus = [combined([(F(-1), a)], F(0), n) for a in apart]
        if self.similarity == "linf":
            return [[combined([(F(-1), a)], self.delta, n) for a in (*apart, *minus)]]
        if self.similarity == "top-k":
            inside = set(sorted(range(n), key=lambda j: -reference[j])[: self.top])
            return [
                [
                    combined([(F(1), entries[i]), (F(-1), entries[j])], self.delta, n)
                    for i in inside
                    for j in set(range(n)) - inside
                ]
            ]
        if constant:
            sizes = [abs(shift) for _, shift in apart]
            met = sum(sizes) <= self.delta if self.similarity == "l1" else sum(v * v for v in sizes) <= self.delta**2
            return [[]] if met else []
        assert self.similarity == "l1"
        found = []
        for signs in product((0, 1), repeat=n):
            chosen = [(apart, minus)[s][j] for j, s in enumerate(signs)]
            found.append([*chosen, combined([(F(-1), f) for f in chosen], self.delta, n)])
        return found

    def meets(self, region: Region, reference: Sequence[F]) -> bool:
        """Whether a region has a witness."""
        n, y = len(self.center), region.outputs[0]
        rows = [combined([(F(1), y[j]), (F(-1), y[self.label])], F(0), n) for j in range(len(y)) if j != self.label]
        similar = self.conditions(self.entries(region.gradients), reference)
        return any(region.meets([*alternative, row]) for alternative in similar for row in rows)

    def regions(self) -> list[Region]:
        """The regions of the ball."""
        low, high = ([v + s * self.epsilon for v in self.center] for s in (-1, 1))
        return list(regions(self.layers, low, high, self.copies))

    def violated(self) -> bool:
        """Whether there is a witness."""
        reference = self.map_at(self.center)
        return any(self.meets(region, reference) for region in self.regions())

    def is_witness(self, x: Sequence[F]) -> bool:
        """Whether a point is one."""
        if any(abs(v - c) > self.epsilon for v, c in zip(x, self.center, strict=True)):
            return False
        y, _ = forward(self.layers, x)
        if not any(y[j] >= y[self.label] for j in range(len(y)) if j != self.label):
            return False
        entries = [((F(0),) * len(x), v) for v in self.map_at(x)]
        similar = self.conditions(entries, self.map_at(self.center))
        return any(all(at(f, x) >= 0 for f in alternative) for alternative in similar)
