"""A model as SMT-LIB 2 text (logic QF_LRA): for any SMT solver, and as the file that reproduces a failure."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from verifier.encodings.model import Atom, Disjunction, ExactAtom, Model


def number(value: float | Fraction) -> str:
    """A float or fraction as an exact SMT-LIB term (a float is taken as the binary number that it is)."""
    exact = Fraction(value)
    size = f"{abs(exact.numerator)}.0"
    if exact.denominator != 1:
        size = f"(/ {size} {exact.denominator}.0)"
    return f"(- {size})" if exact < 0 else size


def script(model: Model, *, strict: bool, comment: str = "") -> str:
    """The model as a script that asks for satisfiability.

    Variables are named ``v0, v1 …``; Boolean ``pK`` says that disjunction K chose its second case, or ``pK_C``
    that it chose disjunct C where there are more than two.

    Args:
        strict: whether open ends are respected (exactly the query's witnesses) or closed (a superset).
        comment: put at the top.

    Source:
        SMT-LIB 2.6, logic QF_LRA: Barrett, Fontaine, Tinelli, 2017.
    """
    lines = [f"; {row}" for row in comment.splitlines()]
    lines += ["(set-option :produce-models true)", "(set-logic QF_LRA)"]
    lower, upper = model.lower.tolist(), model.upper.tolist()
    for column, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if low == high:
            lines.append(f"(define-fun v{column} () Real {number(low)})")
            continue
        lines.append(f"(declare-const v{column} Real)")
        if low > -np.inf:
            lines.append(f"(assert (>= v{column} {number(low)}))")
        if high < np.inf:
            lines.append(f"(assert (<= v{column} {number(high)}))")
    matrix, row_lower, row_upper, row_strict = model.system()
    for k in range(matrix.shape[0]):
        start, end = matrix.indptr[k], matrix.indptr[k + 1]
        row = model.exact.get(k) or Atom(
            tuple(matrix.indices[start:end].tolist()),
            tuple(matrix.data[start:end].tolist()),
            float(row_lower[k]),
            float(row_upper[k]),
            bool(row_strict[k]),
        )
        lines += [f"(assert {text})" for text in _atom(row, strict)]
    lines += [f"(assert {text})" for row in model.exact_ends for text in _atom(row, strict)]
    for k, disjunction in enumerate(model.disjunctions):
        lines += _choice(disjunction, k, strict)
    lines.append("(check-sat)")
    return "\n".join(lines) + "\n"


def _choice(disjunction: Disjunction, k: int, strict: bool) -> list[str]:
    count = len(disjunction.disjuncts)
    lines = [f"; {disjunction.label}"] if disjunction.label else []
    if count == 2:
        lines.append(f"(declare-const p{k} Bool)")
        terms = [f"(not p{k})", f"p{k}"]
    else:
        terms = [f"p{k}_{c}" for c in range(count)]
        lines += [f"(declare-const {t} Bool)" for t in terms]
        lines.append(f"(assert (or {' '.join(terms)}))")
    for term, disjunct in zip(terms, disjunction.disjuncts, strict=True):
        parts = [text for atom in disjunct for text in _atom(atom, strict)]
        if parts:
            body = parts[0] if len(parts) == 1 else f"(and {' '.join(parts)})"
            lines.append(f"(assert (=> {term} {body}))")
    return lines


def _atom(given: Atom | ExactAtom, strict: bool) -> list[str]:
    atom = given if isinstance(given, ExactAtom) else given.exact or given
    coefficients: Sequence[float | Fraction] = atom.coefficients
    parts = [f"v{c}" if a == 1.0 else f"(* {number(a)} v{c})" for c, a in zip(atom.columns, coefficients, strict=True)]
    total = "0.0" if not parts else parts[0] if len(parts) == 1 else f"(+ {' '.join(parts)})"
    if atom.lower == atom.upper:
        return [f"(= {total} {number(atom.lower)})"]
    below, above = ("<", ">") if atom.strict and strict else ("<=", ">=")
    found = []
    if atom.lower > -np.inf:
        found.append(f"({above} {total} {number(atom.lower)})")
    if atom.upper < np.inf:
        found.append(f"({below} {total} {number(atom.upper)})")
    return found
