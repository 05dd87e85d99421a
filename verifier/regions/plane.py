"""Plane restrictions: the linear regions of a network on a convex polygon (ExactLine, Appendix; SyReNN).

The polygons share their vertices, so that the network is evaluated about once per polygon, and neighbours are
known. The rules for degenerate cases are those of `verifier.regions.line`: a unit cuts a polygon only if it is
truly positive at one vertex and truly negative at another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.events import Listener, ignore
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions.budget import Budget
from verifier.regions.cells import Index, Polygons
from verifier.regions.patterns import Patterns
from verifier.regions.subdivision import Subdivision

if TYPE_CHECKING:
    from verifier.regions.classes import ClassMap


@dataclass(frozen=True, eq=False)
class Plane:
    """The affine map ``(s, t) -> origin + s · u + t · v`` into the input space; all flattened, ``(n,)``."""

    origin: Array
    u: Array
    v: Array

    def embed(self, coordinates: npt.ArrayLike) -> Array:
        """Plane coordinates ``(…, 2)`` to inputs ``(…, n)``."""
        c = np.asarray(coordinates, dtype=np.float64)
        return self.origin + c[..., :1] * self.u + c[..., 1:] * self.v


@dataclass(frozen=True, eq=False)
class PlaneRestriction:
    """A network on a convex polygon of a plane, as convex polygons on which it is affine.

    Attributes:
        network: the network.
        plane: the plane.
        vertices: ``(V, 2)`` plane coordinates, each once.
        offsets, indices: polygon i has the vertices ``indices[offsets[i]:offsets[i + 1]]``, counter-clockwise.
        values: ``(V, m)`` flattened outputs at the vertices.
        tolerance: ``(V,)`` how large a difference of outputs must be to exceed rounding errors.
        patterns: the activation patterns.
    """

    network: Network
    plane: Plane
    vertices: Array
    offsets: Index
    indices: Index
    values: Array
    tolerance: Array
    patterns: Patterns

    def __len__(self) -> int:
        """Number of polygons."""
        return len(self.offsets) - 1

    @cached_property
    def polygons(self) -> list[Array]:
        """Each polygon's corners, ``(k, 2)``, counter-clockwise."""
        return np.split(self.vertices[self.indices], self.offsets[1:-1])

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        return areas_and_centroids(self.vertices, self.offsets, self.indices)

    @property
    def areas(self) -> Array:
        """Area of each polygon in plane coordinates, ``(P,)``."""
        return self._moments[0]

    @property
    def centroids(self) -> Array:
        """Centre of mass of each polygon in plane coordinates, ``(P, 2)``."""
        return self._moments[1]

    def embed(self, coordinates: npt.ArrayLike) -> Array:
        """Plane coordinates ``(…, 2)`` to flattened inputs ``(…, n)``."""
        return self.plane.embed(coordinates)

    @cached_property
    def neighbours(self) -> Index:
        """Pairs of polygons that share an edge, ``(E, 2)``, the smaller index first, each pair once."""
        return _edges(self.offsets, self.indices)[0]

    @cached_property
    def boundary(self) -> Index:
        """Edges on the outer boundary as vertex indices, ``(E, 2)``."""
        return _edges(self.offsets, self.indices)[1]

    def classes(self, *, best: str = "max") -> ClassMap:
        """The exact map of classes (the largest output, or the smallest for ``best="min"``)."""
        from verifier.regions.classes import class_map

        return class_map(self, best)

    def pattern(self, polygons: npt.ArrayLike | None = None) -> dict[str, npt.NDArray[np.int16]]:
        """Activation pattern of each polygon (all, or those named): see `Patterns.pattern`."""
        return self.patterns.pattern(self._cells(polygons))

    def gradient(self, output: int | Sequence[float] | Array, polygons: npt.ArrayLike | None = None) -> Array:
        """Gradient of an output (or combination) with respect to the input on each polygon, ``(P, n)``."""
        return self.patterns.gradient(output, self._cells(polygons))

    def affine(self, polygons: npt.ArrayLike | None = None) -> tuple[Array, Array]:
        """The affine map of each polygon: ``(P, m, n)`` matrices and ``(P, m)`` constants, ``y = A x + b``."""
        cells = self._cells(polygons)
        matrices = np.stack([self.gradient(k, cells) for k in range(self.network.output_size)], axis=1)
        corner = self.indices[self.offsets[:-1][cells]]
        x = self.embed(self.vertices[corner])
        return matrices, self.values[corner] - np.einsum("pmn,pn->pm", matrices, x)

    def _cells(self, polygons: npt.ArrayLike | None) -> Index:
        everything = np.arange(len(self))
        return everything if polygons is None else everything[np.atleast_1d(polygons)]


