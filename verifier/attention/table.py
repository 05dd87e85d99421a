"""The regions of an attention map as columns, and totals over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.operators import Array

ROBUST, NEVER, MIXED = 0, 1, 2
SAME = 1e-9
"""Vertices closer than this, in widths of Θ, are one."""
SPECK = 1e-12
"""A region with less volume than this share is not looked at as the worst: its points may lie outside it."""
Aspect = Literal["attention", "label", "both"]
"""What should hold: the map moves as expected (AR), the label stays (CR), or both (the paper's CRAR)."""
Kind = npt.NDArray[np.int8]
NAMES: Mapping[str, tuple[str, str, str]] = {"label": ("CR", "MR", "CB"), "attention": ("AR", "IR", "AB")}
"""Munakata et al.'s region kinds: robust, never, boundary (holds in a part of the region)."""


def joint_kind(label: Kind, attention: Kind, aspect: Aspect) -> Kind:
    """The kind in one aspect of regions whose kinds in both are given; "both" is mixed unless one says otherwise."""
    if aspect != "both":
        return label if aspect == "label" else attention
    worst = np.maximum(label, attention)
    return np.where((label == NEVER) | (attention == NEVER), NEVER, worst).astype(np.int8)


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
        farthest: ``(P, d)`` the vertex that is farthest from θ = 0 (‖θ‖₂).
        vertices, offsets: ``(V, d)`` and ``(P + 1,)`` the regions' vertices; in two dimensions counter-clockwise.
            None where tiles were joined.
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

    def kinds(self, aspect: Aspect) -> npt.NDArray[np.int8]:
        """The regions' kinds in one aspect, see `joint_kind`."""
        return joint_kind(self.label, self.attention, aspect)

    def polygon(self, region: int) -> Array:
        """The vertices of one region, ``(k, d)``; InputError for maps that were joined from tiles."""
        if self.vertices is None or self.offsets is None:
            raise InputError("a map that was joined from tiles does not hold polygons", fix="read its tiles")
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
        near_delta: regions whose inconsistency comes within 1e-7 of delta at its ends (relative to delta) and
            could not be looked at exactly: their kind hangs on rounding.
        tied: regions on which another output comes within rounding of the label's, at an edge or all over.
    """

    regions: int
    volumes: Mapping[str, float]
    counts: Mapping[str, int]
    label_share: float
    covered: float
    smallest: float
    largest: float
    near_delta: int
    tied: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Graded:
    """Some regions as a walk hands them out, one entry each; volumes are shares of what is walked.

    Attributes:
        near: whether the kind of attention hangs on rounding.
        doubtful: whether the saliency map itself does (see `verifier.attention.traversal.walk.RegionChunk`); the other fields are those of `Table` and of
            `verifier.attention.traversal.walk.RegionChunk`.
        polygon: the vertices of one region in the parameters' own units, by its number.
    """

    volumes: Array
    low: Array
    high: Array
    attention: npt.NDArray[np.int8]
    label: npt.NDArray[np.int8]
    label_volumes: Array
    tied: npt.NDArray[np.int8]
    near: npt.NDArray[np.bool_]
    doubtful: npt.NDArray[np.bool_]
    polygon: Callable[[int], Array]


@dataclass
class Totals:
    """Running totals over regions; volumes are shares of Θ.

    Attributes:
        worst: for each question a region to look at first, ``[how bad, its vertices]``: "attention" the one with the
            largest inconsistency, "label" the one where the label fails on the largest volume, "tied" any region
            all over which another output is equal.
    """

    delta: float
    regions: int = 0
    volumes: dict[str, float] = field(default_factory=lambda: {n: 0.0 for names in NAMES.values() for n in names})
    counts: dict[str, int] = field(default_factory=lambda: {n: 0 for names in NAMES.values() for n in names})
    label_share: float = 0.0
    covered: float = 0.0
    smallest: float = np.inf
    largest: float = 0.0
    near: int = 0
    tied: int = 0
    worst: dict[str, tuple[float, list[list[float]]]] = field(default_factory=dict)

    def add(self, found: Graded) -> None:
        """Count some more regions."""
        self.regions += len(found.volumes)
        self.covered += float(found.volumes.sum())
        self.label_share += float(found.label_volumes.sum())
        for kind, names in ((found.label, NAMES["label"]), (found.attention, NAMES["attention"])):
            shares = np.bincount(kind, found.volumes, minlength=MIXED + 1)
            counts = np.bincount(kind, minlength=MIXED + 1)
            for k, name in enumerate(names):
                self.volumes[name] += float(shares[k])
                self.counts[name] += int(counts[k])
        self.smallest = min(self.smallest, float(found.low.min(initial=np.inf)))
        self.largest = max(self.largest, float(found.high.max(initial=0.0)))
        self.near += int(found.near.sum())
        self.tied += int((found.tied > 0).sum())
        for question, score in (
            ("attention", np.where(found.volumes > SPECK, found.high, -1.0)),
            ("label", found.volumes - found.label_volumes),
            ("tied", np.where(found.tied > 1, found.volumes, 0.0)),
        ):
            if len(score) and score.max() > self.worst.get(question, (0.0, []))[0]:
                best = int(score.argmax())
                self.worst[question] = (float(score[best]), found.polygon(best).tolist())

    def scaled(self, share: float) -> Totals:
        """The same, where what was walked is this share of Θ."""
        part = {
            q: (score if q == "attention" else score * share, vertices) for q, (score, vertices) in self.worst.items()
        }
        return replace(
            self,
            volumes={k: v * share for k, v in self.volumes.items()},
            counts=dict(self.counts),
            label_share=self.label_share * share,
            covered=self.covered * share,
            worst=part,
        )

    def join(self, other: Totals) -> None:
        """Add another part of Θ."""
        self.regions += other.regions
        self.covered += other.covered
        self.label_share += other.label_share
        self.near += other.near
        self.tied += other.tied
        for name in self.volumes:
            self.volumes[name] += other.volumes[name]
            self.counts[name] += other.counts[name]
        self.smallest, self.largest = min(self.smallest, other.smallest), max(self.largest, other.largest)
        for question, (score, vertices) in other.worst.items():
            if score > self.worst.get(question, (0.0, []))[0]:
                self.worst[question] = (score, vertices)

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
            tied=self.tied,
        )
