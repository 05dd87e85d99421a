"""ExactLine's experiments (Sotoudeh, Thakur, NeurIPS 2019): Tables 1 to 4 beside the paper's, and Figures 2 to 5.

    python benchmarks/exactline.py                       everything, writes benchmarks/results/exactline.md
    python benchmarks/exactline.py --attributed 5 --images 10      fewer images

Definitions (the authors' published scripts, repository 95616ARG/SyReNN, where the paper leaves them open):

- Table 1: integrated gradients of the label, baseline black. m̃ is the smallest number of left-Riemann samples from 20
  to 1000 whose attributions sum to f(x) - f(0) within 1 % (the script's choice; 5 % "was too easy to meet"). The
  error is the mean over the pixels of |IG~ - IG| / |IG|; beside it Σ|IG~ - IG| / Σ|IG|, which small pixels do not rule.
- Table 2: the smallest number of gradient samples n such that n, n + 1, …, n + 5 all have a mean error below 5 %; images
  that need more than 1000 are left out. The trapezoid's saving is 1 - trapezoid / left, image by image. Adapted: samples
  placed by `IntegratedGradients.adapted`, learned on other images than those it is tried on.
- Tables 3 and 4: correctly classified test images; FGSM moves each pixel by floor(0.03 · pixel) of 255 along the sign
  of the gradient of the class after the label, random directions take random signs (four an image, the same for all
  networks); density: `verifier.attribution.density`, in the network's own input. Ratios are taken image by image.
- Gradient deviation: `verifier.attribution.gradient_deviation` along the FGSM line, of the class after the label, by
  the paper's rule (entry by entry), mean over the images; beside it the ratio of norms.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from common import RESULTS, data_folder, machine, table
from exactline_figures import figures

import verifier
from verifier.attribution import IntegratedGradients, density, gradient_deviation
from verifier.attribution.integrated_gradients import Path, Rule
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.regions import lines, plane
from verifier.report.regions import ACAS_XU, ACAS_XU_MEAN, ACAS_XU_RANGE, line_plot, polar_map

TRAININGS = ("Point", "DiffAI", "PGDK")
TITLES = {"Point": "normal", "DiffAI": "DiffAI", "PGDK": "PGD"}
RULES = ("left", "right", "trapezoid", "midpoint")
STABLE = 6
"""n, n + 1, …, n + 5."""
LEARNED_ON = 8
"""Images that an adapted rule is learned on."""

PAPER_1 = "24.95 % (convSmall), 24.05 % (convMedium), 45.34 % (convBig)"
PAPER_2 = ["convSmall, the paper", "2582.74", "136.74", "139.40", "91.67", "", "20-40 % over three networks", ""]
PAPER_3 = {
    "mnist, Point": "1.36 (0.99, 1.76)",
    "mnist, DiffAI": "0.98 (0.92, 1.38)",
    "mnist, PGDK": "1.22 (0.97, 1.51)",
}
"""Table 3 (a); the figures of (b), CIFAR-10, are not in the text at hand."""
PAPER_4 = {
    "mnist, DiffAI": ("3.05 (2.05, 4.11)", "2.50 (1.67, 3.00)"),
    "mnist, PGDK": ("0.88 (0.66, 1.14)", "0.80 (0.62, 1.00)"),
    "cifar10, DiffAI": ("3.37 (2.77, 4.94)", "3.43 (2.78, 4.42)"),
    "cifar10, PGDK": ("1.48 (1.22, …)", "1.51 (1.21, …)"),
}
"""Table 4: FGSM and random directions; the last column's upper quartiles are cut off in the text at hand."""
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
    """The smallest index from which `STABLE` errors in a row are below 5 %."""
    good = np.convolve(errors < 0.05, np.ones(STABLE), mode="valid") > STABLE - 0.5
    return int(np.argmax(good)) if good.any() else None


