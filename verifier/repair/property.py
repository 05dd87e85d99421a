"""Repair from a property: change the last layer until a verifier proves the property of the changed network.

A property over a box of many inputs has too many linear regions to list. So counterexamples stand for it: the verifier
finds one, the smallest change of the last layer that removes all found so far is computed (`verifier.repair.search`,
each counterexample a point), the change is folded into an ordinary network of the same architecture, and that is asked
about again. The loop ends with the verifier's own proof for the whole box. Changes of the last layer leave every linear
region where it was.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from verifier import compiled
from verifier.arguments import checked
from verifier.errors import InputError, PropertyError
from verifier.events import Listener, Note, ignore
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.piecewise import PiecewiseOperator
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.repair.api import repair
from verifier.repair.effect import changes
from verifier.repair.frozen import FrozenNetwork, repairable_layers
from verifier.repair.methods import RepairStatus
from verifier.repair.settings import positive_or_none
from verifier.repair.specification import OutputPolytope, PointRegion, Requirement, Specification, output_class
from verifier.shown import Shown
from verifier.verdict import Status, Verdict


class PropertyRepairStatus(enum.StrEnum):
    """How a repair from a property ended."""

    HOLDS = "holds"
    """The property was proved of the network as it is: nothing was changed."""
    REPAIRED = "repaired"
    """The property is proved of the changed network."""
    INFEASIBLE = "infeasible"
    """No change of the last layer within its reach removes the counterexamples found, in the way that was tried."""
    UNFINISHED = "unfinished"
    """Time or rounds ran out, or the verifier did not decide: see the reason."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PropertyRepair(Shown):
    """What a repair from a property did.

    Attributes:
        status: see `PropertyRepairStatus`.
        network: the repaired network, of the same architecture (the last one tried, if unfinished).
        changes: ``{"layer weight[i, j]": δ}``.
        verdict: the last answer about ``network``; for REPAIRED and HOLDS the proof.
        counterexamples: ``(k, n)`` inputs that were found on the way, and are right now.
        reason: why it is unfinished or infeasible.
        seconds: wall-clock time.
    """

    status: PropertyRepairStatus
    network: Network
    changes: dict[str, float]
    verdict: Verdict
    counterexamples: Array
    reason: str = ""
    seconds: float = 0.0

    _drawn_by = "verifier.report.repair:changes_plot"

    def _facts(self) -> tuple[str, dict[str, str]]:
        found = f"{len(self.counterexamples)} counterexamples found on the way"
        weights = "1 weight" if len(self.changes) == 1 else f"{len(self.changes)} weights"
        facts = {"changed": f"{weights} of the last layer", "after": found}
        title = f"PropertyRepair {str(self.status).upper()}"
        return title, {
            **facts,
            "verdict": self.verdict._facts()[0].removeprefix("Verdict "),
            **({"because": self.reason} if self.reason else {}),
        }


@checked
def repair_property(
    query: Query,
    decide: Callable[[Query], Verdict],
    *,
    keep: Array | None = None,
    margin: float = 1e-3,
    rounds: int = 100,
    norm: str = "l1",
    reach: float | None = None,
    timeout: float | None = None,
    listener: Listener = ignore,
) -> PropertyRepair:
    """Change the last layer of a network as little as the counterexamples need until a property is proved.

    Args:
        query: what must not be found (`verifier.read_vnnlib`, `verifier.robustness` …); rows over inputs and outputs.
        decide: what answers queries: ``verifier.verify``, or a function that calls it with options.
        keep: inputs ``(k, n)`` whose class (largest output) must stay.
        margin: how far outside the forbidden outputs a counterexample is moved, as a share of the outputs' size there;
            more needs fewer rounds and a larger change.
        rounds: most counterexamples.
        norm, reach: as for `verifier.repair.repair`.
        timeout: seconds for everything; the verifier's own limit is its caller's to set.

    Raises:
        InputError: an argument out of range; a network whose last layer is followed by an activation.
        PropertyError: a property that speaks of gradients, or of inputs alone.

    Source:
        counterexample-guided: Solar-Lezama et al., ASPLOS 2006; the smallest change of a layer:
        `verifier.repair.repair`.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> result = verifier.repair_property(verifier.robustness(network, [0.6, 0.5], epsilon=0.1), verifier.verify)
        >>> str(result.status), result.verdict.status.name
        ('repaired', 'HOLDS')
    """
    positive_or_none(timeout, "timeout")
    positive_or_none(margin, "margin")
    compiled.ensure_engines(listener)
    start, deadline = time.perf_counter(), Deadline.after(timeout)
    network = query.network
    layer = _last_layer(network)
    if query.features:
        raise PropertyError("a repair takes rows over inputs and outputs, not gradients or maps", fix="verify only")
    requirements = _kept(network, keep)
    found: list[Array] = []
    current, result = network, None
    while True:
        verdict = decide(replace(query, network=current))
        known = "1 counterexample" if len(found) == 1 else f"{len(found)} counterexamples"
        words = f"with {known} put right the property is {verdict.status.name}"
        listener(Note(seconds=time.perf_counter() - start, text=words))
        status, reason = _said(verdict, len(found), deadline.passed or len(found) >= rounds)
        if status is not None or verdict.witness is None:
            break
        x = np.asarray(verdict.witness.input, dtype=np.float64)
        requirements.append(_demand(query, current, x, margin, f"counterexample {len(found)}"))
        found.append(x)
        try:
            requirements[-1].output.check_not_empty()
        except PropertyError:
            status, reason = PropertyRepairStatus.INFEASIBLE, "the property forbids every output at a counterexample"
            break
        left = None if deadline.at is None else max(deadline.left, 1e-3)
        specification = Specification(tuple(requirements))
        result = repair(network, specification, layers=[layer], norm=norm, reach=reach, timeout=left)
        if result.status not in (RepairStatus.REPAIRED, RepairStatus.ROUNDED):
            infeasible = result.status is RepairStatus.INFEASIBLE
            status = PropertyRepairStatus.INFEASIBLE if infeasible else PropertyRepairStatus.UNFINISHED
            reason = result.reason
            break
        current = result.frozen.fold()
    return PropertyRepair(
        status=status or PropertyRepairStatus.UNFINISHED,
        network=current,
        changes={} if result is None else changes(FrozenNetwork(network), result.frozen),
        verdict=verdict,
        counterexamples=np.array(found).reshape(-1, network.input_size),
        reason=reason,
        seconds=time.perf_counter() - start,
    )


