"""What a repaired network must do: on each region of inputs, an output polytope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.arguments import checked
from verifier.errors import InputError, PropertyError
from verifier.network.graph import Network
from verifier.network.operators import Array

ROUNDING = 1e-10
"""Share of the original network's outputs' size up to which a row's slack counts as rounding error in float64.

Not of the repaired network's: a change that makes outputs huge must not buy itself a huge tolerance."""


@dataclass(frozen=True, eq=False)
class OutputPolytope:
    """``rows @ y <= bound`` for the flattened output y.

    Attributes:
        rows: ``(k, outputs)``.
        bound: ``(k,)``.
        name: in words ("class 2").
        label: the class that it says, if it is one's (`output_class`).
        largest: whether that class is the largest output, else the smallest.

    Raises:
        PropertyError: rows and bounds that do not fit together.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Definition 2.
    """

    rows: Array
    bound: Array
    name: str = ""
    label: int | None = None
    largest: bool = True

    def __post_init__(self) -> None:
        rows = np.atleast_2d(np.asarray(self.rows, dtype=np.float64))
        bound = np.asarray(self.bound, dtype=np.float64).reshape(-1)
        if rows.shape[0] != len(bound) or not np.isfinite(rows).all() or not np.isfinite(bound).all():
            raise PropertyError(f"output polytope {self.name!r}: rows and bounds must be finite and fit each other")
        if len(bound) == 0:
            raise PropertyError(f"output polytope {self.name!r} has no rows: it demands nothing")
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "bound", bound)

    def check_not_empty(self) -> None:
        """Raises PropertyError if clearly no output can lie in it."""
        from verifier.lp.program import LinearProgram, LpStatus

        # what is empty by less than this is left to the repair to find out, exactly
        loose = self.bound + 1e-6 * (1.0 + np.abs(self.bound))
        free = np.full(self.rows.shape[1], np.inf)
        program = LinearProgram(self.rows, np.full(len(loose), -np.inf), loose, -free, free)
        if program.solve().status in (LpStatus.INFEASIBLE, LpStatus.DOUBTFUL):
            raise PropertyError(
                f"the output polytope {self.name!r} is empty: no output can satisfy it", fix="loosen its rows"
            )

    def slack(self, y: Array) -> Array:
        """``bound - rows @ y`` for outputs ``(batch, outputs)``: ``(batch, k)``."""
        return self.bound - y @ self.rows.T

    def tolerance(self, size: float) -> Array:
        """Slack of each row up to which it counts as zero in float64, ``(k,)``; ``size`` of the original's outputs."""
        return ROUNDING * (np.abs(self.bound) + np.abs(self.rows).sum(axis=1) * size)


@checked
def output_class(outputs: int, label: int, *, largest: bool = True, margin: float = 0.0) -> OutputPolytope:
    """The outputs of one class: output ``label`` is the largest (or the smallest), by ``margin``.

    Args:
        outputs: number of outputs.
        label: the class.
        largest: whether the largest output is the class, else the smallest.
        margin: by how much, at least.

    Raises:
        PropertyError: no such class, a margin that is no finite number.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Section 2: the polytope of a class.

    Example:
        >>> import verifier
        >>> verifier.output_class(3, 1, margin=0.5).rows
        array([[ 1., -1.,  0.],
               [ 0., -1.,  1.]])
    """
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
        raise PropertyError(f"a class is a whole number, got {label!r}")
    if not 0 <= label < outputs:
        raise PropertyError(f"class {label} does not exist", fix=f"classes are 0 to {outputs - 1}")
    if outputs < 2:
        raise PropertyError("a network with one output has no classes", fix="give an output polytope")
    if not np.isfinite(margin):
        raise PropertyError(f"a margin is a finite number, got {margin!r}")
    sign = 1.0 if largest else -1.0
    rows = sign * np.delete(np.eye(outputs), label, axis=0)
    rows[:, label] = -sign
    return OutputPolytope(rows, np.full(outputs - 1, -margin), f"class {label}", label, largest)


