"""`repair`: from a network and a specification to a patched network and a report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from verifier.arguments import checked
from verifier.errors import InputError, PropertyError
from verifier.events import Listener, Note, ignore
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.repair.ahead import compile_ahead
from verifier.repair.effect import changes
from verifier.repair.frozen import FrozenNetwork, repairable_layers
from verifier.repair.greedy import Step
from verifier.repair.keypoints import key_points
from verifier.repair.methods import FINDERS, RepairStatus
from verifier.repair.recheck import Check, check, misplaced
from verifier.repair.search import LayerRepair, Outcome
from verifier.repair.settings import SearchSettings, Settings, positive_or_none
from verifier.repair.specification import Specification
from verifier.shown import Shown


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RepairResult(Shown):
    """What a repair did.

    Attributes:
        status: see `RepairStatus`.
        frozen: the repaired network (the original's own value channel where nothing was changed).
        method: "greedy", "lp", "maxsmt" or "layers".
        layer: the layer that was changed ("" if none, or several).
        changes: ``{"layer weight[i, j]": δ}``, all changed weights.
        met_before, met_after, total: key points met, and all, in float64.
        steps: for greedy, its steps.
        attempts: for lp, what was found for each layer that was tried; for layers, the last step of each changed layer.
        conflicts: for infeasible, names of the requirements that cannot hold together, by layer.
        check: the check of the result: in rational arithmetic if it was made, else in float64.
        seconds: wall-clock time.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Definition 3.
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
    search: SearchSettings = SearchSettings(),
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
        search: what the search decides by numbers.
        listener: is told how far it has come.

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
    settings = Settings(norm=norm, steps=steps, soft=soft, reach=reach, exact=exact, search=search)
    positive_or_none(timeout, "timeout")
    if method not in FINDERS:
        raise InputError(f"method {method!r} is not known", fix=f"methods: {', '.join(FINDERS)}")
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
    found = FINDERS[method](frozen, points, chosen, settings, deadline, listener)
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
