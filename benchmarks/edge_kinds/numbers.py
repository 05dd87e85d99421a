"""Questions whose numbers matter to the last bit: maps at δ = 0, δ beside a witness's own distance, decimals of files,
the rim of the ε-ball."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction as F
from functools import cache
from pathlib import Path

import numpy as np
from edge_kinds.enumeration import Affine, Layers, Region, at, combined, exact_layers, forward, regions
from edge_kinds.kind import Kind, Outcome, Trial, worth
from edge_kinds.saliency_truth import SaliencyQuestion

import verifier
from verifier import Network, Query, Status
from verifier.engines import registry
from verifier.engines.base import Answer
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.graph import NetworkBuilder, feedforward
from verifier.network.operators import Dense
from verifier.network.piecewise import relu
from verifier.options import Options
from verifier.properties import maps, vnnlib1
from verifier.properties.conjunction import Conjunction
from verifier.properties.named_maps import named_map
from verifier.properties.sets import Box
from verifier.verdict import Witness

LIMIT = 2.0
"""Seconds for each answer."""
SLOW = 20
"""Engines that start a process of their own get every so many-th case."""


def engines(query: Query, seed: int) -> list[str]:
    """Who is asked: our own engines always, the solvers in turn."""
    able = [
        name
        for name in registry.names()
        if (engine := registry.get(name)).availability().installed and not engine.rejects(query.network, query)
    ]
    own = [name for name in able if name in ("native", "saliency") or (name == "maps" and seed % 4 == 0)]
    # Z3 takes half a second on the bandit network, and Marabou a process of its own
    slow = [name for name in able if name == "marabou" or (name == "z3" and query.box.size == 5)]
    others = [name for name in able if name not in (*own, *slow, "maps")]
    turn = [others[seed % len(others)]] if others and (query.box.size < 5 or seed % 4 == 0) else []
    return [*own, *turn, *(slow if seed % SLOW == 0 else [])]


def ask(query: Query, seed: int, truth: bool, is_witness: Callable[[Sequence[F]], bool]) -> Iterable[Trial]:
    """The answers of all engines in question; truth: whether there is a witness."""
    for name in [*engines(query, seed), *(["auto"] if seed % 5 == 0 else [])]:
        began = time.monotonic()
        status, x, reason = _answer(query, name)
        seconds = time.monotonic() - began
        assert status is not Status.VIOLATED or x is not None
        outcome = worth(status is Status.HOLDS, x if status is Status.VIOLATED else None, truth, is_witness)
        where = f" at {[float(v) for v in x]}" if x is not None else ""
        detail = "" if outcome is Outcome.RIGHT else f"{status.value}{where}: {reason} (truth: {truth})"
        yield Trial(engine=name, outcome=outcome, seconds=seconds, detail=detail)


def _answer(query: Query, name: str) -> tuple[Status, Sequence[F] | None, str]:
    """Status, the exact point for VIOLATED, and certainty or reason; solvers that may run in this process do."""
    if name in ("auto", "marabou"):
        verdict = verifier.verify(query, engine=name, timeout=LIMIT, prepass=name == "auto")
        return verdict.status, exact_point(verdict.witness), f"{verdict.certainty} {verdict.stage} {verdict.reason}"
    result = registry.get(name).solve(query, Options(engine=name, timeout=LIMIT), Deadline.after(LIMIT))
    if result.answer is Answer.SAT:
        assert result.x is not None
        witness = replay(query, result.x)
        return (Status.VIOLATED if witness.confirmed else Status.UNKNOWN), exact_point(witness), "not confirmed"
    return STATUS[result.answer], None, f"{result.certainty} {result.reason}"


STATUS = {
    Answer.UNSAT: Status.HOLDS,
    Answer.UNKNOWN: Status.UNKNOWN,
    Answer.TIMEOUT: Status.TIMEOUT,
    Answer.ERROR: Status.ERROR,
}


def exact_point(witness: Witness | None) -> Sequence[F] | None:
    """A witness's input in exact numbers."""
    return None if witness is None else witness.exact_input or [F(v) for v in witness.input.tolist()]


