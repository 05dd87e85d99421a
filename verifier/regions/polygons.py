"""Convex polygons of a plane in the input space: checked, measured, and who borders on whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions.cells import Index


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


def plane_of(
    network: Network,
    origin: npt.ArrayLike,
    u: npt.ArrayLike | None = None,
    v: npt.ArrayLike | None = None,
    polygon: npt.ArrayLike | None = None,
) -> tuple[Plane, Array]:
    """The checked plane and polygon that the arguments of `plane` mean: corners ``(k, 2)``, counter-clockwise.

    Raises:
        InputError: no plane, or directions that span none.
    """
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
    """The checked corners ``(k, 2)``, counter-clockwise, without corners that lie on a straight edge.

    Raises:
        InputError: corners that are no convex polygon with an area.

    Source:
        Andrew's monotone chain decides convexity: Andrew, 1979.
    """
    p = np.asarray(corners, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != 2:
        raise InputError(f"a polygon is an array (k, 2) of plane coordinates, got shape {p.shape}")
    if not np.isfinite(p).all():
        raise InputError("the polygon contains NaN or infinity")
    if len(p) < 3:
        raise InputError(f"a polygon needs at least 3 corners, got {len(p)}")
    number = np.flatnonzero(np.any(p != np.roll(p, 1, axis=0), axis=1))  # as they were given, from 0
    p = p[number]
    size = np.ptp(p, axis=0).max() if len(p) else 0.0
    while len(p) >= 3:
        before, after = p - np.roll(p, 1, axis=0), np.roll(p, -1, axis=0) - p
        turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        flat = np.abs(turn) <= 1e-15 * size * np.maximum(np.abs(before).max(axis=1), np.abs(after).max(axis=1))
        if not flat.any():
            break
        number = np.delete(number, np.argmax(flat))
        p = np.delete(p, np.argmax(flat), axis=0)
    if len(p) < 3:
        raise InputError("the polygon has no area", fix="give at least three corners that are not on one line")
    if np.sum(p[:, 0] * np.roll(p[:, 1], -1) - np.roll(p[:, 0], -1) * p[:, 1]) < 0:  # clockwise
        p, turn, number = p[::-1], -turn[::-1], number[::-1]
    angles = np.unwrap(np.arctan2(*(np.roll(p, -1, axis=0) - p).T[::-1]))
    if (turn < 0).any() or angles[-1] - angles[0] > 2 * np.pi:
        bad = int(np.argmin(turn))
        raise InputError(
            f"the polygon is not convex at corner {number[bad] + 1} of those given, ({p[bad, 0]:g}, {p[bad, 1]:g}) in the "
            "plane's coordinates",
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
    """The plane through the corners of a polygon in the input space, and their coordinates in it.

    Corners are moved into the plane by what rounding explains: a few units in the last place of float64, or of float32
    if all of them are float32 numbers, as images mostly are.
    """
    x, single = network.batch(corners)
    given = x = x.reshape(len(x), -1)
    if not np.isfinite(x).all():
        raise InputError("the polygon contains infinity")
    if not single:
        x = x[np.any(x != np.roll(x, 1, axis=0), axis=1)]
    if single or len(x) < 3:
        raise InputError(f"a polygon needs at least 3 different corners, got {len(np.unique(given, axis=0))}")
    origin, rest = x[0], x[1:] - x[0]
    lengths = np.linalg.norm(rest, axis=1)
    first = 0 if lengths[0] > 1e-3 * lengths.max() else int(np.argmax(lengths))
    u = rest[first]
    across = rest - np.outer(rest @ u / max(u @ u, 1e-300), u)
    second = int(np.argmax(np.linalg.norm(across, axis=1)))
    if np.linalg.norm(across[second]) <= 1e-12 * lengths.max():
        raise InputError("the polygon has no area", fix="give corners that are not on one line")
    v = rest[second]
    coordinates, *_ = np.linalg.lstsq(np.stack([u, v], axis=1), rest.T, rcond=None)
    single_precision = bool((x.astype(np.float32) == x).all())
    allowed = 1e-9 * lengths.max() + (8 * 2.0**-24 * np.abs(x).max() if single_precision else 0.0)
    if np.abs(np.stack([u, v], axis=1) @ coordinates - rest.T).max() > allowed:
        raise InputError("the polygon's corners do not lie in one plane", fix="give three of them, or round them less")
    plane_coordinates = np.concatenate([[[0.0, 0.0]], coordinates.T])
    plane_coordinates[[first + 1, second + 1]] = np.eye(2)  # exactly
    return Plane(origin, u, v), plane_coordinates


def edges(offsets: Index, indices: Index) -> tuple[Index, Index]:
    """Pairs of polygons that share an edge, ``(k, 2)``, and the edges of one polygon alone, ``(e, 2)`` vertices.

    Args:
        offsets, indices: ``(P + 1,)`` and ``(corners,)``: polygon p has the vertices ``indices[offsets[p]:offsets[p + 1]]``.
    """
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
    """Area ``(P,)`` and centre of mass ``(P, 2)`` of polygons in flat arrays.

    Source:
        the shoelace formula (Gauss).
    """
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