def plane(
    network: Network,
    origin: npt.ArrayLike,
    u: npt.ArrayLike | None = None,
    v: npt.ArrayLike | None = None,
    polygon: npt.ArrayLike | None = None,
    *,
    memory: float | None = None,
    deadline: float | None = None,
    listener: Listener = ignore,
) -> PlaneRestriction:
    """Restrict a network to a convex polygon of a plane.

    Args:
        origin, u, v: the plane ``origin + s · u + t · v``, flattened or in the input shape; or only ``origin``, an
            array ``(k, n)`` of at least three inputs: the corners of a convex polygon in the input space.
        polygon: ``(k, 2)`` corners in plane coordinates, in either sense; the square [-1, 1]² by default.
        memory: GiB that the restriction may use; None for no limit. `verifier.regions.plane_tiles` goes on past it.
        deadline: ``time.monotonic`` seconds at which the work stops.
        listener: is told how many polygons there are after each layer.

    Raises:
        InputError: if shapes do not fit, u and v are parallel, or the polygon has fewer than 3 corners, is not
            convex, has no area, or contains NaN.
        MemoryLimitError, TimeLimitError: if a limit does not suffice.
    """
    where, corners = plane_of(network, origin, u, v, polygon)
    count = len(corners)
    cells = Polygons(np.array([0, count]), np.arange(count), corners)
    walk = Subdivision(network, cells, where.embed(corners), Budget.of(memory, deadline))
    walk.finish(listener, "plane", "polygons")
    used, indices = np.unique(cells.indices, return_inverse=True)
    patterns = Patterns(network, walk.levels, cells.count)
    return PlaneRestriction(
        network,
        where,
        cells.place[used],
        cells.offsets,
        indices.reshape(-1),
        walk.output[used],
        walk.tolerance[used],
        patterns,
    )


def plane_of(
    network: Network,
    origin: npt.ArrayLike,
    u: npt.ArrayLike | None = None,
    v: npt.ArrayLike | None = None,
    polygon: npt.ArrayLike | None = None,
) -> tuple[Plane, Array]:
    """The checked plane and polygon that the arguments of `plane` mean: corners ``(k, 2)``, counter-clockwise."""
    if u is None and v is None and polygon is None:
        where, corners = _plane_through(network, origin)
    else:
        if u is None or v is None:
            raise InputError("a plane needs origin, u and v", fix="or give the polygon's corners as inputs")
        parts = [_vector(network, x, n) for x, n in ((origin, "origin"), (u, "u"), (v, "v"))]
        where = Plane(*parts)
        lengths = np.linalg.norm(where.u) * np.linalg.norm(where.v)
        if not lengths or 1 - abs(where.u @ where.v) / lengths <= 1e-15:
            raise InputError("u and v are parallel or zero", fix="they must span a plane; use line otherwise")
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float) if polygon is None else np.asarray(polygon)
    return where, convex_polygon(corners)