# -- saliency --------------------------------------------------------------------------------------------
def random_layers(rng: np.random.Generator, sizes: Sequence[int]) -> tuple[Network, Layers]:
    """A network with normal weights, now and then tiny, huge or of few digits."""
    scale = float(rng.choice([1.0, 1.0, 1.0, 1e-6, 1e5, 1e8]))
    weights = [rng.normal(size=(b, a)) * scale for a, b in itertools.pairwise(sizes)]
    biases = [rng.normal(size=b) * scale * 0.5 for b in sizes[1:]]
    if rng.random() < 0.3:
        weights, biases = [np.round(w, 1) for w in weights], [np.round(b, 1) for b in biases]
    return feedforward(weights, biases), exact_layers(weights, biases)


def saliency_case(
    rng: np.random.Generator,
    sizes: Sequence[int] = (3, 4, 3, 2),
    chosen: maps.SaliencyMap | None = None,
    similarity: str = "linf",
) -> tuple[Network, np.ndarray, float, SaliencyQuestion]:
    """A network, x̂, ε, and the question at δ = 0."""
    network, layers = random_layers(rng, sizes)
    x, epsilon = rng.normal(size=sizes[0]), float(rng.choice([0.3, 1.0, 3.0]))
    if rng.random() < 0.3:
        x = np.round(x, 1)
    center = tuple(F(v) for v in x.tolist())
    y, _ = forward(layers, center)
    label = max(range(len(y)), key=lambda j: y[j])
    weights = tuple(F(int(j == label)) for j in range(len(y)))
    question = SaliencyQuestion(
        layers=layers, center=center, epsilon=F(epsilon), delta=F(0), label=label, weights=weights,
        map=chosen or maps.gradient_map(), similarity=similarity, top=1,
    )  # fmt: skip
    return network, x, epsilon, question


def query_of(network: Network, x: np.ndarray, epsilon: float, question: SaliencyQuestion) -> Query:
    """The question in the package's own terms."""
    return verifier.saliency_robustness(
        network, x, epsilon=epsilon, delta=float(question.delta), label=question.label, domain=None, map=question.map,
        similarity=question.similarity, top_k=question.top if question.similarity == "top-k" else 0,
    )  # fmt: skip


def asked(network: Network, x: np.ndarray, epsilon: float, question: SaliencyQuestion, seed: int) -> Iterable[Trial]:
    """The question put to the engines."""
    yield from ask(query_of(network, x, epsilon, question), seed, question.violated(), question.is_witness)


def with_delta(question: SaliencyQuestion, delta: F) -> SaliencyQuestion:
    """The question at another δ."""
    return SaliencyQuestion(**{**question.__dict__, "delta": delta})


def at_zero(seed: int) -> Iterable[Trial]:
    """δ = 0 on 3-4-3-2 networks."""
    yield from asked(*saliency_case(np.random.default_rng([1, seed])), seed)


def nearest_distance(question: SaliencyQuestion) -> F | None:
    """The least distance of a map of a constant gradient among inputs of another label; None if there is none."""
    reference, least = question.map_at(question.center), None
    anything = with_delta(question, F(10) ** 400)
    for region in question.regions():
        if anything.meets(region, reference):
            entries = [shift for _, shift in question.entries(region.gradients)]
            apart = [abs(v - r) for v, r in zip(entries, reference, strict=True)]
            distance = sum(apart, F(0)) if question.similarity == "l1" else max(apart)
            least = distance if least is None else min(least, distance)
    return least


def beside_a_witness(seed: int) -> Iterable[Trial]:
    """δ at the floats around the least distance of a witness's map."""
    rng = np.random.default_rng([2, seed])
    chosen = (maps.gradient_map(), maps.absolute_gradient(), maps.smooth_gradient(rng.normal(size=(2, 2)) * 0.3))
    pick = int(rng.integers(3))
    network, x, epsilon, question = saliency_case(
        rng, (2, 3, 2, 2) if pick == 2 else (3, 4, 3, 2), chosen[pick], str(rng.choice(["linf", "l1"]))
    )
    least = nearest_distance(question)
    if least is None:
        delta = 1.0
    else:
        delta = float(least)
        delta = delta if F(delta) <= least else math.nextafter(delta, 0)  # the float below, then up to two above it
        for _ in range(int(rng.integers(-1, 3))):
            delta = math.nextafter(delta, math.inf)
    yield from asked(network, x, epsilon, with_delta(question, F(delta)), seed)


