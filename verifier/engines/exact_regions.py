"""A query decided on a small box, or for a small network, in rational arithmetic: region by linear region, no tolerance.

Depth first through the network: where a preactivation can be on several phases, each gets its own row (`ExactSystem`),
and only phases that some point of the box reaches are followed. On a linear region the outputs are affine and the
gradient is constant, so the query is a system of rows over x, strict ones included. Phases are half-open, by the
gradient convention: every point belongs to one region, and a tie is decided for what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verifier.encodings.phases import Phase, phases
from verifier.engines.base import Answer, EngineResult
from verifier.errors import TimeLimitError
from verifier.falsify.replay import replay
from verifier.limits import NEVER, Deadline
from verifier.lp.exact import ExactSystem, Row
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Node
from verifier.network.operators import AffineOperator, Array, Dense
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.network.rationals import Rationals
from verifier.properties.conjunction import Conjunction
from verifier.properties.numbers import Point, dot
from verifier.properties.query import Query
from verifier.verdict import Certainty

Signs = Mapping[str, npt.NDArray[np.int8]]
"""Signs of ReLUs by node, ``(neurons,)``: 1 for ``z >= 0``, -1 for ``z <= 0``, 0 for none."""


@dataclass(frozen=True)
class _Place:
    """Where the search stands in one branch.

    Attributes:
        system: the rows of the phases chosen so far.
        maps: every node's value so far as a map of the varying inputs, the constant last.
        pattern: the phases of the activation nodes that are done.
        node: which node is next.
        chosen: phases of its first neurons.
    """

    system: ExactSystem
    maps: Mapping[str, Rationals]
    pattern: Mapping[str, npt.NDArray[np.int64]]
    node: int
    chosen: tuple[int, ...] = ()


class RegionSearch:
    """The search of one box; `run` goes on where it stopped.

    Args:
        lower, upper: the box, within the query's.
        assumed: signs of ReLUs that make the part of the box that is asked about.
        known: signs that every point of that part is proved to have.
        closed: whether phases include both of their ends: more than the gradient convention says, and what a proof
            with phases from elsewhere needs.
        disjuncts: the disjuncts to look at, by number; None: all.
        exact: the query's network in exact form, if it is at hand.

    Attributes:
        witness: an input that the exact replay confirmed, a float64 one if one was found.
        finished: whether every region was looked at.
        unsettled: why it cannot say that there is no witness, "" if it can: regions whose solutions the replay
            refutes, or on which the condition is not linear.
        regions: linear regions seen.
        work: elementary steps so far (entries of maps and tableaux): what a budget of work counts.

    Source:
        enumeration of linear regions: Serra et al., ICML 2018; each decided by the simplex of Dutertre, de
        Moura, CAV 2006.
    """

    def __init__(
        self,
        query: Query,
        lower: Array | None = None,
        upper: Array | None = None,
        *,
        assumed: Signs | None = None,
        known: Signs | None = None,
        closed: bool = False,
        disjuncts: Sequence[int] | None = None,
        exact: ExactNetwork | None = None,
    ) -> None:
        self.closed = closed
        chosen = query.disjuncts if disjuncts is None else tuple(query.disjuncts[k] for k in disjuncts)
        self.choices = (chosen, *query.clauses)
        self.query, self.exact = query, exact or ExactNetwork(query.network)
        self.assumed, self.known = assumed or {}, known or {}
        low, high = (ends.fractions() for ends in query.box.ends)
        if lower is not None:
            low = [max(a, Fraction(v)) for a, v in zip(low, lower.tolist(), strict=True)]
        if upper is not None:
            high = [min(b, Fraction(v)) for b, v in zip(high, upper.tolist(), strict=True)]
        self.varying = np.array([k for k, (a, b) in enumerate(zip(low, high, strict=True)) if a < b], dtype=np.int64)
        self._low, self._high = [low[k] for k in self.varying], [high[k] for k in self.varying]
        self._base = low
        self.witness: Point | None = None
        self.unsettled = ""
        self.regions = self.work = 0
        network, count = query.network, len(self.varying)
        start = np.full((count + 1, network.input_size), Fraction(0), dtype=object)
        start[np.arange(count), self.varying] = Fraction(1)
        start[-1] = self._base
        start[-1, self.varying] = Fraction(0)
        values = Rationals.of(start)
        maps = {network.input: Rationals(values.numerators.reshape(-1, *network.input_shape), values.denominator)}
        system = ExactSystem(self._low, self._high)
        for part in () if query.common is None else (query.common,):
            for row in self._rows(part, maps, None, only_inputs=True):
                system.add(row)
        self._stack: list[_Place] = []
        if all(a <= b for a, b in zip(low, high, strict=True)) and system.solve() is None:
            self._stack.append(_Place(system, maps, {}, 1))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: a witness, or every region looked at."""
        return self.witness is not None or not self._stack

    @property
    def maps_cost(self) -> int:
        """Steps that the affine maps of one linear region take, at the least."""
        return sum(self._cost(n) for n in self.query.network.nodes[1:] if isinstance(n.operator, AffineOperator))

    def result(self) -> EngineResult:
        """What a finished search of the whole query says."""
        figures: dict[str, float | int | str] = {"method": "exact linear regions", "linear regions": self.regions}
        if self.witness is not None:
            return EngineResult(answer=Answer.SAT, x=self.witness, statistics=figures)
        if self.unsettled:
            return EngineResult(answer=Answer.UNKNOWN, reason=self.unsettled, statistics=figures)
        return EngineResult(answer=Answer.UNSAT, certainty=Certainty.EXACT, statistics=figures)

    def run(self, work: float = float("inf"), deadline: Deadline = NEVER) -> bool:
        """Go on until so much more work is done; whether it has finished."""
        until = self.work + work
        try:
            while not self.finished and self.work < until:
                place = self._stack.pop()
                place.system.deadline = deadline
                try:
                    self._advance(place, deadline)
                except TimeLimitError:
                    self._stack.append(place)
                    return False
        except MemoryError:
            return False
        return self.finished

    # -- one branch --------------------------------------------------------------------------------------
    def _advance(self, place: _Place, deadline: Deadline) -> None:
        """Follow a branch to its next division, whose branches go on the stack, or to its end."""
        network = self.query.network
        maps, pattern = dict(place.maps), dict(place.pattern)
        chosen = list(place.chosen)
        for position in range(place.node, len(network.nodes)):
            node = network.nodes[position]
            deadline.check("between two exact layers")
            inputs = [maps[name] for name in node.inputs]
            if isinstance(node.operator, AffineOperator):
                maps[node.name] = self.exact.affine(node, inputs, maps=True)
                self.work += self._cost(node)
                continue
            (z,) = inputs
            neurons = _Neurons(node, z, self._low, self._high, self.query.gradient is not None, self.closed)
            none = np.zeros(node.size, dtype=np.int8)
            assumed, known = self.assumed.get(node.name, none), self.known.get(node.name, none)
            for neuron in range(len(chosen), node.size):
                options = neurons.options(neuron, int(assumed[neuron]), int(known[neuron]))
                self.work += len(self._low) * len(options)
                if len(options) == 1 and not options[0][1]:
                    chosen.append(options[0][0])
                    continue
                branches = self._branches(place.system, options)
                if len(branches) > 1:
                    for phase, system in branches:
                        after = (*chosen, phase)
                        self._stack.append(_Place(system, dict(maps), dict(pattern), position, after))
                    return
                if not branches:  # only where signs are given: no point has them
                    return
                if assumed[neuron]:  # else the phase's rows follow from those before
                    place = replace(place, system=branches[0][1])
                chosen.append(branches[0][0])
            pattern[node.name] = np.array(chosen, dtype=np.int64)
            maps[node.name] = neurons.value(chosen)
            chosen = []
        self._conclude(place.system, maps, pattern)

    def _branches(self, start: ExactSystem, options: list[tuple[int, list[Row]]]) -> list[tuple[int, ExactSystem]]:
        """The phases that some point reaches, with the systems in which they hold."""
        found = []
        for phase, rows in options:
            system = start.copy()
            for row in rows:
                system.add(row)
            before = system.work
            if system.solve() is None:
                found.append((phase, system))
            self.work += system.work - before + len(self._low) * len(system.rows)
        return found

    def _cost(self, node: Node) -> int:
        operator = node.operator
        size = operator.weight.size if isinstance(operator, Dense) else node.size * 16
        return size * (len(self._low) + 1)

    def _conclude(
        self, system: ExactSystem, maps: Mapping[str, Rationals], pattern: Mapping[str, npt.NDArray[np.int64]]
    ) -> None:
        """The query on one linear region."""
        self.regions += 1
        query, g = self.query, None
        if query.gradient is not None:
            g = self.exact.gradient_of_pattern(pattern, query.gradient.output)
            if not query.gradient.contains_exactly(g):
                return
        similar = self._similar(g)
        if similar is None:
            return
        shared = system.copy()
        for row in similar:
            shared.add(row)
        if query.common is not None:
            for row in self._rows(query.common, maps, g):
                shared.add(row)
        choices = [[self._rows(disjunct, maps, g) for disjunct in choice] for choice in self.choices]
        self._choose(shared, sorted(choices, key=len))

    def _choose(self, system: ExactSystem, choices: list[list[list[Row]]]) -> None:
        """Look for a solution that meets one conjunction of each choice, one choice after the other."""
        before = system.work
        empty = system.solve() is not None
        self.work += system.work - before + len(self._low) * len(system.rows)
        if empty:
            return
        if choices:
            for rows in choices[0]:
                below = system.copy()
                for row in rows:
                    below.add(row)
                self._choose(below, choices[1:])
                if self.witness is not None:
                    return
            return
        rounded, solution = system.float_point(), system.point()
        for values in (solution,) if rounded is None else ([Fraction(v) for v in rounded.tolist()], solution):
            exact = list(self._base)
            for k, j in enumerate(self.varying.tolist()):
                exact[j] = values[k]
            if replay(self.query, tuple(exact), self.exact).exact:
                self.witness = tuple(exact)
                return
        self.unsettled = "a linear region has solutions, but no point that the replay confirms was found"

    def _similar(self, g: list[Fraction] | None) -> list[Row] | None:
        """Rows over x that the map condition means on a region with this gradient (a superset); None: it fails."""
        condition = self.query.condition
        if condition is None or g is None:
            return []
        if not condition.map.by_gradient:
            return []
        baseline = condition.map.baseline
        if baseline is None:
            return [] if condition.admits([abs(v) for v in g] if condition.map.absolute else g) else None
        if condition.map.absolute or not condition.similarity.is_box:
            return []
        found = []
        place = {int(j): k for k, j in enumerate(self.varying)}
        for j, (slope, origin) in enumerate(zip(g, baseline.tolist(), strict=True)):
            for sign, ends in ((1, condition.ends[1]), (-1, -condition.ends[0])):
                coefficients = [Fraction(0)] * len(self._low)
                bound = ends[j] + sign * slope * Fraction(origin)
                if j in place:
                    coefficients[place[j]] = sign * slope
                else:
                    bound -= sign * slope * self._base[j]
                found.append(Row(tuple(coefficients), bound))
        return found

    def _rows(
        self, part: Conjunction, maps: Mapping[str, Rationals], g: list[Fraction] | None, only_inputs: bool = False
    ) -> list[Row]:
        """A conjunction's rows over the varying inputs; ``only_inputs``: those that speak of nothing else."""
        network, found = self.query.network, []
        for k in range(len(part)):
            row = part.exact_row(k)
            if only_inputs and (row.y or row.g):
                continue
            bound, total = row.bound, np.full(len(self._low) + 1, Fraction(0), dtype=object)
            for coefficients, node in ((row.x, network.input), (row.y, network.output)):
                if coefficients:
                    value = maps[node]
                    flat = value.numerators.reshape(len(value.numerators), -1)
                    for j, a in coefficients.items():
                        total += a / value.denominator * flat[:, j]
            if row.g:
                assert g is not None
                bound -= dot(row.g, g)
            found.append(Row(tuple(total[:-1]), bound - total[-1], bool(part.strict[k])))
        return found


