"""Structured bounds: every map against its matrix, every bound against values at points, limits, and both searches."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from edge_kinds.structured import random_network, touching

from verifier.bounds.crown import Crown
from verifier.bounds.crown_slopes import NeuronBounder
from verifier.bounds.interval import interval_values
from verifier.bounds.restriction import restrict
from verifier.bounds.structured import backward, maps
from verifier.bounds.structured.backward import Backward, backend_for
from verifier.bounds.structured.maps import Backend, check_arithmetic, exact_products, maps_of
from verifier.bounds.structured.rows import RowBounds
from verifier.bounds.structured.sweep import Sweep
from verifier.bounds.structured.windows import Window, windows_from
from verifier.cli import main
from verifier.engines.base import Answer
from verifier.engines.native import window_search
from verifier.engines.native.disjuncts import open_disjuncts
from verifier.engines.native.engine import NativeEngine
from verifier.engines.native.graph_bounds import GraphBounds
from verifier.engines.native.settings import (
    CondensedSettings,
    ExactSettings,
    NativeSettings,
    ReluSettings,
    SubproblemSettings,
)
from verifier.engines.native.window_split import WindowSplit
from verifier.errors import EngineError, InputError, MemoryLimitError, TimeLimitError
from verifier.limits import NEVER, Deadline, MemoryBudget
from verifier.network.convolution import Conv
from verifier.network.curved import Product, Smooth
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.maxima import RecogniseMaxima
from verifier.network.onnx_writer import write_onnx
from verifier.network.operators import AffineOperator, Concat, Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, absolute, clip, leaky_relu, relu
from verifier.network.reduction import reduce
from verifier.options import Options
from verifier.properties.builders import robustness
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.rows import Conditions
from verifier.properties.sets import Box

SEEDS = range(16)


def networks() -> list[tuple[np.random.Generator, Network]]:
    made = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        made.append((rng, random_network(rng)))
    return made


def ball(network: Network, rng: np.random.Generator, radius: float, varying: float = 1.0) -> Box:
    center = rng.normal(size=network.input_size)
    width = radius * (rng.random(network.input_size) < varying)
    return Box(center - width, center + width)


def test_maps_are_their_matrices() -> None:
    seen = set()
    for rng, network in networks():
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
            linear = maps_of(network, Backend(dtype))
            for node in network.nodes[1:]:
                if not isinstance(node.operator, AffineOperator):
                    continue
                seen.add(type(node.operator).__name__)
                shapes = [network[i].shape for i in node.inputs]
                matrices = node.operator.matrices(*shapes)
                x = [rng.normal(size=(3, *s)) for s in shapes]
                a = rng.normal(size=(3, *node.shape))
                for size in (False, True):
                    dense = [abs(m).toarray() if size else m.toarray() for m in matrices]
                    with exact_products(1):
                        y = linear[node.name].forward(*(torch.tensor(v, dtype=dtype) for v in x), absolute=size)
                        back = linear[node.name].adjoint(torch.tensor(a, dtype=dtype), absolute=size)
                    expected = sum(v.reshape(3, -1) @ m.T for v, m in zip(x, dense, strict=True))
                    np.testing.assert_allclose(y.numpy().reshape(3, -1), expected, atol=tolerance)
                    for made, m in zip(back, dense, strict=True):
                        np.testing.assert_allclose(made.numpy().reshape(3, -1), a.reshape(3, -1) @ m, atol=tolerance)
    assert seen >= {"Conv", "Dense", "Sum", "Concat", "Scale", "Select", "Reshape"}


@dataclass(frozen=True, eq=False)
class Doubled(AffineOperator):
    """``2 W x``: an operator that the maps do not know."""

    weight: Any
    coefficients: ClassVar[str | None] = "weight"

    def output_shape(self, *shapes: Any) -> Any:
        return (len(self.weight),)

    def linear(self, *inputs: Any) -> Any:
        return 2 * inputs[0] @ self.weight.T

    def transpose(self, grad: Any, *shapes: Any) -> Any:
        return (2 * grad @ self.weight,)


def test_a_map_of_an_unknown_operator_goes_through_its_own_code() -> None:
    builder = NetworkBuilder((3,))
    builder.add(Doubled(np.array([[0.0, 1.0, -2.0], [3.0, 4.0, 5.0]])))
    linear = maps_of(builder.build(), Backend(torch.float64))["doubled_1"]
    x, a = torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    np.testing.assert_array_equal(linear.forward(x).numpy(), [[-2.0, 24.0]])
    np.testing.assert_array_equal(linear.forward(x, absolute=True).numpy(), [[6.0, 24.0]])
    np.testing.assert_array_equal(linear.adjoint(a)[0].numpy(), [[6.0, 10.0, 6.0]])
    assert linear.terms(False) >= 3


def test_reduced_arithmetic_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.float64):
        check_arithmetic(Backend(dtype))
    real = maps.functional.conv2d
    monkeypatch.setattr(maps.functional, "conv2d", lambda x, *rest, **more: real(x.bfloat16().float(), *rest, **more))
    with pytest.raises(EngineError, match="FPMATH"):
        check_arithmetic(Backend(torch.float32))


def test_a_window_sees_what_its_neurons_depend_on() -> None:
    checked = 0
    for rng, network in networks():
        for node in network.nodes[1:]:
            if len(node.shape) != 3:
                continue
            y, x = int(rng.integers(node.shape[1])), int(rng.integers(node.shape[2]))
            part = Window(y, x, y + 1, x + 1)
            seen = windows_from(network, node.name, part)[network.input]
            assert seen is not None
            point, other = rng.normal(size=(2, *network.input_shape))
            mixed = other.copy()
            inside = (slice(None), slice(seen.top, seen.bottom), slice(seen.left, seen.right))
            mixed[inside] = point[inside]
            values = [network.values(p[None], [node.name])[node.name][0, :, y, x] for p in (point, mixed)]
            np.testing.assert_allclose(values[0], values[1], rtol=1e-12, atol=1e-12)
            checked += 1
    assert checked > 60


def test_windows_and_whole_maps_give_the_same_bounds() -> None:
    checked = 0
    for rng, network in networks():
        box = ball(network, rng, 0.1)
        values = {n: (e[0][0], e[1][0]) for n, e in interval_values(network, box.lower[None], box.upper[None]).items()}
        passes = Backward(network, box, values, Backend(torch.float64))
        for node in network.nodes[1:]:
            if len(node.shape) != 3:
                continue
            _, height, width = node.shape
            top, left = int(rng.integers(height)), int(rng.integers(width))
            part = Window(top, left, int(rng.integers(top, height)) + 1, int(rng.integers(left, width)) + 1)
            rows = rng.normal(size=(3, *part.shape(node.shape)))
            whole = np.zeros((3, *node.shape))
            whole[:, :, part.top : part.bottom, part.left : part.right] = rows
            with exact_products(1):
                inside, _ = passes.proved(node.name, torch.tensor(rows), part)
                outside, _ = passes.proved(node.name, torch.tensor(whole), None)
            np.testing.assert_allclose(inside, outside, rtol=1e-9, atol=1e-9)
            checked += 1
    assert checked > 60


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("varying", [0.15, 1.0])
def test_bounds_hold_at_points_and_are_no_worse_than_intervals(bits: int, varying: float) -> None:
    better = 0
    for rng, network in networks():
        box = ball(network, rng, 0.2, varying)
        needed = np.ones(network.output_size, dtype=bool)
        dtype = torch.float32 if bits == 32 else torch.float64
        found = Sweep(network, box, needed, backend=Backend(dtype)).run()
        plain = interval_values(network, box.lower[None], box.upper[None])
        corners = np.where(rng.random((40, box.size)) < 0.5, box.lower, box.upper)
        values = network.values(np.concatenate([box.sample(40, rng), corners]))
        for name, (low, high) in found.items():
            assert (low <= values[name] + 1e-12).all()
            assert (high >= values[name] - 1e-12).all()
            assert (low >= plain[name][0][0] - 1e-9).all()
            better += int((low > plain[name][0][0] + 1e-6).sum())
    assert better > 50


def test_rows_hold_at_points_and_slopes_raise_them() -> None:
    raised = 0
    for rng, network in networks():
        box = ball(network, rng, 0.3)
        y_rows, x_rows, bound = rng.normal(size=(3, 2)), rng.normal(size=(3, box.size)), rng.normal(size=3)
        sweep = Sweep(network, box, np.ones(2, dtype=bool))
        sweep.run()
        rows = RowBounds(sweep, y_rows, x_rows, bound)
        plain, best = rows.lower(), rows.optimised(6)
        x = np.concatenate([box.sample(100, rng), np.where(rng.random((100, box.size)) < 0.5, box.lower, box.upper)])
        values = network.forward(x) @ y_rows.T + x @ x_rows.T - bound
        assert (plain <= values.min(axis=0) + 1e-9).all()
        assert (best <= values.min(axis=0) + 1e-9).all()
        assert (best >= plain - 1e-3 * (1 + np.abs(plain))).all()
        raised += int((best > plain + 1e-6).sum())
    assert raised > 5


def test_the_condensed_form_is_the_network() -> None:
    neurons = 0
    for rng, network in networks():
        box = ball(network, rng, 0.3, 0.15)
        condensed = restrict(network, box, NeuronBounder(1), fold_active=True)
        x = box.sample(20, rng)
        values: list[Any] = [x.T]
        for block in condensed.blocks[1:]:
            z = block.constant[:, None] + sum(m.matrix @ values[s] for s, m in block.edges)
            assert (z >= block.z_low[:, None] - 1e-9).all()
            assert (z <= block.z_high[:, None] + 1e-9).all()
            values.append(np.maximum(z, 0.0))
        y = condensed.output.constant[:, None] + sum(m @ values[s] for s, m in condensed.output.matrices.items())
        np.testing.assert_allclose(np.broadcast_to(y.T, (20, 2)), network.forward(x), rtol=1e-9, atol=1e-9)
        neurons += condensed.neurons
    assert neurons > 50


def test_other_activations_are_condensed_as_relus() -> None:
    """MaxPool, Clip and |z|, of which the sweep knows nothing, in a residual network."""
    rng = np.random.default_rng(3)
    builder = NetworkBuilder((1, 5, 5))
    first = builder.add(leaky_relu(0.1), builder.add(Conv(rng.normal(size=(2, 1, 3, 3)), rng.normal(size=2))))
    second = builder.add(Conv(rng.normal(size=(2, 2, 3, 3)), rng.normal(size=2), padding=(1, 1, 1, 1)), first)
    builder.add(clip(-1.0, 2.0), builder.add(Sum((1, -1)), second, first))
    builder.add(MaxPool((2, 2), (1, 1), (1, 0, 0, 0)))
    size = int(np.prod(builder.shape(builder._last)))
    builder.add(Reshape((size,)))
    builder.add(absolute(), builder.add(Dense(rng.normal(size=(3, size)), rng.normal(size=3))))
    network = builder.build()
    box = ball(network, rng, 0.3, 0.2)
    condensed = restrict(network, box, NeuronBounder(1), fold_active=True)
    assert condensed.neurons > 5
    x = box.sample(50, rng)
    values: list[Any] = [x.T]
    for block in condensed.blocks[1:]:
        z = block.constant[:, None] + sum(m.matrix @ values[s] for s, m in block.edges)
        values.append(np.maximum(z, 0.0))
    y = condensed.output.constant[:, None] + sum(m @ values[s] for s, m in condensed.output.matrices.items())
    np.testing.assert_allclose(y.T, network.forward(x), rtol=1e-9, atol=1e-9)


def test_without_slack_for_rounding_a_bound_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> int:
        count = 0
        for seed in range(60):
            query = touching(seed)
            rows = Conditions.of(query)
            sweep = Sweep(query.network, query.box, np.asarray(rows.y_rows.any(0)), backend=Backend(torch.float32))
            sweep.run()
            with exact_products(1):
                coefficients = torch.tensor(rows.y_rows, dtype=torch.float32).reshape(1, *query.network.output_shape)
                found, _ = sweep.passes.proved(query.network.output, coefficients, None)
            count += int(found[0] > rows.bound[0])
        return count

    assert wrong() == 0
    monkeypatch.setattr(Backward, "_raised", lambda self, cost: 0 * cost)
    assert wrong() > 0


def test_numbers_out_of_range_are_bounded_in_float64_or_not_at_all() -> None:
    rng = np.random.default_rng(0)
    usual = random_network(rng)
    assert backend_for(usual, ball(usual, rng, 0.1)).dtype == torch.float32
    for scale in (1e-25, 1e25, 1e140):
        network = random_network(np.random.default_rng(1), scale)
        box = ball(network, rng, 0.1)
        assert backend_for(network, box).dtype == torch.float64
        sweep = Sweep(network, box, np.ones(2, dtype=bool))
        if scale == 1e140:
            with pytest.raises(InputError, match="too large"):
                sweep.run()
            continue
        sweep.run()
        lower = RowBounds(sweep, np.array([[1.0, 0.0]]), np.zeros((1, box.size)), np.zeros(1)).lower()
        assert lower[0] <= network.forward(box.center)[0]
    with pytest.raises(InputError, match="too large"):
        restrict(network, ball(network, rng, 0.1, 0.1), NeuronBounder(1), fold_active=True)
    builder = NetworkBuilder((2,))
    builder.add(absolute())
    with pytest.raises(InputError, match="ReLU"):
        Backward(builder.build(), Box(np.zeros(2), np.ones(2)), {}, Backend())


def wide_network(seed: int = 0, side: int = 12, channels: int = 6) -> Network:
    """Some thousand neurons: two convolutions, a residual one, a dense layer."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((2, side, side))

    def weights(*shape: int) -> Any:
        return rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))

    builder.add(Conv(weights(channels, 2, 3, 3), weights(channels), padding=(1, 1, 1, 1)))
    builder.add(relu())
    builder.add(Conv(weights(channels, channels, 3, 3), weights(channels), padding=(1, 1, 1, 1)))
    builder.add(relu())
    builder.add(Conv(weights(4, channels, 3, 3), weights(4), stride=(2, 2)))
    builder.add(relu())
    size = int(np.prod(builder.shape(builder._last)))
    builder.add(Reshape((size,)))
    builder.add(Dense(weights(5, size), weights(5)))
    return builder.build()


