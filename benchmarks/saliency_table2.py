"""Table 2 of Le et al. (ACML 2023): the regions of mnist-net_256x2 with adversarial examples, at each δ."""

from __future__ import annotations

import argparse
from typing import Any

from common import data_folder, table
from saliency_common import HEADER, REGIONS, ask, journal, region_query, summary

import verifier
from verifier.options import Options

DELTAS = (1e-4, 5e-4, 1e-3, 1e-2, 5e-2, 0.1, 0.25)
PAPER = "Paper (30 cores, 10 minutes a query): Z3 0 of 10; Marabou + CROWN 4 of 10 at δ = 1e-4, fewer at larger δ."


def run(args: argparse.Namespace) -> None:
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
                prepass = not args.no_prepass
                ask(record, query, Options(engine=engine, timeout=args.timeout, prepass=prepass))


def section(records: list[dict[str, Any]]) -> list[str]:
    """The report's lines on this table."""
    mine = [r for r in records if r["set"] == "table2"]
    rows = []
    for engine, prepass, delta in sorted({(r["engine"], r["prepass"], r["delta"]) for r in mine}):
        group = [r for r in mine if (r["engine"], r["prepass"], r["delta"]) == (engine, prepass, delta)]
        rows.append((engine, "on" if prepass else "off", f"{delta:g}", *summary(group)))
    return [
        "## Regions with adversarial examples (256x2)\n",
        PAPER + "\n",
        "Where wall-clock time is far above CPU time, the machine was shared: those runs had a fraction of a core, "
        "and their time-outs (60 s; 40 s with the pre-pass off) came that much earlier.\n",
        table(["engine", "pre-pass", "δ", *HEADER], rows),
    ]


def add_parser(commands: Any) -> None:
    """The command ``table2``."""
    parser = commands.add_parser("table2")
    parser.add_argument("--engines", default="saliency")
    parser.add_argument("--deltas", default=",".join(f"{d:g}" for d in DELTAS))
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--no-prepass", action="store_true")
    parser.set_defaults(run=run)