class _Neurons:
    """The neurons of one activation node on a region of the nodes before it, where its input is affine."""

    def __init__(
        self, node: Node, z: Rationals, low: list[Fraction], high: list[Fraction], gradient: bool, closed: bool
    ) -> None:
        self.node, self.z, self.closed = node, z, closed
        self._low, self._high = low, high
        self._flat = z.numerators.reshape(len(z.numerators), -1)
        self._windows = None
        self._phases: tuple[Phase, ...] = ()
        if isinstance(node.operator, MaxPool):
            self._windows = node.operator.windows(z.numerators.shape[1:])
        else:
            assert isinstance(node.operator, PiecewiseLinear)
            found = phases(node.operator, gradient=gradient)
            self._phases = tuple(replace(p, lower_open=False, upper_open=False) for p in found) if closed else found

    def options(self, neuron: int, assumed: int, known: int) -> list[tuple[int, list[Row]]]:
        """The phases of a neuron that bounds over the box leave, each with the rows that it means (see `RegionSearch`)."""
        if self._windows is not None:
            return self._winners(self._windows[neuron])
        if known:  # a ReLU; where it is zero both of its pieces have the same value
            return [(int(known > 0), [])]
        line = self._flat[:, neuron]
        least, most = self._range(line)
        found = []
        for p in self._phases:
            if assumed * (1 if p.index else -1) < 0:
                continue
            below = least > p.lower if p.lower_open else least >= p.lower
            above = most < p.upper if p.upper_open else most <= p.upper
            under = most <= p.lower if p.lower_open else most < p.lower
            over = least >= p.upper if p.upper_open else least > p.upper
            if under or over:
                continue
            rows = []
            for sign, end, strict, implied in (
                (-1, -p.lower, p.lower_open, below),
                (1, p.upper, p.upper_open, above),
            ):
                if not implied:
                    rows.append(self._row(sign * line, Fraction(end), strict))
            found.append((p.index, rows))
        return found

    def _winners(self, window: npt.NDArray[np.int64]) -> list[tuple[int, list[Row]]]:
        members = [(p, int(j)) for p, j in enumerate(window) if j >= 0]
        found = []
        for p, winner in members:
            rows = []
            for q, j in members:
                if q != p:
                    lead = self._flat[:, j] - self._flat[:, winner]
                    if any(lead):
                        # equal ones belong to the first of them
                        rows.append(self._row(lead, Fraction(0), q < p and not self.closed))
                    elif q < p and not self.closed:
                        break
            else:
                found.append((p, rows))
        return found

    def value(self, chosen: list[int]) -> Rationals:
        """The node's value, given the phases of all neurons."""
        shape, z = self.node.shape, self.z
        if self._windows is not None:
            winners = self._windows[np.arange(len(chosen)), np.array(chosen)]
            return Rationals(self._flat[:, winners].reshape(len(self._flat), *shape), z.denominator)
        picked = {p.index: p for p in self._phases}
        slopes = Rationals.of(np.array([picked[c].slope for c in chosen]).reshape(shape))
        constants = Rationals.of(np.array([picked[c].intercept for c in chosen]).reshape(shape))
        scaled = Rationals(z.numerators * slopes.numerators, z.denominator * slopes.denominator)
        last = np.zeros(z.numerators.shape, dtype=object)
        last[-1] = constants.numerators
        return (scaled + Rationals(last, constants.denominator)).reduced()

    def _range(self, line: Array) -> tuple[Fraction, Fraction]:
        """The least and greatest value of an affine function over the box."""
        least = most = Fraction(int(line[-1]))
        for a, low, high in zip(line[:-1], self._low, self._high, strict=True):
            if a:
                ends = (a * low, a * high) if a > 0 else (a * high, a * low)
                least, most = least + ends[0], most + ends[1]
        return least / self.z.denominator, most / self.z.denominator

    def _row(self, line: Array, bound: Fraction, strict: bool) -> Row:
        """``line · (x, 1) / denominator <= bound``."""
        values = [Fraction(int(v), self.z.denominator) for v in line]
        return Row(tuple(values[:-1]), bound - values[-1], strict)
