"""Many bounds of one `Leaf` at once: products of matrices, with a column for each bound.

A column bounds from below either the Lagrangian of a disjunct, whose multipliers sum to 1 (a positive bound closes the
disjunct), or a preactivation, or minus that. Columns may differ in the phases that are fixed, not in the bounds of the
preactivations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.engines.saliency import leaf_kernels as kernels
from verifier.engines.saliency.leaf import Leaf
from verifier.network.operators import Array
from verifier.rounding import EIGHT_ROUNDINGS

Single = npt.NDArray[np.float32]


@dataclass(eq=False)
class Columns:
    """What is bounded, by which multipliers; R columns.

    Attributes:
        multipliers: ``(m + K, R)``: slopes s above μ.
        phases: ``(m, R)``: 1 or -1 where fixed, else 0.
        sign, neuron: ``(R,)``: the target is ``sign · z[neuron]``; sign 0: a disjunct.
        allowed: ``(rows of disjuncts, R)``: 1 for the rows of disjuncts that a column may use.
    """

    multipliers: Single
    phases: npt.NDArray[np.int8]
    sign: npt.NDArray[np.int8]
    neuron: npt.NDArray[np.int64]
    allowed: Single

    def __post_init__(self) -> None:
        self.first, self.second = np.zeros_like(self.multipliers), np.zeros_like(self.multipliers)
        self.steps = 0

    def __len__(self) -> int:
        return len(self.sign)

    def keep(self, kept: Array) -> None:
        """Drop columns."""
        for name in ("multipliers", "phases", "allowed", "first", "second"):
            setattr(self, name, np.ascontiguousarray(getattr(self, name)[:, kept]))
        self.sign, self.neuron = self.sign[kept], self.neuron[kept]


@dataclass(frozen=True, eq=False)
class Proof:
    """Attributes:
    bounds: ``(R,)``, rounding subtracted.
    inactive, active: ``(m, R)``: what they gain if a phase is only inactive, only active.
    alpha, kappa: ``(m, R)``: coefficients of z and 1 where the neuron is active.
    """

    bounds: Array
    inactive: Array
    active: Array
    alpha: Array
    kappa: Array


class Lagrangian:
    """Ascents and proofs for a leaf.

    Attributes:
        m, rows: neurons, rows; disjuncts: ``(rows of disjuncts, C)``: which are whose. These come first among the rows.

    Source:
        Lagrangian relaxation: Geoffrion, 1974; per-neuron minima in closed form are this module's own.
    """

    def __init__(self, leaf: Leaf) -> None:
        of_disjunct, outer = leaf.disjunct_rows.any(axis=0), leaf.outputs.any(axis=1) | leaf.coordinate_rows.any(axis=1)
        order = np.argsort(np.where(of_disjunct, 0, np.where(outer, 1, 2)), kind="stable")
        a, d, e = leaf.outputs[order], leaf.phase_rows[order], leaf.coordinate_rows[order]
        self.rows, self.m = a.shape
        self.q, self.n = leaf.coordinates.shape
        self.disjuncts = leaf.disjunct_rows[:, order[: of_disjunct.sum()]].T
        self.outer = int((of_disjunct | outer).sum())
        self.offset, self.row_low, self.row_high = leaf.offset, leaf.row_low[order], leaf.row_high[order]
        self.center, self.radius, self.coordinates = leaf.center, leaf.radius, leaf.coordinates
        self.by_y = np.concatenate([leaf.slope_matrix, e[: self.outer]])
        self.by_a, self.by_d = a[: self.outer], d
        self._sizes(leaf, a, d, e)
        self._single = [
            np.ascontiguousarray(x, dtype=np.float32)
            for x in (self.by_y, self.by_y.T, self.by_a, self.by_a.T, self.by_d, self.by_d.T,
                      self.coordinates, self.coordinates.T)
        ]  # fmt: skip
        vectors = (self.center, self.radius, self.offset, self.row_low, self.row_high, self.neuron_unit, self.row_unit)
        self._single_vectors = [x.astype(np.float32) for x in vectors]
        self._buffers: dict[str, Single] = {}

    def _sizes(self, leaf: Leaf, a: Array, d: Array, e: Array) -> None:
        """Lengths of steps, the size of each preactivation in terms of the disjuncts' rows, reserves for rounding."""
        reach = np.abs(leaf.coordinates) @ (np.abs(leaf.center) + leaf.radius)
        most = np.maximum(leaf.high, 0.0)  # of outputs; phases that are assumed may have bounds below zero
        moved = np.abs(a) @ most + np.abs(d).sum(axis=1) + np.abs(e @ leaf.coordinates) @ leaf.radius
        count = len(self.disjuncts)
        unit = (moved[:count].mean() if count else 1.0) + 1e-12
        ends = [np.where(np.isfinite(end), np.abs(end), 0.0) for end in (self.row_low, self.row_high)]
        terms = EIGHT_ROUNDINGS * (self.n + sum(a.shape) + self.q + 8)
        sizes = ends[0] + ends[1] + np.abs(a) @ most + np.abs(d).sum(axis=1) + np.abs(e) @ reach
        size = np.maximum(-leaf.low, most) + most + np.abs(leaf.offset) + np.abs(leaf.slope_matrix) @ reach
        self.row_size, self.neuron_size = terms * sizes, terms * size + leaf.padding
        self.row_unit = unit / np.maximum(moved, 1e-9)
        self.neuron_unit = np.full(self.m, np.abs(a[:count]).mean() if count else 1.0)
        self.target_unit = np.abs(leaf.slope_matrix @ leaf.coordinates) @ leaf.radius / unit

    def _buffer(self, name: str, height: int, width: int) -> Single:
        """Memory that is used again."""
        known = self._buffers.get(name)
        if known is None or known.size < height * width:
            known = self._buffers[name] = np.empty(height * width, dtype=np.float32)
        return known[: height * width].reshape(height, width)

    def ascend(self, columns: Columns, low: Array, high: Array, steps: int, step: float, decay: float) -> Single:
        """Adam's steps on all columns, each shorter than the last by a factor; the mean phase at the minimisers.

        Args:
            step: length of the first step of all since the averages started.
        """
        by_y, by_y_t, by_a, by_a_t, by_d, by_d_t, w, w_t = self._single
        center, radius, offset, row_low, row_high, neuron_unit, row_unit = self._single_vectors
        m, middle, count = self.m, self.m + self.outer, len(columns)
        v, first, second = columns.multipliers, columns.first, columns.second
        target = by_y_t[:, columns.neuron] * columns.sign
        scale = np.where(columns.sign != 0, self.target_unit[columns.neuron], 1.0).astype(np.float32)
        fixed = columns.sign == 0
        low, high = low.astype(np.float32), high.astype(np.float32)
        alpha, kappa, passing, ending, shift = (
            self._buffer(name, m, count) for name in ("alpha", "kappa", "passing", "ending", "shift")
        )
        eta, y, x = (
            self._buffer("eta", self.q, count),
            self._buffer("y", self.q, count),
            self._buffer("x", self.n, count),
        )
        gradient, more = self._buffer("gradient", m + self.rows, count), self._buffer("more", self.outer, count)
        mean = np.zeros((m, int(fixed.sum())), dtype=np.float32)
        for k in range(steps):
            np.matmul(by_a_t, v[m:middle], out=alpha)
            np.matmul(by_d_t, v[m:], out=kappa)
            np.matmul(by_y_t, v[:middle], out=eta)
            eta += target
            np.matmul(w_t, eta, out=x)
            kernels.minimisers(x, center, radius)
            np.matmul(w, x, out=y)
            kernels.corners(alpha, kappa, v[:m], low, high, columns.phases, passing, ending, shift)
            np.matmul(by_d, passing, out=gradient[m:])
            np.matmul(by_y[:m], y, out=gradient[:m])
            np.matmul(by_a, ending, out=more)
            gradient[m:middle] += more
            np.matmul(by_y[m:], y, out=more)
            gradient[m:middle] += more
            mean += (passing[:, : mean.shape[1]] - mean) * np.float32(0.05 if k else 1.0)
            columns.steps += 1
            n = columns.steps
            corrections = 1 / (1 - kernels.FIRST**n), 1 / (1 - kernels.SECOND**n)
            rates = np.array([step * decay ** (n - 1), *corrections], dtype=np.float32)
            kernels.step_slopes(v[:m], gradient[:m], shift, offset, first[:m], second[:m], neuron_unit, scale, rates)
            kernels.step_rows(v[m:], gradient[m:], row_low, row_high, first[m:], second[m:], row_unit, scale, rates)
            kernels.share(v[m : m + len(self.disjuncts)], columns.allowed, fixed)
        return mean

    def prove(self, columns: Columns, low: Array, high: Array) -> Proof:
        """The bounds in float64."""
        m, middle = self.m, self.m + self.outer
        v = columns.multipliers.astype(np.float64)
        lost = ~np.isfinite(v).all(axis=0)  # an ascent may overflow
        v[:, lost] = 0.0
        alpha, kappa = self.by_a.T @ v[m:middle], self.by_d.T @ v[m:]
        x = self.coordinates.T @ (self.by_y.T @ v[:middle] + self.by_y.T[:, columns.neuron] * columns.sign)
        total = self.center @ x - self.radius @ np.abs(x)
        total += columns.sign * self.offset[columns.neuron]
        total -= np.abs(columns.sign) * self.neuron_size[columns.neuron]
        inactive, active = np.empty_like(alpha), np.empty_like(alpha)
        kernels.prove(
            alpha, kappa, v[:m], v[m:], low, high, self.offset, self.row_low, self.row_high, self.neuron_size,
            self.row_size, columns.phases, total, inactive, active,
        )  # fmt: skip
        total[lost] = -np.inf
        return Proof(total, inactive, active, alpha, kappa)
