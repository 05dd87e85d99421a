"""The methods of repair: each from key points to a patched network, and what is to be said of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from verifier.errors import TimeLimitError
from verifier.events import Listener, Note
from verifier.limits import Deadline
from verifier.repair.effect import changes
from verifier.repair.frozen import FrozenNetwork
from verifier.repair.greedy import Step, greedy
from verifier.repair.keypoints import KeyPoints
from verifier.repair.program import TOLERANCE
from verifier.repair.recheck import Check, check, check_exactly
from verifier.repair.rows import layer_rows
from verifier.repair.search import LayerRepair, Outcome, repair_layer
from verifier.repair.settings import Settings
from verifier.repair.together import Alternation


class RepairStatus(enum.StrEnum):
    """How a repair ended."""

    REPAIRED = "repaired"
    """Proved in rational arithmetic: the specification holds on every point of its closed regions."""
    ROUNDED = "repaired up to rounding"
    """Every key point is met up to rounding errors; the exact check failed by ties, or would be too large."""
    IMPROVED = "improved"
    """More is met than before, not all."""
    UNCHANGED = "unchanged"
    INFEASIBLE = "infeasible"
    """Proved in rational arithmetic: no change of any one tried layer within its reach meets the specification."""
    UNFINISHED = "unfinished"
    """Time ran out, or a solver gave up: the reason says which."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a method hands back."""

    status: RepairStatus
    frozen: FrozenNetwork
    reason: str = ""
    layer: str = ""
    check: Check | None = None
    steps: tuple[Step, ...] = ()
    attempts: Mapping[str, LayerRepair] = field(default_factory=dict)


Finder = Callable[[FrozenNetwork, KeyPoints, Sequence[str], Settings, Deadline, Listener], Found]
"""A method: from the network, what is demanded of it, and the layers that may change."""


def _linear(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layers: Sequence[str],
    settings: Settings,
    deadline: Deadline,
    listener: Listener,
) -> Found:
    """Each layer by linear programming; the cheapest that is repaired, or else the best."""
    attempts: dict[str, LayerRepair] = {}
    for k, layer in enumerate(layers):
        share = deadline if deadline.at is None else deadline.sooner(deadline.left / (len(layers) - k))
        attempts[layer] = repair_layer(frozen, points, layer, settings, deadline=share, listener=listener)
        text = f"layer {layer!r}: {attempts[layer].outcome}"
        listener(Note(seconds=attempts[layer].program.seconds, text=text))
    for outcome, status in (
        (Outcome.REPAIRED, RepairStatus.REPAIRED),
        (Outcome.ROUNDED, RepairStatus.ROUNDED),
        (Outcome.PARTIAL, RepairStatus.IMPROVED),
    ):
        ended = [n for n, a in attempts.items() if a.outcome is outcome and a.frozen is not None]
        if ended:
            layer = min(ended, key=lambda n: attempts[n].norm)
            best = attempts[layer]
            assert best.frozen is not None
            if outcome is Outcome.PARTIAL and not changes(frozen, best.frozen):
                status = RepairStatus.UNCHANGED
            return Found(
                status=status,
                frozen=best.frozen,
                reason=best.reason or _violations(status, points, best.frozen),
                layer=layer,
                check=best.check,
                attempts=attempts,
            )
    if all(a.outcome is Outcome.INFEASIBLE for a in attempts.values()):
        parts = [
            f"layer {n!r} "
            + (
                f"would need a change of {settings.norm} norm above {a.least:.4g}"
                if np.isfinite(a.least)
                else "cannot meet them by any change"
            )
            for n, a in attempts.items()
        ]
        reason = "no change of one layer within reach meets all rows: " + "; ".join(parts)
        return Found(status=RepairStatus.INFEASIBLE, frozen=frozen, reason=reason, attempts=attempts)
    reasons = "; ".join(f"{n}: {a.reason}" for n, a in attempts.items() if a.reason)
    return Found(status=RepairStatus.UNFINISHED, frozen=frozen, reason=reasons, attempts=attempts)


def _greedy(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layers: Sequence[str],
    settings: Settings,
    deadline: Deadline,
    listener: Listener,
) -> Found:
    """Single weights, one after the other."""
    taken: list[Step] = []

    def more(patched: FrozenNetwork, known: KeyPoints, margin: float) -> tuple[FrozenNetwork, str]:
        left = settings.steps - len(taken)
        if left:
            patched, steps = greedy(patched, known, layers, steps=left, deadline=deadline, listener=listener)
            taken.extend(steps)
        return patched, ""

    found = _checked(frozen, points, more, settings, deadline, unchanged="no single weight meets more key points")
    late = deadline.passed and found.status is not RepairStatus.REPAIRED
    return replace(found, reason="time limit" if late else found.reason, steps=tuple(taken))


def _max_smt(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layers: Sequence[str],
    settings: Settings,
    deadline: Deadline,
    listener: Listener,
) -> Found:
    """The most key points that one layer can meet, by Z3."""

    def best(_: FrozenNetwork, known: KeyPoints, margin: float) -> tuple[FrozenNetwork, str]:
        return _best_by_smt(frozen, known, layers, margin, deadline, listener)

    return _checked(frozen, points, best, settings, deadline, margins=(2 * TOLERANCE,))


