"""Key points: the finitely many points at which a specification over whole regions has to hold.

On a linear region a frozen network is affine whatever its patch, so an output polytope holds on a polygon
inside the region if and only if it holds at the polygon's vertices. A key point is a vertex together with
the activation pattern of its region; a vertex that two regions share counts once per region.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array, Conv, Dense, sliding_windows
from verifier.repair.frozen import FrozenNetwork, parameter_names
from verifier.repair.specification import LineRegion, PointRegion, PolygonRegion, Region, Specification

Pieces = npt.NDArray[np.int16]

ROUNDING = 1e-10
"""Share of the original network's outputs' size up to which a row's slack counts as rounding error.

Not of the patched network's: a patch that makes outputs huge must not buy itself a huge tolerance."""

NOISE = 1e-12
"""Share of a layer's largest input (or gradient) up to which an input (or gradient) counts as zero."""

CHUNK = 8192
"""Key points that are evaluated at once; bounds the memory."""


@dataclass(frozen=True, eq=False)
class KeyPoints:
    """Key points of a specification, as flat arrays.

    Attributes:
        points: ``(K, n)`` inputs.
        piece: ``(K,)`` index of the region that each point belongs to.
        patterns: activation pattern of the regions: ``{node name: (pieces, *shape)}``.
        requirement: ``(K,)`` index of the requirement in the specification.
        rows, bound: ``(R, m)`` and ``(R,)``: what is demanded, ``rows @ y <= bound`` at the row's key point.
        row_point: ``(R,)`` the key point of each row, increasing.
        tolerance: ``(R,)`` slack of a row up to which it counts as zero (`ROUNDING`).
    """

    specification: Specification
    points: Array
    piece: npt.NDArray[np.int64]
    patterns: dict[str, npt.NDArray[np.int16]]
    requirement: npt.NDArray[np.int64]
    rows: Array
    bound: Array
    row_point: npt.NDArray[np.int64]
    tolerance: Array

    def __len__(self) -> int:
        return len(self.points)

    @property
    def row_start(self) -> npt.NDArray[np.int64]:
        """``(K + 1,)``: the rows of key point k are ``row_start[k]:row_start[k + 1]``."""
        return np.searchsorted(self.row_point, np.arange(len(self.points) + 1))

    def chunks(self) -> Iterator[slice]:
        """Slices of key points for evaluation in bounded memory."""
        for start in range(0, len(self.points), CHUNK):
            yield slice(start, min(start + CHUNK, len(self.points)))

    def pattern(self, points: slice | npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int16]]:
        """The pattern of each key point of a selection."""
        pieces = self.piece[points]
        return {name: pattern[pieces] for name, pattern in self.patterns.items()}

    def slack(self, frozen: FrozenNetwork) -> Array:
        """``bound - rows @ y`` of every row under a frozen network, ``(R,)``; negative where violated.

        What is within rounding errors of zero (`ROUNDING`) is zero: at a decision boundary two outputs are equal,
        and float64 says so only up to rounding.
        """
        outputs = np.concatenate(
            [frozen.forward(self.points[c], self.pattern(c)).reshape(c.stop - c.start, -1) for c in self.chunks()]
        )
        return self.slack_at(outputs)

    def slack_at(self, outputs: Array) -> Array:
        """`slack` for the outputs ``(K, m)`` at the key points."""
        slack = self.bound - (self.rows * outputs[self.row_point]).sum(axis=1)
        return np.where(np.abs(slack) <= self.tolerance, 0.0, slack)

    def met(self, slack: Array) -> npt.NDArray[np.bool_]:
        """Which key points have all their rows met, ``(K,)``."""
        return np.logical_and.reduceat(slack >= 0, self.row_start[:-1])

    def distinct(self, frozen: FrozenNetwork, layer: str) -> tuple[KeyPoints, npt.NDArray[np.int64]]:
        """The key points that differ for a change of one layer, and how many key points each stands for.

        Two key points make the same rows if they have the same input and output polytope, and their regions
        the same pattern behind the layer (anywhere, if a layer before it is patched too).
        """
        polytope = np.array([id(r.output) for r in self.specification.requirements])
        keys = [*self._places(frozen, layer), polytope[self.requirement][:, None]]
        first, inverse = _distinct(keys)
        return self.subset(first), np.bincount(inverse)

    def opposites(self, frozen: FrozenNetwork, layer: str) -> npt.NDArray[np.int64]:
        """For each row one whose opposite it demands at the same place, or -1, ``(R,)``: both only hold by a tie.

        So it is where areas of two classes share a border inside one linear region. Of equal rows at one place only
        the first is named, and the others name its opposite too.
        """
        _, place = _distinct(self._places(frozen, layer))
        own = place[self.row_point][:, None].astype(np.float64)
        both = np.concatenate([np.hstack([own, self.rows]), np.hstack([own, -self.rows])]) + 0.0
        _, group = _distinct([both])
        here, there = group[: len(own)], group[len(own) :]
        first = np.full(int(group.max(initial=0)) + 1, -1, dtype=np.int64)
        first[here[::-1]] = np.arange(len(own))[::-1]
        return first[there]

    def _places(self, frozen: FrozenNetwork, layer: str) -> list[Array]:
        """What decides a key point's output and gradient as functions of a layer: its input, and the pattern behind."""
        names = [n.name for n in frozen.network.nodes]
        behind = names if set(frozen.patches) - {layer} else names[names.index(layer) :]
        patterns = [self.patterns[n] for n in behind if n in self.patterns]
        return [self.points, *(p.reshape(len(p), -1)[self.piece] for p in patterns)]

    def subset(self, chosen: npt.NDArray[np.int64]) -> KeyPoints:
        """Some of the key points, with their rows."""
        start = self.row_start
        counts = np.diff(start)[chosen]
        row_point = np.repeat(np.arange(len(chosen)), counts)
        ends = np.cumsum(counts)
        rows = np.repeat(start[chosen] - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)
        return replace(
            self,
            points=self.points[chosen],
            piece=self.piece[chosen],
            requirement=self.requirement[chosen],
            rows=self.rows[rows],
            bound=self.bound[rows],
            row_point=row_point,
            tolerance=self.tolerance[rows],
        )


