"""Root bounds against the number of neurons: CPU seconds, memory and neurons left unstable, beside auto_LiRPA's CROWN.

    python benchmarks/scale.py [--largest 500000] [--seconds 120]        writes benchmarks/results/scale.md

Random networks made here, convolutional (a 3 × 3 convolution per layer, strided where the image is halved) from 1,000 to
500,000 neurons and dense up to 16,000, where all inputs vary or sixteen of them. Each row is a process of its own, which measures its peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import RESULTS, machine, table

from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import relu
from verifier.properties.sets import Box

SIZES = (1_000, 4_000, 16_000, 64_000, 250_000, 500_000)
LAYERS = 5
DENSEST = 16_000
"""Dense networks are not made larger: five layers of 12,800 neurons have 5 GiB of weights."""


def dense(neurons: int, rng: np.random.Generator) -> Network:
    """Five hidden layers of equal width."""
    width = neurons // LAYERS
    builder = NetworkBuilder((64,))
    for _ in range(LAYERS):
        inputs = builder.shape(builder._last)[0]
        builder.add(Dense(rng.normal(size=(width, inputs)) * np.sqrt(2 / inputs), rng.normal(size=width) * 0.1))
        builder.add(relu())
    builder.add(Dense(rng.normal(size=(10, width)) / np.sqrt(width), np.zeros(10)))
    return builder.build()


def convolutional(neurons: int, rng: np.random.Generator) -> Network:
    """Three layers on the whole image and two on the halved one; its side follows from the number of neurons."""
    channels = 16
    side = max(4, round(np.sqrt(neurons / (channels * 4))))
    builder = NetworkBuilder((3, side, side))
    for stride in (1, 1, 1, 2, 1):
        inputs = builder.shape(builder._last)[0]
        out = channels if stride == 1 and builder.shape(builder._last)[1] == side else 2 * channels
        weight = rng.normal(size=(out, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))
        builder.add(Conv(weight, rng.normal(size=out) * 0.1, (stride, stride), (1, 1, 1, 1)))
        builder.add(relu())
    size = int(np.prod(builder.shape(builder._last)))
    builder.add(Reshape((size,)))
    builder.add(Dense(rng.normal(size=(10, size)) / np.sqrt(size), np.zeros(10)))
    return builder.build()


def problem(kind: str, neurons: int) -> tuple[Network, Box]:
    """A network and a box about a random point: radius 0.001 in all inputs, or 0.02 in sixteen of them."""
    rng = np.random.default_rng(neurons)
    network = (dense if kind.startswith("dense") else convolutional)(neurons, rng)
    center = rng.random(network.input_size)
    width = np.full(network.input_size, 1e-3)
    if kind.endswith("few inputs"):
        width[:16], width[16:] = 0.02, 0.0
    return network, Box(center - width, center + width)


def measure(kind: str, neurons: int, method: str, seconds: float) -> dict[str, object]:
    """CPU seconds, peak memory above that before the bounds, and unstable neurons."""
    import torch

    from verifier.bounds import bounds
    from verifier.bounds.crown_slopes import NeuronBounder
    from verifier.bounds.lirpa import lirpa_bounds
    from verifier.bounds.restriction import restrict
    from verifier.bounds.structured.sweep import Sweep
    from verifier.limits import Deadline

    torch.set_num_threads(1)
    if method == "auto_LiRPA":  # import it, on something small
        lirpa_bounds(*problem("dense", 50))
    network, box = problem(kind, neurons)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    if method == "auto_LiRPA":
        found = bounds(network, box, method="crown", backend="lirpa")
        ends = {n.inputs[0]: (found[n.inputs[0]].lower, found[n.inputs[0]].upper) for n in network.activations}
        open_ = sum(int(((low < 0) & (high > 0)).sum()) for low, high in ends.values())
    elif method == "condensed":
        open_ = restrict(network, box, NeuronBounder(1), deadline=Deadline.after(seconds), fold_active=True).neurons
    else:
        sweep = Sweep(network, box, np.ones(10, dtype=bool), deadline=Deadline.after(seconds))
        values = sweep.run()
        open_ = sum(int(sweep.open(values[n.inputs[0]], n.inputs[0]).sum()) for n in network.activations)
    spent = time.process_time() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return {"neurons": network.neurons, "cpu": spent, "memory": memory, "open": open_}


def row(kind: str, neurons: int, method: str, seconds: float) -> list[object]:
    """One line of the table, measured in a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--one", kind, str(neurons), method, "--seconds", str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    except subprocess.TimeoutExpired:
        return [kind, neurons, method, f"not done in {seconds + 60:g} s", "", ""]
    if done.returncode:
        return [kind, neurons, method, done.stderr.strip().splitlines()[-1][:90] if done.stderr else "killed", "", ""]
    found = json.loads(done.stdout.splitlines()[-1])
    return [kind, found["neurons"], method, f"{found['cpu']:.2f}", f"{found['memory']:.2f}", found["open"]]


def write(rows: list[list[object]], seconds: float) -> None:
    """The report of the rows so far."""
    header = ["network", "neurons", "bounds", "CPU seconds", "GiB for the bounds", "unstable"]
    text = (
        f"# Root bounds against size\n\nWritten by `benchmarks/scale.py`; {machine()}. One thread each; radius 0.001 in all inputs, 0.02 in few; at most "
        f"{seconds:g} s of wall-clock time each. auto_LiRPA computes CROWN bounds of all neurons.\n\n{table(header, rows)}"
    )
    (RESULTS / "scale.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Measure what the command line names, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="neurons of the largest network")
    parser.add_argument("--seconds", type=float, default=600.0, help="limit of each measurement")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "NEURONS", "METHOD"), help="one measurement, as JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]), args.one[2], args.seconds)))
        return
    rows: list[list[object]] = []
    for kind in ("convolutional", "dense", "convolutional, few inputs", "dense, few inputs"):
        ours = "condensed" if kind.endswith("few inputs") else "windows"
        lost: set[str] = set()
        for neurons in (n for n in SIZES if n <= args.largest):
            for method in (ours, "auto_LiRPA"):
                if kind.startswith("dense") and neurons > DENSEST:
                    continue
                if method in lost:  # what fails at a size fails at larger ones
                    continue
                rows.append(row(kind, neurons, method, args.seconds))
                if rows[-1][4] == "":
                    lost.add(method)
                print(*rows[-1], sep=" | ", flush=True)
                write(rows, args.seconds)  # row by row: the large ones take long


if __name__ == "__main__":
    main()
