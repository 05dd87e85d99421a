"""Check a proof in floating point, independently of the search that found it.

**What is trusted.** That the readers of the network and of the property say what the files say; the reduction to ReLUs
(`verifier.proofs.relu_network`, exact over the reals); the matrices that the affine operators write
(`AffineOperator.matrices`); the rows that `Conditions.of` makes of a query; `verifier.proofs.kernel` with its analysis of
rounding, this module, and IEEE arithmetic as numpy, scipy and the BLAS below do it. Of the proof file nothing is
trusted: every number in it is either checked, or such that any value is sound.

**What is checked.** That the proof is of this network and of this query; that slopes are in [0, 1] and multipliers not
negative; that bounds come from a region around the one where they are used; that each certificate's function is
positive all over its region, rounding included; and that in every disjunct every leaf is below a certificate (the children
of a node cover it by the format).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.arguments import checked
from verifier.network.operators import Array
from verifier.proofs.kernel import CHUNK, Bounds, Linear, Phases, ReluGraph, WeightedRows
from verifier.proofs.proof import Proof, ProofError
from verifier.proofs.relu_network import fingerprint, relu_network
from verifier.properties.query import Query
from verifier.properties.rows import Conditions


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was checked.

    Attributes:
        nodes, leaves, certificates, records: how many the proof has.
        margin: the least lower bound of a certificate.
        seconds: that the check took.
    """

    nodes: int
    leaves: int
    certificates: int
    records: int
    margin: float
    seconds: float


@checked
def check_proof(proof: Proof, query: Query) -> Checked:
    """Check that a proof proves that a query has no solution, without any part of the search that found it.

    Args:
        proof: of `Verdict.proof`, or read by `verifier.load_proof`.
        query: the question, built anew from the network and the property.

    Raises:
        ProofError: where and why it does not.

    Source:
        what is checked, and what is trusted: `docs/proofs.md`.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> query = verifier.robustness(network, [0.9, 0.1], epsilon=0.1)
        >>> verdict = verifier.verify(query, proof=True)
        >>> verifier.check_proof(verdict.proof, query).margin > 0
        True
    """
    began = time.monotonic()
    _check_subject(proof, query)
    _check_structure(proof)
    margin = _Check(proof, query).run()
    return Checked(
        nodes=proof.nodes,
        leaves=proof.leaves,
        certificates=len(proof.node),
        records=len(proof.bounds_node),
        margin=margin,
        seconds=time.monotonic() - began,
    )


def row_functions(
    graph: ReluGraph, conditions: Conditions, combination: Array, phases: Phases, bounds: Bounds, weights: Array | None
) -> Linear:
    """Functions below combinations ``(R, rows)`` of a query's rows, on a region where the bounds hold."""
    y, x = combination @ conditions.y_rows, combination @ conditions.x_rows
    found = graph.lower({graph.output: y}, -(combination @ conditions.bound), phases, bounds, weights)
    # the sums above: their terms' absolute values
    y_size = np.abs(conditions.y_rows) @ bounds.sizes[graph.output]
    x_size = np.abs(conditions.x_rows) @ bounds.sizes[graph.network.input]
    size = np.abs(combination) @ (y_size + x_size + np.abs(conditions.bound))
    gamma = graph.gamma + 4 * len(conditions) * 2.0**-53
    slack = found.slack + 2 * gamma * size + 2 * graph.gamma * (np.abs(x) @ bounds.sizes[graph.network.input])
    return Linear(found.slopes + x, found.constants, slack * (1 + 1e-6))


def added(graph: ReluGraph, functions: Linear, groups: Array, bounds: Bounds) -> Linear:
    """The sums of functions that belong to the same group ``(R,)`` (numbers from 0, not decreasing)."""
    count = int(groups[-1]) + 1
    slopes = np.zeros((count, functions.slopes.shape[1]))
    sizes, constants, slack, reach = np.zeros_like(slopes), np.zeros(count), np.zeros(count), np.zeros(count)
    np.add.at(slopes, groups, functions.slopes)
    np.add.at(sizes, groups, np.abs(functions.slopes))
    np.add.at(constants, groups, functions.constants)
    np.add.at(reach, groups, np.abs(functions.constants))
    np.add.at(slack, groups, functions.slack)
    gamma = graph.gamma + 4 * len(groups) * 2.0**-53
    slack += gamma * (sizes @ bounds.sizes[graph.network.input] + reach)
    return Linear(slopes, constants, slack * (1 + 1e-6))


