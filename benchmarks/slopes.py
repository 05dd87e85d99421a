"""α-CROWN: this package's ascent without automatic differentiation beside auto_LiRPA's, on the same boxes.

Run: ``python benchmarks/slopes.py`` (writes benchmarks/results/slopes.md). Both optimise the slopes of every neuron's
bound and of every output's, with as many steps; ours then proves each bound in float64 with slack for rounding.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from bounds import mnist_cases, random_network, timed
from common import RESULTS, machine, table

from verifier.bounds import interval_bounds
from verifier.bounds.condensed_refine import refine
from verifier.bounds.crown_slopes import NeuronBounder, ascend, initial_weights, prove
from verifier.bounds.lirpa import lirpa_bounds
from verifier.bounds.lirpa_compat import available
from verifier.bounds.restriction import restrict
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.properties.sets import Box

STEPS = 20


def ours(network: Network, box: Box, steps: int) -> tuple[Array, Array]:
    """Proved bounds of the outputs."""
    condensed = restrict(network, box, NeuronBounder(1))
    if steps > 1:
        condensed = refine(condensed, NeuronBounder(steps), condensed.phases)
    size = network.output_size
    both = np.vstack([np.eye(size), -np.eye(size)])
    rows = condensed.rows(both, np.zeros((2 * size, network.input_size)), np.zeros(2 * size))
    weights, phases = initial_weights(condensed, 2 * size), np.repeat(condensed.phases[:, None], 2 * size, axis=1)
    if steps > 1:
        weights = ascend(condensed, rows, weights, phases, steps=steps).weights
    found = prove(condensed, rows, weights, phases)
    return found[:size], -found[size:]


def measure(name: str, network: Network, x: Array, epsilon: float) -> list[object]:
    """One row of the table: mean widths of the outputs' bounds, and milliseconds."""
    box = Box.around(x, epsilon)
    row: list[object] = [name, epsilon, sum(n.size for n in network.activations)]
    plain = interval_bounds(network, box)
    for steps, method in ((1, "crown"), (STEPS, "alpha-crown")):
        mine, ms = timed(lambda steps=steps: ours(network, box, steps))
        theirs, other_ms = timed(lambda method=method: lirpa_bounds(network, box, method, known=plain), 1)
        width, other = np.mean(mine[1] - mine[0]), theirs[network.output].width.mean()
        row += [f"{width:.4g}", f"{other:.4g}", f"{ms:.0f}", f"{other_ms:.0f}", f"{other_ms / ms:.1f}"]
    print(*row, flush=True)
    return row


def main() -> None:
    """Measure and write the table."""
    if not available()[0]:
        raise SystemExit(f"slopes: auto_LiRPA is needed: {available()[1]}")
    network, x = random_network(), np.random.default_rng(0).random(784)
    lirpa_bounds(network, Box.around(x, 1e-4), "alpha-crown", steps=1)  # so that importing it is not measured
    ours(network, Box.around(x, 1e-3), 2)
    cases = [("random 784-256-256-10", network, x, e) for e in (0.03, 0.01)]
    cases += mnist_cases((0.03, 0.01), ("Point",), (0.03, 0.01))
    columns = ["width", "lirpa width", "ms", "lirpa ms", "factor"]
    header = ["network", "ε", "units", *(f"{kind} {c}" for kind in ("CROWN", "α-CROWN") for c in columns)]
    text = table(header, [measure(*case) for case in cases])
    (RESULTS / "slopes.md").write_text(
        "# α-CROWN beside auto_LiRPA\n\n"
        f"{machine()}\n\n"
        "Bounds of all neurons and outputs on a box around a point; widths are means over the outputs' bounds, factor "
        f"is auto_LiRPA's time over ours. α-CROWN: {STEPS} steps of the slopes of each bound, for neurons and outputs "
        "alike, on both sides; ours bound only neurons that intervals leave open, and stop where the sign is known, while "
        "auto_LiRPA (through `verifier.bounds.lirpa`, node by node) optimises every neuron. Times are the least of three "
        "runs (auto_LiRPA: one, building its graph included), while other work ran on both cores. auto_LiRPA 0.3 "
        "takes no account of rounding; ours are proved in float64.\n\n" + text
    )


if __name__ == "__main__":
    main()
