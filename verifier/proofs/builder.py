"""Proofs while they are found: the record that the searches write."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifier.network.operators import Array
from verifier.proofs.proof import KINDS, Proof
from verifier.proofs.relu_network import fingerprint, operators
from verifier.properties.query import Query
from verifier.properties.rows import Conditions


@dataclass(frozen=True, eq=False)
class Term:
    """A combination of rows of the condition, with the weights that take it back to the input.

    Attributes:
        rows, multipliers: the rows and λ.
        weights: for the neurons of the record of bounds, or none.
    """

    rows: Sequence[int] | Array
    multipliers: Sequence[float] | Array
    weights: Sequence[float] | Array = ()


@dataclass(eq=False)
class ProofBuilder:
    """Collects divisions, bounds and certificates; several threads may write. See `verifier.proofs.proof`."""

    divisions: list[tuple[int, int, int, float, int]] = field(default_factory=list)
    records: list[tuple[int, int, bool]] = field(default_factory=list)
    neurons: list[Array] = field(default_factory=list)
    rows: list[tuple[Array, Array, Array]] = field(default_factory=list)
    certificates: list[tuple[int, int, int, Sequence[Term]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def divide_input(self, node: int, axis: int, value: float, disjunct: int = -1) -> tuple[int, int]:
        """Divide a node at a value of an input; the numbers of the children below and above."""
        return self._divide((node, disjunct, axis, value, -1))

    def divide_neuron(self, node: int, neuron: int, disjunct: int = -1) -> tuple[int, int]:
        """Divide a node by the sign of a ReLU's input; the numbers of the children where it is active and inactive."""
        return self._divide((node, disjunct, -1, 0.0, neuron))

    def _divide(self, division: tuple[int, int, int, float, int]) -> tuple[int, int]:
        with self._lock:
            self.divisions.append(division)
            return 2 * len(self.divisions) - 1, 2 * len(self.divisions)

    def bounds(
        self, node: int, neurons: Array, base: int = -1, rows: tuple[Array, Array, Sequence[Array]] | None = None
    ) -> int:
        """Record bounds on a node's region; the number of the record.

        Args:
            neurons: ``(U,)`` ascending, the ReLUs that weights are for.
            rows: neurons, signs and weights of the rows that were bounded; None for the rule with default slopes.
        """
        neuron, sign, weights = rows or (np.zeros(0), np.zeros(0), [])
        flat = np.concatenate([np.zeros(0, dtype=np.float16), *weights])
        with self._lock:
            self.records.append((node, base, rows is not None))
            self.neurons.append(neurons)
            self.rows.append((neuron, sign, flat))
            return len(self.records) - 1

    def refute(self, node: int, disjunct: int, bounds: int, terms: Sequence[Term]) -> None:
        """A certificate for a disjunct on a node's region."""
        with self._lock:
            self.certificates.append((node, disjunct, bounds, terms))

    def contradiction(self, node: int, bounds: int) -> None:
        """A certificate that the node's region has no point."""
        self.refute(node, -1, bounds, ())

    def proof(self, query: Query, method: str) -> Proof:
        """All of it, as the proof of a query."""
        conditions = Conditions.of(query)
        divided, division_case, axis, value, neuron = _columns(self.divisions, 5)
        bounds_node, bounds_base, weighted = _columns(self.records, 3)
        node, disjunct, bounds, _ = _columns([(*c[:3], 0) for c in self.certificates], 4)
        terms = [t for c in self.certificates for t in c[3]]
        arrays: dict[str, Any] = {
            "low": query.box.lower,
            "high": query.box.upper,
            "y_rows": conditions.y_rows,
            "x_rows": conditions.x_rows,
            "bound": conditions.bound,
            "case_of": conditions.disjunct_of,
            "divided": divided,
            "division_case": division_case,
            "axis": axis,
            "value": value,
            "unit": neuron,
            "bounds_node": bounds_node,
            "bounds_base": bounds_base,
            "bounds_weighted": weighted,
            "units_start": _starts(self.neurons),
            "units": _flat(self.neurons),
            "rows_start": _starts([r[0] for r in self.rows]),
            "row_unit": _flat([r[0] for r in self.rows]),
            "row_sign": _flat([r[1] for r in self.rows]),
            "row_weights_start": _starts([r[2] for r in self.rows]),
            "row_weights": _flat([r[2] for r in self.rows]),
            "node": node,
            "case": disjunct,
            "bounds": bounds,
            "terms_start": _starts([c[3] for c in self.certificates]),
            "rows_of_start": _starts([t.rows for t in terms]),
            "row": _flat([t.rows for t in terms]),
            "multiplier": _flat([t.multipliers for t in terms]),
            "weights_start": _starts([t.weights for t in terms]),
            "weights": _flat([t.weights for t in terms]),
        }
        typed = {name: np.array(a, dtype=KINDS.get(name, np.int64)) for name, a in arrays.items()}
        network = query.network
        return Proof(network=fingerprint(network), operators=tuple(operators(network)), method=method, **typed)


def _columns(lines: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[line[k] for line in lines] for k in range(count)]


def _starts(parts: Sequence[Any]) -> Any:
    return np.cumsum([0, *(len(p) for p in parts)])


def _flat(parts: Sequence[Any]) -> Any:
    return np.concatenate([np.zeros(0), *(np.asarray(p) for p in parts)])
