"""The picture of a saliency counterexample: x̂, its map, the witness, its map, the difference."""

from __future__ import annotations

from math import isqrt, prod
from pathlib import Path

import numpy as np

from verifier.files import write_figure
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.similarity import MapCondition

_DISTANCES = {"linf": "L∞", "l1": "L1", "l2": "L2", "top-k": "top-k lead"}


def picture(condition: MapCondition, x: Array, witness: Array, path: Path, side: int | None = None) -> None:
    """Write five panels side by side.

    Args:
        condition: whose map is drawn, and whose distance is named.
        x, witness: flattened inputs.
        path: where to write; the suffix chooses the format (.png, .svg, .pdf).
        side: width of the image; by default the network's own; vectors of a square size become squares.
    """
    from matplotlib.figure import Figure

    x, witness = np.asarray(x, dtype=np.float64).reshape(-1), np.asarray(witness, dtype=np.float64).reshape(-1)
    network = condition.network
    before, after = (condition.map.values(network, condition.output, p[None])[0] for p in (x, witness))
    distance = float(condition.distance(after[None])[0])
    shape = network.input_shape
    channels = shape[0] if len(shape) == 3 else 1
    width = side or _width(shape[1:] if len(shape) == 3 else shape)

    def panel(values: Array) -> Array:
        usable = values.reshape(channels, -1).mean(axis=0)
        return usable[None] if usable.size % width else usable.reshape(-1, width)

    size = float(max(np.abs(before).max(), np.abs(after).max())) or 1.0
    label, changed = (_labels(network, p) for p in (x, witness))
    low, high = float(min(x.min(), witness.min())), float(max(x.max(), witness.max()))
    figure = Figure(figsize=(12.5, 3), layout="constrained")
    axes = figure.subplots(1, 5)
    panels = [
        (panel(x), f"input, label {label}", "gray", (low, high)),
        (panel(before), "its map", "RdBu", (-size, size)),
        (panel(witness), f"witness, label {changed}", "gray", (low, high)),
        (panel(after), "its map", "RdBu", (-size, size)),
        (
            panel(after - before),
            f"difference, {_DISTANCES[condition.similarity]} {distance:.3g}",
            "RdBu",
            (-size, size),
        ),
    ]
    for axis, (values, title, colours, (bottom, top)) in zip(axes, panels, strict=True):
        image = axis.imshow(values, cmap=colours, vmin=bottom, vmax=top, aspect="auto" if len(values) == 1 else "equal")
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        figure.colorbar(image, ax=axis, shrink=0.7)
    write_figure(path, figure)


def _labels(network: Network, x: Array) -> str:
    """The label at x; all of them where the largest outputs agree to about six digits."""
    y = network.forward(x).reshape(-1)
    tied = np.flatnonzero(y >= y.max() - 1e-6 * max(1.0, float(np.abs(y).max())))
    return " = ".join(map(str, tied.tolist()))


def _width(shape: tuple[int, ...]) -> int:
    """How many entries a row of the picture has: an image's own width, a square's side for vectors, else all."""
    if len(shape) == 2 and min(shape) > 1:
        return shape[1]
    size = prod(shape)
    side = isqrt(size)
    return side if side * side == size and size > 4 else size
