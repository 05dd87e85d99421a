"""The picture of a saliency counterexample: x̂, its map, the witness, its map, the difference."""

from __future__ import annotations

from typing import Any

import numpy as np

from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.map_condition import MapCondition
from verifier.report.style import figure_of, image_shape, picture_of, signed_map


def witness_figure(condition: MapCondition, x: Array, witness: Array) -> Any:
    """Five panels side by side: the input and its map, the witness and its map, and the difference of the maps.

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
    words = f"difference, {condition.similarity.words} {distance:.3g}"
    signed_map(axes[4], after - before, drawn, size=size, title=words)
    return figure


def _labels(network: Network, x: Array) -> str:
    """The label at x; all of them where the largest outputs agree to about six digits."""
    y = network.forward(x).reshape(-1)
    tied = np.flatnonzero(y >= y.max() - 1e-6 * max(1.0, float(np.abs(y).max())))
    return " = ".join(map(str, tied.tolist()))
