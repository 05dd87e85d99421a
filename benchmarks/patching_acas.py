"""The patching paper's experiment on ACAS Xu: slices, areas, and one repair at a time (see patching.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from common import RESULTS, data_folder

import verifier
from verifier.network.graph import Network
from verifier.regions import PlaneRestriction, plane
from verifier.repair import FrozenNetwork, Specification, drawdown, repair, repairable_layers
from verifier.repair.frozen import CHUNK, parameters
from verifier.repair.slices import (
    HalfPlanes,
    Relabel,
    area_right,
    frozen_restriction,
    labels_of_vertices,
    specification_of_map,
    specification_of_vertices,
)

MEAN = np.array([19791.091, 0.0, 0.0, 650.0, 600.0])
RANGE = np.array([60261.0, 2 * math.pi, 2 * math.pi, 1100.0, 1200.0])
"""Normalisation of the ACAS Xu inputs (ρ, θ, ψ, own velocity, intruder's velocity)."""

RADIUS = 5000 * math.sqrt(2)
FEET_A_SECOND = 1 / 1.09728
"""One km/h."""

box = HalfPlanes.box
inf = math.inf


@dataclass(frozen=True)
class Experiment:
    """One of the paper's three patches.

    Attributes:
        layer: that of the authors' script, counted from the end.
        patched, second: the areas to relabel on the patched slice and on the other.
        paper: Table 1: met on the patched slice before and after, on the other before and after (%); seconds an
            iteration, mean and standard deviation.
    """

    name: str
    layer: int
    patched: tuple[Relabel, ...]
    second: tuple[Relabel, ...]
    paper: tuple[str, ...]


EXPERIMENTS = (
    Experiment(
        "Pockets",
        -2,
        (Relabel(box((2750, 3750), (1.0, 1.5)), 2, 4), Relabel(box((2250, 3500), (-1.5, -1.1)), 1, 3)),
        (Relabel(box((2750, 4500), (0.94, 2.0)), 2, 4), Relabel(box((2250, 4500), (-2.0, -1.05)), 1, 3)),
        ("99.6", "99.994", "99.3", "99.7", "23.6 ± 15.2"),
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
        ("99.6", "99.98", "99.7", "99.8", "15.9 ± 2.3"),
    ),
    Experiment(
        "Symmetry",
        -1,
        (Relabel(box((-inf, inf), (0.0, inf)), 4, 3),),
        (Relabel(box((-inf, inf), (0.0, inf)), 4, 3),),
        ("88.5", "97.0", "88.9", "95.6", "4.7 ± 0.1"),
    ),
)


ADVISORIES = ("clear of conflict", "weak left", "weak right", "strong left", "strong right")
WAYS = {"vertices": specification_of_vertices, "regions": specification_of_map}


def slice_of(network: Network, velocity: float) -> PlaneRestriction:
    """The network on a (ρ, θ) slice; plane coordinates are feet and radians."""
    origin = (np.array([0.0, 0.0, -math.pi, velocity, velocity]) - MEAN) / RANGE
    u, v = np.zeros(5), np.zeros(5)
    u[0], v[1] = 1 / RANGE[0], 1 / RANGE[1]
    corners = [[0, -math.pi], [RADIUS, -math.pi], [RADIUS, math.pi], [0, math.pi]]
    return plane(network, origin, u, v, corners)


SLICES = (
    ("patched", (-math.pi, 150.0)),
    ("velocities + 50 ft/s", (-math.pi, 200.0)),
    ("velocities 500", (-math.pi, 500.0)),
    ("heading +90°", (math.pi / 2, 150.0)),
    ("heading 0°", (0.0, 150.0)),
)


@cache
def maps() -> tuple[PlaneRestriction, PlaneRestriction, PlaneRestriction]:
    """The network on the patched slice, on the other (both velocities + 50 ft/s), and with + 50 km/h."""
    folder = data_folder() / "vnncomp" / "acasxu" / "onnx"
    network = verifier.load(folder / "ACASXU_run2a_1_1_batch_2000.onnx.gz")
    first, second, third = (slice_of(network, 150.0 + more) for more in (0.0, 50.0, 50.0 * FEET_A_SECOND))
    return first, second, third


@cache
def demands(name: str, way: str) -> Specification:
    """The specification on the patched slice."""
    return WAYS[way](maps()[0], experiment(name).patched, best="min")


def experiment(name: str) -> Experiment:
    return next(e for e in EXPERIMENTS if e.name == name)


def met_by_label(frozen: FrozenNetwork, name: str, which: int) -> float:
    """Percent of the constraints of a slice that hold, by the rule of the authors' script.

    A constraint is a vertex of the slice's linear regions with its class; it is met if that is the advisory there.
    """
    restriction = maps()[which]
    areas = experiment(name).patched if which == 0 else experiment(name).second
    wanted = labels_of_vertices(restriction, areas, best="min")
    x = restriction.embed(restriction.vertices)
    found = [frozen.forward(x[k : k + CHUNK]).reshape(-1, 5).argmin(axis=1) for k in range(0, len(x), CHUNK)]
    return float(100 * (np.concatenate(found) == wanted).mean())


def run(name: str, way: str, method: str, which: int, steps: int, timeout: float) -> dict[str, Any]:
    """One patch, written down in one way, by one method, in one layer."""
    network = maps()[0].network
    original, layer = FrozenNetwork(network), repairable_layers(network)[which]
    limit = timeout if method == "lp" else None
    result = repair(network, demands(name, way), method=method, layers=[layer], steps=steps, timeout=limit)
    stages = [original]
    for step in result.steps:
        change = np.zeros(parameters(network[step.layer].operator).size)
        change[step.index] = step.delta
        stages.append(stages[-1].patched(step.layer, change))
    if not result.steps:
        stages.append(result.frozen)
    regions = demands(name, "regions")
    found: dict[str, Any] = {
        "status": str(result.status),
        "reason": result.reason,
        "exact": result.check.exact,
        "key points": result.total,
        "met": [result.met_before, *(s.met for s in result.steps)]
        if result.steps
        else [result.met_before, result.met_after],
        "by label": [[met_by_label(f, name, k) for f in stages] for k in range(3)],
        "area": [100 * area_right(f, regions, best="min") for f in (original, result.frozen)],
        "norms": dict(result.norms),
        "seconds": result.seconds,
        "step seconds": [s.seconds for s in result.steps],
        "step cpu": [s.cpu for s in result.steps],
    }
    if layer in result.attempts:
        attempt = result.attempts[layer]
        found["lp"] = {
            "norm": attempt.norm, "least": min(attempt.least, 1e300), "reach": attempt.reach, "rows": attempt.program.rows,
            "used": attempt.program.rows_used, "rounds": attempt.program.rounds, "seconds": attempt.program.seconds,
        }  # fmt: skip
    if result.changes:
        found["changed"] = changed_on_slices(result.frozen)
        if which == experiment(name).layer:
            draw(f"{name.lower()}_{way}_{method}", result.frozen)
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


def draw(name: str, frozen: FrozenNetwork) -> None:
    """Class maps before and after on both slices (the paper's Figures 5 to 7)."""
    from verifier.report.repair import before_and_after

    figure = before_and_after(
        [
            (title, restriction, frozen_restriction(frozen, restriction))
            for title, restriction in zip(("patched slice", "velocities + 50 ft/s"), maps()[:2], strict=True)
        ],
        best="min",
        polar=True,
        names=ADVISORIES,
    )
    figure.savefig(RESULTS / f"patching_{name}.png", dpi=80)
