"""Repair of one layer, exactly: a linear program proposes, rational arithmetic decides.

The program knows the rows of float64 key points, up to its tolerance. So what it says is checked from both sides:

- A change counts as a repair only if `verifier.repair.exact.examine` finds every demand met. Where the change misses
  demands that the key points do not know (a kink on the border of a region, a vertex that rounding hid), these join the
  rows. Where it misses by rounding, rows are given margins of the size of rounding, larger ones if need be.
- Multipliers count only over demands that are confirmed exactly (`verifier.repair.certificate`), for the rows as they
  were asked; a key point that cannot be confirmed is left out.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from verifier.errors import TimeLimitError
from verifier.events import Listener, ignore
from verifier.limits import NEVER, Deadline
from verifier.network.operators import Array
from verifier.repair.certificate import Confirmer, ExactRow, lower_bound, solve_exactly
from verifier.repair.exact import Demand
from verifier.repair.frozen import FrozenNetwork, parameters
from verifier.repair.keypoints import KeyPoints
from verifier.repair.linear import Answer, LinearRepair, default_reach, solve_layer
from verifier.repair.program import TOLERANCE, measure, norm_weights
from verifier.repair.recheck import Check, check, check_exactly
from verifier.repair.rows import LayerRows, layer_rows
from verifier.repair.settings import Settings
from verifier.rounding import float_below


class Outcome(enum.StrEnum):
    """How the search in one layer ended."""

    REPAIRED = "repaired"
    """Every demand is met, exactly."""
    ROUNDED = "repaired up to rounding"
    """Every key point is met up to rounding errors; the exact check failed, or was too large."""
    PARTIAL = "partial"
    """A soft repair that leaves violations."""
    INFEASIBLE = "infeasible"
    """Proved: no change within the reach meets the demands."""
    UNFINISHED = "unfinished"


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRepair:
    """What was found for one layer.

    Attributes:
        outcome: see `Outcome`.
        frozen: the changed network, None if there is none.
        norm: of the change, as the settings measure it.
        least: proved in rational arithmetic: every change that meets the demands has at least this norm; infinite if
            none does.
        reach: the largest norm that counts as a repair.
        conflict: what each requirement contributes to that proof, by index, the heaviest first.
        program: the last linear program.
        check: the exact check of ``frozen``, if it was made, else that in float64.
        demands: how many demands joined the key points' own.
    """

    outcome: Outcome
    frozen: FrozenNetwork | None = None
    norm: float = 0.0
    least: float = 0.0
    reach: float = np.inf
    conflict: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""
    program: LinearRepair
    check: Check | None = None
    demands: int = 0


def repair_layer(
    frozen: FrozenNetwork,
    points: KeyPoints,
    layer: str,
    settings: Settings,
    *,
    deadline: Deadline = NEVER,
    listener: Listener = ignore,
) -> LayerRepair:
    """The smallest change of one layer that meets a specification, or the proof that there is none.

    Raises:
        InputError: if the layer has no parameters.

    Source:
        Sotoudeh, Thakur, Patching, 2019, Theorems 1 and 2 and Appendix B; the search for an exact answer is
        this module's own.
    """
    own, _ = points.distinct(frozen, layer)
    joined = 0
    for _ in range(settings.search.rounds):
        attempt = _Attempt(frozen, own, layer, settings, deadline, listener)
        spurious, new, found = attempt.run()
        if spurious:
            own = own.without(spurious)
        elif new:
            own = own.with_demands(new)
            joined += len(new)
        if not (spurious or new) or found.outcome is Outcome.INFEASIBLE:
            break
    return replace(found, demands=joined)


class _Attempt:
    """One round: a program over the key points known so far, and the exact look at what it says."""

    def __init__(
        self,
        frozen: FrozenNetwork,
        points: KeyPoints,
        layer: str,
        settings: Settings,
        deadline: Deadline,
        listener: Listener,
    ) -> None:
        self.frozen, self.points, self.layer, self.settings = frozen, points, layer, settings
        self.deadline, self.listener = deadline, listener
        self.effort = settings.effort(deadline)
        self.rows: LayerRows = layer_rows(frozen, points, layer)
        self.opposites = self._ties(points.opposites(frozen, layer))
        self.before = parameters(frozen.operator(frozen.network[layer]))
        self.weights = norm_weights(settings.norm, self.rows.size)
        self.reach = settings.reach or default_reach(self.rows, settings.norm, settings.soft)

    def run(self) -> tuple[list[int], list[Demand], LayerRepair]:
        """Key points that must go, demands that must come, and (if there are none of either) what was found."""
        soft = self.settings.soft
        if soft is None:
            first = self._solve(0.0)
        else:
            unit = min(1.0, self.reach)
            first = self._solve(self._margin(1.0, unit, 1), unit)
        confirmer = Confirmer(self.frozen, self.points, self.layer)
        confirmed = {row: confirmer.row(row) for row in first.multipliers}
        spurious = {int(self.points.row_point[row]) for row, found in confirmed.items() if found is None}
        exact = {row: found for row, found in confirmed.items() if found is not None}
        least = lower_bound(exact, first.multipliers, self.settings.norm)
        found = LayerRepair(
            outcome=Outcome.UNFINISHED,
            least=float("inf") if least is None else float_below(least),
            reach=self.reach,
            conflict=self._conflict(first),
            reason=first.reason,
            program=first,
        )
        if soft is None and (least is None or least > Fraction(self.reach)):
            return [], [], replace(found, outcome=Outcome.INFEASIBLE, reason="")
        if spurious:
            return sorted(spurious), [], found
        if first.answer is not Answer.FEASIBLE:
            reason = first.reason or f"proved in rational arithmetic only below a norm of {found.least:.3g}"
            return [], [], replace(found, reason=reason)
        new, found = self._decide(found, first, exact, confirmer)
        return [], new, found

    def _ties(self, opposites: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Those opposites that leave their rows no room: the two can only hold by a tie."""
        room = np.abs(self.rows.slack + self.rows.slack[opposites])
        return np.where((opposites >= 0) & (room <= 2 * self.rows.error), opposites, -1)

    def _solve(self, margins: Array | float, unit: float = 1.0) -> LinearRepair:
        return solve_layer(
            self.rows,
            norm=self.settings.norm,
            margins=margins,
            opposites=self.opposites,
            soft=self.settings.soft,
            reach=self.reach if np.isfinite(self.reach) else None,
            unit=unit,
            settings=self.settings.search.program,
            deadline=self.deadline,
            listener=self.listener,
        )

    def _conflict(self, program: LinearRepair) -> dict[int, float]:
        weight: dict[int, float] = {}
        for row, value in program.multipliers.items():
            k = int(self.points.requirement[self.points.row_point[row]])
            weight[k] = weight.get(k, 0.0) + value
        return {k: weight[k] for k in sorted(weight, key=lambda k: -weight[k])}

    # -- exact satisfaction ------------------------------------------------------------------------------
    def _decide(
        self, found: LayerRepair, first: LinearRepair, exact: Mapping[int, ExactRow], confirmer: Confirmer
    ) -> tuple[list[Demand], LayerRepair]:
        """The first candidate that is exactly right; else demands that were not known, or the best that there is."""
        nearly: LayerRepair | None = None
        too_large = ""
        for delta in self._candidates(first, exact, confirmer):
            norm = measure(delta, *self.weights)
            if norm > self.reach * (1 + 1e-12):
                continue
            patched = self.frozen.patched(self.layer, delta)
            here = replace(found, frozen=patched, norm=norm)
            if self.settings.soft is not None and not self._all_met(patched):
                return [], replace(here, outcome=Outcome.PARTIAL)
            checked, too_large = self._check(patched, too_large)
            if checked.proved:
                outcome = Outcome.REPAIRED if checked.exact else Outcome.ROUNDED
                return [], replace(here, outcome=outcome, check=checked, reason=too_large)
            new = self.points.unknown(checked.failures)
            if new:
                return new, replace(here, reason="too many rounds")
            if nearly is None or checked.worst > (nearly.check.worst if nearly.check else -np.inf):
                nearly = replace(here, check=checked)
        if nearly is None:
            return [], replace(found, reason="no change within the reach was found to meet the rows with a margin")
        if too_large:
            return [], replace(nearly, frozen=None, reason=too_large)
        worst = nearly.check.worst if nearly.check else 0.0
        reason = f"the rows seem to hold by ties only, which no float64 weights were found to meet: off by {-worst:.2g}"
        return [], self._rounded(replace(nearly, reason=reason))

    def _check(self, patched: FrozenNetwork, too_large: str) -> tuple[Check, str]:
        """The exact check, or why it is too large and the check in float64 instead."""
        specification = self.points.specification
        if not too_large:
            try:
                return check_exactly(patched, specification, self.effort), ""
            except TimeLimitError as error:
                too_large = error.problem
        return check(patched, specification), too_large

    def _rounded(self, found: LayerRepair) -> LayerRepair:
        assert found.frozen is not None
        checked = check(found.frozen, self.points.specification)
        if checked.proved:
            return replace(found, outcome=Outcome.ROUNDED, check=checked)
        return replace(found, outcome=Outcome.UNFINISHED, check=checked)

    def _all_met(self, patched: FrozenNetwork) -> bool:
        return bool(self.points.met(self.points.slack(patched)).all())

    def _candidates(self, first: LinearRepair, exact: Mapping[int, ExactRow], confirmer: Confirmer) -> Iterator[Array]:
        """Changes to try: the program's own, as it is, in short numbers, as a vertex solved in rationals; those of programs
        with margins; the own again, for want of better.
        """
        assert first.delta is not None
        s, delta = self.settings.search, self._without_negligible(first.delta)
        if self.settings.soft is not None:  # any change is an answer: within the reach whatever the tolerance
            delta = delta * min(1.0, self.reach / max(measure(delta, *self.weights), np.finfo(np.float64).tiny))
        largest = float(np.abs(delta).max(initial=0.0))
        unit = 2.0 ** np.ceil(np.log2(largest)) if largest else 1.0
        for candidate in (delta, np.round(delta / (s.short * unit)) * (s.short * unit)):
            if self._meets(candidate, exact):
                yield candidate
        for rows in (self._active(delta, unit, confirmer), exact):
            vertex = solve_exactly(rows, delta) if len(rows) <= s.vertex else None
            if vertex is None or np.abs(vertex - delta).max(initial=0.0) > s.near * largest:
                continue
            if self._meets(vertex, exact):
                yield vertex
        if self.settings.soft is None:
            for size in s.margins:
                margin = self._margin(size, unit, int(np.count_nonzero(delta)))
                kept = np.where(self.rows.slack >= 0, np.minimum(margin, self.rows.slack / 2), margin)
                for margins in (margin, kept):
                    answer = self._solve(margins, unit)
                    if answer.answer is Answer.FEASIBLE and answer.delta is not None:
                        yield self._without_negligible(answer.delta)
        yield delta

    def _active(self, delta: Array, unit: float, confirmer: Confirmer) -> dict[int, ExactRow]:
        """The rows that hold with equality at a change, exactly; none if there are too many for `solve_exactly`."""
        left = np.abs(self.rows.slack - self.rows.change(delta))
        active = np.flatnonzero(
            (left <= self.settings.search.active * unit * self.rows.scale) & (self.rows.scale > 0.0)
        )
        if len(active) > self.settings.search.vertex:
            return {}
        confirmed = {int(row): confirmer.row(int(row)) for row in active}
        return {row: found for row, found in confirmed.items() if found is not None}

    def _margin(self, size: float, unit: float, changed: int) -> Array:
        """What each row should have to spare so that neither the solver's tolerance nor rounding takes it.

        Rows that no parameter moves have nothing to gain, and rows with an opposite can only hold by a tie.
        """
        scale = self.rows.scale
        rounded = 2.0**-51 * changed * float(np.abs(self.before).max(initial=0.0))
        margin = size * (scale * (2 * TOLERANCE * unit + rounded) + self.rows.error)
        return np.where((scale == 0.0) | (self.opposites >= 0), 0.0, margin)

    def _meets(self, delta: Array, exact: Mapping[int, ExactRow]) -> bool:
        """Whether a change, as float64 weights take it, meets some rows exactly."""
        columns = np.flatnonzero(delta)
        moved = [Fraction(a) - Fraction(b) for a, b in zip((self.before + delta)[columns], self.before[columns])]
        for row in exact.values():
            a = row.coefficients
            total = sum((int(a.numerators[c]) * d for c, d in zip(columns, moved, strict=True)), Fraction(0))
            if total > row.slack * a.denominator:
                return False
        return True

    def _without_negligible(self, delta: Array) -> Array:
        """A change without the entries that are rounding errors of a solver."""
        least = self.settings.search.negligible * np.abs(delta).max(initial=0.0)
        return np.where(np.abs(delta) > least, delta, 0.0)
