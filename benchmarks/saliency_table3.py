"""Table 3 of Le et al. (ACML 2023): how much narrower linear bound propagation makes the Jacobian's bounds.

For each region the widths of the bounds on the 784 entries of the label's gradient: interval arithmetic; CROWN (our
kernel, and auto_LiRPA's without optimisation as a second implementation); and CROWN with preactivation bounds from
auto_LiRPA's α-CROWN (20 steps of optimisation). On the backward graph itself there are no slopes to optimise
(`verifier.bounds.jacobian`). A ratio is the mean over the entries whose wider bound is not a point.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
from common import data_folder, table
from saliency_common import REGIONS, append, journal, region_query

import verifier
from verifier.bounds import bounds, gradient_bounds

METHODS = {
    "interval": {"method": "interval"},
    "CROWN": {"method": "crown"},
    "CROWN, auto_LiRPA": {"method": "crown", "backend": "lirpa"},
    "α-CROWN, 20 steps": {"method": "alpha-crown"},
}


def run(_: argparse.Namespace) -> None:
    """Bound every region by every method and keep the widths' ratios."""
    network = verifier.load(data_folder() / "vnncomp" / "mnist_fc" / "onnx" / "mnist-net_256x2.onnx.gz")
    done = {(r["image"], r["epsilon"]) for r in journal() if r["set"] == "table3"}
    for image, epsilon in REGIONS:
        if (image, epsilon) in done:
            continue
        query = region_query(network, image, epsilon, 0.0)
        assert query.gradient is not None
        widths: dict[str, Any] = {}
        record: dict[str, Any] = {"set": "table3", "image": image, "epsilon": epsilon}
        for name, how in METHODS.items():
            start = time.perf_counter()
            values = bounds(network, query.box, iterations=20, **how)  # type: ignore[arg-type]
            found = gradient_bounds(network, query.box, query.gradient.output, values, **how)  # type: ignore[arg-type]
            widths[name] = found[network.input].width.reshape(-1)
            record |= {f"seconds {name}": round(time.perf_counter() - start, 3)}
            record |= {f"width {name}": float(widths[name].mean())}
        for name, base in (("CROWN", "interval"), ("CROWN, auto_LiRPA", "interval"), ("α-CROWN, 20 steps", "CROWN")):
            wide = widths[base] > 0
            record[f"ratio {name} / {base}"] = float(np.mean(widths[name][wide] / widths[base][wide]))
        append(record)


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
    ]


def add_parser(commands: Any) -> None:
    """The command ``table3``."""
    commands.add_parser("table3").set_defaults(run=run)
