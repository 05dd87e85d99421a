"""Input splitting: its linear programs, cuts and answers against exact enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from verifier.bounds.crown import Crown
from verifier.bounds.crown_dense import tighten, workspace
from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine, decide, input_split
from verifier.engines.native.combine import best_weights, cut, workspace_of
from verifier.engines.native.dense_bounds import DenseBounds, StagedBounds, dense_layers
from verifier.engines.native.rows import examine_rows
from verifier.engines.native.settings import BoxSettings, ExactSettings, NativeSettings
from verifier.events import ignore
from verifier.falsify.climb import climbing
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.graph import Network, feedforward
from verifier.network.operators import Array, Dense
from verifier.options import Options
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.properties.sets import Box


def dense(rng: np.random.Generator, sizes: tuple[int, ...]) -> Network:
    weights = [rng.normal(size=(b, a)) * 1.5 / np.sqrt(a) for a, b in itertools.pairwise(sizes)]
    return feedforward(weights, [0.3 * rng.normal(size=len(w)) for w in weights])


def linear_regions(network: Network):
    """Every activation pattern's ``(A, b, C, d)``: the output is A x + b where C x <= d."""
    layers = [node.operator for node in network.nodes if isinstance(node.operator, Dense)]
    sizes = [len(layer.bias) for layer in layers[:-1]]
    for pattern in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        matrix, shift = np.eye(network.input_size), np.zeros(network.input_size)
        sides, ends, first = [], [], 0
        for layer, size in zip(layers[:-1], sizes, strict=True):
            active = np.array(pattern[first : first + size])
            first += size
            matrix, shift = layer.weight @ matrix, layer.weight @ shift + layer.bias
            sign = 1 - 2 * active
            sides.append(sign[:, None] * matrix)
            ends.append(-sign * shift)
            matrix, shift = active[:, None] * matrix, active * shift
        last = layers[-1]
        yield last.weight @ matrix, last.weight @ shift + last.bias, np.vstack(sides), np.concatenate(ends)


def least_excess(network: Network, box: Box, disjunct: Conjunction) -> float:
    """The least t with a point where all rows of the disjunct are <= bound + t, over all linear regions, by LP."""
    best = np.inf
    y_rows = np.zeros((len(disjunct), network.output_size)) if disjunct.y_rows is None else np.asarray(disjunct.y_rows)
    x_rows = np.zeros((len(disjunct), box.size)) if disjunct.x_rows is None else np.asarray(disjunct.x_rows)
    soft = y_rows.any(axis=1)  # rows on the input alone are not moved by t
    for matrix, shift, sides, ends in linear_regions(network):
        a = np.vstack([np.c_[sides, np.zeros(len(ends))], np.c_[y_rows @ matrix + x_rows, -soft.astype(float)]])
        b = np.concatenate([ends, disjunct.bound - y_rows @ shift])
        limits = [*zip(box.lower, box.upper, strict=True), (None, None)]
        found = linprog(np.r_[np.zeros(box.size), 1.0], A_ub=a, b_ub=b, bounds=limits)
        if found.status == 0:
            best = min(best, found.fun)
    return best


@pytest.fixture(scope="module")
def questions() -> list[tuple[Query, Answer]]:
    """Queries of two disjuncts, each on its own part of the box, just feasible or just not, and the truth."""
    rng = np.random.default_rng(0)
    found = []
    for trial in range(12):
        network = dense(rng, (3, 3, 3, 2))
        box = Box.around(rng.random(3), 0.8, None)
        disjuncts, margins = [], []
        for k in range(2):
            x_rows, bound = np.zeros((4, 3)), np.zeros(4)
            x_rows[2, 0], bound[2] = (1.0, box.center[0]) if k else (-2.0, -2 * box.center[0])
            x_rows[3], bound[3] = [1.0, 1.0, 0.0], box.center[:2].sum() + 0.4
            y_rows = np.vstack([rng.normal(size=(2, 2)), np.zeros((2, 2))])
            disjuncts.append(Conjunction(y_rows=y_rows, x_rows=x_rows, bound=bound))
            margins.append(least_excess(network, box, disjuncts[-1]))
        sat = trial % 2 == 0
        shift = np.array([1.0, 1.0, 0.0, 0.0]) * (min(margins) + (0.02 if sat else -0.02))
        shifted = [Conjunction(y_rows=c.y_rows, x_rows=c.x_rows, bound=c.bound + shift) for c in disjuncts]
        query = Query(network=network, box=box, disjuncts=tuple(shifted))
        found.append((query, Answer.SAT if sat else Answer.UNSAT))
    return found