def test_memory_and_time_end_the_work_with_a_number_and_a_place() -> None:
    network = wide_network()
    box = ball(network, np.random.default_rng(0), 0.1)
    few = ball(network, np.random.default_rng(0), 0.1, 0.03)
    needed = np.ones(5, dtype=bool)
    with pytest.raises(MemoryLimitError, match=r"node 'conv_\d': .* GiB are needed"):
        Sweep(network, box, needed, memory=MemoryBudget(1e4)).run()
    with pytest.raises(MemoryLimitError, match="GiB are needed"):
        restrict(network, few, NeuronBounder(1), memory=MemoryBudget(1e4), fold_active=True)
    late = Deadline(time.monotonic() - 1)
    with pytest.raises(TimeLimitError, match="node"):
        Sweep(network, box, needed, deadline=late).run()
    with pytest.raises(TimeLimitError, match="node"):
        restrict(network, few, NeuronBounder(1), deadline=late, fold_active=True)


def test_a_tight_memory_limit_changes_chunks_not_bounds() -> None:
    network = wide_network()
    box = ball(network, np.random.default_rng(0), 0.02)
    needed = np.ones(5, dtype=bool)
    free = Sweep(network, box, needed, backend=Backend(torch.float64)).run()
    tight = Sweep(network, box, needed, backend=Backend(torch.float64), memory=MemoryBudget(3e6)).run()
    for name in free:
        np.testing.assert_allclose(free[name][0], tight[name][0], rtol=1e-9, atol=1e-9)


