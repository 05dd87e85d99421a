"""Specifications from class maps ("this area should be class c"), and class maps of repaired networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from verifier.errors import PropertyError
from verifier.network.operators import Array
from verifier.regions.classes import ClassMap
from verifier.regions.plane import PlaneRestriction
from verifier.regions.polygons import areas_and_centroids, convex_polygon
from verifier.repair.frozen import CHUNK, FrozenNetwork
from verifier.repair.specification import PiecesRegion, PointRegion, Requirement, Specification, output_class


@dataclass(frozen=True, eq=False)
class HalfPlanes:
    """The points p of a plane with ``normals @ p <= bounds``: a half-plane, or a convex polygon.

    Attributes:
        normals: ``(k, 2)``.
        bounds: ``(k,)``.
    """

    normals: Array
    bounds: Array

    @staticmethod
    def polygon(corners: npt.ArrayLike) -> HalfPlanes:
        """A convex polygon by its corners ``(k, 2)``, in either sense."""
        p = convex_polygon(corners)
        edge = np.roll(p, -1, axis=0) - p
        normals = np.stack([edge[:, 1], -edge[:, 0]], axis=1)
        return HalfPlanes(normals, (normals * p).sum(axis=1))

    @staticmethod
    def box(s: tuple[float, float], t: tuple[float, float]) -> HalfPlanes:
        """The rectangle ``s[0] <= s <= s[1]``, ``t[0] <= t <= t[1]``; ends may be infinite."""
        normals = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
        bounds = np.array([-s[0], s[1], -t[0], t[1]])
        keep = np.isfinite(bounds)
        return HalfPlanes(normals[keep], bounds[keep])


@dataclass(frozen=True, eq=False)
class Component:
    """The connected part of a class map, of one class, that holds a point.

    Attributes:
        point: (s, t) in plane coordinates.
    """

    point: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Relabel:
    """In an area, what is class ``old`` should be class ``new``.

    Attributes:
        area: where.
        new: the class to have.
        old: the class that is changed; None: every class.
    """

    area: HalfPlanes | Component
    new: int
    old: int | None = None


def specification_of_map(
    restriction: PlaneRestriction,
    relabels: Sequence[Relabel],
    *,
    best: str = "max",
    keep: bool = True,
    margin: float = 0.0,
) -> Specification:
    """The classes that a network has on a plane, with some areas relabelled, as a specification.

    Args:
        restriction: the network on the plane.
        relabels: applied in order.
        best: "max", or "min" where the smallest output is the class (ACAS Xu).
        keep: whether the rest of the plane must keep its class (else only the relabelled areas are specified).
        margin: how far the class's output must be ahead.

    Raises:
        PropertyError: if a relabelling names a class that does not exist, or all of them change nothing.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Section 6, with the classes' borders as rows.
    """
    classes = restriction.classes(best=best)
    pieces = _Pieces(
        corners=classes.vertices[classes.indices],
        offsets=np.asarray(classes.offsets, dtype=np.int64),
        labels=classes.labels.copy(),
        regions=np.asarray(classes.regions, dtype=np.int64),
    )
    component = None
    changed = np.zeros(len(pieces.labels), dtype=bool)
    outputs = restriction.network.output_size
    for k, relabel in enumerate(relabels):
        place = f"relabelling {k}"
        _check_class(relabel, outputs, place)
        if isinstance(relabel.area, Component):
            component = _components(classes) if component is None else component
            if len(component) != len(pieces.labels):
                raise PropertyError("components must come before areas that cut polygons", place=place)
            inside = component == component[_polygon_at(classes, relabel.area.point, place)]
        else:
            pieces, parents, inside = pieces.cut(relabel.area)
            changed = changed[parents]
        hit = inside if relabel.old is None else inside & (pieces.labels == relabel.old)
        hit &= pieces.labels != relabel.new
        pieces.labels[hit] = relabel.new
        changed |= hit
    if relabels and not changed.any():
        raise PropertyError("the relabellings change nothing: there is nothing of the old classes in their areas")
    patterns = restriction.pattern(pieces.regions)
    requirements = []
    for label in range(outputs):
        for moved in (True, False):
            chosen = np.flatnonzero((pieces.labels == label) & (changed == moved))
            if len(chosen) and (moved or keep):
                region = pieces.region(restriction, chosen, patterns)
                name = f"{'changed to' if moved else 'stays'} class {label}"
                requirements.append(
                    Requirement(region, output_class(outputs, label, largest=best == "max", margin=margin), name)
                )
    return Specification(tuple(requirements))


def _check_class(relabel: Relabel, outputs: int, place: str) -> None:
    for label in (relabel.new, relabel.old):
        if label is not None and not 0 <= label < outputs:
            raise PropertyError(f"class {label} does not exist", place=place, fix=f"0 to {outputs - 1}")


def specification_of_vertices(
    restriction: PlaneRestriction, relabels: Sequence[Relabel], *, best: str = "max"
) -> Specification:
    """The classes at the vertices of the linear regions alone, some relabelled: the patching paper's own encoding.

    Each vertex counts once, with the network's class there, or the new one strictly inside a relabelled area. Where
    a class border crosses a linear region nothing is said about the region's inside: this is fewer, looser demands
    than `specification_of_map`, and no proof for whole regions.

    Raises:
        PropertyError: if a relabelling names a class that does not exist or a component.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Section 6.
    """
    labels = labels_of_vertices(restriction, relabels, best=best)
    outputs = restriction.network.output_size
    x = restriction.embed(restriction.vertices)
    requirements = [
        Requirement(
            PointRegion(x[labels == label]), output_class(outputs, int(label), largest=best == "max"), f"class {label}"
        )
        for label in np.unique(labels)
    ]
    return Specification(tuple(requirements))


def labels_of_vertices(
    restriction: PlaneRestriction, relabels: Sequence[Relabel], *, best: str = "max"
) -> npt.NDArray[np.int64]:
    """The class that each vertex of the linear regions should have, ``(V,)``; see `specification_of_vertices`.

    Raises:
        PropertyError: a component without vertices of its own.
    """
    labels = restriction.values.argmax(axis=1) if best == "max" else restriction.values.argmin(axis=1)
    outputs = restriction.network.output_size
    for k, relabel in enumerate(relabels):
        _check_class(relabel, outputs, f"relabelling {k}")
        if isinstance(relabel.area, Component):
            raise PropertyError("a component has no vertices of its own", place=f"relabelling {k}")
        inside = (restriction.vertices @ relabel.area.normals.T < relabel.area.bounds).all(axis=1)
        labels[inside if relabel.old is None else inside & (labels == relabel.old)] = relabel.new
    return np.asarray(labels)


@dataclass(eq=False)
class _Pieces:
    """Convex polygons in flat arrays: corners ``(V, 2)``, offsets, and per polygon its class and linear region."""

    corners: Array
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    regions: npt.NDArray[np.int64]

    def region(
        self, restriction: PlaneRestriction, chosen: npt.NDArray[np.int64], patterns: dict[str, npt.NDArray[np.int16]]
    ) -> PiecesRegion:
        counts = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        index = np.repeat(self.offsets[chosen] - offsets[:-1], counts) + np.arange(offsets[-1])
        plane = restriction.plane
        full = all(n.name in patterns for n in restriction.network.activations)
        own = {name: p[chosen] for name, p in patterns.items()} if full else None
        return PiecesRegion(plane.origin, plane.u, plane.v, self.corners[index], offsets, own)

    def cut(self, area: HalfPlanes) -> tuple[_Pieces, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """All polygons cut along the area's border: the pieces, their parents, and which lie inside."""
        pieces, parents = self, np.arange(len(self.labels))
        inside = np.ones(len(self.labels), dtype=bool)
        for normal, bound in zip(area.normals, area.bounds, strict=True):
            height = pieces.corners @ normal - bound
            scale = 1e-12 * (np.abs(pieces.corners) @ np.abs(normal) + abs(bound))
            height[np.abs(height) <= scale] = 0.0
            top = np.maximum.reduceat(height, pieces.offsets[:-1])
            low = np.minimum.reduceat(height, pieces.offsets[:-1])
            split = (top > 0) & (low < 0) & inside
            inside &= ~((low >= 0) & (top > 0))
            if split.any():
                pieces, new_parents, outside = _split(pieces, height, split)
                parents, inside = parents[new_parents], inside[new_parents] & ~outside
        return pieces, parents, inside