@pytest.mark.parametrize("few_unstable", [0, 3, 100], ids=["inputs", "mixed", "relus-first"])
def test_answers_agree_with_all_linear_regions(few_unstable: int, questions: list[tuple[Query, Answer]]) -> None:
    settings = NativeSettings(exact=ExactSettings.never(), boxes=BoxSettings(few_unstable=few_unstable))
    for query, truth in questions:
        result = NativeEngine(settings).solve(query, Options(), Deadline.after(20))
        assert result.answer is truth
        if truth is Answer.SAT:
            assert result.x is not None
            assert replay(query, result.x).exact


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("boxes", [0, 2, 10**9], ids=["compiled", "both", "numpy"])
def test_answers_depend_neither_on_when_compiled_code_is_loaded_nor_on_threads(
    boxes: int, threads: int, questions: list[tuple[Query, Answer]]
) -> None:
    for query, truth in questions:
        conditions = Conditions.of(query)
        rest, low, high = conditions.boxed(query.box)
        layers = dense_layers(query.network)
        assert layers is not None
        bounds = StagedBounds(Crown(query.network, query.box), rest, layers, threads, boxes)
        search = input_split.InputSplit(query, bounds, low, high, climbing(query, conditions, 0))
        assert search.run(Deadline.after(20), ignore).answer is truth


def test_rows_refute_and_cut_nothing_that_meets_a_case() -> None:
    rng = np.random.default_rng(4)
    refuted = shrunk = 0
    for trial in range(60):
        boxes, n, disjuncts = 5, int(rng.integers(2, 5)), int(rng.integers(1, 4))
        disjunct_of = np.sort(rng.integers(0, disjuncts, size=int(rng.integers(1, 7))))  # some disjuncts have no row
        free = np.arange(n) if trial % 2 else np.arange(1, n)
        low = rng.normal(size=(boxes, n))
        high = low.copy()
        high[:, free] += rng.random((boxes, len(free)))
        slopes, constants = rng.normal(size=(boxes, len(disjunct_of), n)), rng.normal(size=(boxes, len(disjunct_of)))
        if trial % 5 == 0:
            slopes[0, 0], constants[0, 0] = 0.0, -np.inf
            slopes[1, 0, 0] = np.nan
        ends, open_disjuncts = (low.copy(), high.copy()), np.ones((boxes, disjuncts), dtype=bool)
        results = examine_rows(*ends, open_disjuncts, slopes, constants, disjunct_of, free, np.ones(len(free)))
        x = low[:, None] + rng.random((boxes, 400, n)) * (high - low)[:, None]
        for box in range(boxes):
            values = x[box] @ slopes[box].T + constants[box]
            met = np.stack([~(values[:, disjunct_of == c] > 0).any(axis=1) for c in range(disjuncts)], axis=1)
            assert not met[:, ~open_disjuncts[box]].any()
            inside = ((x[box] >= ends[0][box]) & (x[box] <= ends[1][box])).all(axis=1)
            assert inside[met.any(axis=1)].all()
            if open_disjuncts[box].any():
                assert (results.point[box] >= low[box] - 1e-9).all()
                assert (results.point[box] <= high[box] + 1e-9).all()
                shrunk += int((ends[1][box] - ends[0][box] < high[box] - low[box] - 1e-6).any())
        refuted += int((~open_disjuncts).sum())
    assert refuted > 20
    assert shrunk > 20


def test_the_best_weights_are_those_of_the_linear_program() -> None:
    rng = np.random.default_rng(0)
    for trial in range(200):
        count, n = int(rng.integers(1, 9)), int(rng.integers(1, 6))
        f = workspace_of(count, n, 1)
        f.values[:], f.scaled[:] = rng.normal(size=count) - 0.5, rng.normal(size=(count, n))
        if trial % 3 == 0 and count > 2:
            f.values[1], f.scaled[1] = f.values[0], f.scaled[0]  # degenerate
        value = best_weights(f, count)
        truth = linprog(
            np.r_[np.zeros(n), 1.0],
            A_ub=np.c_[f.scaled, -np.ones(count)],
            b_ub=-f.values,
            bounds=[(-1, 1)] * n + [(None, None)],
        ).fun
        assert (f.weights >= 0).all()
        assert value <= f.weights @ f.values - np.abs(f.weights @ f.scaled).sum() + 1e-9
        if truth > 1e-9:
            assert value > 0
        else:
            assert value == pytest.approx(truth, abs=1e-9)
            assert (f.values + f.scaled @ f.target).max() == pytest.approx(truth, abs=1e-9)


