"""A model rendered for Z3: linear real arithmetic over exact rationals."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from verifier.encodings.model import Atom, Disjunction, ExactAtom, Model


def rational(value: float | Fraction, context: Any = None) -> Any:
    """A float or fraction as an exact Z3 rational (a float is taken as the binary number that it is)."""
    import z3

    exact = Fraction(value)
    return z3.RealVal(f"{exact.numerator}/{exact.denominator}", context)


def fraction_of(value: Any) -> Fraction:
    """A Z3 rational as a fraction."""
    return Fraction(value.numerator_as_long(), value.denominator_as_long())


class Z3Terms:
    """Z3 terms and assertions of a model.

    Args:
        model: the model; fixed variables become constants, defined ones their definitions.
        strict: whether open ends are respected (exactly the query's witnesses) or closed (a superset).
    """

    def __init__(self, model: Model, context: Any, *, strict: bool) -> None:
        import z3

        self._z3, self._context, self._strict = z3, context, strict
        self._model = model
        self._matrix, self._row_lower, self._row_upper, self._row_strict = model.system()
        self.variables: list[Any] = []
        self.assertions: list[Any] = []
        self.choices: dict[int, list[Any]] = {}
        """For each disjunction (by identity) one Boolean term per disjunct."""
        self._declare()
        # a definition is inlined, unless its variable is fixed: then its row is a constraint
        fixed = model.lower == model.upper
        defining = {row for column, row in model.definitions.items() if not fixed[column]}
        for k in range(self._matrix.shape[0]):
            if k not in defining:
                self.assertions += self._row(k)
        for atom in model.exact_ends:
            self.assertions += self.atom(atom)
        for disjunction in model.disjunctions:
            self._choose(disjunction)

    def _declare(self) -> None:
        z3, lower, upper = self._z3, self._model.lower, self._model.upper
        for column, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
            if low == high:
                self.variables.append(rational(low, self._context))
                continue
            row = self._model.definitions.get(column)
            term = z3.Real(f"v{column}", self._context) if row is None else self._definition(column, row)
            self.variables.append(term)
            if low > -np.inf:
                self.assertions.append(term >= rational(low, self._context))
            if high < np.inf:
                self.assertions.append(term <= rational(high, self._context))

    def _definition(self, column: int, row: int) -> Any:
        start, end = self._matrix.indptr[row], self._matrix.indptr[row + 1]
        parts = [rational(float(self._row_lower[row]), self._context)]
        for c, a in zip(self._matrix.indices[start:end].tolist(), self._matrix.data[start:end].tolist(), strict=True):
            if c != column:
                parts.append(rational(-a, self._context) * self.variables[c])
        return self._z3.Sum(parts)

    def _sum(self, columns: tuple[int, ...], coefficients: Sequence[float | Fraction]) -> Any:
        parts = [
            self.variables[c] if a == 1.0 else rational(a, self._context) * self.variables[c]
            for c, a in zip(columns, coefficients, strict=True)
        ]
        return self._z3.Sum(parts) if parts else rational(0, self._context)

    def _row(self, k: int) -> list[Any]:
        if k in self._model.exact:
            return self.atom(self._model.exact[k])
        start, end = self._matrix.indptr[k], self._matrix.indptr[k + 1]
        columns, data = self._matrix.indices[start:end].tolist(), self._matrix.data[start:end].tolist()
        ends = float(self._row_lower[k]), float(self._row_upper[k])
        return self.atom(Atom(tuple(columns), tuple(data), *ends, bool(self._row_strict[k])))

    def atom(self, given: Atom | ExactAtom) -> list[Any]:
        """The atom as Z3 constraints; the exact one, where it encloses one."""
        atom = given if isinstance(given, ExactAtom) else given.exact or given
        total = self._sum(atom.columns, atom.coefficients)
        if atom.lower == atom.upper:
            return [total == rational(atom.lower, self._context)]
        strict = atom.strict and self._strict
        found = []
        if atom.lower > -np.inf:
            low = rational(atom.lower, self._context)
            found.append(total > low if strict else total >= low)
        if atom.upper < np.inf:
            high = rational(atom.upper, self._context)
            found.append(total < high if strict else total <= high)
        return found

    def _choose(self, disjunction: Disjunction) -> None:
        z3, number = self._z3, len(self.choices)
        if len(disjunction.disjuncts) == 2:
            p = z3.Bool(f"p{number}", self._context)
            terms = [z3.Not(p), p]
        else:
            terms = [z3.Bool(f"p{number}_{c}", self._context) for c in range(len(disjunction.disjuncts))]
            self.assertions.append(z3.Or(terms))
        self.choices[id(disjunction)] = terms
        for term, disjunct in zip(terms, disjunction.disjuncts, strict=True):
            for atom in disjunct:
                self.assertions += [z3.Implies(term, constraint) for constraint in self.atom(atom)]

    def chosen(self, disjunction: Disjunction, solution: Any) -> int:
        """The disjunct of a disjunction that a Z3 model makes true."""
        terms = self.choices[id(disjunction)]
        return next(c for c, t in enumerate(terms) if self._z3.is_true(solution.eval(t, model_completion=True)))