def decide(query: Query, settings: NativeSettings, **options: Any) -> Any:
    return NativeEngine(settings).solve(query, Options(**options), Deadline.after(options.get("timeout", 30.0)))


def narrow(network: Network, radius: float, inputs: int = 4, slack: float = 0.0) -> Query:
    """Few inputs vary; the first output less its least sampled value, plus slack, is asked to fall to zero."""
    rng = np.random.default_rng(3)
    center = rng.normal(size=network.input_size)
    width = np.zeros(network.input_size)
    width[:inputs] = radius
    box = Box(center - width, center + width)
    least = network.forward(box.sample(2000, rng))[:, 0].min()
    row = np.zeros((1, 5))
    row[0, 0] = 1.0
    return Query(network=network, box=box, disjuncts=(Conjunction(y_rows=row, bound=np.array([least - slack])),))


def test_bounds_that_rounding_spoils_are_made_in_float64() -> None:
    rng, sizes = np.random.default_rng(5), (50, 300, 300, 300, 5)
    pairs = list(zip(sizes[1:], sizes, strict=False))
    weights = [rng.normal(size=pair) * np.sqrt(2 / pair[1]) for pair in pairs]
    network = feedforward(weights, [rng.normal(size=size) * 0.1 for size, _ in pairs])
    box = ball(network, rng, 1e-4)
    usual, single = (Sweep(network, box, np.ones(5, dtype=bool), backend=Backend(torch.float32)) for _ in range(2))
    single.exact = single.passes
    widths = [sum(float((high - low).sum()) for low, high in sweep.run().values()) for sweep in (usual, single)]
    assert widths[0] < widths[1]