@dataclass(frozen=True, eq=False)
class PolygonRegion:
    """A convex polygon in a plane of the input space: ``origin + s·u + t·v`` for (s, t) in the polygon.

    Attributes:
        origin, u, v: flattened inputs ``(n,)``; u and v span the plane.
        polygon: ``(k, 2)`` vertices (s, t) in order, k >= 3.

    Raises:
        PropertyError: corners that make no convex polygon.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Definition 2.
    """

    origin: Array
    u: Array
    v: Array
    polygon: Array

    def __post_init__(self) -> None:
        for name in ("origin", "u", "v"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64).reshape(-1))
        polygon = np.asarray(self.polygon, dtype=np.float64)
        if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
            raise PropertyError(f"a polygon needs at least 3 vertices (s, t), got an array of shape {polygon.shape}")
        object.__setattr__(self, "polygon", polygon)

    def check(self, name: str) -> None:
        """Raises PropertyError, naming the requirement, unless the polygon is convex, with an area, in a plane."""
        from verifier.regions.polygons import convex_polygon

        try:
            convex_polygon(self.polygon)
        except InputError as error:
            raise PropertyError(error.problem, place=name, fix=error.fix or "split it into convex polygons") from None
        lengths = float(np.linalg.norm(self.u) * np.linalg.norm(self.v))
        if not lengths or 1 - abs(float(self.u @ self.v)) / lengths <= 1e-15:
            raise PropertyError("u and v are parallel or zero", place=name, fix="they must span a plane")

    def embed(self, coordinates: Array) -> Array:
        """Plane coordinates ``(..., 2)`` to inputs ``(..., n)``."""
        result: Array = self.origin + coordinates[..., :1] * self.u + coordinates[..., 1:] * self.v
        return result


@dataclass(frozen=True, eq=False)
class LineRegion:
    """All points between two inputs.

    Attributes:
        start, end: flattened inputs ``(n,)``.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Definition 2, with a segment.
    """

    start: Array
    end: Array

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64).reshape(-1))


@dataclass(frozen=True, eq=False)
class PointRegion:
    """One input, or several (images of a data set, the vertices of a map), each on the region it lies in.

    Attributes:
        points: flattened inputs ``(k, n)``; one input ``(n,)`` may be given.

    Raises:
        PropertyError: an array that is not ``(k, n)`` or ``(n,)``.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Definition 2, with single points.
    """

    points: Array

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float64)
        if points.ndim not in (1, 2) or not points.size:
            raise PropertyError(f"points are an array (k, n) or one input (n,), got shape {points.shape}")
        object.__setattr__(self, "points", np.atleast_2d(points))


@dataclass(frozen=True, eq=False)
class PiecesRegion:
    """Many convex polygons of one plane, each inside a single linear region of the network.

    This is what a class map gives: thousands of polygons with one requirement. The re-verification does not
    take "inside a single linear region" on trust.

    Attributes:
        origin, u, v: as in `PolygonRegion`.
        vertices: ``(V, 2)`` plane coordinates of all polygons, one after the other.
        offsets: ``(P + 1,)``; polygon i is ``vertices[offsets[i]:offsets[i + 1]]``.
        patterns: activation pattern of each polygon, ``{node name: (P, *shape)}``; None: that of its centroid.
    """

    origin: Array
    u: Array
    v: Array
    vertices: Array
    offsets: npt.NDArray[np.int64]
    patterns: Mapping[str, npt.NDArray[np.int16]] | None = None

    def embed(self, coordinates: Array) -> Array:
        """Plane coordinates ``(..., 2)`` to inputs ``(..., n)``."""
        result: Array = self.origin + coordinates[..., :1] * self.u + coordinates[..., 1:] * self.v
        return result

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Number of vertices of each polygon."""
        return np.diff(self.offsets)

    @property
    def centroids(self) -> Array:
        """Mean of each polygon's vertices, ``(P, 2)``: an interior point."""
        return np.add.reduceat(self.vertices, self.offsets[:-1], axis=0) / self.counts[:, None]


