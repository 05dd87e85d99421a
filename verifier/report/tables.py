"""Restrictions and attributions written to csv, npz, json or a picture, by the file's suffix."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
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
