"""The question a search answers, and what is known in one of its subproblems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from verifier.engines.saliency.settings import TreeSettings
from verifier.network.affine import Matrix
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT, ReluForm, relu_form
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.rounding import EIGHT_ROUNDINGS, TINY

COMPOSED_WELL = 1e-6
"""Rounding in composed coefficients is small if it is at most this share of the values."""

Phases = npt.NDArray[np.int8]
"""1: active (z >= 0), -1: inactive (z <= 0), 0: not yet known."""


class Infeasible(Exception):
    """A subproblem was proved to have no solution."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A query in ReLU form with the magnitudes that bound the rounding errors.

    Attributes:
        query: the query; its network may contain any supported operator.
        form: the network's ReLU form.
        settings: how it is searched.
    """

    query: Query
    form: ReluForm
    settings: TreeSettings = TreeSettings()

    @staticmethod
    def of(query: Query, settings: TreeSettings = TreeSettings()) -> Problem:
        """The problem of a query."""
        return Problem(query, relu_form(query.network), settings)

    @property
    def disjuncts(self) -> tuple[Conjunction, ...]:
        """The disjunction."""
        return self.query.disjuncts

    @cached_property
    def terms(self) -> int:
        """Number of terms in the longest chain of sums, those of composed coefficients included."""
        return self.form.input_size + sum(self.form.sizes) + (len(self.form.sizes) + 1) * self.form.roundings + 8

    @cached_property
    def seed(self) -> dict[int, Array]:
        """Constant part of every h: ``M[out, s]ᵀ c``."""
        gradient = self.query.gradient
        assert gradient is not None
        sizes = dict(enumerate(self.form.sizes)) | {INPUT: self.form.input_size}
        found = {s: np.zeros(n) for s, n in sizes.items()}
        for s, m in self.form.output.matrices.items():
            found[s] = np.asarray(m.T @ gradient.output)
        return found

    @cached_property
    def seed_exact(self) -> bool:
        """Whether `seed` is free of rounding: one output, with coefficient ±1."""
        gradient = self.query.gradient
        assert gradient is not None
        used = np.flatnonzero(gradient.output)
        exact = len(used) <= 1 and bool((np.abs(gradient.output[used]) == 1).all())
        return exact and self.form.output.roundings == 0

    @cached_property
    def parts(self) -> dict[tuple[int, int], tuple[Matrix, Matrix]]:
        """Positive and negative part of every matrix ``M[r, s]``."""
        found = {}
        for r, layer in enumerate(self.form.layers):
            for s, m in layer.matrices.items():
                positive = np.maximum(m, 0) if isinstance(m, np.ndarray) else m.maximum(0).tocsr()
                found[r, s] = (positive, m - positive)
        return found

    @cached_property
    def magnitude(self) -> dict[int, Array]:
        """Upper bound of all path sums behind each source's value: ``|M| ... |M| |x| + |b| ...``."""
        box = self.query.box
        found = {INPUT: np.maximum(np.abs(box.lower), np.abs(box.upper)) + TINY}
        for r, layer in enumerate(self.form.layers):
            total = layer.constant_size
            for s, m in layer.sizes.items():
                total = total + m @ found[s]
            found[r] = np.where(total > 0, 2 * total + TINY, 0.0)  # a sum without terms is exactly 0
        return found

    @cached_property
    def output_magnitude(self) -> Array:
        """The same for the outputs."""
        output = self.form.output
        return output.constant_size + sum(m @ self.magnitude[s] for s, m in output.sizes.items())

    @cached_property
    def form_padding(self) -> list[Array]:
        """Bound on how far the composed coefficients of a layer may put its preactivations off; 0 if they are exact."""
        layers = self.form.layers
        return [EIGHT_ROUNDINGS * layer.roundings * self.magnitude[r] for r, layer in enumerate(layers)]

    @cached_property
    def composed_well(self) -> bool:
        """Whether rounding in composed coefficients is small beside the preactivations themselves.

        Where numbers cancelled that were far larger than what was left (x + 1e17 - 1e17), it is not: then a proof would
        rest on coefficients that say nothing.
        """
        for r, layer in enumerate((*self.form.layers, self.form.output)):
            left = np.abs(layer.constant) + sum(abs(m) @ self.magnitude[s] for s, m in layer.matrices.items())
            padding = self.form_padding[r] if r < len(self.form.layers) else self._output_padding
            if (padding > COMPOSED_WELL * left).any():
                return False
        return True

    @property
    def _output_padding(self) -> Array:
        return EIGHT_ROUNDINGS * self.form.output.roundings * self.output_magnitude

    @cached_property
    def value_padding(self) -> list[Array]:
        """Bound on the rounding error of any bound on a preactivation computed by substitution."""
        return [EIGHT_ROUNDINGS * self.terms * self.magnitude[r] for r in range(len(self.form.layers))]

    @cached_property
    def gradient_padding(self) -> dict[int, Array]:
        """Bound on the rounding error of any bound on h_s computed by substitution."""
        layers = range(len(self.form.layers))
        gradient = self.query.gradient
        assert gradient is not None
        magnitude = {s: np.abs(h) for s, h in self.seed.items()}
        for s, m in self.form.output.sizes.items():
            magnitude[s] = np.maximum(magnitude[s], m.T @ np.abs(gradient.output))
        for r in reversed(layers):
            for s, m in self.form.layers[r].sizes.items():
                magnitude[s] = magnitude[s] + m.T @ magnitude[r]
        return {s: np.where(m > 0, EIGHT_ROUNDINGS * self.terms * m + TINY, 0.0) for s, m in magnitude.items()}

    def gradients(self, phases: Sequence[Array]) -> dict[int, Array]:
        """h of every layer, and of the input, ``(N, neurons)``, or ``(1, neurons)`` where no phase matters.

        Args:
            phases: for every layer ``(N, neurons)``: 1 where a neuron is active, 0 where it is inactive, or between.
        """
        h = {s: v[None] for s, v in self.seed.items()}
        for r in reversed(range(len(phases))):
            v = h[r] * phases[r]
            for s, m in self.form.layers[r].matrices.items():
                h[s] = h[s] + (m.T @ v.T).T
        return h