def _check_subject(proof: Proof, query: Query) -> None:
    if query.gradient is not None or query.condition is not None:
        raise ProofError("the query has a condition on the gradient", fix="proofs are of conditions on outputs")
    if proof.network != fingerprint(query.network):
        raise ProofError("is a proof about another network", place=query.network.source)
    conditions = Conditions.of(query)
    for name, mine in (
        ("low", query.box.lower),
        ("high", query.box.upper),
        ("y_rows", conditions.y_rows),
        ("x_rows", conditions.x_rows),
        ("bound", conditions.bound),
        ("case_of", conditions.disjunct_of),
    ):
        if not np.array_equal(getattr(proof, name), mine):
            what = "box" if name in ("low", "high") else "condition"
            raise ProofError(f"is a proof of another property: its {what} differs ({name})")


def _check_structure(proof: Proof) -> None:
    """Whether all numbers of nodes, records, neurons, rows are in range, and offsets fit."""

    def require(good: Any, what: str) -> None:
        if not np.all(good):
            raise ProofError(f"is malformed: {what}")

    d, b, c = len(proof.divided), len(proof.bounds_node), len(proof.node)
    for names, size in (
        (("divided", "division_case", "axis", "value", "unit"), d),
        (("bounds_node", "bounds_base", "bounds_weighted"), b),
        (("node", "case", "bounds"), c),
    ):
        for name in names:
            require(getattr(proof, name).shape == (size,), f"{name} has the wrong length")
    terms = len(proof.rows_of_start) - 1
    require(terms >= 0, "rows_of_start")
    for name, count, flat in (
        ("units_start", b, ("units",)),
        ("rows_start", b, ("row_unit", "row_sign")),
        ("row_weights_start", b, ("row_weights",)),
        ("rows_of_start", terms, ("row", "multiplier")),
        ("weights_start", terms, ("weights",)),
    ):
        starts = getattr(proof, name)
        require(starts.shape == (count + 1,) and starts[0] == 0 and (np.diff(starts) >= 0).all(), f"{name}")
        for values in flat:
            require(getattr(proof, values).shape == (starts[-1],), f"{values} has the wrong length")
    starts = proof.terms_start
    require(starts.shape == (c + 1,) and starts[0] == 0 and (np.diff(starts) >= 0).all(), "terms_start")
    require(starts[-1] == terms, "certificates' terms")
    number = np.arange(d)
    require((proof.divided >= 0) & (proof.divided <= 2 * number), "a node is divided before it exists")
    disjuncts = int(proof.case_of[-1]) + 1 if len(proof.case_of) else 0
    require((proof.division_case >= -1) & (proof.division_case < disjuncts), "division_case")
    require((proof.axis >= -1) & (proof.axis < len(proof.low)), "axis")
    require(np.isfinite(proof.value), "value")
    keys = set(zip(proof.divided.tolist(), proof.division_case.tolist(), strict=True))
    require(len(keys) == d, "a node is divided twice for the same disjunct")
    require((proof.bounds_node >= 0) & (proof.bounds_node < proof.nodes), "bounds_node")
    require((proof.bounds_base >= -1) & (proof.bounds_base < np.arange(b)), "bounds_base")
    require((proof.node >= 0) & (proof.node < proof.nodes), "node")
    require((proof.case >= -1) & (proof.case < disjuncts), "case")
    require((proof.bounds >= 0) & (proof.bounds < b), "bounds")
    require((proof.row >= 0) & (proof.row < len(proof.bound)), "row")
    require(np.isfinite(proof.multiplier) & (proof.multiplier >= 0), "a multiplier of a row is negative")
    require(np.isfinite(proof.weights) & (proof.weights >= 0), "a slope or multiplier is negative")
    require(np.isfinite(proof.row_weights) & (proof.row_weights >= 0), "a slope or multiplier is negative")


