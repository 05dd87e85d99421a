"""One thread and two threads on hard VNN-COMP instances of the native engine: ``benchmarks/results/threads.md``.

    python benchmarks/threads.py [--cap SECONDS] [--repeat N]

Both cores must be free. All runs are in one process, with compiled kernels loaded ahead; times are those of `verify`.
"""

from __future__ import annotations

import argparse
import time

from common import RESULTS, data_folder, machine, table

import verifier
from verifier import compiled
from verifier.verdict import Verdict
from verifier.vnncomp.category import Category, Instance, read_category, resolve

INSTANCES = (
    ("acasxu", "2a_3_3_batch", "prop_2."),
    ("acasxu", "2a_4_2_batch", "prop_2."),
    ("acasxu", "2a_1_1_batch", "prop_6."),
    ("acasxu", "2a_3_3_batch", "prop_9."),
    ("tllverifybench", "N=M=64_m=1_instance_7_1", ""),
    ("mnist_fc", "256x4", "prop_2_0.03"),
    ("cifar10_resnet2021", "resnet_2b", "prop_5_"),
)
"""Category, and parts of the names of network and property; the first instance that fits."""


def main() -> None:
    """Run all instances with one thread and with two, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cap", type=float, default=30.0, help="seconds for each run")
    parser.add_argument(
        "--repeat", type=int, default=3, help="runs of each, one thread and two in turn; the best counts"
    )
    args = parser.parse_args()
    compiled.ensure(compiled.NATIVE)
    rows = []
    for name, onnx, vnnlib in INSTANCES:
        category = read_category(data_folder() / "vnncomp" / name)
        instance = next(i for i in category.instances if onnx in i.onnx and vnnlib in i.vnnlib)
        pairs = [[run(category, instance, threads, args.cap) for threads in (1, 2)] for _ in range(args.repeat)]
        single, double = (min(runs, key=lambda found: found[0]) for runs in zip(*pairs, strict=True))
        if len({status for pair in pairs for _, status in pair}) > 1:
            print("the verdicts differ:", pairs, flush=True)
        gain = f"{single[0] / double[0]:.2f}" if single[1] is double[1] is not verifier.Status.TIMEOUT else ""
        cells = (f"{seconds:.1f} {status.value}" for seconds, status in (single, double))
        rows.append([name, instance.onnx.split("/")[-1], instance.vnnlib.split("/")[-1], *cells, gain])
        print(*rows[-1], sep="  ", flush=True)
    text = (
        "# Threads\n\nWritten by `benchmarks/threads.py`. Seconds and verdict with one thread and with two, at most "
        f"{args.cap:g} s a run, the best of {args.repeat} runs; and how many times as fast two are (nothing after a "
        f"time-out).\n\nMachine: {machine()}.\n\n"
        + table(["category", "network", "property", "1 thread", "2 threads", "times"], rows)
    )
    (RESULTS / "threads.md").write_text(text)


def run(category: Category, instance: Instance, threads: int, cap: float) -> tuple[float, verifier.Status]:
    """Seconds and status of one run."""
    network = verifier.load(resolve(category.folder / instance.onnx))
    query = verifier.read_vnnlib(resolve(category.folder / instance.vnnlib), network)
    began = time.monotonic()
    verdict: Verdict = verifier.verify(query, timeout=cap, threads=threads)
    return time.monotonic() - began, verdict.status


if __name__ == "__main__":
    main()
