"""ExactLine's experiments (Sotoudeh, Thakur, NeurIPS 2019): Tables 1 to 4 and ACAS Xu decision maps.

    python benchmarks/exactline.py                       everything, writes benchmarks/results/exactline.md
    python benchmarks/exactline.py --attributed 5 --images 10      fewer images

Definitions (the authors' published scripts, repository 95616ARG/SyReNN, where the paper leaves them open):

- Table 1: integrated gradients of the label, baseline black. m̃ is the smallest number of left-Riemann samples from 20
  to 1000 whose attributions sum to f(x) - f(0) within 1 % (the script's choice; 5 % "was too easy to meet"). The
  error is the mean over the pixels of |IG~ - IG| / |IG|; beside it Σ|IG~ - IG| / Σ|IG|, which small pixels do not rule.
- Table 2: the smallest n such that n, n + 1, …, n + 4 steps all have a mean error below 5 %; images that need more than
  1000 are left out. (trapezoid: n steps are n + 1 gradients.)
- Tables 3 and 4: correctly classified test images; FGSM moves each pixel by floor(0.03 · pixel) of 255 along the sign
  of the gradient of the class after the label, random directions take random signs (four an image, the same for all
  networks); density = breakpoints per Euclidean length in the network's own input. Ratios are taken image by image.
- Gradient change: mean over the FGSM line of ‖∇(t) - ∇(0)‖₁ / ‖∇(t)‖₁ of the class after the label.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from common import RESULTS, data_folder, machine, table

import verifier
from verifier.attribution import gradient_deviation
from verifier.attribution.integrated_gradients import Path
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions import lines, plane
from verifier.report.regions import ACAS_XU, ACAS_XU_MEAN, ACAS_XU_RANGE, line_plot, polar_map

TRAININGS = ("Point", "DiffAI", "PGDK")
TITLES = {"Point": "normal", "DiffAI": "DiffAI", "PGDK": "PGD"}
RULES = ("left", "right", "trapezoid", "midpoint")

PAPER_1 = "24.95 % on its CIFAR-10 convSmall, 24.05 % on convMedium, 45.34 % on convBig (its abstract: 25-45 %)"
PAPER_2 = "on convSmall 2582.74 exact, 136.74 left, 139.40 right, 91.67 trapezoid"
PAPER_3 = {
    "mnist, Point": "1.36 (0.99, 1.76)",
    "mnist, DiffAI": "0.98 (0.92, 1.38)",
    "mnist, PGDK": "1.22 (0.97, 1.51)",
    "cifar10, Point": "1.78 (1.60, 2.02)",
    "cifar10, DiffAI": "1.67 (1.47, 2.03)",
    "cifar10, PGDK": "1.84 (1.65, 2.10)",
}
"""The paper's figures, quoted without its text at hand: compare with it before citing them."""
SCENARIOS = ((-180, 150, 150), (-90, 500, 500), (0, 500, 500), (90, 150, 150))
"""Intruder's heading in degrees, own velocity, intruder's velocity in ft/s."""


def data(name: str) -> tuple[Array, Array]:
    """Test images (raw, 0 to 255, NCHW) and labels."""
    file = np.load(data_folder() / name / f"{name}.npz")
    images, labels = file["x_test"], file["y_test"]
    return images.reshape(len(images), -1).astype(np.float64), labels.astype(int)


def preparation(name: str) -> Callable[[Array], Array]:
    """From raw pixels to what the networks of this data set want."""
    if name == "mnist":
        return lambda raw: (raw / 255 - 0.1307) / 0.3081
    return lambda raw: raw / 255


def network(name: str, training: str) -> Network:
    """One of ERAN's convSmall networks."""
    return verifier.load(data_folder() / "eran_nets" / f"{name}_convSmallRELU__{training}.onnx")


def quartiles(values: Sequence[float] | Array, form: str = ".2f") -> str:
    """Median and quartiles in words."""
    if not len(values):
        return "none"
    low, middle, high = np.percentile(np.asarray(values, dtype=float), [25, 50, 75])
    return f"{middle:{form}} ({low:{form}}, {high:{form}})"


def stable(errors: Array) -> int | None:
    """The smallest index from which five errors in a row are below 5 %."""
    good = np.convolve(errors < 0.05, np.ones(5), mode="valid") > 4.5
    return int(np.argmax(good)) if good.any() else None


