"""Figures 2 to 5 of ExactLine (NeurIPS 2019) drawn anew, from whole lines; `exactline.py` calls it.

- Figure 2: ACAS Xu network 1_1 along one line that varies the intruder's distance, exactly (a) and at samples (b); one
  that varies its angle (c, d), each the line on which samples miss most; and many lines of either kind on one polar grid (e), beside a grid of samples (f). The
  intruder flies head-on (heading -180°) at 150 ft/s each, as in the first decision map.
- Figure 3: the images between black and a CIFAR-10 image, with the ends of the linear pieces marked.
- Figure 4: ticks at the breakpoints between an image and its FGSM neighbour, and random neighbours of the same size;
  where the class changes.
- Figure 5: ticks for the normally trained network and the one trained with DiffAI, on the same random lines.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from common import RESULTS
from matplotlib.figure import Figure

from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions import LineRestriction, line, lines
from verifier.report.regions import ACAS_XU, ACAS_XU_MEAN, ACAS_XU_RANGE
from verifier.report.style import COLOURS, INK

RADIUS = 12_000.0
"""Feet."""
HEADING, OWN, INTRUDER = math.radians(-180), 150.0, 150.0
SAMPLES = 25
"""Along a line of panels (b), (d) and (f)."""
SPOKES, CIRCLES = 120, 40
"""Lines of panel (e)."""


def situation(distance: Array | float, angle: Array | float) -> Array:
    """Inputs of an ACAS Xu network for an intruder at these polar coordinates (feet, radians)."""
    distance, angle = np.broadcast_arrays(np.asarray(distance, float), np.asarray(angle, float))
    rest = [np.full(distance.shape, x) for x in (HEADING, OWN, INTRUDER)]
    return (np.stack([distance, angle, *rest], axis=-1) - ACAS_XU_MEAN) / ACAS_XU_RANGE


def _bands(axes: Any, restriction: LineRestriction) -> None:
    bands = restriction.classes(best="min")
    for a, b, label in zip(bands.boundaries[:-1], bands.boundaries[1:], bands.labels, strict=True):
        axes.axvspan(a, b, color=COLOURS[label], linewidth=0)
    axes.set_title(f"{len(restriction):,} pieces, {len(bands.labels)} bands", fontsize=9, loc="left", color=INK)


def _samples(axes: Any, net: Network, restriction: LineRestriction) -> None:
    t = np.linspace(0, 1, SAMPLES)
    labels = net(restriction.at(t)).argmin(axis=-1)
    axes.scatter(t, np.zeros(SAMPLES), c=[COLOURS[k] for k in labels], s=30)
    axes.set_title(f"{SAMPLES} samples", fontsize=9, loc="left", color=INK)


def _missed(net: Network, restriction: LineRestriction) -> int:
    """How many changes of class along a line samples do not see."""
    seen = net(restriction.at(np.linspace(0, 1, SAMPLES))).argmin(axis=-1)
    return len(restriction.classes(best="min").labels) - 1 - int((np.diff(seen) != 0).sum())


def figure_2(net: Network) -> tuple[Figure, str]:
    """Panels (a) to (f), and what they show in a sentence."""
    figure = Figure(figsize=(11, 11), layout="constrained")
    grid = figure.add_gridspec(4, 2, height_ratios=[0.5, 0.5, 0.02, 4])
    angles = np.linspace(-math.pi, math.pi, SPOKES, endpoint=False)
    spokes = lines(net, situation(0, angles), situation(RADIUS, angles))
    radii = np.linspace(0, RADIUS, CIRCLES + 1)[1:]
    circles = lines(net, situation(radii, -math.pi), situation(radii, math.pi))
    spoke, circle = (max(many, key=lambda one: _missed(net, one)) for many in (spokes, circles))
    for row, (restriction, what) in enumerate(((spoke, "distance 0 to 12,000 ft"), (circle, "angle -180° to 180°"))):
        for column, draw in enumerate((lambda ax, r: _bands(ax, r), lambda ax, r: _samples(ax, net, r))):
            axes = figure.add_subplot(grid[row, column])
            draw(axes, restriction)
            axes.set_xlim(0, 1)
            axes.set_yticks([])
            axes.set_xlabel(f"({'abcd'[2 * row + column]}) {what}", fontsize=9)
    exact = figure.add_subplot(grid[3, 0])
    for angle, one in zip(angles, spokes, strict=True):
        bands = one.classes(best="min")
        for a, b, label in zip(bands.boundaries[:-1], bands.boundaries[1:], bands.labels, strict=True):
            ends = RADIUS * np.array([a, b])
            exact.plot(-ends * math.sin(angle), ends * math.cos(angle), color=COLOURS[label], linewidth=1.5)
    for radius, one in zip(radii, circles, strict=True):
        bands = one.classes(best="min")
        for a, b, label in zip(bands.boundaries[:-1], bands.boundaries[1:], bands.labels, strict=True):
            arc = math.pi * (2 * np.linspace(a, b, max(2, int(200 * (b - a)))) - 1)
            exact.plot(-radius * np.sin(arc), radius * np.cos(arc), color=COLOURS[label], linewidth=1.5)
    exact.set_title(f"(e) {SPOKES} spokes and {CIRCLES} circles, every point", fontsize=9, loc="left", color=INK)
    sampled = figure.add_subplot(grid[3, 1])
    r, a = np.meshgrid(np.linspace(0, RADIUS, SAMPLES)[1:], np.linspace(-math.pi, math.pi, SAMPLES))
    labels = net(situation(r.ravel(), a.ravel())).argmin(axis=-1)
    sampled.scatter(-r.ravel() * np.sin(a.ravel()), r.ravel() * np.cos(a.ravel()), c=[COLOURS[k] for k in labels], s=14)
    sampled.set_title(f"(f) {labels.size} samples", fontsize=9, loc="left", color=INK)
    for axes in (exact, sampled):
        axes.set_aspect("equal")
        axes.set_axis_off()
    for k, name in enumerate(ACAS_XU):
        sampled.scatter([], [], c=COLOURS[k], label=name)
    sampled.legend(loc="lower center", bbox_to_anchor=(0.5, -0.08), ncols=5, frameon=False, fontsize=8)
    return figure, (
        f"of the {len(spoke.classes(best='min').labels)} bands along the distance and "
        f"{len(circle.classes(best='min').labels)} along the angle, {SAMPLES} samples miss "
        f"{_missed(net, spoke)} and {_missed(net, circle)} (of all lines in (e) those on which they miss most)"
    )


def _picture(axes: Any, image: Array) -> None:
    axes.imshow(np.clip(image.reshape(3, 32, 32).transpose(1, 2, 0), 0, 1), interpolation="nearest")
    axes.set_axis_off()


def figure_3(net: Network, image: Array) -> tuple[Figure, str]:
    """The path of integrated gradients, with its linear pieces."""
    found = line(net, 0 * image, image)
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    panels = figure.subplots(2, 8, height_ratios=[3, 1])
    for axes, t in zip(panels[0], np.linspace(0, 1, 8), strict=True):
        _picture(axes, t * image)
        axes.set_title(f"t = {t:.2f}", fontsize=8)
    for axes in panels[1]:
        axes.remove()
    ticks = figure.add_subplot(panels[1][0].get_gridspec()[1, :])
    _ticks(ticks, found.breakpoints)
    return figure, f"{len(found):,} linear pieces between black and the image"


def _ticks(axes: Any, places: Array, colour: str = INK) -> None:
    axes.vlines(places, 0, 1, color=colour, linewidth=0.3)
    axes.set_xlim(-0.002, max(1.0, float(np.max(places))) * 1.002)
    axes.set_yticks([])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def figure_4(net: Network, image: Array, fgsm: Array, others: Array) -> tuple[Figure, str]:
    """Ticks to the FGSM neighbour and to random ones."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    rows = figure.subplots(1 + len(others), 1, sharex=True)
    counts = []
    for axes, end, name in zip(rows, [fgsm, *others], ["FGSM + 3 %", *["random + 3 %"] * len(others)], strict=True):
        found = line(net, image, end)
        counts.append(len(found))
        _ticks(axes, found.breakpoints)
        for t in found.classes().boundaries[1:-1]:
            axes.axvline(t, color="#2166ac", linewidth=2.5)
        axes.set_ylabel(f"{name}\n{len(found)} pieces", rotation=0, ha="right", va="center", fontsize=8)
    return figure, f"{counts[0]} pieces to the FGSM image, {', '.join(map(str, counts[1:]))} to random ones"


