"""Beyond Table 2: for its regions the largest δ that holds, and at δ = 0.001 the largest ε, proved from both sides.

Writes the brackets to the journal and draws ``results/saliency_thresholds.png``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from common import RESULTS, data_folder, table
from saliency_common import append, journal, region_query, regions

import verifier
from verifier.saliency import Threshold, largest_delta, largest_epsilon

DELTA = 1e-3
"""δ of the largest ε: the paper's largest."""
CLOSED, STARVED = 1.01, 0.8
"""Upper over lower end of a bracket that is closed; and the share of its time on a processor below which an open one says
nothing, because others had the machine."""


def run(args: argparse.Namespace) -> None:
    """Search both thresholds of every region that the journal has not, or has open with less time."""
    network = verifier.load(data_folder() / "vnncomp" / "mnist_fc" / "onnx" / "mnist-net_256x2.onnx.gz")
    began, known = time.monotonic(), latest(journal())
    done = {key for key, r in known.items() if _closed(r) or r["limit"] >= args.timeout}
    for image, epsilon in regions(args.regions):
        x = region_query(network, image, epsilon, DELTA).start
        for find in ("delta", "epsilon"):
            if (find, image, epsilon) in done:
                continue
            if args.until is not None and time.monotonic() - began > args.until:
                return
            start, cpu = time.perf_counter(), time.process_time()
            found: Threshold
            if find == "delta":
                found = largest_delta(network, x, float(epsilon), domain=(0.0, 1.0), timeout=args.timeout)
            else:
                found = largest_epsilon(network, x, DELTA, domain=(0.0, 1.0), most=0.25, timeout=args.timeout)
            ends = {"lower": found.lower, "upper": found.upper, "undecided": found.undecided, "limit": args.timeout}
            took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
            record = {"set": "thresholds", "find": find, "image": image, "epsilon": epsilon, **ends, **took}
            if _closed(record) or took["cpu"] >= STARVED * took["seconds"]:
                append(record)
            else:
                print("is not noted, others had the machine:", record, flush=True)


def latest(records: list[dict[str, Any]]) -> dict[tuple[str, int, str], dict[str, Any]]:
    """The last record of each threshold."""
    return {(r["find"], r["image"], r["epsilon"]): r for r in records if r["set"] == "thresholds"}


def _closed(record: dict[str, Any]) -> bool:
    return bool(record["upper"] <= CLOSED * record["lower"])


def section(records: list[dict[str, Any]]) -> list[str]:
    """The report's lines on the thresholds, and the figure."""
    mine = sorted(latest(records).values(), key=lambda r: (r["find"], r["epsilon"], r["image"]))
    if not mine:
        return []
    draw(mine)
    rows = [
        (
            {"delta": "δ", "epsilon": "ε"}[r["find"]],
            r["image"],
            r["epsilon"] if r["find"] == "delta" else f"δ = {DELTA:g}",
            f"{r['lower']:.5g}",
            f"{r['upper']:.5g}",
            f"{r['upper'] / r['lower']:.3f}" if r["lower"] > 0 else "–",
            f"{r['seconds']:.0f}",
            f"{r['cpu']:.0f}",
        )
        for r in mine
    ]
    header = ["largest", "image", "at", "proved to hold at", "refuted from (witness)", "ratio", "s", "CPU s"]
    return [
        "## Thresholds: how far Table 2's regions hold\n",
        f"The largest δ for the region's ε, and the largest ε for δ = {DELTA:g}, by bisection between a proof and a witness; "
        f"at most {max(r['limit'] for r in mine):g} s each, one thread, beside other work.\n",
        table(header, rows),
        "![Brackets of the largest δ and ε](saliency_thresholds.png)\n",
    ]


def draw(records: list[dict[str, Any]]) -> None:
    """The brackets as bars: proved below, refuted above, open between."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, find in zip(figure.subplots(1, 2), ("delta", "epsilon"), strict=True):
        mine = [r for r in records if r["find"] == find]
        axes.set_visible(bool(mine))
        ends = [v for r in mine for v in (r["lower"], r["upper"]) if 0 < v < np.inf] or [1.0]
        least, most = min(ends) / 3, 2 * max(ends)
        for k, r in enumerate(mine):
            lower, upper = max(r["lower"], least), min(r["upper"], most)
            axes.plot([least, lower], [k, k], color="tab:blue", lw=5, solid_capstyle="butt")
            axes.plot([lower, upper], [k, k], color="0.7", lw=5, solid_capstyle="butt")
            if upper < most:  # else there is no witness yet
                axes.plot(upper, k, "x", color="tab:red")
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(
            range(len(mine)), [f"image {r['image']}" + f", ε {r['epsilon']}" * (find == "delta") for r in mine]
        )
        axes.set_xlabel("δ" if find == "delta" else f"ε at δ = {DELTA:g}")
        axes.set_title("proved (blue), open (grey), refuted from the cross on", fontsize=9)
    figure.savefig(RESULTS / "saliency_thresholds.png", dpi=120)


def add_parser(commands: Any) -> None:
    """The command ``thresholds``."""
    parser = commands.add_parser("thresholds")
    parser.add_argument("--regions", default="", help="image/ε, comma separated; all if not given")
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--until", type=float, help="seconds after which no further threshold is begun")
    parser.set_defaults(run=run)
