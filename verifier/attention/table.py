"""The regions of an attention map as columns, and totals over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.operators import Array

ROBUST, NEVER, MIXED = 0, 1, 2
Aspect = Literal["attention", "label"]
NAMES: Mapping[str, tuple[str, str, str]] = {"label": ("CR", "MR", "CB"), "attention": ("AR", "IR", "AB")}
"""Munakata et al.'s region kinds: robust, never, boundary (holds in a part of the region)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """The regions of a map, one entry each; parameters in their own units.

    Attributes:
        volumes: ``(P,)`` length, area or volume in Θ.
        centers: ``(P, d)`` a point inside.
        low, high: ``(P,)`` bounds on the range of the inconsistency; `high` is its maximum, `low` at most its
            minimum (equal to it where the expected map stands still).
        attention, label: ``(P,)`` 0 holds everywhere, 1 nowhere, 2 in a part.
        label_volumes: ``(P,)`` volume of the part where the label holds.
        winner: ``(P,)`` predicted class at the center.
        edges: ``(E, 2)`` pairs of neighbouring regions.
        touches_border: ``(P,)`` whether a face lies on the border of Θ.
        farthest: ``(P, d)`` the vertex that is farthest from θ = 0, measured in widths of Θ.
        vertices, offsets: ``(V, d)`` and ``(P + 1,)`` the polygons (counter-clockwise) or intervals of maps of
            one or two parameters; None for more.
        keys: ``(P,)`` hash of each region's active units; the same in every tile of a map.
    """

    volumes: Array
    centers: Array
    low: Array
    high: Array
    attention: npt.NDArray[np.int8]
    label: npt.NDArray[np.int8]
    label_volumes: Array
    winner: npt.NDArray[np.int16]
    edges: npt.NDArray[np.int64]
    touches_border: npt.NDArray[np.bool_]
    farthest: Array
    vertices: Array | None = None
    offsets: npt.NDArray[np.int64] | None = None
    keys: npt.NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.volumes)

    def polygon(self, region: int) -> Array:
        """The vertices of one region, ``(k, d)``; InputError for maps of three and more parameters."""
        if self.vertices is None or self.offsets is None:
            raise InputError("maps of three and more parameters do not hold polygons")
        return self.vertices[self.offsets[region] : self.offsets[region + 1]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Summary:
    """Totals over all regions that were visited.

    Attributes:
        regions: how many.
        volumes: by kind (CR, MR, CB, AR, IR, AB), as shares of Θ.
        counts: regions by kind.
        label_share: share of Θ where the label holds (boundary regions counted exactly).
        covered: share of Θ that was visited; 1 within rounding for a complete map.
        smallest, largest: of the inconsistency over all regions.
        near_delta: regions whose inconsistency comes within 1e-7 of delta somewhere at its ends (relative to
            delta): their kind hangs on rounding.
    """

    regions: int
    volumes: Mapping[str, float]
    counts: Mapping[str, int]
    label_share: float
    covered: float
    smallest: float
    largest: float
    near_delta: int


@dataclass
class Totals:
    """Running totals over regions; volumes are shares of Θ."""

    delta: float
    regions: int = 0
    volumes: dict[str, float] = field(default_factory=lambda: {n: 0.0 for names in NAMES.values() for n in names})
    counts: dict[str, int] = field(default_factory=lambda: {n: 0 for names in NAMES.values() for n in names})
    label_share: float = 0.0
    covered: float = 0.0
    smallest: float = np.inf
    largest: float = 0.0
    near: int = 0

    def add(
        self, volumes: Array, low: Array, high: Array, attention: Array, label: Array, label_volumes: Array
    ) -> None:
        """Count some more regions."""
        self.regions += len(volumes)
        self.covered += float(volumes.sum())
        self.label_share += float(label_volumes.sum())
        for kind, names in ((label, NAMES["label"]), (attention, NAMES["attention"])):
            shares = np.bincount(kind, volumes, minlength=MIXED + 1)
            counts = np.bincount(kind, minlength=MIXED + 1)
            for k, name in enumerate(names):
                self.volumes[name] += float(shares[k])
                self.counts[name] += int(counts[k])
        self.smallest = min(self.smallest, float(low.min(initial=np.inf)))
        self.largest = max(self.largest, float(high.max(initial=0.0)))
        close = 1e-7 * max(1.0, self.delta)
        self.near += int(((np.abs(low - self.delta) < close) | (np.abs(high - self.delta) < close)).sum())

    def scaled(self, share: float) -> Totals:
        """The same, where what was walked is this share of Θ."""
        return replace(
            self,
            volumes={k: v * share for k, v in self.volumes.items()},
            counts=dict(self.counts),
            label_share=self.label_share * share,
            covered=self.covered * share,
        )

    def join(self, other: Totals) -> None:
        """Add another part of Θ."""
        self.regions += other.regions
        self.covered += other.covered
        self.label_share += other.label_share
        self.near += other.near
        for name in self.volumes:
            self.volumes[name] += other.volumes[name]
            self.counts[name] += other.counts[name]
        self.smallest, self.largest = min(self.smallest, other.smallest), max(self.largest, other.largest)

    def summary(self) -> Summary:
        """The totals, frozen."""
        return Summary(
            regions=self.regions,
            volumes=dict(self.volumes),
            counts=dict(self.counts),
            label_share=self.label_share,
            covered=self.covered,
            smallest=self.smallest,
            largest=self.largest,
            near_delta=self.near,
        )
