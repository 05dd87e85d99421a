"""Reductions: a network written as an equal one that is easier to analyse, with the way back.

A `Reduction` says which networks it changes (`accepts`) and writes them anew (`apply`); chains of reductions are data, which
`reduce` runs. What comes out knows the network it stands for: a witness goes back through `Reduced.invert`, and what was found
about a node goes to the original's node that it is or belongs to (`Reduced.origin`). Replays run on the original always.

Source: the structure is that of cvxpy's reductions (Agrawal et al., *A rewriting system for convex optimization problems*,
Journal of Control and Decision, 2018).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from verifier.network.graph import Network, NetworkBuilder, Node
from verifier.network.operators import Array


@dataclass(frozen=True, eq=False)
class Reduced:
    """A network that computes the same function as another, up to a power of two.

    Attributes:
        network: the reduced network.
        original: the network it stands for.
        exact: True if the two are equal as functions over the reals, and in their gradients by the convention (unless the
            reduction says otherwise of these).
        exponent: the original's output, and its gradients, are ``2^exponent`` times the reduced one's.
        origin: for every node of the reduced network the original's node that it is, or is a step of.
    """

    network: Network
    original: Network
    exact: bool = True
    exponent: int = 0
    origin: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def unchanged(network: Network) -> Reduced:
        """A network that stands for itself."""
        return Reduced(network, network, origin={node.name: node.name for node in network.nodes})

    def invert(self, x: Array) -> Array:
        """The original network's input for one of the reduced network, which all reductions here keep as it is.

        Shapes: x ``(batch, n)`` or ``(n,)``.
        """
        return x

    def then(self, later: Reduced) -> Reduced:
        """This reduction followed by one of its result."""
        origin = {name: self.origin[through] for name, through in later.origin.items()}
        exponent = self.exponent + later.exponent
        return Reduced(later.network, self.original, self.exact and later.exact, exponent, origin)


class Reduction(ABC):
    """A way of writing networks anew. Stateless; its parameters are its fields.

    Source:
        reductions with a way back, as in cvxpy: Agrawal et al., Journal of Control and Decision 2018.
    """

    @abstractmethod
    def accepts(self, network: Network) -> bool:
        """Whether there is something in the network that it may write anew."""

    @abstractmethod
    def apply(self, network: Network) -> Reduced:
        """The network written anew; the network itself where that comes to nothing.

        Raises:
            InexactScaling: (scalings) a network that cannot be scaled without rounding.
        """


def reduce(network: Network, reductions: Sequence[Reduction]) -> Reduced:
    """One reduction after the other, each where it accepts what the ones before it left."""
    result = Reduced.unchanged(network)
    for reduction in reductions:
        if reduction.accepts(result.network):
            result = result.then(reduction.apply(result.network))
    return result


Rewriter = Callable[[NetworkBuilder, Node, str], "str | None"]
"""Adds what stands for a node behind a node of this name, and returns the name of the last one; None to keep the node."""


def rewritten(network: Network, rewriter: Rewriter, exact: bool = True) -> Reduced:
    """The network with every node replaced for which ``rewriter`` adds others."""
    builder = NetworkBuilder(network.input_shape, input_name=network.input, source=network.source)
    names, origin = {network.input: network.input}, {network.input: network.input}
    for node in network.nodes[1:]:
        inputs = [names[i] for i in node.inputs]
        made = rewriter(builder, node, inputs[0])
        names[node.name] = made if made is not None else builder.add(node.operator, *inputs, name=node.name)
        origin |= {name: node.name for name in builder.names if name not in origin}
    return built(network, builder, names[network.output], exact, origin)


def built(network: Network, builder: NetworkBuilder, output: str, exact: bool, origin: Mapping[str, str]) -> Reduced:
    """What a builder holds, with all that the original network says of itself."""
    made = builder.build(output)
    reduced = replace(network, nodes=made.nodes, output=made.output, model_file="")
    return Reduced(reduced, network, exact, origin={node.name: origin[node.name] for node in made.nodes})