class _Check:
    def __init__(self, proof: Proof, query: Query) -> None:
        self.proof, self.conditions = proof, Conditions.of(query)
        self.graph = ReluGraph(relu_network(query.network))
        if not ((proof.unit >= 0) | (proof.axis >= 0)).all() or (proof.unit >= self.graph.neurons).any():
            raise ProofError("is malformed: a division by a ReLU that does not exist")
        if ((proof.units < 0) | (proof.units >= self.graph.neurons)).any():
            raise ProofError("is malformed: weights for a ReLU that does not exist")

    def run(self) -> float:
        """The least margin of a certificate."""
        proof = self.proof
        by_record: dict[int, list[int]] = defaultdict(list)
        for c, record in enumerate(proof.bounds.tolist()):
            by_record[record].append(c)
        last_use = {b: b for b in range(len(proof.bounds_node))}
        last_use.update({base: b for b, base in enumerate(proof.bounds_base.tolist())})
        known: dict[int, Bounds] = {}
        refuted: set[tuple[int, int]] = set()
        margin = np.inf
        for b in range(len(proof.bounds_node)):
            known[b] = self._bounds(b, known)
            margin = min(margin, self._certificates(b, known[b], by_record[b], refuted))
            for old in (b, int(proof.bounds_base[b])):
                if old >= 0 and last_use[old] == b:
                    del known[old]
        self._cover(refuted)
        return float(margin)

    def path(self, node: int) -> Iterator[tuple[int, bool]]:
        """The divisions above a node, from it upwards, and whether the second part was taken."""
        while node > 0:
            d = (node - 1) // 2
            yield d, node % 2 == 0
            node = int(self.proof.divided[d])

    def region(self, node: int) -> tuple[Array, Array, Phases]:
        """The box and the phases of a node."""
        proof = self.proof
        low, high, phases = proof.low.copy(), proof.high.copy(), np.zeros(self.graph.neurons, dtype=np.int8)
        for d, second in self.path(node):
            j = proof.axis[d]
            if j < 0:
                phases[proof.unit[d]] = -1 if second else 1
            elif second:
                low[j] = max(low[j], proof.value[d])
            else:
                high[j] = min(high[j], proof.value[d])
        return low, high, phases

    def _is_within(self, node: int, around: int) -> bool:
        return around == node or any(int(self.proof.divided[d]) == around for d, _ in self.path(node))

    def describe(self, node: int) -> str:
        """A node in words."""
        steps = []
        for d, second in self.path(node):
            j, neuron = self.proof.axis[d], self.proof.unit[d]
            if j >= 0:
                steps.append(f"x_{j} {'>=' if second else '<='} {self.proof.value[d]:.6g}")
            else:
                steps.append(f"ReLU {neuron} {'off' if second else 'on'}")
        shown = steps[::-1] if len(steps) <= 8 else [*steps[:-5:-1], "…", *steps[3::-1]]
        return f"node {node} ({', '.join(shown) or 'the whole box'})"

    def _bounds(self, b: int, known: dict[int, Bounds]) -> Bounds:
        proof, graph = self.proof, self.graph
        node, base = int(proof.bounds_node[b]), int(proof.bounds_base[b])
        place = f"bounds {b} of {self.describe(node)}"
        if base >= 0 and not self._is_within(node, int(proof.bounds_node[base])):
            raise ProofError("start from bounds of a region elsewhere", place=place)
        neurons = proof.units[proof.units_start[b] : proof.units_start[b + 1]]
        if (np.diff(neurons) <= 0).any():
            raise ProofError("neurons are not in order", place=place)
        low, high, phases = self.region(node)
        rows = None
        if proof.bounds_weighted[b]:
            part = slice(int(proof.rows_start[b]), int(proof.rows_start[b + 1]))
            neuron, sign = proof.row_unit[part], proof.row_sign[part]
            if ((neuron < 0) | (neuron >= graph.neurons) | (np.abs(sign) != 1)).any():
                raise ProofError("rows of ReLUs that do not exist", place=place)
            first = np.asarray(graph.first)
            relu = np.searchsorted(first, neuron, side="right") - 1
            if (np.diff(relu) < 0).any():
                raise ProofError("rows are not in order", place=place)
            lengths = np.searchsorted(neurons, first[relu])
            flat = proof.row_weights[proof.row_weights_start[b] : proof.row_weights_start[b + 1]].astype(np.float64)
            if lengths.sum() != len(flat):
                raise ProofError("the number of weights does not fit", place=place)
            weights = np.split(flat, np.cumsum(lengths)[:-1]) if len(neuron) else []
            for w, length in zip(weights, lengths, strict=True):
                if (w[phases[neurons[:length]] == 0] > 1).any():
                    raise ProofError("a slope is above 1", place=place)
            rows = WeightedRows(neuron, sign, neurons, weights)
        if (low > high).any():  # no point: any bounds hold
            return graph.bounds(high, high, phases)
        return graph.bounds(low, high, phases, None if base < 0 else known[base], rows)

    def _certificates(self, b: int, bounds: Bounds, which: list[int], refuted: set[tuple[int, int]]) -> float:
        """Check the certificates that use a record; the least margin."""
        proof, graph = self.proof, self.graph
        neurons = proof.units[proof.units_start[b] : proof.units_start[b + 1]]
        margin = np.inf
        step = max(1, CHUNK // max(graph.neurons, 1) // 8)
        for first in range(0, len(which), step):
            some: list[int] = []
            boxes: list[tuple[Array, Array]] = []
            combinations, phases, weights, groups = [], [], [], []
            for c in which[first : first + step]:
                node, disjunct = int(proof.node[c]), int(proof.case[c])
                place = f"certificate {c} of {self.describe(node)}"
                if not self._is_within(node, int(proof.bounds_node[b])):
                    raise ProofError("uses bounds of a region elsewhere", place=place)
                terms = range(proof.terms_start[c], proof.terms_start[c + 1])
                if disjunct < 0 or not len(terms):
                    if disjunct >= 0 or len(terms) or bounds.contradiction < 0:
                        raise ProofError("says that the region has no point, but it may have one", place=place)
                    refuted.add((node, -1))
                    continue
                if bounds.contradiction >= 0:
                    refuted.add((node, disjunct))
                    continue
                low, high, phase = self.region(node)
                for t in terms:
                    combination, weight = self._term(t, disjunct, neurons, phase, bounds, place)
                    combinations.append(combination)
                    weights.append(weight)
                    phases.append(phase)
                    groups.append(len(some))
                some.append(c)
                boxes.append((low, high))
            if not some:
                continue
            functions = row_functions(
                graph, self.conditions, np.array(combinations), np.array(phases), bounds, np.array(weights)
            )
            whole = added(graph, functions, np.array(groups), bounds)
            low, high = np.array([box[0] for box in boxes]), np.array([box[1] for box in boxes])
            found = np.where((low > high).any(axis=1), np.inf, whole.least(low, high))
            for c, value in zip(some, found, strict=True):
                node, disjunct = int(proof.node[c]), int(proof.case[c])
                if not value > 0:
                    raise ProofError(
                        f"disjunct {disjunct} is not refuted: the bound is {value:.6g}",
                        place=f"certificate {c} of {self.describe(node)}",
                    )
                refuted.add((node, disjunct))
            margin = min(margin, float(found.min()))
        return margin

    def _term(
        self, t: int, disjunct: int, neurons: Any, phase: Phases, bounds: Bounds, place: str
    ) -> tuple[Array, Array]:
        """λ over all rows, and weights over all ReLUs."""
        proof = self.proof
        part = slice(int(proof.rows_of_start[t]), int(proof.rows_of_start[t + 1]))
        rows = proof.row[part]
        if (proof.case_of[rows] != disjunct).any():
            raise ProofError(f"uses a row of another disjunct than {disjunct}", place=place)
        combination = np.zeros(len(self.conditions))
        np.add.at(combination, rows, proof.multiplier[part])
        weight = self.graph.default_slopes(bounds, 1, phase[None])[0]
        given = proof.weights[proof.weights_start[t] : proof.weights_start[t + 1]].astype(np.float64)
        if len(given):
            if len(given) != len(neurons):
                raise ProofError("the number of weights does not fit", place=place)
            if (given[phase[neurons] == 0] > 1).any():
                raise ProofError("a slope is above 1", place=place)
            weight[neurons] = given
        return combination, weight

    def _cover(self, refuted: set[tuple[int, int]]) -> None:
        """Whether all disjuncts are refuted everywhere."""
        proof = self.proof
        divisions = {
            key: d for d, key in enumerate(zip(proof.divided.tolist(), proof.division_case.tolist(), strict=True))
        }
        for disjunct in range(self.conditions.disjuncts):
            stack = [0]
            while stack:
                node = stack.pop()
                if (node, disjunct) in refuted or (node, -1) in refuted:
                    continue
                d = divisions.get((node, disjunct), divisions.get((node, -1)))
                if d is None:
                    low, high, _ = self.region(node)
                    if (low > high).any():
                        continue
                    raise ProofError(f"disjunct {disjunct} is refuted nowhere", place=f"leaf {self.describe(node)}")
                stack += [2 * d + 1, 2 * d + 2]
