"""Boxes of few inputs for networks of many neurons that are curved or jump: carried forward, and back for the rows alone.

Going back from every neuron of a curved network takes a pass for each of them, and all are undecided; carried forward,
bounds of all neurons cost a few evaluations (`verifier.bounds.forward`). Over the relaxations that follow, one pass back
bounds the rows of the condition, where most of what the forward bounds lose is won again.

A box is split along the input that moves most what costs the rows: the height of each relaxation times its coefficient
in a row, laid upon the inputs in proportion to how far they move its argument.
"""

from __future__ import annotations

import copy

import numpy as np

from verifier.bounds.crown import Crown, Relaxation
from verifier.bounds.crown_backward import Rows
from verifier.bounds.forward import Forward, SymbolicBounds
from verifier.bounds.relaxation import LinearRelaxation, PoolRelaxation, ProductRelaxation
from verifier.engines.native.bounding import ActivationColumns, Block, conclude, in_parts, row_errors, rows_back
from verifier.engines.native.rows import Integers, Results
from verifier.engines.native.settings import CutSettings
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.rows import Conditions, varying
from verifier.properties.sets import Box
from verifier.rounding import UNIT_ROUNDOFF

CHUNK = 1 << 20
"""Coefficients of the largest layer that are held at once."""


class CarriedBounds:
    """See the module; chooses no neurons. Implements `verifier.engines.native.bounding.BoxBounds`.

    Args:
        box: the root box.
        low, high: ``(B, n)``: boxes within it; all that are examined later must lie in one of these.
        cuts: what may be spent on a box.

    Attributes:
        together: boxes that are bounded together.

    Source:
        carried forward: Weng et al., ICML 2018 (Fast-Lin); back: Zhang et al., NeurIPS 2018, Theorem 3.2.
    """

    def __init__(
        self,
        network: Network,
        box: Box,
        low: Array,
        high: Array,
        conditions: Conditions,
        threads: int,
        cuts: CutSettings = CutSettings(),
    ) -> None:
        self._conditions, self._threads, self._cuts = conditions, threads, cuts
        self._forward = Forward(network, varying(box, low, high))
        self.together = max(1, CHUNK // (self._forward.width * (len(self._forward.free) + 1)))
        self._names = tuple(dict.fromkeys(node.inputs[0] for node in network.activations))
        self._crown = Crown(network, box, known=self._on_all(low, high, (*self._names, network.output)))
        row_errors(self._crown, conditions)  # refuses coefficients that could overflow
        self.root = (np.zeros((1, 0)), np.zeros((1, 0)))
        self.relu_numbers: Integers = np.zeros(0, dtype=np.int64)
        self.columns: ActivationColumns | None = None

    def of(self, conditions: Conditions) -> CarriedBounds:
        """The same, for some of the disjuncts alone."""
        other = copy.copy(self)
        other._conditions = conditions
        return other

    def _on_all(self, low: Array, high: Array, names: tuple[str, ...]) -> dict[str, tuple[Array, Array]]:
        """Bounds ``(1, size)`` of these nodes that hold on all of the boxes."""
        some = (low <= high).all(axis=1)
        low, high = np.unique(np.hstack([low, high])[some], axis=0).reshape(-1, 2, low.shape[1]).swapaxes(0, 1)
        known: dict[str, tuple[Array, Array]] = {}
        for k in range(0, len(low), self.together):
            found, _ = self._carried(low[k : k + self.together], high[k : k + self.together], names)
            for name, (a, b) in found.items():
                before = known.get(name, (a, b))
                ends = (
                    np.minimum(before[0].min(axis=0), a.min(axis=0)),
                    np.maximum(before[1].max(axis=0), b.max(axis=0)),
                )
                known[name] = ends[0][None], ends[1][None]
        return known

    def _carried(
        self, low: Array, high: Array, names: tuple[str, ...]
    ) -> tuple[dict[str, tuple[Array, Array]], dict[str, SymbolicBounds]]:
        """Bounds ``(B, size)`` of these nodes, and the functions that they are between."""
        found, boxes = self._forward.values(low, high, names)
        return {name: self._forward.ranges(found[name], boxes) for name in names}, found

    def examine(self, block: Block, free: Integers, widths: Array) -> Results:
        """See `BoxBounds`; the boxes are shared among the threads."""
        low, high = block["low"], block["high"]
        boxes, conditions = len(low), self._conditions
        slopes, constants = np.zeros((boxes, *conditions.x_rows.shape)), np.full((boxes, len(conditions)), -np.inf)
        influence = np.zeros((boxes, len(free)))

        def part(which: slice) -> None:
            some = {name: block[name][which] for name in ("low", "high", "open")}
            self._rows(some, slopes[which], constants[which], influence[which])

        in_parts(part, boxes, self.together, self._threads)
        before = (high - low)[:, free]
        results = conclude(block, slopes, constants, conditions, self._crown.network, free, widths, self._cuts.turns)
        left = (block["high"] - block["low"])[:, free]
        share = influence / (influence.sum(axis=1, keepdims=True) + 1e-300)
        score = share * left / np.maximum(before, 1e-300) + self._cuts.even * left / widths
        return results._replace(axis=score.argmax(axis=1))

    def _rows(self, block: Block, slopes: Array, constants: Array, influence: Array) -> None:
        """Functions below the rows of the open disjuncts, and what their relaxations cost, by inputs; written in place."""
        conditions, low, high = self._conditions, block["low"], block["high"]
        network = self._crown.network
        known, symbolic = self._carried(low, high, self._names)
        relaxed = self._crown.relax(low, high, parents=known, backward=False)
        block["open"][relaxed.empty] = False
        box_of, row_of = np.nonzero(block["open"][:, conditions.disjunct_of])
        if not len(box_of):
            return
        rows, below = self._back(relaxed, low, high, box_of, row_of, keep=True)
        slopes[box_of, row_of], constants[box_of, row_of] = rows.slopes, below
        radius = (high - low)[:, self._forward.free] / 2
        for node in network.activations:
            coefficients = rows.coefficients.get(node.name)
            if coefficients is not None:
                source = node.inputs[0]
                heights = _heights(relaxed.relaxations[node.name], *relaxed.intervals[source])
                if heights is None:
                    continue
                cost = np.zeros_like(heights)
                np.add.at(cost, box_of, np.abs(coefficients) * heights[box_of])
                influence += _laid(cost, symbolic[source], radius)

    def pairs(self, low: Array, high: Array, box_of: Integers, row_of: Integers) -> tuple[Array, Array]:
        """See `verifier.engines.native.disjuncts.PairBounds`."""
        known, _ = self._carried(low, high, self._names)
        relaxed = self._crown.relax(low, high, parents=known, backward=False)
        rows, constants = self._back(relaxed, low, high, box_of, row_of)
        return rows.slopes, constants

    def _back(
        self, relaxed: Relaxation, low: Array, high: Array, box_of: Integers, row_of: Integers, keep: bool = False
    ) -> tuple[Rows, Array]:
        """Rows on boxes, taken back to the input: functions below ``y_rows y + x_rows x``, and constants with the bounds off."""
        conditions = self._conditions
        rows = rows_back(self._crown, conditions, relaxed, (low, high), box_of, row_of, keep=keep, running=True)
        shift = conditions.bound[row_of]
        rounded = 4 * UNIT_ROUNDOFF * (np.abs(rows.constants) + np.abs(shift) + rows.slack)
        return rows, rows.constants - shift - 2 * rows.slack - rounded


def _heights(
    relaxation: LinearRelaxation | PoolRelaxation | ProductRelaxation, low: Array, high: Array
) -> Array | None:
    """How far the functions above and below an activation are apart in the middle, ``(B, outputs)``; None for maxima."""
    if isinstance(relaxation, PoolRelaxation):
        return None
    if isinstance(relaxation, ProductRelaxation):
        return np.where(relaxation.unstable, 2 * relaxation.error, 0.0)
    below = 0.0 if relaxation.lower_intercept is None else relaxation.lower_intercept
    rise = (relaxation.upper_slope - relaxation.lower_slope) * (low + (high - low) / 2)
    return np.where(relaxation.unstable, rise + relaxation.upper_intercept - below, 0.0)


def _laid(cost: Array, symbolic: SymbolicBounds, radius: Array) -> Array:
    """Costs ``(B, outputs)`` laid upon the inputs, ``(B, k)``, by how far they move the arguments."""
    moved = np.abs(symbolic.lower[:, :, :-1] + symbolic.upper[:, :, :-1]) * radius
    if len(moved) == 2 * cost.shape[1]:  # the factors of a product
        moved = moved[: cost.shape[1]] + moved[cost.shape[1] :]
    moved /= moved.sum(axis=2, keepdims=True) + 1e-300
    return np.asarray(np.einsum("bn,nbk->bk", cost, moved))
