"""The kernels of repairs, compiled ahead of a repair's clock."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verifier import compiled
from verifier.events import Listener, ignore
from verifier.network.graph import feedforward
from verifier.repair.specification import LineRegion, Requirement, Specification, output_class


def compile_ahead(repair: Callable[..., object], listener: Listener = ignore, *, greedy: bool = True) -> None:
    """Compile what repairs use, the first time after an installation (`verifier.compiled.ensure`)."""
    compiled.ensure(compiled.LINES, listener)
    if greedy:
        compiled.ensure("greedy repairs", listener, lambda: _sample(repair))


def _sample(repair: Callable[..., object]) -> None:
    rng = np.random.default_rng(0)
    network = feedforward([rng.normal(size=s) for s in ((4, 2), (3, 4))], [rng.normal(size=n) for n in (4, 3)])
    line = LineRegion(np.zeros(2), np.ones(2))
    for label in range(3):  # one of them is not met
        repair(network, Specification((Requirement(line, output_class(3, label)),)), method="greedy", steps=1)
