"""Boxes of any network, bounded by CROWN as it is written for graphs; and of networks of few inputs, by forward bounds."""

from __future__ import annotations

import copy

import numpy as np

from verifier.bounds.crown import Crown, Relaxation
from verifier.bounds.forward import Forward
from verifier.engines.native.bounding import ActivationColumns, Block, conclude, in_parts, row_errors, rows_back
from verifier.engines.native.rows import (
    Certificates,
    Integers,
    Results,
)
from verifier.engines.native.settings import CutSettings
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.rows import Conditions
from verifier.rounding import TINY


class GraphBounds:
    """Any network, by `verifier.bounds.crown`; chooses no neurons.

    Args:
        reserve: so many times the slack for rounding is kept free.
        cuts: what may be spent on a box.
        together: boxes that `pairs` is best asked for together.

    Source:
        CROWN: Zhang et al., NeurIPS 2018, Theorem 3.2.
    """

    def __init__(
        self,
        crown: Crown,
        conditions: Conditions,
        threads: int,
        reserve: float = 1.0,
        cuts: CutSettings = CutSettings(),
        together: int = 256,
    ) -> None:
        self._turns, self.together = cuts.turns, together
        self._crown, self._conditions, self._threads = crown, conditions, threads
        self._names = crown.preactivations
        sizes = [crown.network[name].size for name in self._names]
        ends = np.cumsum([0, *sizes])
        self._parts = {name: slice(int(ends[k]), int(ends[k + 1])) for k, name in enumerate(self._names)}
        self.columns: ActivationColumns | None = ActivationColumns(
            crown.network, {node.name: self._parts[node.inputs[0]] for node in crown.network.activations}
        )
        known = [crown.root_bounds[name] for name in self._names]
        empty = np.zeros((1, 0))
        self.root = (np.hstack([k[0] for k in known] or [empty]), np.hstack([k[1] for k in known] or [empty]))
        self.relu_numbers: Integers = np.zeros(0, dtype=np.int64)
        self._reserve, self._errors = reserve, reserve * row_errors(crown, conditions)

    def of(self, conditions: Conditions) -> GraphBounds:
        """The same, for some of the disjuncts alone."""
        other = copy.copy(self)
        other._conditions, other._errors = conditions, self._reserve * row_errors(self._crown, conditions)
        return other

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """See `BoxBounds`; the boxes are shared among the threads."""
        slopes, constants = self._all_rows(block)
        return conclude(block, slopes, constants, self._conditions, self._crown.network, free, widths, self._turns)

    def certified(self, block: Block, free: Integers, widths: Array) -> tuple[Results, Certificates]:
        """See `CertifiedBounds`: each disjunct by one of its rows, with default slopes."""
        conditions, before = self._conditions, block["open"].copy()
        slopes, constants = self._all_rows(block)
        kept = Certificates.workspace_of(len(before), conditions.disjuncts, len(conditions), 0, 0)
        kept.empty[:] = before.any(axis=1) & ~block["open"].any(axis=1)
        low, high, refuted = block["low"].copy(), block["high"].copy(), np.zeros_like(before)
        least = constants + (np.maximum(slopes, 0) * low[:, None] + np.minimum(slopes, 0) * high[:, None]).sum(axis=2)
        least -= 1e-12 * (np.abs(slopes) * np.maximum(np.abs(low), np.abs(high))[:, None]).sum(axis=2)
        for disjunct in range(conditions.disjuncts):
            members = conditions.members(disjunct)
            best = least[:, members].argmax(axis=1)
            refuted[:, disjunct] = before[:, disjunct] & (least[np.arange(len(least)), members[best]] > 0)
            kept.weights[np.flatnonzero(refuted[:, disjunct]), disjunct, best[refuted[:, disjunct]]] = 1.0
        found = conclude(block, slopes, constants, conditions, self._crown.network, free, widths, self._turns)
        lost = before & ~refuted & ~kept.empty[:, None] & ~block["open"]  # cut off, without a row that says so
        block["open"] |= lost
        undone = np.flatnonzero(lost.any(axis=1))
        block["low"][undone], block["high"][undone] = low[undone], high[undone]
        found.axis[undone] = ((high - low)[undone][:, free] / widths).argmax(axis=1)
        found.bound[undone] = np.minimum(found.bound[undone], 0.0)
        return found, kept

    def _all_rows(self, block: Block) -> tuple[Array, Array]:
        """`_rows` of all boxes, which are shared among the threads."""
        boxes, conditions = len(block["low"]), self._conditions
        slopes, constants = np.zeros((boxes, *conditions.x_rows.shape)), np.full((boxes, len(conditions)), -np.inf)

        def part(which: slice) -> None:
            some = {name: value[which] for name, value in block.items()}
            self._rows(some, slopes[which], constants[which])

        step = boxes if self._threads == 1 or boxes < 16 else -(-boxes // self._threads)
        in_parts(part, boxes, step, self._threads)
        return slopes, constants

    def _rows(self, block: Block, slopes: Array, constants: Array) -> None:
        """Functions below the rows of the open disjuncts, written to ``slopes (B, S, n)`` and ``constants (B, S)``."""
        low, high, pre_low, pre_high = (block[k] for k in ("low", "high", "pre_low", "pre_high"))
        conditions, crown = self._conditions, self._crown
        parents = {name: (pre_low[:, part], pre_high[:, part]) for name, part in self._parts.items()}
        relaxation = crown.relax(low, high, parents=parents)
        for name, part in self._parts.items():
            pre_low[:, part], pre_high[:, part] = relaxation.intervals[name]
        block["open"][relaxation.empty] = False
        box_of, row_of = np.nonzero(block["open"][:, conditions.disjunct_of])
        if len(box_of):
            slopes[box_of, row_of], constants[box_of, row_of] = self._back(relaxation, low, high, box_of, row_of)

    def pairs(self, low: Array, high: Array, box_of: Integers, row_of: Integers) -> tuple[Array, Array]:
        """See `verifier.engines.native.disjuncts.PairBounds`."""
        return self._back(self._crown.relax(low, high), low, high, box_of, row_of)

    def _back(
        self, relaxation: Relaxation, low: Array, high: Array, box_of: Integers, row_of: Integers
    ) -> tuple[Array, Array]:
        """Functions below some rows, each on its own box, ``(P, n)`` and ``(P,)``."""
        conditions = self._conditions
        rows = rows_back(self._crown, conditions, relaxation, (low, high), box_of, row_of)
        # these errors are more than twice what the rows' bounds had subtracted
        return rows.slopes, rows.constants - conditions.bound[row_of] - 2 * self._errors[row_of]


class ForwardBounds:
    """Networks with very many neurons and few inputs, by `verifier.bounds.forward`; chooses no neurons.

    Source:
        Fast-Lin: Weng et al., ICML 2018, see `verifier.bounds.forward`.
    """

    CHUNK = 1 << 20
    """Coefficients of the largest layer that are held at once."""

    def __init__(
        self, network: Network, conditions: Conditions, free: Integers, threads: int, cuts: CutSettings = CutSettings()
    ) -> None:
        self._turns = cuts.turns
        self._forward, self._conditions, self._threads = Forward(network, free), conditions, threads
        self.root = (np.zeros((1, 0)), np.zeros((1, 0)))
        self.relu_numbers: Integers = np.zeros(0, dtype=np.int64)
        self.columns: ActivationColumns | None = None

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """See `BoxBounds`; the boxes are shared among the threads."""
        low, high = block["low"], block["high"]
        boxes, rows = len(low), len(self._conditions)
        slopes, constants = np.zeros((boxes, *self._conditions.x_rows.shape)), np.zeros((boxes, rows))

        def part(which: slice) -> None:
            slopes[which], constants[which] = self._rows(low[which], high[which])

        step = max(1, self.CHUNK // (self._forward.width * (len(free) + 1)))
        in_parts(part, boxes, step, self._threads)
        network = self._forward.network
        return conclude(block, slopes, constants, self._conditions, network, free, widths, self._turns)

    def _rows(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Functions below the rows of the condition: ``(B, S, n)``, ``(B, S)``."""
        conditions, forward = self._conditions, self._forward
        symbolic, _ = forward.bounds(low, high)
        y, x = conditions.y_rows, conditions.x_rows
        middle, apart = (symbolic.lower + symbolic.upper) / 2, (symbolic.upper - symbolic.lower) / 2
        found = np.einsum("sm,mbk->bsk", y, middle) - np.einsum("sm,mbk->bsk", np.abs(y), apart)
        slopes = np.tile(x, (len(low), 1, 1))
        slopes[:, :, forward.free] += found[:, :, :-1]
        most = np.maximum(np.abs(low), np.abs(high)) @ np.abs(x).T + symbolic.size.T @ np.abs(y).T
        slack = 2 * forward.gamma * (most + np.abs(conditions.bound)) + TINY
        return slopes, found[:, :, -1] - conditions.bound - slack
