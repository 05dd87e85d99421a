"""Formal explanations: reach and time, beside published figures.

    python benchmarks/explain.py run [SET ...] [--images N]     # journalled: the same command goes on where it was
    python benchmarks/explain.py report                         # writes benchmarks/results/explain.md

| set | what |
|---|---|
| features | abductive explanations of MNIST images, every one irredundant, on the networks of `explain_networks.py` |
| lipschitz | local Lipschitz constants of MNIST networks at ε = 0.02, 60 s each |
| influence | signs of influence of a credit-like network of 20 features on its whole domain |
| corpus | constants, signs and explanations of small random networks against the enumeration of their regions |
| attribution | exact expected gradients beside sampled ones (Captum's, where it is installed) |
| stability | the radius up to which a map's largest entries stay the same |
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import explain_networks
import numpy as np
from attention_networks import images
from common import RESULTS, data_folder, machine, table

import verifier
from verifier.attribution import IntegratedGradients, expected_gradients
from verifier.explain import Influence, explain, influences, lipschitz, patches, stable_radius
from verifier.journal import Journal
from verifier.network.graph import Network, feedforward
from verifier.regions import plane

JOURNAL = RESULTS / "explain_journal.jsonl"
RADII = {"dense-10x2": 0.05, "dense-30x2": 0.05, "conv-4x2": 0.05, "conv-10k": 0.05}
MOST = {"conv-10k": 10}
"""Images at most, where one may take minutes."""
SECONDS = 120.0
"""Time limit of an image; what is not decided then is kept, and counts as undecided."""
PUBLISHED = {
    "dense-10x2": ("784-10-10-10", 280.16, 13.87, 224.41, 13.72),
    "conv-4x2": ("2 × conv 4, dense 20", 159.78, 56.72, 113.53, 33.75),
}
"""Architecture; kept pixels and seconds of VeriX+ and of VeriX+ accelerated by FAME: Boumazouza et al., *FAME* (ICLR 2026,
arXiv 2603.10661), Table 1, ε = 0.05, means over those of 100 images that are not robust, Apple M2 Pro."""
Task = tuple[str, Callable[[], dict[str, Any]]]


# -- features --------------------------------------------------------------------------------------------
def features(count: int) -> Iterator[Task]:
    """One task for each network and image."""
    pixels, _ = images("mnist", "test")
    for name, epsilon in RADII.items():
        network = verifier.load(explain_networks.path(name))
        for k in range(min(count, MOST.get(name, count))):
            yield f"features {name} {epsilon} {k}", lambda n=network, k=k, e=epsilon: _explained(n, pixels[k], e)


def _explained(network: Network, image: np.ndarray, epsilon: float) -> dict[str, Any]:
    begun = time.process_time()
    found = explain(network, image.reshape(-1), epsilon=epsilon, features=patches(network), timeout=SECONDS)
    return {
        "label": found.label,
        "kept": len(found.kept),
        "undecided": len(found.undecided),
        "changed": 0 if found.contrast is None else len(found.contrast.features),
        "questions": found.questions,
        "seconds": round(found.seconds, 3),
        "cpu": round(time.process_time() - begun, 3),
    }


def features_section(records: dict[str, dict[str, Any]]) -> str:
    """Ours beside the published figures."""
    rows = []
    for name, epsilon in RADII.items():
        mine = [r for key, r in records.items() if key.startswith(f"features {name} {epsilon} ")]
        if not mine:
            continue
        some = [r for r in mine if r["kept"]]
        _, size, seconds, fame_size, fame_seconds = PUBLISHED.get(name, ("", *["–"] * 4))
        rows.append(
            [
                name, epsilon, len(mine), sum(not r["undecided"] for r in mine), len(some),
                f"{fmean([r['kept'] for r in some] or [0]):.1f}", f"{fmean([r['seconds'] for r in some] or [0]):.2f}",
                f"{median([r['seconds'] for r in mine]):.2f}", f"{max(r['seconds'] for r in mine):.1f}",
                f"{fmean(r['cpu'] for r in mine):.2f}", size, seconds, fame_size, fame_seconds,
            ]
        )  # fmt: skip
    head = ["network", "ε", "images", "irredundant", "not robust", "kept", "s", "median s", "longest s", "CPU s",
            "VeriX+ kept", "s", "FAME + VeriX+ kept", "s"]  # fmt: skip
    return (
        "## Abductive explanations\n\nPixels, MNIST's first test images, inputs in [0, 1]. *kept* and *s* are means over the "
        "images that are not robust, as in the published table; the medians and CPU seconds are over all images. Published: "
        "Boumazouza et al., *FAME* (ICLR 2026), Table 1, on networks of the same architecture trained by others, on an Apple "
        "M2 Pro.\n\n" + table(head, rows)
    )


# -- Lipschitz -------------------------------------------------------------------------------------------
def lipschitz_networks() -> Iterator[tuple[str, Network]]:
    """Ours, and the dense ones of the data folder."""
    for name in ("dense-10x2", "dense-30x2"):
        yield name, verifier.load(explain_networks.path(name))
    for path in sorted((data_folder() / "eran_nets").glob("mnist_relu_*.onnx*")):
        yield path.name.removesuffix(".gz").removesuffix(".onnx"), verifier.load(path)


def lipschitz_tasks(count: int) -> Iterator[Task]:
    """One task for each network, image and norm."""
    pixels, _ = images("mnist", "test")
    for name, network in lipschitz_networks():
        for k in range(min(count, 3)):
            for norm in ("linf", "l2"):
                yield f"lipschitz {name} {norm} {k}", lambda n=network, k=k, m=norm: _constant(n, pixels[k], m)


def _constant(network: Network, image: np.ndarray, norm: Any) -> dict[str, Any]:
    found = lipschitz(network, image.reshape(-1), 0.02, norm=norm, gap=0.01, timeout=60.0)
    return {
        "lower": found.lower,
        "upper": found.upper,
        "gap": found.gap,
        "subproblems": found.subproblems,
        "reason": found.reason,
        "seconds": round(found.seconds, 2),
    }


def lipschitz_section(records: dict[str, dict[str, Any]]) -> str:
    """Gaps and times."""
    rows = [
        [
            *key.split()[1:], f"{r['lower']:.5g}", f"{r['upper']:.5g}", f"{r['gap']:.2%}", r["subproblems"],
            f"{r['seconds']:.1f}", r["reason"] or "the gap is reached",
        ]
        for key, r in records.items() if key.startswith("lipschitz ")
    ]  # fmt: skip
    head = ["network", "inputs by", "image", "reached", "proved at most", "gap", "subproblems", "s", "ended"]
    return "## Local Lipschitz constants\n\nOf the network's label, ε = 0.02, gap 1 %, 60 s.\n\n" + table(head, rows)


# -- influence -------------------------------------------------------------------------------------------
def credit_network(seed: int = 0) -> Network:
    """20-24-12-1, fitted to a rule: 8 features that only help, 6 that only hurt, 4 that do both, 2 without a part."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    x = torch.rand(4000, 20)
    rule = x[:, :8].sum(1) - 1.5 * x[:, 8:14].sum(1) + 2 * (x[:, 14:18] - 0.5).abs().sum(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(20, 24), torch.nn.ReLU(), torch.nn.Linear(24, 12), torch.nn.ReLU(), torch.nn.Linear(12, 1)
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(400):
        loss = ((net(x)[:, 0] - rule) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    layers = [m for m in net if isinstance(m, torch.nn.Linear)]
    return feedforward(
        [m.weight.detach().numpy().astype(np.float64) for m in layers],
        [m.bias.detach().numpy().astype(np.float64) for m in layers],
    )


def influence_tasks(count: int) -> Iterator[Task]:
    """The whole domain, and half of it."""
    for epsilon in (0.1, 0.25, 0.5):
        yield f"influence {epsilon}", lambda e=epsilon: _signs(e)


def _signs(epsilon: float) -> dict[str, Any]:
    network, began = credit_network(), time.monotonic()
    found = influences(network, np.full(20, 0.5), epsilon, each=20.0)
    seconds = time.monotonic() - began
    row = [cell.influence for cell in found.cells[0]]
    seen = network.gradient(np.random.default_rng(0).uniform(0.5 - epsilon, 0.5 + epsilon, (20000, 20)), 0)
    seen = seen.reshape(-1, 20)
    wrong = sum(
        (kind is Influence.INCREASING and (seen[:, k] < 0).any())
        or (kind is Influence.DECREASING and (seen[:, k] > 0).any())
        for k, kind in enumerate(row)
    )
    return {
        "counts": {str(kind): row.count(kind) for kind in Influence},
        "wrong": int(wrong),
        "seconds": round(seconds, 2),
    }


def influence_section(records: dict[str, dict[str, Any]]) -> str:
    """Counts."""
    mine = {key.split()[1]: r for key, r in records.items() if key.startswith("influence ")}
    rows = [[e, *r["counts"].values(), r["wrong"], f"{r['seconds']:.1f}"] for e, r in mine.items()]
    head = ["ε around the middle", *[str(kind) for kind in Influence], "against 20,000 samples", "s"]
    return "## Influence\n\nA credit-like network of 20 features (20-24-12-1).\n\n" + table(head, rows)


# -- corpus ----------------------------------------------------------------------------------------------
def corpus_tasks(count: int) -> Iterator[Task]:
    """Small random networks whose regions a plane lists."""
    yield f"corpus {2 * count}", lambda: _corpus(2 * count)


def _corpus(count: int) -> dict[str, Any]:
    wrong = {"lipschitz": 0, "influence": 0, "unknown": 0}
    for seed in range(count):
        rng = np.random.default_rng(seed)
        sizes = (2, int(rng.integers(3, 9)), int(rng.integers(3, 9)), 3)
        weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
        network, x = feedforward(weights, [0.3 * rng.normal(size=len(w)) for w in weights]), rng.random(2)
        low, high = np.clip(x - 0.3, 0, 1), np.clip(x + 0.3, 0, 1)
        found = plane(network, np.array([low, [high[0], low[1]], high, [low[0], high[1]]]))
        gradients = found.gradient(0).reshape(len(found), -1)[found.areas > 1e-9]
        constant = lipschitz(network, x, 0.3, output=0, gap=0.0)
        truth = np.abs(gradients).sum(axis=1).max()
        wrong["lipschitz"] += bool(constant.reason) or not constant.lower <= constant.upper or constant.upper < truth * (
            1 - 1e-12
        ) or constant.lower > truth * (1 + 1e-9)  # fmt: skip
        for k, cell in enumerate(influences(network, x, 0.3, outputs=[0]).cells[0]):
            rises, falls = (gradients[:, k] > 0).any(), (gradients[:, k] < 0).any()
            said = {
                Influence.NEITHER: rises and falls,
                Influence.INCREASING: not falls,
                Influence.DECREASING: not rises,
                Influence.CONSTANT: not rises and not falls,
            }
            wrong["unknown"] += cell.influence is Influence.UNKNOWN
            wrong["influence"] += not said.get(cell.influence, True)
    return {"networks": count, **{name: int(n) for name, n in wrong.items()}}


def corpus_section(records: dict[str, dict[str, Any]]) -> str:
    """Numbers of what was wrong."""
    rows = [[r[name] for name in ("networks", "lipschitz", "influence", "unknown")] for key, r in records.items()
            if key.startswith("corpus ")]  # fmt: skip
    head = ["networks", "constants other than enumeration's", "wrong signs", "signs left open"]
    return "## Corpus\n\nAgainst all linear regions of a plane, to relative 1e-9.\n\n" + table(head, rows)


# -- attribution -----------------------------------------------------------------------------------------
def attribution_tasks(count: int) -> Iterator[Task]:
    """Expected gradients over baselines from black to white."""
    pixels, _ = images("mnist", "test")
    for name in ("dense-10x2", "dense-30x2"):
        network = verifier.load(explain_networks.path(name))
        for k in range(min(count, 5)):
            yield f"attribution {name} {k}", lambda n=network, k=k: _expected(n, pixels[k].reshape(-1))


def _expected(network: Network, x: np.ndarray) -> dict[str, Any]:
    target, begun = int(network.forward(x).argmax()), time.monotonic()
    exact = expected_gradients(network, x, np.zeros(784), np.ones(784), target=target)
    record: dict[str, Any] = {"seconds": round(time.monotonic() - begun, 3)}
    rng = np.random.default_rng(0)
    for samples in (10, 100, 1000):
        begun = time.monotonic()
        t, s = rng.random(samples), rng.random(samples)
        base = np.repeat(s[:, None], 784, axis=1)
        gradients = network.gradient(base + t[:, None] * (x - base), target).reshape(samples, -1)
        estimate = ((x - base) * gradients).mean(axis=0)
        record[str(samples)] = float(np.abs(estimate - exact).max() / np.abs(exact).max())
    record["sum"] = float(exact.sum())
    s = (np.arange(200) + 0.5) / 200
    paths = IntegratedGradients(network).attribute(
        np.repeat(x[None], 200, 0), np.repeat(s[:, None], 784, axis=1), target=target
    )
    record["exact paths"] = float(np.abs(np.asarray(paths).mean(axis=0) - exact).max() / np.abs(exact).max())
    return record


def attribution_section(records: dict[str, dict[str, Any]]) -> str:
    """Errors of samples."""
    rows = [
        [*key.split()[1:], f"{r['seconds']:.2f}", *(f"{r[n]:.2%}" for n in ("10", "100", "1000")), f"{r['exact paths']:.1e}"]
        for key, r in records.items() if key.startswith("attribution ")
    ]  # fmt: skip
    head = ["network", "image", "exact, s", "10 samples", "100", "1000", "200 exact paths"]
    return (
        "## Expected gradients\n\nOver all grey baselines. Largest error of a sampled estimate (one gradient at a random place of a "
        "random path each, as GradientShap samples), relative to the largest attribution; last: the mean of 200 exact "
        "integrated gradients at evenly spaced baselines.\n\n" + table(head, rows)
    )


# -- stability -------------------------------------------------------------------------------------------
def stability_tasks(count: int) -> Iterator[Task]:
    """The largest entry of maps."""
    pixels, _ = images("mnist", "test")
    network = verifier.load(explain_networks.path("dense-10x2"))
    for k in range(min(count, 5)):
        for map in ("absolute", "gradient-input", "integrated", "smooth"):
            yield f"stability {map} {k}", lambda k=k, m=map: _stable(network, pixels[k].reshape(-1), m)


def _stable(network: Network, x: np.ndarray, map: str) -> dict[str, Any]:
    begun = time.monotonic()
    found = stable_radius(network, x, "top-k", top_k=10, map=map, most=0.1, tolerance=1e-4, timeout=60.0)
    seconds = time.monotonic() - begun
    upper = None if found.witness is None else found.upper
    return {"lower": found.lower, "upper": upper, "undecided": found.undecided, "seconds": round(seconds, 2)}


def stability_section(records: dict[str, dict[str, Any]]) -> str:
    """Brackets."""
    rows = [
        [*key.split()[1:], f"{r['lower']:.5f}", "–" if r["upper"] is None else f"{r['upper']:.5f}", r["undecided"],
         f"{r['seconds']:.1f}"] for key, r in records.items() if key.startswith("stability ")
    ]  # fmt: skip
    head = ["map", "image", "ten largest stay up to", "change from", "undecided", "s"]
    return "## Stability\n\nThe ten largest entries, dense-10x2, radii to 0.1, 60 s each.\n\n" + table(head, rows)


SETS = {
    "features": (features, features_section),
    "lipschitz": (lipschitz_tasks, lipschitz_section),
    "influence": (influence_tasks, influence_section),
    "corpus": (corpus_tasks, corpus_section),
    "attribution": (attribution_tasks, attribution_section),
    "stability": (stability_tasks, stability_section),
}


def run(sets: list[str], count: int, journal: Path) -> None:
    """Do all tasks that the journal has no record of."""
    known = Journal(journal, "explanations' benchmarks")
    for name in sets or list(SETS):
        for key, task in SETS[name][0](count):
            if known.get(key) is None:
                record = task()
                known.put(key, record)
                print(key, record, flush=True)


def report(journal: Path) -> None:
    """Write the tables of all records."""
    import json

    rows = [json.loads(row) for row in journal.read_text().splitlines()]
    records = {row["key"]: row["line"] for row in rows}
    parts = [make(records) for name, (_, make) in SETS.items() if any(key.startswith(f"{name} ") for key in records)]
    (RESULTS / "explain.md").write_text(f"# Formal explanations\n\n{machine()}\n\n" + "\n".join(parts))


def main() -> None:
    """Run sets, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(SETS))
    parser.add_argument("--images", type=int, default=100, metavar="N", help="(100)")
    parser.add_argument("--journal", type=Path, default=JOURNAL, metavar="FILE")
    args = parser.parse_args()
    if args.what == "report":
        report(args.journal)
    else:
        run(args.sets, args.images, args.journal)


if __name__ == "__main__":
    main()
