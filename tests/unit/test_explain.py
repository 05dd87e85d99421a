"""Formal explanations against exact truth: planes list all linear regions, and every explanation's parts are replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import trapezoid

import verifier
from verifier.attribution import IntegratedGradients, expected_gradients
from verifier.engines.maps.boxes import Boxes
from verifier.engines.maps.enclosure import Enclosures
from verifier.errors import InputError, PropertyError
from verifier.explain import (
    ExtremeSettings,
    Features,
    Influence,
    columns,
    explain,
    explain_all,
    influences,
    lipschitz,
    lipschitz_on_line,
    monotone_radius,
    patches,
    stable_radius,
)
from verifier.explain.explained import Explained
from verifier.explain.extremes import maps_on_box
from verifier.explain.lipschitz import NormOf
from verifier.explain.margins import Margins
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, feedforward
from verifier.network.operators import Array
from verifier.options import Options
from verifier.regions import line, plane


def dense(seed: int, sizes: tuple[int, ...] = (2, 7, 6, 3)) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
    return feedforward(weights, [rng.normal(size=len(w)) * 0.3 for w in weights])


def gradients(network: Network, x: Array, epsilon: float, output: int) -> Array:
    """The gradients of all linear regions that the box around x meets in more than an edge."""
    low, high = np.clip(x - epsilon, 0, 1), np.clip(x + epsilon, 0, 1)
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    found = plane(network, corners)
    return found.gradient(output).reshape(len(found), -1)[found.areas > 1e-9]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_lipschitz_constants_are_those_of_the_regions(seed: int, norm: str) -> None:
    network, x = dense(seed), np.random.default_rng(seed).random(2)
    truth = np.linalg.norm(gradients(network, x, 0.3, 1), ord={"linf": 1, "l2": 2, "l1": np.inf}[norm], axis=1).max()
    found = lipschitz(network, x, 0.3, output=1, norm=norm, gap=0.0)  # type: ignore[arg-type]
    assert not found.reason
    assert found.lower <= found.upper <= found.lower * (1 + 3e-9)
    assert found.upper >= truth * (1 - 1e-12)
    assert found.lower <= truth * (1 + 1e-9) or found.lower <= found.upper  # a region may be thinner than 1e-9
    assert found.input is not None
    g = ExactNetwork(network).gradient([Fraction(v) for v in found.input.tolist()], [0, 1, 0])
    exact = {"linf": sum(map(abs, g)), "l1": max(map(abs, g))}
    if norm in exact:
        assert Fraction(found.lower) <= exact[norm]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_by_phases_alone_constants_are_those_of_the_regions(seed: int, norm: str) -> None:
    """As with hundreds of inputs: semidefinite bounds, and linear programs for the regions of phases."""
    network, x = dense(seed), np.random.default_rng(seed).random(2)
    truth = np.linalg.norm(gradients(network, x, 0.3, 1), ord={"linf": 1, "l2": 2}[norm], axis=1).max()
    settings = ExtremeSettings(few_inputs=0)
    found = lipschitz(network, x, 0.3, output=1, norm=norm, gap=1e-6, settings=settings)  # type: ignore[arg-type]
    assert not found.reason
    assert truth * (1 - 1e-12) <= found.upper <= found.lower * (1 + 2e-6)
    assert found.lower <= truth * (1 + 1e-9)


def test_phases_of_no_input_are_left_out() -> None:
    """A norm that only phases have which no input has: the gap closes all the same, in 40 dimensions."""
    network, x = dense(4, (40, 12, 10, 3)), np.random.default_rng(4).random(40)
    found = lipschitz(network, x, 0.05, output=0, gap=0.01)
    assert found.gap <= 0.01
    points = np.where(np.random.default_rng(0).random((2000, 40)) < 0.5, x - 0.05, x + 0.05).clip(0, 1)
    assert np.abs(network.gradient(points, 0).reshape(2000, -1)).sum(axis=1).max() <= found.upper


def test_what_entries_have_in_common_cancels_in_the_norm() -> None:
    """The norm is bounded as one linear function of the map: far below the sum of its entries' own bounds, never too low."""
    network, x = dense(5, (40, 10, 10, 3)), np.random.default_rng(5).random(40)
    query, norm = maps_on_box(network, x, 0.05, label=0), NormOf("l1")
    boxes = Boxes.root(query.box.lower, query.box.upper, Enclosures(query).neurons)
    found = Enclosures(query).of(boxes.low, boxes.high, boxes.phase, norm.linear)
    points = np.where(np.random.default_rng(0).random((4000, 40)) < 0.5, query.box.lower, query.box.upper)
    seen = np.abs(network.gradient(points, 0).reshape(4000, -1)).sum(axis=1).max()
    apart = norm.above(found.g_lower, found.g_upper)[0]
    assert seen <= found.above[0]
    assert found.above[0] - seen < 0.7 * (apart - seen)