class Tuning(NamedTuple):
    """Slopes and multipliers for some targets (rows) over some neurons (columns), each by its key.

    Multipliers of phases have a negative sign, to tell them from slopes. Only these entries are kept: in a
    convolutional network a whole matrix, for each open subproblem, would fill the memory.
    """

    rows: Array
    columns: Array
    values: npt.NDArray[np.float32]

    def at(self, rows: Array, columns: Array) -> Array:
        """Values at other rows and columns, ``nan`` where there is none.

        Shapes: rows ``(r,)``; columns ``(c,)``; the result ``(r, c)``.
        """
        found = np.full((len(rows), len(columns)), np.nan)
        _, mine, known = np.intersect1d(rows, self.rows, assume_unique=True, return_indices=True)
        _, across, across_known = np.intersect1d(columns, self.columns, assume_unique=True, return_indices=True)
        found[np.ix_(mine, across)] = self.values[np.ix_(known, across_known)]
        return found


@dataclass(eq=False)
class State:
    """What is known in a subproblem: bounds of z, h and v for each layer, and the phases.

    Attributes:
        phase: phases per layer.
        forced: where a phase is a constraint of its own, not a consequence of the bounds of z.
        z_lower, z_upper, h_lower, h_upper, v_lower, v_upper: bounds per layer.
        g_lower, g_upper: bounds of the input gradient.
        disjuncts: indices of the disjuncts of the query that are still possible.
        depth: number of branchings that led here.
        tuning: slopes and multipliers of the forward bounds by (target layer, layer); never changed in place.
        basis: keys and status of columns and rows in the parent's LP, where the next one starts.
    """

    phase: list[Phases]
    forced: list[npt.NDArray[np.bool_]]
    z_lower: list[Array]
    z_upper: list[Array]
    h_lower: list[Array]
    h_upper: list[Array]
    v_lower: list[Array]
    v_upper: list[Array]
    g_lower: Array
    g_upper: Array
    disjuncts: tuple[int, ...]
    depth: int = 0
    tuning: dict[tuple[int, int], Tuning] = field(default_factory=dict)
    basis: tuple[Array, Array, Array, Array] | None = None

    @staticmethod
    def root(problem: Problem) -> State:
        """Nothing known yet."""
        sizes = problem.form.sizes

        def full(value: float) -> list[Array]:
            return [np.full(n, value) for n in sizes]

        return State(
            [np.zeros(n, dtype=np.int8) for n in sizes],
            [np.zeros(n, dtype=bool) for n in sizes],
            full(-np.inf),
            full(np.inf),
            full(-np.inf),
            full(np.inf),
            full(-np.inf),
            full(np.inf),
            np.full(problem.form.input_size, -np.inf),
            np.full(problem.form.input_size, np.inf),
            tuple(range(len(problem.disjuncts))),
        )

    def copy(self) -> State:
        """An independent copy."""
        lists = (self.phase, self.forced, self.z_lower, self.z_upper, self.h_lower, self.h_upper)
        copies = [[a.copy() for a in arrays] for arrays in (*lists, self.v_lower, self.v_upper)]
        rest: tuple[Any, ...] = (self.g_lower, self.g_upper, self.disjuncts, self.depth)
        arguments: tuple[Any, ...] = (*copies, *rest, dict(self.tuning), self.basis)
        return State(*arguments)

    @property
    def nbytes(self) -> float:
        """Bytes that it holds, about."""
        arrays = (
            self.phase,
            self.forced,
            self.z_lower,
            self.z_upper,
            self.h_lower,
            self.h_upper,
            self.v_lower,
            self.v_upper,
        )
        return float(sum(a.nbytes for lists in arrays for a in lists) + 2 * self.g_lower.nbytes)

    @property
    def unknown(self) -> int:
        """Number of neurons whose phase is not known."""
        return sum(int((p == 0).sum()) for p in self.phase)

    def fix(self, layer: int, neurons: Array, phase: int) -> None:
        """Set phases as constraints.

        Shapes: neurons ``(k,)``, their numbers.

        Raises:
            Infeasible: if one of them is already the other.
        """
        if (self.phase[layer][neurons] == -phase).any():
            raise Infeasible
        fresh = neurons[self.phase[layer][neurons] == 0]
        self.phase[layer][fresh] = phase
        self.forced[layer][fresh] = True
