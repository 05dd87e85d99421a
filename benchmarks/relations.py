"""Questions about two networks and about products: equivalence, monotonicity, quadratic conditions, from ACAS Xu's networks.

The kinds of VNN-LIB 2.0 that the competition has since 2026. The files are made here, by sampling, and read as a user's would be:

* *equivalence*: a network and a twin of it (its smallest weights pruned, or pruned and its last layer fitted anew to the
  original's outputs; ``isomorphic-to``), both at the same input: does some output differ by more than a threshold?
* *monotonicity*: a network at two inputs that differ in one coordinate alone (``equal-to``): does the score fall by more than a
  threshold while that coordinate rises?
* *quadratic*: a network as a controller: does a sum of products of inputs and outputs exceed a threshold?

Thresholds stand below (0.9 times) and above (by a factor of each kind) the greatest value at 20,000 sampled points, so that the first of
a pair is violated; the second may hold or not. Every counterexample is replayed in exact arithmetic.
Run: ``python benchmarks/relations.py``; writes benchmarks/results/relations.md. ``--limit`` s an instance, ``--only`` a kind.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import RESULTS, data_folder, machine, table

import verifier
from verifier.network.graph import Network, feedforward
from verifier.network.operators import Dense
from verifier.properties.vnnlib import read_vnnlib

NETWORKS = ("1_1", "1_9", "2_4", "3_3", "5_5")
RADIUS = {"equivalence": 0.05, "monotonicity": 0.05, "quadratic": 0.05}
ABOVE = {"equivalence": 1.5, "monotonicity": 1.5, "quadratic": 1.1}
SAMPLES = 20_000
Matrix = np.ndarray


@dataclass(frozen=True)
class Instance:
    """A question: its kind, networks and text, and what the samples say."""

    kind: str
    name: str
    networks: dict[str, Network]
    text: str
    met: bool


def layers(network: Network) -> tuple[list[Matrix], list[Matrix]]:
    """Weights and biases of a network of dense layers."""
    dense = [node.operator for node in network if isinstance(node.operator, Dense)]
    return [np.asarray(d.weight) for d in dense], [np.asarray(d.bias) for d in dense]


def pruned(network: Network, share: float) -> Network:
    """The network without the smallest weights of each layer."""
    weights, biases = layers(network)
    return feedforward([np.where(np.abs(w) < np.quantile(np.abs(w), share), 0.0, w) for w in weights], biases)


def fitted(network: Network, twin: Network, x: Matrix) -> Network:
    """The twin with a last layer that meets the network's outputs best, by least squares."""
    weights, biases = layers(twin)
    hidden = twin.values(x)[twin.nodes[-1].inputs[0]].reshape(len(x), -1)
    table = np.concatenate([hidden, np.ones((len(x), 1))], axis=1)
    found = np.linalg.lstsq(table, network.forward(x), rcond=1e-6)[0]
    return feedforward([*weights[:-1], found[:-1].T], [*biases[:-1], found[-1]])


def declared(name: str, x: str, y: str, extra: str = "") -> str:
    """A network's declaration."""
    return f"(declare-network {name} {extra}\n (declare-input {x} float32 [5])\n (declare-output {y} float32 [5])\n)\n"


def box(name: str, low: Matrix, high: Matrix) -> str:
    """Bounds of an input tensor."""
    ends = zip(low, high, strict=True)
    return "".join(
        f"(assert (and (>= {name}[{k}] {float(a)!r}) (<= {name}[{k}] {float(b)!r})))\n" for k, (a, b) in enumerate(ends)
    )


def equivalence(
    network: Network, low: Matrix, high: Matrix, x: Matrix
) -> Iterator[tuple[str, dict[str, Network], str, float]]:
    """Twins: names, networks, text with a threshold left open, and the greatest difference at the samples."""
    for name, twin in (("pruned", pruned(network, 0.02)), ("fitted", fitted(network, pruned(network, 0.05), x[:2000]))):
        gap = float(np.abs(network.forward(x) - twin.forward(x)).max())
        text = declared("f", "X", "Y") + declared("g", "U", "V", "(isomorphic-to f)") + box("X", low, high)
        text += "".join(f"(assert (== X[{k}] U[{k}]))\n" for k in range(5))
        ends = [f"(>= (- {a}[{k}] {b}[{k}]) {{0!r}})" for k in range(5) for a, b in (("Y", "V"), ("V", "Y"))]
        yield name, {"f": network, "g": twin}, text + f"(assert (or {' '.join(ends)}))\n", gap


