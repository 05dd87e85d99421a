"""How far our evaluation is from onnxruntime's: of every network in the data folder, and of our own graphs in all opsets.

The worst relative difference per network over random inputs: ``max |ours - theirs| / max(1, max |theirs|)``,
the maxima over the outputs of one input. Half of the inputs are drawn from the boxes of the network's own
properties where the data folder has some, the others uniformly from [0, 1] (from [-0.5, 0.5] for ACAS Xu).
The graphs (`onnx_graphs/`) are compared in each opset from 9 to 22 that they exist in, in float64 where onnxruntime
has kernels for it and without onnxruntime's fusing of operators, some of which it then computes in 8 bits. A network
of the data folder that is refused is listed with the reason.
Run: ``python benchmarks/onnx_agreement.py``; writes benchmarks/results/onnx_agreement.md.
"""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import RESULTS, data_folder, machine, table
from onnx_graphs import GRAPHS, MET, OPSETS, curved_modules, exported, modules

import verifier.network.loading as loading
from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.agreement import agreement
from verifier.network.graph import Network
from verifier.network.runtime import RuntimeModel
from verifier.properties.sets import Box
from verifier.properties.vnnlib import read_vnnlib

LARGE = 20_000_000
"""Networks with more weights than this (zeros counted) run on 10 inputs, the others on 100."""


def compare(path: Path) -> tuple[int, float, float, float]:
    """Number of inputs, worst relative difference, spread of the outputs, seconds to load."""
    start = time.perf_counter()
    network = loading.load(path)
    seconds = time.perf_counter() - start
    weights = sum(np.prod(getattr(n.operator, "weight_shape", (0,))) for n in network)
    count = 10 if weights > LARGE else 100
    rng = np.random.default_rng(0)
    x = rng.random((count, network.input_size)) - (0.5 if "ACASXU" in path.name else 0.0)
    boxes = property_boxes(path, network)
    for k in range(count // 2 if boxes else 0):
        x[k] = boxes[k % len(boxes)].sample(1, rng)[0]
    runtime = RuntimeModel(path, fused=False)
    found = agreement(network, runtime, x)
    return count, found.gap, float(np.ptp(runtime.run(x))), seconds


@dataclass(frozen=True)
class Compared:
    """A graph beside onnxruntime: how many opsets, in which type of number, and the worst difference."""

    opsets: int
    kind: str
    gap: float


def compare_graphs() -> dict[str, Compared]:
    """Every graph of the corpus in all of its opsets, and every torch module that the older exporter writes."""
    found: dict[str, Compared] = {}
    for name, graph in GRAPHS.items():
        gaps, kind = [], ""
        for opset in OPSETS:
            if not graph.first <= opset <= graph.last:
                continue
            for kind in ("float64", "float32"):
                model = graph.model(opset, kind)
                try:
                    runtime = RuntimeModel(model, fused=False)
                except NetworkError:
                    if kind == "float32":
                        raise
                    continue
                gaps.append(agreement(loading.load(model), runtime, inputs=10).gap)
                break
        if not gaps:  # the installed onnx knows none of its opsets
            continue
        kind = "partly narrower" if graph.rough else kind
        found[name] = Compared(len(gaps), kind, max(gaps))
        allowed = max(graph.rough, 1e-12 if kind == "float64" else 1e-5)
        if found[name].gap > allowed:
            print(f"{name}: {found[name]}, more than {allowed}", flush=True)
    for name in {**modules(), **curved_modules()}:
        model = exported(name, 18)
        if model is not None:
            gap = agreement(loading.load(model), RuntimeModel(model, fused=False), inputs=10).gap
            found[f"module: {name}"] = Compared(1, "torch, float32", gap)
    return found


def graph_tables(graphs: dict[str, Compared]) -> str:
    """The corpus by type of number, and by what people's files hold."""
    kinds = sorted({c.kind for c in graphs.values()})
    rows = []
    for kind in kinds:
        these = [c for c in graphs.values() if c.kind == kind]
        rows.append((kind, len(these), sum(c.opsets for c in these), f"{max(c.gap for c in these):.1e}"))
    text = table(("type", "graphs", "with all their opsets", "worst relative difference"), rows)
    text += "\nOf these, what files and modules hold that people have:\n\n"
    rows = []
    for what, names in MET.items():
        these = [graphs[n] for n in names if n in graphs]
        rows.append((what, ", ".join(n.removeprefix("module: ") for n in names), f"{max(c.gap for c in these):.1e}"))
    return text + table(("what", "graphs and modules", "worst relative difference"), rows)


def property_boxes(path: Path, network: Network, most: int = 5) -> list[Box]:
    """The input boxes of the first few properties that the data folder has for this network."""
    table_file = path.parent.parent / "instances.csv"
    if path.parent.name != "onnx" or not table_file.is_file():
        return []
    model, found = path.name.removesuffix(".gz"), []
    for row in csv.reader(table_file.read_text().splitlines()):
        if Path(row[0]).name.removesuffix(".gz") == model and len(found) < most:
            file = table_file.parent / row[1].removeprefix("./").removesuffix(".gz")
            file = file if file.exists() else file.with_name(file.name + ".gz")
            found.append(read_vnnlib(file, network).box)
    return found


def main() -> None:
    """Compare all networks and write the table."""
    folder = data_folder()
    groups: dict[str, list[tuple[str, int, float, float, float]]] = defaultdict(list)
    refused = []
    for path in sorted([*folder.rglob("*.onnx"), *folder.rglob("*.onnx.gz")]):
        try:
            count, difference, spread, seconds = compare(path)
        except UnsupportedOperatorError as error:
            refused.append((path.name, error.problem))
            continue
        groups[path.relative_to(folder).parts[-3 if path.parent.name == "onnx" else -2]].append(
            (path.name, count, difference, spread, seconds)
        )
        print(f"{path.name}: {difference:.2e} on {count} inputs, loaded in {seconds:.2f} s", flush=True)
    worst = max(row[2] for rows in groups.values() for row in rows)
    total = sum(len(rows) for rows in groups.values())
    text = (
        "# Agreement with onnxruntime\n\n"
        f"{machine()}\n\n{' '.join(__doc__.strip().splitlines()[2:8])}\n\n"
        f"{total} networks; worst difference {worst:.2e} (float64 here, float32 there). "
        "Networks with more than 20 million weights ran on 10 inputs, the others on 100.\n\n"
    )
    text += f"## Graphs of every operator, opsets 9 to {OPSETS[-1]}\n\n{graph_tables(compare_graphs())}\n"
    if refused:
        text += "## Refused\n\n" + table(("network", "why"), refused) + "\n"
    for name, rows in groups.items():
        text += f"## {name}\n\n"
        cells = [(n, c, f"{d:.1e}", f"{p:.3g}", f"{s:.2f}") for n, c, d, p, s in rows]
        header = ("network", "inputs", "worst relative difference", "spread of the outputs", "load, s")
        text += table(header, cells) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "onnx_agreement.md").write_text(text)
    print(f"worst {worst:.2e} over {total} networks")


if __name__ == "__main__":
    main()
