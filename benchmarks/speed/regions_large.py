"""Lines and planes through networks of the size of VGG11 and ResNet-18, with random weights: time a piece, and memory.

    OMP_NUM_THREADS=1 python benchmarks/speed/regions_large.py [--memory GIB] [--threads N]     writes benchmarks/results/regions_large.md

He weights, biases of standard deviation 0.05, seed 0, float64; the lines go from a random image along a random direction.
One run each, after a short line that warms up; wall-clock and CPU milliseconds a piece, and the process's peak memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import RESULTS, machine, table

from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, relu
from verifier.regions import line, plane

VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
RESNET18 = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
"""Channels and stride of each residual block."""


class Drawer:
    """Builds a network with random weights."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.rng, self.builder, self.channels = np.random.default_rng(0), NetworkBuilder(shape), shape[0]

    def conv(self, source: str, channels: int, inputs: int, size: int = 3, stride: int = 1) -> str:
        """A convolution that keeps the map's size (divided by its stride)."""
        weight = self.rng.normal(size=(channels, inputs, size, size)) * np.sqrt(2 / (inputs * size * size))
        bias, pad = 0.05 * self.rng.normal(size=channels), size // 2
        return self.builder.add(Conv(weight, bias, (stride, stride), (pad, pad, pad, pad)), source)

    def dense(self, source: str, outputs: int) -> str:
        """A dense layer on the flattened value."""
        size = int(np.prod(self.builder.shape(source)))
        flat = self.builder.add(Reshape((size,)), source)
        weight = self.rng.normal(size=(outputs, size)) * np.sqrt(2 / size)
        return self.builder.add(Dense(weight, 0.05 * self.rng.normal(size=outputs)), flat)


def vgg(layers: Sequence[int | str], hidden: int = 512) -> Network:
    """Convolutions, each with ReLU, and MaxPools ("M"), for images 3 x 32 x 32."""
    drawer, last, channels = Drawer((3, 32, 32)), "input", 3
    for layer in layers:
        if isinstance(layer, str):
            last = drawer.builder.add(MaxPool((2, 2), (2, 2)), last)
        else:
            last = drawer.builder.add(relu(), drawer.conv(last, layer, channels))
            channels = layer
    drawer.dense(drawer.builder.add(relu(), drawer.dense(last, hidden)), 10)
    return drawer.builder.build()


def resnet() -> Network:
    """Residual blocks of two convolutions each, for images 3 x 32 x 32."""
    drawer = Drawer((3, 32, 32))
    last, channels = drawer.builder.add(relu(), drawer.conv("input", 64, 3)), 64
    for width, stride in RESNET18:
        inner = drawer.builder.add(relu(), drawer.conv(last, width, channels, stride=stride))
        outer = drawer.conv(inner, width, width)
        beside = last if width == channels and stride == 1 else drawer.conv(last, width, channels, 1, stride)
        last = drawer.builder.add(relu(), drawer.builder.add(Sum((1, 1)), outer, beside))
        channels = width
    drawer.dense(last, 10)
    return drawer.builder.build()


def measured(name: str, network: Network, call: Callable[[float], Sequence[object]], reach: float) -> list[object]:
    """One row."""
    call(reach * 1e-4)
    wall, cpu = time.perf_counter(), time.process_time()
    pieces = len(call(reach))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = [name, f"{network.neurons:,}", f"{pieces:,}", f"{1000 * wall / pieces:.2f}", f"{1000 * cpu / pieces:.2f}"]
    print(row, f"{peak:.2f} GiB", flush=True)
    return [*row, f"{peak:.2f}"]


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=float, default=1.0, help="GiB that a walk may use (1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the lines' second rows (2)")
    args = parser.parse_args()
    memory, threads = args.memory, args.threads
    rng = np.random.default_rng(1)
    image, step, other = rng.random(3072), rng.normal(size=3072), rng.normal(size=3072)
    small, large, residual = vgg((16, "M", 16, "M")), vgg(VGG11), resnet()
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    rows = [
        measured(
            "plane, convolutional",
            small,
            lambda r: plane(small, image, r * step, r * other, corners, memory=4 * memory),
            0.004,
        ),
    ]
    for name, network, reach in (
        ("line, VGG11", large, 0.01),
        ("line, VGG11, longer", large, 0.03),
        ("line, ResNet-18", residual, 0.002),
    ):
        for count in (1, threads):

            def call(r: float, network: Network = network, count: int = count) -> Sequence[object]:
                return line(network, image, image + r * step, memory=memory, threads=count)

            rows.append(measured(f"{name}, {count} thread{'s'[: count - 1]}", network, call, reach))
    text = (
        "# Lines and planes through large networks\n\nWritten by `benchmarks/speed/regions_large.py"
        f" --memory {memory:g} --threads {threads}`; its docstring says how. {machine()}; load average {os.getloadavg()[0]:.1f}.\n\n"
    )
    text += table(["case", "neurons", "pieces", "ms a piece", "CPU ms a piece", "peak GiB"], rows)
    (RESULTS / "regions_large.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
