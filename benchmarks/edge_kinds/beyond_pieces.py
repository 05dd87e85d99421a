"""Networks with jumps, networks side by side, and curved ones, of one input, where the truth is known by its critical points."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
from edge_kinds.kind import Kind, Outcome, Trial

import verifier
from verifier.bounds.forward import Forward
from verifier.engines.base import Answer
from verifier.engines.native.engine import NativeEngine
from verifier.engines.native.settings import CurvedSettings, NativeSettings
from verifier.limits import Deadline
from verifier.network import compositions
from verifier.network.assembly import Assembler
from verifier.network.curved import Smooth
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.joint import Model, side_by_side
from verifier.network.operators import Dense
from verifier.network.piecewise import relu
from verifier.network.steps import Jumping, rounding, sign
from verifier.network.tensors import Jump, Value
from verifier.options import Options
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Status

UNITS = 4
"""Hidden neurons."""


def _layer(pick: random.Random) -> tuple[list[int], list[int], list[int]]:
    """Weights and biases of hidden neurons, in quarters, and their weights in the output."""
    return tuple([pick.choice([v for v in range(-6, 7) if v or k == 1]) for _ in range(UNITS)] for k in range(3))  # type: ignore[return-value]


def _asked(network: Network, ends: tuple[float, float], row: list[float], bound: float, strict: bool) -> Query:
    """Is there an input with ``row · y >= bound`` (``>`` if strict)?"""
    rows = Conjunction(y_rows=-np.array([row]), bound=np.array([-bound]), strict=np.array([strict]))
    return Query(network=network, box=Box(np.array([ends[0]]), np.array([ends[1]])), disjuncts=(rows,))


def _trial(query: Query, violated: bool, seed: int, detail: str) -> Trial:
    start = time.perf_counter()
    verdict = verifier.verify(query, engine="native", timeout=0.5, seed=seed, threads=1)
    return _judged("native", verdict.status, violated, time.perf_counter() - start, f"{detail}: {verdict!r}")


def _judged(engine: str, status: Status, violated: bool, seconds: float, detail: str) -> Trial:
    expected = Status.VIOLATED if violated else Status.HOLDS
    outcome = Outcome.RIGHT if status is expected else Outcome.WRONG if status.decided else Outcome.UNDECIDED
    return Trial(engine=engine, outcome=outcome, seconds=seconds, detail="" if outcome is Outcome.RIGHT else detail)


def _jumps(seed: int) -> Iterator[Trial]:
    pick = random.Random(seed)
    weights, biases, outs = _layer(pick)
    at_zero = pick.choice([-1, 0, 1])
    operator = sign() if at_zero == 0 else Jumping((0.0,), (0.0, 0.0), (-1.0, 1.0), (float(at_zero),))
    builder = NetworkBuilder((1,))
    builder.add(Dense(np.array(weights)[:, None] / 4, np.array(biases) / 4))
    builder.add(operator)
    builder.add(Dense(np.array([outs]) / 4, np.zeros(1)))
    network = builder.build()

    def value(x: Fraction) -> Fraction:
        total = Fraction(0)
        for w, b, a in zip(weights, biases, outs, strict=True):
            z = w * x + b
            total += Fraction(a, 4) * (at_zero if z == 0 else 1 if z > 0 else -1)
        return total

    ends = Fraction(-pick.randint(1, 8), 4), Fraction(pick.randint(1, 8), 4)
    points = sorted(
        {*ends, *(p for w, b in zip(weights, biases, strict=True) if ends[0] < (p := Fraction(-b, w)) < ends[1])}
    )
    points += [(p + q) / 2 for p, q in pairwise(points)]
    most, strict = max(map(value, points)), pick.random() < 0.5
    bound = most + Fraction(pick.choice([-1, -1, 1, 1, 0]), 4)  # what is met at a jump alone stays open
    query = _asked(network, (float(ends[0]), float(ends[1])), [1.0], float(bound), strict)
    yield _trial(
        query, most > bound or (most == bound and not strict), seed, f"jumps {weights} {biases} {outs} {bound}"
    )


def _twins(seed: int) -> Iterator[Trial]:
    pick = random.Random(seed)
    nets = [_layer(pick) for _ in range(2)]
    if pick.random() < 0.5:  # a twin: one weight in the output differs
        nets[1] = (*nets[0][:2], [nets[0][2][0] + 1, *nets[0][2][1:]])
    networks = [
        feedforward([np.array(w)[:, None] / 4, np.array([a]) / 4], [np.array(b) / 4, np.zeros(1)]) for w, b, a in nets
    ]
    joint = side_by_side([Model(n, net, np.array([0])) for n, net in zip("fg", networks, strict=True)], 1)

    def value(x: Fraction) -> Fraction:
        values = [sum(Fraction(a, 16) * max(w * x + b, 0) for w, b, a in zip(*net, strict=True)) for net in nets]
        return Fraction(values[0] - values[1])

    ends = Fraction(-pick.randint(1, 8), 4), Fraction(pick.randint(1, 8), 4)
    bends = {p for w, b, _ in nets for u, v in zip(w, b, strict=True) if ends[0] < (p := Fraction(-v, u)) < ends[1]}
    most, strict = max(map(value, {*ends, *bends})), pick.random() < 0.5
    bound = Fraction(float(most + Fraction(pick.choice([-1, 0, 0, 1]), 64)))
    query = _asked(joint, (float(ends[0]), float(ends[1])), [1.0, -1.0], float(bound), strict)
    yield _trial(query, most > bound or (most == bound and not strict), seed, f"twins {nets} {bound}")


SLOPES = {
    "Sigmoid": 0.25,
    "Tanh": 1.0,
    "Silu": 1.1,
    "Gelu": 1.13,
    "Sin": 1.0,
    "Softplus": 1.0,
    "Erf": 1.13,
    "Atan": 1.0,
}
"""The functions that are asked about, and what their slopes stay below."""


def _reference(label: str, z: float) -> float:
    """The function by Python's own mathematics."""
    s = 1.0 / (1.0 + math.exp(-z))
    return {
        "Sigmoid": s, "Tanh": math.tanh(z), "Silu": z * s, "Gelu": z * (1 + math.erf(z / math.sqrt(2))) / 2, "Sin": math.sin(z),
        "Softplus": math.log1p(math.exp(z)), "Erf": math.erf(z), "Atan": math.atan(z),
    }[label]  # fmt: skip