Proposer = Callable[[FrozenNetwork, KeyPoints, float], tuple[FrozenNetwork, str]]
"""From the last network, the key points that are known by now and a margin to meet them by: a network that may meet
them, and the layer that was changed."""


def _checked(
    frozen: FrozenNetwork,
    points: KeyPoints,
    propose: Proposer,
    settings: Settings,
    deadline: Deadline,
    *,
    margins: Sequence[float] = (),
    unchanged: str = "",
) -> Found:
    """What is proposed, checked exactly; demands that fail there and were not known join the key points, and again.

    Args:
        margins: to ask for, one after the other, once only rounding is in the way.
        unchanged: why no more is met than before, if no limit was in the way.
    """
    first = int(points.met(points.slack(frozen)).sum())
    known, patched, waiting = points, frozen, list(margins)
    margin, reason = 0.0, ""
    checked: Check | None = None
    while True:
        proposed, layer = propose(patched, known, margin)
        if proposed is not patched:
            patched, checked = proposed, None
        if not known.met(known.slack(patched)).all():
            break
        try:
            checked = check_exactly(patched, points.specification, settings.effort(deadline))
        except TimeLimitError as error:
            reason = error.problem
            break
        new = known.unknown(checked.failures)
        if new:
            known = known.with_demands(new)
        elif checked.proved or not waiting:
            break
        else:
            margin = waiting.pop(0)
    status, said = _judged(points, known, first, patched, checked, reason)
    if status is RepairStatus.UNCHANGED:
        said = reason or unchanged or said
    return Found(status=status, frozen=patched, reason=said, layer=layer, check=checked)


def _judged(
    points: KeyPoints, known: KeyPoints, first: int, patched: FrozenNetwork, checked: Check | None, reason: str
) -> tuple[RepairStatus, str]:
    """What to call a network of which ``known`` key points are to be met, and of which ``first`` were met before."""
    if checked is not None and checked.proved:
        return RepairStatus.REPAIRED, ""
    if known.met(known.slack(patched)).all() and check(patched, points.specification).proved:
        return (
            RepairStatus.ROUNDED,
            reason or f"in rational arithmetic it is off by {-checked.worst if checked else 0:.2g}",
        )
    met = int(points.met(points.slack(patched)).sum())
    status = RepairStatus.IMPROVED if met > first else RepairStatus.UNCHANGED
    return status, reason or _violations(status, points, patched)


def _best_by_smt(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layers: Sequence[str],
    margin: float,
    deadline: Deadline,
    listener: Listener,
) -> tuple[FrozenNetwork, str]:
    """The layer with which the most key points can be met, changed; the network as it is if none meets more."""
    from verifier.repair.smt import solve_max_smt

    before = int(points.met(points.slack(frozen)).sum())
    best, layer = frozen, ""
    for name in layers:
        own, weight = points.distinct(frozen, name)
        rows = layer_rows(frozen, own, name)
        rows = replace(rows, slack=rows.slack - margin * rows.scale)
        delta, _ = solve_max_smt(rows, own.row_start, weight=weight, deadline=deadline)
        patched = frozen.patched(name, delta)
        met = int(points.met(points.slack(patched)).sum())
        if met > before:
            best, layer, before = patched, name, met
        listener(Note(seconds=0.0, text=f"layer {name!r}: {met} of {len(points)} met"))
    return best, layer


def _together(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layers: Sequence[str],
    settings: Settings,
    deadline: Deadline,
    listener: Listener,
) -> Found:
    """Several layers, by alternating steps."""
    runs = []
    for order in (layers, layers[::-1]):  # what one order of turns cannot mend, or only dearly, the other may
        steps = Alternation(frozen, points, order, settings, deadline=deadline, listener=listener)
        steps.run()
        runs.append(steps)
    good = (Outcome.REPAIRED, Outcome.ROUNDED, Outcome.PARTIAL)
    steps = min(runs, key=lambda r: (good.index(r.outcome), points.violation(r.frozen), r.norm))
    if steps.outcome is Outcome.PARTIAL:
        less = points.violation(steps.frozen) < points.violation(frozen)
        status = RepairStatus.IMPROVED if less else RepairStatus.UNCHANGED
    else:
        status = RepairStatus.REPAIRED if steps.outcome is Outcome.REPAIRED else RepairStatus.ROUNDED
    found = steps.frozen if status is not RepairStatus.UNCHANGED else frozen
    checks = [step.check for step in steps.last.values() if step.frozen is found]
    return Found(
        status=status, frozen=found, reason=steps.reason, attempts=steps.last, check=checks[0] if checks else None
    )


FINDERS: dict[str, Finder] = {"greedy": _greedy, "lp": _linear, "maxsmt": _max_smt, "layers": _together}


def _violations(status: RepairStatus, points: KeyPoints, frozen: FrozenNetwork) -> str:
    if status in (RepairStatus.REPAIRED, RepairStatus.ROUNDED):
        return ""
    missing = len(points) - int(points.met(points.slack(frozen)).sum())
    return f"{missing} of {len(points)} key points are not met"
