"""What propagation knows about every witness of a query, for other engines.

Forward bounds and gradient inversion together fix phases that bounds over the box alone cannot fix. What is returned
here holds at every *witness* of the query (not at every point of its box), which is all that an encoding needs: it
loses no witness, and what it proposes is replayed anyway.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from verifier.bounds import gradient_bounds
from verifier.bounds.bound import Bound, NetworkBounds
from verifier.encodings.model import Indices
from verifier.encodings.network import UNKNOWN
from verifier.engines.saliency.maps import check_map
from verifier.engines.saliency.problem import Infeasible, Phases, Problem, State
from verifier.engines.saliency.propagation import propagate
from verifier.engines.subproblem import Subproblem
from verifier.network.affine import Matrix
from verifier.network.operators import Array
from verifier.properties.query import Query


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How a question is divided before solvers are asked again.

    Attributes:
        few: up to so many unknown phases before the last layer are all split: what is left is a question about the last.
        at_once: so many are split at a time, of more.
    """

    few: int = 8
    at_once: int = 3


def witness_subproblems(
    query: Query, values: NetworkBounds, settings: SplitSettings = SplitSettings()
) -> list[Subproblem] | None:
    """The query with what propagation finds, to be divided as needed; none: it proves that there is no witness.

    Args:
        values: bounds over the box, by node name.

    Returns:
        None where rounding in composed coefficients would make what propagation finds unproved.

    Source:
        this package's own; the encoding behind it: Le et al., ACML 2023, Section 4.
    """
    problem = Problem.of(query)
    assert query.gradient is not None
    if not problem.form.exact:
        return None
    root = State.root(problem)
    if not _propagated(problem, root, 0):
        return []
    gradients = gradient_bounds(query.network, query.box, query.gradient.output, values)
    return [_Splitter(problem, values, gradients, settings).part(root)]


def _propagated(problem: Problem, state: State, start: int) -> bool:
    """Tighten a state; False if that refutes it."""
    try:
        propagate(problem, state, start=start)
        check_map(problem, state)
    except Infeasible:
        return False
    return True


def _earlier_unknown(state: State) -> int:
    """Number of unknown phases before the last layer."""
    return sum(int((phase == 0).sum()) for phase in state.phase[:-1])


@dataclass(frozen=True, eq=False)
class _Splitter:
    """Turns states into parts, and parts that a solver did not decide into smaller ones.

    Attributes:
        values, gradients: bounds over the box.
    """

    problem: Problem
    values: NetworkBounds
    gradients: NetworkBounds
    settings: SplitSettings

    def by_disjunct(self, state: State) -> list[Subproblem]:
        """One part per disjunct; the disjunct's rows tighten the last layer, and what follows from that."""
        parts = []
        for disjunct in state.disjuncts:
            child = state.copy()
            child.disjuncts = (disjunct,)
            if len(state.disjuncts) == 1 or _propagated(self.problem, child, max(len(state.phase) - 1, 0)):
                parts.append(self.part(child))
        return parts

    def by_phases(self, state: State, depth: int) -> list[Subproblem]:
        """The parts by the phases of the most influential neurons of the first layers."""
        unknown = [r for r, phase in enumerate(state.phase[:-1]) if (phase == 0).any()]
        if not depth or not unknown:
            return [self.part(state)]
        r = unknown[0]
        free = np.flatnonzero(state.phase[r] == 0)
        weight = sum(abs(m[r]).sum(axis=0)[free] for m in self._readers(r))
        neuron = free[[int(np.argmax(weight * np.minimum(state.z_upper[r], -state.z_lower[r])[free]))]]
        parts = []
        for phase in (1, -1):
            child = state.copy()
            child.depth += 1
            child.fix(r, neuron, phase)
            if _propagated(self.problem, child, r):
                parts += self.by_phases(child, depth - 1)
        return parts

    def split(self, state: State) -> list[Subproblem]:
        """Smaller parts of a state: by phases where few are unknown before the last layer, else by disjunct."""
        earlier = _earlier_unknown(state)
        few = self.settings.few
        if len(state.disjuncts) > 1 and not 0 < earlier <= few:
            return self.by_disjunct(state)
        return self.by_phases(state, few if earlier <= few else self.settings.at_once)

    def _readers(self, r: int) -> list[dict[int, Matrix]]:
        form = self.problem.form
        readers = [form.layers[s].matrices for s in form.users[r]]
        return readers + ([form.output.matrices] if r in form.output.matrices else [])

    def part(self, state: State) -> Subproblem:
        """What a state says of the network's nodes."""
        query, form = self.problem.query, self.problem.form
        network = query.network
        values, gradients = dict(self.values), dict(self.gradients)
        known: dict[str, Indices] = {}
        readers = Counter(name for node in network.nodes for name in node.inputs)
        for r, name in enumerate(form.nodes):
            if not name:
                continue
            source = network[name].inputs[0]
            low, high = state.z_lower[r], state.z_upper[r]
            _tighten(values, source, low, high)
            _tighten(values, name, np.maximum(low, 0), np.maximum(high, 0))
            _tighten(gradients, name, state.h_lower[r], state.h_upper[r])
            if readers[source] == 1:
                _tighten(gradients, source, state.v_lower[r], state.v_upper[r])
            known[name] = _phase_indices(state.phase[r])
        _tighten(gradients, network.input, state.g_lower, state.g_upper)
        divisible = len(state.disjuncts) > 1 or _earlier_unknown(state) > 0
        return Subproblem(
            query=replace(query, disjuncts=tuple(query.disjuncts[disjunct] for disjunct in state.disjuncts)),
            values=NetworkBounds(values, self.values.method),
            gradients=NetworkBounds(gradients, self.gradients.method),
            known=known,
            split=partial(self.split, state) if divisible else None,
        )


def _phase_indices(phase: Phases) -> Indices:
    """Phases as indices of a ReLU's phases."""
    return np.where(phase == 0, UNKNOWN, (phase > 0).astype(np.int64))


def _tighten(known: dict[str, Bound], name: str, lower: Array, upper: Array) -> None:
    old = known[name]
    shape = old.lower.shape
    if np.isfinite(lower).all() and np.isfinite(upper).all():
        known[name] = old.intersect(Bound(lower.reshape(shape), np.maximum(lower, upper).reshape(shape)))
