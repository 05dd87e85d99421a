"""Saliency robustness: Tables 2 and 3 of Le et al. (ACML 2023), larger δ, and the scale set.

    python benchmarks/saliency.py table2 [--engines saliency,highs] [--timeout 60] [--deltas 1e-4,5e-4,1e-3]
    python benchmarks/saliency.py scale  [--networks 256x2,256x4,3_50] [--images 20] [--timeout 60]
    python benchmarks/saliency.py report

Every answer is one line of ``results/saliency_journal.jsonl``; what is there is not run again. ``report``
writes ``results/saliency.md`` from it.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import RESULTS, data_folder, machine, table

import verifier
from verifier.options import Options
from verifier.properties.query import GradientBox, Query, larger_output_cases
from verifier.properties.sets import Box

JOURNAL = RESULTS / "saliency_journal.jsonl"
REGIONS = [(1, "0.03"), (2, "0.03"), (12, "0.03")] + [(k, "0.05") for k in (0, 1, 2, 4, 5, 6, 8, 12)]
"""Images and ε of the VNN-COMP mnist_fc set for which 256x2 has adversarial examples (ground_truth.csv)."""
DELTAS = (1e-4, 5e-4, 1e-3, 1e-2, 5e-2, 0.1, 0.25)
PAPER = "Paper (30 cores, 10 minutes a query): Z3 0 of 10; Marabou + CROWN 4 of 10 at δ = 1e-4, fewer at larger δ."


def region_query(network: verifier.Network, image: int, epsilon: str, delta: float) -> Query:
    """The region of ``prop_<image>_<epsilon>.vnnlib`` with the gradient box of radius δ around x̂'s map."""
    import gzip

    path = data_folder() / "vnncomp" / "mnist_fc" / "vnnlib" / f"prop_{image}_{epsilon}.vnnlib.gz"
    with gzip.open(path, "rt") as file:
        text = file.read()
    box = np.zeros((2, 784))
    for side, index, value in re.findall(r"\((<=|>=) X_(\d+) ([-\d.e]+)\)", text):
        box[int(side == "<="), int(index)] = float(value)
    label = int(re.findall(r"label: (\d)", text)[0])
    lower, upper = box
    x = np.clip(np.where(lower > 0, lower + float(epsilon), upper - float(epsilon)), lower, upper)
    g = network.gradient(x, label).reshape(-1)
    weights = network.output_weights(label)
    return Query(
        network=network,
        box=Box(lower, upper),
        cases=larger_output_cases(10, label),
        gradient=GradientBox(output=weights, lower=g - delta, upper=g + delta),
        anchor=x,
    )


def journal() -> list[dict[str, Any]]:
    """All records so far."""
    return [json.loads(line) for line in JOURNAL.read_text().splitlines()] if JOURNAL.exists() else []


def ask(record: dict[str, Any], query: Query, timeout: float, prepass: bool) -> None:
    """Decide one query and append the record."""
    start, cpu = time.perf_counter(), time.process_time()
    verdict = verifier.verify(
        query, options=Options(engine=record["engine"], timeout=timeout, prepass=prepass, bounds="crown")
    )
    record |= {
        "status": verdict.status.value,
        "stage": verdict.stage,
        "certainty": verdict.certainty.value if verdict.certainty else "",
        "seconds": round(time.perf_counter() - start, 3),
        "cpu": round(time.process_time() - cpu, 3),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "reason": verdict.reason[:120],
    }
    with JOURNAL.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(record, flush=True)


def table2(args: argparse.Namespace) -> None:
    """The regions with adversarial examples, at each δ."""
    network = verifier.load(data_folder() / "vnncomp" / "mnist_fc" / "onnx" / "mnist-net_256x2.onnx.gz")
    done = {
        (r["engine"], r["image"], r["epsilon"], r["delta"], r["prepass"]) for r in journal() if r["set"] == "table2"
    }
    for delta in map(float, args.deltas.split(",")):
        for image, epsilon in REGIONS:
            for engine in args.engines.split(","):
                key = (engine, image, epsilon, delta, not args.no_prepass)
                if key in done:
                    continue
                record = {"set": "table2", "engine": engine, "image": image, "epsilon": epsilon, "delta": delta}
                record["prepass"] = not args.no_prepass
                query = region_query(network, image, epsilon, delta)
                ask(record, query, args.timeout, not args.no_prepass)


def networks(names: Iterable[str]) -> Iterable[tuple[str, verifier.Network]]:
    """The scale set's networks by short name: 256x2, 256x4, 3_50 …, convSmall Point …"""
    data = data_folder()
    for name in names:
        path = data / "vnncomp" / "mnist_fc" / "onnx" / f"mnist-net_{name}.onnx.gz"
        if not path.exists():
            path = data / "eran_nets" / f"mnist_relu_{name}.onnx"
        if not path.exists():
            path = data / "eran_nets" / f"mnist_convSmallRELU__{name}.onnx"
        yield name, verifier.load(path)


