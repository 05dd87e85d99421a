"""Work on a convex polygon that does not fit into memory: it is refined in tiles, and the tiles' results streamed.

A tile whose work raises `MemoryLimitError` is cut in half across its longer side, and both halves are tried in
turn. Tiles share their borders exactly, so that areas add up; a linear region that a border cuts counts in every
tile that it reaches into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import MemoryLimitError
from verifier.events import Listener, ignore
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions.plane import PlaneRestriction, plane
from verifier.regions.polygons import plane_of

T = TypeVar("T")
SMALLEST = 2.0**-30
"""A tile with a smaller share of the whole area is not halved again."""


@dataclass(frozen=True, eq=False)
class Tile:
    """A part of a convex polygon.

    Attributes:
        corners: ``(k, 2)``, counter-clockwise.
        share: its area as a share of the whole polygon's.
    """

    corners: Array
    share: float


def in_tiles(corners: Array, work: Callable[[Tile], T]) -> Iterator[tuple[Tile, T]]:
    """Do work on a convex polygon, in as few halvings as its memory limit wants.

    Args:
        corners: ``(k, 2)``, counter-clockwise, of non-zero area; tiles of an axis-parallel box are such boxes.
        work: is given a tile; raises `MemoryLimitError` if it is too large.

    Yields:
        the tiles that fitted, with their results; together they cover the polygon.

    Raises:
        MemoryLimitError: if a tile of the share `SMALLEST` is still too large.

    Source:
        recursive bisection; joining tiles is left to the caller.
    """
    whole = np.asarray(corners, dtype=np.float64)
    extent, area = np.ptp(whole, axis=0), _area(whole)
    waiting = [Tile(whole, 1.0)]
    while waiting:
        tile = waiting.pop()
        try:
            result = work(tile)
        except MemoryLimitError:
            if tile.share < SMALLEST:
                raise
            axis = int(np.argmax(np.ptp(tile.corners, axis=0) / extent))
            halves = _halves(tile.corners, axis)
            waiting += [Tile(half, _area(half) / area) for half in reversed(halves)]
        else:
            yield tile, result


@checked
def plane_tiles(
    network: Network,
    origin: npt.ArrayLike,
    u: npt.ArrayLike | None = None,
    v: npt.ArrayLike | None = None,
    polygon: npt.ArrayLike | None = None,
    *,
    memory: float = 4.0,
    listener: Listener = ignore,
) -> Iterator[tuple[Tile, PlaneRestriction]]:
    """Restrict a network to a convex polygon of a plane, tile by tile if the whole does not fit into memory.

    Shapes: origin, u, v of the network's input shape; polygon ``(k, 2)``.

    All restrictions share one plane, so their coordinates fit together; each is dropped by the caller when it has
    taken what it wants from it. The polygon is checked at once, the work is done when the tiles are asked for.

    Args:
        origin, u, v, polygon: as for `verifier.regions.plane`.
        memory: GiB that one tile may use.
        listener: is told how many polygons there are after each layer of each tile.

    Yields:
        the tiles with their restrictions; a single one, whose share is 1, if the whole polygon fits.

    Raises:
        InputError: as `verifier.plane`.

    Source:
        planes, SyReNN: Sotoudeh, Thakur, TACAS 2021; tiles are this package's own.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> [(tile.share, len(found)) for tile, found in verifier.plane_tiles(network, [[0, 0], [1, 0], [1, 1], [0, 1]])]
        [(1.0, 2)]
    """
    where, corners = plane_of(network, origin, u, v, polygon)

    def work(tile: Tile) -> PlaneRestriction:
        return plane(network, where.origin, where.u, where.v, tile.corners, memory=memory, listener=listener)

    return in_tiles(corners, work)


def _halves(corners: Array, axis: int) -> tuple[Array, Array]:
    """The two parts of a convex polygon on either side of the middle of its extent along an axis."""
    middle = (corners[:, axis].min() + corners[:, axis].max()) / 2
    following = np.roll(corners, -1, axis=0)
    parts: tuple[list[Array], list[Array]] = ([], [])
    for a, b in zip(corners, following, strict=True):
        for part, sign in zip(parts, (-1, 1), strict=True):
            if sign * (a[axis] - middle) >= 0:
                part.append(a)
        if (a[axis] - middle) * (b[axis] - middle) < 0:
            # from the lower end, so that both polygons beside an edge compute the same point
            low, high = (a, b) if a[axis] < b[axis] else (b, a)
            x = low + (middle - low[axis]) / (high[axis] - low[axis]) * (high - low)
            x[axis] = middle
            for part in parts:
                part.append(x)
    return np.array(parts[0]), np.array(parts[1])


def _area(p: Array) -> float:
    q = np.roll(p, -1, axis=0)
    p, q = p - p[0], q - p[0]
    return float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()) / 2