def figure_5(nets: dict[str, Network], image: Array, others: Array) -> tuple[Figure, str]:
    """Ticks on the same random lines for differently trained networks."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    rows = figure.subplots(len(nets) * len(others), 1, sharex=True)
    counts: dict[str, list[int]] = {name: [] for name in nets}
    pairs = [(end, name) for end in others for name in nets]
    for axes, (end, name) in zip(rows, pairs, strict=True):
        found = line(nets[name], image, end)
        counts[name].append(len(found))
        _ticks(axes, found.breakpoints, INK if name == next(iter(nets)) else "#1b7837")
        axes.set_ylabel(f"{name}\n{len(found)} pieces", rotation=0, ha="right", va="center", fontsize=8)
    return figure, "; ".join(f"{name} {', '.join(map(str, found))} pieces" for name, found in counts.items())


def figures(acas_xu: Network, cifar: dict[str, Network], raw: Array, label: int) -> str:
    """Draw all four, save them, and say what they show.

    Args:
        acas_xu: network 1_1.
        cifar: the normally trained network and that trained with DiffAI, by name, normal first.
        raw: an image's pixels, 0 to 255; label: its class.
    """
    normal = next(iter(cifar.values()))
    image = raw / 255
    step = np.floor(0.03 * raw)
    sign = np.sign(normal.gradient(image, (label + 1) % 10).reshape(-1))
    moves = np.random.default_rng(0).choice([-1.0, 1.0], (2, raw.size))
    fgsm, *others = (np.clip(raw + step * s, 0, 255) / 255 for s in (sign, *moves))
    text = "## Figures 2 to 5\n\n"
    for number, (figure, words) in (
        (2, figure_2(acas_xu)),
        (3, figure_3(normal, image)),
        (4, figure_4(normal, image, fgsm, np.array(others))),
        (5, figure_5(cifar, image, np.array(others))),
    ):
        name = f"exactline_figure_{number}.png"
        figure.savefig(RESULTS / name, dpi=80)
        text += f"- Figure {number} ({name}): {words}.\n"
    return text
