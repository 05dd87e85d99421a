"""Every way through an engine, on networks small enough to enumerate: paths that only large networks take by themselves.

By default a tiny network is searched in exact arithmetic and never sees boxes, splits of ReLUs, condensed networks or
windows. Here settings force each of these paths, and the truth is that of its linear regions in rational numbers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction as F

import numpy as np
from edge_kinds.enumeration import Affine, Layers, Region, at, combined, exact_layers, forward, regions
from edge_kinds.kind import Kind, Outcome, Trial, worth
from edge_kinds.numbers import any_map_case, exact_point, query_of, saliency_case, with_delta
from edge_kinds.saliency_truth import SaliencyQuestion

from verifier.engines import registry
from verifier.engines.base import Answer, Engine
from verifier.engines.maps.engine import MapsEngine, MapsSettings
from verifier.engines.native import NativeEngine
from verifier.engines.native.settings import BoxSettings, ExactSettings, NativeSettings, ReluSettings, SharpenSettings
from verifier.engines.saliency.engine import SaliencyEngine, SaliencySettings
from verifier.engines.saliency.settings import TreeSettings
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Array, Dense, Reshape, Sum
from verifier.network.piecewise import relu
from verifier.options import Options
from verifier.properties import maps
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.rounding import float_above, float_below

LIMIT = 1.0
"""Seconds for each answer."""
EACH = 3
"""Paths that are tried on each case, in turn."""

NEVER = ExactSettings.never()
ALONE = NativeSettings(exact=NEVER)
ALWAYS = SharpenSettings(share=np.inf, gain=-np.inf, rounds=3, times=0.0)
"""Every bound that fails becomes a cut."""
ASKED = Options(timeout=LIMIT, prepass=False)
PROVING, TWO = replace(ASKED, proof=True), replace(ASKED, threads=2)
NATIVE: dict[str, tuple[NativeSettings, Options]] = {
    "boxes": (ALONE, ASKED),
    "boxes, compiled": (replace(ALONE, boxes=BoxSettings(numpy_boxes=0)), ASKED),
    "boxes, two threads": (replace(ALONE, boxes=BoxSettings(numpy_boxes=0)), TWO),
    "boxes, inputs alone": (replace(ALONE, boxes=BoxSettings(few_unstable=0)), ASKED),
    "boxes, exact leaves": (NativeSettings(exact=ExactSettings(neurons=-1)), ASKED),
    "boxes, with a proof": (ALONE, PROVING),
    "disjuncts": (replace(ALONE, many_disjuncts=1), ASKED),
    "ReLUs": (replace(ALONE, low_dimension=0), ASKED),
    "ReLUs, two threads": (replace(ALONE, low_dimension=0), TWO),
    "ReLUs, impatient": (replace(ALONE, low_dimension=0, relu=ReluSettings.impatient()), ASKED),
    "ReLUs, always cut": (replace(ALONE, low_dimension=0, relu=ReluSettings(sharpen=ALWAYS)), ASKED),
    "ReLUs, impatient, always cut": (
        replace(ALONE, low_dimension=0, relu=replace(ReluSettings.impatient(), sharpen=ALWAYS)),
        ASKED,
    ),
    "ReLUs, with a proof": (replace(ALONE, low_dimension=0), PROVING),
    "condensed": (replace(ALONE, condensed_from=1), ASKED),
    "condensed, two threads": (replace(ALONE, condensed_from=1), TWO),
    "condensed, exact leaves": (NativeSettings(exact=ExactSettings(neurons=-1), condensed_from=1), ASKED),
    "windows": (replace(ALONE, low_dimension=0, windows_from=1), replace(ASKED, timeout=0.3)),
}
"""By name: settings and options."""
SALIENCY: dict[str, Engine] = {
    "tree": SaliencyEngine(SaliencySettings(exact=NEVER, tree=TreeSettings(small=0))),
    "tree, compiled leaves": SaliencyEngine(SaliencySettings(exact=NEVER, small=0, tree=TreeSettings(small=0, few=0))),
    "phases on programs": SaliencyEngine(SaliencySettings(exact=NEVER)),
    "first without the gradient": SaliencyEngine(
        SaliencySettings(exact=NEVER, small=0, large=0, attack=0.0, native=replace(ALONE, low_dimension=0))
    ),
    "maps, boxes": MapsEngine(MapsSettings(exact=NEVER)),
    "maps, inputs alone": MapsEngine(MapsSettings(exact=NEVER, few_unstable=0)),
}


SOLVERS = ("z3", "cvc5", "yices", "highs")


@dataclass(frozen=True)
class Case:
    """A query, and what is needed to know its truth."""

    query: Query
    layers: Layers
    found: tuple[Region, ...]

    def violated(self) -> bool:
        """Whether some point of some region meets a disjunct."""
        return any(
            region.meets([row(c, k, region.outputs[0]) for k in range(len(c.bound))])
            for region in self.found
            for c in self.query.disjuncts
        )

    def is_witness(self, x: Sequence[F]) -> bool:
        """Whether a point of the box meets a disjunct."""
        box = self.query.box
        if not all(F(a) <= v <= F(b) for a, v, b in zip(box.lower.tolist(), x, box.upper.tolist(), strict=True)):
            return False
        y, _ = forward(self.layers, x)
        constants: list[Affine] = [((F(0),) * len(x), v) for v in y]
        return any(all(at(row(c, k, constants), x) >= 0 for k in range(len(c.bound))) for c in self.query.disjuncts)


def row(conjunction: Conjunction, k: int, outputs: Sequence[Affine]) -> Affine:
    """What must be >= 0 for a row of a conjunction: its bound less its sum."""
    n = len(outputs[0][0])
    parts = [(-F(float(v)), y) for v, y in zip(conjunction.y_rows[k], outputs, strict=True)]
    total = combined(parts, F(float(conjunction.bound[k])), n)
    if conjunction.x_rows is None:
        return total
    return tuple(c - F(float(v)) for c, v in zip(total[0], conjunction.x_rows[k], strict=True)), total[1]


def random_network(rng: np.random.Generator, short: bool = False) -> tuple[Network, Layers]:
    """A ReLU network, as matrices, as convolutions of one pixel or with branches; many neurons are stable.

    Args:
        short: whether its numbers are those of float32.
    """
    sizes = (int(rng.integers(1, 4)), int(rng.integers(2, 7)), *rng.integers(2, 5, size=rng.integers(0, 3)).tolist(),
             int(rng.integers(1, 3)))  # fmt: skip
    weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)]
    biases = [rng.normal(size=b) * rng.choice([0.0, 0.5, 2.0]) for b in sizes[1:]]
    if rng.random() < 0.3:
        weights, biases = [np.round(w, 1) for w in weights], [np.round(b, 1) for b in biases]
    if short:
        weights, biases = ([v.astype(np.float32).astype(np.float64) for v in some] for some in (weights, biases))
    how = rng.choice(["dense", "pixel", "branches"])
    if how == "dense":
        return feedforward(weights, biases), exact_layers(weights, biases)
    if how == "branches" and len(sizes) > 3:
        return _branched(rng, weights, biases)
    builder = NetworkBuilder((sizes[0], 1, 1))
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        builder.add(Conv(w[:, :, None, None], b))
        builder.add(relu())
    builder.add(Reshape((sizes[-2],)))
    builder.add(Dense(weights[-1], biases[-1]))
    return builder.build(), exact_layers(weights, biases)


def _branched(rng: np.random.Generator, weights: list[Array], biases: list[Array]) -> tuple[Network, Layers]:
    """The first layer in two branches side by side, and sometimes the input past it; the truth stacks them again."""
    n, h, half = weights[0].shape[1], len(weights[0]), len(weights[0]) // 2
    builder = NetworkBuilder((n,))
    parts = []
    for k, part in enumerate((slice(0, half), slice(half, h))):
        first = builder.add(relu(), builder.add(Dense(weights[0][part], biases[0][part]), "input"))
        shift = biases[1] if k == 0 else np.zeros(len(biases[1]))
        parts.append(builder.add(Dense(weights[1][:, part], shift), first))
    layers = [([list(r) for r in w], list(b)) for w, b in exact_layers(weights, biases)]
    if rng.random() < 0.5:  # past x: neurons that are always active in the truth, shifted there and back
        past, far = np.round(4 * rng.normal(size=(len(biases[1]), n))) / 4, F(10**6)
        parts.append(builder.add(Dense(past, np.zeros(len(past))), "input"))
        layers[0][0].extend([F(int(i == j)) for j in range(n)] for i in range(n))
        layers[0][1].extend([far] * n)
        for k, own in enumerate(past.tolist()):
            layers[1][0][k].extend(F(v) for v in own)
            layers[1][1][k] -= far * sum(F(v) for v in own)
    last = builder.add(relu(), builder.add(Sum((1,) * len(parts)), *parts))
    for k in range(2, len(weights)):
        last = builder.add(Dense(weights[k], biases[k]), last)
        last = builder.add(relu(), last) if k < len(weights) - 1 else last
    return builder.build(last), layers


def random_case(seed: int, short: bool = False) -> Case:
    """A network, a box, and disjuncts whose bounds lie beside the least value on the box, or at a point's own values."""
    rng = np.random.default_rng(seed)
    network, layers = random_network(rng, short)
    n, outputs = network.input_size, network.output_size
    center, width = rng.normal(size=n), np.full(n, float(rng.choice([0.01, 0.3, 1.0, 3.0])))
    if n > 1 and rng.random() < 0.2:
        width[0] = 0.0
    box = Box(center - width, center + width)
    found = tuple(regions(layers, [F(v) for v in box.lower.tolist()], [F(v) for v in box.upper.tolist()]))
    disjuncts = []
    for _ in range(int(rng.integers(1, 4))):
        count = int(rng.integers(1, 3))
        y_rows = rng.normal(size=(count, outputs)) if rng.random() < 0.5 else np.sign(rng.normal(size=(count, outputs)))
        x_rows = rng.normal(size=(count, n)) if rng.random() < 0.2 else None
        bare = Conjunction(y_rows=y_rows, x_rows=x_rows, bound=np.zeros(count))
        disjuncts.append(replace(bare, bound=_bounds(rng, bare, layers, found, box)))
    return Case(Query(network=network, box=box, disjuncts=tuple(disjuncts)), layers, found)


