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
from verifier.report.style import (
    FAINT,
    INK,
    colour_of,
    figure_of,
    image_shape,
    picture_of,
    plain_axes,
    signed_map,
)

if TYPE_CHECKING:
    from verifier.attribution.attribute import Attribution
    from verifier.regions.classes import ClassBands, ClassMap
    from verifier.regions.line import LineRestriction
    from verifier.regions.plane import PlaneRestriction
    from verifier.regions.polygons import Plane

ACAS_XU = ("clear of conflict", "weak left", "weak right", "strong left", "strong right")
"""The advisories of ACAS Xu in the order of its outputs; the smallest output is the advisory."""
ACAS_XU_MEAN = np.array([19791.091, 0.0, 0.0, 650.0, 600.0])
ACAS_XU_RANGE = np.array([60261.0, 2 * np.pi, 2 * np.pi, 1100.0, 1200.0])
"""Normalisation ``(x - mean) / range`` of the inputs of ACAS Xu: distance to the intruder (feet), its angle and
heading (radians, counter-clockwise from ahead), own and its velocity (feet a second)."""


def line_plot(restriction: LineRestriction, outputs: Sequence[int] | None = None, best: str | None = "max") -> Any:
    """The network along a line: outputs over t, the class bands, and a tick at every breakpoint.

    Args:
        outputs: the outputs to draw; the (at most ten) first ones by default.
        best: "max" or "min" draws the class bands by the largest or smallest output; None leaves them out.
    """
    t, values = restriction.breakpoints, restriction.values
    chosen = list(range(min(10, values.shape[1]))) if outputs is None else list(outputs)
    figure = figure_of(9, 4.4)
    heights = [5.0, 0.45, 0.35] if best else [5.0, 0.35]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for k in chosen:
        axes[0].plot(t, values[:, k], color=colour_of(k), linewidth=1.8, label=str(k), solid_joinstyle="round")
    axes[0].set_ylabel("output")
    axes[0].set_title(f"{len(restriction):,} linear pieces", loc="left", color=INK, fontsize=11)
    if len(chosen) > 1:
        axes[0].legend(
            ncols=len(chosen), frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), handlelength=1.2
        )
    plain_axes(axes[0])
    if best:
        _bands(axes[1], restriction.classes(best=best))
        _beside(axes[1], "class")
    _ticks(axes[-1], t)
    _beside(axes[-1], "breaks")
    start, end = (
        " ".join(filter(None, (w, _point(x)))) for w, x in (("start", restriction.start), ("end", restriction.end))
    )
    axes[-1].set_xlabel(f"t: from the {start} at 0 to the {end} at 1")
    axes[0].set_xlim(0, 1)
    return figure


def bands_plot(bands: ClassBands, names: Sequence[str] | None = None) -> Any:
    """The classes along a line as coloured bands."""
    figure = figure_of(9, 1.7)
    axes = figure.add_subplot()
    _bands(axes, bands)
    axes.set_xlim(0, 1)
    axes.set_xlabel("t, from the start at 0 to the end at 1")
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    _legend(axes, np.unique(bands.labels), names)
    return figure


def restriction_plot(restriction: PlaneRestriction, *, best: str = "max", names: Sequence[str] | None = None) -> Any:
    """A network on a polygon: see `plane_plot`.

    Args:
        best: "max" or "min": whether the largest or the smallest output is the class.
        names: of the classes; their numbers by default.
    """
    return plane_plot(restriction.classes(best=best), names, plane=restriction.plane)


def plane_plot(
    classes: ClassMap,
    names: Sequence[str] | None = None,
    *,
    labels: tuple[str, str] = ("s", "t"),
    edges: bool = True,
    plane: Plane | None = None,
) -> Any:
    """The classes on a polygon of a plane, with the linear regions drawn faintly and the boundary in ink.

    Args:
        names: of the classes; their numbers by default.
        labels: what the axes are called.
        edges: whether linear regions are drawn.
        plane: names the inputs at the polygon's corners, below the picture.
    """
    figure = figure_of(7, 6.4)
    axes = figure.add_subplot()
    _polygons(axes, classes.polygons, classes.labels, edges)
    _boundary(axes, classes.boundaries)
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.margins(0.0 if plane is None else 0.05)
    axes.set_xlabel(labels[0], color=INK)
    axes.set_ylabel(labels[1], color=INK)
    axes.set_title(f"{len(np.unique(classes.regions)):,} linear regions", loc="left", color=INK, fontsize=11)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    if plane is not None:
        _name_corners(figure, axes, classes.vertices, plane)
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
    from matplotlib.patches import Circle

    figure = figure_of(7.2, 6.6)
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


