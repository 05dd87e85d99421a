"""What follows from linear functions below the rows of all disjuncts, on many boxes at once: refute, cut, choose.

The same for any network, in numpy: nothing is known here of its ReLUs, so a box is split along the input along which
the rows vary most. `verifier.engines.native.decide` does more for dense feed-forward networks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from verifier.engines.native.settings import CutSettings
from verifier.network.operators import Array
from verifier.rounding import SUM_RESERVE, UNIT_ROUNDOFF

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Results(NamedTuple):
    """What was found, one entry per box.

    Attributes:
        bound: the least bound over the disjuncts that stay open.
        axis: which of the varying inputs to split.
        neuron: the unstable ReLU that costs the bound most, -1 for none.
        point, margin: ``(B, n)`` the most promising point seen, and the greatest row of its best case there.
    """

    bound: Array
    axis: Integers
    neuron: Integers
    point: Array
    margin: Array


class Certificates(NamedTuple):
    """Why disjuncts are refuted, for a proof; all of length 0 where none is kept.

    Attributes:
        empty: ``(B,)`` boxes whose bounds contradict each other.
        weights: ``(B, C, S + F)`` of the disjunct's rows, in their order, and then of the functions made.
        mixes: ``(B, C, F, S)`` of which rows each function made is a bound.
        slopes: ``(B, C, F, neurons)`` and with which lower slopes.
    """

    empty: Flags
    weights: Array
    mixes: Array
    slopes: Flags

    @staticmethod
    def workspace_of(boxes: int, disjuncts: int, rows: int, functions: int, neurons: int) -> Certificates:
        """Room for why boxes are refuted."""
        return Certificates(
            np.zeros(boxes, dtype=np.bool_),
            np.zeros((boxes, disjuncts, rows + functions)),
            np.zeros((boxes, disjuncts, functions, rows)),
            np.zeros((boxes, disjuncts, functions, neurons), dtype=np.bool_),
        )


def new_results(boxes: int, inputs: int) -> Results:
    """Room for the results on so many boxes."""
    return Results(
        bound=np.full(boxes, np.inf),
        axis=np.zeros(boxes, dtype=np.int64),
        neuron=np.full(boxes, -1, dtype=np.int64),
        point=np.zeros((boxes, inputs)),
        margin=np.full(boxes, np.inf),
    )


def results_of(results: Results, which: slice) -> Results:
    """The results on some of the boxes, to be written."""
    return results._replace(**{name: array[which] for name, array in results._asdict().items()})


def examine_rows(
    low: Array,
    high: Array,
    open_disjuncts: Flags,
    row_slopes: Array,
    row_constants: Array,
    disjunct_of: Integers,
    free: Integers,
    widths: Array,
    turns: int = CutSettings().turns,
) -> Results:
    """Refute disjuncts, cut boxes and choose how to split them, from functions that are <= 0 where a disjunct is met.

    Args:
        low, high: ``(B, n)`` the boxes, cut in place.
        open_disjuncts: ``(B, C)``; False is written where a disjunct is refuted.
        row_slopes, row_constants: ``(B, S, n)``, ``(B, S)``: a function below each row; infinite constants and NaN
            say nothing.
        disjunct_of: ``(S,)`` the disjunct of each row, not decreasing.
        free, widths: the inputs that vary, and their widths in the root box.
        turns: how often all functions cut a box in turn.

    Source:
        bounds propagated through linear rows: Davis, Artificial Intelligence 1987.
    """
    disjuncts = open_disjuncts.shape[1]
    results = new_results(*low.shape)
    middle = low + (high - low) / 2
    radius = np.maximum(high - middle, middle - low) * (1 + 1e-15)
    with np.errstate(invalid="ignore", over="ignore"):
        value = row_constants + np.einsum("bsn,bn->bs", row_slopes, middle)
        size = np.abs(row_constants) + np.einsum("bsn,bn->bs", np.abs(row_slopes), np.abs(middle) + radius)
        value -= (SUM_RESERVE + 4 * UNIT_ROUNDOFF * low.shape[1]) * size
        slope = row_slopes[:, :, free]
        spread = np.abs(slope) * radius[:, None, free]
        least = value - spread.sum(axis=2)
    # the rows of a disjunct side by side, (B, C, K); a place without a row has a function that says nothing
    place = np.arange(len(disjunct_of)) - np.searchsorted(disjunct_of, disjunct_of)
    most = int(place.max(initial=-1)) + 1
    member = np.full((disjuncts, most), -1, dtype=np.int64)
    member[disjunct_of, place] = np.arange(len(disjunct_of))
    bound = np.where(member >= 0, least[:, member], -np.inf)
    bound = np.where(bound > -np.inf, bound, -np.inf)  # NaN says nothing
    best = bound.max(axis=2, initial=-np.inf)
    open_disjuncts &= ~(best > 0)
    cut_low, cut_high = (np.repeat(end[:, None, free], disjuncts, axis=1) for end in (low, high))
    for _ in range(turns):
        for k in range(most):
            rows = np.flatnonzero(member[:, k] >= 0)
            which = member[rows, k]
            _cut(cut_low, cut_high, rows, value[:, which], slope[:, which], middle[:, None, free])
    open_disjuncts &= (cut_low <= cut_high).all(axis=2)
    left = np.flatnonzero(open_disjuncts.any(axis=1))
    if not len(left):
        return results
    # the least bound of an open disjunct, and the corner where the row that gave it is least
    best = np.where(open_disjuncts, best, np.inf)[left]
    disjunct = best.argmin(axis=1)
    results.bound[left] = results.margin[left] = best[np.arange(len(left)), disjunct]
    results.point[left] = middle[left]
    if most:
        row = np.maximum(member[disjunct, bound[left, disjunct].argmax(axis=1)], 0)
        corner = -np.sign(row_slopes[left, row]) * radius[left]
        results.point[left] += np.where(np.isfinite(corner), corner, 0.0)
    shown = open_disjuncts[left]
    hull_low = np.where(shown[:, :, None], cut_low[left], np.inf).min(axis=1)
    hull_high = np.where(shown[:, :, None], cut_high[left], -np.inf).max(axis=1)
    gain = np.where(shown[:, disjunct_of, None], spread[left], 0.0).sum(axis=1)
    results.axis[left] = _axis(np.nan_to_num(gain), radius[left][:, free], hull_high - hull_low, widths)
    low[left[:, None], free], high[left[:, None], free] = hull_low, hull_high
    return results


def _cut(low: Array, high: Array, disjuncts: Integers, value: Array, slope: Array, middle: Array) -> None:
    """Cut the boxes ``(B, C, k)`` of these disjuncts to where ``value + slope @ (x - middle) <= 0``, in place."""
    a, b = low[:, disjuncts], high[:, disjuncts]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        end = np.where(slope > 0, a, b)
        least = value + (slope * (end - middle)).sum(axis=2)
        size = np.abs(value) + (np.abs(slope) * (np.abs(end) + np.abs(middle))).sum(axis=2)
        reach = (np.maximum(-least, 0.0) + SUM_RESERVE * size)[:, :, None] / slope * (1 + SUM_RESERVE)
        up, down = a + reach, b + reach
        up, down = up + SUM_RESERVE * np.abs(up), down - SUM_RESERVE * np.abs(down)
        # a comparison with NaN is False, and nothing is cut
        high[:, disjuncts] = np.where((slope > 0) & (up < b), up, b)
        low[:, disjuncts] = np.where((slope < 0) & (down > a), down, a)


def _axis(gain: Array, radius: Array, width: Array, widths: Array) -> Integers:
    """The input to split: where the rows vary most, less what cutting has gained there already."""
    shrunk = width / np.maximum(2 * radius, 1e-300)
    relative = width / widths
    score = shrunk * gain / (gain.sum(axis=1, keepdims=True) + 1e-300)
    score += relative / (relative.sum(axis=1, keepdims=True) + 1e-300)
    axis: Integers = score.argmax(axis=1)
    return axis
