"""Questions that are tight, decided by a tie or by a margin of a few bits, on networks of at most 12 ReLUs.

The truth comes from geometry: the input box is a polygon with rational corners, each neuron cuts every polygon along its
kink, and on a piece all rows are affine. A conjunction has a solution on a convex polygon if and only if, after clipping
by the closed rows, every strict row holds strictly at some corner (then the mean of the corners meets them all).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
from edge_kinds.kind import Kind, Outcome, Trial

from verifier import verify
from verifier.engines.base import Answer
from verifier.engines.registry import get
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense
from verifier.network.piecewise import leaky_relu, relu
from verifier.options import Options
from verifier.properties.conjunction import Conjunction
from verifier.properties.formula import And, Atom, Formula, Or
from verifier.properties.meaning import to_query
from verifier.properties.query import GradientBox, Query
from verifier.properties.sets import Box
from verifier.verdict import Status

Point = tuple[Fraction, Fraction]
Affine = tuple[Fraction, Fraction, Fraction]
"""``a x + b y + c``."""
INPUTS: list[Affine] = [(Fraction(1), Fraction(0), Fraction(0)), (Fraction(0), Fraction(1), Fraction(0))]
SECONDS = 4.0
"""Time limit per answer."""
SOLVERS = ("z3", "cvc5", "yices", "highs")
"""Asked in turn, for they take longer."""


@dataclass(frozen=True)
class Small:
    """A chain of layers in rationals: weights, biases, and the slope below zero after each but the last."""

    weights: list[list[list[Fraction]]]
    biases: list[list[Fraction]]
    slopes: list[Fraction]

    def network(self) -> Network:
        builder = NetworkBuilder((2,))
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            builder.add(Dense(np.array(w, dtype=np.float64), np.array(b, dtype=np.float64)))
            if k < len(self.slopes):
                builder.add(leaky_relu(float(self.slopes[k])) if self.slopes[k] else relu())
        return builder.build()


@dataclass(frozen=True)
class Piece:
    """A closed linear piece: its corners, what is strict in it by the gradient convention, the outputs on it."""

    corners: list[Point]
    strict: list[Affine]
    outputs: list[Affine]


def at(f: Affine, p: Point) -> Fraction:
    return f[0] * p[0] + f[1] * p[1] + f[2]


def mix(factors: Iterable[Fraction], parts: Iterable[Affine], constant: Fraction = Fraction(0)) -> Affine:
    a = b = Fraction(0)
    for w, f in zip(factors, parts, strict=True):
        a, b, constant = a + w * f[0], b + w * f[1], constant + w * f[2]
    return a, b, constant


def clip(corners: list[Point], f: Affine) -> list[Point]:
    """The part of a convex polygon (or segment, or point) where ``f <= 0``."""
    found: list[Point] = []
    for k, p in enumerate(corners):
        q = corners[(k + 1) % len(corners)]
        u, v = at(f, p), at(f, q)
        if u <= 0:
            found.append(p)
        if (u < 0 < v) or (v < 0 < u):
            t = u / (u - v)
            found.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return list(dict.fromkeys(found))


def pieces(small: Small, corners: list[Point]) -> list[Piece]:
    """All linear pieces on a polygon; a neuron at its kink counts as inactive, and the active side is open."""
    open_: list[tuple[list[Point], list[Affine], list[Affine]]] = [(corners, [], INPUTS)]
    for k, (w, b) in enumerate(zip(small.weights, small.biases, strict=True)):
        after = []
        for polygon, strict, values in open_:
            z = [mix(line, values, c) for line, c in zip(w, b, strict=True)]
            if k == len(small.slopes):
                after.append((polygon, strict, z))
                continue
            split: list[tuple[list[Point], list[Affine], list[Affine]]] = [(polygon, strict, [])]
            for f in z:
                minus = (-f[0], -f[1], -f[2])
                below = (small.slopes[k] * f[0], small.slopes[k] * f[1], small.slopes[k] * f[2])
                halves = []
                for part, rows, done in split:
                    for side, value, more in ((f, below, []), (minus, f, [minus])):
                        left = clip(part, side)
                        if left and all(any(at(s, p) < 0 for p in left) for s in (*rows, *more)):
                            halves.append((left, [*rows, *more], [*done, value]))
                split = halves
            after += split
        open_ = after
    return [Piece(*part) for part in open_]


def solvable(piece: Piece, rows: Sequence[tuple[Affine, bool]]) -> bool:
    """Whether a point of the piece meets ``f <= 0`` (``<`` if strict) for all rows."""
    left = piece.corners
    for f, _ in rows:
        left = clip(left, f)
        if not left:
            return False
    return all(any(at(f, p) < 0 for p in left) for f in [*piece.strict, *(f for f, strict in rows if strict)])


def random_small(rng: random.Random, outputs: int) -> Small:
    hidden = rng.choice([[2], [3], [6], [2, 2], [4, 3], [6, 6], [3, 3, 3]])
    sizes = [2, *hidden, outputs]
    share = rng.choice([1, 2, 4])

    def number() -> Fraction:
        return Fraction(rng.randint(-2 * share, 2 * share), share)

    weights = [[[number() for _ in range(a)] for _ in range(b)] for a, b in pairwise(sizes)]
    biases = [[number() for _ in range(b)] for b in sizes[1:]]
    return Small(weights, biases, [rng.choice([Fraction(0)] * 3 + [Fraction(1, 4)]) for _ in hidden])


def random_box(rng: random.Random) -> tuple[list[Point], Box]:
    low = [rng.randint(-2, 1) for _ in range(2)]
    high = [low[0] + rng.randint(1, 3), low[1] + rng.choice([0, 1, 2])]
    (a, b), (c, d) = [Fraction(v) for v in low], [Fraction(v) for v in high]
    return list(dict.fromkeys([(a, b), (c, b), (c, d), (a, d)])), Box(np.array(low, float), np.array(high, float))


def trial(name: str, truth: bool, answer: Callable[[], tuple[Answer, str]]) -> Trial:
    """Time an answer and grade it."""
    began = time.monotonic()
    said, why = answer()
    seconds = time.monotonic() - began
    right = Answer.SAT if truth else Answer.UNSAT
    decided = said in (Answer.SAT, Answer.UNSAT)
    outcome = Outcome.RIGHT if said is right else Outcome.WRONG if decided else Outcome.UNDECIDED
    return Trial(engine=name, outcome=outcome, seconds=seconds, detail=f"{said.value} {why}")


def verified(query: Query, truth: bool, engine: str) -> Trial:
    """The answer of `verify`."""

    def answer() -> tuple[Answer, str]:
        verdict = verify(query, engine=engine, timeout=SECONDS)
        words = {Status.HOLDS: Answer.UNSAT, Status.VIOLATED: Answer.SAT, Status.TIMEOUT: Answer.TIMEOUT}
        return words.get(verdict.status, Answer.UNKNOWN), verdict.reason

    return trial(engine, truth, answer)


def ask(query: Query, truth: bool, seed: int) -> Iterator[Trial]:
    """Put a query with a known truth to the engines: ``auto``, those of our own, and one solver in turn."""

    def direct(name: str) -> tuple[Answer, str]:
        result = get(name).solve(query, Options(timeout=SECONDS), Deadline.after(SECONDS))
        if result.answer is Answer.SAT and (result.x is None or not replay(query, result.x).exact):
            return Answer.UNKNOWN, "proposes a point that the replay does not confirm"
        return result.answer, result.reason

    yield verified(query, truth, "auto")
    for name in ("native", "saliency", SOLVERS[seed % len(SOLVERS)]):
        if get(name).availability().installed and not get(name).rejects(query.network, query):
            yield trial(name, truth, partial(direct, name))


def conjunction(y: Sequence[Fraction], x: Sequence[Fraction], bound: float, strict: bool) -> Conjunction:
    """``y · Y + x · X <= bound``."""
    return Conjunction(
        y_rows=np.array([y], dtype=np.float64),
        x_rows=np.array([x], dtype=np.float64) if any(x) else None,
        bound=np.array([bound]),
        strict=np.array([strict]),
    )


def threshold(seed: int) -> Iterator[Trial]:
    """An output (perhaps with inputs) against its greatest value: ``>``, ``>=``, a float64 or 1/256 above or below."""
    rng = random.Random(seed)
    small = random_small(rng, 2)
    corners, box = random_box(rng)
    found = pieces(small, corners)
    c = [Fraction(rng.choice([-1, 0, 1])), Fraction(1)]
    d = [Fraction(rng.choice([-1, 0, 1])), Fraction(0)] if rng.random() < 0.4 else [Fraction(0)] * 2
    values = [(p, mix([*c, *d], [*p.outputs, *INPUTS])) for p in found]
    best = max(at(f, p) for piece, f in values for p in piece.corners)
    bound = float(best) + rng.choice([0.0, 0.0, 0.0, 1 / 256, -1 / 256])
    bound = rng.choice([bound, bound, math.nextafter(bound, math.inf), math.nextafter(bound, -math.inf)])
    strict = rng.random() < 0.6
    truth = best > Fraction(bound) or (best == Fraction(bound) and not strict)
    rows = conjunction([-v for v in c], [-v for v in d], -bound, strict)
    return ask(Query(network=small.network(), box=box, disjuncts=(rows,)), truth, seed)


def identity(seed: int) -> Iterator[Trial]:
    """Outputs that are functions of the inputs: ``relu(z) - relu(-z)`` after a layer, compared with z itself."""
    rng = random.Random(seed)
    a, b = [[Fraction(rng.randint(-3, 3), rng.choice([1, 2, 3])) for _ in range(2)] for _ in range(2)]
    a, b = ([Fraction(float(v)) for v in line] for line in (a, b))
    c = Fraction(rng.randint(-1, 1))
    zero, one = Fraction(0), Fraction(1)
    small = Small(
        [[a, [-v for v in a], b, [-v for v in b]], [[one, -one, zero, zero], [zero, zero, one, -one]]],
        [[c, -c, zero, zero], [zero, zero]],
        [zero],
    )
    if rng.random() < 0.5:  # one more layer that changes nothing
        twice = [[one, -one, zero, zero], [-one, one, zero, zero], [zero, zero, one, -one], [zero, zero, -one, one]]
        weights, biases = small.weights, small.biases
        small = Small([weights[0], twice, weights[1]], [biases[0], [zero] * 4, biases[1]], [zero, zero])
    corners, box = random_box(rng)
    strict = rng.random() < 0.7
    shift = rng.choice([zero, zero, zero, Fraction(1, 256)])
    # y0 - a·x - c <= -shift, and the other way round
    sides = [(one, [-v for v in a], float(c - shift)), (-one, list(a), float(-c - shift))]
    sides = sides if rng.random() < 0.5 else sides[:1]
    disjuncts = tuple(conjunction([s, zero], x, bound, strict) for s, x, bound in sides)
    truth = False
    for s, x, bound in sides:
        for piece in pieces(small, corners):
            f = mix([s, *x], [piece.outputs[0], *INPUTS], -Fraction(bound))
            truth = truth or solvable(piece, [(f, strict)])
    return ask(Query(network=small.network(), box=box, disjuncts=disjuncts), truth, seed)


def saliency(seed: int) -> Iterator[Trial]:
    """A label that changes while the gradient stays in a box whose ends are a linear piece's own gradient."""
    rng = random.Random(seed)
    small = random_small(rng, 2)
    corners, box = random_box(rng)
    found = pieces(small, corners)
    chosen = rng.choice(found).outputs[0][:2]
    width = [Fraction(rng.choice([0, 0, 1, 2]), 4) for _ in range(2)]
    shift = Fraction(rng.choice([0, 0, 0, 1]), 1 << 20)
    lower = [float(g - w) for g, w in zip(chosen, width, strict=True)]
    upper = [float(g + w - shift) if w else float(g + w) for g, w in zip(chosen, width, strict=True)]
    inside = [p for p in found if all(lo <= g <= hi for lo, g, hi in zip(lower, p.outputs[0][:2], upper, strict=True))]
    lead = [mix([Fraction(1), Fraction(-1)], p.outputs) for p in inside]
    least = min((at(f, p) for piece, f in zip(inside, lead, strict=True) for p in piece.corners), default=Fraction(0))
    bound = rng.choice([0.0, float(least), float(least) + 1 / 256, float(least) - 1 / 256])
    strict = rng.random() < 0.5
    rows = [(f[0], f[1], f[2] - Fraction(bound)) for f in lead]
    truth = any(solvable(p, [(f, strict)]) for p, f in zip(inside, rows, strict=True))
    gradient = GradientBox(output=np.array([1.0, 0.0]), lower=np.array(lower), upper=np.array(upper))
    disjuncts = (conjunction([Fraction(1), Fraction(-1)], [Fraction(0)] * 2, bound, strict),)
    return ask(Query(network=small.network(), box=box, disjuncts=disjuncts, gradient=gradient), truth, seed)


