"""Witnesses: from a point or a pattern that a relaxation suggests to an input that survives the exact replay."""

from __future__ import annotations

import numpy as np

from verifier.engines.saliency.problem import Phases, Problem
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.lp.program import LinearProgram, LpStatus
from verifier.lp.rows import RowBuilder
from verifier.network.exact import ExactNetwork
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT
from verifier.properties.conjunction import Conjunction

Pattern = tuple[Phases, ...]


def _key(pattern: Pattern, disjunct: int) -> tuple[bytes, int]:
    return b"".join(p.tobytes() for p in pattern), disjunct


class WitnessFinder:
    """Tries points and activation patterns, each pattern once, and replays what looks like a witness."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.tried: set[tuple[bytes, int]] = set()
        self._exact: ExactNetwork | None = None

    def point(self, x: Array) -> Array | None:
        """``x``, clipped into the box, if it is a confirmed witness.

        Shapes: x ``(n,)``.
        """
        query = self.problem.query
        x = query.box.clip(x)
        if not query.holds(x[None])[0]:
            return None
        if self._exact is None:
            self._exact = ExactNetwork(query.network)
        return x if replay(query, x, self._exact).confirmed else None

    def near(self, x: Array, disjunct: int, deadline: Deadline) -> Array | None:
        """A witness at ``x`` or anywhere in the linear region around it.

        Shapes: x ``(n,)``.
        """
        x = self.problem.query.box.clip(x)
        pattern = tuple((v[0] > 0).astype(np.int8) for v in self.problem.form.preactivations(x[None]))
        if _key(pattern, disjunct) in self.tried:
            return None
        found = self.point(x)
        return self.region(pattern, disjunct, deadline) if found is None else found

    def region(self, pattern: Pattern, disjunct: int, deadline: Deadline) -> Array | None:
        """A witness with this activation pattern (1 active, 0 inactive), deep inside its region if there is one."""
        key = _key(pattern, disjunct)
        if key in self.tried or deadline.passed:
            return None
        self.tried.add(key)
        gradient = self.problem.query.gradient
        g = None
        if gradient is not None:
            g = self.gradient(pattern)
            if ((g < gradient.lower - 1e-12) | (g > gradient.upper + 1e-12)).any():
                return None
        x = self._deepest(pattern, self.problem.disjuncts[disjunct], g, deadline)
        return None if x is None else self.point(x)

    def gradient(self, pattern: Pattern) -> Array:
        """The gradient on a pattern's region, in float64."""
        return self.problem.gradients([phase[None] for phase in pattern])[INPUT][0]

    def _deepest(self, pattern: Pattern, disjunct: Conjunction, g: Array | None, deadline: Deadline) -> Array | None:
        """The point of the region ∩ disjunct with the largest slack in all rows, by one LP over x."""
        problem = self.problem
        box = problem.query.box
        n = box.size
        builder = RowBuilder()
        inputs = np.arange(n)
        sources: dict[int, tuple[Array, Array]] = {INPUT: (np.eye(n), np.zeros(n))}
        slack = np.array([n])

        def affine(matrices: dict[int, object], constant: Array) -> tuple[Array, Array]:
            weight, offset = np.zeros((len(constant), n)), constant.astype(np.float64).copy()
            for s, m in matrices.items():
                if s == INPUT:
                    weight += m if isinstance(m, np.ndarray) else m.toarray()  # type: ignore[attr-defined]
                else:
                    inner, shift = sources[s]
                    weight += m @ inner  # type: ignore[operator]
                    offset += m @ shift  # type: ignore[operator]
            return weight, offset

        for r, layer in enumerate(problem.form.layers):
            weight, offset = affine(dict(layer.matrices), layer.constant)
            sign = np.where(pattern[r] > 0, 1.0, -1.0)
            radius = np.abs(weight) @ (box.width / 2)
            open_rows = np.flatnonzero(sign * (weight @ box.center + offset) < 1.5 * radius + 1e-6)
            if len(open_rows):
                rows = builder.add(len(open_rows), -(sign * offset)[open_rows], np.inf)
                builder.block(rows, inputs, (sign[:, None] * weight)[open_rows])
                builder.entries(rows, np.repeat(slack, len(rows)), -1.0)
            sources[r] = (weight * (pattern[r] > 0)[:, None], offset * (pattern[r] > 0))
        output_weight, output_offset = affine(dict(problem.form.output.matrices), problem.form.output.constant)
        parts = [disjunct] if problem.query.common is None else [problem.query.common, disjunct]
        for part in parts:
            if not len(part):
                continue
            bound = part.bound.copy()
            total = np.zeros((len(part), n))
            if part.x_rows is not None:
                total += part.x_rows if isinstance(part.x_rows, np.ndarray) else part.x_rows.toarray()
            if part.y_rows is not None:
                total += part.y_rows @ output_weight
                bound -= part.y_rows @ output_offset
            if part.g_rows is not None and g is not None:
                bound -= part.g_rows @ g
            rows = builder.add(len(part), -np.inf, bound)
            builder.block(rows, inputs, total)
            # rows that no x can influence must hold, but cannot be held with slack
            moved = np.flatnonzero(np.abs(total).max(axis=1) > 0)
            builder.entries(rows[moved], np.repeat(slack, len(moved)), 1.0)
        cost = np.zeros(n + 1)
        cost[n] = -1.0
        lower, upper = np.append(box.lower, 0.0), np.append(box.upper, 1.0)
        answer = LinearProgram(builder.matrix(n + 1), *builder.bounds(), lower, upper, cost).solve(deadline)
        if answer.status is not LpStatus.OPTIMAL or answer.point is None:
            return None
        return answer.point[:n]
