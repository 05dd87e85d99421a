"""`repair`: from a network and a specification to a patched network and a report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from verifier.errors import InputError
from verifier.events import Listener, Note, ignore
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.repair.frozen import FrozenNetwork, parameter_label, repairable_layers
from verifier.repair.greedy import Step, greedy
from verifier.repair.keypoints import KeyPoints, key_points, layer_rows
from verifier.repair.linear import LinearRepair, solve_layer
from verifier.repair.recheck import Check, check
from verifier.repair.specification import Specification

METHODS = ("greedy", "lp")

MARGIN = 1e-5
"""Share of the largest slack that a linear repair demands of every row beyond the specification, so that it holds
without tolerance and not by a tie: where all outputs are equal, every class's closed polytope is met."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RepairResult:
    """What a repair did.

    Attributes:
        status: "repaired" (all met, checked again), "improved" (more met than before, not all), "unchanged",
            "infeasible" (proved numerically: no change of any one tried layer within its reach meets it),
            "unfinished" (the reason says why).
        frozen: the repaired network (the original's own value channel where nothing was changed).
        method: "greedy" or "lp".
        layer: the layer that was changed ("" if none; greedy names it in each step).
        changes: ``{"layer weight[i, j]": δ}``, all changed weights.
        met_before, met_after, total: key points met, and all.
        steps: for greedy, its steps.
        attempts: for lp, what the program said for each layer that was tried.
        conflicts: for infeasible, names of the requirements that cannot hold together, by layer.
        check: the independent check of the result.
        seconds: wall-clock time.
    """

    status: str
    frozen: FrozenNetwork
    method: str
    layer: str = ""
    changes: Mapping[str, float]
    met_before: int
    met_after: int
    total: int
    steps: tuple[Step, ...] = ()
    attempts: Mapping[str, LinearRepair]
    conflicts: Mapping[str, tuple[str, ...]]
    reason: str = ""
    check: Check
    seconds: float

    @property
    def norms(self) -> Mapping[str, float]:
        """Number of changed weights, and the L1 and L∞ norm of the change."""
        sizes = np.abs(np.array(list(self.changes.values()) or [0.0]))
        return {"weights": len(self.changes), "l1": float(sizes.sum()), "linf": float(sizes.max())}