Region = PolygonRegion | LineRegion | PointRegion | PiecesRegion


@dataclass(frozen=True, eq=False)
class Requirement:
    """On every point of a region the output lies in a polytope.

    Attributes:
        region: where.
        output: what.
        name: for reports ("pocket 1"); made from the number of the requirement if empty.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Definition 2: a pair of polytopes.
    """

    region: Region
    output: OutputPolytope
    name: str = ""


@dataclass(frozen=True, eq=False)
class Specification:
    """Requirements that must all hold.

    Attributes:
        requirements: at least one.
        domain: lower and upper ends ``(n,)`` of the inputs that the network is meant for, in which the regions must lie;
            None: everything.

    Raises:
        PropertyError: no requirement; a domain that is none.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Definition 2.
    """

    requirements: tuple[Requirement, ...]
    domain: tuple[Array, Array] | None = None

    def __post_init__(self) -> None:
        if not self.requirements:
            raise PropertyError("a specification needs at least one requirement")
        if self.domain is not None:
            if not isinstance(self.domain, tuple) or len(self.domain) != 2:
                raise PropertyError("a domain is a pair: lower and upper ends of the inputs", place="domain")
            try:
                lower, upper = (np.asarray(end, dtype=np.float64).reshape(-1) for end in self.domain)
            except (TypeError, ValueError) as error:
                raise PropertyError(f"cannot be read: {error}", place="domain") from None
            if len(lower) != len(upper) or np.isnan(lower).any() or np.isnan(upper).any() or (lower > upper).any():
                raise PropertyError(
                    "the lower ends must not exceed the upper ones, and none may be NaN", place="domain"
                )
            object.__setattr__(self, "domain", (lower, upper))

    def label(self, index: int) -> str:
        """Name of a requirement for reports."""
        return self.requirements[index].name or f"requirement {index}"

    def check(self, network: Network) -> None:
        """Check the specification against a network.

        Raises:
            PropertyError: naming the requirement: sizes that do not fit, NaN, an empty output polytope, a
                region outside the domain.
        """
        if self.domain is not None and len(self.domain[0]) != network.input_size:
            raise PropertyError(
                f"{len(self.domain[0])} ends for a network with {network.input_size} inputs", place="domain"
            )
        checked: set[int] = set()
        for k, requirement in enumerate(self.requirements):
            name = self.label(k)
            points = _extreme_points(requirement.region)
            if points.shape[1] != network.input_size:
                raise PropertyError(
                    f"a region of {points.shape[1]} inputs for a network with {network.input_size}", place=name
                )
            if not np.isfinite(points).all():
                raise PropertyError("the region contains NaN or infinity", place=name)
            if requirement.output.rows.shape[1] != network.output_size:
                raise PropertyError(
                    f"an output polytope over {requirement.output.rows.shape[1]} outputs for a network with "
                    f"{network.output_size}",
                    place=name,
                )
            if isinstance(requirement.region, PolygonRegion):
                requirement.region.check(name)
            if self.domain is not None:
                slack = 1e-9 * np.maximum(1.0, np.abs(points))
                outside = (points < self.domain[0] - slack) | (points > self.domain[1] + slack)
                if outside.any():
                    corner, entry = np.argwhere(outside)[0]
                    raise PropertyError(
                        f"corner {corner} is outside the network's domain: input {entry} is {points[corner, entry]:g}, "
                        f"not in [{self.domain[0][entry]:g}, {self.domain[1][entry]:g}]",
                        place=name,
                    )
            if id(requirement.output) not in checked:
                checked.add(id(requirement.output))
                try:
                    requirement.output.check_not_empty()
                except PropertyError as error:
                    raise PropertyError(error.problem, place=name, fix=error.fix) from None


def _extreme_points(region: Region) -> Array:
    if isinstance(region, PolygonRegion):
        return region.embed(region.polygon)
    if isinstance(region, PiecesRegion):
        return region.embed(region.vertices)
    if isinstance(region, LineRegion):
        return np.stack([region.start, region.end])
    return region.points
