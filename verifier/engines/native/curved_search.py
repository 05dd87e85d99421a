"""Branch and bound for networks with curved operators or jumps."""

from __future__ import annotations

from verifier.bounds.crown import Crown
from verifier.engines.base import Answer, EngineResult
from verifier.engines.native.bounding import BoxBounds
from verifier.engines.native.carried_bounds import CarriedBounds
from verifier.engines.native.graph_bounds import GraphBounds
from verifier.engines.native.input_split import InputSplit
from verifier.engines.native.settings import NativeSettings
from verifier.errors import InputError
from verifier.events import Listener
from verifier.falsify.climb import climbing
from verifier.falsify.falsifier import Falsifier
from verifier.falsify.search import FalsifierSettings
from verifier.limits import Deadline
from verifier.options import Options
from verifier.properties.query import Query
from verifier.properties.rows import Conditions


def search_curved(
    query: Query,
    conditions: Conditions,
    options: Options,
    settings: NativeSettings,
    deadline: Deadline,
    listener: Listener,
) -> EngineResult:
    """Decide a query by boxes of inputs, with linear relaxations of all operators.

    Where many inputs vary, boxes prove little beyond what the first bounds do, and most of the search is for counterexamples.

    Source:
        branch and bound with general nonlinearities: Shi et al., GenBaB, TACAS 2025; boxes of inputs alone
        are split here.
    """
    chosen, many = settings.curved, query.box.varying > settings.low_dimension
    first = Falsifier(FalsifierSettings(share=chosen.share, most=chosen.many if many else chosen.few))
    witness = first.run(query, deadline, seed=options.seed, listener=listener)
    if witness is not None:
        return EngineResult(answer=Answer.SAT, x=witness)
    rest, low, high = conditions.boxed(query.box)
    falsifier = climbing(query, conditions, options.seed)
    try:
        bounds = _bounds(query, rest, options, settings)
        search = InputSplit(query, bounds, low, high, falsifier, memory=options.memory, settings=settings.boxes)
        return search.run(deadline, listener)
    except InputError as error:  # a function may leave its domain, as far as bounds of its argument can tell
        return EngineResult(answer=Answer.UNKNOWN, reason=error.problem)


def _bounds(query: Query, rest: Conditions, options: Options, settings: NativeSettings) -> BoxBounds:
    """Bounds that go back from every neuron; where these are many and few inputs vary, neurons' are carried forward."""
    if query.network.neurons < settings.carried_from or query.box.varying > settings.low_dimension:
        return GraphBounds(Crown(query.network, query.box), rest, options.threads, cuts=settings.boxes.cuts)
    return CarriedBounds(query.network, query.box, rest, options.threads, settings.boxes.cuts)
