"""Repair: the patching paper's experiment on ACAS Xu, and polygons of corrupted MNIST images.

Sotoudeh, Thakur: *Correcting Deep Neural Networks with Small, Generalizing Patches*, 2019, Table 1 and Figure 4.

    python benchmarks/patching.py                   runs what is not in the journal yet, writes results/patching.md
    python benchmarks/patching.py --again Bands     runs the parts of that name again (--list names them)
    python benchmarks/patching.py --report          only writes the report again, from the journal

The network is ACAS Xu 1_1. The patched slice: intruder heading -180°, both velocities 150 ft/s, distance ρ from 0
to 5000·√2 ft (the circle around the square of ±5000 ft), all bearings θ. The second slice has both velocities
raised by 50. The advisory is the smallest output: 0 clear of conflict, 1 weak left, 2 weak right, 3 strong left,
4 strong right. A specification is the network's own class map with some areas relabelled; everything else must
keep its class. The areas are those of the authors' published script (repository 95616ARG/SyReNN,
experiments/netpatch.py):

- Pockets: strong right -> weak right for θ in (1.0, 1.5), ρ in (2750, 3750); strong left -> weak left for θ in
  (-1.5, -1.1), ρ in (2250, 3500). On the second slice: (0.94, 2.0) x (2750, 4500) and (-2, -1.05) x (2250, 4500).
- Bands: weak left -> weak right for θ > 0. On the second slice: for θ in (2.0, π), ρ in (0, 5000) without
  (2, 2.55) x (950, 1100).
- Symmetry: strong left -> strong right for θ > 0, on both slices.

Each is written down in two ways. *Vertices*, as in the authors' script: every vertex of a linear region once, with the
network's class there, or the new class inside an area; of a region that a class border crosses nothing more is said.
*Regions*, exactly: the polygons of the class map, cut along the areas' borders, each with its class on all of it; a
vertex counts once for every polygon, and where a border crosses a linear region both classes must tie exactly on it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

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
from verifier.repair.slices import (
    HalfPlanes,
    Relabel,
    area_right,
    frozen_restriction,
    specification_of_map,
    specification_of_vertices,
)

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


JOURNAL = RESULTS / "patching_journal.json"
ADVISORIES = ("clear of conflict", "weak left", "weak right", "strong left", "strong right")
LAYERS = {
    ("vertices", "greedy"): (-1, -2),
    ("vertices", "lp"): (-1, -2, -3),
    ("regions", "greedy"): (-1, -2),
    ("regions", "lp"): (-1, -2),
}
"""Layers that are tried. (Regions by linear programming, -3: unfinished after 60 s, so left out.)"""

WAYS = {"vertices": specification_of_vertices, "regions": specification_of_map}


def pieces() -> list[str]:
    """All parts of the benchmark, in the order of the report."""
    found = [f"{e.name}/{way}/{method}/{k}" for e in EXPERIMENTS for (way, method), ks in LAYERS.items() for k in ks]
    return found + [f"MNIST/{number}/{k}" for number in range(3) for k in (-1, -2, -3)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="greedy weight changes (5)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each linear program (60)")
    parser.add_argument("--again", metavar="TEXT", help="run the parts whose name contains TEXT again")
    parser.add_argument("--only", metavar="TEXT", default="", help="run only parts whose name contains TEXT")
    parser.add_argument("--list", action="store_true", help="list the parts, and whether they were run")
    parser.add_argument("--report", action="store_true", help="run nothing, write the report from the journal")
    args = parser.parse_args(arguments)
    RESULTS.mkdir(exist_ok=True)
    if args.list:
        print("\n".join(f"{'done' if piece in read_journal() else 'open'}  {piece}" for piece in pieces()))
        return 0
    for piece in [] if args.report else pieces():
        if args.only not in piece or (piece in read_journal() and not (args.again and args.again in piece)):
            continue
        print(f"{piece} …", file=sys.stderr, flush=True)
        kind, *rest = piece.split("/")
        if kind == "MNIST":
            found = mnist(int(rest[0]), int(rest[1]), args.timeout)
        else:
            found = acas(kind, rest[0], rest[1], int(rest[2]), args.steps, args.timeout)
        picture = found.pop("picture", None)
        journal = read_journal() | {piece: found | {"machine": machine()}}
        JOURNAL.write_text(json.dumps(journal, indent=1) + "\n")
        if picture is not None:
            draw(*picture)
    text = report(read_journal())
    (RESULTS / "patching.md").write_text(text)
    print(text)
    return 0


def read_journal() -> dict[str, Any]:
    """What was run already, by part."""
    return json.loads(JOURNAL.read_text()) if JOURNAL.exists() else {}


def report(journal: dict[str, Any]) -> str:
    """The report of all parts that were run."""
    from verifier.report.repair import met_curves

    done = [(piece, journal[piece]) for piece in pieces() if piece in journal]
    greedy = [found for piece, found in done if "/greedy/" in piece]
    linear = [found for piece, found in done if "/lp/" in piece]
    repaired = [found for found in linear if found["row"][3] == "repaired"]
    cheapest = {tuple(f["row"][:2]): f for f in sorted(repaired, key=lambda f: -f["norm"])}
    for found in cheapest.values():
        found["row"] = [*found["row"][:3], "**repaired**", *found["row"][4:]]
    curves = {
        f"{f['curve'][0]}, layer {f['curve'][2]}": [float(c) / 100 for c in f["curve"][3:] if c]
        for f in greedy
        if f["curve"][1] == "vertices"
    }
    if curves:
        met_curves(curves).savefig(RESULTS / "patching_met.png", dpi=80)
    pictures = sorted(p.name for p in RESULTS.glob("patching_*_*.png"))
    return "\n".join(
        [
            "# Repair\n",
            f"Written by `benchmarks/patching.py` (parts done: {len(done)} of {len(pieces())}); times are wall-clock "
            f"seconds. Machine: {'; '.join(sorted({found['machine'] for _, found in done}))}. The runs shared their "
            "core with other work: a greedy iteration got about half of it (compare its CPU seconds, one thread).\n",
            (__doc__ or "").split("\n\n", 3)[3].strip() + "\n",
            "## Greedy single-weight patches\n\nThe paper, over its three patches (its Table 1 itself was not at hand): "
            f"{PAPER}. Layers are counted from the end.\n",
            table(GREEDY, [found["row"] for found in greedy]),
            "Constraints met (%) after 0, 1, 2 … weight changes (the paper's Figure 4; `patching_met.png`):\n",
            table(("patch", "as", "layer", *range(6)), [found["curve"] for found in greedy]),
            "## Linear programming, one layer, smallest L1 norm\n\nThe cheapest repaired layer of each specification is "
            "in bold. Infeasible: multipliers of the rows prove that no change below the norm in the last column meets "
            "them (the search ends at the layer's own norm). Rows are those of the last program, of all.\n",
            table(LINEAR, [found["row"] for found in linear]),
            "## Drawdown on other slices\n\nPercent of the slice on which the advisory is another than before (20,000 "
            "random points each; on the patched slice this is mostly the repair itself).\n",
            table(
                ("patch", "as", "method", "layer", *(name for name, _ in SLICES)),
                [found["drawdown"] for _, found in done if found.get("drawdown")],
            ),
            f"Class maps before and after: {', '.join(f'`{name}`' for name in pictures)}.\n",
            MNIST,
            table(
                (
                    "image", "label", "layer", "answer", "key points", "met before %", "met after %", "weights", "L1",
                    "LP seconds", "seconds", "labels changed of 10,000", "drawdown",
                ),
                [row for piece, found in done if piece.startswith("MNIST") for row in found["rows"]],
            ),
        ]
    )  # fmt: skip


def slice_of(network: Network, velocity: float) -> PlaneRestriction:
    """The network on a (ρ, θ) slice; plane coordinates are feet and radians."""
    origin = (np.array([0.0, 0.0, -math.pi, velocity, velocity]) - MEAN) / RANGE
    u, v = np.zeros(5), np.zeros(5)
    u[0], v[1] = 1 / RANGE[0], 1 / RANGE[1]
    corners = [[0, -math.pi], [RADIUS, -math.pi], [RADIUS, math.pi], [0, math.pi]]
    return plane(network, origin, u, v, corners)


def percent(frozen: FrozenNetwork, points: KeyPoints) -> str:
    return f"{100 * points.met(points.slack(frozen)).mean():.3f}"


GREEDY = (
    "patch", "as", "constraints", "layer", "met before %", "met after %", "second slice before %",
    "second slice after %", "area right before %", "area right after %", "weights", "s an iteration, mean / worst", "CPU s",
    "largest change",
)  # fmt: skip
LINEAR = (
    "patch", "as", "layer", "answer", "met %", "second slice %", "area right %", "weights", "L1", "L∞", "rows",
    "rounds", "LP seconds", "seconds with check", "excluded below",
)  # fmt: skip
SLICES = (
    ("patched", (-math.pi, 150.0)),
    ("velocities + 50", (-math.pi, 200.0)),
    ("velocities 500", (-math.pi, 500.0)),
    ("heading +90°", (math.pi / 2, 150.0)),
    ("heading 0°", (0.0, 150.0)),
)


@cache
def acas_maps() -> tuple[PlaneRestriction, PlaneRestriction]:
    """The network on both slices."""
    folder = data_folder() / "vnncomp" / "acasxu" / "onnx"
    network = verifier.load(folder / "ACASXU_run2a_1_1_batch_2000.onnx.gz")
    return slice_of(network, 150.0), slice_of(network, 200.0)


@cache
def demands(name: str, way: str) -> tuple[Specification, KeyPoints, KeyPoints]:
    """The specification, its key points, and those of the second slice."""
    experiment = next(e for e in EXPERIMENTS if e.name == name)
    first, second = acas_maps()
    specification = WAYS[way](first, experiment.patched, best="min")
    other = WAYS[way](second, experiment.second, best="min")
    return specification, key_points(first.network, specification), key_points(first.network, other)


def acas(name: str, way: str, method: str, which: int, steps: int, timeout: float) -> dict[str, Any]:
    """One row of the tables: one patch, one way to write it down, one method, one layer."""
    experiment = next(e for e in EXPERIMENTS if e.name == name)
    maps = acas_maps()
    network = maps[0].network
    original, layer = FrozenNetwork(network), repairable_layers(network)[which]
    specification, points, second = demands(name, way)
    regions = demands(name, "regions")[0]
    result = repair(network, specification, method=method, layers=[layer], steps=steps, timeout=timeout)
    frozen = result.frozen
    area = f"{100 * area_right(frozen, regions, best='min'):.3f}"
    found: dict[str, Any] = {}
    if method == "greedy":
        each = [s.seconds for s in result.steps]
        found["row"] = [
            name,
            way,
            f"{len(points):,}",
            f"{which}" + (" (the paper's)" if which == experiment.layer else ""),
            percent(original, points),
            percent(frozen, points),
            percent(original, second),
            percent(frozen, second),
            f"{100 * area_right(original, regions, best='min'):.3f}",
            area,
            len(result.steps),
            f"{np.mean(each):.2f} / {max(each):.2f}" if each else "-",
            f"{np.mean([s.cpu for s in result.steps]):.2f}" if each else "-",
            f"{result.norms['linf']:.3g}",
        ]
        met = [f"{100 * m / result.total:.4f}" for m in (result.met_before, *(s.met for s in result.steps))]
        found["curve"] = [name, way, which, *met, *[""] * (steps + 1 - len(met))]
    else:
        attempt = result.attempts[layer]
        found["norm"] = attempt.objective
        found["row"] = [
            name,
            way,
            which,
            result.status,
            percent(frozen, points),
            percent(frozen, second),
            area,
            f"{result.norms['weights']:.0f}",
            f"{result.norms['l1']:.3g}",
            f"{result.norms['linf']:.3g}",
            f"{attempt.rows_used:,} of {attempt.rows:,}",
            attempt.rounds,
            f"{attempt.seconds:.1f}",
            f"{result.seconds:.1f}",
            f"{attempt.beyond:.3g} (layer: {attempt.reach:.3g})" if attempt.beyond else "",
        ]
    if result.changes and (method == "lp" or (way == "vertices" and which == experiment.layer)):
        found["drawdown"] = [name, way, method, which, *changed_on_slices(frozen)]
        if which == experiment.layer or way == "regions":
            found["picture"] = f"{name.lower()}_{way}_{method}", maps, frozen
    return found


def changed_on_slices(frozen: FrozenNetwork) -> list[str]:
    """Percent of each slice on which the advisory changed."""
    rng = np.random.default_rng(0)
    shares = []
    for _, (heading, velocity) in SLICES:
        rho, theta = rng.uniform(0, RADIUS, 20_000), rng.uniform(-math.pi, math.pi, 20_000)
        rest = [np.full(20_000, v) for v in (heading, velocity, velocity)]
        effect = drawdown(frozen, (np.stack([rho, theta, *rest], axis=1) - MEAN) / RANGE, largest=False)
        shares.append(f"{100 * effect.changed / effect.total:.2f}")
    return shares


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
        names=ADVISORIES,
    )
    figure.savefig(RESULTS / f"patching_{name}.png", dpi=80)


# -- MNIST -----------------------------------------------------------------------------------------------
def corruptions(image: Array) -> tuple[Array, Array]:
    """Two directions from an image ``(28, 28)``: towards fog (a bright gradient), and towards its blur."""
    fog = np.linspace(0.9, 0.4, 28)[:, None] * np.ones((1, 28))
    padded = np.pad(image, 2, mode="edge")
    blurred = sum(padded[i : i + 28, j : j + 28] for i in range(5) for j in range(5)) / 25
    return 0.6 * (fog - image), np.asarray(blurred) - image


MNIST = """## MNIST, polygons of corrupted images (fog and blur)