NEGLIGIBLE = 1e-9
"""Changes smaller than this share of the largest are left out: they are the solver's rounding errors."""


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
    listener: Listener = ignore,
) -> RepairResult:
    """Change a few weights so that a network meets a specification on whole regions.

    Args:
        network: the network, or a frozen network that was patched before.
        method: "greedy": the best single weight, several times (the paper's method); "lp": the smallest change
            of one layer, by linear programming.
        layers: names of the layers that may change (lp: each is tried, the cheapest repair is taken);
            the last Dense or Conv layer by default.
        steps: for greedy, the most weights that may change.
        norm: for lp, "l1" (few weights), "linf" (small changes) or "mixed".
        soft: for lp, None, or the price of one unit of violation: then an answer always exists.
        reach: for lp, the largest norm of a change; by default that of the layer's own parameters.
        timeout: for lp, seconds for each layer.

    Raises:
        InputError: unknown layer, method or norm.
        PropertyError: a specification that does not fit the network.
    """
    start = time.perf_counter()
    frozen = network if isinstance(network, FrozenNetwork) else FrozenNetwork(network)
    if method not in METHODS:
        raise InputError(f"method {method!r} is not known", fix=f"methods: {', '.join(METHODS)}")
    known = repairable_layers(frozen.network)
    chosen = list(layers) if layers else [known[-1]]
    for layer in chosen:
        if layer not in known:
            raise InputError(f"layer {layer!r} cannot be repaired", fix=f"layers with weights: {', '.join(known)}")
    points = key_points(frozen.network, specification)
    before = int(points.met(points.slack(frozen)).sum())
    text = f"{len(points)} key points on {len(next(iter(points.patterns.values()), points.points))} linear pieces"
    listener(Note(seconds=time.perf_counter() - start, text=f"{text}, {before} met"))
    taken: list[Step] = []
    attempts: dict[str, LinearRepair] = {}
    reduced: dict[str, KeyPoints] = {}
    patched, layer = frozen, ""
    if method == "greedy":
        patched, taken = greedy(frozen, points, chosen, steps=steps, listener=listener)
    else:
        for name in chosen:
            own, _ = points.distinct(frozen, name)
            rows = layer_rows(frozen, own, name)
            reduced[name] = own
            attempts[name] = solve_layer(
                rows,
                norm=norm,
                margin=MARGIN * float(np.abs(rows.slack).max(initial=0.0)),
                opposites=own.opposites(frozen, name),
                soft=soft,
                reach=reach,
                timeout=timeout,
                listener=listener,
            )
            text = f"layer {name!r}: {attempts[name].status}"
            listener(Note(seconds=time.perf_counter() - start, text=text))
        feasible = [n for n in attempts if attempts[n].status == "feasible"]
        if feasible:
            layer = min(feasible, key=lambda n: attempts[n].objective)
            delta = attempts[layer].delta
            assert delta is not None
            patched = frozen.patched(
                layer, np.where(np.abs(delta) > NEGLIGIBLE * np.abs(delta).max(initial=0.0), delta, 0.0)
            )
    checked = check(patched, specification)
    after = int(points.met(points.slack(patched)).sum())
    status, reason = _status(method, norm, before, after, checked, attempts)
    return RepairResult(
        status=status,
        frozen=patched,
        method=method,
        layer=layer,
        changes=changes(frozen, patched),
        met_before=before,
        met_after=after,
        total=len(points),
        steps=tuple(taken),
        attempts=attempts,
        conflicts={n: conflict_names(a, reduced[n]) for n, a in attempts.items() if a.status == "infeasible"},
        reason=reason,
        check=checked,
        seconds=time.perf_counter() - start,
    )


def _status(
    method: str, norm: str, before: int, after: int, checked: Check, attempts: Mapping[str, LinearRepair]
) -> tuple[str, str]:
    if checked.proved:
        return "repaired", ""
    if method == "lp" and all(a.status == "infeasible" for a in attempts.values()):
        parts = [f"layer {n!r} would need a change of {norm} norm above {a.beyond:.4g}" for n, a in attempts.items()]
        return "infeasible", "no change of one layer within reach meets all rows: " + "; ".join(parts)
    reasons = "; ".join(f"{n}: {a.reason}" for n, a in attempts.items() if a.reason)
    if after > before:
        return "improved", reasons or f"{checked.total - checked.met} of {checked.total} key points are not met"
    if any(a.status == "unfinished" for a in attempts.values()):
        return "unfinished", reasons
    return "unchanged", reasons or "no single weight meets more key points"


def changes(before: FrozenNetwork, after: FrozenNetwork) -> dict[str, float]:
    """Every weight that differs: ``{"layer weight[i, j]": δ}``."""
    from verifier.repair.frozen import parameters

    found = {}
    for layer in after.patches:
        old, new = before.operator(before.network[layer]), after.operator(after.network[layer])
        difference: Array = parameters(new) - parameters(old)
        for k in np.flatnonzero(difference):
            found[f"{layer} {parameter_label(new, int(k))}"] = float(difference[k])
    return found


def conflict_names(attempt: LinearRepair, points: KeyPoints) -> tuple[str, ...]:
    """The requirements whose rows cannot hold together, the heaviest first."""
    weight: dict[int, float] = {}
    for row, value in attempt.conflict.items():
        k = int(points.requirement[points.row_point[row]])
        weight[k] = weight.get(k, 0.0) + value
    return tuple(points.specification.label(k) for k in sorted(weight, key=lambda k: -weight[k]))
