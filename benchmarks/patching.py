"""Repair: the patching paper's experiment on ACAS Xu, and a polygon of corrupted MNIST images.

Sotoudeh, Thakur: *Correcting Deep Neural Networks with Small, Generalizing Patches*, 2019, Table 1 and Figure 4.

    python benchmarks/patching.py               runs everything, writes benchmarks/results/patching.md
    python benchmarks/patching.py --pictures    also draws benchmarks/results/patching_*.png

The network is ACAS Xu 1_1. The patched slice: intruder heading -180°, both velocities 150 ft/s, distance ρ from 0
to 5000·√2 ft (the circle around the square of ±5000 ft), all bearings θ. The second slice has both velocities
raised by 50. The advisory is the smallest output: 0 clear of conflict, 1 weak left, 2 weak right, 3 strong left,
4 strong right. A specification is the network's own class map with some areas relabelled; all other polygons must
keep their class. The areas are drawn as in the authors' published script (repository 95616ARG/SyReNN,
experiments/netpatch.py), but polygons are cut along an area's border instead of being judged corner by corner:

- Pockets: strong right -> weak right for θ in (1.0, 1.5), ρ in (2750, 3750); strong left -> weak left for θ in
  (-1.5, -1.1), ρ in (2250, 3500). On the second slice: (0.94, 2.0) x (2750, 4500) and (-2, -1.05) x (2250, 4500).
- Bands: weak left -> weak right for θ > 0. On the second slice: for θ in (2.0, π), ρ in (0, 5000) without
  (2, 2.55) x (950, 1100).
- Symmetry: strong left -> strong right for θ > 0, on both slices.

Patched layer, as in that script: the last but one (2,550 weights) for Pockets and Bands, the last (255) for Symmetry.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from common import RESULTS, data_folder, machine, table

import verifier
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions import PlaneRestriction, plane
from verifier.repair import (
    FrozenNetwork,
    PolygonRegion,
    Requirement,
    Specification,
    drawdown,
    output_class,
    repair,
    repairable_layers,
)
from verifier.repair.keypoints import KeyPoints, key_points
from verifier.repair.slices import HalfPlanes, Relabel, area_right, frozen_restriction, specification_of_map

MEAN = np.array([19791.091, 0.0, 0.0, 650.0, 600.0])
RANGE = np.array([60261.0, 2 * math.pi, 2 * math.pi, 1100.0, 1200.0])
"""Normalisation of the ACAS Xu inputs (ρ, θ, ψ, own velocity, intruder's velocity)."""

RADIUS = 5000 * math.sqrt(2)
PAPER = "4.7-23.6 s an iteration on 16 cores; 97.0-99.994 % of the constraints met"
box = HalfPlanes.box
inf = math.inf


@dataclass(frozen=True)
class Experiment:
    """One of the paper's three patches: the areas to relabel on both slices, and the layer (from the end)."""

    name: str
    layer: int
    patched: tuple[Relabel, ...]
    second: tuple[Relabel, ...]


EXPERIMENTS = (
    Experiment(
        "Pockets",
        -2,
        (Relabel(box((2750, 3750), (1.0, 1.5)), 2, 4), Relabel(box((2250, 3500), (-1.5, -1.1)), 1, 3)),
        (Relabel(box((2750, 4500), (0.94, 2.0)), 2, 4), Relabel(box((2250, 4500), (-2.0, -1.05)), 1, 3)),
    ),
    Experiment(
        "Bands",
        -2,
        (Relabel(box((-inf, inf), (0.0, inf)), 2, 1),),
        (
            Relabel(box((-inf, 5000), (2.55, inf)), 2, 1),
            Relabel(box((-inf, 950), (2.0, 2.55)), 2, 1),
            Relabel(box((1100, 5000), (2.0, 2.55)), 2, 1),
        ),
    ),
    Experiment(
        "Symmetry",
        -1,
        (Relabel(box((-inf, inf), (0.0, inf)), 4, 3),),
        (Relabel(box((-inf, inf), (0.0, inf)), 4, 3),),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="greedy weight changes (5)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each linear program (60)")
    parser.add_argument("--pictures", action="store_true", help="also draw the class maps before and after")
    parser.add_argument("--only", choices=[e.name.lower() for e in EXPERIMENTS] + ["mnist"], help="one part only")
    args = parser.parse_args(arguments)
    sections = [
        "# Repair\n",
        f"Written by `benchmarks/patching.py`. Machine: {machine()}.\n",
        (__doc__ or "").split("\n\n", 3)[3].strip() + "\n",
    ]
    if args.only != "mnist":
        sections.append(acas(args.steps, args.timeout, args.only, args.pictures))
    if args.only in (None, "mnist"):
        sections.append(mnist(args.timeout))
    text = "\n".join(sections)
    print(text)
    if args.only is None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "patching.md").write_text(text)
    return 0


def slice_of(network: Network, velocity: float) -> PlaneRestriction:
    """The network on a (ρ, θ) slice; plane coordinates are feet and radians."""
    origin = (np.array([0.0, 0.0, -math.pi, velocity, velocity]) - MEAN) / RANGE
    u, v = np.zeros(5), np.zeros(5)
    u[0], v[1] = 1 / RANGE[0], 1 / RANGE[1]
    corners = [[0, -math.pi], [RADIUS, -math.pi], [RADIUS, math.pi], [0, math.pi]]
    return plane(network, origin, u, v, corners)


def percent(frozen: FrozenNetwork, points: KeyPoints) -> str:
    return f"{100 * points.met(points.slack(frozen)).mean():.3f}"


def acas(steps: int, timeout: float, only: str | None, pictures: bool) -> str:
    """Table 1 and Figure 4: greedy patches and linear programs for the three specifications."""
    folder = data_folder() / "vnncomp" / "acasxu" / "onnx"
    network = verifier.load(folder / "ACASXU_run2a_1_1_batch_2000.onnx.gz")
    maps = slice_of(network, 150.0), slice_of(network, 200.0)
    layers = repairable_layers(network)
    greedy_rows, curves, linear_rows = [], [], []
    for experiment in EXPERIMENTS:
        if only not in (None, experiment.name.lower()):
            continue
        layer = layers[experiment.layer]
        start = time.perf_counter()
        specification = specification_of_map(maps[0], experiment.patched, best="min")
        second = key_points(network, specification_of_map(maps[1], experiment.second, best="min"))
        points = key_points(network, specification)
        seconds = time.perf_counter() - start
        print(f"{experiment.name}: {len(points)} + {len(second)} key points in {seconds:.1f} s", file=sys.stderr)
        original = FrozenNetwork(network)
        result = repair(network, specification, method="greedy", layers=[layer], steps=steps)
        each = [s.seconds for s in result.steps]
        greedy_rows.append(
            (
                experiment.name,
                f"{len(points):,}",
                f"{experiment.layer}",
                percent(original, points),
                percent(result.frozen, points),
                percent(original, second),
                percent(result.frozen, second),
                f"{100 * area_right(original, specification, best='min'):.3f}",
                f"{100 * area_right(result.frozen, specification, best='min'):.3f}",
                len(result.steps),
                f"{np.mean(each):.2f} / {max(each):.2f}" if each else "-",
                f"{result.norms['linf']:.3g}",
            )
        )
        met = [result.met_before, *(s.met for s in result.steps)]
        curves.append((experiment.name, *(f"{100 * m / result.total:.4f}" for m in met)))
        for which in (-1, -2):
            begin = time.perf_counter()
            linear = repair(network, specification, method="lp", layers=[layers[which]], timeout=timeout)
            wall = time.perf_counter() - begin
            attempt = linear.attempts[layers[which]]
            linear_rows.append(
                (
                    experiment.name,
                    which,
                    linear.status,
                    percent(linear.frozen, points),
                    percent(linear.frozen, second),
                    f"{100 * area_right(linear.frozen, specification, best='min'):.3f}",
                    f"{linear.norms['weights']:.0f}",
                    f"{linear.norms['l1']:.3g}",
                    f"{linear.norms['linf']:.3g}",
                    f"{attempt.rows_used:,}",
                    attempt.rounds,
                    f"{wall:.1f}",
                    linear.reason[:90],
                )
            )
            if pictures and linear.status == "repaired":
                draw(experiment.name.lower() + f"_lp{which}", maps, linear.frozen)
        if pictures:
            draw(experiment.name.lower() + "_greedy", maps, result.frozen)
    width = max((len(c) for c in curves), default=1) - 1
    padded = [(*c, *("" for _ in range(width - len(c) + 1))) for c in curves]
    return "\n".join(
        [
            f"## ACAS Xu 1_1, greedy single-weight patches (paper: {PAPER})\n",
            table(
                (
                    "patch", "key points", "layer", "met before %", "met after %", "second slice before %",
                    "second slice after %", "area right before %", "area right after %", "weights",
                    "s an iteration, mean / worst", "largest change",
                ),
                greedy_rows,
            ),
            "Constraints met (%) after 0, 1, 2 … weight changes (the paper's Figure 4):\n",
            table(("patch", *range(width)), padded),
            f"## The same by linear programming (L1, limit {timeout:g} s a program)\n",
            table(
                (
                    "patch", "layer", "answer", "met %", "second slice %", "area right %", "weights", "L1", "L∞",
                    "rows used",
                    "rounds", "seconds", "remark",
                ),
                linear_rows,
            ),
        ]
    )  # fmt: skip


def draw(name: str, maps: Sequence[PlaneRestriction], frozen: FrozenNetwork) -> None:
    """Class maps before and after on both slices (the paper's Figures 5 to 7)."""
    from verifier.report.repair import before_and_after

    figure = before_and_after(
        [
            (title, restriction, frozen_restriction(frozen, restriction))
            for title, restriction in zip(("patched slice", "velocities + 50"), maps, strict=True)
        ],
        best="min",
        polar=True,
    )
    figure.savefig(RESULTS / f"patching_{name}.png", dpi=110)


# -- MNIST -----------------------------------------------------------------------------------------------
def corruptions(image: Array) -> tuple[Array, Array]:
    """Two directions from an image ``(28, 28)``: towards fog (a bright gradient), and towards its blur."""
    fog = np.linspace(0.9, 0.4, 28)[:, None] * np.ones((1, 28))
    padded = np.pad(image, 2, mode="edge")
    blurred = sum(padded[i : i + 28, j : j + 28] for i in range(5) for j in range(5)) / 25
    return 0.6 * (fog - image), np.asarray(blurred) - image


def mnist(timeout: float) -> str:
    """Repair one polygon of corrupted images of one test image, and what that does to all test images."""
    network = verifier.load(data_folder() / "eran_nets" / "mnist_relu_3_100.onnx")
    with np.load(data_folder() / "mnist" / "mnist.npz") as data:
        images, labels = data["x_test"] / 255.0, data["y_test"].astype(int)
    flat = images.reshape(len(images), -1)
    right = network.forward(flat).reshape(len(flat), -1).argmax(axis=1) == labels
    rows = []
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    for index in np.flatnonzero(right):
        u, v = (d.reshape(-1) for d in corruptions(images[index]))
        corners = flat[index] + triangle @ np.stack([u, v])
        if (network.forward(corners).reshape(3, -1).argmax(axis=1) == labels[index]).all():
            continue
        region = PolygonRegion(flat[index], u, v, triangle)
        demand = output_class(network.output_size, int(labels[index]), margin=1e-3)
        specification = Specification((Requirement(region, demand, f"image {index}"),))
        for which, layer in ((k, repairable_layers(network)[k]) for k in (-1, -2, -3)):
            result = repair(network, specification, method="lp", layers=[layer], timeout=timeout)
            effect = drawdown(result.frozen, flat, labels)
            rows.append(
                (
                    index,
                    labels[index],
                    which,
                    result.status,
                    result.total,
                    f"{100 * result.met_before / result.total:.1f}",
                    f"{100 * result.met_after / result.total:.1f}",
                    f"{result.norms['weights']:.0f}",
                    f"{result.norms['l1']:.3g}",
                    f"{result.seconds:.1f}",
                    effect.changed,
                    f"{100 * (effect.drawdown or 0.0):+.2f}",
                )
            )
        if len(rows) >= 9:
            break
    return (
        "## MNIST, one polygon of corrupted images (fog and blur)\n\n"
        "ERAN's mnist_relu_3_100. The first three test images that are classified rightly and for which the triangle "
        "(image, 60 % towards a bright gradient, fully blurred by a 5x5 mean) has a wrong corner; the whole triangle "
        "must have the true label by a margin of 0.001. Drawdown: accuracy lost on the 10,000 test images.\n\n"
        + table(
            (
                "image", "label", "layer", "answer", "key points", "met before %", "met after %", "weights", "L1",
                "seconds", "labels changed of 10,000", "drawdown, points",
            ),
            rows,
        )
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
