"""ReLU splitting: the form over unstable ReLUs, its bounds with slopes and multipliers, and its answers, against facts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from verifier.bounds.condensed import Bounder, CondensedNetwork, Start
from verifier.bounds.condensed_kernels import least, least_within
from verifier.bounds.condensed_refine import refine
from verifier.bounds.crown_slopes import NeuronBounder, ascend, below, initial_weights, prove
from verifier.bounds.neuron_search import NeuronSearch
from verifier.bounds.restriction import restrict
from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine
from verifier.engines.native.settings import ExactSettings, NativeSettings, ReluSettings, SharpenSettings
from verifier.engines.native.subproblem_search import SubproblemSearch
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape, Select, Sum
from verifier.network.piecewise import MaxPool, absolute, clip, leaky_relu, relu
from verifier.options import Options
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box

ACTIVATIONS = [None, leaky_relu(0.1), clip(-0.5, 0.5), absolute(), clip(0, 6)]


def dense(rng: np.random.Generator, sizes: tuple[int, ...], activation=None) -> Network:
    weights = [rng.normal(size=(b, a)) * 1.5 / np.sqrt(a) for a, b in itertools.pairwise(sizes)]
    return feedforward(weights, [0.3 * rng.normal(size=len(w)) for w in weights], activation=activation)


def convolutional(rng: np.random.Generator, pool: tuple[int, int]) -> Network:
    """Residual, with a subtraction, a MaxPool of windows that may overlap, and a permutation."""
    builder = NetworkBuilder((2, 6, 6))
    first = builder.add(Conv(rng.normal(size=(3, 2, 3, 3)) / 4, rng.normal(size=3), padding=(1, 1, 1, 1)))
    hidden = builder.add(relu(), first)
    second = builder.add(Conv(rng.normal(size=(3, 3, 3, 3)) / 5, rng.normal(size=3), padding=(1, 1, 1, 1)), hidden)
    builder.add(relu(), builder.add(Sum((1, -1)), second, hidden))
    builder.add(MaxPool(pool, (2, 2)))
    size = 3 * ((6 - pool[0]) // 2 + 1) * ((6 - pool[1]) // 2 + 1)
    builder.add(Reshape((size,)))
    builder.add(Select(np.arange(size)[::-1].copy()))
    return builder.build(builder.add(Dense(rng.normal(size=(3, size)), rng.normal(size=3))))


def networks(rng: np.random.Generator) -> list[tuple[Network, Box]]:
    found = [(dense(rng, (5, 12, 12, 3), f), Box.around(rng.random(5), 0.25, None)) for f in ACTIVATIONS]
    found += [(convolutional(rng, pool), Box.around(rng.random(72), 0.06)) for pool in ((2, 2), (3, 3))]
    return found


def values(condensed: CondensedNetwork, x: np.ndarray) -> list[np.ndarray]:
    """The blocks' values of z of their live neurons, by the definition of the form."""
    v = [x.T]
    z = [x.T]
    for block in condensed.blocks[1:]:
        total = np.repeat(block.constant[:, None], len(x), axis=1)
        for s, matrix in block.edges:
            matrix.forward(v[s], total)
        z.append(total)
        value = total.copy()
        value[: block.count] = np.maximum(value[: block.count], 0.0)
        v.append(value)
    out = condensed.output
    z.append(sum((m @ v[s] for s, m in out.matrices.items()), start=out.constant[:, None] + np.zeros((1, len(x)))))
    return z


@pytest.mark.parametrize("bounder", [None, NeuronBounder(10), NeuronSearch(NeuronBounder(4), 1500)])
def test_the_form_is_the_network_and_its_bounds_contain_all_samples(bounder: Bounder | None) -> None:
    rng = np.random.default_rng(0)
    for network, box in networks(rng):
        condensed = restrict(network, box, NeuronBounder(1))
        if bounder is not None:
            tighter = refine(condensed, bounder)
            assert tighter.neurons <= condensed.neurons
            condensed = tighter
        assert condensed.neurons > 0
        x = box.sample(400, rng)
        z = values(condensed, x)
        assert np.allclose(z[-1].T, network.forward(x.reshape(-1, *network.input_shape)).reshape(len(x), -1))
        for block, value in zip(condensed.blocks[1:], z[1:], strict=False):
            assert (value[: block.count] >= block.z_low[:, None]).all()
            assert (value[: block.count] <= block.z_high[:, None]).all()
            assert (value[block.count :] >= 0).all()


