"""How far our evaluation of every network in the data folder is from onnxruntime's.

The worst relative difference per network over random inputs: ``max |ours - theirs| / max(1, max |theirs|)``,
the maximum over the outputs of one input. Inputs are uniform in [0, 1] (in [-0.5, 0.5] for ACAS Xu).
Run: ``python benchmarks/onnx_agreement.py``; writes benchmarks/results/onnx_agreement.md.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from common import RESULTS, data_folder, machine, table

import verifier.network.loading as loading
from verifier.network.runtime import RuntimeModel

LARGE = 20_000_000
"""Networks with more weights than this (zeros counted) run on 10 inputs, the others on 100."""


def compare(path: Path) -> tuple[int, float, float]:
    """Number of inputs, worst relative difference, seconds to load."""
    start = time.perf_counter()
    network = loading.load(path)
    seconds = time.perf_counter() - start
    weights = sum(np.prod(getattr(n.operator, "weight_shape", (0,))) for n in network)
    count = 10 if weights > LARGE else 100
    rng = np.random.default_rng(0)
    x = rng.random((count, network.input_size)) - (0.5 if "ACASXU" in path.name else 0.0)
    x = x.astype(np.float32).astype(np.float64)  # the same point for both
    theirs = RuntimeModel(path).run(x)
    ours = network.forward(x).reshape(count, -1)
    scale = np.maximum(1.0, np.abs(theirs).max(axis=1))
    return count, float((np.abs(ours - theirs).max(axis=1) / scale).max()), seconds


def main() -> None:
    """Compare all networks and write the table."""
    folder = data_folder()
    groups: dict[str, list[tuple[str, int, float, float]]] = defaultdict(list)
    for path in sorted([*folder.rglob("*.onnx"), *folder.rglob("*.onnx.gz")]):
        count, difference, seconds = compare(path)
        groups[path.relative_to(folder).parts[-3 if path.parent.name == "onnx" else -2]].append(
            (path.name, count, difference, seconds)
        )
        print(f"{path.name}: {difference:.2e} on {count} inputs, loaded in {seconds:.2f} s", flush=True)
    worst = max(row[2] for rows in groups.values() for row in rows)
    total = sum(len(rows) for rows in groups.values())
    text = (
        "# Agreement with onnxruntime\n\n"
        f"{machine()}\n\n{__doc__.strip().splitlines()[2]} {__doc__.strip().splitlines()[3]}\n\n"
        f"{total} networks; worst difference {worst:.2e} (float64 here, float32 there). "
        "Networks with more than 20 million weights ran on 10 inputs, the others on 100.\n\n"
    )
    for name, rows in groups.items():
        text += f"## {name}\n\n"
        cells = [(n, c, f"{d:.1e}", f"{s:.2f}") for n, c, d, s in rows]
        text += table(("network", "inputs", "worst relative difference", "load, s"), cells) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "onnx_agreement.md").write_text(text)
    print(f"worst {worst:.2e} over {total} networks")


if __name__ == "__main__":
    main()
