"""Branch and bound for networks with curved operators or jumps."""

from __future__ import annotations

from verifier.bounds.crown import Crown
from verifier.engines.base import EngineResult
from verifier.engines.native.bounding import GraphBounds
from verifier.engines.native.input_split import InputSplit
from verifier.engines.native.settings import NativeSettings
from verifier.events import Listener
from verifier.falsify.climb import climbing
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
    """Decide a query by boxes of inputs, with linear relaxations of all operators."""
    rest, low, high = conditions.boxed(query.box)
    bounds = GraphBounds(Crown(query.network, query.box), rest, options.threads)
    falsifier = climbing(query, conditions, options.seed)
    search = InputSplit(query, bounds, low, high, falsifier, memory=options.memory, settings=settings.boxes)
    return search.run(deadline, listener)
