"""Certificates: every search writes them, the checker that stands alone accepts them, and its bounds are bounds."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest

import verifier
from verifier import Options, Status
from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine
from verifier.engines.native.settings import NativeSettings, RecordSettings, ReluSettings
from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.onnx_writer import write_onnx
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, leaky_relu, relu
from verifier.proofs.checker.backward import Regions, lower
from verifier.proofs.checker.kernel import Kernel
from verifier.proofs.checker.onnx_file import read_bytes, read_network
from verifier.proofs.checker.statement import values as exact_values
from verifier.proofs.relu_network import relu_network
from verifier.proofs.writer import finish
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.properties.vnnlib1 import write

KINDS = ("relu", "leaky", "convolutional", "pooling")
ENGINES = {
    "boxes": NativeEngine(),
    "bounds at every box": NativeEngine(NativeSettings(record=RecordSettings(every=1, worth=0.1))),
    "ReLUs": NativeEngine(NativeSettings(low_dimension=0)),
    "ReLUs, impatiently": NativeEngine(NativeSettings(low_dimension=0, relu=ReluSettings.impatient())),
}


def network_of(kind: str, rng: np.random.Generator) -> Network:
    """A small network of float32 numbers; "convolutional" is residual, "pooling" has a MaxPool."""
    if kind in ("relu", "leaky"):
        sizes = (3, 10, 10, 3)
        weights = [rng.normal(size=(b, a)) * 1.5 / np.sqrt(a) for a, b in itertools.pairwise(sizes)]
        biases = [0.3 * rng.normal(size=len(w)) for w in weights]
        bent = relu() if kind == "relu" else leaky_relu(0.125)
        return feedforward([short(w) for w in weights], [short(b) for b in biases], activation=bent)
    builder = NetworkBuilder((1, 4, 4))
    first = builder.add(
        Conv(short(rng.normal(size=(2, 1, 3, 3)) / 2), short(rng.normal(size=2) / 2), padding=(1, 1, 1, 1))
    )
    hidden = builder.add(relu(), first)
    if kind == "convolutional":
        second = Conv(short(rng.normal(size=(2, 2, 3, 3)) / 4), short(rng.normal(size=2)), padding=(1, 1, 1, 1))
        builder.add(relu(), builder.add(Sum((1, -1)), builder.add(second, hidden), hidden))
    else:
        builder.add(MaxPool((3, 3), (1, 1)))
    size = 32 if kind == "convolutional" else 8
    builder.add(Reshape((size,)))
    return builder.build(builder.add(Dense(short(rng.normal(size=(3, size))), short(rng.normal(size=3)))))


def short(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


def asked(kind: str, seed: int, folder: Path, share: float = 0.05) -> tuple[Query, Path, Path]:
    """A question of two disjuncts, whose first rows miss their sampled minimum by a share of their range, and its files."""
    rng = np.random.default_rng(seed)
    network = network_of(kind, rng)
    low = short(rng.random(network.input_size))
    high = low.copy()
    high[rng.permutation(network.input_size)[:3]] += 0.75 if kind in ("relu", "leaky") else 0.5
    x = Box(low, high).sample(4000, rng)
    x[::2] = np.where(x[::2] > (low + high) / 2, high, low)
    values = network.forward(x).reshape(len(x), -1)
    disjuncts = []
    for _ in range(2):
        rows = rng.normal(size=(2, 3))
        tops = values @ rows.T
        bound = tops.min(axis=0) - share * np.ptp(tops, axis=0)
        bound[1] = tops[:, 1].max()  # no help
        disjuncts.append(Conjunction(y_rows=rows, bound=bound))
    network_file, property_file = folder / "n.onnx", folder / "p.vnnlib"
    write_onnx(network, network_file)
    property_file.write_text(write(Query(network=network, box=Box(low, high), disjuncts=tuple(disjuncts))))
    return verifier.read_vnnlib(property_file, verifier.load(network_file)), network_file, property_file


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_search_writes_certificates_that_are_accepted(kind: str, engine: str, tmp_path: Path) -> None:
    proved = 0
    for seed, share in ((1, 0.02), (2, 0.1)):
        query, *files = asked(kind, seed, tmp_path, share)
        found = ENGINES[engine].solve(query, Options(prepass=False, proof=True), Deadline.after(30))
        if found.answer is not Answer.UNSAT:
            continue
        assert found.proof is not None
        proved += 1
        finish(query, found.proof, engine).save(tmp_path / "c")
        report = verifier.check_proof(tmp_path / "c", *files, jobs=1)
        assert report.leaves >= 1
        assert report.margin > 0
    assert proved


@pytest.mark.parametrize("kind", KINDS)
def test_the_checker_reads_the_network_that_was_written(kind: str, tmp_path: Path) -> None:
    query, network_file, _ = asked(kind, 5, tmp_path)
    graph = read_network(read_bytes(network_file))
    reduced = relu_network(query.network)
    assert graph.relus == sum(node.size for node in reduced.activations)
    for x in query.box.sample(5, np.random.default_rng(0)):
        found = exact_values(graph, [Fraction(v) for v in x.tolist()])
        assert found[graph.outputs["y"]] == list(ExactNetwork(query.network).output(x))


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_contain_samples_whatever_the_weights(kind: str, tmp_path: Path) -> None:
    query, network_file, _ = asked(kind, 4, tmp_path)
    graph = read_network(read_bytes(network_file))
    rng, kernel = np.random.default_rng(4), Kernel(graph)
    reduced = relu_network(query.network)
    x = query.box.sample(3000, rng)
    values = reduced.values(x)
    z = np.concatenate([values[node.inputs[0]].reshape(len(x), -1) for node in reduced.activations], axis=1)
    phases = np.zeros((1, graph.relus), dtype=np.int8)
    box = query.box.lower[None], query.box.upper[None]
    base = kernel.bounds(Regions(*box, phases), kernel.nothing())
    assert (base.low[0] <= z).all()
    assert (z <= base.high[0]).all()
    undecided = np.flatnonzero((base.low[0] < 0) & (base.high[0] > 0))
    for neuron in undecided[:: max(1, len(undecided) // 3)][:3]:
        phases[0, neuron] = 1 if np.median(z[:, neuron]) > 0 else -1
    inside = (z * phases[0] >= 0).all(axis=1)
    assert inside.any()
    at = Regions(*box, phases)
    bounds = kernel.bounds(at, base)
    assert (bounds.low[0] <= z[inside]).all()
    assert (z[inside] <= bounds.high[0]).all()
    y = values[reduced.output].reshape(len(x), -1)[inside]
    rows = rng.normal(size=(40, y.shape[1]))
    slopes = np.where(phases == 0, rng.random((40, graph.units)), 0.1 * rng.random((40, graph.units)))
    free = np.where(rng.random(slopes.shape) < 0.3, rng.normal(size=slopes.shape), np.nan)
    nowhere = np.full(slopes.shape, np.nan)
    for weights in (None, (slopes, nowhere), (slopes, free), (nowhere, nowhere)):
        found = lower(kernel, {graph.outputs["y"]: rows}, np.zeros(40, dtype=np.intp), bounds, weights)
        below = x[inside] @ found.slopes.T + found.constants - found.slack
        assert (below <= y @ rows.T).all()


def test_the_checker_stands_alone(tmp_path: Path) -> None:
    query, *files = asked("relu", 2, tmp_path)
    verdict = verifier.verify(query, engine="native", proof=tmp_path / "c")
    assert verdict.status is Status.HOLDS
    folder = Path(verifier.__file__).parent / "proofs" / "checker"
    shutil.copytree(folder, tmp_path / "alone" / "checker")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from checker.__main__ import main\n"
        "status = main(sys.argv[2:])\n"
        "mine = {name.split('.')[0] for name in sys.modules}\n"
        "assert not mine & {'verifier', 'torch', 'scipy', 'numba', 'onnx', 'highspy', 'flint', 'z3'}, mine\n"
        "sys.exit(status)"
    )
    arguments = [sys.executable, "-I", "-c", code, str(tmp_path / "alone"), str(tmp_path / "c"), *map(str, files)]
    found = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "the proof is right" in found.stdout
    assert subprocess.run(arguments[:-1], capture_output=True, check=False).returncode == 2


def test_a_verdict_says_why_it_has_no_certificate(tmp_path: Path) -> None:
    query, *_ = asked("relu", 2, tmp_path)
    built = replace(query, network=replace(query.network, model_file=""))
    verdict = verifier.verify(built, engine="native", proof=True)
    assert verdict.status is Status.HOLDS
    assert verdict.proof is None
    assert "not read from an ONNX file" in verdict.no_certificate
    third = PiecewiseLinear((0.3,), (0.0, 1 / 3), (0.0, -0.1), (0.0,), "Hinge")
    network = feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)], activation=third)
    with pytest.raises(verifier.VerifierError, match=r"do not meet exactly at 0\.3"):
        relu_network(network)


def test_another_engines_word_is_proved_again_for_the_certificate(tmp_path: Path) -> None:
    query, *files = asked("relu", 2, tmp_path)
    verdict = verifier.verify(query, engine="z3", proof=tmp_path / "c")
    assert verdict.status is Status.HOLDS
    assert verdict.engine == "z3"
    assert verdict.no_certificate == ""
    verifier.check_proof(tmp_path / "c", *files)


def test_disjuncts_with_the_same_rows_in_another_order(tmp_path: Path) -> None:
    """One stands for the other; a row's number is that of the disjunct that is spoken of."""
    network = verifier.feedforward([[[1.0], [-1.0], [0.5]], [[1.0, 1.0, 1.0]]], [[0.0, 0.25, -0.25], [0.0]])
    first, second = np.array([[1.0], [-1.0]]), np.array([-0.5, 2.0])  # at least 0.25 is at most -0.5, and at least -2
    disjuncts = [Conjunction(y_rows=first[order], bound=second[order]) for order in ([0, 1], [1, 0])]
    query = Query(network=network, box=Box(np.array([-1.0]), np.array([1.0])), disjuncts=tuple(disjuncts))
    files = tmp_path / "n.onnx", tmp_path / "p.vnnlib"
    write_onnx(network, files[0])
    files[1].write_text(write(query))
    query = verifier.read_vnnlib(files[1], verifier.load(files[0]))
    found = ENGINES["ReLUs"].solve(query, Options(prepass=False, proof=True), Deadline.after(30))
    assert found.proof is not None
    finish(query, found.proof, "ReLUs").save(tmp_path / "c")
    assert verifier.check_proof(tmp_path / "c", *files, jobs=1).leaves >= 1