@cache
def bandit() -> tuple[Network, Layers]:
    """The benchmark's own network."""
    network = verifier.load(Path(__file__).resolve().parents[1] / "networks" / "bandit.onnx")
    dense = [node.operator for node in network.nodes if hasattr(node.operator, "weight")]
    return network, exact_layers([d.weight for d in dense], [d.bias for d in dense])  # type: ignore[attr-defined]


@cache
def bandit_regions() -> list[Region]:
    """Those of the whole cube."""
    return list(regions(bandit()[1], [F(0)] * 5, [F(1)] * 5))


def bandit_at_zero(seed: int) -> Iterable[Trial]:
    """The bandit network on the cube [0, 1]⁵ at δ = 0: states, and random points."""
    rng = np.random.default_rng([3, seed])
    network, layers = bandit()
    x = (rng.random(5) < 0.5).astype(float) if seed % 2 else rng.random(5)
    center = tuple(F(v) for v in x.tolist())
    y, slopes = forward(layers, center)
    label = int(y[1] > y[0])
    question = SaliencyQuestion(
        layers=layers, center=center, epsilon=F(1), delta=F(0), label=label, map=maps.gradient_map(),
        weights=tuple(F(int(j == label)) for j in range(2)),
    )  # fmt: skip
    truth = any(question.meets(region, slopes[label]) for region in bandit_regions())
    query = verifier.saliency_robustness(network, x, epsilon=1.0, delta=0.0, label=label)

    def is_witness(point: Sequence[F]) -> bool:
        return all(0 <= v <= 1 for v in point) and question.is_witness(point)

    yield from ask(query, seed, truth, is_witness)


MAPS: tuple[tuple[str, str], ...] = tuple(
    (name, similarity)
    for name in ("gradient", "absolute", "difference", "gradient-input", "integrated", "smooth")
    for similarity in ("linf", "l1", "l2", "top-k")
    if not (similarity == "l2" and name in ("gradient-input", "integrated"))
)


def any_map_case(seed: int) -> tuple[Network, np.ndarray, float, SaliencyQuestion]:
    """A network, x̂, ε, and a question with one of all maps and similarities, at δ = 0 or at the distance of a vertex's map."""
    rng = np.random.default_rng([4, seed])
    name, similarity = MAPS[seed % len(MAPS)]
    chosen = named_map(name, 2, other=1, steps=2, samples=2, sigma=0.3, seed=seed, baseline=rng.normal(size=2))
    network, x, epsilon, question = saliency_case(rng, (2, 3, 2, 2), chosen, similarity)
    if name == "difference":
        weights = [F(int(j == question.label) - int(j != question.label)) for j in range(2)]
        other = maps.logit_difference(1 - question.label)
        question = SaliencyQuestion(**{**question.__dict__, "weights": tuple(weights), "map": other})
    if rng.random() < 0.6:
        found = question.regions()
        region = found[int(rng.integers(len(found)))]
        point = region.polytope.vertices[int(rng.integers(len(region.polytope.vertices)))][0]
        reference, own = question.map_at(question.center), question.map_at(point)
        apart = [abs(v - r) for v, r in zip(own, reference, strict=True)]
        size = float(sum(apart)) if similarity == "l1" else float(max(apart))
        question = with_delta(question, F(math.nextafter(size, float(rng.choice([0.0, math.inf])))))
    return network, x, epsilon, question


def any_map(seed: int) -> Iterable[Trial]:
    """All maps and similarities, at δ = 0 and at the distance of a vertex's map."""
    yield from asked(*any_map_case(seed), seed)


