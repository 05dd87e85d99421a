"""The attention paper's experiment: 360 exhaustive maps, journalled, and its Table 2 beside ours.

    python benchmarks/attention.py                  all sizes (goes on from the journal)
    python benchmarks/attention.py fnn-100 cnn-s    some sizes
    python benchmarks/attention.py --beyond         three parameters, MaxPool, CIFAR-10 convSmall
    python benchmarks/attention.py --train          train the networks that are missing
    python benchmarks/attention.py --report         write the tables from the journal, run nothing
    python benchmarks/attention.py --again cnn-s    run problems again that are in the journal
    python benchmarks/attention.py --sweep          only the share of Θ that is AR at other deltas (times not kept)

Each problem runs in a child process of its own; one line of JSON per finished problem goes to the journal,
so that an interrupted run loses at most one problem.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attention_networks import ARCHITECTURES, DATASETS, FOLDER, PAPER, images, load, train
from common import RESULTS, data_folder, machine, table

from verifier.attention import attention_map
from verifier.encodings.perturbations import Brightness, Patch, Perturbation, Translation
from verifier.network.graph import Network

JOURNAL = RESULTS / "attention_journal.jsonl"
COMBINATIONS = ("BP", "TP", "TB")
DELTA, WIDTH = 3.0, 0.2
SWEEP = (0.1, 0.3, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0)
"""Other deltas, for the share of Θ on which the inconsistency stays within them (from the same map)."""
TIMEOUT = 900.0
SOURCES = ("../../verifier", "../../encodings")

KNOWN = {
    "fnn-100": "exhaustive: 25 of 60 timed out",
    "cnn-s": "gbs-AR: 33 of 60 timed out",
    "cnn-m": "56 of 60 failed (memory)",
}
"""What is known here of the paper's Table 2 (4 threads, 2 hours and up to 30 GiB a problem)."""


def perturbation(letter: str) -> Perturbation:
    """The paper's perturbations, each over [0, w]: +θ on all pixels, +θ on a 3 × 3 patch, θ pixels to the right."""
    if letter == "B":
        return Brightness(low=0.0, high=WIDTH)
    if letter == "P":
        return Patch(low=0.0, high=WIDTH, top=4, left=4, height=3, width=3)
    return Translation(low=0.0, high=WIDTH, right=1)


def measure(
    network: Network, image: np.ndarray, letters: str, timeout: float = TIMEOUT, **options: Any
) -> dict[str, Any]:
    """One map, as a record for the journal."""
    began, cpu = time.perf_counter(), time.process_time()
    m = attention_map(network, image, [perturbation(c) for c in letters], DELTA, timeout=timeout, **options)
    record: dict[str, Any] = {
        "status": "done" if m.complete else "timeout",
        "reason": m.reason,
        "seconds": round(time.perf_counter() - began, 3),
        "cpu": round(time.process_time() - cpu, 3),
        "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "neurons": m.perturbed.network.neurons,
        "regions": m.summary.regions,
        "counts": dict(m.summary.counts),
        "volumes": {k: float(f"{v:.9g}") for k, v in m.summary.volumes.items()},
        "covered_minus_1": m.summary.covered - 1.0,
        "label_share": m.summary.label_share,
        "largest": m.summary.largest,
        "near_delta": m.summary.near_delta,
        "robust": dict(m.robust),
    }
    record["revision"] = revision()
    if m.table is not None:
        shares = m.table.volumes / m.table.volumes.sum()
        record["sweep"] = {str(d): float(f"{shares[m.table.high <= d].sum():.9g}") for d in SWEEP}
        for aspect in ("label", "attention"):
            far = m.farthest(aspect)  # type: ignore[arg-type]
            record[f"{aspect}_farthest"] = None if far is None else round(far[1], 6)
            record[f"{aspect}_outermost"] = int(m.outermost(aspect).sum())  # type: ignore[arg-type]
            record[f"{aspect}_enclaves"] = m.enclaves(aspect)  # type: ignore[arg-type]
    return record


def revision() -> str:
    """The commit of the sources, "+" if they are changed."""
    say = lambda *words: subprocess.run(words, capture_output=True, text=True, cwd=RESULTS).stdout.strip()  # noqa: E731
    return say("git", "rev-parse", "--short", "HEAD") + (
        "+" if say("git", "status", "--porcelain", "-uno", "--", *SOURCES) else ""
    )


