"""What searches and ascents within bounds decide by numbers; engines pass them on as parts of their own settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SplitBoxSettings:
    """Into how many parts a box is cut whose bounds are looked at before any engine.

    Attributes:
        boxes: parts that are bounded, at most.
        neurons: of all of them together.
        slower: so many times fewer with α-CROWN, which takes longer.
    """

    boxes: int = 12
    neurons: int = 6000
    slower: int = 20


@dataclass(frozen=True, kw_only=True)
class NeuronSearchSettings:
    """How the bounds of neurons are searched for (`verifier.bounds.neuron_search`).

    Attributes:
        steps: of the ascent on a node: new nodes raise bounds more than more steps do.
        pays, most: a block's searches go on with twice the effort while they have closed so many of its unstable neurons, up
            to so many nodes: where one block collapses, all later ones may.
        growth: from round to round, so many times more leaves of each row are split.
        reached_share: so much less is spent on rows that are below zero at some point: they cannot close, only rise.
        samples: points at which all rows are evaluated, at most.
        margin: a bound in float32 must be so far above zero to be tried in float64.
    """

    steps: int = 3
    pays: float = 0.03
    most: int = 64_000
    growth: float = 1.3
    reached_share: float = 0.1
    samples: int = 2000
    margin: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """How neurons are bounded in windows (`verifier.bounds.structured.sweep`).

    Attributes:
        tiles: sides of the squares of neurons that are bounded together.
        call: what one pass costs beside its products, in products.
        worth: where rounding in float32 costs more than this share of a bound's width, the neurons left are bounded in float64.
        largest: bytes of the largest tensor of a pass: what caches hold.
        alive: tensors of that size that a pass holds at once, at most.
    """

    tiles: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 1 << 30)
    call: float = 5e7
    worth: float = 0.01
    largest: float = 2e7
    alive: int = 8


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """How the slopes of rows are optimised after a sweep (`verifier.bounds.structured.rows`).

    Attributes:
        rate, decay: first step length of Adam, and what it shrinks by.
        together: rows whose slopes are optimised together.
    """

    rate: float = 0.25
    decay: float = 0.97
    together: int = 16
