"""Tables: as text for a terminal or a pipe, and restrictions and attributions as csv, npz, json or a picture."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verifier.errors import InputError
from verifier.extras import require
from verifier.files import check_target, whole_file, whole_text, write_figure, write_text
from verifier.network.operators import Array

DATA, PICTURES = (".csv", ".npz", ".json"), (".png", ".svg", ".pdf")


def check_suffix(path: Path, formats: Sequence[str] = DATA + PICTURES) -> Path:
    """The path, if its suffix names a format and a file can be written there (known before long work).

    Raises:
        InputError: it does not, or none can.
    """
    if path.suffix.lower() not in formats:
        raise InputError(f"unknown format {path.suffix!r}", place=str(path), fix=f"one of {' '.join(formats)}")
    if path.suffix.lower() in (*PICTURES, ".html"):
        require("matplotlib")
    return check_target(path)


def write(path: Path, arrays: Mapping[str, Array], rows: Callable[[], tuple[list[str], Array]], figure: Any) -> None:
    """Write to one file.

    Shapes: arrays of any shape; rows ``(rows, columns)``.

    Args:
        path: its suffix is the format.
        arrays: what npz and json hold.
        rows: gives header and rows of the csv.
        figure: gives the matplotlib figure.
    """
    match path.suffix.lower():
        case ".npz":
            contents: dict[str, Any] = dict(arrays)
            with whole_file(path) as stream:
                np.savez_compressed(stream, **contents)
        case ".json":
            write_text(path, json.dumps({name: np.asarray(a).tolist() for name, a in arrays.items()}) + "\n")
        case ".csv":
            header, body = rows()
            with whole_text(path) as file:
                writer = csv.writer(file)
                writer.writerow(header)
                counted = header[0] in ("region", "index")
                writer.writerows([int(row[0]), *row[1:]] if counted else row for row in body.tolist())
        case _:
            write_figure(path, figure(), dpi=160)


UNBOUNDED = 100_000
"""Characters of a line where no terminal ends it."""


def text_table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = (), indent: int = 0
) -> str:
    """A table as text, drawn by rich: on a terminal cells are folded at its width, elsewhere a row is a line.

    Args:
        head: the columns' names; none: no heading.
        numbers: the columns that are set to the right.
        indent: spaces before each line.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = [[str(cell) for cell in row] for row in rows]
    if not found and not head:
        return ""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(head))
    for k in range(len(head or found[0])):
        table.add_column(head[k] if head else "", justify="right" if k in numbers else "left", overflow="fold")
    for row in found:
        table.add_row(*map(Text, row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNBOUNDED
    stream = io.StringIO()
    Console(file=stream, width=width - indent, color_system=None, legacy_windows=False).print(table)
    return "\n".join(f"{' ' * indent}{line}".rstrip() for line in stream.getvalue().splitlines())
