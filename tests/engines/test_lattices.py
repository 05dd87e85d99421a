"""Two-level lattice networks, ``max_i min_{j in S_i} f_j(x)`` spelled out in ReLUs: maxima read back, and answers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import verifier
from verifier import Status
from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine
from verifier.engines.native.settings import ExactSettings, NativeSettings
from verifier.falsify.replay import replay
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.maxima import RecogniseMaxima
from verifier.network.onnx_writer import write_onnx
from verifier.network.operators import Array, Dense
from verifier.network.piecewise import MaxPool, relu
from verifier.network.reduction import reduce
from verifier.options import Options
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.properties.vnnlib1 import write

ABSOLUTE = np.array([[1.0, 1], [-1, -1], [-1, 1], [1, -1]])
"""The rows a + b, -a - b, b - a, a - b, as in the lattice networks of VNN-COMP."""


def knockout(b: NetworkBuilder, count: int, sign: float, shift: float = 0.0) -> int:
    """One round of the greater (sign 1) or lesser of neighbours; an entry without a partner meets itself."""
    half = (count + 1) // 2
    before, after = np.zeros((4 * half, count)), np.zeros((half, 4 * half))
    for k in range(half):
        first, second = 2 * k, min(2 * k + 1, count - 1)
        before[4 * k : 4 * k + 4, first] += ABSOLUTE[:, 0]
        before[4 * k : 4 * k + 4, second] += ABSOLUTE[:, 1]
        after[k, 4 * k : 4 * k + 4] = 0.5, -0.5, sign / 2, sign / 2
    b.add(Dense(before, np.zeros(4 * half)))
    b.add(relu())
    b.add(Dense(after, np.full(half, shift)))
    return half


def lattice(rng: np.random.Generator, inputs: int = 2, lines: int = 6, sets: int = 5) -> tuple[Network, Array, Array]:
    """A network, its affine functions as rows ``(lines, inputs + 1)``, and its sets ``(sets, members)``."""
    functions = rng.normal(size=(lines, inputs + 1))
    members = np.array([rng.choice(lines, size=3, replace=False) for _ in range(sets)])
    b = NetworkBuilder((inputs,))
    b.add(Dense(functions[:, :-1], functions[:, -1]))
    b.add(Dense(np.eye(lines)[members.reshape(-1)], np.zeros(members.size)))
    # sets of three in two rounds: those of the second round are met by what the first left
    first, second, third = (3 * np.arange(sets) + k for k in range(3))
    pairs = np.column_stack([first, second, third, third]).reshape(-1)
    b.add(Dense(np.eye(3 * sets)[pairs], np.zeros(4 * sets)))
    count = knockout(b, knockout(b, 4 * sets, -1.0), -1.0)
    while count > 1:
        count = knockout(b, count, 1.0)
    return b.build(), functions, members


def greatest_value(functions: Array, members: Array, box: Box) -> float:
    """The greatest value of the lattice on a box: for each set a linear program."""
    n = box.size
    best = -np.inf
    for group in members:
        rows = functions[group]
        found = linprog(
            np.r_[np.zeros(n), -1.0],
            A_ub=np.c_[-rows[:, :n], np.ones(len(rows))],
            b_ub=rows[:, n],
            bounds=[*zip(box.lower, box.upper, strict=True), (None, None)],
        )
        best = max(best, -found.fun)
    return best


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_lattices_become_maxima_and_stay_the_same_function(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network, functions, members = lattice(rng)
    reduced = reduce(network, (RecogniseMaxima(),))
    assert reduced.exact
    assert all(isinstance(node.operator, MaxPool) for node in reduced.network.activations)
    assert len(reduced.network.activations) == len(network.activations)
    x = [Fraction(int(k), 8) for k in rng.integers(-16, 17, size=2)]  # ties are likely
    lines = [sum(Fraction(a) * b for a, b in zip(f, (*x, 1), strict=True)) for f in functions.tolist()]
    truth = max(min(lines[j] for j in group) for group in members)
    (ours,) = ExactNetwork(reduced.network).output(x)
    assert ours == truth
    assert ExactNetwork(network).output(x) == [truth]


@pytest.mark.parametrize("above", [True, False])
def test_lattices_have_small_certificates(above: bool, tmp_path: Path) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        network, functions, members = lattice(rng, lines=16, sets=24)
        write_onnx(network, tmp_path / "n.onnx")
        network = verifier.load(tmp_path / "n.onnx")
        box = Box(np.full(2, -1.0), np.full(2, 1.0))
        x = box.sample(4000, rng)
        values = network.forward(x).reshape(-1)
        row, bound = (-1.0, -greatest_value(functions, members, box) - 0.01) if above else (1.0, values.min() - 0.5)
        asked = Query(
            network=network, box=box, disjuncts=(Conjunction(y_rows=np.array([[row]]), bound=np.array([bound])),)
        )
        (tmp_path / "p.vnnlib").write_text(write(asked))
        query = verifier.read_vnnlib(tmp_path / "p.vnnlib", network)
        verdict = verifier.verify(query, engine="native", proof=True, timeout=60)
        assert verdict.status is Status.HOLDS
        assert verdict.proof is not None, verdict.no_certificate
        assert "lattice" in verdict.proof.header["method"]
        assert len(verdict.proof.data) < 20_000
        verdict.proof.save(tmp_path / "c")
        assert verifier.check_proof(tmp_path / "c", tmp_path / "n.onnx", tmp_path / "p.vnnlib", jobs=1).margin > 0


@given(st.integers(0, 10**6))
def test_any_sum_of_one_relu_and_a_line_is_read_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = rng.integers(-3, 4, size=(3, 3)) / 2
    before = np.concatenate([units, -units, units, np.zeros((1, 3))])
    bias = np.concatenate([rng.integers(-2, 3, size=3) / 4] * 3 + [np.zeros(1)])
    bias[3:6] *= -1
    line = rng.integers(-3, 4, size=(4, 3)) / 4
    kept = np.eye(3)[rng.integers(0, 3, size=4)] * rng.integers(-2, 3, size=(4, 1))
    # a line l z is l relu(z) - l relu(-z); the third copy of z shares the remaining relu with the first
    after = np.hstack([line + kept / 4, -line, 3 * kept / 4, np.ones((4, 1))])
    b = NetworkBuilder((3,))
    for operator in (Dense(before, bias), relu(), Dense(after, rng.integers(-2, 3, size=4) / 2)):
        b.add(operator)
    network = b.build()
    reduced = reduce(network, (RecogniseMaxima(),)).network
    assert not reduced.is_relu_only
    for _ in range(5):
        x = [Fraction(int(k), 4) for k in rng.integers(-8, 9, size=3)]
        assert ExactNetwork(reduced).output(x) == ExactNetwork(network).output(x)


@pytest.mark.parametrize("block", ["two ReLUs", "rounded", "read elsewhere", "output"])
def test_other_blocks_are_left_alone(block: str) -> None:
    before = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    after = np.array([[0.5, -0.5, 0.5, 0.5]])
    if block == "two ReLUs":
        after = np.array([[0.5, 0.5, 0.5, 0.5]])
    if block == "rounded":
        after = after * 0.1
    b = NetworkBuilder((2,))
    first = b.add(Dense(before, np.zeros(4)))
    rectified = b.add(relu())
    last = b.add(Dense(after, np.zeros(1)))
    if block == "read elsewhere":
        from verifier.network.operators import Concat

        last = b.add(Concat(0), last, first)
    if block == "output":
        last = rectified
    network = b.build(last)
    assert reduce(network, (RecogniseMaxima(),)).network is network


def test_blocks_that_overlap_are_read_one_by_one() -> None:
    """In a chain of single ReLUs every layer but the first and the last ends one block and begins another."""
    b = NetworkBuilder((1,))
    for weight, bias in ((1.0, 0.5), (-0.5, 1.0), (2.0, -0.25), (0.75, -1.0), (-1.0, 2.0)):
        b.add(Dense(np.array([[weight]]), np.array([bias])))
        b.add(relu())
    network = b.build(b.add(Dense(np.array([[1.5]]), np.zeros(1))))
    reduced = reduce(network, (RecogniseMaxima(),)).network
    assert sum(isinstance(node.operator, MaxPool) for node in reduced) > 1
    for k in range(-12, 13):
        x = [Fraction(k, 4)]
        assert ExactNetwork(reduced).output(x) == ExactNetwork(network).output(x)


@pytest.mark.parametrize("inputs", [2, 3])
def test_answers_on_lattices_agree_with_their_linear_programs(inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    answers = []
    for trial in range(12):
        network, functions, members = lattice(rng, inputs, lines=8, sets=6)
        box = Box.around(rng.normal(size=inputs), 1.5, None)
        top = greatest_value(functions, members, box)
        above = (-1) ** trial * 10.0 ** -(trial % 4) * 0.1
        disjunct = Conjunction(y_rows=np.array([[-1.0]]), bound=np.array([-(top + above)]))
        query = Query(network=network, box=box, disjuncts=(disjunct,))
        result = NativeEngine(NativeSettings(exact=ExactSettings.never())).solve(
            query, Options(threads=1 + trial % 2), Deadline.after(20)
        )
        answers.append(result.answer)
        assert result.answer is (Answer.UNSAT if above > 0 else Answer.SAT), (trial, above)
        if result.answer is Answer.SAT:
            assert result.x is not None
            assert replay(query, result.x).exact
    assert set(answers) == {Answer.SAT, Answer.UNSAT}


def test_a_deadline_ends_the_search_of_a_lattice() -> None:
    rng = np.random.default_rng(5)
    network, functions, members = lattice(rng, 8, lines=40, sets=40)
    box = Box.around(np.zeros(8), 2.0, None)
    top = greatest_value(functions, members, box)
    disjunct = Conjunction(y_rows=np.array([[-1.0]]), bound=np.array([-(top + 1e-7)]))
    query = Query(network=network, box=box, disjuncts=(disjunct,))
    result = NativeEngine(NativeSettings(exact=ExactSettings.never())).solve(
        query, Options(threads=1), Deadline.after(0.3)
    )
    assert result.answer is Answer.TIMEOUT
    assert "boxes left" in result.reason
