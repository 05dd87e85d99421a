"""Property files as they are found: random VNN-LIB texts against an evaluator of their own."""

from __future__ import annotations

import operator
import random
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from edge_kinds.kind import Kind, Outcome, Trial

from verifier.errors import VerifierError
from verifier.network.graph import Network, feedforward
from verifier.properties import vnnlib1
from verifier.properties.query import Query

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    **{"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq},
}
POINTS = 12
"""Points at which a text and its query are compared."""


def network() -> Network:
    """A network of two inputs and two outputs; the points that are asked about need not be its."""
    return feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)])


class Text:
    """A random text, and what it means."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)
        self.names: list[tuple[str, Any]] = []

    def number(self) -> tuple[str, Fraction]:
        """A constant, as a decimal or a quotient."""
        n, d = self.pick.randint(-3, 3), self.pick.choice([1, 2, 4, 5])
        shown = self.pick.choice([f"(/ {n} {d})", str(float(Fraction(n, d))), f"{float(Fraction(n, d)):.1e}"])
        exact = Fraction(n, d) if shown.startswith("(") else Fraction(shown)
        return shown, exact

    def term(self, depth: int) -> Any:
        """A linear term: its text, and its value at a point."""
        kind = self.pick.randrange(6) if depth else self.pick.randrange(2)
        if kind == 0:
            shown, value = self.number()
            return shown, lambda point: value
        if kind == 1:
            k = self.pick.randrange(4)
            return ("X_0", "X_1", "Y_0", "y_1")[k], lambda point: point[k]
        if kind == 2:
            (a, f), (b, g) = self.term(depth - 1), self.term(depth - 1)
            sign = self.pick.choice("+-")
            return f"({sign} {a} {b})", lambda p: f(p) + g(p) if sign == "+" else f(p) - g(p)
        if kind == 3:
            (a, f), (shown, value) = self.term(depth - 1), self.number()
            return self.pick.choice([f"(* {shown} {a})", f"(* {a} {shown})"]), lambda p: f(p) * value
        if kind == 4:
            a, f = self.term(depth - 1)
            d = self.pick.choice([2, 3, -7])
            return f"(/ {a} {d})", lambda p: f(p) / d
        a, f = self.term(depth - 1)
        return f"(- {a})", lambda p: -f(p)

    def formula(self, depth: int) -> Any:
        """A condition: its text, and its truth at a point."""
        kind = self.pick.randrange(9) if depth else 0
        if kind < 2:
            head = self.pick.choice(list(COMPARISONS))
            parts = [self.term(1) for _ in range(self.pick.choice([2, 2, 2, 3]))]
            compare = COMPARISONS[head]
            text = f"({head} {' '.join(t for t, _ in parts)})"
            return text, lambda p: all(compare(f(p), g(p)) for (_, f), (_, g) in pairwise(parts))
        if kind == 2:
            parts = [self.term(1) for _ in range(2)]
            text = f"(distinct {' '.join(t for t, _ in parts)})"
            return text, lambda p: all(f(p) != g(p) for (_, f), (_, g) in combinations(parts, 2))
        if kind == 3:
            a, f = self.formula(depth - 1)
            return f"(not {a})", lambda p: not f(p)
        if kind == 4:
            word = self.pick.choice(["true", "false"])
            return word, lambda p: word == "true"
        if kind == 5:
            (a, f), (b, g) = self.term(1), self.formula(depth - 1)
            (c, h) = self.term(0)
            return f"(let ((t {a}) (u {c})) (and (<= t u) {b}))", lambda p: f(p) <= h(p) and g(p)
        parts = [self.formula(depth - 1) for _ in range(2)]
        (a, f), (b, g) = parts
        head = self.pick.choice(["and", "or", "=>", "xor"])
        truth: dict[str, Callable[[Any], bool]] = {
            "and": lambda p: f(p) and g(p),
            "or": lambda p: f(p) or g(p),
            "=>": lambda p: not f(p) or g(p),
            "xor": lambda p: f(p) != g(p),
        }
        return f"({head} {a} {b})", truth[head]


def _holds(query: Query, point: list[Fraction]) -> bool:
    x, y = point[:2], point[2:]
    low, high = (ends.fractions() for ends in query.box.ends)
    inside = all(a <= v <= b for a, v, b in zip(low, x, high, strict=True))
    common = query.common is None or query.common.holds_exactly(x, y, None)
    clauses = (query.disjuncts, *query.clauses)
    return (
        inside
        and common
        and all(any(disjunct.holds_exactly(x, y, None) for disjunct in disjuncts) for disjuncts in clauses)
    )


def _texts(seed: int) -> Iterator[Trial]:
    made = Text(seed)
    text, truth = made.formula(3)
    declared = "".join(f"(declare-const {v} Real)\n" for v in ("X_0", "X_1", "Y_0", "Y_1"))
    box = "(assert (and (<= -2 X_0 2) (<= -2 X_1 2)))\n"
    points = [[Fraction(made.pick.randint(-8, 8), 4) for _ in range(4)] for _ in range(POINTS)]
    start = time.perf_counter()
    try:
        query = vnnlib1.parse(f"{declared}{box}(assert {text})", network())
    except VerifierError as error:
        seconds = time.perf_counter() - start
        yield Trial(engine="read", outcome=Outcome.WRONG, seconds=seconds, detail=f"{text}: {error}")
        return
    seconds = time.perf_counter() - start
    wrong = next((p for p in points if _holds(query, p) != bool(truth(p))), None)
    detail = "" if wrong is None else f"{text} at {[str(v) for v in wrong]}"
    yield Trial(
        engine="read", outcome=Outcome.RIGHT if wrong is None else Outcome.WRONG, seconds=seconds, detail=detail
    )


KINDS = [
    Kind(
        name="property files",
        what="a random VNN-LIB 1.0 text with not, =>, xor, let, chains, quotients, read, against its meaning at points",
        run=_texts,
        cost=0.005,
    ),
]
