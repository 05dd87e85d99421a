"""The picture of a saliency counterexample: x̂, its map, the witness, its map, the difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from verifier.network.graph import Network
from verifier.network.operators import Array


def picture(network: Network, x: Array, witness: Array, label: int, path: Path, side: int | None = None) -> None:
    """Write five panels side by side.

    Args:
        x, witness: flattened inputs.
        label: the output whose gradient is the map.
        path: where to write; the suffix chooses the format (.png, .svg, .pdf).
        side: width of the image; by default the network's own, or the square root of a channel's size.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    x, witness = np.asarray(x, dtype=np.float64).reshape(-1), np.asarray(witness, dtype=np.float64).reshape(-1)
    before, after = (network.gradient(p, label).reshape(-1) for p in (x, witness))
    shape = network.input_shape
    channels = shape[0] if len(shape) == 3 else 1
    pixels = x.size // channels
    width = side or (shape[-1] if len(shape) >= 2 else int(np.sqrt(pixels)))

    def panel(values: Array) -> Array:
        usable = values.reshape(channels, -1).mean(axis=0)
        if usable.size % width:
            return usable[None]
        return usable.reshape(-1, width)

    size = float(max(np.abs(before).max(), np.abs(after).max())) or 1.0
    changed = int(np.argmax(network.forward(witness)))
    low, high = float(min(x.min(), witness.min())), float(max(x.max(), witness.max()))
    figure, axes = plt.subplots(1, 5, figsize=(12.5, 3), layout="constrained")
    panels = [
        (panel(x), f"input, label {label}", "gray", (low, high)),
        (panel(before), "its map", "RdBu", (-size, size)),
        (panel(witness), f"witness, label {changed}", "gray", (low, high)),
        (panel(after), "its map", "RdBu", (-size, size)),
        (panel(after - before), f"difference, at most {np.abs(after - before).max():.3g}", "RdBu", (-size, size)),
    ]
    for axis, (values, title, colours, (bottom, top)) in zip(axes, panels, strict=True):
        image = axis.imshow(values, cmap=colours, vmin=bottom, vmax=top, aspect="auto" if len(values) == 1 else "equal")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
        figure.colorbar(image, ax=axis, shrink=0.7)
    figure.savefig(path, dpi=150)
    plt.close(figure)