class Sampled:
    """One image's exact attribution, and what rules with few samples make of it."""

    def __init__(self, net: Network, image: Array, label: int) -> None:
        self.path = Path(net, image, None, label)
        self.shares = self.path.shares()
        self.exact = self.path.lengths @ self.shares

    def errors(self, weights: Array) -> Array:
        """Mean over the pixels of the relative error, for piece weights ``(…, pieces)``."""
        return np.mean(np.abs(weights @ self.shares - self.exact) / np.abs(self.exact + 1e-11), axis=-1)

    def needed(self, rule: Callable[[int], Rule | str], least: int, limit: int = 1000) -> int | None:
        """How many samples a rule needs (see the module's docstring), from ``least`` on."""
        found: list[float] = []
        while len(found) < limit:
            block = range(least + len(found), least + len(found) + 100)
            found.extend(self.errors(np.stack([self.path.weights(rule(n), n) for n in block])).tolist())
            n = stable(np.array(found))
            if n is not None:
                return n + least
        return None


def attributions(count: int) -> str:
    """Tables 1 and 2 on the CIFAR-10 networks."""
    raw, labels = data("cifar10")
    prepared = preparation("cifar10")(raw)
    first: list[list[object]] = []
    second: list[list[object]] = []
    for training in TRAININGS:
        net = network("cifar10", training)
        tried = slice(0, 4 * (count + LEARNED_ON))
        right = np.flatnonzero(net(prepared[tried]).argmax(axis=1) == labels[tried])[: count + LEARNED_ON]
        learned, right = right[count:], right[:count]
        adapted = IntegratedGradients(net).adapted(prepared[learned], target=labels[learned])
        steps, errors, totals, pieces, saved = [], [], [], [], []
        needed: dict[str, list[int]] = {rule: [] for rule in (*RULES, "adapted")}
        for k in right.tolist():
            image = Sampled(net, prepared[k], int(labels[k]))
            change, sums = image.path.change()[0], image.shares.sum(axis=1)
            pieces.append(len(image.path.lengths))
            close = (
                m for m in range(20, 1001) if abs(image.path.weights("left", m) @ sums - change) < 0.01 * abs(change)
            )
            m = next(close, None)
            if m is not None:
                weights = image.path.weights("left", m)
                steps.append(m)
                errors.append(float(image.errors(weights)))
                totals.append(np.abs(weights @ image.shares - image.exact).sum() / np.abs(image.exact).sum())
            found = {rule: image.needed(lambda n, rule=rule: rule, 2) for rule in RULES}
            found["adapted"] = image.needed(adapted, 2)
            for rule, n in found.items():
                if n is not None:
                    needed[rule].append(n)
            if found["left"] and found["trapezoid"]:
                saved.append(1 - found["trapezoid"] / found["left"])
        title = f"convSmall, {TITLES[training]}"
        first.append(
            [title, len(right), f"{np.mean(steps):.0f}", f"{np.mean(errors):.1%}", quartiles(np.array(errors) * 100, ".1f"),
             f"{np.mean(totals):.1%}"]
        )  # fmt: skip
        cells = [f"{np.mean(needed[r]):.0f} ({len(right) - len(needed[r])} out)" if needed[r] else "-" for r in needed]
        second.append([title, f"{np.mean(pieces):.0f}", *cells[:-1], f"{np.mean(saved):.1%}", cells[-1]])
    text = "## Table 1: error of sampled integrated gradients (CIFAR-10)\n\n"
    header = ["network", "images", "mean m̃", "mean error", "median error % (quartiles)", "mean of Σ-error"]
    text += table(header, first)
    text += f"\nThe paper: {PAPER_1}.\n\n## Table 2: gradient samples for a mean error below 5 %\n\n"
    header = ["network", "exact (pieces)", *RULES, "trapezoid's saving an image", "adapted to other images"]
    return text + table(header, [PAPER_2, *second])


