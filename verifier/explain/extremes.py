"""How large a function of a saliency map gets on a box: branch and bound with proved bounds from above.

An `Objective` is a function of the map (a norm; minus one entry; how far another feature overtakes the top K). On a box
with some ReLU phases assumed, CROWN on the Jacobian encloses the map, and the objective's value on the enclosure is a
bound from above; its value at points (boxes' centers and corners) is one from below. Boxes are split on the ReLU that
moves the map most, or on an input, until bound and value are as near as asked. Where all ReLUs that matter are decided
the map is known, and a linear program says whether the region exists.

What is reported as reached is the value at a point in rational arithmetic; what is reported as bound covers all rounding.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verifier.bab import BranchAndBound, PriorityStore, SearchResult, Settings
from verifier.engines.maps.boxes import Boxes
from verifier.errors import PropertyError
from verifier.events import Listener, ignore
from verifier.explain.extreme_regions import NormBounder, PhaseBounder, Region
from verifier.explain.extreme_search import DEFAULT, BoxBrancher, ExtremeSettings, Objective, ObjectiveBounder
from verifier.limits import Deadline, MemoryBudget
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Array
from verifier.network.piecewise import PiecewiseLinear
from verifier.properties.builders import Domain, condition_at, network_domain, network_of
from verifier.properties.conjunction import Conjunction
from verifier.properties.maps import SaliencyMap
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box
from verifier.shown import Shown


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Extreme(Shown):
    """Between what the largest value of an objective lies.

    Attributes:
        lower: reached, by exact evaluation, at ``input``.
        upper: proved for the whole box.
        input: ``(n,)``; None if no point was evaluated.
        map: the map there, ``(n,)``, rounded to nearest.
        subproblems: that were bounded.
        reason: why the search ended before both are as near as asked; "" if they are.
        seconds: wall-clock time.
    """

    lower: float
    upper: float
    input: Array | None
    map: Array | None
    subproblems: int
    reason: str
    seconds: float

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {"reached": f"{self.lower:.6g}", "proved at most": f"{self.upper:.6g}"}
        facts["took"] = f"{self.subproblems} subproblems, {self.seconds:.2f} s"
        if self.reason:
            facts["ended"] = self.reason
        return "Extreme", facts

    @property
    def gap(self) -> float:
        """``upper / lower - 1``; 0 where both are 0."""
        if self.upper <= self.lower:
            return 0.0
        return self.upper / self.lower - 1 if self.lower > 0 else float("inf")


def maps_on_box(
    network: Network,
    x: npt.ArrayLike,
    epsilon: float,
    *,
    label: int | None = None,
    domain: Domain = "network",
    map: str | SaliencyMap = "gradient",
) -> Query:
    """The maps on the ε-box around x, as a query that every point meets.

    Shapes: x ``(n,)`` or of the network's input shape.

    Args:
        network, x, epsilon, label, domain, map: as for `verifier.saliency_robustness`; the label may be of a network
            with one output.

    Raises:
        PropertyError: as `verifier.saliency_robustness`.
    """
    ends = network_domain(network, domain)
    condition = condition_at(network, x, 0.0, label, domain=ends, map=map)
    host, weights = network_of(condition)
    if not (condition.map.by_gradient or condition.map.path):
        raise PropertyError(f"extremes of the map {condition.map.name!r} are not known", fix="choose another map")
    gradient = None
    if condition.map.by_gradient:
        free = np.full(network.input_size, np.inf)
        gradient = GradientBox(output=weights, lower=-free, upper=free)
    point = np.asarray(x, dtype=np.float64).reshape(-1)
    if ends is not None:
        point = np.clip(point, *ends)  # `condition_at` has refused what is farther outside than rounding
    return Query(
        network=host,
        box=Box.around(point, epsilon, ends),
        disjuncts=(Conjunction(bound=np.zeros(0)),),
        gradient=gradient,
        condition=condition,
        anchor=point,
    )


def largest(
    query: Query,
    objective: Objective,
    *,
    gap: float = 0.0,
    target: float | None = None,
    deadline: Deadline,
    memory: float | None = None,
    threads: int = 1,
    starts: Array | None = None,
    settings: ExtremeSettings = DEFAULT,
    listener: Listener = ignore,
) -> Extreme:
    """The largest value of an objective over the maps on a query's box.

    Args:
        query: the box and the map, by `maps_on_box`.
        gap: how near ``upper`` has to come to ``lower``, relatively.
        target: what matters is only whether the objective exceeds this: the search ends when a point does, or none can.
        memory: GiB; None for a share of the machine's.
        starts: points ``(k, n)`` that are evaluated first.
    """
    began = time.monotonic()
    assert query.condition is not None
    bounder = _bounder(query, objective, gap, target, settings)
    bounder.look(query.box.clip(np.stack([query.start, query.box.center])))
    bounder.look(query.box.sample(settings.samples, np.random.default_rng(settings.seed)))
    bounder.look(_corners(query, settings))
    if starts is not None and len(starts):
        bounder.look(query.box.clip(starts))
    size = 4 if isinstance(bounder, PhaseBounder) else max(4, settings.cells // max(1, query.network.neurons))

    def stop(so_far: SearchResult) -> str:
        if bounder.over or (so_far.left and bounder.near(so_far.worst)):
            return "decided"
        return "too many boxes cannot be split" if so_far.stuck > settings.stuck else ""

    search = BranchAndBound(
        store=PriorityStore(MemoryBudget.of(memory)),
        bounder=bounder,
        brancher=BoxBrancher(query.box.width, settings, constant=query.condition.map.baseline is None),
        leaf=Region(bounder),
        settings=Settings(batch=size * threads, piece=size, threads=threads, unit="boxes"),
        stop=stop,
    )
    root = Boxes.root(query.box.lower, query.box.upper, bounder.enclosures.neurons)
    found = search.run(root, deadline, listener)
    lower, point, at = bounder.reached()
    upper = max(bounder.highest, bounder.above(min(found.worst, 0.0)) if found.left else -np.inf, lower)
    return Extreme(
        lower=lower,
        upper=upper,
        input=point,
        map=at,
        subproblems=found.done,
        reason="" if bounder.over or (found.left and bounder.near(found.worst)) else found.reason,
        seconds=time.monotonic() - began,
    )


def _bounder(
    query: Query, objective: Objective, gap: float, target: float | None, settings: ExtremeSettings
) -> ObjectiveBounder:
    """Boxes that are split by phases alone have bounds of their own, and norms on them."""
    assert query.condition is not None
    explained = query.condition.map
    plain = explained.baseline is None and not explained.absolute and not explained.path and query.gradient is not None
    phased = all(isinstance(n.operator, PiecewiseLinear) and n.operator.is_relu for n in query.network.activations)
    many = int((query.box.width > 0).sum()) > settings.few_inputs
    if not (plain and phased and many):
        return ObjectiveBounder(query, objective, gap, target)
    return (NormBounder if objective.symbolic else PhaseBounder)(query, objective, gap, target)


def _corners(query: Query, settings: ExtremeSettings) -> Array:
    """Corners of the box that random combinations of the first preactivations point to: activation patterns far apart, which
    points at random hardly meet where there are many inputs.
    """
    assert query.condition is not None
    network, box = query.condition.network, query.box
    first = next((network[node.inputs[0]] for node in network.activations if network[node.inputs[0]].inputs), None)
    if first is None or first.inputs[0] != network.input or not isinstance(first.operator, AffineOperator):
        return box.center[None]
    rng = np.random.default_rng(settings.seed)
    rows = rng.normal(size=(settings.samples, *first.shape)) * (rng.random((settings.samples, *first.shape)) < 0.3)
    slopes = first.operator.transpose(rows, network.input_shape)[0].reshape(settings.samples, -1)
    return box.clip(np.where(slopes > 0, box.upper, np.where(slopes < 0, box.lower, box.center)))
