"""Pictures of networks and of questions: the sizes of the layers, and the inputs that a question speaks of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.network.piecewise import PiecewiseOperator
from verifier.report.style import FAINT, INK, colour_of, figure_of, image_shape, picture_of, plain_axes

if TYPE_CHECKING:
    from verifier.network.graph import Network
    from verifier.properties.query import Query

MOST = 40
"""Layers that are drawn."""


def network_plot(network: Network) -> Any:
    """The layers from the input down: how many values each has (the scale is logarithmic), its operator and shape."""
    nodes = network.nodes[:MOST]
    figure = figure_of(7, 0.9 + 0.26 * len(nodes))
    axes = figure.add_subplot()
    neurons = [isinstance(node.operator, PiecewiseOperator) for node in nodes]
    axes.barh(range(len(nodes)), [node.size for node in nodes], color=[colour_of(1 if n else 0) for n in neurons])
    for k, node in enumerate(nodes):
        shape = "×".join(map(str, node.shape)) or "scalar"
        axes.annotate(
            f" {type(node.operator).__name__} {shape}", (node.size, k), fontsize=8, color=INK, va="center",
            annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(nodes)), [node.name for node in nodes])
    axes.set_ylim(len(nodes) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xlim(0.7, 30.0 * max(node.size for node in nodes))
    axes.set_xlabel("values (orange: neurons, which bend)", color=INK, fontsize=9)
    left_out = f", the first {MOST} drawn" if len(network.nodes) > MOST else ""
    axes.set_title(
        f"{len(network.nodes)} layers{left_out}; {network.neurons:,} neurons", loc="left", color=INK, fontsize=11
    )
    plain_axes(axes)
    axes.grid(visible=False)
    return figure


def query_plot(query: Query) -> Any:
    """The inputs of a question: the one asked about, if there is one, and the lowest and highest value of every entry."""
    shape = query.network.input_shape
    ends = (query.box.lower, query.box.upper)
    if image_shape(shape)[1] == 1:
        figure = figure_of(7, 3)
        axes = figure.add_subplot()
        places = np.arange(query.box.size)
        axes.bar(places, ends[1] - ends[0], bottom=ends[0], color=colour_of(0), edgecolor=FAINT)
        if query.anchor is not None:
            axes.plot(places, query.anchor, "o", color=INK, markersize=4)
        axes.set_xlabel("entry of the input", color=INK)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(query.description or "the inputs of the question", loc="left", color=INK, fontsize=9)
        plain_axes(axes)
        return figure
    panels = [
        *([("the input", query.anchor)] if query.anchor is not None else []),
        ("lowest", ends[0]),
        ("highest", ends[1]),
    ]
    finite = np.stack([np.nan_to_num(values) for _, values in panels])
    figure = figure_of(2.8 * len(panels), 3)
    for axes, (title, _), values in zip(figure.subplots(1, len(panels)), panels, finite, strict=True):
        picture_of(
            axes, values, shape, title=title, ends=(min(0.0, float(finite.min())), max(1.0, float(finite.max())))
        )
    return figure