def _said(verdict: Verdict, count: int, over: bool) -> tuple[PropertyRepairStatus | None, str]:
    """How a verdict ends the loop, and why; None: it goes on."""
    if verdict.status is Status.HOLDS:
        return (PropertyRepairStatus.REPAIRED if count else PropertyRepairStatus.HOLDS), ""
    if verdict.status is not Status.VIOLATED:
        return PropertyRepairStatus.UNFINISHED, f"the verifier says {verdict.status.name}: {verdict.reason}"
    if over:
        return PropertyRepairStatus.UNFINISHED, f"violated still after {count} counterexamples"
    return None, ""


def _last_layer(network: Network) -> str:
    layers = repairable_layers(network)
    if not layers:
        raise InputError("the network has no layer with weights", place=network.source)
    names = [n.name for n in network.nodes]
    after = network.nodes[names.index(layers[-1]) + 1 :]
    if any(isinstance(n.operator, PiecewiseOperator) for n in after):
        raise InputError(
            f"an activation follows the last layer {layers[-1]!r}", fix="repair regions of it with `repair` instead"
        )
    return layers[-1]


def _kept(network: Network, keep: Array | None) -> list[Requirement]:
    """That some inputs keep their class."""
    if keep is None:
        return []
    x = np.atleast_2d(np.asarray(keep, dtype=np.float64)).reshape(-1, network.input_size)
    labels = network.forward(x).reshape(len(x), -1).argmax(axis=1)
    return [
        Requirement(PointRegion(x[labels == k]), output_class(network.output_size, int(k)), f"class {k} is kept")
        for k in np.unique(labels)
    ]


def _demand(query: Query, network: Network, x: Array, margin: float, name: str) -> Requirement:
    """That one input's output leaves every forbidden disjunct: of each disjunct that row is turned round that is nearest to it.

    Disjuncts of which no row speaks of the outputs do not hold at a counterexample alone, and are passed over; the choice of a
    row makes the forbidden set's complement convex, so an infeasible answer speaks of that choice.
    """
    y = network.forward(x).reshape(-1)
    rows, bounds = [], []
    disjuncts: Sequence[Conjunction] = query.disjuncts
    for disjunct in disjuncts:
        both = [disjunct] if query.common is None else [disjunct, query.common]
        choices = [choice for part in both for choice in _turned(part, x, y)]
        if choices:
            _, row, bound = min(choices, key=lambda choice: choice[0])
            rows.append(row)
            bounds.append(bound - margin * max(1.0, float(np.abs(y).max())))
    if not rows:
        raise PropertyError("no row of the property speaks of outputs: no change of weights can mend it")
    return Requirement(PointRegion(x), OutputPolytope(np.array(rows), np.array(bounds), "outside"), name)


def _turned(part: Conjunction, x: Array, y: Array) -> list[tuple[float, Array, float]]:
    """For each row over outputs: how far it is from being false, and the row that says it is: ``row @ y <= bound``."""
    if part.y_rows is None:
        return []
    rows = np.asarray(part.y_rows.toarray() if hasattr(part.y_rows, "toarray") else part.y_rows)
    fixed = part.bound if part.x_rows is None else part.bound - part.x_rows @ x
    return [
        (float(bound - row @ y) / max(float(np.linalg.norm(row)), 1e-300), -row, -float(bound))
        for row, bound in zip(rows, fixed, strict=True)
        if row.any()
    ]