def test_many_disjuncts_are_bounded_on_their_own_boxes() -> None:
    rng = np.random.default_rng(4)
    network = feedforward(
        [rng.normal(size=(20, 2)), rng.normal(size=(1, 20))], [rng.normal(size=20), rng.normal(size=1)]
    )
    eye = np.eye(2)
    disjuncts, truth = [], []
    for _ in range(150):
        low = rng.uniform(-1, 1, size=2)
        high = low + rng.uniform(0, 0.02, size=2)
        sign = float(rng.choice([-1.0, 1.0]))
        points = np.concatenate([rng.uniform(low, high, size=(200, 2)), [low, high]])
        least = (sign * network.forward(points)[:, 0]).min()
        bound = least + rng.choice([-1.0, -0.1, 0.01])
        x_rows = np.concatenate([eye, -eye, np.zeros((1, 2))])
        y_rows = np.concatenate([np.zeros((4, 1)), [[sign]]])
        disjuncts.append(Conjunction(x_rows=x_rows, y_rows=y_rows, bound=np.concatenate([high, -low, [bound]])))
        truth.append(least <= bound)
    box = Box(np.full(2, -1.1), np.full(2, 1.1))
    query = Query(network=network, box=box, disjuncts=tuple(disjuncts))
    rest, *ends = Conditions.of(query).boxed(box)
    bounds = GraphBounds(Crown(network, box), rest, 1)
    left = open_disjuncts(bounds, rest, *ends, NEVER)
    assert set(np.flatnonzero(truth)) <= set(left)
    assert len(left) < 150 - 0.8 * (150 - sum(truth))
    false = replace(query, disjuncts=tuple(c for c, t in zip(disjuncts, truth, strict=True) if not t))
    found = decide(false, NativeSettings(many_disjuncts=10))
    assert found.answer is Answer.UNSAT
    assert decide(query, NativeSettings(many_disjuncts=10)).answer is Answer.SAT
    assert len(open_disjuncts(bounds, rest, *ends, Deadline(time.monotonic() - 1))) == 150