def in_child(work: Any) -> dict[str, Any]:
    """Run ``work()`` in a forked child (so that its peak memory is its own) and return its record."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            record = work()
        except Exception as error:
            record = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        with os.fdopen(writer, "w") as stream:
            stream.write(json.dumps(record))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"status": "failed", "reason": f"the child ended with status {status}"}


def journal() -> dict[str, dict[str, Any]]:
    """All finished problems by name; a torn last line is dropped."""
    records = {}
    if JOURNAL.exists():
        text = JOURNAL.read_text()
        if text and not text.endswith("\n"):
            JOURNAL.write_text(text + "\n")  # so that the next record gets a line of its own
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            records[record["problem"]] = record
    return records


def note(name: str, record: dict[str, Any]) -> None:
    """Append a finished problem to the journal."""
    RESULTS.mkdir(exist_ok=True)
    with JOURNAL.open("a") as stream:
        stream.write(json.dumps({"problem": name, **record}) + "\n")
    print(name, record["status"], record.get("regions"), f"{record.get('seconds')} s", flush=True)


def problems(size: str) -> Iterator[tuple[str, str, int, str]]:
    """(name, data set, image number among the last ten, combination) of the 60 problems of a size."""
    for dataset in DATASETS:
        for k in range(10):
            for letters in COMBINATIONS:
                yield f"{size}/{dataset}/{k}/{letters}", dataset, k, letters


def sweep(sizes: list[str], limit: float | None, every: int) -> None:
    """The AR share of Θ at the deltas of SWEEP, for some problems of each size."""
    began, done = time.monotonic(), journal()
    for size in sizes:
        for name, dataset, k, letters in list(problems(size))[::every]:
            if f"sweep/{name}" in done:
                continue
            if limit is not None and time.monotonic() - began > limit:
                return
            record = measure(load(size, dataset), images(dataset, "test")[0][-10:][k], letters)
            note(f"sweep/{name}", {n: record[n] for n in ("status", "regions", "revision", "sweep")})


def warm_up() -> None:
    """Load or compile the kernels once, so that no problem's time holds it."""
    x, _ = images("mnist", "test")
    measure(load("fnn-100", "mnist"), x[-1], "TP")


def run(sizes: list[str], limit: float | None, again: bool, every: int) -> bool:
    """Run what the journal lacks (``again``: lacks of this revision); False if the time limit ended it."""
    began, now = time.monotonic(), revision()
    done = {n: r for n, r in journal().items() if not again or r.get("revision") == now}
    warm_up()
    for size in sizes:
        nets = {d: load(size, d) for d in DATASETS}
        pictures = {d: images(d, "test")[0][-10:] for d in DATASETS}
        for name, dataset, k, letters in list(problems(size))[::every]:
            if name in done:
                continue
            if limit is not None and time.monotonic() - began > limit:
                return False
            net, image = nets[dataset], pictures[dataset][k]
            note(name, in_child(lambda net=net, image=image, letters=letters: measure(net, image, letters)))
    return True


def beyond() -> None:
    """Three parameters at 100 neurons, a MaxPool network, and ERAN's CIFAR-10 convSmall."""
    import verifier

    done = journal()
    warm_up()
    for dataset in DATASETS:
        x = images(dataset, "test")[0][-10:]
        name = f"beyond/fnn-100-{dataset}/BPT"
        if name not in done:
            note(name, in_child(lambda d=dataset, x=x: measure(load("fnn-100", d), x[0], "BPT", timeout=1800)))
        for letters in COMBINATIONS:
            name = f"beyond/cnn-pool-{dataset}/{letters}"
            if name not in done:
                work = lambda d=dataset, x=x, c=letters: measure(load("cnn-pool", d), x[0], c)  # noqa: E731
                note(name, in_child(work))
    path = data_folder() / "eran_nets" / "cifar10_convSmallRELU__Point.onnx"
    with np.load(data_folder() / "cifar10" / "cifar10.npz") as data:
        image = data["x_test"][0].astype(np.float64) / 255.0
    network = verifier.load(path)
    for letters in COMBINATIONS:
        name = f"beyond/cifar10-convSmall/{letters}"
        if name not in done:
            note(name, in_child(lambda c=letters: measure(network, image, c)))


