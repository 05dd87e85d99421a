"""The picture of a saliency counterexample: x̂, its map, the witness, its map, the difference."""

from __future__ import annotations

from typing import Any

import numpy as np

from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.map_condition import MapCondition
from verifier.properties.similarity import TopK
from verifier.report.style import INK, figure_of, image_shape, picture_of, signed_map


def witness_figure(condition: MapCondition, x: Array, witness: Array) -> Any:
    """Five panels side by side: the input and its map, the witness and its map, and the difference of the maps,
    which has a scale of its own.

    Shapes: x, witness ``(n,)``.

    Args:
        condition: whose map is drawn, and whose distance is named.
        x, witness: flattened inputs.
    """
    x, witness = np.asarray(x, dtype=np.float64).reshape(-1), np.asarray(witness, dtype=np.float64).reshape(-1)
    network = condition.network
    before, after = (condition.map.values(network, condition.output, p[None])[0] for p in (x, witness))
    distance = float(condition.distance(after[None])[0])
    shape, drawn = network.input_shape, condition.map.shape(network)
    channels, height, width = image_shape(drawn)
    pair = np.abs(np.stack([before, after]).reshape(2, channels, height, width).sum(axis=1))
    size = float(pair.max()) or 1.0
    label, changed = (_labels(network, p) for p in (x, witness))
    ends = (min(0.0, float(min(x.min(), witness.min()))), max(1.0, float(max(x.max(), witness.max()))))
    figure = figure_of(14, 3)
    axes = figure.subplots(1, 5)
    picture_of(axes[0], x, shape, title=f"input, label {label}", ends=ends)
    signed_map(axes[1], before, drawn, size=size, title="its map")
    picture_of(axes[2], witness, shape, title=f"witness, label {changed}", ends=ends)
    signed_map(axes[3], after, drawn, size=size, title="its map")
    if isinstance(condition.similarity, TopK):
        words = f"difference; framed: the top {condition.similarity.top.sum()}"
        rows = image_shape(drawn)
        for panel in (axes[1], axes[3]):
            _frame(panel, condition.similarity.top.reshape(rows).any(axis=0))
    else:
        words = f"difference, {condition.similarity.words} {distance:.3g}"
    signed_map(axes[4], after - before, drawn, title=words)
    return figure


def _frame(axes: Any, chosen: Any) -> None:
    """Frame the chosen pixels."""
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(chosen).tolist():
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.6))


def _labels(network: Network, x: Array) -> str:
    """The label at x; all of them where the largest outputs agree to about six digits."""
    y = network.forward(x).reshape(-1)
    tied = np.flatnonzero(y >= y.max() - 1e-6 * max(1.0, float(np.abs(y).max())))
    return " = ".join(map(str, tied.tolist()))