def curved(rng: np.random.Generator, inputs: int) -> Network:
    """Tanh of a layer, times another layer, summed up."""
    build = NetworkBuilder((inputs,))
    start = build.names[0]
    x = build.add(Dense(rng.normal(size=(8, inputs)), rng.normal(size=8)), start)
    tanh = build.add(Smooth("Tanh"), x)
    factors = build.add(Concat(0), tanh, build.add(Dense(rng.normal(size=(8, inputs)), rng.normal(size=8)), start))
    halves = build.add(Reshape((2, 8)), factors)
    product = build.add(Product(), halves)
    return build.build(build.add(Dense(rng.normal(size=(1, 8)), rng.normal(size=1)), product))


@pytest.mark.parametrize("carried", [0, 10**9])
def test_disjuncts_of_a_curved_network_vary_in_few_inputs_each(carried: int) -> None:
    """Over the hull of the boxes 20 inputs vary, in each box one or two: boxes alone count."""
    rng = np.random.default_rng(5)
    network, disjuncts, truth = curved(rng, 20), [], []
    eye = np.eye(20)
    for _ in range(60):
        low = rng.uniform(-1, 1, size=20)
        high = low.copy()
        some = rng.choice(3, size=rng.integers(1, 3), replace=False)
        high[some] += 0.3
        points = np.concatenate([rng.uniform(low, high, size=(300, 20)), [low, high]])
        least = network.forward(points)[:, 0].min()
        bound = least + rng.choice([-0.3, 0.05])
        x_rows, y_rows = np.concatenate([eye, -eye, np.zeros((1, 20))]), np.zeros((41, 1))
        y_rows[-1] = 1.0
        disjuncts.append(Conjunction(x_rows=x_rows, y_rows=y_rows, bound=np.concatenate([high, -low, [bound]])))
        truth.append(bool(least <= bound))
    query = Query(network=network, box=Box(np.full(20, -1.5), np.full(20, 1.5)), disjuncts=tuple(disjuncts))
    settings = NativeSettings(many_disjuncts=10, carried_from=carried)
    assert decide(query, settings).answer is Answer.SAT
    false = replace(query, disjuncts=tuple(c for c, t in zip(disjuncts, truth, strict=True) if not t))
    assert 10 < len(false.disjuncts) < 60
    found = decide(false, settings)
    assert found.answer is Answer.UNSAT
    assert found.statistics["boxes"] < len(false.disjuncts)  # the others fell together, before the search