def attribution_plot(found: Attribution) -> Any:
    """An attribution: see `heat_map`; the input stands beside the map where both have its shape."""
    same = found.values.shape == found.input.shape
    title = f"{found.what} of output {found.target}"
    return heat_map(found.values, found.values.shape, found.input if same else None, title)


def heat_map(attributions: Array, shape: Sequence[int], image: Array | None = None, title: str = "") -> Any:
    """Attributions of an image's pixels (summed over channels), red for, blue against; the image beside it.

    Args:
        attributions: of an input of this shape, or flattened.
        shape: as `verifier.report.style.image_shape` draws it; what is no image is drawn as bars over the entries.
        image: the input itself, to be drawn on the left.
    """
    flat = np.asarray(attributions, dtype=np.float64).reshape(-1)
    shape = tuple(shape)
    if image_shape(shape)[1] == 1:
        figure = figure_of(7, 3.2)
        axes = figure.add_subplot()
        axes.bar(np.arange(flat.size), flat, color=np.where(flat >= 0, "#b2182b", "#2166ac"))
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xlabel("entry")
        axes.set_ylabel("attribution")
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        axes.xaxis.get_major_locator().set_params(integer=True)
        plain_axes(axes)
        return figure
    panels = 1 if image is None else 2
    figure = figure_of(4.2 * panels + 0.6, 4.2)
    grid: Any = np.atleast_1d(figure.subplots(1, panels))
    if image is not None:
        picture_of(grid[0], image, shape, title="input")
    signed_map(grid[-1], flat, shape, title=title or "attribution")
    return figure


# -- parts -----------------------------------------------------------------------------------------------
FEW = 6
"""Inputs of at most so many numbers are written out."""


def _point(x: Array) -> str:
    """An input in a few words: ``(0.5, 1, 0)``; "" for one of many numbers, of which a few would say nothing."""
    return "" if len(x) > FEW else f"({', '.join(f'{round(v, 9) + 0.0:.3g}' for v in x.tolist())})"


def _beside(axes: Any, words: str) -> None:
    """A label on the left, as axes without ticks have no room for one."""
    axes.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8, color=INK)


def _name_corners(figure: Any, axes: Any, vertices: Array, plane: Plane) -> None:
    """Letters at the polygon's corners, and below the picture which inputs they are."""
    from scipy.spatial import ConvexHull

    corners = vertices[ConvexHull(vertices).vertices]
    low = np.lexsort(corners.round(9).T[::-1])[0]
    corners = np.roll(corners, -low, axis=0)
    before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0])
    corners = corners[turns > 1e-9 * np.ptp(vertices, axis=0).prod()][:8]
    centre = corners.mean(axis=0)
    words = []
    for letter, corner, x in zip("ABCDEFGH", corners, plane.embed(corners), strict=False):
        axes.annotate(
            letter, corner, xytext=np.sign(corner - centre) * 8, textcoords="offset points", ha="center", va="center",
            fontsize=10, fontweight="bold", color=INK, annotation_clip=False,
        )  # fmt: skip
        axes.plot(*corner, "o", color=INK, markersize=3, clip_on=False, zorder=5)
        words.append(f"{letter} {_point(x)}" if len(x) <= FEW else "")
    lines = ["   ".join(words[k : k + 2]) for k in range(0, len(words), 2)]
    if any(words):
        figure.supxlabel("\n".join(lines), fontsize=8, color=INK)


def _ticks(axes: Any, t: Array) -> None:
    width = 0.9 if len(t) < 150 else max(0.15, 130.0 / len(t))
    axes.vlines(t, 0, 1, color=INK, linewidth=width)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)


def _bands(axes: Any, bands: ClassBands) -> None:
    starts, widths = bands.boundaries[:-1], np.diff(bands.boundaries)
    colours = [colour_of(k) for k in bands.labels.tolist()]
    axes.bar(starts, np.ones(len(starts)), widths, align="edge", color=colours, linewidth=0)
    for start, width, label in zip(starts, widths, bands.labels.tolist(), strict=True):
        if width > 0.02:
            red, green, blue = (int(colour_of(label)[i : i + 2], 16) for i in (1, 3, 5))
            ink = INK if 0.3 * red + 0.59 * green + 0.11 * blue > 130 else "white"
            axes.text(start + width / 2, 0.5, str(label), ha="center", va="center", fontsize=8, color=ink)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _polygons(axes: Any, polygons: Sequence[Array], labels: Any, edges: bool) -> None:
    from matplotlib.collections import PolyCollection

    colours = [colour_of(k) for k in np.asarray(labels).tolist()]
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
            Patch(color=colour_of(k), label=names[k] if names and k < len(names) else f"class {k}") for k in shown
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
