"""Which features are free by linear bounds of the margins alone, many at once.

CROWN gives for every margin ``y_label - y_j`` on a box a linear function below it. Its minimum over a box is a sum over
the features, so one such function prices every feature: how much freeing it can cost that margin. Any set of features of
the box whose prices do not use up what the margins have to spare is free, too, together with what was free before:
fractional greedy choice by the dearest share (Boumazouza et al., *FAME*, ICLR 2026, Section 4; theirs is one box with a
cardinality, ours are nested boxes around ever more features in the order of their prices, bounded in one batch).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifier.bounds.crown import Crown
from verifier.errors import UnsupportedOperatorError
from verifier.explain.explained import Explained
from verifier.network.operators import Array
from verifier.rounding import gamma

CELLS = 1 << 20
"""Neurons times inputs times boxes that are bounded in one batch, about."""
MOST_BOXES, LEAST_BOXES = 24, 4


class Margins:
    """Linear bounds of the margins while features are freed.

    Attributes:
        prices: ``(features,)`` how much of what some margin has to spare each feature may cost, as far as last known.
    """

    def __init__(self, explained: Explained) -> None:
        self.explained = explained
        e, everything = explained, range(len(explained.features))
        try:
            self._crown: Crown | None = Crown(e.network, e.query.box)
        except UnsupportedOperatorError:
            self._crown = None
            slopes = e.network.gradient(e.x, e.margins.sum(axis=0)).reshape(-1)
            self.prices: Array = e.features.sums(np.abs(slopes) * (e.high - e.low))
            return
        work = e.network.neurons * e.network.input_size
        self._boxes = int(np.clip(CELLS // max(work, 1), LEAST_BOXES, MOST_BOXES))
        spare, prices = self._priced(frozenset(), [list(everything)])
        self.prices = (prices[0] / np.abs(spare[0])[:, None].clip(1e-9)).max(axis=0)

    def grow(self, free: frozenset[int], pending: Sequence[int]) -> frozenset[int]:
        """Features of ``pending`` that are proved to be free together with those that are."""
        gained = frozenset[int]()
        if self._crown is None:
            return gained
        while True:
            left = sorted((k for k in pending if k not in gained), key=lambda k: (self.prices[k], k))
            if not left:
                return gained
            counts = np.unique(np.geomspace(1, len(left), self._boxes).round().astype(int)).tolist()
            spare, prices = self._priced(free | gained, [left[:count] for count in counts])
            best: list[int] = []
            for count, have, price in zip(counts, spare, prices, strict=True):
                if count > len(best) and (have > 0).all():
                    share = (price[:, left[:count]] / have[:, None]).max(axis=0)
                    order = np.argsort(share, kind="stable")
                    spent = np.cumsum(price[:, left[:count]][:, order], axis=1)
                    fits = int(np.cumprod((spent < have[:, None]).all(axis=0)).sum())
                    if fits > len(best):
                        best = [left[k] for k in order[:fits].tolist()]
                        self.prices[left[:count]] = share
            if not best:
                return gained
            gained |= frozenset(best)

    def proved(self, sets: Sequence[frozenset[int]]) -> list[bool]:
        """Of which sets of features linear bounds prove that they are free together."""
        if self._crown is None:
            return [False] * len(sets)
        found: list[bool] = []
        for first in range(0, len(sets), self._boxes):
            some = sets[first : first + self._boxes]
            spare, prices = self._priced(frozenset(), [sorted(s) for s in some])
            found += (spare - prices.sum(axis=2) > 0).all(axis=1).tolist()
        return found

    def _priced(self, free: frozenset[int], groups: list[list[int]]) -> tuple[Array, Array]:
        """For boxes in which ``free`` and a group of further features move: what the margins have to spare where the group
        keeps still ``(B, m - 1)``, and how much each of its features can cost ``(B, m - 1, features)``; rounding included.
        """
        assert self._crown is not None
        e = self.explained
        masks = np.stack([e.features.mask(free.union(group)) for group in groups])
        low, high = (np.where(masks, end, e.x) for end in (e.query.box.lower, e.query.box.upper))
        relaxed = self._crown.relax(low, high, parents=self._crown.root_bounds)
        rows = e.margins
        box_of = np.repeat(np.arange(len(groups)), len(rows))
        found = self._crown.lower(
            e.network.output, np.tile(rows, (len(groups), 1)), box_of, relaxed.relaxations, low, high
        )
        slopes = found.slopes.reshape(len(groups), len(rows), -1)
        lost = slopes * e.x - np.minimum(slopes * low[:, None], slopes * high[:, None])
        prices = np.zeros((len(groups), len(rows), len(e.features)))
        total = found.lower.reshape(len(groups), len(rows)).copy()
        # what the sums of prices may be off by
        size = np.abs(slopes) @ np.maximum(np.abs(e.query.box.lower), np.abs(e.query.box.upper))
        total -= 8 * gamma(slopes.shape[-1] + 8) * (size + np.abs(total))
        for b, group in enumerate(groups):
            if group:
                prices[b][:, group] = e.features.sums(lost[b])[:, group]
                total[b] += prices[b].sum(axis=1)
        return total, prices
