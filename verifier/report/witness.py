"""The picture of a witness: the input, its saliency map where the question speaks of one, and the outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.report.style import FAINT, INK, colour_of, figure_of, picture_of, plain_axes, signed_map

if TYPE_CHECKING:
    from verifier.network.operators import Array
    from verifier.verdict import Witness


def witness_plot(witness: Witness) -> Any:
    """The input, its map or gradient (red raises the output, blue lowers it), and the outputs."""
    shape = witness.shape or (witness.input.size,)
    found = witness.map if witness.map is not None else witness.gradient
    figure = figure_of(8.5 if found is None else 12, 3.2)
    axes = figure.subplots(1, 2 if found is None else 3)
    picture_of(axes[0], witness.input, shape, title="input")
    if found is not None:
        signed_map(axes[1], found, shape, title="saliency map" if witness.map is not None else "gradient")
    outputs_bars(axes[-1], witness.output, witness.lead if len(witness.output) > 1 else "")
    return figure


def outputs_bars(axes: Any, output: Array, title: str = "") -> None:
    """The outputs as bars, in the colours of their classes."""
    count = len(output)
    axes.bar(range(count), output, color=[colour_of(k) for k in range(count)], edgecolor=FAINT, linewidth=0.5)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("output", color=INK, fontsize=8)
    axes.set_xticks(np.arange(count) if count <= 20 else np.linspace(0, count - 1, 6).astype(int))
    axes.set_title(f"largest: {title}" if title else "outputs", loc="left", color=INK, fontsize=9)
    plain_axes(axes)