def attributions(count: int) -> str:
    """Tables 1 and 2 on the CIFAR-10 networks."""
    raw, labels = data("cifar10")
    prepared = preparation("cifar10")(raw)
    first, second = [], []
    for training in TRAININGS:
        net = network("cifar10", training)
        right = np.flatnonzero(net(prepared[: 4 * count]).argmax(axis=1) == labels[: 4 * count])[:count]
        steps, errors, totals, pieces = [], [], [], []
        needed: dict[str, list[int]] = {rule: [] for rule in RULES}
        for k in right.tolist():
            path = Path(net, prepared[k], None, int(labels[k]))
            shares, change = path.shares(), path.change()[0]
            sums, exact = shares.sum(axis=1), path.lengths @ shares

            def error(weights: Array, shares: Array = shares, exact: Array = exact) -> Array:
                return np.mean(np.abs(weights @ shares - exact) / np.abs(exact + 1e-11), axis=-1)

            pieces.append(len(path.lengths))
            close = (m for m in range(20, 1001) if abs(path.weights("left", m) @ sums - change) < 0.01 * abs(change))
            m = next(close, None)
            if m is not None:
                weights = path.weights("left", m)
                steps.append(m)
                errors.append(float(error(weights)))
                totals.append(np.abs(weights @ shares - exact).sum() / np.abs(exact).sum())
            for rule in RULES:
                more = int(rule == "trapezoid")
                found: list[float] = []
                n = None
                while n is None and len(found) < 1000:
                    block = range(len(found) + 1, len(found) + 101)
                    found.extend(error(np.stack([path.weights(rule, n + more) for n in block])).tolist())
                    n = stable(np.array(found))
                if n is not None:
                    needed[rule].append(n + 1)
        title = f"CIFAR-10 convSmall, {TITLES[training]}"
        first.append(
            [title, len(right), f"{np.mean(steps):.0f}", f"{np.mean(errors):.1%}", quartiles(np.array(errors) * 100, ".1f"),
             f"{np.mean(totals):.1%}"]
        )  # fmt: skip
        cells = [f"{np.mean(needed[r]):.0f} ({len(right) - len(needed[r])} left out)" for r in RULES]
        second.append([title, f"{np.mean(pieces):.0f}", *cells])
    text = "## Table 1: error of sampled integrated gradients\n\n"
    header = ["network", "images", "mean m̃", "mean error", "median error % (quartiles)", "mean of Σ-error"]
    text += table(header, first)
    text += f"\nThe paper: {PAPER_1}.\n\n## Table 2: steps for a mean error below 5 %\n\n"
    text += table(["network", "exact (pieces)", *RULES], second)
    text += f"\nThe paper: {PAPER_2}.\n"
    return text


def linearity(count: int) -> str:
    """Tables 3 and 4 on the six networks, and the change of the gradient along FGSM lines."""
    third, fourth, times = [], [], []
    for name in ("mnist", "cifar10"):
        raw, labels = data(name)
        raw, labels = raw[:count], labels[:count]
        prepare = preparation(name)
        rng = np.random.default_rng(0)
        moves = rng.choice([-1.0, 1.0], (4, *raw.shape))
        density: dict[str, Array] = {}
        for training in TRAININGS:
            net = network(name, training)
            start = prepare(raw)
            known = net(start).argmax(axis=1) == labels
            targets = (labels + 1) % 10
            gradient = np.stack([net.gradient(x, int(t)).reshape(-1) for x, t in zip(start, targets, strict=True)])
            found = np.full((5, count), np.nan)
            changes, pieces, flips = [], [], 0
            spent = 0.0
            for d, sign in enumerate([np.sign(gradient), *moves]):
                end = prepare(np.clip(raw + np.floor(0.03 * raw) * sign, 0, 255))
                for i in range(0, count, 25):
                    part = slice(i, min(i + 25, count))
                    began = time.perf_counter()
                    restricted = lines(net, start[part], end[part])
                    if d == 0:
                        spent += time.perf_counter() - began
                    for k, one in zip(range(part.start, part.stop), restricted, strict=True):
                        length = np.linalg.norm(one.end - one.start)
                        if not known[k] or length == 0:
                            continue
                        found[d, k] = len(one.breakpoints) / length
                        if d == 0:
                            pieces.append(len(one))
                            changes.append(gradient_deviation(one, int(targets[k])))
                            flips += len(one.classes().labels) > 1
            density[training] = found
            ratios = found[0] / found[1:]
            title = f"{name}, {TITLES[training]}"
            third.append(
                [title, int(known.sum()), quartiles(ratios[np.isfinite(ratios)]), PAPER_3[f"{name}, {training}"], quartiles(np.array(changes) * 100, ".0f"),
                 flips]
            )  # fmt: skip
            times.append([title, quartiles(pieces, ".0f"), f"{1000 * spent / count:.1f}"])
        for training in TRAININGS[1:]:
            ratio = density["Point"] / density[training]
            cells = [quartiles(r[np.isfinite(r)]) for r in (ratio[0], ratio[1:])]
            fourth.append([f"{name}, normal / {TITLES[training]}", *cells])
    text = "## Table 3: density of linear pieces, FGSM / random directions\n\n"
    text += table(
        [
            "network",
            "images",
            "ratio: median (quartiles)",
            "the paper",
            "gradient change % on FGSM lines",
            "FGSM lines that change class",
        ],
        third,
    )
    text += "\n## Table 4: density of pieces, normal / robustly trained: median (quartiles)\n\n"
    text += table(["networks", "FGSM directions", "random directions"], fourth)
    text += "\n## Image to FGSM image: pieces and time\n\n"
    text += table(["network", "pieces: median (quartiles)", "ms a line (25 lines a batch)"], times)
    return text


