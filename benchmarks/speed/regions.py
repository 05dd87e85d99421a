"""Speed of line and plane restrictions, beside what SyReNN's C++ server took for the same sizes of network.

    OMP_NUM_THREADS=1 python benchmarks/speed/regions.py         writes benchmarks/results/regions_speed.md

Random networks: He weights, biases of standard deviation 0.1, seed 0, float64. Lines and planes are chosen so that the
number of pieces is close to that of the published row (the other program's random numbers are not reproducible here);
times a piece are therefore given too. Each time is the least of many runs in this process, over some seconds and after one to warm up,
as the caller sees it (breakpoints and outputs at all of them, as arrays). CPU seconds stand beside them: on a machine
that is shared they are the steadier figure. The other program's times are its own computing on one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import RESULTS, data_folder, machine, table

import verifier
from verifier.network.graph import Network, feedforward
from verifier.network.operators import Array
from verifier.regions import line, lines, plane

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
LAYERS = (
    ([784, 256, 256, 10], 250, 0.71),
    ([784, 1024, 1024, 10], 1038, 19.1),
    ([784, 1024, 1024, 1024, 10], 1545, 43.0),
    ([784, *[200] * 9, 10], 1077, 8.9),
)
"""Sizes, the other program's pieces, its milliseconds."""


def random_network(sizes: Sequence[int]) -> Network:
    """He weights, biases of standard deviation 0.1, seed 0."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(o, i)) * np.sqrt(2 / i) for i, o in pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=o) * 0.1 for o in sizes[1:]])


def least(call: Callable[[], object], seconds: float = 4.0) -> tuple[float, float]:
    """Least wall-clock and CPU milliseconds of a call, over batches of at least 5 ms spread over some seconds."""
    call()
    began = time.perf_counter()
    call()
    batch = 1 + int(5e-3 / (time.perf_counter() - began))
    walls, cpus = [], []
    while time.perf_counter() - began < seconds or len(walls) < 3:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(batch):
            call()
        walls.append((time.perf_counter() - wall) / batch)
        cpus.append((time.process_time() - cpu) / batch)
    return 1000 * min(walls), 1000 * min(cpus)


def closest(network: Network, pieces: int, ends: Callable[[float], tuple[Array, Array]]) -> tuple[Array, Array]:
    """The line, among stretched ones, whose number of pieces is nearest to a wanted one."""
    best = min(np.geomspace(0.02, 4, 80), key=lambda s: abs(len(line(network, *ends(float(s)))) - pieces))
    return ends(float(best))


def cells(name: str, pieces: int, theirs: int, peer: float, wall: float, cpu: float) -> list[object]:
    """One row of the table."""
    ratio = (peer / theirs) / (min(wall, cpu) / pieces)
    return [
        name,
        f"{pieces:,}",
        f"{wall:.3g}",
        f"{cpu:.3g}",
        f"{theirs:,}",
        f"{peer:.3g}",
        f"{peer / cpu:.2f}",
        f"{ratio:.2f}",
    ]


def dense_rows() -> list[list[object]]:
    """The rows with published times."""
    rows = []
    rng = np.random.default_rng(1)
    small = random_network([5, *[50] * 6, 5])
    a, b = rng.uniform(-1, 1, (2, 5))
    start, end = closest(small, 59, lambda s: (a, a + s * (b - a)))
    found = line(small, start, end)
    rows.append(cells("5→6×50→5, one line", len(found), 59, 0.145, *least(lambda: line(small, start, end))))
    starts, ends = rng.uniform(-1, 1, (2, 1000, 5))
    many = lines(small, starts, ends).pieces
    name = "the same, 1,000 lines"
    rows.append(cells(name, many, 143_499, 242.0, *least(lambda: lines(small, starts, ends))))
    name += ", 2 threads (wall-clock)"
    both, _ = least(lambda: lines(small, starts, ends, threads=2))
    rows.append(cells(name, many, 143_499, 242.0, both, both))
    for sizes, theirs, peer in LAYERS:
        network = random_network(sizes)
        a, b = rng.uniform(-1, 1, (2, sizes[0]))
        start, end = closest(
            network, theirs, lambda s, a=a, b=b: ((a + b) / 2 - s * (b - a) / 2, (a + b) / 2 + s * (b - a) / 2)
        )
        found = line(network, start, end)
        name = "-".join(map(str, sizes)) + ", one line"
        rows.append(cells(name, len(found), theirs, peer, *least(lambda n=network, a=start, b=end: line(n, a, b))))
    basis = np.eye(5)
    for half, theirs, peer in ((0.25, 10_338, 59.0), (0.5, 21_188, 122.0), (1.0, 31_890, 231.0)):
        corners = half * SQUARE

        def call(corners: Array = corners) -> object:
            return plane(small, np.zeros(5), basis[0], basis[1], corners)

        count = len(plane(small, np.zeros(5), basis[0], basis[1], corners))
        rows.append(cells(f"5→6×50→5, plane ±{half:g}", count, theirs, peer, *least(call)))
    return rows


def convolutional_rows() -> list[list[object]]:
    """ERAN's convSmall networks: black to image, and image to FGSM image."""
    rows = []
    for name, prepare in (("mnist", lambda x: (x / 255 - 0.1307) / 0.3081), ("cifar10", lambda x: x / 255)):
        file = np.load(data_folder() / name / f"{name}.npz")
        raw, label = file["x_test"][0].astype(float).reshape(-1), int(file["y_test"][0])
        for training in ("Point", "DiffAI", "PGDK"):
            network = verifier.load(data_folder() / "eran_nets" / f"{name}_convSmallRELU__{training}.onnx")
            x = prepare(raw)
            sign = np.sign(network.gradient(x, (label + 1) % 10).reshape(-1))
            attacked = prepare(np.clip(raw + 0.03 * 255 * sign, 0, 255))
            for what, a, b in (("black to image", prepare(0 * raw), x), ("image to FGSM image", x, attacked)):
                wall, cpu = least(lambda n=network, a=a, b=b: line(n, a, b), 1.0)
                both, _ = least(lambda n=network, a=a, b=b: line(n, a, b, threads=2), 1.0)
                pieces = f"{len(line(network, a, b)):,}"
                rows.append([f"{name} convSmall {training}", what, pieces, *(f"{x:.3g}" for x in (wall, cpu, both))])
    return rows


