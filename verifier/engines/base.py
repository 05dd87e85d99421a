"""What an engine is: a plug-in that declares what it can do and answers "is there such an x?"."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from verifier.events import Listener, ignore
from verifier.limits import Deadline
from verifier.network.graph import Network
from verifier.options import Options
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.verdict import Certainty

if TYPE_CHECKING:
    from verifier.proofs.tree import ProofTree


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
        x: for SAT, the proposed point (flattened); rational only where no float64 point was found.
        certainty: for UNSAT, how strong the proof is.
        reason: in words, for UNKNOWN, TIMEOUT and ERROR.
        statistics: figures worth showing (boxes, splits, solver time …).
        proof: for UNSAT, what a proof was asked to be written from.
    """

    answer: Answer
    x: Point | None = None
    certainty: Certainty | None = None
    reason: str = ""
    statistics: Mapping[str, float | int | str] = field(default_factory=dict)
    proof: ProofTree | None = None


PIECEWISE_LINEAR = frozenset({"input", "affine", "relu", "piecewise-linear", "maxpool"})
"""The operators of piecewise-linear networks, by `Operator.kind`."""
CURVED = frozenset({"step", "smooth", "product"})
"""Those of others: functions with jumps, curved functions, products of two tensors."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What queries an engine can take; selection is by this data. What is not named here is refused.

    Attributes:
        operators: kinds of operators (`verifier.network.operators.Operator.kind`).
        features: what a condition may use (`verifier.properties.query.Query.features`).
        needs: features without which the engine has nothing to do.
        max_neurons: more neurons than this are hopeless; "auto" passes it over (None: no limit).
    """

    operators: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    max_neurons: int | None = None


def gradient_features(*, maps: Iterable[str], similarities: Iterable[str]) -> frozenset[str]:
    """The features of conditions on the gradient: its box, and these maps and similarities beyond it."""
    return frozenset(
        {"gradient", "a saliency map", *(f"map {m}" for m in maps), *(f"similarity {s}" for s in similarities)}
    )


ENCODED = gradient_features(maps=("gradient", "absolute", "difference", "smooth"), similarities=("linf", "l1", "top-k"))
"""What `verifier.encodings` can write for solvers: maps that are linear in gradients."""


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

    def withholds_proof(self, query: Query) -> str:
        """Why it can write no proof of this query (`Options.proof`); "" if it can."""
        return f"the engine {self.name!r} writes none"

    def kernels(self, query: Query) -> tuple[str, ...]:
        """The parts of `verifier.compiled` that it needs for this query."""
        return ()

    def rejects(self, network: Network, query: Query | None = None) -> str:
        """Why this engine cannot take the network (and query): every kind of operator that it lacks; "" if it can."""
        can = self.capabilities
        if query is not None:
            beyond = sorted(query.features - can.features)
            if beyond:
                return f"its condition uses: {', '.join(beyond)}"
            missing = sorted(can.needs - query.features)
            if missing:
                return f"it is made for: {', '.join(missing)}"
        lacking: dict[str, str] = {}
        for node in network.nodes:
            if node.operator.kind not in can.operators:
                lacking.setdefault(getattr(node.operator, "label", type(node.operator).__name__), node.name)
        return ", ".join(f"{label} (node {name!r})" for label, name in lacking.items())