def decision_maps() -> str:
    """ACAS Xu decision maps around the ownship, network 1_1, with pictures."""
    net = verifier.load(data_folder() / "vnncomp" / "acasxu" / "onnx" / "ACASXU_run2a_1_1_batch_2000.onnx.gz")
    radius = 12_000.0
    rows = []
    for heading, own, intruder in SCENARIOS:
        origin = (np.array([0, 0, math.radians(heading), own, intruder]) - ACAS_XU_MEAN) / ACAS_XU_RANGE
        u, v = np.zeros((2, 5))
        u[0], v[1] = 1 / ACAS_XU_RANGE[0], 1 / ACAS_XU_RANGE[1]
        corners = [[0, -math.pi], [radius, -math.pi], [radius, math.pi], [0, math.pi]]
        began = time.perf_counter()
        found = plane(net, origin, u, v, corners)
        classes = found.classes(best="min")
        seconds = time.perf_counter() - began
        name = f"exactline_acas_{heading:+04d}_{own}_{intruder}"
        title = f"intruder heading {heading}°, own {own} ft/s, intruder {intruder} ft/s"
        polar_map(classes, heading=math.radians(heading), title=title).savefig(RESULTS / f"{name}.png", dpi=90)
        shares = classes.areas / classes.areas.sum()
        largest = ", ".join(f"{ACAS_XU[k]} {shares[k]:.1%}" for k in np.argsort(-shares)[:3])
        rows.append(
            [title, f"{len(found):,}", f"{len(classes.boundaries):,}", f"{seconds:.2f} s", largest, f"{name}.png"]
        )
    ends = (
        np.array([[radius, a, math.radians(-90), 500, 500] for a in (-math.pi, math.pi)]) - ACAS_XU_MEAN
    ) / ACAS_XU_RANGE
    circle = lines(net, ends[:1], ends[1:])[0]
    line_plot(circle, best="min").savefig(RESULTS / "exactline_acas_line.png", dpi=90)
    header = ["scenario", "linear regions", "boundary segments", "time with classes", "share of (ρ, θ) area", "picture"]
    text = "## ACAS Xu network 1_1: decision maps within 12,000 ft\n\n" + table(header, rows)
    text += (
        f"\nThe line around the ownship at 12,000 ft (heading -90°, 500 ft/s) has {len(circle):,} pieces and "
        f"{len(circle.classes(best='min').labels)} class bands: exactline_acas_line.png.\n"
    )
    return text


def main() -> None:
    """Run the experiments and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attributed", type=int, default=25, help="images of Tables 1 and 2 for each network")
    parser.add_argument("--images", type=int, default=100, help="images of Tables 3 and 4 for each data set")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    parts = [
        "# ExactLine's experiments\n\nWritten by `benchmarks/exactline.py`; its docstring has the definitions. "
        f"Measured on {machine()}.\n\n"
        "What differs from the paper: the networks are ERAN's convSmall (medium and big ones were not at hand), the "
        "first correctly classified test images were used. The paper's figures are quoted without its text at hand: compare "
        "with it before citing them.\n"
    ]
    for part in (lambda: attributions(args.attributed), lambda: linearity(args.images), decision_maps):
        parts.append(part())
        print(parts[-1], flush=True)
    (RESULTS / "exactline.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