def _bounds(rng: np.random.Generator, bare: Conjunction, layers: Layers, found: Sequence[Region], box: Box) -> Array:
    """Bounds near which the answer turns."""
    count = len(bare.bound)
    if count == 1:  # the least value on the box, met by a hair, or missed by a little
        values = [-at(row(bare, 0, r.outputs[0]), x) for r in found for x, _ in r.polytope.vertices]
        least, most = min(values), max(values)
        gap = float(most - least) * float(rng.choice([1e-6, 1e-3, 0.03, 0.3]))
        choice = rng.random()
        if choice < 0.1:
            return np.array([float_above(least)])
        return np.array([float_below(least) + (gap if choice < 0.45 else -gap)])
    x = [F(v) for v in box.clip(box.center + rng.uniform(-1, 1, box.size) * box.width / 2).tolist()]
    y, _ = forward(layers, x)
    constants: list[Affine] = [((F(0),) * len(x), v) for v in y]
    there = np.array([float(-at(row(bare, k, constants), x)) for k in range(count)])
    return there + rng.choice([-1.0, 1.0]) * rng.choice([1e-6, 1e-3, 0.1]) * (1 + np.abs(there))


def judged(
    name: str,
    engine: Engine,
    query: Query,
    options: Options,
    truth: bool,
    is_witness: Callable[[Sequence[F]], bool],
    detail: str,
) -> Trial:
    began = time.monotonic()
    try:
        result = engine.solve(query, options, Deadline.after(options.timeout))
    except Exception as error:  # no engine may
        seconds = time.monotonic() - began
        return Trial(engine=name, outcome=Outcome.WRONG, seconds=seconds, detail=f"{detail} raised {error!r}")
    seconds = time.monotonic() - began
    assert result.answer is not Answer.SAT or result.x is not None
    witness = replay(query, result.x) if result.answer is Answer.SAT and result.x is not None else None
    point = exact_point(witness) if witness is not None and witness.confirmed else None
    outcome = worth(result.answer is Answer.UNSAT, point, truth, is_witness)
    text = f"{detail}: {result.answer.name} {result.reason} (truth: {truth})"
    return Trial(engine=name, outcome=outcome, seconds=seconds, detail="" if outcome is Outcome.RIGHT else text)


