"""Pictures of restrictions and attributions. Every function returns a matplotlib figure; nothing is shown or saved.

The tick-mark plot and the class bands are Figures 1 and 2 of the ExactLine paper (NeurIPS 2019); the polar map is
how it and the patching paper (2019) draw the decisions of ACAS Xu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.errors import InputError
from verifier.network.operators import Array

if TYPE_CHECKING:
    from verifier.regions.classes import ClassBands, ClassMap
    from verifier.regions.line import LineRestriction
    from verifier.regions.polygons import Plane

ACAS_XU = ("clear of conflict", "weak left", "weak right", "strong left", "strong right")
"""The advisories of ACAS Xu in the order of its outputs; the smallest output is the advisory."""
ACAS_XU_MEAN = np.array([19791.091, 0.0, 0.0, 650.0, 600.0])
ACAS_XU_RANGE = np.array([60261.0, 2 * np.pi, 2 * np.pi, 1100.0, 1200.0])
"""Normalisation ``(x - mean) / range`` of the inputs of ACAS Xu: distance to the intruder (feet), its angle and
heading (radians, counter-clockwise from ahead), own and its velocity (feet a second)."""

COLOURS = (
    "#94c3d4", "#f3b562", "#7fb685", "#c8553d", "#426a8c",
    "#9c89b8", "#e29ab5", "#6b705c", "#cfb9a0", "#1d3540",
)  # fmt: skip
"""One colour per class, repeated beyond the tenth."""

INK, FAINT = "#22313f", "#9aa7b1"


def line_plot(restriction: LineRestriction, outputs: Sequence[int] | None = None, best: str | None = "max") -> Any:
    """The network along a line: outputs over t, the class bands, and a tick at every breakpoint.

    Args:
        outputs: the outputs to draw; the (at most ten) first ones by default.
        best: "max" or "min" draws the class bands by the largest or smallest output; None leaves them out.
    """
    from matplotlib.figure import Figure

    t, values = restriction.breakpoints, restriction.values
    chosen = list(range(min(10, values.shape[1]))) if outputs is None else list(outputs)
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    heights = [5.0, 0.45, 0.35] if best else [5.0, 0.35]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for k in chosen:
        axes[0].plot(
            t, values[:, k], color=COLOURS[k % len(COLOURS)], linewidth=1.8, label=str(k), solid_joinstyle="round"
        )
    axes[0].set_ylabel("output")
    axes[0].set_title(f"{len(restriction):,} linear pieces", loc="left", color=INK, fontsize=11)
    if len(chosen) > 1:
        axes[0].legend(
            ncols=len(chosen), frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), handlelength=1.2
        )
    _plain(axes[0])
    if best:
        _bands(axes[1], restriction.classes(best=best))
    _ticks(axes[-1], t)
    axes[-1].set_xlabel("t")
    axes[0].set_xlim(0, 1)
    return figure


def bands_plot(bands: ClassBands, names: Sequence[str] | None = None) -> Any:
    """The classes along a line as coloured bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.7), layout="constrained")
    axes = figure.add_subplot()
    _bands(axes, bands)
    axes.set_xlim(0, 1)
    axes.set_xlabel("t")
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    _legend(axes, np.unique(bands.labels), names)
    return figure