def test_a_default_slope_that_rounding_decides_is_written_down(tmp_path: Path) -> None:
    """On [-1, 1 + 5e-10] the search takes the slope 1, and the checker, left to itself, 0: ``relu(x) - x`` would be at least -1."""
    network = feedforward([[[1.0], [1.0]], [[1.0, -1.0]]], [[0.0, 5.0], [5.0]])
    files = tmp_path / "n.onnx", tmp_path / "p.vnnlib"
    write_onnx(network, files[0])
    box = Box(np.array([-1.0]), np.array([1.0 + 5e-10]))
    files[1].write_text(
        write(Query(network=network, box=box, disjuncts=(Conjunction(y_rows=np.ones((1, 1)), bound=np.array([-0.5])),)))
    )
    query = verifier.read_vnnlib(files[1], verifier.load(files[0]))
    found = ENGINES["boxes"].solve(query, Options(prepass=False, proof=True), Deadline.after(30))
    assert found.answer is Answer.UNSAT
    assert found.proof is not None
    finish(query, found.proof, "boxes").save(tmp_path / "c")
    assert verifier.check_proof(tmp_path / "c", *files, jobs=1).margin > 0.4


def test_the_checker_pads_constants_with_zeros(tmp_path: Path) -> None:
    """Places of a value's entries are moved with -1 for a zero; numbers of a constant are not places."""
    helper = onnx.helper
    nodes = [
        helper.make_node("Pad", ["b", "pads"], ["padded"]),
        helper.make_node("Add", ["x", "padded"], ["z"]),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    constants = [
        helper.make_tensor("b", onnx.TensorProto.FLOAT, (1, 1), [0.5]),
        helper.make_tensor("pads", onnx.TensorProto.INT64, (4,), [0, 0, 0, 1]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 2)) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph), tmp_path / "n.onnx")
    found = read_network(read_bytes(tmp_path / "n.onnx"))
    assert exact_values(found, [Fraction(1), Fraction(1)])[found.outputs["y"]] == [Fraction(3, 2), Fraction(1)]