FIRST = """
import time
began = time.perf_counter()
import numpy as np
from verifier.network.graph import feedforward
from verifier.regions import line, plane
rng = np.random.default_rng(0)
sizes = [5, 50, 50, 50, 5]
network = feedforward([rng.normal(size=(o, i)) for i, o in zip(sizes, sizes[1:])], [rng.normal(size=o) for o in sizes[1:]])
line(network, -np.ones(5), np.ones(5))
first = time.perf_counter() - began
plane(network, np.zeros(5), np.eye(5)[0], np.eye(5)[1])
print(first, time.perf_counter() - began)
"""


def first_answer() -> str:
    """Seconds from the start of the interpreter's work to the first line, and to the first plane after it."""
    best = [1e9, 1e9]
    for _ in range(3):
        words = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True).stdout.split()
        best = [min(b, float(w)) for b, w in zip(best, words, strict=True)]
    return (
        f"First line in a new process: {best[0]:.2f} s; first line and first plane: {best[1]:.2f} s (imports included)."
    )


def main() -> None:
    """Measure and write the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    header = [
        "case", "pieces", "ms", "CPU ms", "SyReNN pieces", "SyReNN ms", "times faster (CPU)", "times faster, per piece",
    ]  # fmt: skip
    text = (
        "# Speed of line and plane restrictions\n\nWritten by `benchmarks/speed/regions.py`; its docstring says how. "
    )
    text += f"{machine()}; load average {os.getloadavg()[0]:.1f}.\n\n" + table(header, dense_rows())
    print(text, flush=True)
    text += "\n## ERAN's convolutional networks, one line each\n\n"
    text += table(["network", "line", "pieces", "ms", "CPU ms", "ms, 2 threads"], convolutional_rows())
    text += f"\n{first_answer()}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "regions_speed.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
