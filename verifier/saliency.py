"""Thresholds of saliency robustness: the largest δ (for an ε) and the largest ε (for a δ) that hold.

Both are found by bisection between what is proved to hold and what a witness refutes. For δ the interval
is exact at its upper end: a witness refutes every δ from its own distance on, so that distance, not the
δ that was asked, becomes the new end; and where the map takes finitely many values (gradients do), the threshold
is one of these distances. What is proved at one δ or ε holds at every smaller one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from verifier import compiled
from verifier.arguments import checked
from verifier.bracket import Bracket
from verifier.errors import InputError, TimeLimitError
from verifier.events import Listener, Note, ignore
from verifier.limits import Deadline
from verifier.options import Options
from verifier.properties.builders import Domain, centre, condition_at, robustness, saliency_robustness
from verifier.properties.maps import SaliencyMap
from verifier.properties.normalisation import Normalisation, Radius
from verifier.properties.query import Query
from verifier.rounding import float_above
from verifier.shown import Shown
from verifier.verdict import Status, Verdict, Witness

if TYPE_CHECKING:
    from verifier.network.graph import Network


JUST_BELOW = 1e-9
"""Relative distance of the last questions from the smallest δ that is refuted."""
MOST_LAST = 10
"""Number of last questions."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Threshold(Shown):
    """Where a property stops to hold.

    Attributes:
        lower: proved to hold up to here (0 if nothing was proved).
        upper: refuted from here on by ``witness``; infinite if no witness was found.
        witness: the witness at ``upper``; None if there is none.
        proved: the verdict that proved ``lower``; None if nothing was proved.
        undecided: number of questions that stayed open; if not 0, the interval may be wide for that reason.
        questions: number of queries asked.
    """

    lower: float
    upper: float
    witness: Witness | None = None
    proved: Verdict | None = None
    undecided: int = 0
    questions: int = 0

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts = {
            "holds up to": repr(self.lower) if self.proved is not None else "nothing proved",
            "refuted from": repr(self.upper) if self.witness is not None else "no witness",
            "questions": f"{self.questions}, {self.undecided} undecided",
        }
        return "Threshold", facts


@checked
def largest_delta(
    network: Network,
    x: npt.ArrayLike,
    epsilon: Radius,
    *,
    label: int | None = None,
    domain: Domain = "network",
    map: str | SaliencyMap = "gradient",
    similarity: str = "linf",
    top_k: int = 0,
    mean: npt.ArrayLike | None = None,
    std: npt.ArrayLike | None = None,
    tolerance: float = 1e-3,
    timeout: float = 60.0,
    options: Options | None = None,
    listener: Listener = ignore,
) -> Threshold:
    """How different the map must become before the label can change within ``epsilon`` of ``x``.

    Shapes: x ``(n,)`` or of the network's input shape.

    Args:
        epsilon, label, domain, map, similarity, top_k, mean, std: as for `verifier.saliency_robustness`.
        tolerance: stop when the interval is narrower than this share of the map's largest entry.
        timeout: wall-clock seconds for the whole search.
        options: for each question; the engine "saliency" without the general search by default.
        listener: hears of every answer.

    Returns:
        the interval of δ; both ends infinite if no input in range has another label.

    Raises:
        InputError: for a tolerance or timeout that is not positive.
        PropertyError: as `verifier.saliency_robustness`.

    Source:
        the question is that of Le et al., ACML 2023; the search is this module's.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> found = verifier.largest_delta(network, [0.9, 0.1], epsilon=0.5)
        >>> found.undecided, round(found.lower, 6), round(found.upper, 6)  # the map is (1, -1), and 0 where the label is lost
        (0, 1.0, 1.0)
    """
    run = _Run(tolerance, timeout, options, listener)
    ball: dict[str, Any] = {"label": label, "domain": domain, "mean": mean, "std": std}
    about: dict[str, Any] = {"map": map, "similarity": similarity, "top_k": top_k}

    def query(delta: float) -> Query:
        return saliency_robustness(network, x, epsilon=epsilon, delta=delta, **about, **ball)

    # any input with another label: a first upper end, or the proof that there is none
    any_map = robustness(network, x, epsilon, **ball)
    assert any_map.anchor is not None
    condition = condition_at(network, any_map.anchor, label=label, **about)
    size = float(np.abs(condition.reference).max()) or 1.0
    free = run.ask(any_map, Options(), "δ = ∞")
    if free.status is Status.HOLDS:
        return Threshold(lower=np.inf, upper=np.inf, proved=free, questions=run.questions)

    def distance(witness: Witness) -> float:
        """The smallest float64 δ that the witness refutes; infinite if the time is over before it is known."""
        try:
            found = condition.exact_distance(condition.exact_map(witness.point))
        except TimeLimitError:
            run.undecided += 1
            return math.inf
        if similarity != "l2":
            return max(float_above(found), 0.0)
        delta = math.sqrt(float_above(found))
        while Fraction(delta) ** 2 < found:
            delta = math.nextafter(delta, math.inf)
        return delta

    start = distance(free.witness) if free.witness is not None else np.inf
    return run.bisect(query, distance, start, free.witness if start < math.inf else None, size, size * tolerance, "δ")


