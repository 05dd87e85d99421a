"""What ReLU splitting writes into a proof: bounds of its subproblems, and the trees of leaves within them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from verifier.bounds.condensed import CondensedNetwork
from verifier.bounds.condensed_refine import RowsKept
from verifier.engines.native.node_store import Nodes
from verifier.network.graph import Network
from verifier.proofs.builder import ProofBuilder, Term
from verifier.properties.rows import Conditions


class ReluRecord:
    """The record of one search.

    Args:
        network: of affine operators and ReLUs: each block of a condensed network is one of its ReLU nodes.
    """

    def __init__(self, network: Network, conditions: Conditions, builder: ProofBuilder) -> None:
        self.conditions, self.builder = conditions, builder
        self._first = np.cumsum([0, *(node.size for node in network.activations)])

    def neurons(self, condensed: CondensedNetwork) -> npt.NDArray[np.int64]:
        """The numbers of a condensed network's unstable neurons among all ReLUs."""
        parts = [self._first[k] + b.neurons[: b.count] for k, b in enumerate(condensed.blocks[1:])]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def default_bounds(self, condensed: CondensedNetwork) -> int:
        """Record the bounds of the first condensed network, found with default slopes on the whole box."""
        return self.builder.bounds(0, self.neurons(condensed))

    def weighted_bounds(self, node: int, base: int, condensed: CondensedNetwork, kept: RowsKept) -> int:
        """Record the bounds of a subproblem: those of ``base`` and of the rows that were kept when they were found."""
        neuron, sign, weights = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int8)], []
        for number, places, found in kept:
            neuron.append(np.tile(self._first[number - 1] + places, 2))
            sign.append(np.repeat(np.array([1, -1], dtype=np.int8), len(places)))
            weights += list(np.ascontiguousarray(found.T))
        record = self.builder.bounds(
            node, self.neurons(condensed), base, (np.concatenate(neuron), np.concatenate(sign), weights)
        )
        if condensed.empty:
            self.builder.contradiction(node, record)
        return record

    def leaves(
        self, node: int, record: int, condensed: CondensedNetwork, leaves: Sequence[Nodes], left: Sequence[int]
    ) -> None:
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
                    self.builder.refute(here, int(disjunct), record, [Term([row[k]], [1.0], weights[k])])
                    continue
                some = phases[members]
                both = np.flatnonzero((some != 0).all(axis=0) & (some.min(axis=0) < some.max(axis=0)))
                parts = self.builder.divide_neuron(here, int(neurons[both[0]]), int(disjunct))
                for part, sign in zip(parts, (1, -1), strict=True):
                    stack.append((part, members[phases[members, both[0]] == sign]))