def test_a_margin_has_the_constant_of_the_difference() -> None:
    network = feedforward([np.array([[3.0, 1.0], [1.0, -1.0]])], [np.zeros(2)])
    found = lipschitz(network, [0.9, 0.5], 0.1, output=0, minus=1)
    assert (found.lower, round(found.upper, 9)) == (4.0, 4.0)


def test_ends_hold_when_time_is_short() -> None:
    network, x = dense(3, (12, 40, 40, 3)), np.full(12, 0.5)
    found = lipschitz(network, x, 0.4, output=0, gap=0.0, timeout=0.5)
    points = np.random.default_rng(0).uniform(0.1, 0.9, (3000, 12))
    seen = np.abs(network.gradient(points, 0).reshape(3000, -1)).sum(axis=1).max()
    assert found.reason
    assert found.upper >= seen
    assert found.lower <= found.upper


def test_along_a_line() -> None:
    network = dense(1)
    a, b = np.array([-1.0, 0.3]), np.array([1.0, 0.9])
    t = np.linspace(0, 1, 20001)
    y = network.forward(a + t[:, None] * (b - a))[:, 2]
    steepest = np.abs(np.diff(y)).max() / (t[1] * 2.0)  # the inputs' distance is 2 by the largest entry
    assert lipschitz_on_line(network, a, b, output=2) == pytest.approx(steepest, rel=1e-6)
    with pytest.raises(InputError, match="equal"):
        lipschitz_on_line(network, a, a, output=0)


@pytest.mark.parametrize("seed", range(12))
def test_influences_are_those_of_the_regions(seed: int) -> None:
    network, x = dense(seed), np.random.default_rng(seed).random(2)
    found = influences(network, x, 0.25)
    exact = ExactNetwork(network)
    for r, output in enumerate(found.outputs):
        g = gradients(network, x, 0.25, output)
        for c in found.inputs:
            cell = found.cells[r][c]
            rises, falls = (g[:, c] > 0).any(), (g[:, c] < 0).any()
            assert cell.influence is not Influence.UNKNOWN
            assert cell.lower <= g[:, c].min()
            assert cell.upper >= g[:, c].max()
            if cell.influence is Influence.NEITHER:
                for point, sign in ((cell.rising, 1), (cell.falling, -1)):
                    assert point is not None
                    seed_row = [int(k == output) for k in range(3)]
                    assert sign * exact.gradient([Fraction(v) for v in point.tolist()], seed_row)[c] > 0
            else:
                assert not (rises and falls)
                assert rises == (cell.influence is Influence.INCREASING) or not rises
                assert falls == (cell.influence is Influence.DECREASING) or not falls


@pytest.mark.parametrize("seed", range(6))
def test_radii_lie_between_a_proof_and_a_witness(seed: int) -> None:
    network, x = dense(seed), np.random.default_rng(seed).uniform(0.3, 0.7, 2)
    g = network.gradient(x, 0).reshape(-1)
    found = monotone_radius(network, x, input=0, output=0, most=0.3)
    inside = gradients(network, x, max(found.lower, 1e-6), 0)[:, 0]
    assert (np.sign(g[0]) * inside >= 0).all()
    assert found.upper - found.lower <= 1e-3 or found.lower == 0.3
    if found.witness is not None:
        assert np.sign(g[0]) * network.gradient(found.witness, 0).reshape(-1)[0] < 0
        assert np.abs(found.witness - x).max() == found.upper


