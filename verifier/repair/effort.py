"""How much an exact computation may do: work is counted, and only the deadline looks at the clock."""

from __future__ import annotations

from math import prod

from verifier.errors import TimeLimitError
from verifier.limits import NEVER, Deadline
from verifier.network.graph import Network


class Effort:
    """Multiplications of long integers that are left (some 5 million a second), and a deadline."""

    def __init__(self, limit: float = float("inf"), deadline: Deadline = NEVER) -> None:
        self.left, self.deadline = limit, deadline

    def spend(self, multiplications: float) -> None:
        """Take some.

        Raises:
            TimeLimitError: no more is left, or the deadline has passed.
        """
        self.left -= multiplications
        if self.left < 0:
            raise TimeLimitError("too large for the exact check")
        self.deadline.check("in the exact check")


def multiplications(network: Network) -> int:
    """About how many one evaluation of a network takes."""
    total = 0
    for node in network.nodes[1:]:
        coefficients = getattr(node.operator, "weight", None)
        if coefficients is not None:
            total += coefficients.size * (prod(node.shape[1:]) if coefficients.ndim == 4 else 1)
        total += node.size
    return total
