"""Repair of an explanation: change the last layer until the gradient is proved to stay within bounds on a whole region.

"Income must never count against an applicant" and "no pixel of the frame may matter more than 0.1" are bounds on entries
of the gradient over a box of inputs. As in `verifier.repair.property`, counterexamples stand for the box: the verifier
finds an input whose gradient leaves the bounds; on that input's linear region the gradient of a combination c of outputs
is linear in the last layer's weights W,

    ∂(c · y)/∂x = (W J)ᵀ c,    J the Jacobian of the last layer's input,

so the smallest change (by L1 norm: few weights) that brings all counterexamples within the bounds is a linear program.
It moves no region, the network keeps its architecture, and the loop ends with the verifier's proof for the whole box.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from verifier import compiled
from verifier.errors import InputError, PropertyError
from verifier.events import Listener, Note, ignore
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.network.operators import Array, Dense
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box
from verifier.repair.effect import changes
from verifier.repair.frozen import FrozenNetwork
from verifier.repair.program import Program, norm_weights
from verifier.repair.property import PropertyRepair, PropertyRepairStatus
from verifier.repair.settings import positive_or_none
from verifier.verdict import Status, Verdict


def gradient_bounds(network: Network, box: Box, bounds: GradientBox, description: str = "") -> Query:
    """The query "is there an input in the box whose gradient leaves the bounds?"; HOLDS proves that there is none.

    Args:
        network: with as many inputs as ``bounds`` has entries.
        box: the inputs.
        bounds: which combination of outputs, and what every entry of its gradient must stay within; infinite where an
            entry is free.
        description: in words, for reports.

    Raises:
        PropertyError: no entry has a bound.
    """
    n = len(bounds.lower)
    disjuncts = []
    for sign, ends in ((-1.0, bounds.upper), (1.0, bounds.lower)):
        for entry in np.flatnonzero(np.isfinite(ends)):
            row = np.zeros((1, n))
            row[0, entry] = sign
            disjuncts.append(Conjunction(bound=sign * ends[[entry]], g_rows=row, strict=np.array([True])))
    if not disjuncts:
        raise PropertyError("no entry of the gradient has a bound", fix="give at least one finite lower or upper end")
    free = np.full(n, np.inf)
    return Query(
        network=network,
        box=box,
        disjuncts=tuple(disjuncts),
        gradient=GradientBox(output=bounds.output, lower=-free, upper=free),
        description=description,
    )


def repair_explanation(
    query: Query,
    decide: Callable[[Query], Verdict],
    *,
    keep: Array | None = None,
    margin: float = 1e-3,
    rounds: int = 100,
    reach: float = np.inf,
    timeout: float | None = None,
    listener: Listener = ignore,
) -> PropertyRepair:
    """Change few weights of the last layer until bounds on the gradient are proved on a whole box.

    Args:
        query: what must not be found, by `gradient_bounds`.
        decide: what answers queries: ``verifier.verify``, or a function that calls it with options.
        keep: inputs ``(k, n)`` whose class (largest output) must stay.
        margin: how far inside its bounds a counterexample's gradient is moved, as a share of the gradient's size there;
            more needs fewer rounds and a larger change.
        rounds: most counterexamples.
        reach: largest L1 norm of the change.
        timeout: seconds for everything; the verifier's own limit is its caller's to set.

    Returns:
        The repaired network with the proof; INFEASIBLE where no change of the last layer within reach meets the bounds
        at the counterexamples (by the linear program's word, with the margin); UNFINISHED with the reason.

    Raises:
        InputError: an argument out of range; a network whose last node is no Dense layer.
        PropertyError: a query that is not one of `gradient_bounds`.

    Source:
        this package's own; bounds on the gradient: `verifier.bounds.jacobian`.
    """
    positive_or_none(timeout, "timeout")
    positive_or_none(margin, "margin")
    compiled.ensure_engines(listener)
    start, deadline = time.perf_counter(), Deadline.after(timeout)
    network = query.network
    layer = _LastLayer.of(network)
    rows = [_row(conjunction) for conjunction in query.disjuncts]
    if query.gradient is None or query.common is not None or query.clauses or query.condition is not None:
        raise PropertyError("this query asks for more than bounds of a gradient", fix="make it with `gradient_bounds`")
    program = Program(layer.size, norm_weights("l1", layer.size), None, reach)
    for coefficients, bound in layer.kept(keep):
        program.add(coefficients, bound)
    found: list[Array] = []
    current = network
    frozen = FrozenNetwork(network)
    while True:
        verdict = decide(replace(query, network=current))
        listener(Note(seconds=time.perf_counter() - start, text=f"{len(found)} counterexamples: {verdict.status.name}"))
        reason = f"violated still after {len(found)} counterexamples"
        status = PropertyRepairStatus.UNFINISHED
        if verdict.status is Status.HOLDS:
            status, reason = (PropertyRepairStatus.REPAIRED if found else PropertyRepairStatus.HOLDS), ""
            break
        if verdict.witness is None:
            reason = f"the verifier says {verdict.status.name}: {verdict.reason}"
            break
        if deadline.passed or len(found) >= rounds:
            break
        x = np.asarray(verdict.witness.input, dtype=np.float64)
        found.append(x)
        program.add(*layer.demand(x, query.gradient.output, rows, margin))
        word, change = program.solve(deadline)
        if change is None:
            none = word in ("infeasible", "beyond")
            status = PropertyRepairStatus.INFEASIBLE if none else PropertyRepairStatus.UNFINISHED
            reason = f"the linear program for {len(found)} counterexamples ends with {word!r}"
            break
        frozen = FrozenNetwork(network).patched(layer.name, change)
        current = frozen.fold()
    return PropertyRepair(
        status=status,
        network=current,
        changes=changes(FrozenNetwork(network), frozen),
        verdict=verdict,
        counterexamples=np.array(found).reshape(-1, network.input_size),
        reason=reason,
        seconds=time.perf_counter() - start,
    )


def _row(conjunction: Conjunction) -> tuple[Array, float]:
    """``(row, bound)`` of a forbidden ``row · g < bound``."""
    rows = conjunction.g_rows
    if rows is None or conjunction.x_rows is not None or conjunction.y_rows is not None or len(conjunction) != 1:
        raise PropertyError("a condition that is no bound of the gradient", fix="make the query with `gradient_bounds`")
    return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)[0], float(conjunction.bound[0])


@dataclass(frozen=True, eq=False)
class _LastLayer:
    """The last layer, whose parameters are the weights ``(m, k)`` row by row, then the biases ``(m,)``.

    Attributes:
        network: the original network.
        name: of the layer.
        before: the network up to the layer's input ``(k,)``.
        shape: ``(m, k)``.
    """

    network: Network
    name: str
    before: Network
    shape: tuple[int, int]

    @staticmethod
    def of(network: Network) -> _LastLayer:
        last = network.nodes[-1]
        operator = last.operator
        if not isinstance(operator, Dense) or len(network[last.inputs[0]].shape) != 1:
            raise InputError(
                f"the last node {last.name!r} is no Dense layer of a vector",
                place=network.source,
                fix="an explanation is repaired in a last layer of that kind",
            )
        k = operator.weight_shape[1]
        before = replace(last, operator=Dense(np.eye(k), np.zeros(k)), shape=(k,))
        return _LastLayer(
            network, last.name, replace(network, nodes=(*network.nodes[:-1], before)), operator.weight_shape
        )

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.shape[0] * self.shape[1] + self.shape[0]

    def jacobian(self, x: Array) -> Array:
        """The Jacobian of the layer's input at one input, ``(k, n)``."""
        k = self.shape[1]
        values = self.before.values(np.repeat(x[None], k, axis=0))
        return np.asarray(self.before.backward(values, np.eye(k))[self.network.input]).reshape(k, -1)

    def demand(
        self, x: Array, combination: Array, rows: list[tuple[Array, float]], margin: float
    ) -> tuple[Array, Array]:
        """Rows over the change that bring the gradient at x out of every forbidden ``row · g < bound``."""
        g = self.network.gradient(x, combination).reshape(-1)
        room = margin * max(float(np.abs(g).max()), 1e-9)
        directions = np.array([row for row, _ in rows])
        wanted = np.array([bound for _, bound in rows]) + room - directions @ g
        weight = np.einsum("o,rk->rok", combination, directions @ self.jacobian(x).T)
        coefficients = np.concatenate([weight.reshape(len(rows), -1), np.zeros((len(rows), self.shape[0]))], axis=1)
        return -coefficients, -wanted

    def kept(self, keep: Array | None) -> list[tuple[Array, Array]]:
        """For each input that must keep its class: rows over the change that say so."""
        if keep is None:
            return []
        found = []
        points = np.atleast_2d(np.asarray(keep, dtype=np.float64)).reshape(-1, self.network.input_size)
        for h, y in zip(
            self.before.forward(points), self.network.forward(points).reshape(len(points), -1), strict=True
        ):
            label = int(y.argmax())
            others = np.flatnonzero(np.arange(len(y)) != label)
            turned = np.zeros((len(others), len(y)))
            turned[np.arange(len(others)), others], turned[:, label] = 1.0, -1.0
            weight = np.einsum("ro,k->rok", turned, h.reshape(-1)).reshape(len(others), -1)
            found.append((np.concatenate([weight, turned], axis=1), y[label] - y[others]))
        return found