# -- decimals --------------------------------------------------------------------------------------------
def decimal_network(rng: np.random.Generator) -> tuple[Network, Layers, int, int]:
    """A small network of dyadic weights, on which decimals reach their exact edges."""
    n, m = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    sizes = (n, int(rng.integers(1, 4)), int(rng.integers(1, 4)), m)
    weights = [rng.integers(-4, 5, size=(b, a)) / float(rng.choice([1, 2, 4])) for a, b in itertools.pairwise(sizes)]
    biases = [rng.integers(-2, 3, size=b) / 2.0 for b in sizes[1:]]
    return feedforward(weights, biases), exact_layers(weights, biases), n, m


def decimal(rng: np.random.Generator, digits: int = 0) -> Decimal:
    """A decimal, mostly short."""
    digits = digits or int(rng.choice([1, 1, 2, 3, 20]))
    value = Decimal(int(rng.integers(-15, 16))).scaleb(-1)
    return value + Decimal(int(rng.integers(0, 10**6))).scaleb(-digits - 6) if digits > 3 else round(value, digits)


def text_of(value: F) -> str:
    """A fraction as a decimal, or as a quotient where it is none."""
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    if rest > 1:
        return f"(/ {value.numerator} {value.denominator})"
    digits = next(k for k in itertools.count() if (value * 10**k).denominator == 1)
    shown = str(abs(value.numerator) * (10**digits // value.denominator)).rjust(digits + 1, "0")
    cut = len(shown) - digits
    return ("-" if value < 0 else "") + shown[:cut] + ("." + shown[cut:] if digits else "")


def decimals(seed: int) -> Iterable[Trial]:
    """A property of decimals whose limit is the exact largest value, or beside it by 1e-25."""
    rng = np.random.default_rng([5, seed])
    network, layers, n, m = decimal_network(rng)
    ends = [sorted((F(decimal(rng)), F(decimal(rng)))) for _ in range(n)]
    if rng.random() < 0.3:
        ends[0] = [ends[0][0]] * 2
    x_part = [F(decimal(rng)) if rng.random() < 0.4 else F(0) for _ in range(n)]
    y_part = [F(decimal(rng)) for _ in range(m)]
    found = list(regions(layers, [a for a, _ in ends], [b for _, b in ends]))

    def row(region: Region) -> Affine:
        eye = [(tuple(F(int(i == j)) for i in range(n)), F(0)) for j in range(n)]
        terms = [*zip(y_part, region.outputs[0], strict=True), *zip(x_part, eye, strict=True)]
        return combined(terms, F(0), n)

    most = max(
        sum((a * v for a, v in zip(row(r)[0], x, strict=True)), row(r)[1])
        for r in found
        for x, _ in r.polytope.vertices
    )
    bound = most + rng.choice([0, 0, 0, -1, 1]) * F(1, 10**25)
    strict = bool(rng.random() < 0.5)
    truth = most > bound or (most == bound and not strict)
    lines = [f"(declare-const {name}_{k} Real)" for name, count in (("X", n), ("Y", m)) for k in range(count)]
    for k, (a, b) in enumerate(ends):
        lines += [f"(assert (>= X_{k} {text_of(a)}))", f"(assert (<= X_{k} {text_of(b)}))"]
    terms = [f"(* {text_of(a)} Y_{j})" for j, a in enumerate(y_part)]
    terms += [f"(* {text_of(a)} X_{j})" for j, a in enumerate(x_part) if a]
    sign = ">" if strict else ">="
    place = float(rng.random())
    if place < 0.5:  # the limit on the right, on the left, or with another row that does not matter
        lines.append(f"(assert ({sign} (+ {' '.join(terms)}) {text_of(bound)}))")
    elif place < 0.75:
        lines.append(f"(assert ({sign} 0.0 (- {text_of(bound)} {' '.join(terms)})))")
    else:
        lines.append(f"(assert (or (< Y_0 -1e30) ({sign} (- (+ {' '.join(terms)}) {text_of(bound)}) 0)))")
    query = vnnlib1.parse("\n".join(lines), network)

    def is_witness(x: Sequence[F]) -> bool:
        y, _ = forward(layers, x)
        total = sum(a * v for a, v in zip((*y_part, *x_part), (*y, *x), strict=True))
        return all(a <= v <= b for v, (a, b) in zip(x, ends, strict=True)) and (
            total > bound or (total == bound and not strict)
        )

    yield from ask(query, seed, truth, is_witness)


# -- the rim of the ball ---------------------------------------------------------------------------------
def rim(seed: int) -> Iterable[Trial]:
    """Robustness where the other label begins at the ball's exact rim, or a float64 number beside it."""
    rng = np.random.default_rng([6, seed])
    n = int(rng.integers(1, 3))
    x, epsilon = rng.random(n) * float(rng.choice([1.0, 10.0])), float(rng.choice([0.1, 0.3, 1e-3, 0.7]))
    sign = float(rng.choice([-1.0, 1.0]))
    edge = F(x[0]) + F(sign) * F(epsilon)
    limit = float(edge)
    limit = math.nextafter(limit, float(rng.choice([-math.inf, math.inf]))) if rng.random() < 0.6 else limit
    # y0 = 0, y1 = relu(s (x0 - limit)) or its negative part: the label is 0 up to the limit
    weights = [np.array([[sign] + [0.0] * (n - 1), [-sign] + [0.0] * (n - 1)]), np.array([[0.0, 1.0], [1.0, 0.0]])]
    biases = [np.array([-sign * limit, sign * limit]), np.zeros(2)]
    network, layers = feedforward(weights, biases), exact_layers(weights, biases)
    query = verifier.robustness(network, x, epsilon, label=0, domain=None)
    low, high = ([F(v) + s * F(epsilon) for v in x.tolist()] for s in (-1, 1))

    def meets(region: Region) -> bool:
        y0, y1 = region.outputs[0]
        return region.meets([combined([(F(1), y1), (F(-1), y0)], F(0), n)])

    def is_witness(point: Sequence[F]) -> bool:
        y, _ = forward(layers, point)
        return y[1] >= y[0] and all(a <= v <= b for v, a, b in zip(point, low, high, strict=True))

    yield from ask(query, seed, any(meets(r) for r in regions(layers, low, high)), is_witness)


# -- numbers of all sizes --------------------------------------------------------------------------------
def extremes(seed: int) -> Iterable[Trial]:
    """Rows, weights or inputs of 1e-323 to 1e290, and a limit that is the exact least value or beside it."""
    rng = np.random.default_rng([7, seed])
    n, m = 2, 2
    weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise((n, 3, m))]
    size, reach = (
        float(rng.choice([1e-308, 1e-310, 3e-320, 1e-200, 1e290])),
        float(rng.choice([1.0, 1.0, 1e-310, 1e-160])),
    )
    biases = [rng.normal(size=len(w)) * reach * 0.3 for w in weights]
    y_row, x_row = rng.normal(size=m), rng.normal(size=n) * (rng.random() < 0.5)
    match int(rng.integers(3)):
        case 0:
            y_row, x_row = y_row * size, x_row * size
        case 1:
            weights[0], biases = weights[0] * size, [b * size for b in biases]
        case _:
            y_row, x_row = y_row * 0, rng.normal(size=n)
    low, high = -rng.random(n) * reach, rng.random(n) * reach
    network, layers = feedforward(weights, biases), exact_layers(weights, biases)
    y_part, x_part = [F(v) for v in y_row.tolist()], [F(v) for v in x_row.tolist()]
    eye = [(tuple(F(int(i == j)) for i in range(n)), F(0)) for j in range(n)]
    found = list(regions(layers, [F(v) for v in low.tolist()], [F(v) for v in high.tolist()]))
    rows = [combined([*zip(y_part, r.outputs[0], strict=True), *zip(x_part, eye, strict=True)], F(0), n) for r in found]
    least = min(at(row, x) for row, r in zip(rows, found, strict=True) for x, _ in r.polytope.vertices)
    bound = float(least)
    if rng.random() < 0.7:
        bound = math.nextafter(bound, float(rng.choice([-math.inf, math.inf])))
    disjunct = Conjunction(y_rows=y_row[None], x_rows=x_row[None], bound=np.array([bound]))
    query = Query(network=network, box=Box(low, high), disjuncts=(disjunct,))

    def is_witness(x: Sequence[F]) -> bool:
        y, _ = forward(layers, x)
        total = sum(a * v for a, v in zip((*y_part, *x_part), (*y, *x), strict=True))
        return total <= F(bound) and query.box.contains_exactly(x)

    yield from ask(query, seed, least <= F(bound), is_witness)


def cancelling(seed: int) -> Iterable[Trial]:
    """Layers that cancel: several matrices and shifts up to 1e17 between two ReLUs."""
    rng = np.random.default_rng([8, seed])
    sizes = (2, 3, 2) if rng.random() < 0.6 else (2, 2, 2, 2)
    builder, layers = NetworkBuilder((2,)), list[tuple[list[list[F]], list[F]]]()
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        big, eye = float(rng.choice([1e17, 1e12, 1e8, 1.0])), np.eye(a)
        shift, shear = rng.normal(size=a) * big, eye.copy()
        shear[0, -1] += big if a > 1 else 0.0
        back = 2 * eye - shear
        back[0, -1] += round(float(rng.normal()), 1)
        parts = [(eye, shift), (eye, -shift)] if rng.random() < 0.5 else [(shear, 0 * shift), (back, 0 * shift)]
        whole, offset = [[F(int(i == j)) for j in range(a)] for i in range(a)], [F(0)] * a
        for weight, bias in [*parts, (rng.normal(size=(b, a)), rng.normal(size=b) * 0.3)]:
            builder.add(Dense(weight, bias))
            exact = [[F(v) for v in row] for row in weight.tolist()]
            offset = [
                sum((w * v for w, v in zip(row, offset, strict=True)), F(s))
                for row, s in zip(exact, bias.tolist(), strict=True)
            ]
            whole = [[sum((w * whole[i][j] for i, w in enumerate(row)), F(0)) for j in range(a)] for row in exact]
        layers.append((whole, offset))
        if k < len(sizes) - 2:
            builder.add(relu())
    network, x, epsilon = builder.build(), rng.normal(size=2), float(rng.choice([0.1, 0.5, 2.0]))
    center = tuple(F(v) for v in x.tolist())
    y, _ = forward(layers, center)
    label = int(y[1] > y[0])
    question = SaliencyQuestion(
        layers=layers, center=center, epsilon=F(epsilon), delta=F(0), label=label, map=maps.gradient_map(),
        weights=tuple(F(int(j == label)) for j in range(2)),
    )  # fmt: skip
    least = nearest_distance(question)
    delta = 1.0 if least is None else min(float(least) * float(rng.choice([0.0, 0.5, 1.0, 1.0, 2.0])), 1e300)
    yield from asked(network, x, epsilon, with_delta(question, F(delta)), seed)


KINDS = [
    Kind(
        name="saliency at delta 0",
        what="random 3-4-3-2 networks: inputs with exactly the map of x̂; truth by the vertices of all regions",
        run=at_zero,
        cost=0.1,
    ),
    Kind(
        name="delta beside a witness",
        what="δ at the float64 numbers around the exact distance of the nearest map among inputs of another label",
        run=beside_a_witness,
        cost=0.2,
    ),
    Kind(
        name="bandit at delta 0",
        what="the bandit network on the whole cube at δ = 0; truth by the vertices of its regions",
        run=bandit_at_zero,
        cost=0.1,
    ),
    Kind(
        name="maps and similarities",
        what="every map and similarity at δ = 0 and beside the distance of a region's vertex",
        run=any_map,
        cost=0.1,
    ),
    Kind(
        name="decimals of files",
        what="VNN-LIB with decimal coefficients, bounds and limits at, or 1e-25 beside, the exact largest value",
        run=decimals,
    ),
    Kind(
        name="rim of the ball",
        what="robustness where the label changes at the exact rim x̂ ± ε or at the next float64 number",
        run=rim,
        cost=0.04,
    ),
    Kind(
        name="tiny and huge numbers",
        what="rows, weights and inputs of 1e-323 to 1e290, with the exact least value or its neighbour as the limit",
        run=extremes,
    ),
    Kind(
        name="layers that cancel",
        what="saliency on networks whose layers between two ReLUs cancel numbers of up to 1e17",
        run=cancelling,
        cost=0.1,
    ),
]
