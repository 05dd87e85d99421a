"""The picture of a witness: the input, its saliency map where the question speaks of one, and the outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.errors import InputError
from verifier.report.style import FAINT, INK, colour_of, figure_of, picture_of, plain_axes, signed_map

if TYPE_CHECKING:
    from verifier.network.operators import Array
    from verifier.verdict import Verdict, Witness


def witness_plot(witness: Witness, given: Array | None = None, data: Array | None = None) -> Any:
    """The counterexample, its map or gradient (red raises the output, blue lowers it), and the outputs.

    Args:
        given: the input that the question is about, ``(n,)``; it and the change are drawn, too.
        data: the counterexample in the data's units, ``(n,)``, where these are not the network's; ``given`` is in them, too.
    """
    shape = witness.shape or (witness.input.size,)
    found = witness.map if witness.map is not None else witness.gradient
    shown = witness.input if data is None else data
    panels = 2 + (found is not None) + 2 * (given is not None)
    figure = figure_of(2.9 * panels + 1.2, 3.2)
    axes = list(figure.subplots(1, panels, width_ratios=[*[1.0] * (panels - 1), 1.5]))
    if given is not None:
        both = np.stack([given, shown])
        ends = (min(0.0, float(both.min())), max(1.0, float(both.max())))
        picture_of(axes.pop(0), given, shape, title="the input", ends=ends)
        picture_of(axes.pop(0), shown, shape, title="the counterexample", ends=ends)
        signed_map(axes.pop(0), shown - given, shape, title=f"change, at most {np.abs(shown - given).max():.3g}")
    else:
        picture_of(axes.pop(0), shown, shape, title="the counterexample")
    if found is not None:
        signed_map(axes.pop(0), found, shape, title="saliency map" if witness.map is not None else "gradient")
    outputs_bars(axes.pop(), witness.output, witness.lead if len(witness.output) > 1 else "")
    return figure


def verdict_plot(verdict: Verdict) -> Any:
    """The counterexample of a verdict.

    Raises:
        InputError: it has none.
    """
    if verdict.witness is None:
        raise InputError(f"a verdict {verdict.status.name} has no counterexample to draw")
    return witness_plot(verdict.witness)


def outputs_bars(axes: Any, output: Array, title: str = "") -> None:
    """The outputs as bars, in the colours of their classes.

    Shapes: output ``(outputs,)``.
    """
    count = len(output)
    axes.bar(range(count), output, color=[colour_of(k) for k in range(count)], edgecolor=FAINT, linewidth=0.5)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("output", color=INK, fontsize=8)
    axes.set_xticks(np.arange(count) if count <= 20 else np.linspace(0, count - 1, 6).astype(int))
    axes.set_title(f"largest: {title}" if title else "outputs", loc="left", color=INK, fontsize=9)
    plain_axes(axes)
