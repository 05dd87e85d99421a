"""Shares of Θ that are proved, refuted and open: how they are asked for, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.attention.answer import ASPECTS, AspectAnswer
from verifier.attention.inconsistency import Inconsistency
from verifier.attention.table import Aspect
from verifier.encodings.perturbations import Perturbed
from verifier.network.operators import Array
from verifier.shown import Shown

OPEN, PROVED, REFUTED = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class AreaSettings:
    """How Θ is cut.

    Attributes:
        smallest: a tile with less than this share of Θ is not split.
        batch: tiles that are chosen together.
        piece: of these, so many are bounded in one go.
        threads: that bound pieces side by side; the result does not depend on their number.
        grid: points along each of at most two parameters at which a failure is looked for first.
        answers_only: stop as soon as every aspect is Robust or NotRobust, with the shares that are known by then.
        aspects: what is asked.
        loose: forward bounds on the label that miss by this many times the margin at a tile's center are followed by
            backward ones, which are much tighter in deep networks and cost some twenty times as much.
        backward: backward bounds are for networks of at most this many ReLUs, those of clipped pixels included; larger
            ones are written over the ReLUs that are unstable on a tile, for each tile anew (which takes torch).
        rows: where there are too many unstable ReLUs for a symbol each, bounds on gradients go by rows over all pixels if pixels
            times ReLUs are at most this (and backward bounds are made), else by intervals.
    """

    smallest: float = 1e-5
    batch: int = 32
    piece: int = 8
    threads: int = 1
    grid: int = 9
    answers_only: bool = False
    aspects: tuple[Aspect, ...] = ASPECTS
    loose: float = 3.0
    backward: int = 5_000
    rows: int = 50_000_000


@dataclass(frozen=True)
class Tiles:
    """Tiles of Θ: ``low, high (N, d)``, and ``kinds (N, 2)`` of label and attention (OPEN, PROVED, REFUTED)."""

    low: Array
    high: Array
    kinds: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.low)

    def take(self, which: Any) -> Tiles:
        """See `verifier.bab.interfaces.Batch`."""
        return Tiles(self.low[which], self.high[which], self.kinds[which])

    @classmethod
    def join(cls, parts: Sequence[Tiles]) -> Tiles:
        """See `verifier.bab.interfaces.Batch`."""
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("low", "high", "kinds")))

    @property
    def nbytes(self) -> float:
        """See `verifier.bab.interfaces.Batch`."""
        return float(self.low.nbytes + self.high.nbytes + self.kinds.nbytes)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class AreaMap(Shown):
    """How much of Θ is proved, refuted and open.

    Attributes:
        perturbed, settings, delta, label: the question, as in `verifier.attention.RegionMap`.
        tiles: all tiles; together they are Θ.
        shares: by aspect the shares of Θ that are proved, refuted, open; not of an aspect that ``answers_only`` did
            not have to bound.
        answers: Robust is proved here with a bound on every rounding; NotRobust has an exact witness.
        reason: why tiles are open, if any are.
        worst: by aspect the worst of the points that were looked at.
        bounded: tiles that were bounded, split ones included.
        seconds: wall-clock time.
    """

    perturbed: Perturbed
    settings: Inconsistency
    delta: float
    label: int
    tiles: Tiles
    shares: Mapping[Aspect, tuple[float, float, float]]
    answers: Mapping[Aspect, AspectAnswer]
    reason: str
    worst: Mapping[str, Array]
    bounded: int
    seconds: float

    _drawn_by = "verifier.report.attention_areas:tiles_figure"

    def _facts(self) -> tuple[str, dict[str, str]]:
        facts: dict[str, str] = {aspect: found.answer.value for aspect, found in self.answers.items()}
        for aspect, (proved, refuted, left) in self.shares.items():
            facts[aspect] += f" (proved {proved:.1%}, refuted {refuted:.1%}, open {left:.1%})"
        parameters = ", ".join(f"{p.label} in [{p.low:g}, {p.high:g}]" for p in self.perturbed.perturbations)
        return f"AreaMap of {parameters}: {len(self.tiles):,} tiles", facts
