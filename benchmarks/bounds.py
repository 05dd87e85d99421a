"""Widths and times of the bounds on gradients and on values: interval, CROWN, and auto_LiRPA's CROWN.

Run: ``python benchmarks/bounds.py`` (writes benchmarks/results/bounds.md). The random network needs no data;
the others are read from the data folder and left out where it is absent.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import RESULTS, data_folder, machine, table

import verifier
from verifier.bounds import NetworkBounds, bounds, gradient_bounds
from verifier.bounds.lirpa_compat import available
from verifier.network.graph import Network, feedforward
from verifier.network.operators import Array
from verifier.properties.sets import Box


def random_network(seed: int = 0) -> Network:
    """784-256-256-10 with He weights and small biases."""
    rng = np.random.default_rng(seed)
    layers = list(pairwise((784, 256, 256, 10)))
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in layers]
    return feedforward(weights, [0.1 * rng.normal(size=b) for _, b in layers])


def timed(run: Callable[[], Any], repeats: int = 3) -> tuple[Any, float]:
    """The result, and the least time of a few runs in milliseconds (one run if it takes over 5 s)."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
        if best > 5:
            break
    return result, 1000 * best


def sampled_width(network: Network, box: Box, output: int, count: int = 200) -> float:
    """Mean range of the gradient over random points and corners: what no sound bound can be narrower than."""
    rng = np.random.default_rng(1)
    corners = np.where(rng.random((count, box.size)) < 0.5, box.lower, box.upper)
    x = np.concatenate([box.sample(count, rng), corners])
    return float(np.ptp(network.gradient(x, output), axis=0).mean())


def mean_width(found: NetworkBounds, name: str) -> str:
    return f"{found[name].width.mean():.4g}"


def measure(name: str, network: Network, x: np.ndarray, epsilon: float) -> list[object]:
    """One row of the table."""
    box = Box.around(x, epsilon)
    output = int(np.argmax(network.forward(x)))
    row: list[object] = [name, epsilon, f"{sampled_width(network, box, output):.3g}"]
    plain = bounds(network, box, "interval")
    found, ms = timed(lambda: gradient_bounds(network, box, output, values=plain, method="interval"))
    row += [mean_width(found, network.input), f"{ms:.1f}"]
    values, value_ms = timed(lambda: bounds(network, box))
    found, ms = timed(lambda: gradient_bounds(network, box, output, values=values))
    row += [f"{value_ms:.0f}", mean_width(found, network.input), f"{ms:.0f}"]
    if available()[0] and network.neurons < 2000:
        other, other_value_ms = timed(lambda: bounds(network, box, backend="lirpa"), 1)
        found, ms = timed(lambda: gradient_bounds(network, box, output, values=other, backend="lirpa"), 1)
        row += [f"{other_value_ms:.0f}", mean_width(found, network.input), f"{ms:.0f}"]
    else:
        row += ["–", "–", "–"]
    row.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}")
    print(*row, flush=True)
    return row


Case = tuple[str, Network, Array, float]
"""A network by its name, a point, and the radius of the box around it."""


def mnist_cases(dense: Sequence[float], kinds: Sequence[str], convolutional: Sequence[float]) -> list[Case]:
    """MNIST networks on the first test image, with the radii for dense ones and for the kinds of convSmall.

    None where the data folder is absent, which is said.
    """
    try:
        folder = data_folder()
    except SystemExit:
        print("no data folder: the random network only")
        return []
    cases: list[Case] = []
    image = np.load(folder / "mnist" / "mnist.npz")["x_test"][0].reshape(-1) / 255.0
    for depth in (2, 4, 6):
        network = verifier.load(folder / "vnncomp" / "mnist_fc" / "onnx" / f"mnist-net_256x{depth}.onnx.gz")
        cases += [(f"mnist_fc 256x{depth}", network, image, e) for e in dense]
    for kind in kinds:
        network = verifier.load(folder / "eran_nets" / f"mnist_convSmallRELU__{kind}.onnx")
        cases += [(f"mnist convSmall {kind}", network, image, e) for e in convolutional]
    return cases


def main() -> None:
    """Measure and write the table."""
    rng = np.random.default_rng(0)
    network, x = random_network(), rng.random(784)
    if available()[0]:
        bounds(network, Box(x, x), backend="lirpa")  # so that importing it is not measured
    cases = [("random 784-256-256-10", network, x, e) for e in (0.05, 0.03, 0.005)]
    cases += mnist_cases((0.05, 0.03, 0.005), ("Point", "PGDK", "DiffAI"), (0.03, 0.005))
    header = [
        "network", "ε", "sampled width", "interval width", "ms", "CROWN values ms", "CROWN width", "ms",
        "lirpa values ms", "lirpa width", "ms", "peak GB so far",
    ]  # fmt: skip
    text = table(header, [measure(*case) for case in cases])
    (RESULTS / "bounds.md").write_text(
        "# Bounds on the input gradient (of the predicted class's logit)\n\n"
        f"{machine()}\n\n"
        "Widths are means over the inputs. Interval: intervals for values and gradient. CROWN: this package's "
        "kernels. lirpa: auto_LiRPA 0.3 on the forward and on the explicit backward graph. Times are the least of "
        "a few runs (auto_LiRPA: one, building its graph included); all nodes' gradients are bounded. The sampled "
        "width (400 points) is a lower limit that no sound bound can pass.\n\n" + text
    )


if __name__ == "__main__":
    main()
