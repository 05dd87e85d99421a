"""Draws the pictures of the gallery (`docs/gallery.md`) from networks that are in the repository: ``make gallery``.

python docs/gallery.py [FOLDER]        docs/gallery by default
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

import verifier
from verifier.files import write_figure

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ROOT / "benchmarks" / "networks"
SEVEN = np.array([
    [0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0, 0],
    [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0],
], dtype=float)  # fmt: skip
THREE = np.array([
    [0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 1, 0, 0],
    [0, 0, 0, 0, 1, 0, 0], [0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0],
], dtype=float)  # fmt: skip
ONE = np.array([
    [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0],
    [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0],
], dtype=float)  # fmt: skip
SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def digits() -> verifier.Network:
    """A network that reads 7 × 7 drawings of digits."""
    return verifier.load(NETWORKS / "digits.onnx")


def bandit() -> verifier.Network:
    """A network that chooses between two actions from five inputs."""
    return verifier.load(NETWORKS / "bandit.onnx")


def line() -> Any:
    """From a one to a seven: the outputs on the line, the classes, and every breakpoint."""
    return verifier.line(digits(), ONE.reshape(-1), SEVEN.reshape(-1)).plot()


def bands() -> Any:
    """The classes alone, from a three to a seven."""
    from verifier.report.regions import bands_plot

    return bands_plot(verifier.line(digits(), THREE.reshape(-1), SEVEN.reshape(-1)).classes())


def plane() -> Any:
    """Three drawings span a plane: all linear regions on their triangle, and the class of each."""
    corners = np.stack([ONE.reshape(-1), SEVEN.reshape(-1), THREE.reshape(-1)])
    return verifier.plane(digits(), corners).plot()


def decisions() -> Any:
    """Where a bandit's network chooses which action, over two of its inputs."""
    unit = np.eye(5)
    view = verifier.plane(bandit(), np.zeros(5), unit[2], unit[4], SQUARE)
    return view.plot(names=["first action", "second action"])


def attribution() -> Any:
    """Exact integrated gradients of the seven."""
    return verifier.attribute(digits(), SEVEN.reshape(-1)).plot()


def sampled() -> Any:
    """The same in five samples: 10.8 % off, and how much where."""
    from verifier.report.style import figure_of, signed_map

    network, x = digits(), SEVEN.reshape(-1)
    exact, rough = (verifier.attribute(network, x, method=how, steps=5) for how in ("exact", "right"))
    figure = figure_of(12.5, 3.8)
    maps = (exact.values, rough.values, rough.values - exact.values)
    titles = ("exact", f"5 samples (error {rough.error:.1%})", "difference")
    size = max(float(np.abs(m).max()) for m in maps[:2])
    for axes, values, title in zip(figure.subplots(1, 3), maps, titles, strict=True):
        signed_map(axes, values, (7, 7), size=None if title == "difference" else size, title=title)
    return figure


def similar() -> Any:
    """A drawing that is no seven to the network, with the same five most salient pixels as the seven."""
    from verifier.properties.builders import condition_at
    from verifier.report.saliency import witness_figure

    network, how = digits(), {"map": "absolute", "similarity": "top-k", "top_k": 5}
    query = verifier.saliency_robustness(network, SEVEN.reshape(-1), epsilon=0.1, delta=0.0, **how)
    witness = verifier.verify(query).witness
    assert witness is not None
    return witness_figure(condition_at(network, SEVEN.reshape(-1), **how), SEVEN, witness.input)


def witness() -> Any:
    """A counterexample to robustness with its outputs."""
    verdict = verifier.verify(verifier.robustness(digits(), SEVEN.reshape(-1), 0.2))
    assert verdict.witness is not None
    from dataclasses import replace

    return replace(verdict.witness, shape=(7, 7)).plot()


def regions() -> Any:
    """For which brightness and translation label and saliency map hold, region by region."""
    changes = [verifier.Brightness(low=0, high=0.2), verifier.Translation(low=0, high=1)]
    return verifier.attention_map(digits(), SEVEN, changes, 20.0).plot()


def areas() -> Any:
    """The same in tiles that are proved, refuted or open: the way for large networks."""
    changes = [verifier.Brightness(low=0, high=0.2), verifier.Translation(low=0, high=1)]
    how = verifier.AreaSettings(smallest=1e-3)
    return verifier.attention_areas(digits(), SEVEN, changes, 20.0, how=how).plot()


def certified() -> Any:
    """Certified accuracy of 24 random inputs at seven radii."""
    inputs = np.random.default_rng(0).uniform(size=(24, 5))
    radii = [str(Fraction(k, 100)) for k in (1, 2, 4, 8, 12, 16, 24)]
    return verifier.certify(bandit(), inputs, epsilon=radii).plot()


def repair() -> Any:
    """A class map before and after a repair that makes the lower left corner the second action, proved."""
    from verifier.regions import plane
    from verifier.repair.slices import frozen_restriction
    from verifier.report.repair import before_and_after

    network = bandit()
    origin, u, v = np.zeros(5), np.eye(5)[2], np.eye(5)[4]
    corner = verifier.PolygonRegion(origin, u, v, np.array([[0, 0], [0.2, 0], [0, 0.2]]))
    stays = verifier.PointRegion(
        np.array([[s * u + t * v for s, t in ((0.5, 0), (0, 0.5), (0.4, 0.4))]]).reshape(-1, 5)
    )
    wanted = (
        verifier.Requirement(corner, verifier.output_class(2, 1, margin=0.01)),
        verifier.Requirement(stays, verifier.output_class(2, 0, margin=0.01)),
    )
    result = verifier.repair(network, verifier.Specification(wanted))
    view = plane(network, origin, u, v, SQUARE)
    return before_and_after([("repaired in the corner", view, frozen_restriction(result.frozen, view))])


PICTURES: tuple[Callable[[], Any], ...] = (
    line, bands, plane, decisions, attribution, sampled, similar, witness, regions, areas, certified, repair,
)  # fmt: skip
"""What is drawn; the file is called like the function."""


def main(folder: Path) -> None:
    """Draw all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for draw in PICTURES:
        write_figure(folder / f"{draw.__name__}.png", draw(), dpi=80)
        print(f"{folder / draw.__name__}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "gallery")
