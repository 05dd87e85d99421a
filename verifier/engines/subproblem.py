"""The questions that a query on the gradient falls into before solvers are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from verifier.bounds.bound import Bound, NetworkBounds
from verifier.encodings.model import Indices
from verifier.properties.query import Query


@dataclass(frozen=True, eq=False)
class Subproblem:
    """One of the questions that a query on the gradient falls into, with what is known about its witnesses.

    Attributes:
        query: the query with some of its disjuncts.
        values, gradients: bounds on every node's value and on the gradient with respect to it.
        known: phases, see `verifier.encodings.network.encode_forward`.
        split: the smaller questions that it falls into; None if it is not to be divided.
    """

    query: Query
    values: NetworkBounds
    gradients: NetworkBounds
    known: Mapping[str, Indices] = field(default_factory=dict)
    split: Callable[[], list[Subproblem]] | None = None

    @property
    def gradient(self) -> Bound:
        """Bounds on the input's gradient, ``(n,)``, at every witness: those asked for, and those known."""
        asked, known = self.query.gradient, self.gradients[self.query.network.input]
        assert asked is not None
        return Bound(known.lower.reshape(-1), known.upper.reshape(-1)).intersect(Bound(asked.lower, asked.upper))

    @property
    def few_entries(self) -> bool:
        """Whether the gradient has to be near a reference and no more, so that few of its entries may do."""
        query = self.query
        boxed = query.condition is None or query.condition.is_box
        return boxed and all(conjunction.g_rows is None for conjunction in query.parts)