@pytest.mark.parametrize("threads", [1, 2])
def test_box_search_decides_as_input_splitting_does(threads: int) -> None:
    network = wide_network(side=8, channels=3)
    large, small = NativeSettings(condensed_from=1), NativeSettings()
    holds = narrow(network, 2.0, inputs=6, slack=0.05)
    violated = narrow(network, 1.0, slack=-0.05)
    for query, answer in ((holds, Answer.UNSAT), (violated, Answer.SAT)):
        found = decide(query, large, threads=threads)
        assert found.answer is answer
        assert decide(query, small).answer is answer
        assert found.answer is Answer.SAT or "condensed" in found.statistics["method"]
    assert decide(holds, large).statistics["boxes"] > 1


@pytest.mark.parametrize("kind", ["leaky", "pool"])
def test_box_search_takes_every_piecewise_linear_activation(kind: str) -> None:
    rng = np.random.default_rng(2)
    builder = NetworkBuilder((1, 8, 8))
    builder.add(Conv(rng.normal(size=(3, 1, 3, 3)), rng.normal(size=3)))
    builder.add(leaky_relu(0.125) if kind == "leaky" else relu())
    if kind == "pool":
        builder.add(MaxPool((2, 2), (2, 2)))
    size = int(np.prod(builder.shape(builder._last)))
    builder.add(Reshape((size,)))
    builder.add(Dense(rng.normal(size=(5, size)) / np.sqrt(size), rng.normal(size=5)))
    network, large = builder.build(), NativeSettings(condensed_from=1)
    holds = decide(narrow(network, 1.0, inputs=4, slack=0.05), large)
    assert holds.answer is Answer.UNSAT
    assert "condensed" in holds.statistics["method"]
    assert decide(narrow(network, 1.0, inputs=4, slack=-0.05), large).answer is Answer.SAT


