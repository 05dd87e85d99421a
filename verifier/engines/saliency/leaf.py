"""The Lagrangian of a subproblem whose only unknown phases are in the last hidden layer.

With all earlier phases known, the last layer's preactivations are affine in the input, ``z = B y + b`` with few
coordinates ``y = W x``, and everything else that a witness meets is a row in its outputs a, its phases d and y:

    Σ_j A_kj a_j + Σ_j D_kj d_j + E_k · y  in  [low_k, high_k]

(the disjunct, the gradient of every layer, Euler's identity, the signs of earlier neurons). With multipliers μ of the rows
and a slope s_j for each neuron, a lower bound of ``Σ_k μ_k (row_k - end_k)``, which no witness makes positive, is

    Σ_j t_j + s · b + min over the box of (Σ_k μ_k E_k + s B) W x - Σ_k μ_k end_k,
    t_j = min {-s l, 0 | inactive} ∪ {κ, α u + κ - s u | active},   α_j = Σ_k μ_k A_kj,  κ_j = Σ_k μ_k D_kj:

``s z + t`` lies below ``d (α z + κ)`` at both phases, so a phase is fixed by leaving out two of the four corners. The
best bound over all μ and s is that of the LP in `relaxation` (its dual); any μ and s prove.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.encodings.basis import independent_rows
from verifier.engines.saliency.problem import Problem, State
from verifier.network.affine import dense
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT
from verifier.properties.conjunction import Conjunction
from verifier.rounding import EIGHT_ROUNDINGS, OUTWARD


@dataclass(frozen=True, eq=False)
class Leaf:
    """The data of the Lagrangian; see the module.

    Attributes:
        neurons: ``(m,)`` places in the last layer; ``low, high``: bounds of their preactivations.
        phases: ``(m,)``: 1 or -1 where the phase is a constraint already, else 0.
        coordinates: W ``(q, n)``; center, radius: of the box ``(n,)``.
        slope_matrix: B ``(m, q)``; offset: b ``(m,)``.
        outputs, phase_rows, coordinate_rows: A ``(K, m)``, D ``(K, m)``, E ``(K, q)``.
        row_low, row_high: ``(K,)``; infinite where one-sided.
        disjuncts: numbers of the disjuncts; disjunct_rows: ``(C, K)``: 1 for the rows of each of them, else 0.
        padding: ``(m,)``: bound on the rounding errors of ``B y + b``.
    """

    neurons: Array
    low: Array
    high: Array
    phases: Array
    coordinates: Array
    center: Array
    radius: Array
    slope_matrix: Array
    offset: Array
    outputs: Array
    phase_rows: Array
    coordinate_rows: Array
    row_low: Array
    row_high: Array
    disjuncts: tuple[int, ...]
    disjunct_rows: Array
    padding: Array


class _Rows:
    """Collects rows ``A a + D d + E y in [low, high]``, and knows every source as a function of y."""

    def __init__(self, problem: Problem, state: State, extra: Array) -> None:
        """
        Args:
            extra: rows over the input that become coordinates of their own, the last ones.
        """
        self.problem, self.state = problem, state
        self.form, self.last = problem.form, len(problem.form.layers) - 1
        self.neurons = np.flatnonzero((state.phase[self.last] == 0) | state.forced[self.last])
        self.sure = np.flatnonzero((state.phase[self.last] > 0) & ~state.forced[self.last])
        self.blocks: list[tuple[Array, ...]] = []
        self._sources(extra)
        self.add(np.zeros(0), np.zeros(0), None, None, None)

    def _sources(self, extra: Array) -> None:
        """Preactivations and activations of all layers: ``(matrix, constant)`` over the coordinates.

        The coordinates are the inputs, or, where only the first layer reads these and few of its neurons matter, the
        weighted sums of these neurons.
        """
        form, state = self.form, self.state
        readers = [r for r, layer in enumerate(form.layers) if INPUT in layer.matrices]
        live = np.flatnonzero((state.phase[0] > 0) | state.forced[0])
        few = self.last > 0 and readers == [0] and INPUT not in form.output.matrices and len(live) < form.input_size
        base = dense(form.layers[0].matrices[INPUT][live]) if few else np.eye(form.input_size)
        self.coordinates = np.concatenate([base, extra])
        q = len(self.coordinates)
        self.extra = np.eye(q)[len(base) :]
        self.z: list[tuple[Array, Array]] = []
        self.a: dict[int, tuple[Array, Array]] = {}
        if not few:
            self.a[INPUT] = np.eye(form.input_size, q), np.zeros(form.input_size)
        for r, layer in enumerate(form.layers):
            matrix, constant = np.zeros((form.sizes[r], q)), layer.constant.copy()
            if few and r == 0:  # neurons that do not matter stay 0
                matrix[live, np.arange(len(live))] = 1.0
            else:
                for s, m in layer.matrices.items():
                    matrix += m @ self.a[s][0]
                    constant += m @ self.a[s][1]
            active = (state.phase[r] > 0).astype(np.float64)
            self.z.append((matrix, constant))
            self.a[r] = matrix * active[:, None], constant * active

    def add(
        self, low: Array, high: Array, a: Array | None, d: Array | None, e: Array | None, disjunct: int = -1
    ) -> None:
        """Rows; ``disjunct``: whose they are, if not everybody's."""
        count, widths = len(low), (len(self.neurons), len(self.neurons), len(self.coordinates))
        parts = [np.zeros((count, w)) if p is None else p for p, w in zip((a, d, e), widths, strict=True)]
        self.blocks.append((*parts, low, high, np.full(count, disjunct)))

    def outputs(self, rows: Array) -> tuple[Array, Array, Array]:
        """``rows @ outputs`` as coefficients of a and of the coordinates, and a constant."""
        a, e = np.zeros((len(rows), len(self.neurons))), np.zeros((len(rows), len(self.coordinates)))
        constant = rows @ self.form.output.constant
        for s, m in self.form.output.matrices.items():
            weight = np.asarray(rows @ dense(m))
            matrix, shift = self.a[s]
            if s == self.last:
                a, weight = weight[:, self.neurons], weight[:, self.sure]
                matrix, shift = self.z[s][0][self.sure], self.z[s][1][self.sure]
            e += weight @ matrix
            constant = constant + weight @ shift
        return a, e, constant

    def conjunction(self, part: Conjunction, disjunct: int) -> None:
        """The rows of a conjunction; those that speak of the gradient or the input are left out."""
        kept = np.ones(len(part), dtype=bool)
        for matrix in (part.g_rows, part.x_rows):
            if matrix is not None:
                kept &= ~(dense(matrix) != 0).any(axis=1)
        if part.y_rows is None or not kept.any():
            return
        rows, bound = dense(part.y_rows)[kept], part.bound[kept]
        a, e, constant = self.outputs(rows)
        pad = EIGHT_ROUNDINGS * self.problem.terms * (np.abs(rows) @ self.problem.output_magnitude + np.abs(bound))
        self.add(np.full(len(rows), -np.inf), bound - constant + pad, a, None, e, disjunct)

    def signs(self) -> None:
        """The phases of earlier layers that are constraints of their own."""
        for r in range(self.last):
            chosen = np.flatnonzero(self.state.forced[r])
            sign = np.where(self.state.phase[r][chosen] > 0, 1.0, -1.0)
            matrix, constant = self.z[r][0][chosen], self.z[r][1][chosen]
            end = sign * constant + 2 * self.problem.value_padding[r][chosen]
            self.add(np.full(len(chosen), -np.inf), end, None, None, -sign[:, None] * matrix)

    def gradients(self) -> list[tuple[Array, Array]]:
        """Rows for the gradients that earlier layers pass on; v of every layer as ``(matrix over d, constant)``."""
        problem, state, m = self.problem, self.state, len(self.neurons)
        v: dict[int, tuple[Array, Array]] = {}
        for s in range(self.last, -1, -1):
            matrix, constant = np.zeros((self.form.sizes[s], m)), problem.seed[s].copy()
            for r in self.form.users[s]:
                back = self.form.layers[r].matrices[s].T
                matrix += back @ v[r][0]
                constant += back @ v[r][1]
            if s == self.last:  # its h is constant, for no layer reads it
                matrix[self.neurons, np.arange(m)] = constant[self.neurons]
                constant = np.where(np.isin(np.arange(len(constant)), self.sure), constant, 0.0)
            else:
                active = (state.phase[s] > 0).astype(np.float64)
                matrix, constant = matrix * active[:, None], constant * active
                chosen = np.flatnonzero(matrix.any(axis=1))
                pad = 2 * problem.gradient_padding[s][chosen]
                low, high = state.v_lower[s][chosen] - pad, state.v_upper[s][chosen] + pad
                self.add(low - constant[chosen], high - constant[chosen], None, matrix[chosen], None)
            v[s] = matrix, constant
        return [v[s] for s in range(self.last + 1)]

    def map_entries(self, v: list[tuple[Array, Array]]) -> None:
        """Rows for a few entries of the gradient map.

        The intervals of v (see `gradients`) are the hull of what all entries say together. Of the entries that the
        free phases can move out of their intervals, those are taken that are most independent of each other.
        """
        problem, gradient = self.problem, self.problem.query.gradient
        assert gradient is not None
        matrix, constant = np.zeros((self.form.input_size, len(self.neurons))), problem.seed[INPUT].copy()
        for r in self.form.users[INPUT]:
            back = self.form.layers[r].matrices[INPUT].T
            matrix += back @ v[r][0]
            constant += back @ v[r][1]
        free = self.state.phase[self.last][self.neurons] == 0
        scaled = matrix[:, free] / np.maximum(gradient.upper - gradient.lower, 1e-12)[:, None]
        excess = np.abs(scaled).sum(axis=1)
        rest = np.argsort(-excess)[: problem.settings.leaf.entries]
        chosen = independent_rows(scaled, rest[excess[rest] > 1])
        pad = 2 * problem.gradient_padding[INPUT][chosen]
        low, high = gradient.lower[chosen] - pad, gradient.upper[chosen] + pad
        self.add(low - constant[chosen], high - constant[chosen], None, matrix[chosen], None)

    def identity(self, middle: Array, radius: Array, v: list[tuple[Array, Array]]) -> None:
        """Euler's identity, see `Relaxation`: ``c · y - middle · ξ - Σ_r v_r · β_r`` is a constant up to a slack."""
        problem, form, gradient = self.problem, self.form, self.problem.query.gradient
        assert gradient is not None
        x0, reach = problem.query.box.center, problem.query.box.width / 2
        size = float(np.abs(gradient.output) @ problem.output_magnitude + np.abs(middle) @ np.abs(x0))
        a, e, constant = self.outputs(gradient.output[None])
        total = constant + middle @ x0 - gradient.output @ form.output.constant
        if INPUT in form.output.matrices:
            total = total - gradient.output @ (form.output.matrices[INPUT] @ x0)
        d = np.zeros((1, len(self.neurons)))
        for r, layer in enumerate(form.layers):
            bias = layer.constant + (layer.matrices[INPUT] @ x0 if INPUT in layer.matrices else 0.0)
            d -= bias @ v[r][0]
            total = total - bias @ v[r][1]
            held = np.maximum(np.abs(self.state.v_lower[r]), np.abs(self.state.v_upper[r]))
            size += float((layer.constant_size + problem.magnitude[r]) @ held)
        free = float(radius @ reach)
        slack = free + OUTWARD * problem.terms * (size + free + float(np.abs(total).sum()))
        self.add(-slack - total, slack - total, a, d, e - self.extra)