def _split(
    pieces: _Pieces, height: Array, split: npt.NDArray[np.bool_]
) -> tuple[_Pieces, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Cut some polygons where ``height`` changes sign; the parents, and which new pieces are above."""
    parts: list[Array] = []
    parents: list[int] = []
    above: list[bool] = []
    for k, (a, b) in enumerate(zip(pieces.offsets[:-1], pieces.offsets[1:], strict=True)):
        corners = pieces.corners[a:b]
        if not split[k]:
            parts.append(corners)
            parents.append(k)
            above.append(False)
            continue
        for sign in (-1.0, 1.0):
            parts.append(_half(corners, sign * height[a:b]))
            parents.append(k)
            above.append(sign < 0)
    index = np.array(parents)
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])])
    return (
        _Pieces(np.concatenate(parts), offsets, pieces.labels[index], pieces.regions[index]),
        index,
        np.array(above),
    )


def _half(corners: Array, height: Array) -> Array:
    """The part of a convex polygon with ``height <= 0``."""
    kept = []
    for k in range(len(corners)):
        a, b, ha, hb = corners[k - 1], corners[k], height[k - 1], height[k]
        if ha * hb < 0:
            kept.append(a + (b - a) * (ha / (ha - hb)))
        if hb <= 0:
            kept.append(b)
    return np.array(kept)


def _components(classes: ClassMap) -> npt.NDArray[np.int64]:
    """Connected component of each polygon of a class map, over shared edges between equal classes."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    following = np.arange(1, len(classes.indices) + 1)
    following[classes.offsets[1:] - 1] = classes.offsets[:-1]
    a, b = classes.indices, classes.indices[following]
    owner = np.repeat(np.arange(len(classes)), np.diff(classes.offsets))
    key = np.minimum(a, b).astype(np.int64) * len(classes.vertices) + np.maximum(a, b)
    order = np.argsort(key, kind="stable")
    shared = key[order][1:] == key[order][:-1]
    p, q = owner[order][1:][shared], owner[order][:-1][shared]
    same = classes.labels[p] == classes.labels[q]
    links = sp.coo_array((np.ones(same.sum()), (p[same], q[same])), shape=(len(classes), len(classes)))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def _polygon_at(classes: ClassMap, point: Iterable[float], place: str) -> int:
    """Index of a polygon that holds a point."""
    p = np.asarray(tuple(point), dtype=np.float64)
    corners = classes.vertices[classes.indices]
    following = np.arange(1, len(corners) + 1)
    following[classes.offsets[1:] - 1] = classes.offsets[:-1]
    edge, reach = corners[following] - corners, p - corners
    left = edge[:, 0] * reach[:, 1] - edge[:, 1] * reach[:, 0] >= 0
    found = np.flatnonzero(np.logical_and.reduceat(left, classes.offsets[:-1]))
    if not len(found):
        raise PropertyError(f"the point ({p[0]:g}, {p[1]:g}) is not on the map", place=place)
    return int(found[0])


def frozen_restriction(frozen: FrozenNetwork, restriction: PlaneRestriction) -> PlaneRestriction:
    """The frozen network's values on the (unchanged) linear regions of its original.

    The value channel may jump between regions, so each polygon gets corners of its own.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Definition 4 and Section 4.
    """
    corners = restriction.vertices[restriction.indices]
    owner = np.repeat(np.arange(len(restriction)), np.diff(restriction.offsets))
    pattern = restriction.pattern()
    values = []
    for start in range(0, len(corners), CHUNK):
        own = owner[start : start + CHUNK]
        x = restriction.embed(corners[start : start + CHUNK])
        if all(n.name in pattern for n in frozen.network.activations):
            pieces = {name: p[own] for name, p in pattern.items()}
        else:
            pieces = frozen.pattern(restriction.embed(restriction.centroids[own]))
        values.append(frozen.forward(x, pieces).reshape(len(x), -1))
    index = np.asarray(restriction.indices)
    return replace(
        restriction,
        vertices=corners,
        indices=np.arange(len(corners)),
        values=np.concatenate(values),
        tolerance=restriction.tolerance[index],
    )


def area_right(frozen: FrozenNetwork, specification: Specification, *, best: str = "max") -> float:
    """Share of a class-map specification's area where the network's own label is the required class.

    Unlike the closed output polytopes, a label is not met by a tie: judged at the middle of each polygon.

    Raises:
        PropertyError: a specification that is not of class maps.
    """
    pick = np.argmax if best == "max" else np.argmin
    total = right = 0.0
    for requirement in specification.requirements:
        region = requirement.region
        if not isinstance(region, PiecesRegion):
            raise PropertyError("only specifications of class maps have an area")
        areas, _ = areas_and_centroids(region.vertices, region.offsets, np.arange(len(region.vertices)))
        label = requirement.output.label
        for start in range(0, len(areas), CHUNK):
            part = slice(start, start + CHUNK)
            x = region.embed(region.centroids[part])
            pattern = None if region.patterns is None else {k: p[part] for k, p in region.patterns.items()}
            y = frozen.forward(x, pattern).reshape(len(x), -1)
            right += float(areas[part][pick(y, axis=1) == label].sum())
        total += float(areas.sum())
    return right / total
