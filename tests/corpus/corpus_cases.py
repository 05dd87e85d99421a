"""The corpus: several hundred tiny (network, query) pairs with their verdicts, stored as numbers.

Each line of ``cases.jsonl`` is one case: the network's operators, the query's box and rows, and the verdict that
`corpus_oracle.decide` found by enumeration. Nothing is computed from anything here, so that every machine asks the
same questions; a matrix product in a recipe would not (its last bits are the processor's choice).
``draw.py`` drew the cases and can draw more; ``python tests/corpus/regenerate.py`` decides all of them again.

Families of networks (up to 12 piecewise-linear neurons): dense, convolutional, other elementwise functions
(LeakyReLU, |x|, Clip), MaxPool, residual. Kinds of queries: rows over outputs and inputs in DNF, robustness,
saliency robustness. Traits: see ``draw.py``.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Operator, Reshape, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, relu
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box

FILE = Path(__file__).parent / "cases.jsonl"
OPERATORS: dict[str, type[Operator]] = {c.__name__: c for c in (Conv, Dense, MaxPool, PiecewiseLinear, Reshape, Sum)}


@dataclass(frozen=True, eq=False)
class Case:
    """One pair of the corpus."""

    line: str
    """Its line of the file."""

    @cached_property
    def record(self) -> dict[str, Any]:
        """The line's content."""
        found: dict[str, Any] = json.loads(self.line)
        return found

    @property
    def name(self) -> str:
        """Readable identifier, for test ids: index, family of the network, kind of the query."""
        return str(self.record["name"])

    @property
    def family(self) -> str:
        """Kind of network."""
        return self.name.split("-")[1]

    @property
    def kind(self) -> str:
        """Kind of query."""
        return self.name.split("-")[2]

    @cached_property
    def query(self) -> Query:
        """The query (with its network)."""
        return _read(self.record)

    @property
    def verdict(self) -> str:
        """Known truth by the gradient convention: "sat" or "unsat"."""
        return str(self.record["verdict"][0])

    @property
    def closed_verdict(self) -> str:
        """Known truth when either neighbour of a kink may be meant, and strict rows are closed."""
        return str(self.record["verdict"][1])


@cache
def cases() -> tuple[Case, ...]:
    """The whole corpus."""
    return tuple(map(Case, FILE.read_text(encoding="utf-8").splitlines()))


def line(name: str, query: Query, verdict: tuple[str, str]) -> str:
    """The line of a case, without its end: the float64 numbers of the query (and not the rationals between them)."""
    record: dict[str, Any] = {"name": name, "verdict": verdict, "shape": query.network.input_shape}
    record["network"] = _network(query.network)
    record |= {"lower": query.box.lower, "upper": query.box.upper, "anchor": query.anchor}
    record["cases"] = [_rows(part) for part in query.disjuncts]
    if query.common is not None:
        record["common"] = _rows(query.common)
    if query.gradient is not None:
        record["gradient"] = {name: getattr(query.gradient, name) for name in ("output", "lower", "upper")}
    return json.dumps(record, default=lambda array: array.tolist(), separators=(",", ":"))


def _rows(part: Conjunction) -> dict[str, Any]:
    """The float64 numbers of a conjunction, where they are there."""
    named = {name: getattr(part, name) for name in ("bound", "x_rows", "y_rows", "g_rows", "strict")}
    return {name: value for name, value in named.items() if value is not None}


def _plain(operator: Operator) -> dict[str, object]:
    """What an operator is, without what it keeps for later use."""
    return {f.name: getattr(operator, f.name) for f in fields(operator)}


def _network(network: Network) -> list[Any]:
    """One entry a node: "Relu", or an operator's name and the fields that are not its defaults."""
    written: list[Any] = []
    places = {node.name: k for k, node in enumerate(network.nodes)}
    for k, node in enumerate(network.nodes[1:], 1):
        operator = node.operator
        defaults = {f.name: f.default for f in fields(operator) if f.init and f.default is not MISSING}
        entry: dict[str, Any] = {"op": type(operator).__name__}
        for field in fields(operator):
            value = getattr(operator, field.name)
            if field.init and not (field.name in defaults and value == defaults[field.name]):
                entry[field.name] = value
        inputs = [places[name] for name in node.inputs]
        if inputs != [k - 1]:
            entry["inputs"] = inputs
        written.append("Relu" if _plain(operator) == _plain(relu()) and "inputs" not in entry else entry)
    return written


def _read(record: dict[str, Any]) -> Query:
    builder = NetworkBuilder(tuple(record["shape"]))
    names = ["input"]
    for written in record["network"]:
        if written == "Relu":
            names.append(builder.add(relu()))
            continue
        entry = dict(written)
        kind, inputs = OPERATORS[entry.pop("op")], entry.pop("inputs", [len(names) - 1])
        values = {k: tuple(v) if isinstance(v, list) and k not in ("weight", "bias") else v for k, v in entry.items()}
        values |= {k: np.array(v) for k, v in entry.items() if k in ("weight", "bias")}
        names.append(builder.add(kind(**values), *(names[k] for k in inputs)))
    common, gradient = record.get("common"), record.get("gradient")
    return Query(
        network=builder.build(),
        box=Box(np.array(record["lower"]), np.array(record["upper"])),
        disjuncts=tuple(Conjunction(**part) for part in record["cases"]),
        common=None if common is None else Conjunction(**common),
        gradient=None if gradient is None else GradientBox(**gradient),
        anchor=np.array(record["anchor"]),
    )
