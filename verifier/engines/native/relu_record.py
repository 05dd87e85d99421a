"""What ReLU splitting writes into a proof: bounds of its subproblems, and the trees of leaves within them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from verifier.bounds.condensed import CondensedNetwork
from verifier.bounds.condensed_refine import RowsKept
from verifier.engines.native.node_store import Nodes
from verifier.network.graph import Network
from verifier.proofs.tree import ProofTree, Term, Weights
from verifier.properties.rows import Conditions


class ReluRecord:
    """The record of one search.

    Args:
        network: of affine operators and ReLUs.

    Attributes:
        root: the number of the whole box.
    """

    def __init__(self, network: Network, conditions: Conditions) -> None:
        self.conditions, self.tree = conditions, ProofTree()
        self.root = self.tree.root(range(conditions.disjuncts))
        firsts = np.cumsum([0, *(node.size for node in network.activations)])
        self._first = {node.name: int(first) for node, first in zip(network.activations, firsts, strict=False)}

    def neurons(self, condensed: CondensedNetwork) -> npt.NDArray[np.int64]:
        """The numbers of a condensed network's unstable neurons among all ReLUs."""
        parts = [self._first[b.node] + b.neurons[: b.count] for b in condensed.blocks[1:]]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def weighted_bounds(self, node: int, condensed: CondensedNetwork, kept: RowsKept) -> None:
        """Record the bounds of a subproblem: those before it, and of the rows that were kept when they were found."""
        rows = []
        for number, places, found in kept:
            count, first = len(places), self._first[condensed.blocks[number].node]
            for k, weights in enumerate(found.T):
                neuron = first + int(places[k % count])
                rows.append((2 * neuron + k // count, weights.astype(np.float64)))
        rows.sort(key=lambda row: row[0])
        self.tree.weighted_bounds(
            node, self.neurons(condensed), [(u // 2, 1 - 2 * (u % 2), weights) for u, weights in rows]
        )
        if condensed.empty:
            self.tree.contradiction(node)

    def leaves(self, node: int, condensed: CondensedNetwork, leaves: Sequence[Nodes], left: Sequence[int]) -> None:
        """Record the leaves of a subproblem, but for disjuncts that are left to others.

        They are the leaves of one binary tree for each disjunct. The tree is found from them: a ReLU that is fixed in all
        of them with both signs divides them into the leaves of two trees.
        """
        if not leaves:
            return
        row, phases = np.concatenate([x.row for x in leaves]), np.concatenate([x.phases for x in leaves])
        weights = np.concatenate([x.weights for x in leaves])
        neurons = self.neurons(condensed)
        for disjunct in np.unique(self.conditions.disjunct_of[row]):
            if disjunct in left:
                continue
            stack = [(node, np.flatnonzero(self.conditions.disjunct_of[row] == disjunct))]
            while stack:
                here, members = stack.pop()
                if len(members) == 1:
                    (k,) = members
                    given = Weights(neurons, weights[k].astype(np.float64))
                    self.tree.refute(here, int(disjunct), [Term([row[k]], [1.0], given)])
                    continue
                some = phases[members]
                both = np.flatnonzero((some != 0).all(axis=0) & (some.min(axis=0) < some.max(axis=0)))
                parts = self.tree.divide_neuron(here, int(neurons[both[0]]), int(disjunct))
                for part, sign in zip(parts, (1, -1), strict=True):
                    stack.append((part, members[phases[members, both[0]] == sign]))
