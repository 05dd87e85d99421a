"""Certificates set by set: how many properties that hold get one that the stand-alone checker accepts, sizes and times.

Run: ``python benchmarks/proofs.py [SET …] [--timeout S] [--limit N] [--fresh]`` (adds to benchmarks/results/proofs_journal.jsonl and
writes benchmarks/results/proofs.md from it). Sets are VNN-COMP categories in the data folder; those absent are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import RESULTS, data_folder, machine, table

import verifier
from verifier import Options, Status

SETS = (
    "acasxu", "tllverifybench", "rl_benchmarks", "reach_prob_density", "collins_rul_cnn", "mnist_fc", "cifar_biasfield",
)  # fmt: skip
JOURNAL = RESULTS / "proofs_journal.jsonl"


def instances(category: str) -> list[tuple[Path, Path]]:
    """Network and property of those whose agreed verdict is that they hold."""
    folder = data_folder() / "vnncomp" / category
    if not (folder / "ground_truth.csv").is_file():
        return []
    with (folder / "ground_truth.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("verdict", row.get("truth")) == "unsat"]
    return [tuple(_file(folder, row[name]) for name in ("onnx", "vnnlib")) for row in rows]  # type: ignore[misc]


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.is_file() else path.with_name(path.name + ".gz")


def measure(category: str, network_file: Path, property_file: Path, timeout: float) -> dict[str, Any]:
    """One line of the journal: seconds of CPU and of the clock to decide without and with a certificate, and to check it."""
    line: dict[str, Any] = {"set": category, "network": network_file.name, "property": property_file.name}
    network = verifier.load(network_file, ordered=True)
    query = verifier.read_vnnlib(property_file, network)
    options = Options(timeout=timeout, prepass=False)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "certificate"
        for name, proof in (("solve", False), ("prove", target)):
            cpu, clock = time.process_time(), time.perf_counter()
            verdict = verifier.verify(query, options=options, proof=proof)
            line |= {name: time.process_time() - cpu, f"{name}_clock": time.perf_counter() - clock}
            line |= {f"{name}_status": verdict.status.value, f"{name}_reason": verdict.reason}
            if verdict.status is not Status.HOLDS:
                return line
        line["no_certificate"] = verdict.no_certificate
        if verdict.proof is None:
            return line
        line["bytes"] = len(verdict.proof.data)
        try:
            cpu, clock = time.process_time(), time.perf_counter()
            report = verifier.check_proof(target, network_file, property_file, jobs=1)
        except verifier.VerifierError as error:
            return line | {"check_problem": error.problem}
        line |= {"check": time.process_time() - cpu, "check_clock": time.perf_counter() - clock}
        return line | {"leaves": report.leaves, "margin": report.margin}


def report(lines: list[dict[str, Any]]) -> str:
    """The results' page."""
    rows = []
    for category in dict.fromkeys(line["set"] for line in lines):
        mine = [line for line in lines if line["set"] == category]
        held = [line for line in mine if line.get("solve_status") == "holds"]
        good = [line for line in mine if "check" in line]
        if not good:
            rows.append([category, len(mine), len(held), 0, *["–"] * 7])
            continue
        both = [line for line in good if line in held]
        sizes = [line["bytes"] / 1024 for line in good]
        solve, prove, check = (sum(line[name] for line in both) for name in ("solve", "prove", "check"))
        slowest = max(line["prove_clock"] + line["check_clock"] for line in good)
        rows.append(
            [
                category, len(mine), len(held), len(good), f"{statistics.median(sizes):.1f}", f"{max(sizes):.0f}",
                f"{solve:.1f}", f"{prove:.1f}", f"{100 * (prove / solve - 1):+.0f} %", f"{check:.1f}", f"{slowest:.0f}",
            ]
        )  # fmt: skip
    header = [
        "set", "that hold", "decided", "certified and checked", "median KiB", "largest KiB", "decide CPU s",
        "decide and certify CPU s", "overhead", "check CPU s", "slowest: prove + check, s",
    ]  # fmt: skip
    missing = [
        [line["set"], line["network"], line["property"], line.get("check_problem") or line.get("no_certificate") or
         line.get("prove_reason") or line.get("solve_reason", "")]
        for line in lines if "check" not in line
    ]  # fmt: skip
    text = (
        "# Certificates\n\n"
        f"{machine()}\n\n"
        "One process, one thread, no search for counterexamples. CPU seconds are sums over the instances that were decided both "
        "without and with a certificate; checks are by one process of `verifier.proofs.checker`.\n\n"
        + table(header, rows)
    )
    return text + (
        "\n## Without a certificate\n\n" + table(["set", "network", "property", "why"], missing) if missing else ""
    )


def main() -> None:
    """Measure what the journal lacks, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--limit", type=int, default=0, help="so many instances of each set, evenly spaced")
    parser.add_argument("--fresh", action="store_true", help="forget what the journal has of these sets")
    args = parser.parse_args()
    lines = [json.loads(text) for text in JOURNAL.read_text().splitlines()] if JOURNAL.is_file() else []
    if args.fresh:
        lines = [line for line in lines if line["set"] not in args.sets]
        JOURNAL.write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = {(line["set"], line["network"], line["property"]) for line in lines}
    for category in args.sets:
        found = instances(category)
        found = found[:: max(1, len(found) // args.limit)] if args.limit else found
        for network_file, property_file in found:
            if (category, network_file.name, property_file.name) in known:
                continue
            lines.append(measure(category, network_file, property_file, args.timeout))
            with JOURNAL.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in lines[-1].items()}, flush=True)
    (RESULTS / "proofs.md").write_text(report(lines))


if __name__ == "__main__":
    main()