def report() -> None:
    """Write ``results/attention.md`` from the journal."""
    records = journal()
    training = json.loads((FOLDER / "training.json").read_text())
    rows = []
    for size in PAPER:
        found = [records[name] for name, *_ in problems(size) if name in records]
        done = [r for r in found if r["status"] == "done"]
        count = {s: sum(r["status"] == s for r in found) for s in ("done", "timeout", "failed")}

        def verdicts(aspect: str, done: list[dict[str, Any]] = done) -> str:
            yes = sum(r["robust"][aspect] is True for r in done)
            return f"{yes} / {len(done) - yes}"

        if not done:
            rows.append([size, f"{len(found)} of 60", *["–"] * 9, KNOWN.get(size, ""), ""])
            continue
        spent, regions = [r["seconds"] for r in done], [r["regions"] for r in done]
        rows.append(
            [
                size,
                f"{len(found)} of 60",
                verdicts("label"),
                verdicts("attention"),
                count["timeout"],
                count["failed"],
                f"{statistics.median(regions):,.0f} / {max(regions):,}",
                f"{statistics.median(spent):.2f} / {max(spent):.1f}",
                f"{statistics.median(r['cpu'] for r in done):.2f} / {max(r['cpu'] for r in done):.1f}",
                f"{statistics.median(r['megabytes'] for r in done):.0f} / {max(r['megabytes'] for r in done)}",
                f"{max(abs(r['covered_minus_1']) for r in done):.0e}",
                KNOWN.get(size, "not at hand"),
                ", ".join(sorted({r.get("revision", "66f4093 or before") for r in found})),
            ]
        )
    head = ["network", "problems run", "CR: Robust / NotRobust", "AR: Robust / NotRobust", "Timeout", "Failed"]
    head += ["regions median / worst", "seconds median / worst", "CPU seconds median / worst", "MB median / worst"]
    head += ["worst |area − 1|", "the paper (4 threads, 2 h)", "revisions"]
    swept = []
    for size in PAPER:
        found = [
            r["sweep"] for n, r in records.items() if n.removeprefix("sweep/").startswith(f"{size}/") and "sweep" in r
        ]
        if found:
            shares = [[f[str(d)] for f in found] for d in SWEEP]
            texts = [f"{statistics.median(s):.3g} ({sum(v > 1 - 1e-9 for v in s)})" for s in shares]
            swept.append([size, len(found), *texts])
    trained = [
        [r["network"], r["dataset"], r["neurons"], r["epochs"], r["seconds"], r["accuracy"], r["right_of_last_ten"]]
        for r in training.values()
    ]
    extra = [
        [n.removeprefix("beyond/"), r["status"], r.get("neurons"), r.get("regions"), r.get("seconds"),
         r.get("megabytes"), *(f"{r['volumes'][k]:.4g}" if "volumes" in r else "" for k in ("CR", "AR", "IR", "AB")),
         r.get("reason", "")]
        for n, r in records.items() if n.startswith("beyond/")
    ]  # fmt: skip
    text = f"""# Attention robustness: the paper's experiment

{machine()}; one thread a problem, other work on the machine at the same time (so wall-clock times are upper
bounds; CPU seconds stand beside them).

Settings: δ = {DELTA}, identity filter, L2, all ten classes; every parameter over [0, {WIDTH}] (B: added intensity,
P: intensity added to a 3 × 3 patch at row 4, column 4, T: pixels to the right), clipped to [0, 1]; the last ten
test images of MNIST and Fashion-MNIST, combinations BP, TP, TB. Every map is exhaustive: all linear regions,
for the label (CR) and for attention (AR) at once. "Robust" means: *all* of Θ is CR (or AR). A problem is done
only if the areas of its regions add up to that of Θ within 1e-9.

What differs from the paper: the weights are ours (same neuron counts and layer kinds, see below); the patch's
place and size, the unit of the translation and the reading of w as the upper end of every parameter are our choice,
as the paper's own were not at hand. Clipping adds 2 × 784 units to every network, which the maps count too. No map is
AR-Robust at δ = 3: the saliency maps of these networks have norms that sum to 25–115 over the ten classes, so that a
few switched units exceed 3; the share of Θ that is AR is in the journal, problem by problem. It is not the
definition that makes it so: the inconsistency of every region is checked against torch's autograd in the tests.


## Table 2

{table(head, rows)}
Of the paper's Table 2 only the figures quoted in the column before the last were at hand. The last column says under
which commits the problems were measured; "66f4093 or before" was on 2026-11-23, and the date above is that of this page.

## Other deltas

Share of Θ in regions whose inconsistency stays within δ: median over the problems (and how many of them are
AR-Robust: all of Θ). Taken with `--sweep --every 6`, whose problems are all of combination BP, until a time limit;
the sizes that it did not reach are left out.

{table(["network", "problems", *(f"δ = {d:g}" for d in SWEEP)], swept)}
## Beyond the paper

{table(["problem", "status", "units", "regions", "seconds", "MB", "CR", "AR", "IR", "AB", "remark"], extra)}
BPT is mapped by linear programs (HiGHS); the MaxPool network by writing each maximum with ReLUs, so that one
linear region can come in several pieces.

## Networks (Table 1)

{table(["network", "data set", "neurons", "epochs", "training s", "test accuracy", "right of the last ten"], trained)}
Architectures: {"; ".join(f"{n}: {a}" for n, a in ARCHITECTURES.items())} (an integer is a dense layer, a triple
channels, kernel, stride of a convolution).
"""
    path = RESULTS / "attention.md"
    path.write_text(text)
    print(f"written: {path}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", help=f"some of {', '.join(PAPER)} (all)")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--beyond", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--again", action="store_true", help="also problems that the journal has of other revisions")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th problem of a size")
    parser.add_argument("--limit", type=float, help="seconds after which no further problem is begun")
    args = parser.parse_args()
    unknown = set(args.sizes) - set(ARCHITECTURES)
    if unknown:
        sys.exit(f"unknown network {', '.join(unknown)}: one of {', '.join(ARCHITECTURES)}")
    if args.train:
        for name in args.sizes or ARCHITECTURES:
            for dataset in DATASETS:
                if not Path(FOLDER / f"{name}-{dataset}.npz").exists():
                    print(train(name, dataset), flush=True)
    elif args.beyond:
        beyond()
    elif args.sweep:
        sweep(args.sizes or list(PAPER), args.limit, args.every)
    elif not args.report:
        run(args.sizes or list(PAPER), args.limit, args.again, args.every)
    report()


if __name__ == "__main__":
    main()
