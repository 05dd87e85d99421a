"""From a tree of a query to a proof about the files that the query came from."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from verifier.files import whole_file
from verifier.network.graph import Network
from verifier.proofs.checker.check import digest, read_question
from verifier.proofs.checker.claim import Claim, Disjunct, Row
from verifier.proofs.checker.graph import CheckError, Graph
from verifier.proofs.checker.onnx_file import read_bytes
from verifier.proofs.checker.stream import FORMAT, VERSION
from verifier.proofs.tree import NoCertificate, ProofTree
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.properties.statements import conditions


@dataclass(frozen=True, eq=False, kw_only=True)
class Proof:
    """A proof that can be written to a file and checked by `verifier.proofs.checker`.

    Attributes:
        header: what it is about, and how it was found.
        data: its file's bytes.
    """

    header: dict[str, Any]
    data: bytes

    def save(self, path: Path | str) -> None:
        """Write it to a file.

        Raises:
            OutputError: it cannot be written.
        """
        with whole_file(path) as file:
            file.write(self.data)


@dataclass(frozen=True, eq=False)
class Subject:
    """What a proof is about, as the checker reads it: network, claim, the digests of their files, and the statement if the proof is
    to carry it itself."""

    graph: Graph
    claim: Claim
    network: str
    property: str
    statement: str


def subject(query: Query) -> Subject:
    """The files that a query came from, as the checker reads them.

    Raises:
        NoCertificate: there are none, or the checker does not read them.
    """
    statement = query.statement or conditions(query)
    if statement is None:
        raise NoCertificate("the checker knows no conditions on such a map, or on several disjunctions side by side")
    try:
        data = network_bytes(query.network)
        text = statement.text
        graph, claim = read_question(data, text.encode())
    except CheckError as error:
        raise NoCertificate(f"the checker does not read it: {error}") from None
    return Subject(graph, claim, digest(data), digest(text.encode()), "" if statement.is_vnnlib else text)


def network_bytes(network: Network) -> bytes:
    """The bytes of the ONNX file that a network was read from.

    Raises:
        NoCertificate: it was not read from an ONNX file.
    """
    path = network.model_file
    if not path or not Path(path).is_file():
        raise NoCertificate("the network was not read from an ONNX file", fix="write it to one and load that")
    return read_bytes(path)


def finish(query: Query, tree: ProofTree, method: str, about: Subject | None = None) -> Proof:
    """The proof of a query whose search wrote ``tree``.

    Args:
        about: where the tree speaks of the claim's own disjuncts and rows, what it is about.

    Raises:
        NoCertificate: why there is none.
    """
    direct, about = about is not None, about or subject(query)
    rows = None if direct else _Rows(query, about.claim)
    own = {d: d for d in range(len(about.claim.disjuncts))}
    groups, body = [], []
    for root, disjuncts in tree.roots:
        group = [(d, k) for d, k in (own if rows is None else rows.asked).items() if k in disjuncts]
        if group:
            groups.append([d for d, _ in group])
            body.append(tree.write(root, group, rows or (lambda disjunct, row: (row, 1))))
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": about.network,
        "property": about.property,
        "method": method,
        "groups": groups,
    }
    if about.statement:
        header["statement"] = about.statement
    data = lzma.compress(json.dumps(header).encode("ascii") + b"\n" + b"".join(body), preset=6)
    return Proof(header=header, data=data)


class _Rows:
    """Which row of a claim's disjunct a row of a query's is, and which of the query's disjuncts stands for one of the claim's.

    Both are compared exactly, up to a positive factor.

    Attributes:
        asked: the query's disjunct, by the claim's (those with an empty box are left out).
    """

    def __init__(self, query: Query, claim: Claim) -> None:
        self._rows: list[list[tuple[Any, Fraction]]] = []
        for own in query.disjuncts:
            parts = [own] if query.common is None else [own, query.common]  # in the order of `Conditions.of`
            exact = [part.exact_row(k) for part in parts for k in range(len(part))]
            self._rows.append([_key({"x": r.x, "y": r.y, "g": r.g}, r.bound) for r in exact])
        self._first = np.cumsum([0, *(len(rows) for rows in self._rows)]).tolist()
        self._disjuncts = [dict(self._named(d.rows)) for d in claim.disjuncts]
        self.asked: dict[int, int] = {}
        _, low, high = Conditions.of(query).boxed(query.box)
        boxes = [(_rationals(a), _rationals(b)) for a, b in zip(low, high, strict=True)]
        spoken = [frozenset(key for key, _ in rows if not _alone(key)) for rows in self._rows]
        for d, disjunct in enumerate(claim.disjuncts):
            if disjunct.empty:
                continue
            mine = set(self._disjuncts[d])
            fits = (k for k, rows in enumerate(spoken) if rows <= mine and _contains(boxes[k], disjunct))
            found = next(fits, None)
            if found is None:
                raise NoCertificate(f"disjunct {d} of the property is none of the question's disjuncts")
            self.asked[d] = found

    @staticmethod
    def _named(rows: Sequence[Row]) -> list[tuple[Any, tuple[int, Fraction]]]:
        found = []
        for k, row in enumerate(rows):
            key, factor = _key(row.coefficients, row.bound)
            found.append((key, (k, factor)))
        return found

    def __call__(self, disjunct: int, row: int) -> tuple[int, Fraction] | None:
        """A row of one of the claim's disjuncts for one of the query's, and by what a multiplier changes; None for an input's.

        Args:
            disjunct: of the claim; the query's that stands for it may be another, with the same rows in another order.
            row: among the rows of all of the query's disjuncts.
        """
        stands = self.asked[disjunct]
        key, factor = self._rows[stands][row - self._first[stands]]
        if key not in self._disjuncts[disjunct]:
            if _alone(key):
                return None
            raise NoCertificate("a row of the question is none of the property's")
        k, own = self._disjuncts[disjunct][key]
        return k, factor / own


def _rationals(values: Any) -> list[Fraction | float]:
    return [Fraction(v) if np.isfinite(v) else float(v) for v in values]


def _contains(box: tuple[Any, Any], disjunct: Disjunct) -> bool:
    low, high = box
    return all(a <= b for a, b in zip(low, disjunct.low, strict=True)) and all(
        a >= b for a, b in zip(high, disjunct.high, strict=True)
    )


def _key(coefficients: Any, bound: Any) -> tuple[Any, Fraction]:
    """A row up to a factor, and the factor."""
    entries = [
        (name, j, Fraction(a)) for name in sorted(coefficients) for j, a in sorted(coefficients[name].items()) if a
    ]
    factor = abs(entries[0][2]) if entries else Fraction(1)
    return (tuple((name, j, a / factor) for name, j, a in entries), Fraction(bound) / factor), factor


def _alone(key: Any) -> bool:
    """Whether a row bounds one input alone: the checker's boxes say that."""
    return len(key[0]) == 1 and key[0][0][0] == "x"
