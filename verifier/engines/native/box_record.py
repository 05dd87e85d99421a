"""What input splitting writes into a proof: which boxes it divided where, and why it refuted disjuncts on them.

The compiled search says why by itself, in terms of `verifier.proofs.checker.kernel`'s rule: rows with default slopes, and
functions made on the way with slopes of their own. So that the rule finds the same bounds, a box's bounds start from those of
a box around it that the proof records too, every so many divisions, and not from its parent's; and what functions cut off a
box is a division like any other, if it is much.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from verifier.engines.native.bounding import Block, CertifiedBounds
from verifier.engines.native.rows import Integers, Results
from verifier.engines.native.settings import RecordSettings
from verifier.network.operators import Array
from verifier.proofs.tree import ProofTree, Term, Weights
from verifier.properties.rows import Conditions

CLOSE = 1e-6
"""Ends of an interval around 0 are as far from it as each other, to this share: then the default slope is no matter of course."""


class BoxRecord:
    """The record of one search.

    Args:
        rows: for each row of ``conditions`` its number among all rows of the query.
    """

    def __init__(
        self, bounds: CertifiedBounds, conditions: Conditions, rows: Integers, settings: RecordSettings
    ) -> None:
        self.bounds, self.conditions, self.rows, self.settings = bounds, conditions, rows, settings
        self.tree = ProofTree()

    def begin(self, root: Block) -> None:
        """Columns of the first boxes: each is the root of a tree."""
        root["node"] = np.array([self.tree.root(np.flatnonzero(disjuncts).tolist()) for disjuncts in root["open"]])
        root["depth"] = np.zeros(len(root["node"]), dtype=np.int64)
        for name in ("low", "high", "pre_low", "pre_high"):
            root[f"kept_{name}"] = root[name].copy()

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """Examine boxes from the bounds that the proof knows; what is cut off them is left to `divisions`.

        Shapes: free, widths ``(inputs that vary,)``.
        """
        before = block["open"].copy()
        low, high = block["low"].copy(), block["high"].copy()
        for name in ("pre_low", "pre_high"):
            block[name][:] = block[f"kept_{name}"]
        found, kept = self.bounds.certified(block, free, widths)
        block["kept_low"], block["kept_high"] = block["low"].copy(), block["high"].copy()
        block["low"][:], block["high"][:] = low, high
        closed = before & ~block["open"]
        written = closed.any(axis=1) | (block["depth"] % self.settings.every == 0)
        for name in ("pre_low", "pre_high"):
            block[f"kept_{name}"][written] = block[name][written]
        for k in np.flatnonzero(written):
            node = int(block["node"][k])
            self.tree.bounds(node)
            if kept.empty[k]:
                self.tree.contradiction(node)
                continue
            ends = block["pre_low"][k], block["pre_high"][k]
            for disjunct in np.flatnonzero(closed[k]):
                one = (kept.weights[k, disjunct], kept.mixes[k, disjunct], kept.slopes[k, disjunct])
                self.tree.refute(node, int(disjunct), self._terms(int(disjunct), *one, *ends))
        return found

    def _terms(self, disjunct: int, weights: Array, mixes: Array, slopes: Array, low: Array, high: Array) -> list[Term]:
        """The rows of a combination; where rounding might make the checker take another default slope, what was taken is written."""
        unstable = np.flatnonzero((low < 0) & (high > 0))
        low, high = low[unstable], high[unstable]
        default = high > -low
        chosen = len(self.bounds.relu_numbers) > 0  # bounds that choose no slopes leave all of them to the rule
        close = (np.abs(high + low) <= CLOSE * (high - low)) & chosen
        members = self.conditions.members(disjunct)
        count, terms = len(members), []
        own = np.flatnonzero(weights[:count])
        if len(own):
            told = Weights(self.bounds.relu_numbers[unstable[close]], default[close].astype(np.float64))
            terms.append(Term(self.rows[members[own]], weights[own], told if close.any() else None))
        for k in np.flatnonzero(weights[count : count + len(mixes)]):
            which = np.flatnonzero(mixes[k][members])
            given = slopes[k][unstable]
            other = (given != default) | close
            numbers = self.bounds.relu_numbers[unstable[other]]
            terms.append(
                Term(
                    self.rows[members[which]],
                    weights[count + k] * mixes[k][members[which]],
                    Weights(numbers, given[other].astype(np.float64)),
                )
            )
        return terms

    def divisions(self, block: Block, free: Integers, axis: Integers) -> tuple[Integers, Array]:
        """Where boxes are divided: the input, and its value: at the end of what is cut off them, where that is much.

        Shapes: free ``(inputs that vary,)``; axis ``(boxes,)``.
        """
        rows = np.arange(len(axis))
        low, high = block["low"][:, free], block["high"][:, free]
        width = np.maximum(high - low, 1e-300)
        below = (block["kept_low"][:, free] - low) / width
        above = (high - block["kept_high"][:, free]) / width
        best = np.maximum(below, above)
        at = best.argmax(axis=1)
        worth = best[rows, at] > self.settings.worth
        upper = above[rows, at] >= below[rows, at]
        margin = self.settings.outward * width[rows, at]
        end = np.where(upper, block["kept_high"][rows, free[at]] + margin, block["kept_low"][rows, free[at]] - margin)
        column = np.where(worth, free[at], free[axis])
        middle = block["low"][rows, column] + (block["high"][rows, column] - block["low"][rows, column]) / 2
        return column, np.where(worth, end, middle)

    def divide(self, block: Block, pair: Block, column: Any, value: Any) -> None:
        """Write divisions down; ``pair`` are the children, those of a box side by side."""
        for k, node in enumerate(block["node"].tolist()):
            pair["node"][2 * k : 2 * k + 2] = self.tree.divide_input(node, int(column[k]), float(value[k]))
        pair["depth"] += 1
