"""What all benchmark scripts share: where the data is, what the machine is, and tables in Markdown."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def data_folder() -> Path:
    """The folder with data sets and benchmark networks (environment variable ``PWL_VERIFIER_DATA``)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PWL_VERIFIER_DATA", default))
    if not folder.is_dir():
        sys.exit(f"no data at {folder}: set PWL_VERIFIER_DATA to the folder that holds vnncomp/, mnist/ …")
    return folder


def machine() -> str:
    """One line on where figures were measured."""
    model = platform.processor() or platform.machine()
    try:
        for row in Path("/proc/cpuinfo").read_text().splitlines():
            if row.startswith("model name"):
                model = row.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    return (
        f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, "
        f"OMP_NUM_THREADS={threads}, {date.today().isoformat()}"
    )


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(map(str, header)) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