@pytest.mark.parametrize("fold_active", [False, True])
def test_signs_of_the_networks_own_relus_hold_on_all_samples(fold_active: bool) -> None:
    rng = np.random.default_rng(4)
    kinds = {-1: 0, 0: 0, 1: 0}
    for network in (dense(rng, (5, 12, 12, 3)), dense(rng, (5, 12, 12, 3))):
        box = Box.around(rng.random(5), 0.15, None)
        condensed = restrict(network, box, NeuronBounder(1), fold_active=fold_active)
        for found in (condensed, refine(condensed, NeuronBounder(10))):
            assumed, known = found.signs(np.ones(found.neurons, dtype=np.int8))
            values = network.values(box.sample(500, rng))
            for node in network.activations:
                z = values[node.inputs[0]]
                assert (z[:, known[node.name] > 0] >= 0).all()
                assert (z[:, known[node.name] < 0] <= 0).all()
                np.testing.assert_array_equal(assumed[node.name], known[node.name] == 0)
                for sign in kinds:
                    kinds[sign] += int((known[node.name] == sign).sum())
    assert min(kinds.values()) > 5


@pytest.mark.parametrize("output", ["relu", "pool"])
def test_relus_before_a_maxpool_come_after_it(output: str) -> None:
    rng = np.random.default_rng(5)
    builder = NetworkBuilder((1, 7, 7))
    builder.add(Conv(rng.normal(size=(2, 1, 3, 3)), rng.normal(size=2)))
    hidden = builder.add(relu())
    pooled = builder.add(MaxPool((3, 3), (2, 2), (1, 1, 1, 1)))
    network = builder.build(hidden if output == "relu" else pooled)
    box = Box.around(rng.random(49), 0.3)
    condensed = restrict(network, box, NeuronBounder(1))
    x = box.sample(300, rng)
    z = values(condensed, x)
    assert np.allclose(z[-1].T, network.forward(x.reshape(-1, 1, 7, 7)).reshape(len(x), -1))
    for block, value in zip(condensed.blocks[1:], z[1:], strict=False):
        assert (value[: block.count] >= block.z_low[:, None]).all()
        assert (value[: block.count] <= block.z_high[:, None]).all()
    if output == "pool":
        assert len(condensed.blocks[-1].neurons) <= 18  # the ReLUs, one for each window


def test_the_least_value_under_a_cut_is_the_linear_programs() -> None:
    rng = np.random.default_rng(11)
    reached = []
    for _ in range(20):
        n, rows = int(rng.integers(2, 30)), 6
        a, slope, low = rng.normal(size=(n, rows)), rng.normal(size=n), rng.normal(size=n)
        high = low + rng.random(n)
        ends = np.minimum(slope * low, slope * high).sum(), np.maximum(slope * low, slope * high).sum()
        constant = -(ends[0] + rng.random() * 0.3 * (ends[1] - ends[0]))
        free, total, x = np.zeros(rows), np.zeros(rows), np.empty((n, rows))
        least(a, low, high, free, x)
        scale = np.empty(rows)
        least_within(a, low, high, slope, constant, total, x, scale)
        for r in range(rows):
            best = linprog(a[:, r], slope[None], [-constant], bounds=np.stack([low, high], axis=1)).fun
            assert total[r] <= best + 1e-9
            assert total[r] >= free[r] - 1e-9
            if best > free[r] + 1e-6:
                reached.append((total[r] - free[r]) / (best - free[r]))
        assert (scale >= 0).all()
        assert (x >= low[:, None] - 1e-12).all()
        assert (x <= high[:, None] + 1e-12).all()
        assert (slope @ x + constant <= 1e-6 * (1 + abs(constant)))[scale > 0].all()
    assert len(reached) > 60
    assert np.mean(reached) > 0.98


def test_bounds_under_a_cut_hold_wherever_the_row_is_not_above_zero() -> None:
    rng = np.random.default_rng(12)
    inside, widths = 0, list[float]()
    for network, box in networks(rng):
        condensed = restrict(network, box, NeuronBounder(10))
        x = box.sample(3000, rng)
        y = network.forward(x.reshape(-1, *network.input_shape)).reshape(len(x), -1)
        row = rng.normal(size=(1, network.output_size))
        bound = np.quantile(row @ y.T, 0.02, axis=1)
        start = condensed.rows(row, np.zeros((1, box.size)), bound)
        phases = np.zeros((condensed.neurons, 1), dtype=np.int8)
        slope, constant = below(condensed, start, ascend_weights(condensed, start, phases), phases)
        value = (row @ y.T - bound)[0]
        assert (x @ slope + constant <= value + 1e-9).all()
        cut = condensed.within(slope, constant)
        assert cut is not None
        tighter = refine(cut, NeuronBounder(4))
        assert not tighter.empty
        some = x[value <= 0]
        inside += len(some)
        z = values(tighter, some)
        for block, v in zip(tighter.blocks[1:], z[1:], strict=False):
            assert (v[: block.count] >= block.z_low[:, None]).all()
            assert (v[: block.count] <= block.z_high[:, None]).all()
            assert (v[block.count :] >= 0).all()
        assert np.allclose(z[-1].T, y[value <= 0])  # what was left out is inactive there
        plain = refine(condensed, NeuronBounder(4))
        widths += [sum(float((b.z_high - b.z_low).sum()) for b in c.blocks[1:]) for c in (tighter, plain)]
    assert inside > 300
    assert sum(widths[::2]) < 0.97 * sum(widths[1::2])