def plane_plot(
    classes: ClassMap, names: Sequence[str] | None = None, *, labels: tuple[str, str] = ("s", "t"), edges: bool = True
) -> Any:
    """The classes on a polygon of a plane, with the linear regions drawn faintly and the boundary in ink."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.4), layout="constrained")
    axes = figure.add_subplot()
    _polygons(axes, classes.polygons, classes.labels, edges)
    _boundary(axes, classes.boundaries)
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.margins(0)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(f"{len(np.unique(classes.regions)):,} linear regions", loc="left", color=INK, fontsize=11)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    _legend(axes, np.unique(classes.labels), names)
    return figure


def polar_map(
    classes: ClassMap,
    names: Sequence[str] | None = ACAS_XU,
    *,
    heading: float | None = None,
    title: str = "",
    step: float = np.pi / 90,
) -> Any:
    """A decision map whose plane coordinates are (distance, angle in radians), drawn around the own aircraft.

    The ownship is in the middle and flies up; an angle is that of the intruder, counter-clockwise from ahead.

    Args:
        heading: the intruder's heading in radians, relative to the ownship's; draws a sample intruder.
        step: edges are bent by steps of at most this angle.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(7.2, 6.6), layout="constrained")
    axes = figure.add_subplot()
    radius = float(classes.vertices[:, 0].max())
    bent = [_polar(_bend(polygon, step)) for polygon in classes.polygons]
    _polygons(axes, bent, classes.labels, edges=False)
    _boundary(axes, [_polar(_bend(s, step, closed=False)) for s in classes.boundaries], width=0.6)
    for share in (0.25, 0.5, 0.75, 1.0):
        axes.add_patch(Circle((0, 0), share * radius, fill=False, color=FAINT, linewidth=0.5, alpha=0.6))
        axes.annotate(
            f"{share * radius:,.0f} ft",
            (0, -share * radius),
            fontsize=7,
            color=INK,
            ha="center",
            va="bottom",
            alpha=0.8,
        )
    _aircraft(axes, 0.0, 0.0, 0.0, radius, INK)
    if heading is not None:
        _aircraft(axes, -0.72 * radius, 0.72 * radius * 0.9, heading, radius, "#a4243b")
    axes.set_xlim(-1.03 * radius, 1.03 * radius)
    axes.set_ylim(-1.03 * radius, 1.03 * radius)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    _legend(axes, np.unique(classes.labels), names)
    return figure


def acas_xu_map(classes: ClassMap, plane: Plane, title: str = "") -> Any:
    """The polar map of a network of ACAS Xu, from the classes on a plane of its normalised inputs.

    Raises:
        InputError: if the plane does not lie in distance and angle, heading and velocities being fixed.
    """
    if plane.u.size != 5 or np.abs(np.stack([plane.u, plane.v])[:, 2:]).max() > 1e-9:
        raise InputError(
            "an ACAS Xu map needs five inputs, of which distance and angle vary",
            fix="give corners that differ in the first two numbers only",
        )
    x = plane.embed(classes.vertices) * ACAS_XU_RANGE + ACAS_XU_MEAN
    heading = float(plane.origin[2] * ACAS_XU_RANGE[2])
    return polar_map(replace(classes, vertices=x[:, :2]), heading=heading, title=title)


def heat_map(attributions: Array, shape: Sequence[int], image: Array | None = None, title: str = "") -> Any:
    """Attributions of an image's pixels (summed over channels), red for, blue against; the image beside it.

    Args:
        attributions: flattened, of an input of this shape.
        shape: ``(channels, H, W)``; anything else is drawn as bars over the input's entries.
        image: the input itself, flattened, to be drawn on the left.
    """
    from matplotlib.figure import Figure

    flat = np.asarray(attributions, dtype=np.float64).reshape(-1)
    if len(shape) != 3 or 1 in tuple(shape)[1:]:
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.bar(np.arange(flat.size), flat, color=np.where(flat >= 0, "#b2182b", "#2166ac"))
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xlabel("input")
        axes.set_ylabel("attribution")
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        _plain(axes)
        return figure
    summed = flat.reshape(tuple(shape)).sum(axis=0)
    size = float(np.abs(summed).max()) or 1.0
    panels = 1 if image is None else 2
    figure = Figure(figsize=(4.2 * panels + 0.6, 4.2), layout="constrained")
    grid: Any = np.atleast_1d(figure.subplots(1, panels))
    if image is not None:
        x = np.asarray(image, dtype=np.float64).reshape(tuple(shape))
        x = (x - x.min()) / (float(np.ptp(x)) or 1.0)
        grid[0].imshow(x.transpose(1, 2, 0) if shape[0] == 3 else x.mean(axis=0), cmap="gray", interpolation="nearest")
        grid[0].set_title("input", loc="left", color=INK, fontsize=11)
    drawn = grid[-1].imshow(summed, cmap="RdBu_r", vmin=-size, vmax=size, interpolation="nearest")
    grid[-1].set_title(title or "attribution", loc="left", color=INK, fontsize=11)
    for one in grid:
        one.set_axis_off()
    bar = figure.colorbar(drawn, ax=grid[-1], shrink=0.85, pad=0.02)
    bar.outline.set_visible(False)
    return figure


