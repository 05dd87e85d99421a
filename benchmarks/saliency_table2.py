"""Table 2 of Le et al. (ACML 2023): the regions of mnist-net_256x2 with adversarial examples, at each δ."""

from __future__ import annotations

import argparse
from typing import Any

from common import data_folder, table
from saliency_common import HEADER, REGIONS, agreement, ask, journal, name_of, region_query, settled, summary

import verifier
from verifier.options import Options

DELTAS = (1e-4, 5e-4, 1e-3, 1e-2, 5e-2, 0.1, 0.25)
PAPER = "Paper (30 cores, 10 minutes a query): Z3 0 of 10; Marabou + CROWN 4 of 10 at δ = 1e-4, fewer at larger δ."


def run(args: argparse.Namespace) -> None:
    """The regions with adversarial examples, at each δ."""
    network = verifier.load(data_folder() / "vnncomp" / "mnist_fc" / "onnx" / "mnist-net_256x2.onnx.gz")
    done = {_key(r) for r in journal() if r["set"] == "table2" and settled(r, args.timeout)}
    for delta in map(float, args.deltas.split(",")):
        for image, epsilon in _regions(args.regions):
            for engine in args.engines.split(","):
                record = {"set": "table2", "engine": engine, "image": image, "epsilon": epsilon, "delta": delta}
                record |= {"prepass": not args.no_prepass, "propagate": args.propagate, "limit": args.timeout}
                record["threads"] = args.threads
                if _key(record) in done:
                    continue
                options = Options(
                    engine=engine,
                    timeout=args.timeout,
                    prepass=not args.no_prepass,
                    propagate=args.propagate,
                    threads=args.threads,
                )
                ask(record, region_query(network, image, epsilon, delta), options)


def _regions(names: str) -> list[tuple[int, str]]:
    """The regions that are named, all if none is."""
    asked = names.split(",") if names else [f"{image}/{epsilon}" for image, epsilon in REGIONS]
    return [(image, epsilon) for image, epsilon in REGIONS if f"{image}/{epsilon}" in asked]


def _key(record: dict[str, Any]) -> tuple[object, ...]:
    """What a question is, whatever the answer and the limit."""
    names = ("engine", "image", "epsilon", "delta", "prepass")
    return (*(record[name] for name in names), record.get("propagate", False), record.get("threads", 1))


def section(records: list[dict[str, Any]]) -> list[str]:
    """The report's lines on this table."""
    mine = [r for r in records if r["set"] == "table2"]

    def kind(r: dict[str, Any]) -> tuple[Any, ...]:
        limit = r.get("limit", 60.0 if r["prepass"] else 40.0)
        return r["engine"], r.get("propagate", False), r["prepass"], r.get("threads", 1), r["delta"], limit

    rows = []
    for key in sorted({kind(r) for r in mine}):
        prepass, threads, delta, limit = key[2:]
        group = [r for r in mine if kind(r) == key]
        name = name_of(group[0]) + (f", {threads} threads" if threads > 1 else "")
        rows.append((name, "on" if prepass else "off", f"{delta:g}", f"{limit:g}", *summary(group)))
    return [
        "## Regions with adversarial examples (256x2)\n",
        PAPER + "\n",
        'Engines are asked alone where the pre-pass (search and bounds) is off; "+ propagation" gives a solver the '
        "phases and bounds that our engine's propagation finds, and smaller questions. Times include the start of the solver's process. Where "
        "wall-clock time is far above CPU time, the machine was shared: those runs had a fraction of a core. A row has "
        f"as many queries as were run, of {len(REGIONS)}.\n",
        table(["engine", "pre-pass", "δ", "limit s", *HEADER], rows),
        "\n" + agreement(mine, ("image", "epsilon"), "delta") + "\n",
    ]


def add_parser(commands: Any) -> None:
    """The command ``table2``."""
    parser = commands.add_parser("table2")
    parser.add_argument("--engines", default="saliency")
    parser.add_argument("--deltas", default=",".join(f"{d:g}" for d in DELTAS))
    parser.add_argument("--regions", default="", help="only these, say 1/0.03,4/0.05 (image/ε)")
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--no-prepass", action="store_true")
    parser.add_argument("--propagate", action="store_true", help="solvers get the phases that propagation fixes")
    parser.add_argument("--threads", type=int, default=1, help="of an engine")
    parser.set_defaults(run=run)