@pytest.mark.parametrize("what", ["top-k", "signs", "ranking"])
@pytest.mark.parametrize("map", ["gradient", "gradient-input", "integrated", "smooth"])
def test_what_is_stable_is_so_at_samples(what: str, map: str) -> None:
    decided = 0
    for seed in range(2):
        network, x = dense(seed, (3, 4, 3)), np.random.default_rng(seed).uniform(0.3, 0.7, 3)
        found = stable_radius(network, x, what, top_k=1, map=map, most=0.25, tolerance=0.02, timeout=10.0)  # type: ignore[arg-type]
        decided += not found.undecided
        query = verifier.saliency_robustness(network, x, epsilon=0.25, delta=0.0, map=map, similarity="l1")
        condition = query.condition
        assert condition is not None
        reference = condition.map.values(network, condition.output, x[None])[0]
        points = np.clip(x + np.random.default_rng(1).uniform(-1, 1, (500, 3)) * found.lower, 0, 1)
        maps = condition.map.values(network, condition.output, points)
        order = np.argsort(-reference)
        changed = {
            "top-k": (maps[:, order[1:]].max(axis=1) - maps[:, order[0]]),
            "ranking": (maps[:, order[1:]] - maps[:, order[[0, 0]]]).max(axis=1),
            "signs": (-np.sign(reference) * maps)[:, reference != 0].max(axis=1),
        }[what]
        assert (changed <= 1e-9).all()
        if found.witness is not None:
            assert found.map is not None
            at = found.map
            worst = (at[order[1:]].max() - at[order[0]]) if what != "signs" else (-np.sign(reference) * at).max()
            assert worst > 0
    assert decided >= 1


def test_a_tie_is_left_open_soon() -> None:
    """Both entries are equal wherever the map is not zero: rounding hides that none overtakes, and no split can show it."""
    network = feedforward([np.array([[0.3, -0.3], [-0.1, 0.1]]), np.array([[0.7, 0.1], [0.0, 0.0]])], [np.zeros(2)] * 2)
    found = stable_radius(network, [0.6, 0.4], "top-k", top_k=1, most=0.25, timeout=30.0)
    assert found.witness is None
    assert found.questions < 12


@pytest.mark.parametrize("seed", range(8))
def test_an_explanation_holds_and_none_of_its_features_can_go(seed: int) -> None:
    network = dense(seed, (6, 12, 12, 3))
    x = np.random.default_rng(seed).random(6)
    found = explain(network, x, epsilon=0.35)
    assert found.irredundant
    free = [k for k in range(6) if k not in found.kept]
    points = np.repeat(x[None], 4000, axis=0)
    moved = np.clip(x + np.random.default_rng(1).uniform(-0.35, 0.35, (4000, 6)), 0, 1)
    points[:, free] = moved[:, free]
    y = network.forward(points)
    assert (y.argmax(axis=1) == found.label).all()
    exact = ExactNetwork(network)
    assert set(found.needs) == set(found.kept)
    for kept, need in found.needs.items():
        assert {k for k in range(6) if need.input[k] != x[k]} == need.features
        assert kept in need.features <= {*free, kept}
        assert (np.abs(need.input - x) <= 0.35).all()
        outputs = exact.output([Fraction(v) for v in need.input.tolist()])
        assert any(v >= outputs[found.label] for j, v in enumerate(outputs) if j != found.label)


def test_what_nothing_can_change_needs_no_feature() -> None:
    network = feedforward([np.zeros((2, 3))], [np.array([1.0, 0.0])])
    found = explain(network, [0.5, 0.5, 0.5])
    assert found.kept == ()
    assert found.bounded == 3
    assert found.contrast is None