def _most(
    label: str, rows: list[tuple[int, int, int]], low: float, high: float, steps: int = 2000
) -> tuple[float, float]:
    """The greatest value on a grid, and by how much it may be more in between."""
    grid = [low + (high - low) * k / steps for k in range(steps + 1)]
    most = max(sum(a / 4 * _reference(label, (w * x + b) / 4) for w, b, a in rows) for x in grid)
    # between neighbours on the grid the sum rises by no more than its slope allows
    return most, SLOPES[label] * sum(abs(w * a) for w, _, a in rows) / 16 * (high - low) / steps / 2 + 1e-9


def _curved(seed: int) -> Iterator[Trial]:
    pick = random.Random(seed)
    label = pick.choice(list(SLOPES))
    weights, biases, outs = _layer(pick)
    builder = NetworkBuilder((1,))
    builder.add(Dense(np.array(weights)[:, None] / 4, np.array(biases) / 4))
    builder.add(Smooth(label))
    builder.add(Dense(np.array([outs]) / 4, np.zeros(1)))
    low, high = -pick.randint(1, 8) / 4, pick.randint(1, 8) / 4
    most, rise = _most(label, list(zip(weights, biases, outs, strict=True)), low, high)
    violated = pick.random() < 0.5
    bound = most - 1e-6 if violated else most + rise + 1e-4
    query = _asked(builder.build(), (low, high), [1.0], bound, False)
    yield _trial(query, violated, seed, f"{label} {weights} {biases} {outs} {bound}")