def linearity(count: int) -> str:
    """Tables 3 and 4 on the six networks, and the change of the gradient along FGSM lines."""
    third, fourth, times = [], [], []
    for name in ("mnist", "cifar10"):
        raw, labels = data(name)
        raw, labels = raw[:count], labels[:count]
        prepare = preparation(name)
        rng = np.random.default_rng(0)
        moves = rng.choice([-1.0, 1.0], (4, *raw.shape))
        densities: dict[str, Array] = {}
        for training in TRAININGS:
            net = network(name, training)
            start = prepare(raw)
            known = net(start).argmax(axis=1) == labels
            targets = (labels + 1) % 10
            gradient = np.stack([net.gradient(x, int(t)).reshape(-1) for x, t in zip(start, targets, strict=True)])
            found = np.full((5, count), np.nan)
            changes, norms, pieces, flips = [], [], [], 0
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
                        found[d, k] = density(one)
                        if d == 0:
                            pieces.append(len(one))
                            target = int(targets[k])
                            changes.append(gradient_deviation(one, target))
                            norms.append(gradient_deviation(one, target, rule="norms"))
                            flips += len(one.classes().labels) > 1
            densities[training] = found
            ratios = found[0] / found[1:]
            title = f"{name}, {TITLES[training]}"
            third.append(
                [title, int(known.sum()), quartiles(ratios[np.isfinite(ratios)]), PAPER_3.get(f"{name}, {training}", "-"),
                 f"{np.mean(changes):.1%}", quartiles(np.array(norms) * 100, ".0f"), flips]
            )  # fmt: skip
            times.append([title, quartiles(pieces, ".0f"), f"{1000 * spent / count:.1f}"])
        for training in TRAININGS[1:]:
            ratio = densities["Point"] / densities[training]
            cells = [quartiles(r[np.isfinite(r)]) for r in (ratio[0], ratio[1:])]
            fgsm, rand = PAPER_4[f"{name}, {training}"]
            fourth.append([f"{name}, normal / {TITLES[training]}", cells[0], fgsm, cells[1], rand])
    text = "## Table 3: density of linear pieces, FGSM / random directions\n\n"
    text += table(
        [
            "network",
            "images",
            "ratio: median (quartiles)",
            "the paper",
            'mean gradient deviation (the paper: "larger than 250 %")',
            "by norms, %",
            "FGSM lines that change class",
        ],
        third,
    )
    text += "\n## Table 4: density of pieces, normal / robustly trained: median (quartiles)\n\n"
    text += table(["networks", "FGSM directions", "the paper", "random directions", "the paper"], fourth)
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


def drawings() -> str:
    """Figures 2 to 5: see `exactline_figures`."""
    raw, labels = data("cifar10")
    acas = verifier.load(data_folder() / "vnncomp" / "acasxu" / "onnx" / "ACASXU_run2a_1_1_batch_2000.onnx.gz")
    nets = {TITLES[training]: network("cifar10", training) for training in ("Point", "DiffAI")}
    # the first image that the normal network takes for the class after the label once it is moved by FGSM
    for image, label in zip(raw, labels.tolist(), strict=True):
        sign = np.sign(nets["normal"].gradient(image / 255, (label + 1) % 10).reshape(-1))
        moved = np.clip(image + np.floor(0.03 * image) * sign, 0, 255) / 255
        if nets["normal"](image / 255).argmax() == label != nets["normal"](moved).argmax():
            return figures(acas, nets, image, label)
    raise SystemExit("no image changes its class")


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
        "What differs from the paper: the networks are ERAN's convSmall (medium and big ones were not at hand), and the "
        f"first correctly classified test images were used ({args.attributed} a network for Tables 1 and 2, out of "
        f"{args.images} a data set for Tables 3 and 4) instead of whole test sets.\n"
    ]
    for part in (lambda: attributions(args.attributed), lambda: linearity(args.images), decision_maps, drawings):
        parts.append(part())
        print(parts[-1], flush=True)
    (RESULTS / "exactline.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
