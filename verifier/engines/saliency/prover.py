"""A proof that a query about the gradient has no solution, found on the checker's own bounds.

Whatever engine has found that a query has none, this search finds it again with what the checker knows
(`verifier.proofs.checker`): its bounds, better ones by weights that are written down, linear programs whose multipliers are
written down, and divisions by disjuncts and phases. What is written is evaluated by the checker's own functions first, so that a
proof that is handed out is one that was checked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from verifier.engines.saliency.crown import preactivation_bounds
from verifier.engines.saliency.problem import Problem, State
from verifier.engines.saliency.relaxation import Relaxation, row_kinds
from verifier.engines.saliency.selection import choose_branch
from verifier.engines.saliency.settings import ProverSettings
from verifier.limits import Deadline
from verifier.lp.program import LpStatus
from verifier.network.affine import Affine, combined
from verifier.network.operators import Array
from verifier.network.relu_form import INPUT, ReluForm
from verifier.proofs.checker.claim import Claim
from verifier.proofs.checker.evaluate import Evaluator, ProofError, Record, Task
from verifier.proofs.checker.graph import Graph, through
from verifier.proofs.tree import NoCertificate, ProofTree, Term, Weights
from verifier.properties.query import Query


@dataclass(frozen=True, eq=False)
class Known:
    """What the checker knows of a region.

    Attributes:
        region: ends of the box, and phases.
        record: the bounds that are in force.
        signs: ``(relus,)`` phases, from bounds too.
    """

    region: tuple[Array, Array, Array]
    record: Record
    signs: Array


@dataclass(eq=False)
class _Open:
    node: int
    known: Known
    disjuncts: tuple[int, ...]
    basis: tuple[Array, Array, Array, Array] | None = None
    depth: int = 0
    bounded: bool = False


class Prover:
    """Finds the proof of one query.

    Args:
        query: the query, with a gradient.
        graph, claim: the same as the checker reads them: disjunct k is disjunct k, its rows those of the disjunct, the common ones,
            and two for each entry of the gradient (its upper and its lower end).

    Attributes:
        tree: what was found so far.
        nodes, programs: how many there were.

    Source:
        Farkas, 1902: a combination of equalities that no point meets; the search is this package's own.
    """

    def __init__(self, query: Query, graph: Graph, claim: Claim, settings: ProverSettings = ProverSettings()) -> None:
        assert query.gradient is not None
        self.query, self.settings = replace(query, condition=None), settings
        self.problem = Problem(self.query, form_of(graph))
        self.graph, self.claim = graph, claim
        self.relus = [n for n in graph.nodes if n.kind == "relu"]
        if len(claim.disjuncts) != len(query.disjuncts) or not self._agrees():
            raise NoCertificate("the checker reads network or property in another way")
        by_relu = {n.relu: n for n in graph.nodes if n.kind == "gate"}
        self.gates = [by_relu.get(k) for k, n in enumerate(graph.nodes) if n.kind == "relu"]
        self.first = [*(n.part.start for n in self.relus), graph.relus]
        self.checker = Evaluator(graph, claim)
        self.tree = ProofTree()
        self.nodes = self.programs = 0

    def _agrees(self) -> bool:
        """Whether network and gradient are those of the query, at a few points as far as floats tell."""
        query, form, gradient = self.query, self.problem.form, self.query.gradient
        assert gradient is not None
        x = query.box.sample(4, np.random.default_rng(0))
        z = form.preactivations(x)
        sources = {INPUT: x} | {r: np.maximum(v, 0) for r, v in enumerate(z)}
        y = form.output.constant + sum((m @ sources[s].T).T for s, m in form.output.matrices.items())
        g = self.problem.gradients([(v > 0).astype(np.float64) for v in z])[INPUT]
        near = [
            np.allclose(a, b.reshape(a.shape), rtol=1e-6, atol=1e-6 * (1 + np.abs(b).max()))
            for a, b in ((y, query.network.forward(x)), (g, query.network.gradient(x, gradient.output)))
        ]
        return all(near)

    def prove(self, deadline: Deadline) -> ProofTree:
        """The proof, as a tree with one root.

        Raises:
            NoCertificate: there is none, or none was found in time.
        """
        box, relus = self.query.box, self.graph.relus
        region = box.lower, box.upper, np.zeros(relus, dtype=np.int8)
        none = self.checker.nothing(region)
        disjuncts = tuple(range(len(self.query.disjuncts)))
        todo = [_Open(self.tree.root(disjuncts), Known(region, none, region[2]), disjuncts)]
        while todo:
            if deadline.passed:
                raise NoCertificate(f"the time for it was over with {len(todo)} parts left")
            todo += self._step(todo.pop(), deadline)
        return self.tree

    def _step(self, here: _Open, deadline: Deadline) -> list[_Open]:
        """Bound a node, refute what can be refuted there, and divide it; what is left."""
        if here.bounded:
            return self._programs(here, here.known, deadline)
        self.nodes += 1
        self.tree.bounds(here.node)
        known: Known | None = self._bounded(
            here.known, Record(here.known.region, here.known.record, 0, np.zeros(0, dtype=np.intp))
        )
        if known is not None:
            known = self._better(
                here.node, known, here.disjuncts, self.settings.later if here.depth else self.settings.steps
            )
        if known is None:
            self.tree.contradiction(here.node)
            return []
        return self._programs(here, known, deadline)

    def _programs(self, here: _Open, known: Known, deadline: Deadline) -> list[_Open]:
        """Refute disjuncts by linear programs, and divide what is left by the phase that these suggest."""
        state = self._state(known, here.disjuncts)
        state.depth, state.basis = here.depth, here.basis
        relaxation = Relaxation(self.problem, state, identity=False)
        left, point = list[int](), None
        for number, disjunct in enumerate(here.disjuncts):
            answer = relaxation.solve(disjunct, deadline)
            self.programs += 1
            if answer.status is LpStatus.INFEASIBLE and self._refuted(here.node, known, disjunct, relaxation):
                continue
            if answer.status is LpStatus.STOPPED:
                raise NoCertificate("the time for it was over while a linear program was solved")
            left.append(disjunct)
            if answer.point is not None:
                point = answer.point
                if here.depth and state.unknown:
                    left += here.disjuncts[number + 1 :]
                    break
        if not left:
            return []
        if not state.unknown:
            raise NoCertificate(
                "a linear region stayed undecided: within rounding errors, or as the map says more than intervals of the gradient"
            )
        if len(left) > 1 and bool((known.signs[: self.first[-2]] != 0).all()):
            return [replace(here, known=known, disjuncts=(disjunct,), bounded=True) for disjunct in left]
        basis = relaxation.basis() if point is not None else None
        chosen = choose_branch(relaxation, point)
        assert chosen is not None
        layer, neuron, first = chosen
        return self._halves(here, known, self.first[layer] + neuron, first, left, basis)

    def _halves(
        self, here: _Open, known: Known, unit: int, first: int, disjuncts: Sequence[int], basis: Any
    ) -> list[_Open]:
        """The two phases of a ReLU; ``first`` is searched first."""
        disjunct = disjuncts[0] if len(disjuncts) == 1 else -1
        nodes = dict(zip((1, -1), self.tree.divide_neuron(here.node, unit, disjunct), strict=True))
        found = []
        for phase in (-first, first):
            phases = known.region[2].copy()
            phases[unit] = phase
            region = known.region[0], known.region[1], phases
            found.append(_Open(nodes[phase], replace(known, region=region), tuple(disjuncts), basis, here.depth + 1))
        return found

    # -- bounds ------------------------------------------------------------------------------------------
    def _bounded(self, known: Known, record: Record) -> Known | None:
        """What the checker knows with one more set of bounds; None: that there is nothing."""
        record.region, record.base = known.region, known.record
        with np.errstate(invalid="ignore", over="ignore"):
            found = record.found = self.checker.bounded([record])
        if found.empty[0]:
            return None
        relus = self.graph.relus
        signs = np.where(found.low[0, :relus] > 0, 1, np.where(found.high[0, :relus] <= 0, -1, 0)).astype(np.int8)
        return Known(known.region, record, np.where(found.phases[0] != 0, found.phases[0], signs))

    def _better(self, node: int, known: Known, disjuncts: Sequence[int], steps: int) -> Known | None:
        """Bounds with weights, where phases that are assumed or found say more than the rule uses."""
        found = known.record.found
        assert found is not None
        if not found.phases.any() or (known.signs != 0).all():
            return known
        units, rows = self._weights(known, disjuncts, steps)
        if not rows:
            return known
        self.tree.weighted_bounds(node, units, rows)
        starts = np.array(self.first)
        vectors = []
        for unit, _, weights in rows:
            count = int(np.searchsorted(units, starts[np.searchsorted(starts, unit, side="right") - 1]))
            vectors.append((units[:count], weights, False))
        places = np.array([unit for unit, _, _ in rows]), np.array([float(sign) for _, sign, _ in rows])
        record = Record(known.region, known.record, 0, units, (*places, vectors))
        return self._bounded(known, record)

    def _weights(
        self, known: Known, disjuncts: Sequence[int], steps: int
    ) -> tuple[Array, list[tuple[int, int, Array]]]:
        state, found = self._state(known, disjuncts), known.record.found
        assert found is not None
        units = np.flatnonzero((known.signs == 0) | (found.phases[0] != 0))
        rows = list[tuple[int, int, Array]]()
        for r, size in enumerate(self.problem.form.sizes):
            first, todo = self.first[r], np.flatnonzero(state.phase[r] == 0)
            mine = units[units < first]
            if not len(todo) or not len(mine):
                continue
            preactivation_bounds(self.problem, state, r, todo, steps)
            both = np.concatenate([todo, todo + size])
            weights = np.zeros((len(both), len(mine)))
            for s in range(r):
                tuning = state.tuning.get((r, s))
                if tuning is not None:
                    columns = np.flatnonzero((mine >= self.first[s]) & (mine < self.first[s + 1]))
                    weights[:, columns] = np.abs(np.nan_to_num(tuning.at(both, mine[columns] - self.first[s])))
            weights = np.minimum(weights, 6e4).astype(np.float16).astype(np.float64)
            for k in np.argsort(both % size, kind="stable").tolist():
                rows.append((first + int(both[k]) % size, 1 if both[k] < size else -1, weights[k]))
        return units, rows

    def _state(self, known: Known, disjuncts: Sequence[int]) -> State:
        """What is known as the state of the saliency engine's programs."""
        state, found, gradient = State.root(self.problem), known.record.found, self.query.gradient
        assert found is not None
        assert gradient is not None
        for r, (relu, gate) in enumerate(zip(self.relus, self.gates, strict=True)):
            part, sign = relu.part, known.signs[relu.part]
            low = high = np.zeros(relu.size)
            if gate is not None:
                low, high = (end[0, gate.part].copy() for end in (found.low, found.high))
            state.phase[r], state.forced[r] = sign.astype(np.int8), found.phases[0, part] != 0
            state.z_lower[r], state.z_upper[r] = found.low[0, part].copy(), found.high[0, part].copy()
            state.h_lower[r], state.h_upper[r] = low, high
            state.v_lower[r] = np.where(sign < 0, 0.0, np.where(sign > 0, low, np.minimum(low, 0.0)))
            state.v_upper[r] = np.where(sign < 0, 0.0, np.where(sign > 0, high, np.maximum(high, 0.0)))
        state.g_lower, state.g_upper = gradient.lower.copy(), gradient.upper.copy()
        state.disjuncts = tuple(disjuncts)
        return state

    # -- refutations -------------------------------------------------------------------------------------
    def _refuted(self, node: int, known: Known, disjunct: int, relaxation: Relaxation) -> bool:
        """Write down the multipliers that refute a disjunct, in as few bits as will do; whether they do."""
        ray = relaxation.lp.ray()
        if ray is None or not ray.any():
            return False
        for sign in (1.0, -1.0):
            rows, numbers = self._multipliers(relaxation, sign * ray / np.abs(ray).max(), disjunct)
            if not rows:
                continue
            added = self._added(disjunct, rows, numbers, known)
            free = self._free(known)
            for bits in self.settings.bits:
                factors = rounded(np.array([rows[k] for k in sorted(rows)]), bits)
                short = rounded(added, bits)
                kept = np.flatnonzero(free | (short != 0))  # elsewhere nothing is added to the default
                term = np.array(sorted(rows)), factors, (kept, short[kept], True)
                if self._refutes(known, disjunct, [term]):
                    terms = [Term(term[0], term[1], Weights(kept, term[2][1], free=True))]
                    self.tree.refute(node, disjunct, terms)
                    return True
        return False

    def _free(self, known: Known) -> Array:
        """Which units have no sure phase."""
        found = np.zeros(self.graph.units, dtype=bool)
        found[: self.graph.relus] = known.signs == 0
        for relu, gate in zip(self.relus, self.gates, strict=True):
            if gate is not None:
                found[gate.part] = found[relu.part]
        return found

    def _refutes(self, known: Known, disjunct: int, terms: list[Any]) -> bool:
        try:
            with np.errstate(invalid="ignore", over="ignore"):
                self.checker.refuted([Task(0, known.region, known.record, disjunct, terms)])
        except ProofError:
            return False
        return True

    def _multipliers(self, relaxation: Relaxation, ray: Array, disjunct: int) -> tuple[dict[int, float], Array]:
        """A program's multipliers in the checker's terms: of rows, and what each unit hands on (NaN: the default)."""
        kinds, layers, places = row_kinds(relaxation)
        rows = dict(enumerate(np.maximum(-ray[relaxation.condition_rows(disjunct)], 0.0).tolist()))
        count = len(rows)
        for k in np.flatnonzero(kinds == 10).tolist():
            rows[count + 2 * int(places[k]) + int(ray[k] > 0)] = abs(float(ray[k]))
        numbers = np.full(self.graph.units, np.nan)
        for kind, firsts in ((1, self.first), (4, [g.part.start if g is not None else -1 for g in self.gates])):
            which = np.flatnonzero(kinds == kind)
            numbers[np.asarray(firsts)[layers[which]] + places[which]] = ray[which]
        return {k: v for k, v in rows.items() if v}, numbers

    def _added(self, disjunct: int, rows: dict[int, float], numbers: Array, known: Known) -> Array:
        """What units hand on beyond their defaults where their phase is known; as it is elsewhere."""
        nodes = self.graph.nodes
        pending: dict[int, Array] = {}
        for k, factor in rows.items():
            for name, entries in self.claim.disjuncts[disjunct].rows[k].coefficients.items():
                row = pending.setdefault(self.graph.outputs[name], np.zeros((1, nodes[self.graph.outputs[name]].size)))
                for index, c in entries.items():
                    row[0, index] += factor * float(c)
        found = np.zeros(self.graph.units)
        for number in range(len(nodes) - 1, 0, -1):
            node = nodes[number]
            a = pending.pop(number, np.zeros((1, node.size)))
            if node.kind == "affine":
                for source, m in node.terms:
                    pending[source] = pending.get(source, 0.0) + through(m, a, back=True)
                continue
            part, sign = node.part, known.signs[nodes[node.relu].part]
            default = np.where(sign > 0, a[0], 0.0)
            handed = np.where(np.isnan(numbers[part]), default, numbers[part])
            found[part] = np.where(sign != 0, handed - default, handed)
            pending[node.terms[0][0]] = pending.get(node.terms[0][0], 0.0) + handed[None]
        return found


def form_of(graph: Graph) -> ReluForm:
    """The checker's graph as layers with composed matrices, one for each of its ReLU nodes."""
    affine: dict[int, Affine] = {0: Affine.of_source(INPUT, graph.nodes[0].size)}
    layers = list[Affine]()
    for number, node in enumerate(graph.nodes[1 : graph.outputs["y"] + 1], start=1):
        if node.kind == "relu":
            layers.append(affine[node.terms[0][0]].tidy())
            affine[number] = Affine.of_source(len(layers) - 1, node.size)
            continue
        parts = [(csr_array(through(m, np.eye(node.size), back=True)), affine[source]) for source, m in node.terms]
        affine[number] = combined(parts, np.array(node.constant))
    return ReluForm(tuple(layers), affine[graph.outputs["y"]].tidy(), graph.nodes[0].size, ("",) * len(layers))


def rounded(values: Array, bits: int) -> Array:
    """The same with so many bits below the largest, and what is less left out.

    Shapes: values ``(…)``, any shape.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest:
        return values
    step = 2.0 ** (np.floor(np.log2(largest)) - bits)
    return np.asarray(np.round(values / step) * step)