@checked
def largest_epsilon(
    network: Network,
    x: npt.ArrayLike,
    delta: float,
    *,
    label: int | None = None,
    domain: Domain = "network",
    map: str | SaliencyMap = "gradient",
    similarity: str = "linf",
    top_k: int = 0,
    mean: npt.ArrayLike | None = None,
    std: npt.ArrayLike | None = None,
    most: float = 1.0,
    tolerance: float = 1e-3,
    timeout: float = 60.0,
    options: Options | None = None,
    listener: Listener = ignore,
) -> Threshold:
    """The largest L∞ radius within which inputs with a map within ``delta`` keep the label.

    Shapes: x ``(n,)`` or of the network's input shape.

    Args:
        delta, label, domain, map, similarity, top_k, mean, std: as for `verifier.saliency_robustness`.
        most: no radius above this is asked.
        tolerance: stop when the interval is narrower than this (input units).
        timeout: wall-clock seconds for the whole search.
        options: for each question; the engine "saliency" without the general search by default.
        listener: hears of every answer.

    Raises:
        InputError: for a tolerance, timeout or ``most`` that is not positive.
        PropertyError: as `verifier.saliency_robustness`.

    Source:
        the question is that of Le et al., ACML 2023; the search is this module's.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> verifier.largest_epsilon(network, [0.9, 0.1], delta=0.5).lower  # no input at all with a similar map
        1.0
    """
    if not most > 0:
        raise InputError(f"the largest radius must be positive, got {most}")
    run = _Run(tolerance, timeout, options, listener)
    ball: dict[str, Any] = {"label": label, "domain": domain, "mean": mean, "std": std}
    about: dict[str, Any] = {"map": map, "similarity": similarity, "top_k": top_k}

    def query(epsilon: float) -> Query:
        return saliency_robustness(network, x, epsilon=epsilon, delta=delta, **about, **ball)

    def distance(witness: Witness) -> float:
        """The smallest float64 radius that holds the witness, in the data's units."""
        entries = zip(witness.point, scale.mean.tolist(), scale.std.tolist(), middle.tolist(), strict=True)
        return float_above(max(abs(v * Fraction(s) + Fraction(m) - Fraction(c)) for v, m, s, c in entries))

    scale, middle = Normalisation.of(network, mean, std), centre(network, x, domain)
    first = max(most / 64, 2 * tolerance)
    return run.bisect(query, distance, np.inf, None, first, tolerance, "ε", most)


class _Run:
    """Asks questions within one time limit."""

    def __init__(self, tolerance: float, timeout: float, options: Options | None, listener: Listener) -> None:
        if not tolerance > 0 or not timeout > 0:
            raise InputError(f"tolerance and timeout must be positive, got {tolerance} and {timeout}")
        compiled.ensure_engines(listener)
        self.deadline = Deadline.after(timeout)
        self.timeout, self.options, self.listener = timeout, options, listener
        self.began = time.monotonic()
        self.questions = self.undecided = 0

    def ask(self, query: Query, default: Options, what: str) -> Verdict:
        """The verdict on one question, within a third of the whole time."""
        from verifier.api import verify

        self.questions += 1
        left = max(min(self.deadline.left, self.timeout / 3), 0.05)
        verdict = verify(query, options=replace(self.options or default, timeout=left))
        self.undecided += not verdict.status.decided
        text = f"{what}: {verdict.status.value} ({verdict.engine}, {verdict.times['total']:.2f} s)"
        self.listener(Note(seconds=time.monotonic() - self.began, text=text))
        return verdict

    def bisect(
        self,
        query: Callable[[float], Query],
        distance: Callable[[Witness], float],
        upper: float,
        witness: Witness | None,
        scale: float,
        width: float,
        name: str,
        most: float = np.inf,
    ) -> Threshold:
        """Narrow [proved, refuted]; open answers shrink the range that is asked, not what is proved.

        At last δ is asked just below the witness's own distance: where a map takes finitely many values, that
        either gives the next smaller one or proves that this is the threshold itself.
        """
        found = Bracket(min(scale, most) if not np.isfinite(upper) else upper / 2, most, upper=upper, ceiling=upper)
        proved, last = None, 0
        while not self.deadline.passed and (np.isinf(found.ceiling) or found.width > 2 * JUST_BELOW * found.ceiling):
            question = query(found.value)
            discrete = question.condition is None or question.condition.map.discrete
            if found.width <= width:
                if not discrete or found.ceiling != found.upper or name != "δ" or last >= MOST_LAST:
                    break
                last, found.value = last + 1, found.upper * (1 - JUST_BELOW)
                question = query(found.value)
            # our engine looks for witnesses itself; the general search would take its share of every question
            plain = question.condition is None or question.condition.is_box
            default = Options(engine="saliency", prepass=False) if plain else Options()
            verdict = self.ask(question, default, f"{name} = {found.value:.6g}")
            if verdict.status is Status.HOLDS:
                proved = verdict
                found.proved()
            elif verdict.status is Status.VIOLATED:
                assert verdict.witness is not None
                witness = verdict.witness
                found.refuted(min(distance(witness), found.value))
            else:
                found.open()
            if found.lower >= most or found.value > 1e6 * scale:
                break
        return Threshold(
            lower=found.lower,
            upper=found.upper,
            witness=witness,
            proved=proved,
            undecided=self.undecided,
            questions=self.questions,
        )
