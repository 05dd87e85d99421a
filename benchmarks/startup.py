"""CPU time that starting takes: the import, the command line's help, and what other parsers would cost.

    python benchmarks/startup.py [--repeat N]

Writes ``benchmarks/results/startup.md``. Figures are CPU seconds (user and system) of whole processes, of which other work on the
machine takes little; a parser that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import RESULTS, machine, table

LIMIT = 0.05
"""CPU seconds that the import and ``--help`` may take beyond the interpreter."""
TYPER = """
import typer
app = typer.Typer()
@app.command()
def verify(model: str, timeout: float = 60.0): ...
@app.command()
def saliency(model: str, timeout: float = 60.0): ...
app(["--help"])
"""
PROGRAMS: dict[str, tuple[str, list[str]]] = {
    "the interpreter alone": ("", ["-c", "pass"]),
    "`import verifier`": ("", ["-c", "import verifier"]),
    "`verifier --help`": ("", ["-m", "verifier", "--help"]),
    "`verifier robustness --help`": ("", ["-m", "verifier", "robustness", "--help"]),
    "`verifier repair --help`": ("", ["-m", "verifier", "repair", "--help"]),
    "`import argparse`": ("", ["-c", "import argparse"]),
    "`import click`": ("click", ["-c", "import click"]),
    "`--help` of two commands by typer": ("typer", ["-c", TYPER]),
}
"""What is measured: the package that it needs ("" for none of its own), and the interpreter's arguments."""


def cpu_seconds(arguments: list[str], folder: str) -> float:
    """User and system time of one run."""
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure in turns, so that all meet the same machine, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15, help="runs of each, in turns (15)")
    args = parser.parse_args()
    chosen = {name: a for name, (package, a) in PROGRAMS.items() if not package or importlib.util.find_spec(package)}
    times: dict[str, list[float]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeat):
            for name, arguments in chosen.items():
                times[name].append(cpu_seconds(arguments, folder))
    bare = statistics.median(times["the interpreter alone"])
    medians = {name: statistics.median(found) for name, found in times.items()}
    rows = [(name, f"{m:.3f}", f"{max(0.0, m - bare):.3f}") for name, m in medians.items()]
    text = (
        "# Starting\n\nWritten by `benchmarks/startup.py`. Median CPU seconds of "
        f"{args.repeat} processes, and what is beyond the interpreter's own (the limit for ours: {LIMIT:g}).\n\n"
        f"Machine: {machine()}.\n\n" + table(["process", "seconds", "beyond the interpreter"], rows)
    )
    Path(RESULTS / "startup.md").write_text(text)
    print(text)
    late = [name for name, m in medians.items() if "verifier" in name and m - bare > LIMIT]
    sys.exit(f"more than {LIMIT:g} s: {', '.join(late)}" if late else 0)


if __name__ == "__main__":
    main()
