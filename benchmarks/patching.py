"""Repair: the patching paper's experiment on ACAS Xu, corrupted MNIST images, and explanations.

Sotoudeh, Thakur: *Correcting Deep Neural Networks with Small, Generalizing Patches*, 2019, Table 1, Figure 4, Appendix C.

    python benchmarks/patching.py                   runs what is not in the journal yet, writes results/patching.md
    python benchmarks/patching.py --again Bands     runs the parts of that name again (--list names them)
    python benchmarks/patching.py --report          only writes the report again, from the journal

The network is ACAS Xu 1_1. The patched slice: intruder heading -180°, both velocities 150 ft/s, distance ρ from 0
to 5000·√2 ft (the circle around the square of ±5000 ft), all bearings θ. The other slice has both velocities raised by
50 ft/s: the paper says 50 km/h (45.6 ft/s), but the authors' script adds 50 in the network's own unit and asserts that the
velocity is 200; with 50 km/h the last columns show what changes. The advisory is the smallest output: 0 clear of conflict,
1 weak left, 2 weak right, 3 strong left, 4 strong right. A specification is the network's own class map with some areas
relabelled; everything else must keep its class. The areas are those of the authors' script (repository 95616ARG/SyReNN,
experiments/netpatch.py):

- Pockets: strong right -> weak right for θ in (1.0, 1.5), ρ in (2750, 3750); strong left -> weak left for θ in
  (-1.5, -1.1), ρ in (2250, 3500). On the other slice: (0.94, 2.0) x (2750, 4500) and (-2, -1.05) x (2250, 4500).
- Bands: weak left -> weak right for θ > 0. On the other slice: for θ in (2.0, π), ρ in (0, 5000) without
  (2, 2.55) x (950, 1100).
- Symmetry: strong left -> strong right for θ > 0, on both slices.

Each is written down in two ways. *Vertices*, as in the authors' script: every vertex of a linear region once, with the
network's class there, or the new class inside an area; of a region that a class border crosses nothing more is said.
*Regions*: the polygons of the class map, cut along the areas' borders, each with its class on all of it; a vertex counts
once for every polygon, and where a border crosses a linear region both classes must tie on it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import patching_acas as acas
import patching_explanation as explanations
import patching_mnist as mnist
from common import RESULTS, machine, table

JOURNAL = RESULTS / "patching_journal.json"
LAYERS = {
    ("vertices", "greedy"): (-1, -2),
    ("vertices", "lp"): (-1, -2, -3),
    ("regions", "lp"): (-1, -2),
}
"""Layers that are tried, counted from the end. (Regions by linear programming, -3: unfinished after 60 s, so left out.)"""

Done = list[tuple[list[str], dict[str, Any]]]


def pieces() -> list[str]:
    """All parts of the benchmark, the quick ones of the paper's tables first."""
    ways = [(e.name, way, method, k) for (way, method), ks in LAYERS.items() for e in acas.EXPERIMENTS for k in ks]
    return [
        *("/".join(map(str, part)) for part in ways if part[1:3] == ("vertices", "greedy")),
        "difference",
        *(f"explanation/{number}" for number in range(5)),
        *(f"fog/{name}/{which}" for name in ("mnist_relu_3_100", "mnist_relu_6_100") for which in (-1, -2, "all")),
        *("/".join(map(str, part)) for part in ways if part[1:3] == ("vertices", "lp")),
        *(f"polygon/{number}/{k}" for number in range(3) for k in (-1, -2, -3)),
        *("/".join(map(str, part)) for part in ways if part[1] == "regions"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="greedy weight changes (5)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each repair (120)")
    parser.add_argument("--again", metavar="TEXT", help="run the parts whose name contains TEXT again")
    parser.add_argument("--only", metavar="TEXT", default="", help="run only parts whose name contains TEXT")
    parser.add_argument("--list", action="store_true", help="list the parts, and whether they were run")
    parser.add_argument("--report", action="store_true", help="run nothing, write the report from the journal")
    args = parser.parse_args(arguments)
    RESULTS.mkdir(exist_ok=True)
    if args.list:
        print("\n".join(f"{'done' if piece in read_journal() else 'open'}  {piece}" for piece in pieces()))
        return 0
    for piece in [] if args.report else pieces():
        if args.only not in piece or (piece in read_journal() and not (args.again and args.again in piece)):
            continue
        print(f"{piece} …", file=sys.stderr, flush=True)
        found = run(piece.split("/"), args.steps, args.timeout)
        journal = read_journal() | {piece: found | {"machine": machine()}}
        JOURNAL.write_text(json.dumps(journal, indent=1) + "\n")
    text = report(read_journal())
    (RESULTS / "patching.md").write_text(text)
    print(text)
    return 0


def run(part: list[str], steps: int, timeout: float) -> dict[str, Any]:
    """One part of the benchmark."""
    match part:
        case ["difference"]:
            return mnist.differences()
        case ["polygon", number, which]:
            return mnist.polygon(int(number), int(which), timeout)
        case ["explanation", number]:
            return explanations.explanation(int(number), timeout)
        case ["fog", name, which]:
            return mnist.fogged(name, which, timeout)
    name, way, method, which = part
    return acas.run(name, way, method, int(which), steps, timeout)


def read_journal() -> dict[str, Any]:
    """What was run already, by part."""
    return json.loads(JOURNAL.read_text()) if JOURNAL.exists() else {}


def report(journal: dict[str, Any]) -> str:
    """The report of all parts that were run."""
    done: Done = [(piece.split("/"), journal[piece]) for piece in pieces() if piece in journal]
    missing = [piece for piece in pieces() if piece not in journal]
    parts = [
        "# Repair\n",
        f"Written by `benchmarks/patching.py` (parts done: {len(done)} of {len(pieces())}); times are wall-clock seconds. "
        f"Machine: {'; '.join(sorted({found['machine'] for _, found in done}))}. The runs shared their cores with other "
        "work, so wall-clock times are several times what an idle machine needs: compare CPU seconds (one thread).\n",
        (__doc__ or "").split("\n\n", 3)[3].strip() + "\n",
        table_1([d for d in done if d[0][2:3] == ["greedy"]]),
        figure_4([d for d in done if d[0][2:3] == ["greedy"]]),
        linear([d for d in done if d[0][2:3] == ["lp"]]),
        drawdowns([d for d in done if "changed" in d[1]]),
    ]
    parts += [appendix_c(found) for part, found in done if part == ["difference"]]
    fog = [found["row"] for part, found in done if part[0] == "fog"]
    if fog:
        parts += [mnist.IMAGES, table(mnist.IMAGE_COLUMNS, [mnist.PUBLISHED, *fog])]
    explained = [found["row"] for part, found in done if part[0] == "explanation"]
    if explained:
        parts += [explanations.EXPLANATIONS, table(explanations.COLUMNS, explained)]
    polygons = [found["row"] for part, found in done if part[0] == "polygon"]
    if polygons:
        parts += [mnist.POLYGONS, table(mnist.POLYGON_COLUMNS, polygons)]
    if missing:
        parts.append(f"Not run yet: {', '.join(f'`{piece}`' for piece in missing)}.\n")
    return "\n".join(parts)


def layer_name(part: list[str]) -> str:
    own = acas.experiment(part[0]).layer
    return part[3] + (" (the paper's)" if int(part[3]) == own else "")


def table_1(done: Done) -> str:
    """The paper's Table 1 beside ours."""
    rows = []
    for part, found in done:
        paper = acas.experiment(part[0]).paper
        first, second, third = found["by label"]
        own = int(part[3]) == acas.experiment(part[0]).layer
        shown = paper if own else ("",) * 5
        each, cpu = found["step seconds"], found["step cpu"]
        cells = [
            part[0], layer_name(part), f"{first[0]:.2f}", shown[0], f"{first[-1]:.3f}", shown[1], f"{second[0]:.2f}",
            shown[2], f"{second[-1]:.2f}", shown[3], f"{np.mean(cpu):.2f} ± {np.std(cpu):.2f}",
            f"{np.mean(each):.2f} ± {np.std(each):.2f}", shown[4], len(each), f"{third[0]:.2f}", f"{third[-1]:.2f}",
        ]  # fmt: skip
        rows.append(cells)
    head = (
        "patch", "layer", "patched slice before %", "paper", "after %", "paper", "other slice before %", "paper",
        "after %", "paper", "CPU s an iteration", "seconds an iteration", "paper (16 cores)", "weights",
        "with + 50 km/h before %", "after %",
    )  # fmt: skip
    text = (
        "## Table 1: greedy single-weight patches\n\nConstraints met by the rule of the authors' script: a vertex's "
        "advisory is the one that it should have. The network file is the one of VNN-COMP, which need not be the "
        "authors' (their vertices are not ours: before any patch the shares differ already). Layers are counted from the "
        "end; the paper's figures stand beside the layer that its script patches.\n"
    )
    return text + "\n" + table(head, rows)


def figure_4(done: Done) -> str:
    """The paper's Figure 4, both curves, as a table and as a picture."""
    from verifier.report.repair import met_curves

    rows, curves = [], {}
    for part, found in done:
        for title, shares in zip(("patched", "other"), found["by label"][:2], strict=True):
            rows.append([part[0], layer_name(part), title, *(f"{s:.3f}" for s in shares), *[""] * (6 - len(shares))])
            if int(part[3]) == acas.experiment(part[0]).layer:
                curves[f"{part[0]}, {title} slice"] = [s / 100 for s in shares]
    if curves:
        met_curves(curves).savefig(RESULTS / "patching_met.png", dpi=80)
    text = (
        "## Figure 4: constraints met (%) after 0, 1, 2 … weight changes\n\nBoth curves; picture: `patching_met.png`.\n"
    )
    return text + "\n" + table(("patch", "layer", "slice", *range(6)), rows)


def linear(done: Done) -> str:
    """Linear programming: the smallest change, or the proof that there is none."""
    rows = []
    for part, found in done:
        lp, norms = found["lp"], found["norms"]
        rows.append([
            part[0], part[1], part[3], found["status"], "exactly" if found["exact"] else "float64",
            f"{found['by label'][0][-1]:.3f}", f"{found['by label'][1][-1]:.3f}", f"{found['area'][1]:.3f}",
            f"{norms['weights']:.0f}", f"{norms['l1']:.4g}", f"{lp['least']:.4g}", f"{lp['reach']:.3g}",
            f"{lp['used']:,} of {lp['rows']:,}", lp["rounds"], f"{lp['seconds']:.1f}", f"{found['seconds']:.1f}",
        ])  # fmt: skip
    head = (
        "patch", "as", "layer", "answer", "checked", "met by label %", "other slice %", "area right %", "weights", "L1",
        "proved least L1", "the layer's own", "rows", "rounds", "LP seconds", "seconds in all",
    )  # fmt: skip
    text = (
        "## Linear programming: one layer, smallest L1 norm\n\n*Proved least*: in rational arithmetic, no change of the "
        "layer of a smaller norm meets the demands; above the layer's own norm that is the proof of infeasibility. Rows "
        "are those of the last program, of all. *Repaired* is said only after the exact check; class maps (*regions*) have "
        "borders inside linear regions that hold by ties, and so up to rounding.\n"
    )
    return text + "\n" + table(head, rows)


def drawdowns(done: Done) -> str:
    """What the patches do on other slices."""
    rows = [[*part, *found["changed"]] for part, found in done]
    head = ("patch", "as", "method", "layer", *(name for name, _ in acas.SLICES))
    text = (
        "## Drawdown on other slices\n\nPercent of the slice on which the advisory is another than before (20,000 random "
        "points each; on the patched slice this is mostly the repair itself).\n"
    )
    pictures = ", ".join(f"`{p.name}`" for p in sorted(RESULTS.glob("patching_*_*.png")))
    return text + "\n" + table(head, rows) + f"\nClass maps before and after: {pictures}.\n"


def appendix_c(found: dict[str, Any]) -> str:
    """The cost of a patched network's evaluation."""
    head = (
        "network", "patched layer", "weights changed", "plain evaluation, ms CPU", "value channel, % of it",
        "difference alone, % of it",
    )  # fmt: skip
    text = (
        "## Appendix C: what the second channel costs\n\nA frozen network computes the original's values and then either "
        "the whole value channel again, or only what differs (`FrozenNetwork.difference`); 2,000 images, best of five.\n"
    )
    return text + "\n" + table(head, found["rows"])


if __name__ == "__main__":
    sys.exit(main())
