"""Thresholds of saliency robustness: the largest δ (for an ε) and the largest ε (for a δ) that hold.

Both are found by bisection between what is proved to hold and what a witness refutes. For δ the interval
is exact at its upper end: a witness refutes every δ from its own distance on, so that distance, not the
δ that was asked, becomes the new end; and since the gradient takes finitely many values, the threshold is
one of these distances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from verifier.engines.base import Deadline
from verifier.errors import InputError
from verifier.options import Options
from verifier.properties.builders import robustness, saliency_robustness
from verifier.verdict import Status, Verdict, Witness

if TYPE_CHECKING:
    from verifier.network.graph import Network


@dataclass(frozen=True, kw_only=True, eq=False)
class Threshold:
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


def largest_delta(
    network: Network,
    x: npt.ArrayLike,
    epsilon: float,
    *,
    label: int | None = None,
    domain: tuple[float, float] | None = (0.0, 1.0),
    tolerance: float = 1e-3,
    timeout: float = 60.0,
    options: Options | None = None,
) -> Threshold:
    """How different the gradient map must become before the label can change within ``epsilon`` of ``x``.

    Args:
        tolerance: stop when the interval is narrower than this share of the map's largest entry.
        timeout: wall-clock seconds for the whole search.
        options: for each question; engine "saliency" without the general search by default.

    Raises:
        InputError: for a tolerance or timeout that is not positive.
        PropertyError: as `verifier.saliency_robustness`.
    """
    run = _Run(tolerance, timeout, options)
    reference = network.gradient(np.asarray(x, dtype=np.float64), _label(network, x, label)).reshape(-1)
    size = float(np.abs(reference).max()) or 1.0
    free = run.ask(robustness(network, x, epsilon, label=label, domain=domain))
    if free.status is Status.HOLDS:
        return Threshold(lower=np.inf, upper=np.inf, proved=free, questions=run.questions)

    def distance(witness: Witness) -> float:
        g = network.gradient(witness.input, _label(network, x, label)).reshape(-1)
        return float(np.nextafter(np.abs(g - reference).max(), np.inf))

    start = distance(free.witness) if free.witness is not None else np.inf

    def at(delta: float) -> Verdict:
        return run.ask(saliency_robustness(network, x, epsilon, delta, label, domain=domain))

    return run.bisect(at, distance, start, free.witness, size, size * tolerance)


def largest_epsilon(
    network: Network,
    x: npt.ArrayLike,
    delta: float,
    *,
    label: int | None = None,
    domain: tuple[float, float] | None = (0.0, 1.0),
    most: float = 1.0,
    tolerance: float = 1e-3,
    timeout: float = 60.0,
    options: Options | None = None,
) -> Threshold:
    """The largest L∞ radius within which inputs with a map within ``delta`` keep the label.

    Args:
        most: no radius above this is asked.
        tolerance: stop when the interval is narrower than this (input units).
        timeout: wall-clock seconds for the whole search.
        options: for each question; engine "saliency" without the general search by default.

    Raises:
        InputError: for a tolerance, timeout or ``most`` that is not positive.
        PropertyError: as `verifier.saliency_robustness`.
    """
    if not most > 0:
        raise InputError(f"the largest radius must be positive, got {most}")
    run = _Run(tolerance, timeout, options)
    center = np.asarray(x, dtype=np.float64).reshape(-1)

    def distance(witness: Witness) -> float:
        return float(np.nextafter(np.abs(witness.input - center).max(), np.inf))

    def at(epsilon: float) -> Verdict:
        return run.ask(saliency_robustness(network, x, epsilon, delta, label, domain=domain))

    return run.bisect(at, distance, np.inf, None, most, tolerance, most)


def _label(network: Network, x: npt.ArrayLike, label: int | None) -> int:
    return int(np.argmax(network.forward(np.asarray(x, dtype=np.float64)))) if label is None else label


class _Run:
    """Asks questions within one time limit."""

    def __init__(self, tolerance: float, timeout: float, options: Options | None) -> None:
        if not tolerance > 0 or not timeout > 0:
            raise InputError(f"tolerance and timeout must be positive, got {tolerance} and {timeout}")
        self.deadline = Deadline.after(timeout)
        self.timeout = timeout
        # the engine looks for witnesses itself; the general search would take its share of every question
        self.options = options or Options(engine="saliency", prepass=False)
        self.questions = self.undecided = 0

    def ask(self, query: object) -> Verdict:
        from verifier.api import verify

        self.questions += 1
        left = max(min(self.deadline.left, self.timeout / 3), 0.05)
        verdict = verify(query, options=replace(self.options, timeout=left))  # type: ignore[arg-type]
        self.undecided += not verdict.status.decided
        return verdict

    def bisect(
        self,
        at: Callable[[float], Verdict],
        distance: Callable[[Witness], float],
        upper: float,
        witness: Witness | None,
        scale: float,
        width: float,
        most: float = np.inf,
    ) -> Threshold:
        """Narrow [proved, refuted]; open answers shrink the range that is asked, not what is proved."""
        lower, proved = 0.0, None
        ceiling = min(upper, most)
        value = min(scale, ceiling) if not np.isfinite(upper) else upper / 2
        while not self.deadline.passed and ceiling - lower > width:
            verdict = at(value)
            if verdict.status is Status.HOLDS:
                lower, proved = value, verdict
                if value >= most:
                    break
            elif verdict.status is Status.VIOLATED:
                assert verdict.witness is not None
                witness = verdict.witness
                upper = min(distance(witness), value)
                ceiling = upper
            else:
                ceiling = value
            value = (lower + ceiling) / 2 if np.isfinite(ceiling) else 2 * value
            if value > 1e6 * scale:
                break
        return Threshold(
            lower=lower,
            upper=upper,
            witness=witness,
            proved=proved,
            undecided=self.undecided,
            questions=self.questions,
        )
