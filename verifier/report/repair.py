"""Pictures of repairs: class maps before and after, and how many constraints were met after each change."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.network.operators import Array
from verifier.regions.classes import ClassMap
from verifier.regions.plane import PlaneRestriction
from verifier.report.style import INK, colour_of, figure_of, plain_axes

if TYPE_CHECKING:
    from verifier.repair import PropertyRepair, RepairResult


def before_and_after(
    rows: Sequence[tuple[str, PlaneRestriction, PlaneRestriction]],
    *,
    best: str | Sequence[str] = "max",
    polar: bool = False,
    names: Sequence[str] | None = None,
) -> Any:
    """Class maps side by side, one row for each slice (the patching paper's Figures 5 to 7).

    Args:
        rows: title, the restriction before, and after the repair (`verifier.repair.slices.frozen_restriction`).
        best: "max", or "min" where the smallest output is the class; for all rows, or for each.
        polar: whether plane coordinates are a distance and an angle (ACAS Xu).
        names: names of the classes; their numbers by default.

    Returns:
        a matplotlib figure.
    """
    from matplotlib.patches import Patch

    figure = figure_of(9.5, 4.6 * len(rows))
    axes = figure.subplots(len(rows), 2, squeeze=False)
    used: set[int] = set()
    each = [best] * len(rows) if isinstance(best, str) else best
    for line, (title, before, after), which in zip(axes, rows, each, strict=True):
        for ax, word, restriction in zip(line, ("before", "after"), (before, after), strict=True):
            classes = restriction.classes(best=which)
            draw_classes(ax, classes, polar=polar)
            ax.set_title(textwrap.fill(f"{title}, {word}", 48), fontsize=11)
            used |= set(np.unique(classes.labels).tolist())
    patches = [
        Patch(facecolor=colour_of(k), edgecolor="#777777", label=names[k] if names else f"class {k}")
        for k in sorted(used)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(5, len(patches)), frameon=False)
    return figure


def draw_classes(ax: Any, classes: ClassMap, *, polar: bool = False) -> None:
    """Draw a class map on matplotlib axes."""
    from matplotlib.collections import PolyCollection

    polygons = [_cartesian(p) for p in classes.polygons] if polar else classes.polygons
    colours = [colour_of(k) for k in classes.labels.tolist()]
    ax.add_collection(PolyCollection(polygons, facecolors=colours, edgecolors=colours, linewidths=0.3))
    everything = np.concatenate(polygons)
    low, high = everything.min(axis=0), everything.max(axis=0)
    pad = 0.02 * (high - low)
    ax.set_xlim(low[0] - pad[0], high[0] + pad[0])
    ax.set_ylim(low[1] - pad[1], high[1] + pad[1])
    ax.set_aspect("equal" if polar else "auto")
    if not polar:
        ax.set_xlabel("s", color=INK)
        ax.set_ylabel("t", color=INK)
    if polar:
        ax.set_xticks([])
        ax.set_yticks([])
        for side in ax.spines.values():
            side.set_visible(False)
        ax.plot(0, 0, marker=(3, 0, 0), color="black", markersize=7)


def _cartesian(polygon: Array, step: float = np.pi / 90) -> Array:
    """Corners (distance, angle) to points on the page, the angle counted from straight up; edges follow the arcs."""
    following = np.roll(polygon, -1, axis=0)
    count = np.maximum(1, np.ceil(np.abs(following[:, 1] - polygon[:, 1]) / step).astype(int))
    which = np.repeat(np.arange(len(polygon)), count)
    share = np.concatenate([np.arange(c) / c for c in count])[:, None]
    dense = polygon[which] + share * (following[which] - polygon[which])
    return np.stack([-dense[:, 0] * np.sin(dense[:, 1]), dense[:, 0] * np.cos(dense[:, 1])], axis=1)


def met_curves(curves: Mapping[str, Sequence[float]]) -> Any:
    """Constraints met (share, 0 to 1) after 0, 1, 2 … weight changes (the patching paper's Figure 4)."""
    from matplotlib.ticker import MaxNLocator

    figure = figure_of(6, 3.8)
    ax = figure.subplots()
    for k, (name, shares) in enumerate(curves.items(), start=3):
        ax.plot(range(len(shares)), 100 * np.asarray(shares), marker="o", label=name, color=colour_of(k))
    ax.set_xlabel("weights changed")
    ax.set_ylabel("key points met (%)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(ax)
    ax.legend(frameon=False)
    return figure


def changes_plot(result: RepairResult | PropertyRepair, most: int = 20) -> Any:
    """The changed weights, the largest changes first.

    Args:
        most: how many are drawn.
    """
    figure = figure_of(7, 3.4)
    ax = figure.add_subplot()
    order = sorted(result.changes.items(), key=lambda item: -abs(item[1]))[:most]
    colours = ["#b2182b" if delta > 0 else "#2166ac" for _, delta in order]
    ax.barh(range(len(order)), [delta for _, delta in order], color=colours)
    ax.set_yticks(range(len(order)), [name for name, _ in order], fontsize=7)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_xlabel("change of the weight", color=INK)
    rest = f", the largest {most} of" if len(result.changes) > most else ""
    ax.set_ylim(max(len(order), 5) - 0.5, -0.5)  # few bars stay bars
    many = "" if len(result.changes) == 1 else "s"
    ax.set_title(
        f"{result.status}:{rest} {len(result.changes)} changed weight{many}", loc="left", color=INK, fontsize=11
    )
    plain_axes(ax)
    ax.grid(axis="y", visible=False)
    return figure