def _distinct(keys: list[Array]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the first of each group of rows that are equal in all keys, and the group of each row."""
    hashed = np.zeros(len(keys[0]), dtype=np.uint64)
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    for key in keys:
        columns = np.ascontiguousarray(key).view(np.int64) if key.dtype.itemsize == 8 else key
        for column in columns.T:
            hashed = (hashed ^ column.astype(np.int64).view(np.uint64)) * multiplier
            hashed ^= hashed >> np.uint64(29)
    _, first, inverse = np.unique(hashed, return_index=True, return_inverse=True)
    if all(np.array_equal(key[first[inverse]], key) for key in keys):
        return first, inverse
    return np.arange(len(hashed)), np.arange(len(hashed))  # two different rows had one hash


def key_points(network: Network, specification: Specification) -> KeyPoints:
    """The key points of a specification on a network.

    Raises:
        PropertyError: if the specification does not fit the network (see `Specification.check`).
    """
    specification.check(network)
    points, pieces, patterns, requirement = [], [], [], []
    count = 0
    for k, item in enumerate(specification.requirements):
        here, piece, pattern = _pieces(network, item.region)
        points.append(here)
        pieces.append(piece + count)
        patterns.append(pattern)
        requirement.append(np.full(len(here), k))
        count += int(piece[-1]) + 1
    which, everywhere = np.concatenate(requirement), np.concatenate(points)
    polytopes = [item.output for item in specification.requirements]
    sizes = np.array([len(p.bound) for p in polytopes])
    rows = np.concatenate([np.tile(polytopes[r[0]].rows, (len(r), 1)) for r in requirement])
    bound = np.concatenate([np.tile(polytopes[r[0]].bound, len(r)) for r in requirement])
    size = max(
        float(np.abs(network.forward(everywhere[start : start + CHUNK])).max(initial=0.0))
        for start in range(0, len(everywhere), CHUNK)
    )
    return KeyPoints(
        specification=specification,
        points=everywhere,
        piece=np.concatenate(pieces),
        patterns={n.name: np.concatenate([p[n.name] for p in patterns]) for n in network.activations},
        requirement=which,
        rows=rows,
        bound=bound,
        row_point=np.repeat(np.arange(len(which)), sizes[which]),
        tolerance=ROUNDING * (np.abs(bound) + np.abs(rows).sum(axis=1) * size),
    )


def _pieces(network: Network, region: Region) -> tuple[Array, npt.NDArray[np.int64], Mapping[str, Pieces]]:
    """Vertices ``(K, n)`` of all linear pieces of a region, the piece of each, and the pieces' patterns."""
    from verifier.regions import line, plane

    if isinstance(region, PointRegion):
        return region.points, np.arange(len(region.points)), _full(network, {}, region.points)
    if isinstance(region, LineRegion):
        found = line(network, region.start, region.end)
        ends = np.stack([found.points[:-1], found.points[1:]], axis=1).reshape(-1, network.input_size)
        return ends, np.repeat(np.arange(len(ends) // 2), 2), _full(network, found.pattern(), found.midpoints)
    if isinstance(region, PolygonRegion):
        cut = plane(network, region.origin, region.u, region.v, region.polygon)
        piece = np.repeat(np.arange(len(cut)), np.diff(cut.offsets))
        return cut.embed(cut.vertices[cut.indices]), piece, _full(network, cut.pattern(), cut.embed(cut.centroids))
    patterns = region.patterns
    if patterns is None:
        patterns = _full(network, {}, region.embed(region.centroids))
    return region.embed(region.vertices), np.repeat(np.arange(len(region.counts)), region.counts), patterns


def _full(network: Network, pattern: Mapping[str, Pieces], inside: Array) -> Mapping[str, Pieces]:
    """The pattern if it names every unit (a ReLU fused with a MaxPool has none), else that of inner points."""
    if all(n.name in pattern for n in network.activations):
        return pattern
    parts = [network.pattern(inside[start : start + CHUNK]) for start in range(0, len(inside), CHUNK)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


@dataclass(frozen=True, eq=False)
class LayerRows:
    """All rows as affine functions of one layer's parameter change Δ: ``coefficients @ Δ <= slack``.

    The coefficients are never stored whole: row r has the gradient ``upstream[r]`` of its left side with
    respect to the layer's output, and its key point the layer's input ``inputs[k]``.

    Attributes:
        operator: the layer (Dense or Conv).
        upstream: ``(R, *layer output shape)``.
        inputs: ``(K, *layer input shape)``.
        row_point: ``(R,)`` key point of each row.
        slack: ``(R,)`` at Δ = 0.
    """

    operator: AffineOperator
    upstream: Array
    inputs: Array
    row_point: npt.NDArray[np.int64]
    slack: Array

    @property
    def size(self) -> int:
        """Number of parameters of the layer."""
        return sum(getattr(self.operator, n).size for n in parameter_names(self.operator))

    def used(self) -> npt.NDArray[np.int64]:
        """Indices of the parameters on which some row depends (all, for layers other than plain Dense ones)."""
        if not isinstance(self.operator, Dense) or self.upstream.ndim != 2:
            return np.arange(self.size)
        units, inputs = (self.upstream != 0).any(axis=0), (self.inputs != 0).any(axis=0)
        return np.flatnonzero(np.concatenate([np.outer(units, inputs).reshape(-1), units]))

    def change(self, delta: Array) -> Array:
        """``coefficients @ delta`` for every row, ``(R,)``."""
        names = parameter_names(self.operator)
        arrays = [getattr(self.operator, n) for n in names]
        parts = np.split(delta, np.cumsum([a.size for a in arrays])[:-1])
        shaped = {n: part.reshape(a.shape) for n, part, a in zip(names, parts, arrays, strict=True)}
        moved = replace(self.operator, **shaped).forward(self.inputs)  # type: ignore[arg-type,type-var]
        return (self.upstream * moved[self.row_point]).reshape(len(self.upstream), -1).sum(axis=1)

    def coefficients(self, rows: npt.NDArray[np.int64]) -> Array:
        """The coefficients of some rows, ``(len(rows), size)``."""
        upstream, inputs = self.upstream[rows], self.inputs[self.row_point[rows]]
        if isinstance(self.operator, Dense):
            lead = tuple(range(1, upstream.ndim - 1))
            weight = np.einsum("r...i,r...j->rij", upstream, inputs)
            return np.concatenate(
                [weight.reshape(len(rows), self.operator.weight.size), upstream.sum(axis=lead)], axis=1
            )
        assert isinstance(self.operator, Conv)
        conv = self.operator
        windows = sliding_windows(inputs, conv.weight.shape[2:], conv.stride, conv.padding, conv.dilation, 0)
        groups, per_group = conv.groups, conv.weight.shape[1]
        grouped = upstream.reshape(len(rows), groups, -1, *upstream.shape[2:])
        spread = windows.reshape(len(rows), groups, per_group, *windows.shape[2:])
        weight = np.einsum("rgohw,rgchwab->rgocab", grouped, spread)
        return np.concatenate([weight.reshape(len(rows), conv.weight.size), upstream.sum(axis=(2, 3))], axis=1)

    def columns(self, parameters: npt.NDArray[np.int64]) -> Array:
        """The coefficients of some parameters in every row, ``(len(parameters), R)``."""
        if isinstance(self.operator, Dense) and self.upstream.ndim == 2:
            outputs, inputs = self.operator.weight.shape
            out = np.where(parameters < outputs * inputs, parameters // inputs, parameters - outputs * inputs)
            result = self.upstream.T[out].copy()
            weights = parameters < outputs * inputs
            if weights.any():
                result[weights] *= self.inputs.T[parameters[weights] % inputs][:, self.row_point]
            return result
        step = max(1, 50_000_000 // max(1, self.size))
        blocks = [
            self.coefficients(np.arange(start, min(start + step, len(self.upstream))))[:, parameters]
            for start in range(0, len(self.upstream), step)
        ]
        return np.ascontiguousarray(np.concatenate(blocks).T)


def layer_rows(frozen: FrozenNetwork, points: KeyPoints, layer: str) -> LayerRows:
    """The rows of a specification as functions of a layer's parameters.

    Raises:
        InputError: if there is no such layer, or it has no parameters.
    """
    node = frozen.network[layer]
    operator = frozen.operator(node)
    if not parameter_names(operator):
        raise InputError(
            f"layer {layer!r} is a {type(operator).__name__}, which has no weights",
            fix="name a Dense or Conv layer",
        )
    assert isinstance(operator, AffineOperator)
    starts = points.row_start
    names = [n.name for n in frozen.network.nodes]
    behind = [n for n in names[names.index(layer) :] if n in points.patterns]
    inputs, outputs, upstream = [], [], []
    for chunk in points.chunks():
        pattern = points.pattern(chunk)
        values = frozen.values(points.points[chunk], pattern)
        inputs.append(values[node.inputs[0]])
        rows = slice(starts[chunk.start], starts[chunk.stop])
        own = points.row_point[rows] - chunk.start
        outputs.append(values[frozen.network.output].reshape(chunk.stop - chunk.start, -1))
        row_pattern = {name: pattern[name][own] for name in behind}
        upstream.append(frozen.gradients(row_pattern, points.rows[rows], stop=layer)[layer])
    slack = points.slack_at(np.concatenate(outputs))
    parts = _without_noise(np.concatenate(upstream)), _without_noise(np.concatenate(inputs))
    return LayerRows(operator, *parts, points.row_point, slack)


def _without_noise(values: Array) -> Array:
    """Values within rounding errors of zero set to zero.

    At a vertex where a unit turns on, its value is 0 but computed as 1e-17 or so: a change of 1e15 of the weight behind
    it would seem to help.
    """
    values[np.abs(values) <= NOISE * np.abs(values).max(initial=0.0)] = 0.0
    return values
