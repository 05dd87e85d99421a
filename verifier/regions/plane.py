"""Plane restrictions: the linear regions of a network on a convex polygon (ExactLine, Appendix; SyReNN).

The polygons share their vertices, so that the network is evaluated about once per polygon, and neighbours are
known. The rules for degenerate cases are those of `verifier.regions.line`: a neuron cuts a polygon only if it is
truly positive at one vertex and truly negative at another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.events import Listener, ignore
from verifier.limits import Deadline, MemoryBudget
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions.cells import Index, Polygons
from verifier.regions.classes import ClassMap, class_map
from verifier.regions.patterns import Patterns
from verifier.regions.polygons import Plane, areas_and_centroids, edges, plane_of
from verifier.regions.subdivision import Subdivision
from verifier.shown import Shown


@dataclass(frozen=True, eq=False, repr=False)
class PlaneRestriction(Shown):
    """A network on a convex polygon of a plane, as convex polygons on which it is affine.

    Attributes:
        network: the network.
        plane: the plane.
        vertices: ``(V, 2)`` plane coordinates, each once.
        offsets, indices: polygon i has the vertices ``indices[offsets[i]:offsets[i + 1]]``, counter-clockwise.
        values: ``(V, m)`` flattened outputs at the vertices.
        tolerance: ``(V,)`` how large a difference of outputs must be to exceed rounding errors.
        patterns: the activation patterns.

    Source:
        planes, SyReNN: Sotoudeh, Thakur, TACAS 2021.
    """

    network: Network
    plane: Plane
    vertices: Array
    offsets: Index
    indices: Index
    values: Array
    tolerance: Array
    patterns: Patterns

    _drawn_by = "verifier.report.regions:restriction_plot"

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {"regions": f"{len(self):,}", "vertices": f"{len(self.vertices):,}"}
        if self.values.shape[1] > 1:
            areas = self.classes().areas
            order = sorted(range(len(areas)), key=lambda k: -areas[k])
            facts["classes"] = ", ".join(f"{k}: {areas[k] / areas.sum():.1%}" for k in order[:6] if areas[k] > 0)
        return "PlaneRestriction", {**facts, "of": repr(self.network)}

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
        return edges(self.offsets, self.indices)[0]

    @cached_property
    def boundary(self) -> Index:
        """Edges on the outer boundary as vertex indices, ``(E, 2)``."""
        return edges(self.offsets, self.indices)[1]

    def classes(self, *, best: str = "max") -> ClassMap:
        """The exact map of classes (the largest output, or the smallest for ``best="min"``)."""
        cells = Polygons(self.offsets, self.indices, self.vertices)
        return class_map(cells, self.values, self.tolerance, best)

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


@checked
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
        memory: GiB that the restriction may use; None for a share of the machine's. `verifier.regions.plane_tiles`
            goes on past it.
        deadline: ``time.monotonic`` seconds at which the work stops.
        listener: is told how many polygons there are after each layer.

    Raises:
        InputError: if shapes do not fit, u and v are parallel, or the polygon has fewer than 3 corners, is not
            convex, has no area, or contains NaN.
        MemoryLimitError, TimeLimitError: if a limit does not suffice.

    Source:
        Sotoudeh, Thakur, SyReNN: Sotoudeh, Thakur, TACAS 2021.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> pieces = plane(network, [[0, 0], [1, 0], [1, 1], [0, 1]])
        >>> len(pieces), pieces.classes().areas.round(6)
        (2, array([0.5, 0.5]))
    """
    where, corners = plane_of(network, origin, u, v, polygon)
    count = len(corners)
    cells = Polygons(np.array([0, count]), np.arange(count), corners)
    walk = Subdivision(network, cells, where.embed(corners), Deadline(deadline), MemoryBudget.of(memory))
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