def _own_boxes(seed: int) -> Iterator[Trial]:
    """Each disjunct fixes the second input to a value of its own, and bounds the first one."""
    pick = random.Random(seed)
    label = pick.choice(list(SLOPES))
    weights, biases, outs = _layer(pick)
    others = [pick.randint(-6, 6) for _ in range(UNITS)]
    builder = NetworkBuilder((2,))
    builder.add(Dense(np.array([weights, others]).T / 4, np.array(biases) / 4))
    builder.add(Smooth(label))
    builder.add(Dense(np.array([outs]) / 4, np.zeros(1)))
    disjuncts, truth = [], []
    for _ in range(pick.randint(2, 5)):
        at, low = pick.randint(-4, 4), pick.randint(-8, 7) / 4
        high = low + pick.randint(0 if truth else 1, 4) / 4
        rows = [(w, b + o * at, a) for w, b, a, o in zip(weights, biases, outs, others, strict=True)]
        most, rise = _most(label, rows, low, high, 500)
        truth.append(pick.random() < 0.15)
        bound = most - 1e-6 if truth[-1] else most + rise + 1e-3
        x_rows, y_rows = np.array([[1.0, 0.0], [-1, 0], [0, 1], [0, -1], [0, 0]]), np.array([[0.0]] * 4 + [[-1.0]])
        disjuncts.append(Conjunction(x_rows=x_rows, y_rows=y_rows, bound=np.array([high, -low, at, -at, -bound])))
    box = Box(np.array([-2.0, -4.0]), np.array([3.0, 4.0]))
    query = Query(network=builder.build(), box=box, disjuncts=tuple(disjuncts))
    for name, settings in (("carried", {"carried_from": 0}), ("from each neuron", {"carried_from": 10**9})):
        start = time.perf_counter()
        engine = NativeEngine(NativeSettings(many_disjuncts=1, curved=CurvedSettings(few=0.05), **settings))
        found = engine.solve(query, Options(seed=seed), Deadline.after(1.0))
        status = {Answer.SAT: Status.VIOLATED, Answer.UNSAT: Status.HOLDS}.get(found.answer, Status.UNKNOWN)
        detail = f"{label} {weights} {others} {biases} {outs} {truth} {[c.bound.tolist() for c in disjuncts]}: {found}"
        yield _judged(f"native, {name}", status, any(truth), time.perf_counter() - start, detail)


def _stairs(seed: int) -> Iterator[Trial]:
    pick = random.Random(seed)
    weights, biases, outs = _layer(pick)
    unit, low, high = pick.choice([0.25, 0.5, 1.0]), -pick.randint(1, 3), pick.randint(1, 4)
    builder = NetworkBuilder((1,))
    builder.add(Dense(np.array(weights)[:, None] / 4, np.array(biases) / 4))
    builder.add(rounding(unit, low, high))
    builder.add(Dense(np.array([outs]) / 4, np.zeros(1)))

    def value(x: Fraction) -> Fraction:
        levels = [round((w * x + b) / 4 / Fraction(unit)) for w, b in zip(weights, biases, strict=True)]
        return sum((Fraction(a, 4) * min(max(k, low), high) for a, k in zip(outs, levels, strict=True)), Fraction(0))

    ends = Fraction(-pick.randint(1, 8), 4), Fraction(pick.randint(1, 8), 4)
    jumps = [
        (4 * Fraction(unit) * (k + Fraction(1, 2)) - b) / w
        for w, b in zip(weights, biases, strict=True)
        for k in range(low, high)
    ]
    points = sorted({*ends, *(x for x in jumps if ends[0] < x < ends[1])})
    points += [(p + q) / 2 for p, q in pairwise(points)]
    most, strict = max(map(value, points)), pick.random() < 0.5
    bound = most + Fraction(pick.choice([-1, -1, 1, 1, 0]), 4)
    network = builder.build()
    yield _carried(network, ends, most, f"stairs {weights} {biases} {outs} {unit} {low} {high}")
    query = _asked(network, (float(ends[0]), float(ends[1])), [1.0], float(bound), strict)
    yield _trial(
        query,
        most > bound or (most == bound and not strict),
        seed,
        f"stairs {weights} {biases} {outs} {unit} {low} {high} {bound}",
    )


def _greatest(
    bends: set[Fraction],
    ends: tuple[Fraction, Fraction],
    parabola: Callable[[Fraction], tuple[Fraction, Fraction, Fraction]],
) -> Fraction:
    """The least upper bound of a function that is a parabola between neighbouring bends, jumps at these allowed."""
    points = sorted({*ends, *(x for x in bends if ends[0] < x < ends[1])})
    most = []
    for p, q in pairwise(points):
        a, b, c = parabola((p + q) / 2)
        tops = [p, q, *([-b / (2 * a)] if a and p < -b / (2 * a) < q else [])]
        most.append(max(a * x * x + b * x + c for x in tops))
    return max(most)


def _carried(network: Network, ends: tuple[Fraction, Fraction], most: Fraction, detail: str) -> Trial:
    """The upper end that bounds carried forward give a network's output on an interval, beside the true one."""
    low, high = (np.array([[float(end)]]) for end in ends)
    start = time.perf_counter()
    bounds = Forward(network, np.array([0]))
    above = Fraction(float(bounds.ranges(*bounds.bounds(low, high))[1][0, 0]))
    return Trial(
        engine="carried bounds",
        outcome=Outcome.RIGHT if above >= most else Outcome.WRONG,
        seconds=time.perf_counter() - start,
        detail=f"{detail}: {float(above)} below {float(most)}" if above < most else "",
    )