# -- parts -----------------------------------------------------------------------------------------------
def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(axis="y", color="#e8edf0", linewidth=0.8)
    axes.set_axisbelow(True)


def _ticks(axes: Any, t: Array) -> None:
    width = 0.9 if len(t) < 150 else max(0.15, 130.0 / len(t))
    axes.vlines(t, 0, 1, color=INK, linewidth=width)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)


def _bands(axes: Any, bands: ClassBands) -> None:
    starts, widths = bands.boundaries[:-1], np.diff(bands.boundaries)
    colours = [COLOURS[k % len(COLOURS)] for k in bands.labels.tolist()]
    axes.bar(starts, np.ones(len(starts)), widths, align="edge", color=colours, linewidth=0)
    for start, width, label in zip(starts, widths, bands.labels.tolist(), strict=True):
        if width > 0.02:
            red, green, blue = (int(COLOURS[label % len(COLOURS)][i : i + 2], 16) for i in (1, 3, 5))
            ink = INK if 0.3 * red + 0.59 * green + 0.11 * blue > 130 else "white"
            axes.text(start + width / 2, 0.5, str(label), ha="center", va="center", fontsize=8, color=ink)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _polygons(axes: Any, polygons: Sequence[Array], labels: Any, edges: bool) -> None:
    from matplotlib.collections import PolyCollection

    colours = [COLOURS[k % len(COLOURS)] for k in np.asarray(labels).tolist()]
    lines: Any = colours
    width = 0.3
    if edges and len(polygons) <= 60_000:
        lines, width = "#00000026", 0.35
        # the fill again beneath the faint edges closes the seams between polygons
        axes.add_collection(PolyCollection(polygons, facecolors=colours, edgecolors=colours, linewidths=0.3))
    axes.add_collection(PolyCollection(polygons, facecolors=colours, edgecolors=lines, linewidths=width))


def _boundary(axes: Any, segments: Any, width: float = 1.1) -> None:
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(list(segments), colors=INK, linewidths=width, capstyle="round"))


def _legend(axes: Any, labels: Any, names: Sequence[str] | None) -> None:
    from matplotlib.patches import Patch

    shown = [int(k) for k in labels]
    axes.legend(
        handles=[
            Patch(color=COLOURS[k % len(COLOURS)], label=names[k] if names and k < len(names) else f"class {k}")
            for k in shown
        ],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=9,
        handlelength=1.0,
    )


def _polar(points: Array) -> Array:
    distance, angle = points[:, 0], points[:, 1]
    return np.stack([-distance * np.sin(angle), distance * np.cos(angle)], axis=1)


def _bend(points: Array, step: float, closed: bool = True) -> Array:
    """The points with more put in between so that no edge spans more than an angle of ``step``."""
    following = np.roll(points, -1, axis=0) if closed else points[1:]
    parts = []
    for a, b in zip(points, following, strict=False):
        count = max(1, int(np.ceil(abs(b[1] - a[1]) / step)))
        parts.append(a + np.linspace(0, 1, count, endpoint=False)[:, None] * (b - a))
    if not closed:
        parts.append(points[-1:])
    return np.concatenate(parts)


def _aircraft(axes: Any, x: float, y: float, heading: float, radius: float, colour: str) -> None:
    outline = np.array(
        [[0, 1], [0.12, 0.55], [0.12, 0.25], [0.9, -0.2], [0.9, -0.38], [0.12, -0.15], [0.1, -0.65], [0.38, -0.86],
         [0.38, -1.0], [0, -0.9]]
    )  # fmt: skip
    outline = np.concatenate([outline, outline[::-1] * [-1, 1]]) * radius * 0.055
    c, s = np.cos(heading), np.sin(heading)
    turned = outline @ np.array([[c, s], [-s, c]])
    axes.fill(turned[:, 0] + x, turned[:, 1] + y, color=colour, linewidth=1.2, edgecolor="white", zorder=5)
