"""`repair`: from a network and a specification to a patched network and a report."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from verifier.arguments import checked
from verifier.errors import InputError, PropertyError, TimeLimitError
from verifier.events import Listener, Note, ignore
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.repair.ahead import compile_ahead
from verifier.repair.effect import changes
from verifier.repair.frozen import FrozenNetwork, repairable_layers
from verifier.repair.greedy import Step, greedy
from verifier.repair.keypoints import KeyPoints, key_points
from verifier.repair.program import TOLERANCE
from verifier.repair.recheck import Check, check, check_exactly, misplaced
from verifier.repair.rows import layer_rows
from verifier.repair.search import LayerRepair, Outcome, Settings, positive_or_none, repair_layer
from verifier.repair.specification import Specification
from verifier.repair.together import Alternation
from verifier.shown import Shown

METHODS = ("greedy", "lp", "maxsmt", "layers")


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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RepairResult(Shown):
    """What a repair did.

    Attributes:
        status: see `RepairStatus`.
        frozen: the repaired network (the original's own value channel where nothing was changed).
        method: one of `METHODS`.
        layer: the layer that was changed ("" if none, or several).
        changes: ``{"layer weight[i, j]": δ}``, all changed weights.
        met_before, met_after, total: key points met, and all, in float64.
        steps: for greedy, its steps.
        attempts: for lp, what was found for each layer that was tried; for layers, the last step of each changed layer.
        conflicts: for infeasible, names of the requirements that cannot hold together, by layer.
        check: the check of the result: in rational arithmetic if it was made, else in float64.
        seconds: wall-clock time.
    """

    status: RepairStatus
    frozen: FrozenNetwork
    method: str
    layer: str = ""
    changes: Mapping[str, float]
    met_before: int
    met_after: int
    total: int
    steps: tuple[Step, ...] = ()
    attempts: Mapping[str, LayerRepair] = field(default_factory=dict)
    conflicts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reason: str = ""
    check: Check
    seconds: float

    _drawn_by = "verifier.report.repair:changes_plot"

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {
            "met": f"{self.met_before:,} before, {self.met_after:,} after, of {self.total:,} key points",
            "changed": f"{len(self.changes)} weights, sum {self.norms['l1']:.4g}, largest {self.norms['linf']:.4g}",
        }
        return f"RepairResult {str(self.status).upper()}", {
            **facts,
            **({"because": self.reason} if self.reason else {}),
        }

    @property
    def norms(self) -> Mapping[str, float]:
        """Number of changed weights, and the L1 and L∞ norm of the change."""
        sizes = np.abs(np.array(list(self.changes.values()) or [0.0]))
        return {"weights": len(self.changes), "l1": float(sizes.sum()), "linf": float(sizes.max())}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """What a method hands back."""

    status: RepairStatus
    frozen: FrozenNetwork
    reason: str = ""
    layer: str = ""
    check: Check | None = None
    steps: tuple[Step, ...] = ()
    attempts: Mapping[str, LayerRepair] = field(default_factory=dict)


@checked
def repair(
    network: Network | FrozenNetwork,
    specification: Specification,
    *,
    method: str = "lp",
    layers: Sequence[str] | None = None,
    steps: int = 5,
    norm: str = "l1",
    soft: float | None = None,
    reach: float | None = None,
    timeout: float | None = None,
    exact: bool = False,
    listener: Listener = ignore,
) -> RepairResult:
    """Change a few weights so that a network meets a specification on whole regions.

    Args:
        network: the network, or a frozen network that was patched before.
        method: "greedy": the best single weight, several times (the paper's method, Section 5.1); "lp": the smallest
            change of one layer, by linear programming; "maxsmt": the change of one small layer that meets the most key
            points, by Z3 (Appendix B); "layers": several layers together, by alternating linear steps (Appendix B).
        layers: names of the layers that may change (lp, maxsmt: each is tried, the best repair is taken);
            the last Dense or Conv layer by default, for method "layers" all.
        steps: for greedy, the most weights that may change.
        norm: for lp and layers, "l1" (few weights), "linf" (small changes) or "mixed".
        soft: for lp, None, or the price of one unit of violation: then an answer always exists. For layers, the price
            while violations are left.
        reach: for lp and layers, the largest norm of a layer's change; by default that of the layer's own parameters
            (with ``soft``, none).
        timeout: seconds, for everything together.
        exact: whether a large result may be checked in rational arithmetic however long it takes (within ``timeout``);
            otherwise it is called repaired up to rounding.

    Raises:
        InputError: an unknown layer, method or norm; a number outside its range.
        PropertyError: a specification that does not fit the network.

    Source:
        Sotoudeh, Thakur, "Correcting Deep Neural Networks with Small, Generalizing Patches", 2019; `docs/repair.md`.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> on_a_line = verifier.LineRegion([0.4, 0.5], [0.2, 0.5])
        >>> wanted = verifier.Requirement(on_a_line, verifier.output_class(2, 0, margin=0.01))
        >>> result = verifier.repair(network, verifier.Specification((wanted,)))
        >>> str(result.status), result.met_before, result.met_after
        ('repaired', 0, 2)
    """
    start = time.perf_counter()
    settings = Settings(norm=norm, steps=steps, soft=soft, reach=reach, exact=exact)
    positive_or_none(timeout, "timeout")
    if method not in METHODS:
        raise InputError(f"method {method!r} is not known", fix=f"methods: {', '.join(METHODS)}")
    frozen = network if isinstance(network, FrozenNetwork) else FrozenNetwork(network)
    chosen = _layers(frozen.network, layers, every=method == "layers")
    compile_ahead(repair, listener, greedy=method == "greedy")
    deadline = Deadline.after(timeout)
    points = key_points(frozen.network, specification)
    for k, count in misplaced(frozen.network, specification).items():
        raise PropertyError(
            f"{count} corners of its polygons lie outside the linear region of their polygon's middle",
            place=specification.label(k),
            fix="cut them along the linear regions, or give a PolygonRegion, which is cut for you",
        )
    before = points.slack(frozen)
    text = f"{len(points)} key points on {len(points.middles)} linear pieces, {int(points.met(before).sum())} met"
    listener(Note(seconds=time.perf_counter() - start, text=text))
    found = _FINDERS[method](frozen, points, chosen, settings, deadline, listener)
    met_before, met_after = int(points.met(before).sum()), int(points.met(points.slack(found.frozen)).sum())
    return RepairResult(
        status=found.status,
        frozen=found.frozen,
        method=method,
        layer=found.layer,
        changes=changes(frozen, found.frozen),
        met_before=met_before,
        met_after=met_after,
        total=len(points),
        steps=found.steps,
        attempts=found.attempts,
        conflicts={
            name: tuple(specification.label(k) for k in attempt.conflict)
            for name, attempt in found.attempts.items()
            if attempt.outcome is Outcome.INFEASIBLE
        },
        reason=found.reason,
        check=found.check or check(found.frozen, specification),
        seconds=time.perf_counter() - start,
    )


def _layers(network: Network, layers: Sequence[str] | None, *, every: bool) -> list[str]:
    known = repairable_layers(network)
    if not known:
        raise InputError("the network has no layer with weights", place=network.source, fix="Dense or Conv layers")
    if isinstance(layers, str):
        raise InputError(f"layers must be a sequence of names, got {layers!r}", fix=f"[{layers!r}]")
    chosen = list(layers) if layers else list(known if every else known[-1:])
    for layer in chosen:
        if layer not in known:
            raise InputError(f"layer {layer!r} cannot be repaired", fix=f"layers with weights: {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def _linear(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layers: Sequence[str],
    settings: Settings,
    deadline: Deadline,
    listener: Listener,
) -> _Found:
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
            return _Found(
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
        return _Found(status=RepairStatus.INFEASIBLE, frozen=frozen, reason=reason, attempts=attempts)
    reasons = "; ".join(f"{n}: {a.reason}" for n, a in attempts.items() if a.reason)
    return _Found(status=RepairStatus.UNFINISHED, frozen=frozen, reason=reasons, attempts=attempts)


def _greedy(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layers: Sequence[str],
    settings: Settings,
    deadline: Deadline,
    listener: Listener,
) -> _Found:
    """Single weights; when all key points are met, demands that they do not know join them."""
    known, patched, taken = points, frozen, list[Step]()
    first = int(points.met(points.slack(frozen)).sum())
    checked: Check | None = None
    reason = ""
    while True:
        left = settings.steps - len(taken)
        if left:
            patched, more = greedy(patched, known, layers, steps=left, deadline=deadline, listener=listener)
            taken += more
        if not known.met(known.slack(patched)).all():
            break
        try:
            checked = check_exactly(patched, points.specification, settings.effort(deadline))
        except TimeLimitError as error:
            reason = error.problem
            break
        new = known.unknown(checked.failures)
        if not new:
            break
        known = known.with_demands(new)
    status, said = _judged(points, known, first, patched, checked, reason)
    if status is RepairStatus.UNCHANGED:
        said = reason or "no single weight meets more key points"
    if deadline.passed and status is not RepairStatus.REPAIRED:
        said = "time limit"
    return _Found(status=status, frozen=patched, reason=said, check=checked, steps=tuple(taken))


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


def _max_smt(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layers: Sequence[str],
    settings: Settings,
    deadline: Deadline,
    listener: Listener,
) -> _Found:
    """The most key points that one layer can meet, by Z3; demands that they do not know join them."""
    first = int(points.met(points.slack(frozen)).sum())
    known, margin = points, 0.0
    while True:
        best, layer = _best_by_smt(frozen, known, layers, margin, deadline, listener)
        checked, reason = None, ""
        if not known.met(known.slack(best)).all():
            break
        try:
            checked = check_exactly(best, points.specification, settings.effort(deadline))
        except TimeLimitError as error:
            reason = error.problem
            break
        new = known.unknown(checked.failures)
        if checked.proved or (margin and not new):
            break
        if new:
            known = known.with_demands(new)
        else:  # only rounding is in the way
            margin = 2 * TOLERANCE
    status, said = _judged(points, known, first, best, checked, reason)
    return _Found(status=status, frozen=best, reason=said, layer=layer, check=checked)


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
) -> _Found:
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
    return _Found(
        status=status, frozen=found, reason=steps.reason, attempts=steps.last, check=checks[0] if checks else None
    )


_FINDERS = {"greedy": _greedy, "lp": _linear, "maxsmt": _max_smt, "layers": _together}


def _violations(status: RepairStatus, points: KeyPoints, frozen: FrozenNetwork) -> str:
    if status in (RepairStatus.REPAIRED, RepairStatus.ROUNDED):
        return ""
    missing = len(points) - int(points.met(points.slack(frozen)).sum())
    return f"{missing} of {len(points)} key points are not met"
