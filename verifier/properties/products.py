"""Products of variables in a condition: each becomes a further output of the network, in which the condition is linear."""

from __future__ import annotations

from fractions import Fraction

from verifier.errors import PropertyError
from verifier.network.graph import Network
from verifier.network.joint import Monomial, with_products
from verifier.properties.formula import Term

HIGHEST_DEGREE = 8


class Products:
    """The products that a condition uses; output ``m + k`` of the longer network stands for the k-th."""

    def __init__(self, network: Network, place: str = "") -> None:
        self._network, self._place = network, place
        self._numbers: dict[Monomial, int] = {}
        self._factors: list[Monomial] = []

    def network(self) -> Network:
        """The network with all products as outputs."""
        return with_products(self._network, self._factors)

    def times(self, first: Term, second: Term) -> Term:
        """The product of two terms.

        Raises:
            PropertyError: a degree above `HIGHEST_DEGREE`; an output of a network whose last operator was left out.
        """
        if first.is_constant or second.is_constant:
            factor, term = (first, second) if first.is_constant else (second, first)
            return term.times(factor.constant)
        total = first.times(second.constant).plus(second.times(first.constant))
        total = total.plus(Term(constant=first.constant * second.constant), Fraction(-1))
        for a, p in self._parts(first):
            for b, q in self._parts(second):
                total = total.plus(self._output(tuple(sorted(p + q))), a * b)
        return total

    def _parts(self, term: Term) -> list[tuple[Fraction, Monomial]]:
        """Coefficients and products of variables of a term without its constant."""
        n, m = self._network.input_size, self._network.output_size
        found: list[tuple[Fraction, Monomial]] = [(a, (j,)) for j, a in term.x.items()]
        found += [(a, (n + j,) if j < m else self._factors[j - m]) for j, a in term.y.items()]
        return found

    def _output(self, product: Monomial) -> Term:
        if len(product) > HIGHEST_DEGREE:
            raise PropertyError(f"a product of {len(product)} variables", place=self._place, fix="at most 8 are read")
        if self._network.tail is not None and product[-1] >= self._network.input_size:
            raise PropertyError(
                f"the model ends in {self._network.tail.kind}, and the condition multiplies its outputs",
                place=self._place,
                fix="state it about the scores before the function",
            )
        if product not in self._numbers:
            self._numbers[product] = len(self._factors)
            self._factors.append(product)
        return Term(y={self._network.output_size + self._numbers[product]: Fraction(1)})
