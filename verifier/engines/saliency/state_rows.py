"""The rows of a subproblem's linear relaxation.

For each ReLU, ``z = a - s`` with ``a`` the positive and ``s`` the negative part, and for each gradient,
``h = v + w`` with ``v = d h`` passed on and ``w = (1 - d) h`` held back, d the phase:

    0 <= a <= u d          0 <= s <= -l (1 - d)
    h_lower d <= v <= h_upper d          h_lower (1 - d) <= w <= h_upper (1 - d)

exact for integral d (big-M with the subproblem's own bounds, McCormick), so that a phase is fixed by
bounds alone. Where h is a constant (last layer), v is h d. Neurons that are dead need no variables.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from verifier.engines.saliency.problem import Problem, State
from verifier.lp.rows import RowBuilder
from verifier.network.affine import Matrix
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT
from verifier.properties.conjunction import Conjunction
from verifier.rounding import EIGHT_ROUNDINGS, OUTWARD, TINY

NONE = -1
"""No column."""
KIND, LAYER = 1 << 40, 1 << 24
"""Strides of the keys by which the columns and rows of related LPs are matched."""


class StateRows:
    """Columns and rows of a state's relaxation, for all its disjuncts.

    Attributes:
        a, s, d, v: column of each neuron's variables per layer, or NONE.
        v_scale: coefficient of the v column per layer (h where v is ``h d``).
        t: the column of the worst row of a disjunct.
        rows: what was collected so far.

    Source:
        McCormick, Mathematical Programming 1976; big-M: Tjeng, Xiao, Tedrake, ICLR 2019; Euler's identity for homogeneous
        functions.
    """

    def __init__(self, problem: Problem, state: State, *, identity: bool = True) -> None:
        """
        Args:
            identity: whether Euler's identity is one of its rows.
        """
        self.problem, self.state = problem, state
        box, layers = problem.query.box, len(problem.form.layers)
        self._lower, self._upper = [box.lower], [box.upper]
        self._columns = box.size
        self._keys = [np.arange(box.size)]
        sizes = problem.form.sizes
        self.a = [np.full(n, NONE) for n in sizes]
        self.s = [np.full(n, NONE) for n in sizes]
        self.d = [np.full(n, NONE) for n in sizes]
        self.v = [np.full(n, NONE) for n in sizes]
        self.w = [np.full(n, NONE) for n in sizes]
        self.v_scale = [np.ones(n) for n in sizes]
        self.rows = RowBuilder()
        self.has_gradient = problem.query.gradient is not None
        for r in range(layers):
            self._forward_columns(r)
        if self.has_gradient:
            for r in range(layers):
                self._gradient_columns(r)
        self.t = self._new(1, -1e4, 0.0, KIND)[0]
        for r in range(layers):
            self._forward_rows(r)
        if self.has_gradient:
            for r in range(layers):
                self._gradient_rows(r)
        if self.has_gradient and identity:
            self._identity_row()
        self._disjunct_rows: dict[int, tuple[Array, Array]] = {}
        if problem.query.common is not None:
            self._conjunction(problem.query.common, with_t=False)
        for disjunct in state.disjuncts:
            index = self._conjunction(problem.disjuncts[disjunct], with_t=True)
            self._disjunct_rows[disjunct] = (index, self.rows.upper[-1].copy() if len(index) else np.zeros(0))

    # -- columns -----------------------------------------------------------------------------------------
    def _new(self, count: int, lower: object, upper: object, keys: object) -> Array:
        self._keys.append(np.broadcast_to(np.asarray(keys, dtype=np.int64), count))
        self._lower.append(np.broadcast_to(np.asarray(lower, dtype=np.float64), count))
        self._upper.append(np.broadcast_to(np.asarray(upper, dtype=np.float64), count))
        self._columns += count
        return np.arange(self._columns - count, self._columns)

    def _forward_columns(self, r: int) -> None:
        state = self.state
        phase = state.phase[r]
        active = np.flatnonzero(phase >= 0)
        low, high = np.maximum(state.z_lower[r][active], 0), np.maximum(state.z_upper[r][active], 0)
        self.a[r][active] = self._new(len(active), low, high, key(2, r, active))
        needed = (phase == 0) | ((phase < 0) & state.forced[r])
        inactive = np.flatnonzero(needed)
        high = np.maximum(-state.z_lower[r][inactive], 0)
        self.s[r][inactive] = self._new(
            len(inactive), np.maximum(-state.z_upper[r][inactive], 0), high, key(3, r, inactive)
        )

    def _gradient_columns(self, r: int) -> None:
        state = self.state
        h_lower, h_upper, phase = state.h_lower[r], state.h_upper[r], state.phase[r]
        relevant = (h_lower != 0) | (h_upper != 0)
        free = (phase == 0) & relevant
        index = np.flatnonzero(free)
        self.d[r][index] = self._new(len(index), 0.0, 1.0, key(4, r, index))
        constant = h_lower == h_upper
        simple = np.flatnonzero(free & constant)
        self.v[r][simple] = self.d[r][simple]
        self.v_scale[r][simple] = h_lower[simple]
        general = np.flatnonzero((free & ~constant) | ((phase > 0) & relevant))
        low, high = state.v_lower[r][general], state.v_upper[r][general]
        self.v[r][general] = self._new(len(general), low, high, key(5, r, general))
        held = np.flatnonzero(free & ~constant)
        low, high = np.minimum(h_lower[held], 0), np.maximum(h_upper[held], 0)
        self.w[r][held] = self._new(len(held), low, high, key(6, r, held))

    # -- rows --------------------------------------------------------------------------------------------
    def _affine(self, rows: Array, matrices: dict[int, Matrix], select: Array, sign: float) -> None:
        """Add ``sign · Σ_s matrices[s][select] @ a_s`` to rows."""
        for s, m in matrices.items():
            if s == INPUT:
                self.rows.block(rows, np.arange(self.problem.form.input_size), sign * m[select])
            else:
                live = np.flatnonzero(self.a[s] >= 0)
                self.rows.block(rows, self.a[s][live], sign * m[select][:, live])

    def _forward_rows(self, r: int) -> None:
        state, layer = self.state, self.problem.form.layers[r]
        chosen = np.flatnonzero((self.a[r] >= 0) | (self.s[r] >= 0))
        constant, off_by = layer.constant[chosen], self.problem.form_padding[r][chosen]
        rows = self.rows.add(len(chosen), constant - off_by, constant + off_by, key(1, r, chosen))
        active, inactive = self.a[r][chosen] >= 0, self.s[r][chosen] >= 0
        self.rows.entries(rows[active], self.a[r][chosen][active], 1.0)
        self.rows.entries(rows[inactive], self.s[r][chosen][inactive], -1.0)
        self._affine(rows, layer.matrices, chosen, -1.0)
        low, high = state.z_lower[r], state.z_upper[r]
        free = np.flatnonzero(state.phase[r] == 0)
        with_d = free[self.d[r][free] >= 0]
        rows = self.rows.add(len(with_d), -np.inf, 0.0, key(2, r, with_d))
        self.rows.entries(rows, self.a[r][with_d], 1.0)
        self.rows.entries(rows, self.d[r][with_d], -high[with_d])
        rows = self.rows.add(len(with_d), -np.inf, -low[with_d], key(3, r, with_d))
        self.rows.entries(rows, self.s[r][with_d], 1.0)
        self.rows.entries(rows, self.d[r][with_d], -low[with_d])
        plain = free[
            (self.d[r][free] < 0) & ((high[free] > 0) | (low[free] < 0))
        ]  # a neuron that rests at 0 has no row
        scale = 1 / np.maximum(np.maximum(high[plain], -low[plain]), TINY)
        # a/u + s/(-l) <= 1, cleared of fractions; the bound is rounded up
        bound = np.nextafter(-low[plain] * high[plain] * scale, np.inf) * (1 + 1e-15)
        rows = self.rows.add(len(plain), -np.inf, bound, key(2, r, plain))
        self.rows.entries(rows, self.a[r][plain], np.nextafter(-low[plain] * scale, -np.inf))
        self.rows.entries(rows, self.s[r][plain], np.nextafter(high[plain] * scale, -np.inf))

    def _gradient_rows(self, s: int) -> None:
        """``h_s = v_s + w_s`` for neurons with a v column of their own, and the McCormick rows."""
        problem, state = self.problem, self.state
        own = np.flatnonzero((self.v[s] >= 0) & (self.v[s] != self.d[s]))
        if not len(own):
            return
        pad = problem.gradient_padding[s][own]
        seed = problem.seed[s][own]
        rows = self.rows.add(len(own), seed - pad, seed + pad, key(4, s, own))
        self.rows.entries(rows, self.v[s][own], 1.0)
        held = self.w[s][own] >= 0
        self.rows.entries(rows[held], self.w[s][own][held], 1.0)
        self._backward(rows, s, own, -1.0)
        free = own[held]
        v, w, d = self.v[s][free], self.w[s][free], self.d[s][free]
        low, high = state.h_lower[s][free], state.h_upper[s][free]
        for kind, column, sign in ((5, v, 1.0), (7, w, -1.0)):
            # v - h_upper d <= 0 <= v - h_lower d; w - h_upper (1 - d) <= 0 <= w - h_lower (1 - d)
            above, below = (0.0, 0.0) if sign > 0 else (high, low)
            rows = self.rows.add(len(free), -np.inf, above, key(kind, s, free))
            self.rows.entries(rows, column, 1.0)
            self.rows.entries(rows, d, -sign * high)
            rows = self.rows.add(len(free), below, np.inf, key(kind + 1, s, free))
            self.rows.entries(rows, column, 1.0)
            self.rows.entries(rows, d, -sign * low)

    def _identity_row(self) -> None:
        """Euler's identity: a ReLU network is linear in (x, biases) on each region, so with ξ = x - x0

            c · y = g · ξ + Σ_r v_r · (b_r + M[r, input] x0) + c · (b_out + M[out, input] x0)

        and since g lies in the gradient box, ``g · ξ`` is its middle times ξ up to radius times |ξ|.
        """
        problem, state = self.problem, self.state
        gradient, box, form = problem.query.gradient, problem.query.box, problem.form
        assert gradient is not None
        lower, upper = np.maximum(gradient.lower, state.g_lower), np.minimum(gradient.upper, state.g_upper)
        middle, radius = (lower + upper) / 2, np.maximum(upper - lower, 0) / 2
        x0, reach = box.center, box.width / 2
        free = float(radius @ reach)
        used = {s: m.T @ gradient.output for s, m in form.output.matrices.items()}
        rows = self.rows.add(1, 0.0, 0.0, key(11, 0, np.zeros(1, dtype=np.int64)))
        size = float(np.abs(gradient.output) @ problem.output_magnitude) + float(np.abs(middle) @ np.abs(x0))
        direct = used.pop(INPUT, np.zeros(box.size))
        constant = float((direct - middle) @ x0)
        self.rows.block(rows, np.arange(box.size), (direct - middle)[None])
        for s, row in used.items():
            live = np.flatnonzero(self.a[s] >= 0)
            self.rows.block(rows, self.a[s][live], row[live][None])
        for r, layer in enumerate(form.layers):
            bias = layer.constant + (layer.matrices[INPUT] @ x0 if INPUT in layer.matrices else 0.0)
            live = np.flatnonzero(self.v[r] >= 0)
            self.rows.block(rows, self.v[r][live], -(bias * self.v_scale[r])[live][None])
            held = np.maximum(np.abs(state.v_lower[r]), np.abs(state.v_upper[r]))
            size += float((layer.constant_size + problem.magnitude[r]) @ held)
        slack = free + OUTWARD * problem.terms * (size + free + abs(constant))
        self.rows.lower[-1], self.rows.upper[-1] = np.array([constant - slack]), np.array([constant + slack])

    def _backward(self, rows: Array, s: int, select: Array, sign: float) -> None:
        """Add ``sign · Σ_r (M[r, s]ᵀ v_r)[select]`` to rows."""
        for r in self.problem.form.users[s]:
            live = np.flatnonzero(self.v[r] >= 0)
            block = self.problem.form.layers[r].matrices[s]
            picked = block[live][:, select] if isinstance(block, np.ndarray) else block[live].tocsc()[:, select]
            scaled = picked * (sign * self.v_scale[r][live])[:, None]
            self.rows.block(rows, self.v[r][live], scaled.T)

    def _conjunction(self, part: Conjunction, *, with_t: bool) -> Array:
        """Rows of a conjunction, inactive (no upper bound yet) when they belong to a disjunct."""
        problem = self.problem
        if not len(part):
            return np.zeros(0, dtype=np.int64)
        bound = part.bound.copy()
        rows = self.rows.add(len(part), -np.inf, 0.0, key(9, 0, np.arange(len(part))))
        if part.x_rows is not None:
            self.rows.block(rows, np.arange(problem.form.input_size), part.x_rows)
        if part.y_rows is not None:
            y_rows = sp.csr_array(part.y_rows)
            output = problem.form.output
            size = np.abs(bound) + np.abs(y_rows) @ output.constant_size
            bound -= y_rows @ output.constant
            composed = {s: y_rows @ m for s, m in output.matrices.items()}
            magnitude = sum((abs(y_rows) @ (m @ self._magnitude(s)) for s, m in output.sizes.items()), size)
            bound += EIGHT_ROUNDINGS * (y_rows.shape[1] + output.roundings + 8) * magnitude
            self._affine(rows, composed, np.arange(len(part)), 1.0)
        if part.g_rows is not None:
            self._gradient_conjunction(rows, part, bound)
        if with_t:
            self.rows.entries(rows, np.full(len(part), self.t), -1.0)
        self.rows.upper[-1] = bound
        return rows

    def _magnitude(self, s: int) -> Array:
        if s == INPUT:
            return np.maximum(np.abs(self.problem.query.box.lower), np.abs(self.problem.query.box.upper))
        return np.where(self.state.phase[s] >= 0, np.maximum(self.state.z_upper[s], 0), 0.0)

    def _gradient_conjunction(self, rows: Array, part: Conjunction, bound: Array) -> None:
        problem = self.problem
        g_rows = sp.csr_array(part.g_rows)
        bound += EIGHT_ROUNDINGS * np.abs(bound)
        bound -= g_rows @ problem.seed[INPUT]
        bound += abs(g_rows) @ (2 * problem.gradient_padding[INPUT])
        for r in problem.form.users[INPUT]:
            live = np.flatnonzero(self.v[r] >= 0)
            m = sp.csr_array(problem.form.layers[r].matrices[INPUT])
            self.rows.block(rows, self.v[r][live], (g_rows @ m[live].T) @ sp.diags_array(self.v_scale[r][live]))


def key(kind: int, layer: int, neurons: Array) -> Array:
    """Keys of columns or rows of a kind, by layer and neuron: how related programs know each other's.

    Shapes: neurons ``(k,)``, their numbers.
    """
    return kind * KIND + layer * LAYER + neurons