ERAN's mnist_relu_3_100 without the ReLU on its outputs (a class whose output is cut off there could not be raised by
any patch, which leaves the regions alone). The first three test images that are classified rightly and for which the triangle (image, 60 %
towards a bright gradient, fully blurred by a 5x5 mean) has a wrong corner; the whole triangle must have the true label
by a margin of 0.001. Each layer is tried (counted from the end). Drawdown: accuracy lost on the 10,000 test images, in
percentage points.
"""


def mnist(number: int, which: int, timeout: float) -> dict[str, Any]:
    """Repair one polygon of corrupted images of one test image, and what that does to all test images."""
    loaded = verifier.load(data_folder() / "eran_nets" / "mnist_relu_3_100.onnx")
    network = Network(loaded.nodes[:-1], loaded.nodes[-2].name, loaded.source)  # without the ReLU on the outputs
    with np.load(data_folder() / "mnist" / "mnist.npz") as data:
        images, labels = data["x_test"] / 255.0, data["y_test"].astype(int)
    flat = images.reshape(len(images), -1)
    right = network.forward(flat).reshape(len(flat), -1).argmax(axis=1) == labels
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    wrong = []
    for index in np.flatnonzero(right).tolist():
        u, v = (d.reshape(-1) for d in corruptions(images[index]))
        corners = flat[index] + triangle @ np.stack([u, v])
        if (network.forward(corners).reshape(3, -1).argmax(axis=1) != labels[index]).any():
            wrong.append((index, u, v))
            if len(wrong) > number:
                break
    index, u, v = wrong[number]
    label = int(labels[index])
    region = PolygonRegion(flat[index], u, v, triangle)
    demand = output_class(network.output_size, label, margin=1e-3)
    specification = Specification((Requirement(region, demand, f"image {index}"),))
    layer = repairable_layers(network)[which]
    result = repair(network, specification, method="lp", layers=[layer], timeout=timeout)
    effect = drawdown(result.frozen, flat, labels)
    row = [
        index,
        label,
        which,
        result.status,
        result.total,
        f"{100 * result.met_before / result.total:.1f}",
        f"{100 * result.met_after / result.total:.1f}",
        f"{result.norms['weights']:.0f}",
        f"{result.norms['l1']:.3g}",
        f"{result.attempts[layer].seconds:.1f}",
        f"{result.seconds:.1f}",
        effect.changed,
        f"{100 * (effect.drawdown or 0.0):+.2f}",
    ]
    return {"rows": [row]}


if __name__ == "__main__":
    sys.exit(main())