def test_cuts_keep_every_point_that_the_functions_allow() -> None:
    rng = np.random.default_rng(1)
    shrunk = 0
    for _ in range(100):
        n = int(rng.integers(1, 5))
        f = workspace_of(3, n, 1)
        middle, radius = rng.normal(size=n), rng.random(n)
        f.values[:], f.plain[:] = rng.normal(size=3) + 0.5, rng.normal(size=(3, n))
        f.low[:], f.high[:] = middle - radius, middle + radius
        points = middle + radius * rng.uniform(-1, 1, size=(500, n))
        allowed = points[((points - middle) @ f.plain.T + f.values <= 0).all(axis=1)]
        left = cut(f, 3, middle, 2)
        assert left or not len(allowed)
        assert ((allowed >= f.low) & (allowed <= f.high)).all()
        shrunk += int((f.high - f.low < 2 * radius - 1e-6).any())
    assert shrunk > 20


def test_preactivation_bounds_hold_on_what_half_spaces_leave() -> None:
    rng = np.random.default_rng(2)
    tighter = 0
    for _ in range(30):
        network = dense(rng, (3, 6, 6, 2))
        box = Box.around(rng.random(3), 0.7, None)
        disjunct = Conjunction(y_rows=np.eye(2)[:1], bound=np.zeros(1))
        crown = Crown(network, box)
        layers = dense_layers(network)
        assert layers is not None
        bounds = DenseBounds(crown, Conditions.of(Query(network=network, box=box, disjuncts=(disjunct,))), layers, 1)
        points = box.sample(3000, rng)
        values = network.values(points)
        z = np.hstack([values[network.nodes[1].name], values[network.nodes[3].name]])
        split = rng.choice(12, size=2, replace=False)
        phases = np.array([1, -1], dtype=np.int8)
        inside = ((z[:, split] >= 0) == (phases > 0)).all(axis=1)

        def run(
            count: int, bounds: DenseBounds = bounds, box: Box = box, split: Array = split, phases: Array = phases
        ) -> tuple[Array, Array]:
            low, high = bounds.root[0][0].copy(), bounds.root[1][0].copy()
            if count:
                low[split[0]], high[split[1]] = max(low[split[0]], 0.0), min(high[split[1]], 0.0)
            work, spaces = workspace(bounds.network, 3, 1), np.zeros((2, 4))
            for _ in range(2):  # the second time with the half-spaces known
                if not tighten(bounds.network, work, box.lower, box.upper, low, high, split, phases, count, spaces):
                    return np.full(12, np.inf), np.full(12, -np.inf)
            return low, high

        low, high = run(2)
        assert ((z[inside] >= low) & (z[inside] <= high)).all()
        plain_low, plain_high = run(0)
        assert ((z >= plain_low) & (z <= plain_high)).all()
        tighter += int((low > plain_low + 1e-9).sum() + (high < plain_high - 1e-9).sum() > 2)
    assert tighter > 10


def test_the_kernel_is_compiled_once_for_all_queries() -> None:
    rng = np.random.default_rng(3)
    for sizes, rows in (((2, 5, 2), 1), ((4, 6, 5, 3), 2)):
        network = dense(rng, sizes)
        box = Box.around(rng.random(sizes[0]), 1.5, None)
        disjuncts = tuple(
            Conjunction(y_rows=rng.normal(size=(rows, sizes[-1])), bound=np.full(rows, -3.0)) for _ in range(rows)
        )
        NativeEngine(NativeSettings(exact=ExactSettings.never())).solve(
            Query(network=network, box=box, disjuncts=disjuncts), Options(), Deadline.after(5)
        )
    assert len(decide.examine_dense.signatures) == 1  # type: ignore[attr-defined]


def test_the_probe_finds_what_only_a_small_part_of_the_box_holds() -> None:
    rng = np.random.default_rng(4)
    network = dense(rng, (4, 12, 12, 2))
    box = Box.around(rng.random(4), 1.0, None)
    values = np.sort(network.forward(box.sample(100_000, rng))[:, 0])
    for bound, exists in ((values[0], True), (values[0] - 10 * (values[1000] - values[0]), False)):
        disjunct = Conjunction(y_rows=np.eye(2)[:1], bound=np.array([bound]))
        query = Query(network=network, box=box, disjuncts=(disjunct,))
        falsifier = climbing(query, Conditions.of(query), seed=0)
        (climb,) = falsifier.parts
        found = [falsifier.step() for _ in range(12)]
        assert any(x is not None and replay(query, x).exact for x in found) is exists
        assert (climb.margins >= -10 * np.abs(values).max()).all()
