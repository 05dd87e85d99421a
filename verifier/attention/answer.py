"""What a map says about one image: Robust, NotRobust, or why neither, with the parameter that shows it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from verifier.attention.replay import Replay
from verifier.attention.table import Aspect
from verifier.network.operators import Array


class Answer(enum.Enum):
    """The paper's words (Table 2), and one for what it does not have."""

    ROBUST = "Robust"
    """Label (or attention) holds on all of Θ: every region was visited and none is within rounding of failing."""
    NOT_ROBUST = "NotRobust"
    """It fails at a parameter that was replayed exactly on the original network."""
    TIMEOUT = "Timeout"
    UNDECIDED = "Undecided"
    """What was found hangs on rounding, or a part of Θ was not visited; the reason says which."""


@dataclass(frozen=True, kw_only=True)
class AspectAnswer:
    """The answer for one aspect.

    Attributes:
        answer: Robust, NotRobust, Timeout or Undecided.
        reason: why, in words.
        theta: for NotRobust a parameter ``(d,)`` at which it fails, exactly this float64 point.
    """

    answer: Answer
    reason: str
    theta: Array | None = None


ASPECTS: tuple[Aspect, ...] = ("label", "attention")
"""What is asked region by region; "both" follows."""


def with_both(answers: Mapping[Aspect, AspectAnswer]) -> dict[Aspect, AspectAnswer]:
    """The answers and that to "both": the worse of the two, if both are asked."""
    result = dict(answers)
    if all(a in answers for a in ASPECTS):
        order = (Answer.NOT_ROBUST, Answer.TIMEOUT, Answer.UNDECIDED, Answer.ROBUST)
        result["both"] = min((answers[a] for a in ASPECTS), key=lambda found: order.index(found.answer))
    return result


def failing(replay: Replay, aspect: Aspect, delta: float, points: Iterable[Array]) -> Array | None:
    """The first of some parameters at which the aspect fails, replayed exactly; None if it fails at none.

    Shapes: points ``(d,)`` each.
    """
    for theta in points:
        fails = replay.margin(theta) <= 0 if aspect == "label" else replay.exceeds(theta, delta)
        if fails:
            return np.asarray(theta)
    return None


def candidates(polygon: Array, lower: Array, upper: Array) -> list[Array]:
    """Points of a region worth a replay: its center, and its vertices drawn a little into it and as they are.

    Shapes: polygon ``(k, d)``; lower, upper ``(d,)``.
    """
    center = polygon.mean(axis=0)
    inside = center + 0.999 * (polygon - center)
    return [np.clip(p, lower, upper) for p in (center, *inside, *polygon)]
