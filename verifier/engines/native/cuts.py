"""What a failed bound is still good for: it says where alone a counterexample can be.

A bound of a row that does not refute it is a linear function L <= row. At a counterexample the row is at most zero, so
``L(x) <= 0``: an inequality that cuts the box. Under it all neurons are bounded again, which gives a better bound of the
row, a better L, and so on (the idea of bounding neurons under the property's own constraint: Kotha et al., NeurIPS 2023;
Zhou et al., NeurIPS 2025). The nearer a bound is to zero, the smaller is what the cut leaves.
"""

from __future__ import annotations

import numpy as np

from verifier.bounds.condensed import Bounder
from verifier.bounds.condensed_refine import refine
from verifier.bounds.crown_slopes import below
from verifier.engines.native.node_store import Nodes
from verifier.engines.native.settings import SharpenSettings
from verifier.engines.native.subproblem_search import SubproblemSearch


def sharpened(
    search: SubproblemSearch, node: Nodes, bounder: Bounder, settings: SharpenSettings, steps: int
) -> tuple[SubproblemSearch, Nodes]:
    """The search of one disjunct under its own cut, and its node; no node where the disjunct is refuted.

    Args:
        node: the disjunct's best row, with a bound that does not refute it.
        bounder: of the neurons.
        steps: of the ascent on the row.
    """
    disjuncts = search.disjuncts(node)
    for _ in range(settings.rounds):
        condensed, columns = search.condensed, (np.ascontiguousarray(a.T) for a in (node.weights, node.phases))
        cut = condensed.within(*below(condensed, search.start.take(node.row), *columns))
        box = condensed.blocks[0]
        if cut is None or cut.cut is None or cut.cut.share(box.low, box.high) > settings.share:
            break
        better = search.on(refine(cut, bounder))
        if better.condensed.empty:
            return better, node.take(np.zeros(0, dtype=np.intp))
        found, _ = better.root(disjuncts, steps)
        gain = 1.0 if not len(found) else 1.0 - float(found.bound[0] / node.bound[0])
        if gain < min(settings.gain, 0.0):
            break
        search, node = better, found
        if not len(node) or gain < settings.gain or search.deadline.passed:
            break
    return search, node
