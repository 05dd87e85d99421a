"""Table 3 of Le et al. (ACML 2023): how much narrower linear bound propagation makes the Jacobian's bounds.

For each region the widths of the bounds on the 784 entries of the label's gradient: interval arithmetic; CROWN (our
kernel, and auto_LiRPA's without optimisation as a second implementation); and CROWN with preactivation bounds from
auto_LiRPA's α-CROWN (20 steps of optimisation, its default, or as many as ``--steps`` says: 200 in the paper). On the
backward graph itself there are no slopes to optimise (`verifier.bounds.jacobian`). A ratio is the mean over the entries
whose wider bound is not a point. Marabou's answers with these bounds are asked by ``table2 --engines marabou
--no-prepass --deltas 1e-4 --timeout 600 --bounds alpha-crown --bound-steps 200``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
from common import data_folder, table
from saliency_common import REGIONS, append, journal, region_query, regions
from saliency_paper import LEFT_OUT, TABLE_2, TABLE_3
from saliency_paper import REGIONS as NAMES
from saliency_table2 import said

import verifier
from verifier.bounds import bounds, gradient_bounds
from verifier.network.operators import Array
from verifier.options import BOUND_STEPS
from verifier.properties.query import Query

REFERENCE = 200
"""Steps of the paper's reference (section 5.1)."""


def alpha(steps: int) -> str:
    """The name of α-CROWN with so many steps in records and tables."""
    return f"α-CROWN, {steps} steps"


METHODS: dict[str, dict[str, Any]] = {
    "interval": {"method": "interval"},
    "CROWN": {"method": "crown"},
    "CROWN, auto_LiRPA": {"method": "crown", "backend": "lirpa"},
    alpha(BOUND_STEPS): {"method": "alpha-crown", "steps": BOUND_STEPS},
}
"""By name: how the values and the gradient are bounded."""


def widths_by(query: Query, how: dict[str, Any]) -> Array:
    """Widths of the bounds on the entries of the input's gradient, flat."""
    assert query.gradient is not None
    values = bounds(query.network, query.box, **how)
    found = gradient_bounds(query.network, query.box, query.gradient.output, values, **how)
    return found[query.network.input].width.reshape(-1)


def growth(wide: Array, narrow: Array) -> float:
    """The mean ratio of widths, over the entries whose narrower bound is not a point."""
    varies = narrow > 0
    return float(np.mean(wide[varies] / narrow[varies]))


def run(args: argparse.Namespace) -> None:
    """Bound every region by every method, and by α-CROWN with as many steps as asked for, and keep the widths' ratios."""
    network = verifier.load(data_folder() / "vnncomp" / "mnist_fc" / "onnx" / "mnist-net_256x2.onnx.gz")
    records = journal()
    done = {(r["image"], r["epsilon"]) for r in records if r["set"] == "table3"}
    stepped = {(r["image"], r["epsilon"], r["steps"]) for r in records if r["set"] == "table3 steps"}
    for image, epsilon in regions(args.regions):
        query = region_query(network, image, epsilon, 0.0)
        if (image, epsilon) not in done:
            append(all_methods(query, {"set": "table3", "image": image, "epsilon": epsilon}))
        if args.steps != BOUND_STEPS and (image, epsilon, args.steps) not in stepped:
            start = time.perf_counter()
            reference = widths_by(query, {"method": "alpha-crown", "steps": args.steps})
            record = {"set": "table3 steps", "image": image, "epsilon": epsilon, "steps": args.steps}
            record |= {"seconds": round(time.perf_counter() - start, 3), "width": float(reference.mean())}
            for name in ("CROWN", alpha(BOUND_STEPS)):
                record[f"growth {name}"] = growth(widths_by(query, METHODS[name]), reference)
            append(record)