def monotonicity(
    network: Network, low: Matrix, high: Matrix, x: Matrix
) -> Iterator[tuple[str, dict[str, Network], str, float]]:
    """The first score against one coordinate."""
    for k in (0, 3):
        other = x.copy()
        other[:, k] = np.random.default_rng(1).uniform(x[:, k], high[k])
        fall = float((network.forward(x) - network.forward(other))[:, 0].max())
        text = declared("f", "X", "Y") + declared("g", "U", "V", "(equal-to f)") + box("X", low, high)
        text += "".join(f"(assert (== X[{j}] U[{j}]))\n" for j in range(5) if j != k)
        text += f"(assert (<= X[{k}] U[{k}]))\n(assert (<= U[{k}] {float(high[k])!r}))\n"
        yield f"input {k}", {"f": network}, text + "(assert (>= (- Y[0] V[0]) {0!r}))\n", fall


def quadratic(
    network: Network, low: Matrix, high: Matrix, x: Matrix
) -> Iterator[tuple[str, dict[str, Network], str, float]]:
    """Energies of outputs, and of inputs with outputs."""
    y, head = network.forward(x), declared("f", "X", "Y") + box("X", low, high)
    square = "(+ (* Y[0] Y[0]) (* Y[1] Y[1]) (* -2.0 Y[0] Y[1]))"
    yield "outputs", {"f": network}, head + f"(assert (>= {square} {{0!r}}))\n", float(((y[:, 0] - y[:, 1]) ** 2).max())
    mixed = "(+ (* Y[0] Y[0]) (* X[3] Y[2]) (* X[0] X[1] Y[4]))"
    most = (y[:, 0] ** 2 + x[:, 3] * y[:, 2] + x[:, 0] * x[:, 1] * y[:, 4]).max()
    yield "inputs and outputs", {"f": network}, head + f"(assert (>= {mixed} {{0!r}}))\n", float(most)


KINDS: dict[str, Callable[..., Iterator[tuple[str, dict[str, Network], str, float]]]] = {
    "equivalence": equivalence,
    "monotonicity": monotonicity,
    "quadratic": quadratic,
}


def instances(only: str | None) -> Iterator[Instance]:
    """All questions, of one kind if ``only``."""
    for kind, make in KINDS.items():
        if only not in (None, kind):
            continue
        for n, code in enumerate(NETWORKS):
            network = verifier.load(
                data_folder() / "vnncomp" / "acasxu" / "onnx" / f"ACASXU_run2a_{code}_batch_2000.onnx.gz"
            )
            plain = feedforward(*layers(network))
            rng = np.random.default_rng(n)
            centre = rng.uniform(-0.35, 0.35, 5)
            low, high = (np.float32(centre + s * RADIUS[kind]).astype(np.float64) for s in (-1, 1))
            x = rng.uniform(low, high, (SAMPLES, 5))
            for k, (name, networks, text, most) in enumerate(make(plain, low, high, x)):
                below = (n + k) % 2 == 0
                # away from 0, whatever the sign
                bound = float(most - 0.1 * abs(most)) if below else float(most + (ABOVE[kind] - 1) * abs(most))
                yield Instance(
                    kind,
                    f"{code}, {name}, {'below' if below else 'above'}",
                    networks,
                    text.replace("{0!r}", repr(bound)),
                    below,
                )


def main() -> None:
    """Ask all questions and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=float, default=30.0)
    parser.add_argument("--only", choices=KINDS)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for instance in instances(given.only):
            file = Path(folder) / "question.vnnlib"
            file.write_text("(vnnlib-version <2.0>)\n" + instance.text)
            start = time.perf_counter(), time.process_time()
            query = read_vnnlib(file, instance.networks)
            verdict = verifier.verify(query, timeout=given.limit, threads=1)
            seconds = time.perf_counter() - start[0], time.process_time() - start[1]
            wrong = instance.met and verdict.status is verifier.Status.HOLDS
            rows.append(
                (
                    instance.kind,
                    instance.name,
                    verdict.status.name + (" WRONG" if wrong else ""),
                    verdict.engine,
                    *(f"{s:.1f}" for s in seconds),
                )
            )
            print(rows[-1], flush=True)
    summary = []
    for kind in KINDS:
        these = [r for r in rows if r[0] == kind]
        found = [sum(r[2] == status for r in these) for status in ("HOLDS", "VIOLATED")]
        summary.append((kind, len(these), sum(found), *found, sum("WRONG" in r[2] for r in these)))
    text = f"# Relations of networks and quadratic conditions\n\n{machine()}\n\nAt most {given.limit:g} s an instance, 1 thread.\n\n"
    text += "\n".join((__doc__ or "").strip().splitlines()[2:14]) + "\n\n"
    text += table(("kind", "instances", "decided", "hold", "violated", "wrong"), summary)
    text += "\n" + table(("kind", "network, question, threshold", "verdict", "engine", "seconds", "CPU seconds"), rows)
    (RESULTS / "relations.md").write_text(text)


if __name__ == "__main__":
    main()