def convex_polygon(corners: npt.ArrayLike) -> Array:
    """The checked corners ``(k, 2)``, counter-clockwise, without corners that lie on a straight edge."""
    p = np.asarray(corners, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != 2:
        raise InputError(f"a polygon is an array (k, 2) of plane coordinates, got shape {p.shape}")
    if not np.isfinite(p).all():
        raise InputError("the polygon contains NaN or infinity")
    if len(p) < 3:
        raise InputError(f"a polygon needs at least 3 corners, got {len(p)}")
    p = p[np.any(p != np.roll(p, 1, axis=0), axis=1)]
    size = np.ptp(p, axis=0).max() if len(p) else 0.0
    while len(p) >= 3:
        before, after = p - np.roll(p, 1, axis=0), np.roll(p, -1, axis=0) - p
        turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        flat = np.abs(turn) <= 1e-15 * size * np.maximum(np.abs(before).max(axis=1), np.abs(after).max(axis=1))
        if not flat.any():
            break
        p = np.delete(p, np.argmax(flat), axis=0)
    if len(p) < 3:
        raise InputError("the polygon has no area", fix="give at least three corners that are not on one line")
    if (turn < 0).all():
        p, turn = p[::-1], -turn[::-1]
    angles = np.unwrap(np.arctan2(*(np.roll(p, -1, axis=0) - p).T[::-1]))
    if (turn < 0).any() or angles[-1] - angles[0] > 2 * np.pi:
        bad = int(np.argmin(turn))
        raise InputError(
            f"the polygon is not convex at its corner ({p[bad, 0]:g}, {p[bad, 1]:g})",
            fix="cut it into convex parts, or give the corners in the order of the boundary",
        )
    return np.ascontiguousarray(p)


def _vector(network: Network, x: npt.ArrayLike, name: str) -> Array:
    array = np.asarray(x, dtype=np.float64)
    if array.shape not in (network.input_shape, (network.input_size,), (1, *network.input_shape)):
        raise InputError(
            f"{name} has shape {array.shape}, which does not fit the network's input {network.input_shape}"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{name} contains NaN or infinity")
    return array.reshape(-1)


def _plane_through(network: Network, corners: npt.ArrayLike) -> tuple[Plane, Array]:
    """The plane through the corners of a polygon in the input space, and their coordinates in it."""
    x, single = network.batch(corners)
    x = x.reshape(len(x), -1)
    if single or len(x) < 3:
        raise InputError(f"a polygon needs at least 3 corners, got {len(x)}")
    if not np.isfinite(x).all():
        raise InputError("the polygon contains infinity")
    origin, rest = x[0], x[1:] - x[0]
    u = rest[0]
    lengths = np.linalg.norm(rest, axis=1)
    across = rest - np.outer(rest @ u / max(u @ u, 1e-300), u)
    k = int(np.argmax(np.linalg.norm(across, axis=1)))
    if lengths[0] == 0 or np.linalg.norm(across[k]) <= 1e-12 * lengths.max():
        raise InputError("the polygon has no area", fix="give corners that are not on one line")
    v = rest[k]
    coordinates, *_ = np.linalg.lstsq(np.stack([u, v], axis=1), rest.T, rcond=None)
    if np.abs(np.stack([u, v], axis=1) @ coordinates - rest.T).max() > 1e-9 * lengths.max():
        raise InputError("the polygon's corners do not lie in one plane")
    plane_coordinates = np.concatenate([[[0.0, 0.0]], coordinates.T])
    plane_coordinates[[1, k + 1]] = np.eye(2)  # exactly
    return Plane(origin, u, v), plane_coordinates


def _edges(offsets: Index, indices: Index) -> tuple[Index, Index]:
    following = np.arange(1, len(indices) + 1)
    following[offsets[1:] - 1] = offsets[:-1]
    a, b = indices, indices[following]
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((np.maximum(a, b), np.minimum(a, b)))
    low, high = np.minimum(a, b)[order], np.maximum(a, b)[order]
    same = (low[1:] == low[:-1]) & (high[1:] == high[:-1])
    pairs = np.sort(np.stack([owner[order][:-1][same], owner[order][1:][same]], axis=1), axis=1)
    shared = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    alone = order[~shared]
    return np.unique(pairs, axis=0), np.stack([a[alone], b[alone]], axis=1)


def areas_and_centroids(vertices: Array, offsets: Index, indices: Index) -> tuple[Array, Array]:
    """Area ``(P,)`` and centre of mass ``(P, 2)`` of polygons in flat arrays."""
    corners = vertices[indices]
    first, sizes = offsets[:-1], np.diff(offsets)
    following = np.arange(1, len(indices) + 1)
    following[offsets[1:] - 1] = first
    anchor = np.repeat(corners[first], sizes, axis=0)
    p, q = corners - anchor, corners[following] - anchor
    cross = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
    areas = np.add.reduceat(cross, first) / 2
    moments = np.add.reduceat((p + q) * cross[:, None], first) / 6
    means = np.add.reduceat(p, first) / sizes[:, None]
    # the centre of mass of a sliver would be noise: the mean of its corners lies in it all the same
    reach = np.maximum.reduceat(np.abs(p), first).prod(axis=1)
    thick = areas > 1e-9 * reach
    centres = np.where(thick[:, None], moments / np.where(thick, areas, 1.0)[:, None], means)
    return areas, corners[first] + centres
