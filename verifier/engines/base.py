"""What an engine is: a plug-in that declares what it can do and answers "is there such an x?"."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from verifier.events import Listener, ignore
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.network.piecewise import MaxPool, PiecewiseLinear
from verifier.options import Options
from verifier.properties.query import Query
from verifier.verdict import Certainty

if TYPE_CHECKING:
    from verifier.proofs.proof import Proof


LOW_DIMENSION = 16
"""Up to this many inputs that vary, the native engine splits boxes; above, ReLUs."""


class Answer(enum.Enum):
    """An engine's answer to a query."""

    SAT = "sat"
    UNSAT = "unsat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """What an engine returns. A SAT answer is a proposal: only the replay makes it a violation.

    Attributes:
        x: for SAT, the proposed point (flattened).
        certainty: for UNSAT, how strong the proof is.
        reason: in words, for UNKNOWN, TIMEOUT and ERROR.
        statistics: figures worth showing (boxes, splits, solver time …).
        proof: for UNSAT, if it was asked for.
    """

    answer: Answer
    x: Array | None = None
    certainty: Certainty | None = None
    reason: str = ""
    statistics: Mapping[str, float | int | str] = field(default_factory=dict)
    proof: Proof | None = None


@dataclass(frozen=True)
class Capabilities:
    """What queries an engine can take; selection is by this data.

    Attributes:
        gradient: whether the condition may speak of the gradient.
        leaky: elementwise functions other than ReLU.
        maxpool: MaxPool.
        maps, similarities: conditions on saliency maps beyond the gradient box, by the names of the map
            (`verifier.properties.maps`) and of the similarity (`verifier.properties.similarity`).
        max_neurons: more than this many units is hopeless; "auto" passes it over (None: no limit).
    """

    gradient: bool
    leaky: bool = True
    maxpool: bool = True
    maps: frozenset[str] = frozenset()
    similarities: frozenset[str] = frozenset()
    max_neurons: int | None = None

    @classmethod
    def encoded(cls, max_neurons: int) -> Capabilities:
        """Of a solver behind the encodings: `verifier.encodings.similarity` writes maps linear in gradients for it."""
        return cls(
            gradient=True,
            maps=frozenset({"gradient", "absolute", "difference", "smooth"}),
            similarities=frozenset({"linf", "l1", "top-k"}),
            max_neurons=max_neurons,
        )


@dataclass(frozen=True)
class Availability:
    """Whether an engine's packages are installed, found without importing them."""

    installed: bool
    detail: str
    """Version if installed, else what to install."""


class Engine(ABC):
    """One way to decide queries. Stateless; one instance per engine in the registry."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    isolated: ClassVar[bool] = True
    """Whether it must run in a child process (foreign solvers); our own engines run in-process."""

    @abstractmethod
    def availability(self) -> Availability:
        """Whether it can run here, found without importing the solver."""

    @abstractmethod
    def solve(self, query: Query, options: Options, deadline: Deadline, listener: Listener = ignore) -> EngineResult:
        """Decide the query before the deadline. Must never answer UNSAT for a timeout or a failure."""

    def searches(self, query: Query) -> bool:
        """Whether it finds counterexamples of this query itself, alongside its proof: the search before it is short."""
        return False

    def rejects(self, network: Network, query: Query | None = None) -> str:
        """Why this engine cannot take the network (and query); "" if it can."""
        can = self.capabilities
        if query is not None and query.gradient is not None and not can.gradient:
            return "conditions on the gradient"
        condition = None if query is None else query.condition
        if condition is not None and not condition.is_box:
            if condition.map.name not in can.maps:
                return f"conditions on the map {condition.map.name!r}"
            if condition.similarity not in can.similarities:
                return f"{condition.similarity!r} similarity of maps"
        for node in network.activations:
            if isinstance(node.operator, MaxPool) and not can.maxpool:
                return f"MaxPool (node {node.name!r})"
            if isinstance(node.operator, PiecewiseLinear) and not node.operator.is_relu and not can.leaky:
                return f"{node.operator.label} (node {node.name!r})"
        return ""
