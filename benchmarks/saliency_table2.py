"""Table 2 of Le et al. (ACML 2023): the regions of mnist-net_256x2 with adversarial examples, at each δ."""

from __future__ import annotations

import argparse
from typing import Any

from common import data_folder, table
from saliency_common import HEADER, REGIONS, agreement, ask, journal, name_of, region_query, regions, settled, summary
from saliency_paper import LEFT_OUT, MACHINE, TABLE_2
from saliency_paper import REGIONS as NAMES

import verifier
from verifier.options import BOUND_STEPS, Options

DELTAS = (1e-4, 5e-4, 1e-3, 1e-2, 5e-2, 0.1, 0.25)
WORDS = {"holds": "UNSAT", "violated": "SAT"}
"""The paper's words for verdicts."""


def run(args: argparse.Namespace) -> None:
    """The regions with adversarial examples, at each δ."""
    network = verifier.load(data_folder() / "vnncomp" / "mnist_fc" / "onnx" / "mnist-net_256x2.onnx.gz")
    done = {_key(r) for r in journal() if r["set"] == "table2" and settled(r, args.timeout)}
    for delta in map(float, args.deltas.split(",")):
        for image, epsilon in regions(args.regions):
            for engine in args.engines.split(","):
                record = {"set": "table2", "engine": engine, "image": image, "epsilon": epsilon, "delta": delta}
                record |= {"prepass": not args.no_prepass, "propagate": args.propagate, "limit": args.timeout}
                record |= {"threads": args.threads, "bounds": args.bounds, "bound_steps": args.bound_steps}
                if _key(record) in done:
                    continue
                options = Options(
                    engine=engine,
                    timeout=args.timeout,
                    prepass=not args.no_prepass,
                    propagate=args.propagate,
                    threads=args.threads,
                    bounds=args.bounds,
                    bound_steps=args.bound_steps,
                )
                ask(record, region_query(network, image, epsilon, delta), options)


def _key(record: dict[str, Any]) -> tuple[object, ...]:
    """What a question is, whatever the answer and the limit."""
    names = ("engine", "image", "epsilon", "delta", "prepass")
    plain = (*(record[name] for name in names), record.get("propagate", False), record.get("threads", 1))
    return (*plain, *bounds_of(record))


def bounds_of(record: dict[str, Any]) -> tuple[str, int]:
    """The bounds that a solver was given, and the steps of their optimisation."""
    return record.get("bounds", "crown"), record.get("bound_steps", BOUND_STEPS)


def said(
    records: list[dict[str, Any]],
    region: tuple[int, str],
    engine: str,
    delta: float,
    *,
    propagate: bool = False,
    bounds: tuple[str, int] = ("crown", BOUND_STEPS),
) -> str:
    """What an engine, asked alone, said of a region: its last word, with CPU seconds and the limit."""
    asked = [
        r
        for r in records
        if (r["set"], r.get("engine"), r.get("delta")) == ("table2", engine, delta)
        and (r["image"], r["epsilon"]) == region
        and (r["prepass"], r.get("propagate", False), r.get("threads", 1)) == (False, propagate, 1)
        and bounds_of(r) == bounds
    ]
    if not asked:
        return "not run"
    last = asked[-1]
    return f"{WORDS.get(last['status'], last['status'].upper())} {last['cpu']:.1f} ({last['limit']:g})"


def beside(records: list[dict[str, Any]]) -> list[str]:
    """Table 2 as the paper has it, with ours."""
    rows = []
    for region in sorted(REGIONS):
        name = NAMES.get(region, "")
        paper = ("-",) * 3 if region == LEFT_OUT else TABLE_2[name, region[1]]
        cells: list[str] = []
        for delta, printed in zip(DELTAS[:3], paper, strict=True):
            cells += [printed, said(records, region, "marabou", delta), said(records, region, "saliency", delta)]
        rows.append((f"{region[0]}/{region[1]}", name or "left out", *cells))
    columns = [f"δ = {d:g}: {what}" for d in DELTAS[:3] for what in ("paper", "Marabou here", "our engine")]
    return [
        f"The paper's Table 2 beside ours. Paper: {MACHINE}, Marabou with CROWN/LiRPA (200 steps); Z3 at δ = 1e-4: TIMEOUT in all "
        "ten. Ours: CPU seconds of one thread, the limit in brackets, asked alone (no search for counterexamples before). UNSAT: "
        "the property holds.\n",
        f"The paper has 10 regions of 7 inputs, here are {len(REGIONS)} of 8. All eleven have adversarial examples, and Marabou found all "
        "eleven in VNN-COMP 2022. The authors' published script gives two of them the same number "
        f"(images 5 and {LEFT_OUT[0]} at 0.05), so that {LEFT_OUT[0]}/{LEFT_OUT[1]} is never asked; the other ten have three inputs at "
        "both ε and four at 0.05 alone, as Table 2 has. Which image is which x the paper does not say: the column is an assumption, "
        "the order of the files' names (1 and 12 may be exchanged). The script also asks for one other label, the one of "
        "Marabou's counterexample, where Equation 14 and ours ask for any.\n",
        table(["region", "paper's input", *columns], rows),
        "",
    ]


def section(records: list[dict[str, Any]]) -> list[str]:
    """The report's lines on this table."""
    mine = [r for r in records if r["set"] == "table2"]

    def kind(r: dict[str, Any]) -> tuple[Any, ...]:
        limit = r.get("limit", 60.0 if r["prepass"] else 40.0)
        how = "" if bounds_of(r)[0] == "crown" else " + {}, {} steps".format(*bounds_of(r))
        return r["engine"], r.get("propagate", False), how, r["prepass"], r.get("threads", 1), r["delta"], limit

    rows = []
    for key in sorted({kind(r) for r in mine}):
        how, prepass, threads, delta, limit = key[2:]
        group = [r for r in mine if kind(r) == key]
        name = name_of(group[0]) + how + (f", {threads} threads" if threads > 1 else "")
        rows.append((name, "on" if prepass else "off", f"{delta:g}", f"{limit:g}", *summary(group)))
    return [
        "## Regions with adversarial examples (256x2)\n",
        *beside(mine),
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
    parser.add_argument("--bounds", default="crown", help="of a solver's encoding")
    parser.add_argument("--bound-steps", type=int, default=BOUND_STEPS, help="of alpha-crown (200 in the paper)")
    parser.set_defaults(run=run)