def leaf_of(problem: Problem, state: State) -> Leaf:
    """The Lagrangian's data for the disjuncts of a state in which all phases but the last layer's are known."""
    query, gradient, last = problem.query, problem.query.gradient, len(problem.form.layers) - 1
    middle = radius = np.zeros(0)
    if gradient is not None:
        low, high = np.maximum(gradient.lower, state.g_lower), np.minimum(gradient.upper, state.g_upper)
        middle, radius = (low + high) / 2, np.maximum(high - low, 0) / 2
    rows = _Rows(problem, state, middle[None] if gradient is not None else np.zeros((0, problem.form.input_size)))
    if gradient is not None:
        v = rows.gradients()
        rows.map_entries(v)
        rows.identity(middle, radius, v)
    if query.common is not None:
        rows.conjunction(query.common, -1)
    for disjunct in state.disjuncts:
        rows.conjunction(problem.disjuncts[disjunct], disjunct)
    rows.signs()
    neurons, (matrix, offset) = rows.neurons, rows.z[last]
    a, d, e, row_low, row_high, of_disjunct = (np.concatenate(part) for part in zip(*rows.blocks, strict=True))
    return Leaf(
        neurons=neurons,
        low=state.z_lower[last][neurons],
        high=state.z_upper[last][neurons],
        phases=state.phase[last][neurons],
        coordinates=rows.coordinates,
        center=query.box.center,
        radius=query.box.width / 2,
        slope_matrix=matrix[neurons],
        offset=offset[neurons],
        outputs=a,
        phase_rows=d,
        coordinate_rows=e,
        row_low=row_low,
        row_high=row_high,
        disjuncts=state.disjuncts,
        disjunct_rows=(of_disjunct == np.array(state.disjuncts)[:, None]).astype(np.float64),
        padding=problem.value_padding[last][neurons],
    )