def test_relus_of_opposite_values_are_one(tmp_path: Path) -> None:
    """``relu(-z) = relu(z) - z``, where no gradient is asked for."""
    network = feedforward(
        [[[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], [[1.0, -1.0, 0.0, 0.0]]],
        [[0.5, -0.5, 0.0, 0.5], [0.0]],
    )
    write_onnx(network, tmp_path / "n.onnx")
    plain, paired = (read_network(read_bytes(tmp_path / "n.onnx"), twins) for twins in (False, True))
    assert plain.relus == paired.relus == 4
    x = np.random.default_rng(0).normal(size=(20, 2))
    for point in x.tolist():
        point = [Fraction(v) for v in point]
        assert exact_values(plain, point)[plain.outputs["y"]] == exact_values(paired, point)[paired.outputs["y"]]
    for graph, least in ((plain, -3.0), (paired, -1.5)):  # relu(z) - relu(-z) = z with z in [-1.5, 2.5]
        kernel, box = Kernel(graph), (np.full((1, 2), -1.0), np.full((1, 2), 1.0))
        bounds = kernel.bounds(Regions(*box, np.zeros((1, 4), dtype=np.int8)), kernel.nothing())
        found = lower(kernel, {graph.outputs["y"]: np.ones((1, 1))}, np.zeros(1, dtype=np.intp), bounds).least(*box)
        assert least - 1e-9 < found[0] < least + 1e-9
