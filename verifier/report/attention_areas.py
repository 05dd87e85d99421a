"""Pictures and files of attention maps by tiles: what is proved, refuted and open."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from verifier.attention import AreaMap, RegionMap
from verifier.attention.area_result import PROVED, REFUTED
from verifier.attention.table import Aspect
from verifier.files import whole_text
from verifier.network.operators import Array
from verifier.report.style import FAILS, HOLDS, INK, OPEN, figure_of

COLORS = {0: OPEN, PROVED: HOLDS, REFUTED: FAILS}
WORDS = {0: "open", PROVED: "holds", REFUTED: "fails"}
SIDE = 128
"""Pixels a side of the picture of a map of more than two parameters."""


def named_axes(axes: Any, m: RegionMap | AreaMap, aspect: Aspect) -> None:
    """Title and axes of a picture of Θ."""
    title = f"label {m.label}" if aspect == "label" else f"attention (inconsistency at most {m.delta:g})"
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(m.perturbed.labels[0], color=INK)
    if m.perturbed.dimension > 1:
        axes.set_ylabel(m.perturbed.labels[1], color=INK)
    axes.tick_params(colors=INK, labelsize=8)


def mark(axes: Any, m: RegionMap | AreaMap, points: Array) -> None:
    """Numbered dots at parameters ``(k, d)``; the numbers stand inside the picture."""
    box = m.perturbed.box
    label = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    for number, point in enumerate(points):
        share = (point[:2] - box.lower[:2]) / box.width[:2]
        place = point[:2] if len(point) > 1 else (point[0], axes.get_ylim()[0])
        inside = [-9 if s > 0.5 else 9 for s in (share if len(share) > 1 else (*share, 0.0))]
        axes.plot(*place, "o", color="black", markersize=4, clip_on=False, zorder=5)
        axes.annotate(
            str(number), place, xytext=inside, textcoords="offset points", ha="center", va="center", fontsize=9,
            bbox=label, zorder=6,
        )  # fmt: skip


def tiles_figure(m: AreaMap, chosen: Array | None = None) -> Any:
    """The tiles over the first two parameters, for label and attention.

    Args:
        chosen: parameters ``(k, d)`` that are marked with their numbers; the unchanged image alone by default.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    figure = figure_of(11, 4.8)
    box, low, high = m.perturbed.box, m.tiles.low, m.tiles.high
    chosen = np.clip(np.zeros((1, box.size)), box.lower, box.upper) if chosen is None else chosen
    panels = figure.subplots(1, 2)
    aspects: tuple[Aspect, Aspect] = ("label", "attention")
    for k, (axes, aspect) in enumerate(zip(panels, aspects, strict=True)):
        named_axes(axes, m, aspect)
        kinds = m.tiles.kinds[:, k]
        ends = (box.lower[0], box.upper[0], *((box.lower[1], box.upper[1]) if box.size > 1 else (0.0, 1.0)))
        if box.size <= 2:
            bottom, top = (low[:, 1], high[:, 1]) if box.size == 2 else (np.zeros(len(low)), np.ones(len(low)))
            corners = [[low[:, 0], bottom], [high[:, 0], bottom], [high[:, 0], top], [low[:, 0], top]]
            shapes = np.moveaxis(np.array(corners), -1, 0)
            colors = [COLORS[int(kind)] for kind in kinds]
            axes.add_collection(PolyCollection(list(shapes), facecolors=colors, edgecolors=colors, linewidths=0.2))
        else:
            axes.imshow(_averaged(m, kinds), origin="lower", extent=ends, aspect="auto")
        axes.set_xlim(ends[0], ends[1])
        axes.set_ylim(ends[2], ends[3])
        if box.size == 1:
            axes.set_yticks([])
        mark(axes, m, chosen)
    handles = [Patch(color=COLORS[kind], label=WORDS[kind]) for kind in (PROVED, REFUTED, 0)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _averaged(m: AreaMap, kinds: Any) -> Any:
    """Colours over the first two parameters, averaged over the others: ``(SIDE, SIDE, 3)``."""
    from matplotlib.colors import to_rgb

    unit_low, unit_high = ((v - m.perturbed.box.lower) / m.perturbed.box.width for v in (m.tiles.low, m.tiles.high))
    depth = (unit_high - unit_low)[:, 2:].prod(axis=1)
    first = np.floor(unit_low[:, :2] * SIDE).astype(int)
    last = np.maximum(np.ceil(unit_high[:, :2] * SIDE).astype(int), first + 1)
    total, picture = np.zeros((SIDE, SIDE, 1)), np.zeros((SIDE, SIDE, 3))
    for a, b, weight, kind in zip(first, last, depth, kinds, strict=True):
        where = (slice(a[1], b[1]), slice(a[0], b[0]))
        total[where] += weight
        picture[where] += weight * np.array(to_rgb(COLORS[int(kind)]))
    return picture / np.maximum(total, 1e-300)


def area_rows(m: AreaMap) -> list[tuple[str, str]]:
    """What a map by tiles says, as pairs of words and figures."""
    kind = {"gradient": "gradient"}.get(m.settings.map, f"{m.settings.map}, {m.settings.samples} samples")
    rows = [
        ("network", m.perturbed.original.source or "(built in Python)"),
        ("parameters", ", ".join(
            f"{n} in [{p.low:g}, {p.high:g}]" for n, p in zip(m.perturbed.labels, m.perturbed.perturbations, strict=True)
        )),
        ("label", str(m.label)),
        ("delta", f"{m.delta:g} ({kind}, {m.settings.filter} filter, L{m.settings.norm}, classes: {m.settings.classes})"),
        ("method", f"areas: {len(m.tiles):,} tiles, {m.bounded:,} bounded in {m.seconds:.2f} s"),
    ]  # fmt: skip
    for aspect, parts in m.shares.items():
        rows.append((f"{aspect}: shares of Θ", "proved {:.6%}, refuted {:.6%}, open {:.6%}".format(*parts)))
    for aspect, found in m.answers.items():
        shown = "" if found.theta is None else f" (θ = {', '.join(f'{v:.6g}' for v in found.theta)})"
        rows.append((f"{aspect}: verdict", f"{found.answer.value}: {found.reason}{shown}"))
    if m.reason:
        rows.append(("open because", m.reason))
    return rows


def area_json(m: AreaMap, *, tiles: bool = False) -> dict[str, Any]:
    """The same as plain data, with the tiles if asked for."""
    result: dict[str, Any] = {
        "label": m.label,
        "delta": m.delta,
        "map": m.settings.map,
        "filter": m.settings.filter,
        "norm": m.settings.norm,
        "classes": m.settings.classes,
        "parameters": [
            {"name": n, "low": p.low, "high": p.high}
            for n, p in zip(m.perturbed.labels, m.perturbed.perturbations, strict=True)
        ],
        "method": "areas",
        "verdicts": {
            a: {"answer": f.answer.value, "reason": f.reason, "theta": None if f.theta is None else f.theta.tolist()}
            for a, f in m.answers.items()
        },
        "shares": {a: dict(zip(("proved", "refuted", "open"), s, strict=True)) for a, s in m.shares.items()},
        "tiles": len(m.tiles),
        "reason": m.reason,
        "seconds": m.seconds,
    }
    if tiles:
        result["table"] = [
            {"low": a.tolist(), "high": b.tolist(), "label": WORDS[int(k[0])], "attention": WORDS[int(k[1])]}
            for a, b, k in zip(m.tiles.low, m.tiles.high, m.tiles.kinds, strict=True)
        ]
    return result


def write_tiles(m: AreaMap, path: Path) -> None:
    """One line per tile: what is known of label and attention, and its ends."""
    with whole_text(path) as stream:
        out = csv.writer(stream)
        out.writerow(["label", "attention", *(f"{n}_{e}" for n in m.perturbed.labels for e in ("low", "high"))])
        for a, b, k in zip(m.tiles.low, m.tiles.high, m.tiles.kinds, strict=True):
            ends = [repr(float(v)) for pair in zip(a, b, strict=True) for v in pair]
            out.writerow([WORDS[int(k[0])], WORDS[int(k[1])], *ends])
