"""A benchmark category on disk: its instances, the agreed verdicts, and what published tools solved."""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from verifier.errors import InputError
from verifier.files import reading

if TYPE_CHECKING:
    from verifier.properties.query import Query

Number = TypeVar("Number", int, float)


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
        InputError: with the line, if ``instances.csv`` is missing or a file is malformed.
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
    for place, record in _records(folder / "ground_truth.csv", ("onnx", "vnnlib", "verdict")):
        key = (record["onnx"], record["vnnlib"])
        truth[key] = record["verdict"]
        entries = [entry for entry in (record.get("best_tools") or "").split(";") if ":" in entry]
        times = [_parsed(float, entry.rsplit(":", 1)[1], place) for entry in entries]
        if times:
            best[key] = min(times)
    columns = ("tool@year", "unsat", "sat", "wrong", "total_time_solved_s")
    tools = []
    for place, record in _records(folder / "tools.csv", columns):
        unsat, sat, wrong = (_parsed(int, record[name], place) for name in columns[1:4])
        tools.append(Tool(record[columns[0]], unsat, sat, wrong, _parsed(float, record[columns[4]], place)))
    return Category(folder.resolve().name, folder, tuple(instances), truth, best, tuple(tools))


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with reading(file), file.open(newline="", encoding="utf-8") as lines:
            reader = csv.reader(lines)
            for row in reader:
                if row and any(cell.strip() for cell in row):
                    yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"not a table: {error}", place=str(file)) from None


def _records(file: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The rows of a table with a head, each with its place; none if there is no file.

    Raises:
        InputError: a column is missing, or a row is too short.
    """
    if not file.exists():
        return []
    (_, head), *rows = [*_rows(file)] or [(1, [])]
    head = [name.strip() for name in head]
    missing = [name for name in columns if name not in head]
    if missing:
        raise InputError(f"has no column {missing[0]!r}", place=str(file), fix=f"its head needs {', '.join(columns)}")
    records = []
    for number, row in rows:
        place = f"{file}, line {number}"
        if len(row) < len(head):
            raise InputError(f"{len(row)} cells, and the head has {len(head)}", place=place)
        records.append((place, dict(zip(head, (cell.strip() for cell in row), strict=False))))
    return records


def _parsed(kind: type[Number], text: str, place: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{text!r} is no number", place=place) from None


def resolve(path: Path) -> Path:
    """The file, or the same with ``.gz`` at the end if only that exists."""
    zipped = path.with_name(path.name + ".gz")
    return zipped if not path.exists() and zipped.exists() else path


def network_files(onnx: str) -> list[str]:
    """The network files that a row names: one, or several with VNN-LIB 2.0.

    Raises:
        InputError: a list that is not one of pairs (name, file).
    """
    return list(named_files(onnx).values())


def named_files(onnx: str) -> dict[str, str]:
    """The network files that a row names, by the names of a VNN-LIB 2.0 file; "" for the only one of a row without.

    Raises:
        InputError: a list that is not one of pairs (name, file).
    """
    if not onnx.startswith("["):
        return {"": onnx}
    try:
        return {str(name): str(file) for name, file in ast.literal_eval(onnx)}
    except (ValueError, SyntaxError, TypeError):
        raise InputError(f"not a list of pairs (name, file): {onnx}") from None


def read_question(onnx: str, vnnlib: Path, folder: Path = Path()) -> Query:
    """The query of a row's property about its network, or networks.

    Raises:
        NetworkError, PropertyError: a file that is damaged, or does not fit.
    """
    from verifier.network.loading import load
    from verifier.properties.vnnlib import asked_of, read_vnnlib

    files = {name: resolve(folder / file) for name, file in named_files(onnx).items()}
    if list(files) == [""]:
        return asked_of(resolve(folder / vnnlib), lambda ordered: load(files[""], ordered=ordered))
    return read_vnnlib(resolve(folder / vnnlib), {name: load(file) for name, file in files.items()})
