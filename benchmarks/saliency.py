"""Saliency robustness: Tables 2 and 3 of Le et al. (ACML 2023), larger δ, the scale set, other maps.

    python benchmarks/saliency.py table2 [--engines saliency,highs] [--timeout 60] [--deltas 1e-4,5e-4,1e-3]
    python benchmarks/saliency.py table3
    python benchmarks/saliency.py thresholds [--timeout 120]
    python benchmarks/saliency.py scale  [--networks 256x2,256x4,3_50] [--images 20] [--timeout 60]
    python benchmarks/saliency.py structures [--networks pool,residual,cnn-pool] [--images 10] [--timeout 60]
    python benchmarks/saliency.py maps   [--timeout 10]
    python benchmarks/saliency.py report

Every answer is one line of ``results/saliency_journal.jsonl``; what is there is not run again. ``report``
writes ``results/saliency.md`` from it. Each command is a module ``saliency_*.py`` of its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import saliency_maps
import saliency_scale
import saliency_structures
import saliency_table2
import saliency_table3
import saliency_thresholds
from common import RESULTS
from saliency_common import journal

MEASURED = (
    "Measured on 2 cores, Python 3.11, 2026-11-26 (AMD EPYC); Marabou with a limit of 600 s and α-CROWN with 200 steps on "
    "2026-11-28 (Intel Xeon, shared with other work)."
)
"""When and where the journal's records were measured."""
PARTS = (saliency_table2, saliency_table3, saliency_thresholds, saliency_scale, saliency_structures, saliency_maps)
"""The commands, in the order of their sections in the report."""


def text(records: list[dict[str, Any]]) -> str:
    """The report of a journal's records."""
    lines = ["# Saliency robustness\n", MEASURED + "\n"]
    for part in PARTS:
        lines += part.section(records)
    return "\n".join(lines)


def report(_: argparse.Namespace) -> None:
    """Write results/saliency.md."""
    (RESULTS / "saliency.md").write_text(text(journal()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for part in PARTS:
        part.add_parser(commands)
    commands.add_parser("report").set_defaults(run=report)
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