def _native(seed: int) -> Iterator[Trial]:
    case = random_case(seed)
    truth, names = case.violated(), list(NATIVE)
    for k in range(EACH):
        name = names[(seed * EACH + k) % len(names)]
        settings, options = NATIVE[name]
        yield judged(name, NativeEngine(settings), case.query, options, truth, case.is_witness, f"random_case({seed})")


def _with_some_delta(rng: np.random.Generator) -> tuple[Network, Array, float, SaliencyQuestion]:
    """A question at a δ between 0 and the size of the map."""
    chosen = (maps.gradient_map(), maps.absolute_gradient())[int(rng.integers(2))]
    network, x, epsilon, question = saliency_case(rng, (int(rng.integers(2, 4)), 4, 3, 2), chosen)
    size = max(abs(v) for v in question.map_at(question.center)) or F(1)
    return network, x, epsilon, with_delta(question, F(float(size) * float(rng.choice([0.0, 0.01, 0.3, 1.0]))))


def _gradients(seed: int) -> Iterable[Trial]:
    network, x, epsilon, question = (
        any_map_case(seed // 2) if seed % 2 else _with_some_delta(np.random.default_rng(seed))
    )
    query, truth = query_of(network, x, epsilon, question), question.violated()
    names = [name for name, engine in SALIENCY.items() if not engine.rejects(network, query)]
    for k in range(2):
        name = names[(seed // 2 * 2 + k) % len(names)]
        yield judged(name, SALIENCY[name], query, ASKED, truth, question.is_witness, f"seed {seed}")


def _options(seed: int) -> Iterable[Trial]:
    """A solver with other bounds than by default, half of the time in parts found by propagation."""
    rng = np.random.default_rng(seed)
    able = [name for name in SOLVERS if registry.get(name).availability().installed]
    name = able[seed % len(able)]
    engine = registry.get(name)
    options = replace(ASKED, bounds=("interval", "crown")[seed // 4 % 2], propagate=seed // 8 % 2 == 0)
    asked = f"{name}, {options.bounds}, propagate={options.propagate}"
    if seed % 3 == 0:
        case = random_case(seed)
        yield judged(
            name, engine, case.query, options, case.violated(), case.is_witness, f"{asked}, random_case({seed})"
        )
        return
    network, x, epsilon, question = any_map_case(seed) if seed % 5 == 0 else _with_some_delta(rng)
    while engine.rejects(network, query := query_of(network, x, epsilon, question)):
        network, x, epsilon, question = _with_some_delta(rng)
    yield judged(name, engine, query, options, question.violated(), question.is_witness, f"{asked}, seed {seed}")


KINDS = [
    Kind(
        name="every path of the native engine",
        what="settings force boxes, ReLUs, condensed networks, windows and proofs on tiny networks, whose truth is that of "
        "their enumerated regions; bounds lie beside the least value",
        run=_native,
        cost=0.1,
    ),
    Kind(
        name="every path of the gradient engines",
        what="settings force trees, leaves, programs and boxes on tiny networks; the truth is that of their enumerated regions",
        run=_gradients,
        cost=0.1,
    ),
    Kind(
        name="solvers with every option",
        what="Z3, cvc5, Yices and HiGHS on the same questions with interval and CROWN bounds, whole and in the parts that "
        "propagation finds",
        run=_options,
        cost=0.1,
    ),
]
