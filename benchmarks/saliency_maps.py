"""Maps other than the gradient: how many queries are decided, for each map and similarity.

Two small networks: the bandit network of `bandit.py` (5 inputs, 12 neurons), and a classifier of MNIST digits averaged
to 7 x 7 pixels (49-24-16-10), trained here by ``maps --train`` (Adam, 20 epochs on 20,000 images, seed 0). δ is a share
of the distance, in the similarity's own norm, between the map and a map of zeros; for top-k it is 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import data_folder, table
from saliency_common import ask, journal, summary

import verifier
from verifier.options import Options
from verifier.properties.builders import condition_at
from verifier.properties.named_maps import NAMES as MAPS
from verifier.properties.named_maps import named_map
from verifier.properties.query import Query
from verifier.properties.similarity import NAMES as SIMILARITIES

NETWORKS = Path(__file__).resolve().parent / "networks"
SHARE = 0.3
"""δ as a share of the map's own size."""
CASES = {"bandit": (3, 0.5, 2), "digits": (3, 0.03, 5)}
"""By network: inputs, ε, and k of top-k."""
STEPS, SAMPLES, SIGMA = 4, 4, 0.05
"""Points of Integrated Gradients; noise vectors of SmoothGrad and their standard deviation."""


def digits(split: str, count: int) -> tuple[Any, Any]:
    """MNIST images averaged over 4 x 4 pixels, ``(count, 49)`` in [0, 1], and their labels."""
    with np.load(data_folder() / "mnist" / "mnist.npz") as arrays:
        images, labels = arrays[f"x_{split}"][:count] / 255.0, arrays[f"y_{split}"][:count]
    return images.reshape(count, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(count, 49), labels


def train() -> None:
    """Train the digits network and write ``networks/digits.onnx``."""
    import torch

    torch.manual_seed(0)
    x, labels = digits("train", 20_000)
    inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(labels, dtype=torch.long)
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    model = torch.nn.Sequential(linear(49, 24), relu(), linear(24, 16), relu(), linear(16, 10))
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(20):
        for part in torch.randperm(len(x)).split(128):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[part]), targets[part]).backward()
            adam.step()
    network = verifier.load(model, input_shape=(49,))
    verifier.write_onnx(network, NETWORKS / "digits.onnx")
    test, truth = digits("test", 10_000)
    print(f"accuracy on the test images: {(network.forward(test).argmax(axis=1) == truth).mean():.4f}")


def inputs_of(name: str, network: verifier.Network, count: int) -> Any:
    """The first inputs: states of the bandit by binary counting, correctly classified test images."""
    if name == "bandit":
        return np.array([[(k >> b) & 1 for b in range(5)] for k in (1, 13, 27)], dtype=np.float64)[:count]
    x, labels = digits("test", 10 * count)
    return x[network.forward(x).argmax(axis=1) == labels][:count]


def queries() -> Iterator[tuple[dict[str, Any], Query]]:
    """All queries with what the journal says of them."""
    for name, (count, epsilon, k) in CASES.items():
        network = verifier.load(NETWORKS / f"{name}.onnx")
        n = network.input_size
        for index, x in enumerate(inputs_of(name, network, count)):
            for kind in (name for name in MAPS if name != "grad-cam"):  # these networks have no feature maps
                chosen = named_map(kind, n, steps=STEPS, samples=SAMPLES, sigma=SIGMA)
                for similarity in SIMILARITIES:
                    how: dict[str, Any] = {"map": chosen, "similarity": similarity}
                    how["top_k"] = k if similarity == "top-k" else 0
                    condition = condition_at(network, x, **how)
                    size = 0.0 if similarity == "top-k" else float(condition.distance(np.zeros((1, n)))[0])
                    query = verifier.saliency_robustness(network, x, epsilon=epsilon, delta=SHARE * size, **how)
                    record = {"set": "maps", "network": name, "input": index, "map": kind, "similarity": similarity}
                    yield record | {"epsilon": epsilon, "share": SHARE}, query


def run(args: argparse.Namespace) -> None:
    """Ask every query that is not in the journal."""
    if args.train:
        train()
        return

    def key(r: dict[str, Any]) -> tuple[Any, ...]:
        return r["network"], r["input"], r["map"], r["similarity"], r["engine"]

    done = {key(r) for r in journal() if r["set"] == "maps"}
    for record, query in queries():
        record |= {"engine": args.engine, "limit": args.timeout}
        if key(record) not in done:
            ask(record, query, Options(engine=args.engine, timeout=args.timeout))


def section(records: list[dict[str, Any]]) -> list[str]:
    """The report's lines on these maps."""
    mine = [r for r in records if r["set"] == "maps"]
    if not mine:
        return []
    rows = []
    for name, kind, similarity in sorted(
        {(r["network"], r["map"], r["similarity"]) for r in mine},
        key=lambda t: (t[0], MAPS.index(t[1]), SIMILARITIES.index(t[2])),
    ):
        group = [r for r in mine if (r["network"], r["map"], r["similarity"]) == (name, kind, similarity)]
        total, holds, violated, undecided, errors, median, worst, *_ = summary(group)
        rows.append((name, kind, similarity, total, holds, violated, undecided, errors, median, worst))
    decided = sum(r["status"] in ("holds", "violated") for r in mine)
    return [
        "## Other maps and similarities\n",
        f"Limit {mine[0]['limit']:g} s a query, engine auto with its search; δ is {SHARE:.0%} of the map's own size in the "
        f"similarity's norm, 0 for top-k; ε {CASES['bandit'][1]:g} (bandit) and {CASES['digits'][1]:g} (digits); "
        f"Integrated Gradients with {STEPS} points or exact, SmoothGrad with {SAMPLES} noise vectors of σ = {SIGMA:g}. "
        f"Decided: {decided} of {len(mine)}.\n",
        table(
            [
                "network",
                "map",
                "similarity",
                "queries",
                "holds",
                "violated",
                "undecided",
                "errors",
                "median s",
                "worst s",
            ],
            rows,
        ),
    ]


def add_parser(commands: Any) -> None:
    """The command ``maps``."""
    parser = commands.add_parser("maps")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--train", action="store_true", help="train the digits network again, and nothing else")
    parser.set_defaults(run=run)