def ascend_weights(condensed: CondensedNetwork, start: Start, phases: np.ndarray) -> np.ndarray:
    return ascend(condensed, start, initial_weights(condensed, len(start)), phases, steps=10).weights


def test_the_ascent_improves_and_stays_below_all_samples() -> None:
    rng = np.random.default_rng(1)
    better = 0
    for network, box in networks(rng):
        condensed = restrict(network, box, NeuronBounder(1))
        y_rows = rng.normal(size=(4, network.output_size))
        start = condensed.rows(y_rows, np.zeros((4, box.size)), np.zeros(4))
        weights = initial_weights(condensed, 4)
        phases = np.zeros(weights.shape, dtype=np.int8)
        plain = prove(condensed, start, weights, phases)
        found = ascend(condensed, start, weights, phases, steps=40)
        proved = prove(condensed, start, found.weights, phases)
        assert np.allclose(proved, found.lower, rtol=1e-3, atol=1e-3)
        assert (proved >= plain - 1e-4).all()
        better += int((proved > plain + 1e-3).sum())
        x = box.sample(1000, rng).reshape(-1, *network.input_shape)
        assert (proved <= (network.forward(x).reshape(len(x), -1) @ y_rows.T).min(axis=0)).all()
    assert better > 5


def width(condensed: CondensedNetwork) -> float:
    return sum(float((b.high - b.low).sum()) for b in condensed.blocks[1:])


@pytest.mark.parametrize("threads", [1, 2])
def test_searches_for_units_tighten_what_ascents_leave(threads: int) -> None:
    rng = np.random.default_rng(3)
    network, box = dense(rng, (6, 20, 20, 20, 2)), Box.around(rng.random(6), 0.3, None)
    condensed = refine(restrict(network, box, NeuronBounder(1)), NeuronBounder(40))
    little = refine(condensed, NeuronSearch(NeuronBounder(10, threads), 2000))
    much = refine(condensed, NeuronSearch(NeuronBounder(10, threads), 20000))
    assert width(little) < 0.95 * width(condensed)
    assert width(much) < width(little)
    x = box.sample(20000, rng)
    for block, value in zip(much.blocks[1:], values(much, x)[1:], strict=False):
        assert (value[: block.count] >= block.z_low[:, None]).all()
        assert (value[: block.count] <= block.z_high[:, None]).all()
        assert (value[block.count :] >= 0).all()
    signs = [(v.min(axis=1) < 0) & (v.max(axis=1) > 0) for v in values(condensed, x)[1:-1]]
    assert sum(int(s.sum()) for s in signs) <= much.neurons <= little.neurons <= condensed.neurons


def test_searches_go_on_where_that_closes_units() -> None:
    rng = np.random.default_rng(3)
    network, box = dense(rng, (6, 20, 20, 20, 2)), Box.around(rng.random(6), 0.3, None)
    condensed = refine(restrict(network, box, NeuronBounder(1)), NeuronBounder(40))
    stopped = refine(condensed, NeuronSearch(NeuronBounder(4), 300, patience=0.0))
    longer = refine(condensed, NeuronSearch(NeuronBounder(4), 300))
    assert longer.neurons < stopped.neurons <= condensed.neurons
    z = values(longer, box.sample(20000, rng))
    for block, value in zip(longer.blocks[1:], z[1:], strict=False):
        assert (value[: block.count] >= block.z_low[:, None]).all()
        assert (value[: block.count] <= block.z_high[:, None]).all()
        assert (value[block.count :] >= 0).all()


