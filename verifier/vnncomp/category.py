"""A benchmark category on disk: its instances, the agreed verdicts, and what published tools solved."""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from verifier.errors import InputError


@dataclass(frozen=True)
class Instance:
    """One row of ``instances.csv``.

    Attributes:
        number: the row, from 0.
        onnx, vnnlib: as written in the row, relative to the category's folder. ``onnx`` may be a list of
            pairs (name, file) in Python syntax, for several networks (VNN-LIB 2.0).
        timeout: seconds.
    """

    number: int
    onnx: str
    vnnlib: str
    timeout: float


@dataclass(frozen=True)
class Category:
    """A benchmark category.

    Attributes:
        name: the folder's name.
        folder: where it is.
        instances: in the order of ``instances.csv``.
        truth: ``{(onnx, vnnlib): "sat" | "unsat" | "unknown"}`` from ``ground_truth.csv``; empty without one.
        best: the fastest published time of each instance, from the same file, where given.
        tools: what published tools solved, from ``tools.csv``; empty without one.
    """

    name: str
    folder: Path
    instances: tuple[Instance, ...]
    truth: Mapping[tuple[str, str], str]
    best: Mapping[tuple[str, str], float]
    tools: tuple[Tool, ...]

    def expected(self, instance: Instance) -> str:
        """The agreed verdict of an instance; "unknown" if there is none."""
        return self.truth.get((instance.onnx, instance.vnnlib), "unknown")


@dataclass(frozen=True)
class Tool:
    """What a published tool solved in a category, on the competition's machine."""

    name: str
    unsat: int
    sat: int
    wrong: int
    seconds: float

    @property
    def solved(self) -> int:
        """Instances solved."""
        return self.unsat + self.sat


def read_category(folder: Path) -> Category:
    """Read a category's folder.

    Raises:
        InputError: with the line, if ``instances.csv`` is missing or malformed.
    """
    file = folder / "instances.csv"
    instances = []
    for number, (line, row) in enumerate(_rows(file)):
        cells = [cell.strip() for cell in row]
        try:
            onnx, vnnlib, timeout = cells[0], cells[1], float(cells[2])
        except (IndexError, ValueError):
            raise InputError(f"expected onnx,vnnlib,timeout and found {row}", place=f"{file}, line {line}") from None
        if not timeout > 0:
            raise InputError(f"the time limit {timeout} is not positive", place=f"{file}, line {line}")
        instances.append(Instance(number, onnx, vnnlib, timeout))
    if not instances:
        raise InputError("no instances", place=str(file))
    truth, best = {}, {}
    for record in _records(folder / "ground_truth.csv"):
        key = (record["onnx"], record["vnnlib"])
        truth[key] = record["verdict"]
        times = [float(entry.rsplit(":", 1)[1]) for entry in record.get("best_tools", "").split(";") if ":" in entry]
        if times:
            best[key] = min(times)
    tools = tuple(
        Tool(r["tool@year"], int(r["unsat"]), int(r["sat"]), int(r["wrong"]), float(r["total_time_solved_s"]))
        for r in _records(folder / "tools.csv")
    )
    return Category(folder.resolve().name, folder, tuple(instances), truth, best, tools)


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with file.open(newline="") as lines:
            reader = csv.reader(lines)
            for row in reader:
                if row and any(cell.strip() for cell in row):
                    yield reader.line_num, row
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", place=str(file)) from None


def _records(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def resolve(path: Path) -> Path:
    """The file, or the same with ``.gz`` at the end if only that exists."""
    zipped = path.with_name(path.name + ".gz")
    return zipped if not path.exists() and zipped.exists() else path


def network_files(onnx: str) -> list[str]:
    """The network files that a row names: one, or several with VNN-LIB 2.0.

    Raises:
        InputError: a list that is not one of pairs (name, file).
    """
    if not onnx.startswith("["):
        return [onnx]
    try:
        pairs = ast.literal_eval(onnx)
        return [str(file) for _, file in pairs]
    except (ValueError, SyntaxError, TypeError):
        raise InputError(f"not a list of pairs (name, file): {onnx}") from None