def _two_factors(seed: int, *, masked: bool) -> Iterator[Trial]:
    """Sums of products of two lines' functions: a ReLU, or a truth, times a line."""
    pick = random.Random(seed)
    weights, biases, outs = _layer(pick)
    slopes, shifts, _ = _layer(pick)
    build = Assembler((1, 1), input_name="x", source="")
    first, second = (
        build.times_matrix(build.input, np.array(w)[:, None] / 4, np.array(b) / 4, n)
        for w, b, n in ((weights, biases, "z"), (slopes, shifts, "y"))
    )
    or_equal = False
    if masked:
        or_equal = pick.choice(["Greater", "GreaterOrEqual"]) == "GreaterOrEqual"
        truth = compositions.compared(build, "GreaterOrEqual" if or_equal else "Greater", first, np.zeros(()), "truth")
        assert isinstance(truth, Jump)
        made = compositions.chosen(build, truth, second, np.zeros(()), "chosen")
    else:
        made = compositions.times(build, build.apply(relu(), first, "relu"), second, "product")
    assert isinstance(made, Value)
    network = build.finish(build.times_matrix(made, np.array([outs]) / 4, None, "sum"), "sum")

    def parabola(x: Fraction) -> tuple[Fraction, Fraction, Fraction]:
        a = b = c = Fraction(0)
        for w, s, v, t, out in zip(weights, biases, slopes, shifts, outs, strict=True):
            if w * x + s > 0:
                p, q = (Fraction(0), Fraction(1)) if masked else (Fraction(w, 4), Fraction(s, 4))
                a += Fraction(out, 16) * p * v
                b += Fraction(out, 16) * (p * t + q * v)
                c += Fraction(out, 16) * q * t
        return a, b, c

    ends = Fraction(-pick.randint(1, 8), 4), Fraction(pick.randint(1, 8), 4)
    bends = {Fraction(-s, w) for w, s in zip(weights, biases, strict=True)}
    most = _greatest(bends, ends, parabola)
    if masked:  # at a jump several masks may change at once, and at an end the value need not be that beside it
        rows = list(zip(weights, biases, slopes, shifts, outs, strict=True))
        for x in {*ends, *(p for p in bends if ends[0] < p < ends[1])}:
            on = [(w * x + s > 0) or (or_equal and w * x + s == 0) for w, s, *_ in rows]
            there = sum(
                (Fraction(a, 16) * (v * x + t) for m, (_, _, v, t, a) in zip(on, rows, strict=True) if m), Fraction(0)
            )
            most = max(most, there)
    yield _carried(network, ends, most, f"{weights} {biases} {outs} {slopes} {shifts}")
    violated = pick.random() < 0.5
    bound = float(most) + (-1 if violated else 1) / 16
    query = _asked(network, (float(ends[0]), float(ends[1])), [1.0], bound, False)
    yield _trial(
        query,
        violated,
        seed,
        f"{'masks' if masked else 'products'} {weights} {biases} {outs} {slopes} {shifts} {bound}",
    )


def _products(seed: int) -> Iterator[Trial]:
    yield from _two_factors(seed, masked=False)


def _masks(seed: int) -> Iterator[Trial]:
    yield from _two_factors(seed, masked=True)


KINDS = [
    Kind(
        name="stairs",
        what="the greatest value of a layer of clipped roundings over an interval, at and beside a jump, by its constant pieces",
        run=_stairs,
        cost=0.15,
    ),
    Kind(
        name="products",
        what="the greatest value of sums of ReLUs times lines over an interval, by the tops of its parabolas",
        run=_products,
        cost=0.15,
    ),
    Kind(
        name="masks",
        what="the greatest value of sums of comparisons times lines over an interval, by its pieces' ends",
        run=_masks,
        cost=0.17,
    ),
    Kind(
        name="jumps",
        what="the greatest value of a layer of signs over an interval, at and beside a jump, by its constant pieces",
        run=_jumps,
        cost=0.2,
    ),
    Kind(
        name="two networks",
        what="the greatest difference of two networks side by side over an interval, by the breakpoints of both",
        run=_twins,
        cost=0.03,
    ),
    Kind(
        name="curved",
        what="the greatest value of a layer of curved functions over an interval, by a grid and a bound on its slope",
        run=_curved,
        cost=0.15,
    ),
    Kind(
        name="curved, own boxes",
        what="the same where each disjunct has a box of its own, in which one input varies of those that vary over all",
        run=_own_boxes,
        cost=0.3,
    ),
]
