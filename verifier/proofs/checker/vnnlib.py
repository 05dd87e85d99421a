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
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise CheckError("the property is no VNN-LIB text")
        at, token = match.end(), match[1]
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            if not stack:
                raise CheckError("a parenthesis too many in the property")
            stack[-1].append(done)
        elif token:
            stack[-1].append(token)
    if len(stack) != 1:
        raise CheckError("a parenthesis is missing in the property")
    return stack[0]


class _Reader:
    def __init__(self, text: str) -> None:
        self.declared: set[str] = set()
        self.clauses: list[Clause] = [[]]
        for tree in _trees(text):
            if not isinstance(tree, list) or not tree:
                raise CheckError("the property has something outside of a command")
            if tree[0] == "declare-const" and len(tree) == 3 and tree[2] == "Real":
                self.declared.add(tree[1])
            elif tree[0] == "assert" and len(tree) == 2:
                self.clauses = _all([self.clauses, self.formula(tree[1])])
            elif tree[0] not in ("set-logic", "set-info", "check-sat", "exit"):
                raise CheckError(f"the property's command {tree[0]!r} is not read")

    def term(self, tree: Any) -> Term:
        """A linear term."""
        if isinstance(tree, str):
            if _NUMBER.match(tree):
                return {"": Fraction(tree)}
            if tree not in self.declared:
                raise CheckError(f"{tree!r} is not declared in the property")
            return {tree: Fraction(1)}
        head, parts = tree[0], [self.term(t) for t in tree[1:]]
        if head == "+" or (head == "-" and len(parts) > 1):
            total: Term = {}
            for k, part in enumerate(parts):
                total = _sum(total, part, -1 if head == "-" and k else 1)
            return total
        if head == "-" and len(parts) == 1:
            return _sum({}, parts[0], -1)
        if head == "*" and len(parts) == 2 and any(set(p) <= {""} for p in parts):
            a, b = parts if set(parts[0]) <= {""} else parts[::-1]
            return _sum({}, b, a.get("", Fraction(0)))
        raise CheckError(f"{head!r} is not read in a term of the property")

    def formula(self, tree: Any) -> list[Clause]:
        """A condition as a disjunction of clauses."""
        if not isinstance(tree, list) or not tree:
            raise CheckError(f"{tree!r} is no condition")
        head, rest = tree[0], tree[1:]
        if head == "and":
            return _all([self.formula(t) for t in rest])
        if head == "or":
            return [clause for t in rest for clause in self.formula(t)]
        if head in ("<=", ">=", "<", ">", "=") and len(rest) == 2:
            a, b = (self.term(t) for t in rest)
            less, more = _sum(a, b, -1), _sum(b, a, -1)
            both = {"=": [less, more], "<": [less], ">": [more]}[head[0]]
            return [[(term, head in "<>") for term in both]]
        raise CheckError(f"{head!r} is not read in the property")


def _sum(a: Term, b: Term, factor: Fraction | int) -> Term:
    total = dict(a)
    for name, value in b.items():
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
    reader = _Reader(text)
    names = {f"X_{k}" for k in range(inputs)} | {f"Y_{k}" for k in range(outputs)}
    if reader.declared != names:
        raise CheckError(f"the property does not declare {inputs} inputs X_0… and {outputs} outputs Y_0…")
    disjuncts = []
    for clause in reader.clauses:
        low: list[Fraction | None] = [None] * inputs
        high: list[Fraction | None] = [None] * inputs
        rows = []
        for term, strict in clause:
            constant, variables = term.get("", Fraction(0)), [name for name in term if name]
            if len(variables) == 1 and variables[0][0] == "X":
                (name,) = variables
                j, end, upper = int(name[2:]), -constant / term[name], term[name] > 0
                ends, old = (high if upper else low), (high if upper else low)[int(name[2:])]
                ends[j] = end if old is None else min(old, end) if upper else max(old, end)
                continue
            parts: dict[str, dict[int, Fraction]] = {}
            for name in variables:
                parts.setdefault(name[0].lower(), {})[int(name[2:])] = term[name]
            rows.append(Row(parts, -constant, strict))
        if None in low or None in high:
            raise CheckError("an input has no bounds")
        disjuncts.append(Disjunct([v for v in low if v is not None], [v for v in high if v is not None], rows))
    return Claim(disjuncts, "no input meets the property's condition")
