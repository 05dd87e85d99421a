"""The engines by name, and the choice among them. Their modules are imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from verifier.engines.base import LOW_DIMENSION, Engine
from verifier.errors import EngineError
from verifier.options import Options
from verifier.properties.query import Query

ENGINES: Mapping[str, str] = {
    "native": "verifier.engines.native:NativeEngine",
    "saliency": "verifier.engines.saliency:SaliencyEngine",
    "maps": "verifier.engines.maps:MapsEngine",
    "z3": "verifier.engines.z3_engine:Z3Engine",
    "cvc5": "verifier.engines.smtlib_engine:Cvc5Engine",
    "yices": "verifier.engines.smtlib_engine:YicesEngine",
    "marabou": "verifier.engines.marabou_engine:MarabouEngine",
    "highs": "verifier.engines.highs_engine:HighsEngine",
}
"""Where each engine's class is."""


@dataclass(frozen=True)
class Rule:
    """A line of the table that `choose` goes through from the top: the first that fits decides.

    Attributes:
        engine: the engine it picks, if that is installed and can take the query.
        gradient: for queries with (True) or without (False) a condition on the gradient; None: any.
        condition: for queries with (True) or without (False) a condition on a saliency map; None: any.
        max_inputs, max_varying, max_neurons: only up to so many inputs, inputs that vary, or neurons; None: any.
        why: in words, for the verdict.
    """

    engine: str
    why: str
    gradient: bool | None = None
    condition: bool | None = None
    max_inputs: int | None = None
    max_varying: int | None = None
    max_neurons: int | None = None

    def fits(self, query: Query) -> bool:
        """Whether the query is of the kind that this line is for."""
        return (
            self.gradient in (None, query.gradient is not None)
            and self.condition in (None, query.condition is not None)
            and (self.max_inputs is None or query.box.size <= self.max_inputs)
            and (self.max_varying is None or query.box.varying <= self.max_varying)
            and (self.max_neurons is None or query.network.neurons <= self.max_neurons)
        )


RULES = (
    Rule("maps", "boxes of few inputs, for any saliency map", condition=True, max_inputs=6),
    Rule("saliency", "branch and bound over outputs and Jacobian", gradient=True),
    Rule("maps", "the only one for integrals over a path", condition=True),
    Rule("native", "few inputs vary, so boxes of inputs are split", gradient=False, max_varying=LOW_DIMENSION),
    Rule("native", "many inputs vary, so phases of ReLUs are split", gradient=False),
    Rule("highs", "few neurons: a small mixed-integer program", max_neurons=200),
    Rule("marabou", "the largest networks among the solvers"),
    Rule("z3", "exact, if slow"),
    Rule("highs", "the solver that is left"),
)
"""How "auto" picks: by the kind of condition and the size of the network."""


@dataclass(frozen=True)
class Choice:
    """What "auto" picked and why."""

    engine: Engine
    reason: str


def names() -> tuple[str, ...]:
    """The names of all engines."""
    return tuple(ENGINES)


def get(name: str) -> Engine:
    """The engine of this name.

    Raises:
        EngineError: there is none.
    """
    if name not in ENGINES:
        raise EngineError(f"there is no engine {name!r}", fix=f"engines: {', '.join(ENGINES)}, auto")
    module, _, class_name = ENGINES[name].partition(":")
    try:
        engine: Engine = getattr(importlib.import_module(module), class_name)()
    except (ImportError, AttributeError) as error:
        raise EngineError(f"engine {name!r} cannot be loaded: {error}") from None
    return engine


def require(name: str, query: Query) -> Engine:
    """The engine of this name, able to take the query.

    Raises:
        EngineError: there is none, it is not installed, or it cannot take the query.
    """
    engine = get(name)
    availability = engine.availability()
    if not availability.installed:
        raise EngineError(f"engine {name!r} is not installed", fix=availability.detail)
    problem = engine.rejects(query.network, query)
    if problem:
        raise EngineError(f"engine {name!r} cannot take this query: {problem}", fix="try engine='auto'")
    return engine


def choose(query: Query, options: Options) -> Choice:
    """The engine for "auto": the first line of `RULES` that fits and whose engine can take the query.

    Raises:
        EngineError: no installed engine can; says why for each.
    """
    refusals: dict[str, str] = {}
    for rule in RULES:
        if not rule.fits(query) or rule.engine in refusals:
            continue
        try:
            engine = require(rule.engine, query)
        except EngineError as error:
            refusals[rule.engine] = f"{error.problem}: {error.fix}" if error.fix else error.problem
            continue
        limit = engine.capabilities.max_neurons
        if limit is not None and query.network.neurons > limit:
            refusals[rule.engine] = f"{rule.engine}: {query.network.neurons} neurons, hopeless above {limit}"
            continue
        disjuncts = "1 disjunct" if len(query.disjuncts) == 1 else f"{len(query.disjuncts)} disjuncts"
        size = f"{query.box.size} inputs, {query.network.neurons} neurons, {disjuncts}"
        passed = f"; passed over: {'; '.join(refusals.values())}" if refusals else ""
        return Choice(engine, f"auto picked {engine.name} ({size}): {rule.why}{passed}")
    raise EngineError("no installed engine can take this query", fix="; ".join(refusals.values()))
