"""Restrictions and attributions written to csv, npz, json or a picture, by the file's suffix."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from verifier.errors import InputError
from verifier.network.operators import Array

DATA, PICTURES = (".csv", ".npz", ".json"), (".png", ".svg", ".pdf")


def check_suffix(path: Path) -> Path:
    """The path, if its suffix names a format and its folder exists (so that this is known before long work)."""
    if path.suffix.lower() not in DATA + PICTURES:
        raise InputError(f"unknown format {path.suffix!r}", place=str(path), fix=f"one of {' '.join(DATA + PICTURES)}")
    if not path.parent.is_dir():
        raise InputError("the folder does not exist", place=str(path))
    return path


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
            np.savez_compressed(path, **contents)
        case ".json":
            path.write_text(json.dumps({name: np.asarray(a).tolist() for name, a in arrays.items()}) + "\n")
        case ".csv":
            header, body = rows()
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(header)
                counted = header[0] in ("region", "index")
                writer.writerows([int(row[0]), *row[1:]] if counted else row for row in body.tolist())
        case _:
            figure().savefig(path, dpi=160)
