"""The rows of a specification as affine functions of one layer's parameters (the patching paper's Theorem 1).

On a given activation pattern the output of a frozen network is affine in the parameters of any one layer: Theorem 1 says
so for one weight, Appendix B for a whole layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from verifier.errors import InputError
from verifier.network.convolution import Conv, sliding_windows
from verifier.network.operators import AffineOperator, Array, Dense
from verifier.repair.frozen import FrozenNetwork, parameter_names
from verifier.repair.keypoints import KeyPoints

NOISE = 1e-12
"""Share of a layer's largest input (or gradient) up to which an input (or gradient) counts as zero."""

SLACK_NOISE = 1e-3
"""Share of a row's tolerance (`OutputPolytope.tolerance`) up to which its slack is taken for rounding errors."""


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
        error: ``(R,)`` by how much rounding may have changed it.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Theorem 1.
    """

    operator: AffineOperator
    upstream: Array
    inputs: Array
    row_point: npt.NDArray[np.int64]
    slack: Array
    error: Array

    @property
    def size(self) -> int:
        """Number of parameters of the layer."""
        return sum(getattr(self.operator, n).size for n in parameter_names(self.operator))

    @property
    def scale(self) -> Array:
        """A bound on each row's largest coefficient, ``(R,)``; the coefficient itself for plain Dense layers."""
        upstream = np.abs(self.upstream).reshape(len(self.upstream), -1)
        inputs = np.abs(self.inputs).reshape(len(self.inputs), -1).max(axis=1, initial=1.0)
        if isinstance(self.operator, Dense) and self.upstream.ndim == 2:
            return np.asarray(upstream.max(axis=1, initial=0.0) * inputs[self.row_point])
        return np.asarray(upstream.sum(axis=1) * inputs[self.row_point])

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
        grouped = upstream.reshape(len(rows), groups, conv.weight.shape[0] // groups, *upstream.shape[2:])
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

    Source:
        Sotoudeh, Thakur, Patching, 2019, Theorem 1.
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
    error = SLACK_NOISE * points.tolerance
    slack = points.bound - (points.rows * np.concatenate(outputs)[points.row_point]).sum(axis=1)
    parts = _without_noise(np.concatenate(upstream)), _without_noise(np.concatenate(inputs))
    return LayerRows(operator, *parts, points.row_point, np.where(np.abs(slack) <= error, 0.0, slack), error)


def _without_noise(values: Array) -> Array:
    """Values within rounding errors of zero set to zero.

    At a vertex where a unit turns on, its value is 0 but computed as 1e-17 or so: a change of 1e15 of the weight behind
    it would seem to help.
    """
    values[np.abs(values) <= NOISE * np.abs(values).max(initial=0.0)] = 0.0
    return values
