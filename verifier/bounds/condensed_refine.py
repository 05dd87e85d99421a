"""A `CondensedNetwork` found again with better bounds: on its whole box, or on the part of it where some phases hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from verifier.bounds.condensed import Block, Bounder, CondensedNetwork, Start
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
        low = np.concatenate([block.z_low, block.low[count:]])
        high = np.concatenate([block.z_high, block.high[count:]])
        phase = phases[block.first : block.first + count]
        row_weights: Array | None = None
        if count:
            middle, radius = block.constant.copy(), 2 * block.cost
            for s, m in edges:
                center = new.blocks[s].low + (new.blocks[s].high - new.blocks[s].low) / 2
                middle += m.matrix @ center
                radius += abs(m.matrix) @ np.maximum(new.blocks[s].high - center, center - new.blocks[s].low)
            low, high = np.maximum(low, middle - radius), np.minimum(high, middle + radius)
            neurons = np.flatnonzero(((low < 0) & (high > 0))[:count])
            if len(neurons) and (new.cut is not None or any(s for s, _ in edges)):
                rows = {s: m.rows(neurons).T for s, m in edges}
                both = {s: np.hstack([a, -a]) for s, a in rows.items()}
                shift, cost = block.constant[neurons], block.cost[neurons]
                start = Start(both, np.concatenate([shift, -shift]), np.concatenate([cost, cost]))
                columns = np.concatenate([neurons, count + neurons])
                begin = None
                if block.row_weights is not None:
                    begin = block.row_weights[origin][:, columns].astype(np.float32)
                    begin[(new.phases != 0) & (condensed.phases[origin] == 0)] = 0.0
                found, weights = bounder(new, start, begin)
                if kept_rows is not None:
                    kept_rows.append((len(new.blocks), block.neurons[neurons], weights))
                row_weights = np.zeros((new.neurons, 2 * count), dtype=np.float16)
                row_weights[:, columns] = np.minimum(weights, 6e4)
                low[neurons] = np.maximum(low[neurons], found[: len(neurons)])
                high[neurons] = np.minimum(high[neurons], -found[len(neurons) :])
            low[:count] = np.where(phase > 0, np.maximum(low[:count], 0.0), low[:count])
            high[:count] = np.where(phase < 0, np.minimum(high[:count], 0.0), high[:count])
            new.empty |= bool((low > high).any())
            high = np.maximum(low, high)
        fixed = np.zeros(block.size, dtype=bool)
        fixed[:count] = phase != 0
        opened = np.flatnonzero(fixed | ((low < 0) & (high > 0)))
        keep = np.concatenate([opened, np.flatnonzero((low >= 0) & ~fixed)])
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
