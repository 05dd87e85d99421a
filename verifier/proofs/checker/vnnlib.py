"""VNN-LIB 1.0 text as a `Claim`: its assertions in disjunctive normal form, in the order of the text."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import product
from typing import Any

from .claim import Claim, Disjunct, Row
from .graph import CheckError

_TOKEN = re.compile(r";[^\n]*|\s+|([()]|[^\s();]+)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?\Z", re.ASCII)
MOST = 1 << 16

Term = dict[str, Fraction]
"""Coefficients by variable; the constant under ""."""
Clause = list[tuple[Term, bool]]
"""Terms that are <= 0 (< 0 where True), all of them."""


def _trees(text: str) -> list[Any]:
    stack: list[list[Any]] = [[]]
    for match in _TOKEN.finditer(text):
        if match[1] == "(":
            stack.append([])
        elif match[1] == ")" and len(stack) > 1:
            done = stack.pop()
            stack[-1].append(done)
        elif match[1]:
            stack[-1].append(match[1])
    if len(stack) != 1 or ")" in stack[0]:
        raise CheckError("a parenthesis is missing in the property, or there is one too many")
    return stack[0]


class _Reader:
    def __init__(self, text: str) -> None:
        self.declared: set[str] = set()
        self.clauses: list[Clause] = [[]]
        for tree in _trees(text):
            match tree:
                case ["declare-const", str(name), "Real"]:
                    self.declared.add(name)
                case ["assert", condition]:
                    self.clauses = _all([self.clauses, self.formula(condition)])
                case ["set-logic" | "set-info" | "check-sat" | "exit", *_]:
                    pass
                case _:
                    raise CheckError(f"the property's command {str(tree)[:40]} is not read")

    def term(self, tree: Any) -> Term:
        """A linear term."""
        if isinstance(tree, str):
            if _NUMBER.match(tree):
                return {"": Fraction(tree)}
            if tree not in self.declared:
                raise CheckError(f"{tree!r} is not declared in the property")
            return {tree: Fraction(1)}
        match tree[:1], [self.term(t) for t in tree[1:]]:
            case ["*"], [a, b] if set(a) <= {""} or set(b) <= {""}:
                number, other = (a, b) if set(a) <= {""} else (b, a)
                return _sum([(other, number.get("", Fraction(0)))])
            case ["-"], [a]:
                return _sum([(a, -1)])
            case ["+" | "-" as sign], [a, *rest]:
                return _sum([(a, 1), *((b, 1 if sign == "+" else -1) for b in rest)])
        raise CheckError(f"{str(tree)[:40]} is not read in a term of the property")

    def formula(self, tree: Any) -> list[Clause]:
        """A condition as a disjunction of clauses."""
        match tree:
            case ["and", *rest]:
                return _all([self.formula(t) for t in rest])
            case ["or", *rest]:
                return [clause for t in rest for clause in self.formula(t)]
            case ["<=" | ">=" | "<" | ">" | "=" as sign, left, right]:
                a, b = self.term(left), self.term(right)
                less, more = _sum([(a, 1), (b, -1)]), _sum([(b, 1), (a, -1)])
                return [[(term, sign in "<>") for term in {"=": [less, more], "<": [less], ">": [more]}[sign[0]]]]
        raise CheckError(f"{str(tree)[:40]} is no condition that is read")


def _sum(parts: list[tuple[Term, Fraction | int]]) -> Term:
    total: Term = {}
    for term, factor in parts:
        for name, value in term.items():
            total[name] = total.get(name, Fraction(0)) + factor * value
    return {name: value for name, value in total.items() if value}


def _all(parts: list[list[Clause]]) -> list[Clause]:
    found: list[Clause] = [[]]
    for part in parts:
        if len(found) * len(part) > MOST:
            raise CheckError("the property has too many disjuncts")
        found = [a + b for a, b in product(found, part)]
    return found


def read_property(text: str, inputs: int, outputs: int) -> Claim:
    """The claim of a VNN-LIB text: that none of its counterexamples exists.

    Raises:
        CheckError: it is outside of what is read, or speaks of another number of inputs or outputs.
    """
    reader, disjuncts = _Reader(text), []
    if reader.declared != {f"X_{k}" for k in range(inputs)} | {f"Y_{k}" for k in range(outputs)}:
        raise CheckError(f"the property does not declare {inputs} inputs X_0… and {outputs} outputs Y_0…")
    for clause in reader.clauses:
        low, high, rows = dict[int, Fraction](), dict[int, Fraction](), []
        for term, strict in clause:
            constant, names = term.get("", Fraction(0)), [name for name in term if name]
            if len(names) == 1 and names[0][0] == "X":
                j, end = int(names[0][2:]), -constant / term[names[0]]
                if term[names[0]] > 0:
                    high[j] = min(end, high.get(j, end))
                else:
                    low[j] = max(end, low.get(j, end))
                continue
            parts: dict[str, dict[int, Fraction]] = {}
            for name in names:
                parts.setdefault(name[0].lower(), {})[int(name[2:])] = term[name]
            rows.append(Row(parts, -constant, strict))
        if len(low) < inputs or len(high) < inputs:
            raise CheckError("an input has no bounds")
        disjuncts.append(Disjunct([low[j] for j in range(inputs)], [high[j] for j in range(inputs)], rows))
    return Claim(disjuncts, "no input meets the property's condition")
