"""Sizes of proofs, and the times to find them with and without writing them down, and to check them.

Run: ``python benchmarks/proofs.py [--timeout S]`` (writes benchmarks/results/proofs.md). Instances are read from the
VNN-COMP categories in the data folder; those that are absent are left out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import RESULTS, data_folder, machine, table

import verifier
from verifier import Status
from verifier.options import Options
from verifier.proofs import ProofError, load_proof
from verifier.proofs.check import check_proof

INSTANCES = (
    ("acasxu", "ACASXU_run2a_1_1_batch_2000", "prop_2"),
    ("acasxu", "ACASXU_run2a_1_1_batch_2000", "prop_3"),
    ("acasxu", "ACASXU_run2a_2_1_batch_2000", "prop_1"),
    ("acasxu", "ACASXU_run2a_1_1_batch_2000", "prop_6"),
    ("acasxu", "ACASXU_run2a_3_3_batch_2000", "prop_9"),
    ("acasxu", "ACASXU_run2a_4_2_batch_2000", "prop_2"),
    ("mnist_fc", "mnist-net_256x2", "prop_0_0.03"),
    ("mnist_fc", "mnist-net_256x2", "prop_9_0.05"),
    ("mnist_fc", "mnist-net_256x2", "prop_10_0.05"),
    ("mnist_fc", "mnist-net_256x4", "prop_0_0.03"),
    ("mnist_fc", "mnist-net_256x4", "prop_3_0.05"),
    ("mnist_fc", "mnist-net_256x6", "prop_0_0.03"),
    ("mnist_fc", "mnist-net_256x6", "prop_5_0.03"),
)


def measure(category: str, model: str, name: str, timeout: float) -> list[object]:
    """One row of the table."""
    folder = data_folder() / "vnncomp" / category
    network = verifier.load(next(folder.glob(f"onnx/{model}.onnx*")))
    query = verifier.read_vnnlib(next(folder.glob(f"vnnlib/{name}.vnnlib*")), network)
    options = Options(engine="native", timeout=timeout, threads=1, prepass=False)
    row: list[object] = [category, model, name]
    for proof in (False, True):
        began = time.perf_counter()
        verdict = verifier.verify(query, options=options, proof=proof)
        seconds = time.perf_counter() - began
        row.append(f"{seconds:.2f}" if verdict.status is Status.HOLDS else verdict.status.name)
    if verdict.proof is not None:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "proof.npz"
            verdict.proof.save(path)
            size, read = path.stat().st_size, load_proof(path)
        try:
            checked = check_proof(read, query)
        except ProofError as error:
            row += [read.method, read.leaves, len(read.bounds_node), f"{size / 1024:.0f}", f"fails: {error}", "–"]
        else:
            row += [
                read.method, checked.leaves, checked.records, f"{size / 1024:.0f}",
                f"{checked.seconds:.2f}", f"{checked.margin:.2g}",
            ]  # fmt: skip
    else:
        row += ["–"] * 6
    print(*row, flush=True)
    return row


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--timeout", type=float, default=60.0)
    args = parser.parse_args()
    header = [
        "category", "network", "property", "search s", "with proof s", "method", "leaves", "sets of bounds", "KiB",
        "check s", "least margin",
    ]  # fmt: skip
    rows = [measure(*instance, args.timeout) for instance in INSTANCES]
    (RESULTS / "proofs.md").write_text(
        "# Proofs\n\n"
        f"{machine()}\n\n"
        f'Native engine, one thread, no counterexample search, limit {args.timeout:g} s. "search" keeps no proof. Files '
        "are compressed. The check computes all bounds anew in plain numpy; the margin is the least bound of a "
        "certificate after its rounding is subtracted.\n\n" + table(header, rows)
    )


if __name__ == "__main__":
    main()