def as_atom(row: list[int], bound: float, strict: bool) -> Atom:
    """``row · (y, x) <= bound`` as a formula."""
    y, x = ({k: Fraction(v) for k, v in enumerate(part) if v} for part in (row[:2], row[2:]))
    return Atom(x, y, Fraction(bound), strict)


def disjunctions(seed: int) -> Iterator[Trial]:
    """Eight to ten disjunctions side by side, over outputs and inputs: more than are multiplied out."""
    rng = random.Random(seed)
    small = random_small(rng, 2)
    corners, box = random_box(rng)
    found = pieces(small, corners)
    values = [at(f, p) for piece in found for f in piece.outputs for p in piece.corners]
    marks = [float(rng.choice(values)) + rng.choice([0.0, 0.0, 1 / 256, -1 / 256]) for _ in range(12)]

    def atom() -> tuple[list[int], float, bool]:
        """``row · (y, x) <= bound``: one output, or two, or an output and an input."""
        row = [0, 0, 0, 0]
        row[rng.randrange(2)] = rng.choice([-1, 1])
        if rng.random() < 0.5:
            row[rng.randrange(4)] = rng.choice([-1, 1])
        return row, rng.choice([-1, 1]) * rng.choice(marks), rng.random() < 0.5

    clauses = [[[atom() for _ in range(rng.choice([1, 1, 2]))] for _ in range(2)] for _ in range(rng.randint(8, 10))]

    def solution(piece: Piece, left: list[Point], strict: list[Affine], depth: int) -> bool:
        if not left or not all(any(at(f, p) < 0 for p in left) for f in strict):
            return False
        if depth == len(clauses):
            return True
        for part in clauses[depth]:
            clipped, more = left, list(strict)
            for row, bound, is_strict in part:
                f = mix([Fraction(v) for v in row], [*piece.outputs, *INPUTS], -Fraction(bound))
                clipped = clip(clipped, f)
                more += [f] if is_strict else []
            if solution(piece, clipped, more, depth + 1):
                return True
        return False

    truth = any(solution(piece, piece.corners, [], 0) for piece in found)
    parts: list[Atom] = []
    ends = zip(box.lower.tolist(), box.upper.tolist(), strict=True)
    for k, (low, high) in enumerate(ends):
        parts += [Atom({k: Fraction(1)}, {}, Fraction(high)), Atom({k: Fraction(-1)}, {}, Fraction(-low))]
    formulas: list[Formula] = [*parts, *(Or([And([as_atom(*a) for a in part]) for part in c]) for c in clauses)]
    query = to_query(small.network(), formulas)
    yield verified(query, truth, "auto")
    if seed % 20 == 0:
        yield verified(query, truth, "z3")


KINDS = [
    Kind(
        name="tight thresholds",
        what="an output, perhaps less an input, against its exact maximum over a box, the next float64 or 1/256 beside"
        " it, strict and closed; truth by cutting the box into linear pieces",
        run=threshold,
        cost=0.05,
    ),
    Kind(
        name="identities",
        what="outputs that equal an affine function of the inputs, compared with it (<, >, !=, <=); truth likewise",
        run=identity,
        cost=0.08,
    ),
    Kind(
        name="tight saliency",
        what="a change of label, tight or with 1/256 to spare, while the gradient lies in a box that one linear piece's"
        " gradient bounds, by the gradient convention; truth likewise",
        run=saliency,
        cost=0.05,
    ),
    Kind(
        name="several disjunctions",
        what="eight to ten disjunctions side by side, more than are multiplied out, with thresholds at corners of linear"
        " pieces; truth likewise, clause by clause",
        run=disjunctions,
        cost=0.15,
    ),
]
