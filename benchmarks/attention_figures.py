"""The attention paper's Figures 4 and 7, with our networks and from our journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from attention_networks import images, load

from verifier.attention import Inconsistency
from verifier.encodings.perturbations import Brightness, Patch, Translation, perturbed

SIZES = ("fnn-100", "fnn-200", "fnn-400", "fnn-800", "cnn-s", "cnn-m")
ALGORITHMS = ("bfs", "gbs-CR", "gbs-AR", "gbs-CRAR", "verdict")
COLORS = {
    "Robust": "#4575b4",
    "NotRobust": "#d73027",
    "Timeout": "#999999",
    "Undecided": "#dddddd",
    "Failed": "#000000",
}


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)


def figure_7(records: dict[str, dict[str, Any]], path: Path) -> None:
    """(A), (B) answers by size, (C) times, (D) regions by combination, (E) time against regions."""
    from matplotlib.figure import Figure

    def some(algorithm: str, size: str = "", letters: str = "") -> list[dict[str, Any]]:
        return [
            r for n, r in records.items() if n.startswith(f"{algorithm}/{size}") and n.endswith(letters) and "cpu" in r
        ]

    figure = Figure(figsize=(14, 8), layout="constrained")
    panels = figure.subplots(2, 3).reshape(-1)
    for axes, algorithm, aspect in ((panels[0], "gbs-AR", "attention"), (panels[1], "gbs-CR", "label")):
        bottom = np.zeros(len(SIZES))
        for word, color in COLORS.items():
            height = np.array(
                [sum(r["answers"].get(aspect, "Failed") == word for r in some(algorithm, s + "/")) for s in SIZES]
            )
            axes.bar(SIZES, height, bottom=bottom, color=color, label=word)
            bottom += height
        axes.set_title(f"({'AB'[algorithm == 'gbs-CR']}) {algorithm}: answers within our limit")
        axes.tick_params(axis="x", labelrotation=30)
    panels[0].legend(fontsize=7, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    boxes, names = [], []
    for algorithm in ALGORITHMS:
        for size in SIZES:
            times = [r["cpu"] for r in some(algorithm, size + "/")]
            if times:
                boxes.append(times)
                names.append(f"{algorithm} {size}")
    if boxes:
        panels[2].boxplot(boxes, vert=False)
        panels[2].set_yticks(range(1, len(names) + 1), names, fontsize=6)
        panels[2].set_xscale("log")
    panels[2].set_title("(C) CPU seconds a problem")
    for k, letters in enumerate(("BP", "TP", "TB")):
        counts = [[r["regions"] for r in some(a, letters=letters) if "regions" in r] for a in ALGORITHMS[:4]]
        middle = [np.median(c) if c else np.nan for c in counts]
        panels[3].bar(np.arange(4) + 0.27 * (k - 1), middle, 0.25, label=letters)
    panels[3].set_xticks(range(4), ALGORITHMS[:4])
    panels[3].set_yscale("log")
    panels[3].legend()
    panels[3].set_title("(D) regions visited (median)")
    for size in SIZES:
        done = [r for a in ALGORITHMS[:4] for r in some(a, size + "/") if "regions" in r and not r["reason"]]
        panels[4].loglog([r["regions"] for r in done], [r["cpu"] for r in done], ".", label=size, markersize=4)
    panels[4].legend(fontsize=7)
    panels[4].set_title("(E) CPU seconds against regions, finished runs")
    for size in SIZES:
        done = some("verdict", size + "/")
        panels[5].loglog(
            [max(r.get("tiles", 1), 1) for r in done], [r["cpu"] for r in done], ".", label=size, markersize=4
        )
    panels[5].set_title("CPU seconds of a verdict against tiles")
    _save(figure, path)


def figure_4(path: Path) -> None:
    """Saliency maps of two networks: original, brightness, patch, translation, with the inconsistency."""
    from matplotlib.figure import Figure

    image = images("mnist", "test")[0][-2]
    kinds = [Brightness(high=1.0), Patch(top=4, left=4, high=1.0), Translation(high=1.0)]
    figure = Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(4, 4)
    points = np.concatenate([np.zeros((1, 3)), np.eye(3) * [0.4, 1.0, 1.0]])
    for row, name in enumerate(("fnn-100", "cnn-s")):
        network = load(name, "mnist")
        layer = perturbed(network, image, kinds)
        label = int(network.forward(layer.image.reshape(1, -1))[0].argmax())
        settings = Inconsistency(filter="absolute")
        maps = settings.maps(layer, points, label)[:, label, 0]
        values = settings(layer, points, label)
        for column, word in enumerate("OBPT"):
            panels[2 * row, column].imshow(layer.images(points)[column, 0], cmap="gray", vmin=0, vmax=1)
            panels[2 * row + 1, column].imshow(maps[column], cmap="hot", vmin=0, vmax=maps[0].max())
            panels[2 * row, column].set_title(f"{name}, ({word})", fontsize=9)
            panels[2 * row + 1, column].set_title(f"inconsistency {values[column]:.3g}", fontsize=9)
    for axes in panels.reshape(-1):
        axes.set_xticks([])
        axes.set_yticks([])
    _save(figure, path)