@pytest.mark.parametrize("bounder", [NeuronBounder(10), NeuronSearch(NeuronBounder(4), 1500)])
def test_bounds_under_phases_contain_the_samples_of_the_phases(bounder: Bounder) -> None:
    """With any multipliers; in the rows of a node, and in the neurons' bounds of a form refined by phases."""
    rng = np.random.default_rng(2)
    checked = 0
    for network, box in networks(rng):
        condensed = restrict(network, box, NeuronBounder(1))
        x = box.sample(4000, rng)
        z = values(condensed, x)
        opened = np.concatenate([v[: b.count] for b, v in zip(condensed.blocks[1:], z[1:], strict=False)])
        phases = np.zeros(condensed.neurons, dtype=np.int8)
        some = rng.choice(condensed.neurons, 3, replace=False)
        phases[some] = np.sign(opened[some, rng.integers(len(x))])
        inside = (opened * phases[:, None] >= 0).all(axis=0)
        y_rows = rng.normal(size=(2, network.output_size))
        start = condensed.rows(y_rows, np.zeros((2, box.size)), np.zeros(2))
        weights = initial_weights(condensed, 2)
        weights[some] = rng.random((3, 2))
        columns = np.repeat(phases[:, None], 2, axis=1)
        truth = (z[-1].T @ y_rows.T)[inside].min(axis=0)
        assert (prove(condensed, start, weights, columns) <= truth).all()
        assert (
            prove(condensed, start, ascend(condensed, start, weights, columns, steps=30).weights, columns) <= truth
        ).all()
        part = refine(condensed, bounder, phases)
        assert not part.empty
        for block, value in zip(part.blocks[1:], values(part, x[inside])[1:], strict=False):
            assert (value[: block.count] >= block.z_low[:, None] - 1e-12).all()
            assert (value[: block.count] <= block.z_high[:, None] + 1e-12).all()
        checked += int(inside.sum())
    assert checked > 1000


def test_contradicting_phases_leave_nothing() -> None:
    weights = [np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, 1.0]])]
    network = feedforward(weights, [np.array([0.0, -0.5]), np.array([-0.1, 0.0]), np.zeros(1)])
    condensed = restrict(network, Box(-np.ones(2), np.ones(2)), NeuronBounder(1))
    both = np.zeros(condensed.neurons, dtype=np.int8)
    both[:2] = 1  # x + y >= 0 and x + y <= -0.5
    assert refine(refine(condensed, NeuronBounder(30), both), NeuronBounder(30)).empty
    both[:2] = -1
    assert not refine(condensed, NeuronBounder(30), both).empty


@pytest.mark.parametrize("seed", range(4))
def test_answers_agree_with_samples_on_every_kind_of_operator(seed: int) -> None:
    """Where a sample reaches, there is no proof; a counterexample is one; and there are proofs below."""
    # impatient: nothing is searched for long, so that the bounds of neurons are
    relu = ReluSettings.impatient() if seed % 2 else ReluSettings()
    engine = NativeEngine(NativeSettings(exact=ExactSettings.never(), low_dimension=0, relu=relu))
    rng = np.random.default_rng(10 + seed)
    proofs = 0
    for network, box in networks(rng):
        row = rng.normal(size=(1, network.output_size))
        x = box.sample(3000, rng)
        reached = (network.forward(x.reshape(-1, *network.input_shape)).reshape(len(x), -1) @ row.T).ravel()
        for far in (-1e-9, 0.5, 2.0):
            bound = reached.min() - far * np.ptp(reached)
            query = Query(network=network, box=box, disjuncts=(Conjunction(y_rows=row, bound=np.array([bound])),))
            result = engine.solve(query, Options(), Deadline.after(2))
            if result.answer is Answer.SAT:
                assert result.x is not None
                assert replay(query, result.x).exact
            if far < 0:
                assert result.answer is not Answer.UNSAT
            proofs += result.answer is Answer.UNSAT
    assert proofs >= 5


def test_what_cuts_cost_is_part_of_what_bounds_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search is given up by how it compares with its bounds: those under a cut have cost more."""
    calls: list[tuple[float, float]] = []
    usual = SubproblemSearch.run

    def run(self: SubproblemSearch, nodes, spent, *rest):  # type: ignore[no-untyped-def]
        calls.append((spent, self.condensed.work.done if self.condensed.cut is not None else 0.0))
        return usual(self, nodes, spent, *rest)

    monkeypatch.setattr(SubproblemSearch, "run", run)
    rng = np.random.default_rng(3)
    network, box = dense(rng, (5, 20, 20, 3)), Box.around(rng.random(5), 0.5, None)
    row = rng.normal(size=(1, 3))
    reached = (network.forward(box.sample(3000, rng)) @ row.T).ravel()
    asked = Conjunction(y_rows=row, bound=np.array([reached.min() - 0.1 * np.ptp(reached)]))
    always = SharpenSettings(share=np.inf, gain=-np.inf, rounds=1, times=0.0)
    for sharpen in (SharpenSettings(times=np.inf), always):
        relu = ReluSettings(sharpen=sharpen)
        engine = NativeEngine(NativeSettings(exact=ExactSettings.never(), low_dimension=0, relu=relu))
        calls.append((0.0, 0.0))
        engine.solve(Query(network=network, box=box, disjuncts=(asked,)), Options(prepass=False), Deadline.after(5))
    starts = [k for k, (spent, _) in enumerate(calls) if not spent]
    (plain, none), (under, cut) = calls[starts[0] + 1], calls[starts[1] + 1]
    assert none == 0 < cut
    assert under >= plain + cut