def all_methods(query: Query, record: dict[str, Any]) -> dict[str, Any]:
    """The record with the mean widths, seconds and ratios of all methods."""
    widths: dict[str, Array] = {}
    for name, how in METHODS.items():
        start = time.perf_counter()
        widths[name] = widths_by(query, how)
        record |= {f"seconds {name}": round(time.perf_counter() - start, 3)}
        record |= {f"width {name}": float(widths[name].mean())}
    for name, base in (("CROWN", "interval"), ("CROWN, auto_LiRPA", "interval"), (alpha(BOUND_STEPS), "CROWN")):
        wide = widths[base] > 0
        record[f"ratio {name} / {base}"] = float(np.mean(widths[name][wide] / widths[base][wide]))
    return record


def section(records: list[dict[str, Any]]) -> list[str]:
    """The report's lines on this table."""
    mine = [r for r in records if r["set"] == "table3"]
    if not mine:
        return []
    rows = []
    for epsilon in sorted({r["epsilon"] for r in mine}):
        group = [r for r in mine if r["epsilon"] == epsilon]
        ratios = [name for name in group[0] if name.startswith("ratio")]
        for name in ratios:
            values = [r[name] for r in group]
            spread = f"{min(values):.3f} to {max(values):.3f}"
            rows.append((epsilon, len(group), name.removeprefix("ratio "), f"{statistics.mean(values):.3f}", spread))
    seconds = ", ".join(f"{name} {statistics.median(r[f'seconds {name}'] for r in mine):.2f} s" for name in METHODS)
    return [
        "## Widths of the Jacobian's bounds (256x2, regions with adversarial examples)\n",
        f"Mean over the regions of the average ratio of widths. Median time of a region: {seconds}.\n",
        table(["ε", "regions", "ratio", "mean", "range"], rows),
        *beside(records),
    ]


def beside(records: list[dict[str, Any]]) -> list[str]:
    """Table 3 as the paper has it, with ours."""
    mine = {(r["image"], r["epsilon"]): r for r in records if r["set"] == "table3"}
    stepped = {(r["image"], r["epsilon"]): r for r in records if r["set"] == "table3 steps" and r["steps"] == REFERENCE}
    rows = []
    for region in sorted(REGIONS):
        name = (NAMES.get(region, ""), region[1])
        paper = ("-",) * 5 if region == LEFT_OUT else (TABLE_2[name][0], *TABLE_3[name])
        reference = stepped.get(region)
        plain, twenty = "not run", "not run"
        if reference:
            plain, twenty = (f"{reference[f'growth {name}']:.3f}" for name in ("CROWN", alpha(BOUND_STEPS)))
        against = f"{1 / mine[region][f'ratio {alpha(BOUND_STEPS)} / CROWN']:.3f}" if region in mine else "not run"
        answers = [
            said(records, region, "marabou", 1e-4, bounds=how)
            for how in (("alpha-crown", REFERENCE), ("crown", BOUND_STEPS), ("alpha-crown", BOUND_STEPS))
        ]
        cells = (paper[0], answers[0], paper[1], answers[1], paper[2], plain, paper[3], answers[2], paper[4], twenty)
        rows.append((f"{region[0]}/{region[1]}", name[0] or "left out", *cells, against))
    header = ["region", "paper's input", "reference: paper", "ours", "no optimisation: paper", "ours", "growth: paper"]
    header += ["ours", "20 steps: paper", "ours", "growth: paper", "ours", "CROWN / 20 steps, ours"]
    return [
        f"\nThe paper's Table 3 beside ours, δ = 1e-4: Marabou's answer with the bounds of {REFERENCE} steps (the reference), of none "
        "and of 20 (ours: CPU seconds of one thread, limit in brackets), and how much wider the bounds are than the reference's on "
        "average. The paper does not say over which bounds it averages; ours are those on the input's gradient. These follow from "
        "which neurons are active, inactive or unstable alone, and more than 20 steps fix few neurons or none more: hence the "
        "growth near 1 at 20 steps, as in the paper.\n",
        table(header, rows),
    ]


def add_parser(commands: Any) -> None:
    """The command ``table3``."""
    parser = commands.add_parser("table3")
    parser.add_argument("--regions", default="", help="only these, say 1/0.03,4/0.05 (image/ε)")
    parser.add_argument("--steps", type=int, default=BOUND_STEPS, help=f"of α-CROWN ({REFERENCE} in the paper)")
    parser.set_defaults(run=run)