def test_boxes_inherit_optimised_slopes_and_end_in_phases() -> None:
    query = narrow(wide_network(side=8, channels=3), 3.0, inputs=6, slack=0.05)

    def boxes(**settings: float) -> int:
        patient = ReluSettings(subproblem=SubproblemSettings(patience=50.0))
        condensed = CondensedSettings(few_neurons=0, **settings)  # type: ignore[arg-type]
        found = decide(query, NativeSettings(condensed_from=1, condensed=condensed, relu=patient), prepass=False)
        assert found.answer is Answer.UNSAT
        return int(found.statistics["boxes"])

    halved = boxes(far=np.inf, near=0.0)
    assert boxes(near=0.0) < 0.75 * halved
    assert boxes(far=np.inf, near=2.0) < 0.75 * halved


def test_networks_of_maxima_are_not_condensed() -> None:
    """``max(a, b)`` written in four ReLUs: forward bounds decide such networks in a few boxes, relaxed ReLUs do not."""
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    pair = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    network = feedforward(
        [np.kron(np.eye(2), pair) @ corners, 0.5 * np.kron(np.eye(2), [[1.0, 1.0, 1.0, -1.0]])],
        [np.zeros(8), np.zeros(2)],
    )
    assert reduce(network, (RecogniseMaxima(),)).network is not network
    disjunct = Conjunction(y_rows=np.array([[1.0, 1.0]]), bound=np.array([-0.5]))
    query = Query(network=network, box=Box(np.full(2, -1.0), np.full(2, 1.0)), disjuncts=(disjunct,))
    exact = ExactSettings(inputs=0)
    found = decide(query, NativeSettings(condensed_from=1, exact=exact))
    assert found.answer is Answer.UNSAT
    assert "condensed" not in found.statistics["method"]


def test_box_search_ends_at_its_limits() -> None:
    query = narrow(wide_network(side=8, channels=3), 6.0, inputs=16, slack=1.0)
    began = time.monotonic()
    found = decide(query, NativeSettings(condensed_from=1), timeout=1.0, prepass=False)
    assert time.monotonic() - began < 2.0
    assert "lowest bound" in found.reason
    assert found.answer is Answer.TIMEOUT
    found = decide(query, NativeSettings(condensed_from=1), memory=1e-5)
    assert found.answer is Answer.UNKNOWN
    assert "GiB are needed" in found.reason


def test_window_search_proves_refutes_and_says_what_is_left() -> None:
    network = wide_network()
    settings = NativeSettings(windows_from=1)
    x = np.random.default_rng(1).normal(size=network.input_size)
    label = int(network.forward(x).argmax())
    near = robustness(network, x, epsilon=1e-4, label=label, domain=None)
    assert decide(near, settings).answer is Answer.UNSAT
    box = Box(x - 0.5, x + 0.5)
    some = network.forward(box.sample(1000, np.random.default_rng(2)))[:, 0]
    disjunct = Conjunction(y_rows=np.eye(5)[:1], bound=np.array([some.min()]))
    wrong = Query(network=network, box=box, disjuncts=(disjunct,))
    assert decide(wrong, settings).answer is Answer.SAT
    left = decide(wrong, settings, prepass=False, timeout=2.0)
    assert left.answer is Answer.TIMEOUT
    assert "nodes left" in left.reason
    assert decide(wrong, settings, memory=1e-5).answer is Answer.UNKNOWN