def scale(args: argparse.Namespace) -> None:
    """The first correctly classified test images, ε ∈ {0.01, 0.03}, δ at 1, 10, 50 % of the map's largest entry."""
    with np.load(data_folder() / "mnist" / "mnist.npz") as arrays:
        images, labels = arrays["x_test"].reshape(-1, 784), arrays["y_test"]
    done = {(r["network"], r["image"], r["epsilon"], r["share"], r["engine"]) for r in journal() if r["set"] == "scale"}
    for name, network in networks(args.networks.split(",")):
        convolutional = name in ("Point", "PGDK", "DiffAI")
        shift, factor = (0.1307, 0.3081) if convolutional else (0.0, 1.0)
        low, high = (0.0 - shift) / factor, (1.0 - shift) / factor
        taken = 0
        for k in range(len(images)):
            if taken == args.images:
                break
            x = (images[k] / 255.0 - shift) / factor
            x = np.clip(x, low, high)
            if int(np.argmax(network.forward(x))) != int(labels[k]):
                continue
            taken += 1
            size = float(np.abs(network.gradient(x, int(labels[k]))).max())
            for epsilon in (0.01, 0.03):
                for share in (0.01, 0.1, 0.5):
                    if (name, k, epsilon, share, args.engine) in done:
                        continue
                    query = verifier.saliency_robustness(
                        network, x, epsilon / factor, share * size, int(labels[k]), domain=(low, high)
                    )
                    record = {"set": "scale", "network": name, "image": k, "epsilon": epsilon, "share": share}
                    ask(record | {"engine": args.engine}, query, args.timeout, True)


def report(_: argparse.Namespace) -> None:
    """Write results/saliency.md."""
    records = journal()
    lines = [
        "# Saliency robustness\n",
        machine() + "\n",
        "## Regions with adversarial examples (256x2)\n",
        PAPER + "\n",
    ]
    rows = []
    groups = sorted({(r["engine"], r["prepass"], r["delta"]) for r in records if r["set"] == "table2"})
    for engine, prepass, delta in groups:
        mine = [
            r
            for r in records
            if r["set"] == "table2" and (r["engine"], r["prepass"], r["delta"]) == (engine, prepass, delta)
        ]
        rows.append((engine, "on" if prepass else "off", f"{delta:g}", *_summary(mine)))
    header = [
        "queries",
        "holds",
        "violated",
        "undecided",
        "errors",
        "median s",
        "worst s",
        "median CPU s",
        "worst CPU s",
    ]
    lines.append(
        "Where wall-clock time is far above CPU time, the machine was shared: those runs had a fraction of a core, "
        "and their time-outs (60 s; 40 s with the pre-pass off) came that much earlier.\n"
    )
    lines.append(table(["engine", "pre-pass", "δ", *header], rows))
    lines.append("## Scale set\n")
    rows = []
    for name, epsilon, share in sorted(
        {(r["network"], r["epsilon"], r["share"]) for r in records if r["set"] == "scale"}
    ):
        mine = [
            r
            for r in records
            if r["set"] == "scale" and (r["network"], r["epsilon"], r["share"]) == (name, epsilon, share)
        ]
        rows.append((name, epsilon, f"{share:.0%}", *_summary(mine), max(r["peak_mb"] for r in mine)))
    lines.append(table(["network", "ε", "δ / max |map|", *header, "peak MB"], rows))
    (RESULTS / "saliency.md").write_text("\n".join(lines))


def _summary(records: list[dict[str, Any]]) -> tuple[object, ...]:
    count = {s: sum(r["status"] == s for r in records) for s in ("holds", "violated", "error")}
    open_ = len(records) - sum(count.values())
    times, cpu = [r["seconds"] for r in records], [r["cpu"] for r in records]
    return (
        len(records),
        count["holds"],
        count["violated"],
        open_,
        count["error"],
        f"{statistics.median(times):.2f}",
        f"{max(times):.1f}",
        f"{statistics.median(cpu):.2f}",
        f"{max(cpu):.1f}",
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    two = commands.add_parser("table2")
    two.add_argument("--engines", default="saliency")
    two.add_argument("--deltas", default=",".join(f"{d:g}" for d in DELTAS))
    two.add_argument("--timeout", type=float, default=60.0)
    two.add_argument("--no-prepass", action="store_true")
    two.set_defaults(run=table2)
    large = commands.add_parser("scale")
    large.add_argument("--networks", default="256x2,256x4,256x6,3_50,3_100,5_100,6_100,Point,PGDK,DiffAI")
    large.add_argument("--engine", default="saliency")
    large.add_argument("--images", type=int, default=20)
    large.add_argument("--timeout", type=float, default=60.0)
    large.set_defaults(run=scale)
    commands.add_parser("report").set_defaults(run=report)
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