def test_a_map_is_held_against_the_explanation() -> None:
    network = feedforward([np.array([[4.0, 1.0, 0.0], [0.0, 0.0, 1.0]])], [np.array([-2.0, 0.0])])
    found = explain(network, [0.9, 0.5, 0.1], features=columns(network, ["a", "b", "c"]))
    assert found.names == ("a",)
    assert found.needed_top([1.0, 5.0, 0.0]) == 2
    assert found.needed_top(network.gradient(np.array([0.9, 0.5, 0.1]), 0)) == 1


def test_time_that_ends_is_said() -> None:
    network = dense(0, (6, 12, 12, 3))
    found = explain(network, np.full(6, 0.5), epsilon=0.35, timeout=1e-9)
    assert not found.irredundant
    assert set(found.undecided) <= set(found.kept)


def test_features() -> None:
    network = feedforward([np.ones((2, 12))], [np.zeros(2)])
    squares = patches(network, 2, shape=(3, 4))
    assert squares.shape == (2, 2)
    assert sorted(k for group in squares.groups for k in group) == list(range(12))
    assert columns(network, {"left": [0, 1], "right": [5]}).groups == ((0, 1), (5,))
    for wrong, message in (
        ({"a": [12]}, "'a' has input 12"),
        ({"a": [1, 2], "b": [2]}, "input 2 is in the feature 'a' and in 'b'"),
        ({"a": []}, "has no input"),
    ):
        with pytest.raises(InputError, match=message):
            columns(network, wrong)
    with pytest.raises(InputError, match="3 names for 12 inputs"):
        columns(network, ["a", "b", "c"])
    with pytest.raises(InputError, match="called 'a'"):
        Features(((0,), (1,)), ("a", "a"), 12)
    with pytest.raises(InputError, match="no image"):
        patches(network, shape=(5, 5))


def test_bad_questions_are_refused() -> None:
    network = dense(0)
    x = np.array([0.5, 0.5])
    with pytest.raises(InputError, match="neither epsilon nor a domain"):
        explain(network, x, domain=None)
    label = int(network.forward(x).argmax())
    with pytest.raises(InputError, match="not the network's own"):
        explain(network, x, epsilon=0.1, label=(label + 1) % 3)
    tie = feedforward([np.ones((2, 2))], [np.zeros(2)])
    with pytest.raises(InputError, match="ties there"):
        explain(tie, x, epsilon=0.1)
    with pytest.raises(InputError, match="once"):
        explain(network, x, epsilon=0.1, order=[0, 0])
    with pytest.raises(InputError, match="no norm"):
        lipschitz(network, x, 0.1, norm="l3")  # type: ignore[arg-type]
    with pytest.raises(PropertyError, match="label 7"):
        lipschitz(network, x, 0.1, output=7)
    with pytest.raises(InputError, match="input 5"):
        influences(network, x, 0.1, inputs=[5])
    with pytest.raises(InputError, match="top_k"):
        stable_radius(network, x, "top-k")
    with pytest.raises(InputError, match="no stability"):
        stable_radius(network, x, "colour")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="epsilon must be"):
        lipschitz(network, x, "wide")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_expected_gradients_are_complete_and_what_sampling_tends_to(seed: int) -> None:
    network = dense(seed, (4, 12, 10, 3))
    x, start, end = np.random.default_rng(seed).normal(size=(3, 4))
    found = expected_gradients(network, x, start, end, target=1)
    along = line(network, start, end)
    y = np.asarray(along.evaluate(along.breakpoints)).reshape(len(along.breakpoints), -1)[:, 1]
    mean = trapezoid(y, along.breakpoints)
    assert found.sum() == pytest.approx(network.forward(x)[1] - mean, rel=1e-7, abs=1e-9)
    s = (np.arange(300) + 0.5) / 300
    sampled = IntegratedGradients(network).attribute(
        np.repeat(x[None], 300, 0), start + s[:, None] * (end - start), target=1
    )
    assert found == pytest.approx(np.asarray(sampled).mean(axis=0), abs=2e-3 * np.abs(found).max())
    with pytest.raises(InputError, match="output 9"):
        expected_gradients(network, x, start, end, target=9)