def test_a_device_that_torch_does_not_find_is_said_before_anything_is_solved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no device 'cuda'"):
        Options(device="cuda")
    with pytest.raises(InputError, match="there is no device 'abacus'"):
        Options(device="abacus")
    file = tmp_path / "net.onnx"
    write_onnx(feedforward([np.eye(2)], [np.zeros(2)]), file)
    np.save(tmp_path / "x.npy", np.array([1.0, 0.0]))
    words = ["robustness", str(file), str(tmp_path / "x.npy"), "--epsilon", "0.1", "--quiet"]
    assert main([*words, "--device", "cuda"]) == 2
    assert "--device cpu" in capsys.readouterr().err
    assert main([*words, "--device", "cpu"]) == 0


def test_windows_are_bounded_where_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    made = backward.backend_for
    monkeypatch.setattr(
        window_search, "backend_for", lambda network, box, device: asked.append(device) or made(network, box)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    network = wide_network(side=8, channels=3)
    query = robustness(network, np.ones(network.input_size), epsilon=1e-5, domain=None)
    for device in ("cpu", "cuda"):
        found = decide(query, NativeSettings(windows_from=1, low_dimension=0), device=device)
        assert found.answer is Answer.UNSAT
    assert asked == ["cpu", "cuda"]


def test_window_search_splits_relus() -> None:
    network = wide_network(side=8, channels=3)
    settings = NativeSettings(windows_from=1, low_dimension=0)
    found = decide(narrow(network, 3.0, inputs=8, slack=0.2), settings, prepass=False)
    assert found.answer is Answer.UNSAT
    assert found.statistics["nodes"] > 1
    again = decide(narrow(network, 3.0, inputs=8, slack=-0.02), settings, prepass=False, timeout=3.0)
    assert again.answer is not Answer.UNSAT


def test_rows_under_phases_hold_where_the_phases_hold() -> None:
    checked = 0
    for rng, network in networks():
        box = ball(network, rng, 0.3)
        sweep = Sweep(network, box, np.ones(2, dtype=bool))
        sweep.run()
        rows = RowBounds(sweep, rng.normal(size=(4, 2)), np.zeros((4, box.size)), rng.normal(size=4))
        search = WindowSplit(rows)
        x = box.sample(300, rng)
        values = network.forward(x) @ rows.y_rows.T - rows.bound
        before = network.preactivations(x)
        z = [before[name].reshape(300, -1)[:, places] for name, (_, places) in search.places.items()]
        signs = np.sign(np.concatenate(z, axis=1))
        for _ in range(10 if search.neurons else 0):
            row, point = int(rng.integers(4)), int(rng.integers(300))
            phases = np.where(rng.random(search.neurons) < 0.3, signs[point], 0.0).astype(np.int8)
            weights = rng.random((1, search.neurons)).astype(np.float32) * np.where(phases == 0, 1.0, 2.0)
            with exact_products(1):
                lower = search._proved(np.array([row]), weights.astype(np.float32), phases[None])[0]
            inside = ((signs == phases) | (phases == 0)).all(axis=1)
            assert inside.any()
            assert lower <= values[inside, row].min() + 1e-9
            checked += 1
    assert checked > 50


def test_backward_keeps_its_local_errors_positive() -> None:
    network = wide_network()
    box = ball(network, np.random.default_rng(0), 0.1)
    values = {n: (e[0][0], e[1][0]) for n, e in interval_values(network, box.lower[None], box.upper[None]).items()}
    passes = Backward(network, box, values, Backend(torch.float32))
    with exact_products(1):
        for node in network.nodes[1:]:
            assert float(passes._step(node.name).cost.min()) > 0
    assert backward.SPARE > 1
    assert NEVER.at is None
