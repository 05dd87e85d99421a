"""A `CondensedNetwork` found again with better bounds: on its whole box, or on the part of it where some phases hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.condensed import Block, Bounder, CondensedNetwork, Start
from verifier.bounds.condensed_values import Matrix
from verifier.network.operators import Array

RowsKept = list[tuple[int, npt.NDArray[np.intp], Array]]
"""Rows that were bounded: the number of their block, the neurons' places in the operator's output, and the weights
``(neurons before, 2 neurons)`` that gave the lower bounds and then the upper ones."""


def refine(
    condensed: CondensedNetwork,
    bounder: Bounder,
    phases: npt.NDArray[np.int8] | None = None,
    kept_rows: RowsKept | None = None,
) -> CondensedNetwork:
    """The condensed network again with better bounds, on the part of its box where some phases hold.

    Args:
        phases: ``(neurons,)`` over the unstable neurons: 1 or -1 where a phase is assumed (those that are assumed
            already included), else 0.
        kept_rows: if given, all rows that are bounded are added to it.

    Source:
        bounds of inner neurons found again after a split: Bunel et al., JMLR 2020, and Ferrari
        et al., ICLR 2022.
    """
    phases = condensed.phases if phases is None else phases
    new = CondensedNetwork(condensed.blocks[0], condensed.gamma)
    new.empty, new.fixed, new.cut = condensed.empty, dict(condensed.fixed), condensed.cut
    kept: list[Any] = [slice(None)]
    origin = np.zeros(0, dtype=np.intp)
    """The numbers that the new network's unstable neurons had in this one."""
    for block in condensed.blocks[1:]:
        count = block.count
        edges = [(s, m.restricted(slice(None), kept[s])) for s, m in block.edges]
        low, high = _by_intervals(block, edges, new)
        phase = phases[block.first : block.first + count]
        row_weights: Array | None = None
        neurons = np.flatnonzero(((low < 0) & (high > 0))[:count])
        if len(neurons) and (new.cut is not None or any(s for s, _ in edges)):
            begin = _inherited(block, neurons, origin, new, condensed)
            found, weights = bounder(new, _both_sides(block, edges, neurons), begin)
            if kept_rows is not None:
                kept_rows.append((len(new.blocks), block.neurons[neurons], weights))
            row_weights = np.zeros((new.neurons, 2 * count), dtype=np.float16)
            row_weights[:, np.concatenate([neurons, count + neurons])] = np.minimum(weights, 6e4)
            low[neurons] = np.maximum(low[neurons], found[: len(neurons)])
            high[neurons] = np.minimum(high[neurons], -found[len(neurons) :])
        if count:
            low[:count] = np.where(phase > 0, np.maximum(low[:count], 0.0), low[:count])
            high[:count] = np.where(phase < 0, np.minimum(high[:count], 0.0), high[:count])
            new.empty |= bool((low > high).any())
            high = np.maximum(low, high)
        opened, keep = _opened(low, high, phase)
        kept.append(keep)
        if block.node:
            new.fixed[block.node] = signs = condensed.fixed[block.node].copy()
            signs[np.delete(block.neurons, keep)] = -1
        origin = np.concatenate([origin, block.first + opened])
        if row_weights is not None:
            row_weights = row_weights[:, np.concatenate([opened, count + opened])]
        new.add_block(
            Block(
                block.neurons[keep],
                low[keep],
                high[keep],
                np.zeros(0),
                block.cost[keep],
                block.reach[keep],
                [(s, m.restricted(keep, slice(None))) for s, m in edges],
                block.constant[keep],
                row_weights=row_weights,
                node=block.node,
            ),
            phase[opened],
        )
    new.output = condensed.output.within(dict(enumerate(kept)))
    return new


Edges = Sequence[tuple[int, Matrix]]
"""The matrices into a block, with the number of the block that each comes from."""


def _by_intervals(block: Block, edges: Edges, new: CondensedNetwork) -> tuple[Array, Array]:
    """Bounds of a block's preactivations, ``(size,)`` each, by intervals over the new bounds of the blocks before it."""
    low = np.concatenate([block.z_low, block.low[block.count :]])
    high = np.concatenate([block.z_high, block.high[block.count :]])
    if not block.count:
        return low, high
    middle, radius = block.constant.copy(), 2 * block.cost
    for s, m in edges:
        before = new.blocks[s]
        center = before.low + (before.high - before.low) / 2
        middle += m.matrix @ center
        radius += abs(m.matrix) @ np.maximum(before.high - center, center - before.low)
    return np.maximum(low, middle - radius), np.minimum(high, middle + radius)


def _both_sides(block: Block, edges: Edges, neurons: npt.NDArray[np.intp]) -> Start:
    """The rows z and -z of some neurons of a block, over the blocks before it."""
    rows = {s: m.rows(neurons).T for s, m in edges}
    shift, cost = block.constant[neurons], block.cost[neurons]
    both = {s: np.hstack([a, -a]) for s, a in rows.items()}
    return Start(both, np.concatenate([shift, -shift]), np.concatenate([cost, cost]))


def _inherited(
    block: Block,
    neurons: npt.NDArray[np.intp],
    origin: npt.NDArray[np.intp],
    new: CondensedNetwork,
    condensed: CondensedNetwork,
) -> Array | None:
    """The weights ``(neurons before, 2 neurons)`` that bounded these rows last time; zero where a phase is new."""
    if block.row_weights is None:
        return None
    columns = np.concatenate([neurons, block.count + neurons])
    begin = block.row_weights[origin][:, columns].astype(np.float32)
    begin[(new.phases != 0) & (condensed.phases[origin] == 0)] = 0.0
    return begin


def _opened(low: Array, high: Array, phase: npt.NDArray[np.int8]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The neurons of a block that stay unstable, and all that stay: those, and then the active ones."""
    fixed = np.zeros(len(low), dtype=bool)
    fixed[: len(phase)] = phase != 0
    opened = np.flatnonzero(fixed | ((low < 0) & (high > 0)))
    return opened, np.concatenate([opened, np.flatnonzero((low >= 0) & ~fixed)])