def test_an_explanation_comes_with_a_certificate(tmp_path: Path) -> None:
    verifier.write_onnx(dense(1, (6, 12, 12, 3)), tmp_path / "net.onnx")
    network = verifier.load(tmp_path / "net.onnx")
    x = np.random.default_rng(1).random(6)
    path = tmp_path / "free.proof"
    found = explain(network, x, epsilon=0.35, options=Options(timeout=60.0, proof=path))
    assert found.irredundant
    free = [k for k in range(6) if k not in found.kept]
    assert 0 < len(free) < 6
    assert found.verdict is not None
    assert found.verdict.no_certificate in (None, "")
    report = verifier.check_proof(path, tmp_path / "net.onnx", jobs=1)  # raises where it does not prove its statement
    said = json.loads(report.header["statement"])
    assert [k for k, (low, high) in enumerate(zip(said["low"], said["high"], strict=True)) if low != high] == free


def test_the_least_change_is_irredundant_where_that_is_proved() -> None:
    proved = 0
    for seed in range(4):
        network = dense(seed, (6, 12, 12, 3))
        x = np.random.default_rng(seed).random(6)
        contrast = explain(network, x, epsilon=0.35, contrastive="proved").contrast
        if contrast is None:
            continue
        outputs = ExactNetwork(network).output([Fraction(v) for v in contrast.input.tolist()])
        label = int(network.forward(x).argmax())
        assert any(v >= outputs[label] for j, v in enumerate(outputs) if j != label)
        assert {k for k in range(6) if contrast.input[k] != x[k]} == contrast.features
        proved += contrast.irredundant
        for left_out in contrast.features if contrast.irredundant else ():
            free = sorted(contrast.features - {left_out})
            points = np.repeat(x[None], 2000, axis=0)
            points[:, free] = np.clip(x + np.random.default_rng(2).uniform(-0.35, 0.35, (2000, 6)), 0, 1)[:, free]
            assert (network.forward(points).argmax(axis=1) == label).all()
    assert proved >= 2


def test_a_data_set_is_explained_and_taken_up_again_with_the_same_rows(tmp_path: Path) -> None:
    network = dense(0, (4, 8, 8, 3))
    inputs = np.random.default_rng(0).random((4, 4))
    journal = tmp_path / "run.jsonl"
    first = explain_all(network, inputs, epsilon=0.3, journal=journal)
    assert first.decided
    assert [row.kept for row in first.rows] == [explain(network, x, epsilon=0.3).kept for x in inputs]
    rows = journal.read_bytes().splitlines(keepends=True)
    assert len(rows) == 4
    journal.write_bytes(rows[0] + rows[1] + rows[2][:40])  # killed in the middle of the third row
    again = explain_all(network, inputs, epsilon=0.3, journal=journal)
    assert again.rows[:2] == first.rows[:2]
    assert [replace(row, seconds=0.0) for row in again.rows] == [replace(row, seconds=0.0) for row in first.rows]
    assert explain_all(network, inputs, epsilon=0.3, journal=journal).rows == again.rows
    tie = feedforward([np.array([[1.0, -1.0], [-1.0, 1.0]])], [np.zeros(2)])
    table = explain_all(tie, [[0.5, 0.5], [0.9, 0.1]], epsilon=0.1)
    assert [row.label for row in table.rows] == [None, 0]
    assert "tie" in table.table()


def test_features_are_priced_soundly() -> None:
    """What linear bounds free together cannot change the label at any sample."""
    freed = 0
    for seed in range(10):
        network = dense(seed, (8, 16, 16, 3))
        x = np.random.default_rng(seed).random(8)
        explained = Explained(network, x, 0.2)
        free = Margins(explained).grow(frozenset(), range(8))
        freed += len(free)
        points = np.repeat(x[None], 4000, axis=0)
        ends = np.where(np.random.default_rng(1).random((4000, 8)) < 0.5, explained.low, explained.high)
        points[:, sorted(free)] = ends[:, sorted(free)]
        assert (network.forward(points).argmax(axis=1) == explained.label).all()
    assert freed >= 10
