"""Proofs: both searches and the early stages write them, they pass their check, and tampered ones do not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import verifier
from verifier import Options, Status
from verifier.bounds.decide import refuted_on_subproblems
from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine
from verifier.engines.native.certify import BoxCertifier
from verifier.engines.native.settings import NativeSettings, ReluSettings
from verifier.limits import Deadline
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, absolute, clip, leaky_relu, relu
from verifier.proofs import Proof, ProofError, load_proof
from verifier.proofs.check import check_proof
from verifier.proofs.kernel import ReluGraph, WeightedRows
from verifier.proofs.relu_network import fingerprint, relu_network
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box

OPTIONS = Options(prepass=False, proof=True)
ACTIVATIONS = {
    "relu": relu(),
    "leaky": leaky_relu(0.1),
    "clip": clip(-0.3, 0.7),
    "relu6": clip(0, 6),
    "absolute": absolute(),
}
KINDS = [*ACTIVATIONS, "linear layer", "convolutional"]


def network_of(kind: str, rng: np.random.Generator, inputs: int = 3) -> Network:
    """A small network; "convolutional" is residual, with MaxPool over windows that overlap and reach over the edge."""
    if kind != "convolutional":
        sizes = (inputs, 10, 10, 3)
        weights = [rng.normal(size=(b, a)) * 1.5 / np.sqrt(a) for a, b in itertools.pairwise(sizes)]
        biases = [0.3 * rng.normal(size=len(w)) for w in weights]
        if kind == "linear layer":  # the neurons of its second ReLU layer follow a layer without ReLUs
            builder = NetworkBuilder((inputs,))
            for weight, bias, bent in zip(weights, biases, (True, False, False), strict=True):
                builder.add(Dense(weight, bias))
                if bent:
                    builder.add(relu())
                    builder.add(Dense(rng.normal(size=(10, 10)) / 3, 0.3 * rng.normal(size=10)))
                elif weight.shape[0] == 10:
                    builder.add(relu())
            return builder.build()
        return feedforward(weights, biases, activation=ACTIVATIONS[kind])
    builder = NetworkBuilder((1, 4, 4))
    first = builder.add(Conv(rng.normal(size=(2, 1, 3, 3)) / 2, rng.normal(size=2) / 2, padding=(1, 1, 1, 1)))
    hidden = builder.add(relu(), first)
    second = builder.add(Conv(rng.normal(size=(2, 2, 3, 3)) / 4, rng.normal(size=2), padding=(1, 1, 1, 1)), hidden)
    builder.add(relu(), builder.add(Sum((1, -1)), second, hidden))
    builder.add(MaxPool((3, 3), (2, 2), (0, 0, 1, 1)))
    builder.add(Reshape((8,)))
    return builder.build(builder.add(Dense(rng.normal(size=(3, 8)), rng.normal(size=3))))


def queries(kind: str, seed: int, radius: float = 0.8, ways: tuple[float, ...] = (0.02, 0.05, 0.1)) -> list[Query]:
    """Two disjuncts each, whose rows miss their sampled minimum by various shares of their range."""
    rng = np.random.default_rng(seed)
    network = network_of(kind, rng)
    low = rng.random(network.input_size)
    free = rng.permutation(network.input_size)[:3]
    high = low.copy()
    high[free] += radius if kind != "convolutional" else radius / 4
    box = Box(low, high)
    x = box.sample(4000, rng)
    x[::2] = np.where(rng.random(x[::2].shape) < 0.8, np.where(x[::2] > box.center, high, low), x[::2])
    values = network.forward(x).reshape(len(x), -1)
    found = []
    for share in ways:
        disjuncts = []
        for _ in range(2):
            rows = rng.normal(size=(2, 3))
            tops = values @ rows.T
            bound = tops.min(axis=0) - share * np.ptp(tops, axis=0)
            bound[1] = tops[:, 1].max()  # no help
            disjuncts.append(Conjunction(y_rows=rows, bound=bound))
        found.append(Query(network=network, box=box, disjuncts=tuple(disjuncts)))
    return found


def proofs_of(found: list[Query], engine: NativeEngine) -> list[tuple[Query, Proof]]:
    """The proofs that the native engine writes of those that it proves."""
    result = []
    for query in found:
        answer = engine.solve(query, OPTIONS, Deadline.after(15))
        if answer.answer is Answer.UNSAT:
            assert answer.proof is not None
            result.append((query, answer.proof))
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_relu_networks_equal_the_networks_exactly(kind: str) -> None:
    rng = np.random.default_rng(3)
    network = network_of(kind, rng)
    reduced = relu_network(network)
    assert reduced.is_relu_only
    for x in rng.normal(size=(5, network.input_size)):
        assert ExactNetwork(reduced).output(x) == ExactNetwork(network).output(x)


def test_pieces_that_do_not_meet_exactly_are_refused() -> None:
    third = PiecewiseLinear((0.3,), (0.0, 1 / 3), (0.0, -0.1), (0.0,), "Hinge")
    network = feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)], activation=third)
    with pytest.raises(verifier.VerifierError, match=r"do not meet exactly at 0\.3"):
        relu_network(network)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_kernels_bounds_contain_the_samples_of_regions(kind: str, weighted: bool) -> None:
    rng = np.random.default_rng(4)
    network = relu_network(network_of(kind, rng))
    graph = ReluGraph(network)
    low = rng.random(network.input_size)
    high = low + 0.2
    x = Box(low, high).sample(3000, rng)
    values = network.values(x)
    z = np.concatenate([values[network[r].inputs[0]].reshape(len(x), -1) for r in graph.relus], axis=1)
    phases = np.zeros(graph.neurons, dtype=np.int8)
    base = graph.bounds(low, high, phases)
    undecided = np.flatnonzero((base.low < 0) & (base.high > 0))
    for neuron in undecided[:: max(1, len(undecided) // 3)][:3]:
        phases[neuron] = 1 if np.median(z[:, neuron]) > 0 else -1
    inside = (z * phases >= 0).all(axis=1)
    assert inside.any()
    rows = None
    if weighted:
        neuron, sign, weights = np.repeat(undecided, 2), np.tile([1, -1], len(undecided)).astype(np.int8), []
        for u in neuron:
            before = np.searchsorted(undecided, graph.first[np.searchsorted(graph.first, u, side="right") - 1])
            weights.append(np.where(phases[undecided[:before]] == 0, rng.random(before), 0.1 * rng.random(before)))
        rows = WeightedRows(neuron, sign, undecided, weights)
    bounds = graph.bounds(low, high, phases, base if weighted else None, rows)
    assert bounds.contradiction < 0
    assert (z[inside] >= bounds.low - 1e-12).all()
    assert (z[inside] <= bounds.high + 1e-12).all()
    row = rng.normal(size=(1, network.output_size))
    weights = np.where(phases == 0, rng.random((4, graph.neurons)), 0.2 * rng.random((4, graph.neurons)))
    found = graph.lower({graph.output: np.repeat(row, 4, axis=0)}, np.zeros(4), phases[None], bounds, weights)
    truth = (values[network.output].reshape(len(x), -1) @ row.T)[inside]
    assert ((found.slopes @ x[inside].T + found.constants[:, None] - 1e-12) <= truth.T).all()
    assert (found.least(low, high) <= truth.min()).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", ["input splitting", "ReLU splitting"])
def test_both_searches_write_proofs_that_pass(kind: str, search: str, tmp_path: Path) -> None:
    settings = NativeSettings(low_dimension=0) if search == "ReLU splitting" else NativeSettings()
    found = proofs_of(queries(kind, seed=1), NativeEngine(settings))
    assert len(found) >= 2
    for query, proof in found:
        assert proof.method == search
        proof.save(tmp_path / "proof.npz")
        read = load_proof(tmp_path / "proof.npz")
        checked = check_proof(read, query)
        assert checked.margin > 0
        assert checked.certificates >= len(query.disjuncts)
        assert checked.leaves == proof.leaves
    assert max(proof.nodes for _, proof in found) > 1


def test_parts_with_bounds_of_their_own_are_in_the_proof() -> None:
    engine = NativeEngine(NativeSettings(low_dimension=0, relu=ReluSettings.impatient()))
    found = proofs_of(queries("relu", seed=2, radius=0.6, ways=(0.05, 0.2, 0.4)), engine)
    assert found
    for query, proof in found:
        check_proof(proof, query)
    proof = max((p for _, p in found), key=lambda p: len(p.bounds_node))
    assert proof.bounds_weighted.sum() >= 3
    assert len(np.unique(proof.bounds_node)) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_halved_boxes_are_a_proof(kind: str) -> None:
    proved = 0
    for query in queries(kind, seed=5, radius=0.15, ways=(0.2, 0.5, 1.0)):
        certifier = BoxCertifier(query)
        if refuted_on_subproblems(query, boxes=30, certifier=certifier) is not None:
            check_proof(certifier.builder.proof(query, "boxes halved"), query)
            proved += 1
    assert proved


def test_verify_hands_the_proof_on() -> None:
    query = queries("relu", seed=1, ways=(0.5,))[0]
    verdict = verifier.verify(query, options=replace(OPTIONS, timeout=20))
    assert verdict.status is Status.HOLDS
    assert verdict.proof is not None
    check_proof(verdict.proof, query)
    assert verifier.verify(query, timeout=20).proof is None


def test_a_point_has_a_proof() -> None:
    network = network_of("relu", np.random.default_rng(0))
    x = np.full(3, 0.5)
    disjunct = Conjunction(y_rows=np.array([[1.0, 0.0, 0.0]]), bound=network.forward(x)[:1] - 1e-6)
    query = Query(network=network, box=Box(x, x), disjuncts=(disjunct,))
    answer = NativeEngine().solve(query, OPTIONS, Deadline.after(5))
    assert answer.answer is Answer.UNSAT
    check_proof(answer.proof, query)


def test_rows_on_inputs_alone_refute() -> None:
    network = network_of("relu", np.random.default_rng(0))
    disjuncts = [Conjunction(y_rows=np.eye(3)[:1], bound=np.array([1e3]))]
    low, high = np.zeros(3), np.ones(3)
    never = Conjunction(x_rows=np.array([[1.0, 0, 0], [-1.0, 0, 0]]), bound=np.array([0.4, -0.6]))
    query = Query(network=network, box=Box(low, high), disjuncts=(*disjuncts, never), common=never)
    answer = NativeEngine().solve(query, OPTIONS, Deadline.after(5))
    assert answer.answer is Answer.UNSAT
    check_proof(answer.proof, query)


def test_where_no_proofs_are_kept(bandit_query) -> None:
    with pytest.raises(verifier.InputError, match="writes no proof of such a query"):
        verifier.verify(bandit_query, proof=True)
    with pytest.raises(verifier.InputError, match="engine 'z3' writes no proof"):
        verifier.verify(queries("relu", seed=1)[0], engine="z3", proof=True)


@pytest.fixture
def bandit_query() -> Query:
    network = network_of("relu", np.random.default_rng(0))
    return verifier.saliency_robustness(network, np.full(3, 0.5), epsilon=0.1, delta=0.1)


# -- tampering ---------------------------------------------------------------------------------------------------
def kept(search: str) -> tuple[Query, Proof]:
    """A proof with several leaves, found once."""
    if search not in KEPT:
        settings = NativeSettings(low_dimension=0 if search == "ReLU splitting" else 16)
        found = proofs_of(queries("relu", seed=1, radius=0.8, ways=(0.03, 0.06, 0.1)), NativeEngine(settings))
        KEPT[search] = max(found, key=lambda pair: pair[1].nodes)
        assert KEPT[search][1].nodes >= 5
    return KEPT[search]


KEPT: dict[str, tuple[Query, Proof]] = {}
SEARCHES = ["input splitting", "ReLU splitting"]


def without(proof: Proof, c: int) -> Proof:
    """Without one certificate (its terms stay, used by none)."""
    terms = np.diff(proof.terms_start)
    order = [k for k in range(len(terms)) if k != c]
    chosen = [t for k in order for t in range(proof.terms_start[k], proof.terms_start[k + 1])]

    def pick(starts: np.ndarray, *flat: np.ndarray) -> tuple[np.ndarray, ...]:
        places = [np.arange(starts[t], starts[t + 1]) for t in chosen]
        index = np.concatenate([np.zeros(0, dtype=np.int64), *places])
        return np.cumsum([0, *(len(p) for p in places)]), *(f[index] for f in flat)

    rows_start, row, multiplier = pick(proof.rows_of_start, proof.row, proof.multiplier)
    weights_start, weights = pick(proof.weights_start, proof.weights)
    return replace(
        proof,
        **{name: np.delete(getattr(proof, name), c) for name in ("node", "case", "bounds")},
        terms_start=np.cumsum([0, *terms[order]]),
        rows_of_start=rows_start,
        row=row,
        multiplier=multiplier,
        weights_start=weights_start,
        weights=weights,
    )


@pytest.mark.parametrize("search", SEARCHES)
def test_a_leaf_that_is_missing_is_named(search: str) -> None:
    query, proof = kept(search)
    for c in range(len(proof.node)):
        disjunct = proof.case[c] if proof.case[c] >= 0 else r"\d"
        with pytest.raises(ProofError, match=rf"leaf node \d+ .*: disjunct {disjunct} is refuted nowhere"):
            check_proof(without(proof, c), query)


@pytest.mark.parametrize("search", SEARCHES)
def test_wrong_weights_are_refused(search: str) -> None:
    query, proof = kept(search)
    negative = proof.multiplier.copy()
    negative[0] = -1.0
    with pytest.raises(ProofError, match="multiplier of a row is negative"):
        check_proof(replace(proof, multiplier=negative), query)
    for bad, what in ((-0.5, "negative"), (np.nan, "negative")):
        weights = proof.weights.copy() if len(proof.weights) else np.zeros(1, dtype=np.float32)
        weights[0] = bad
        with pytest.raises(ProofError, match=f"{what}|wrong length"):
            check_proof(replace(proof, weights=weights), query)
    nothing = np.zeros_like(proof.multiplier)
    with pytest.raises(ProofError, match="is not refuted: the bound is"):
        check_proof(replace(proof, multiplier=nothing, weights=np.zeros_like(proof.weights)), query)
    if len(proof.weights):
        with pytest.raises(ProofError, match=r"is not refuted|above 1"):
            check_proof(replace(proof, weights=proof.weights * 0 + np.float32(30)), query)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_proof_is_of_one_question(search: str) -> None:
    query, proof = kept(search)
    wider = replace(query, box=Box(query.box.lower - 0.5, query.box.upper))
    with pytest.raises(ProofError, match=r"another property: its box differs \(low\)"):
        check_proof(proof, wider)
    with pytest.raises(ProofError, match="is not refuted"):  # and with the box in the proof widened too
        check_proof(replace(proof, low=wider.box.lower), wider)
    shifted = replace(query, disjuncts=tuple(replace(c, bound=c.bound + 0.5) for c in query.disjuncts))
    with pytest.raises(ProofError, match=r"its condition differs \(bound\)"):
        check_proof(proof, shifted)
    other = replace(query, network=network_of("relu", np.random.default_rng(9)))
    with pytest.raises(ProofError, match="another network"):
        check_proof(proof, other)
    with pytest.raises(ProofError, match="is not refuted"):  # and with the hash forged
        check_proof(replace(proof, network=fingerprint(other.network)), other)


def test_a_flipped_phase_and_a_moved_cut_are_refused() -> None:
    query, proof = kept("ReLU splitting")
    swapped = proof.node.copy()
    swapped[proof.node > 0] = np.where(proof.node % 2 == 0, proof.node - 1, proof.node + 1)[proof.node > 0]
    with pytest.raises(ProofError, match=r"is not refuted|elsewhere"):
        check_proof(replace(proof, node=swapped), query)
    query, proof = kept("input splitting")
    moved = proof.value + 0.7 * query.box.width[proof.axis]
    with pytest.raises(ProofError, match="is not refuted"):
        check_proof(replace(proof, value=moved), query)


def test_bounds_of_another_region_are_refused() -> None:
    query, proof = kept("input splitting")
    with pytest.raises(ProofError, match="uses bounds of a region elsewhere"):
        check_proof(replace(proof, bounds=np.roll(proof.bounds, 1)), query)
    base = np.arange(len(proof.bounds_base)) - 1  # of the record before, on some other branch
    with pytest.raises(ProofError, match="start from bounds of a region elsewhere"):
        check_proof(replace(proof, bounds_base=base), query)


def judgement(proof: Proof, query: Query) -> str:
    """What the checker says of a proof."""
    try:
        return "right" if check_proof(proof, query).leaves else "empty"
    except ProofError:
        return "refused"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_altered_number_makes_a_wrong_proof_or_another_error(data) -> None:
    """Any altered number leaves the file a proof of the same true statement, or is refused by a `ProofError`."""
    query, proof = kept(data.draw(st.sampled_from(SEARCHES)))
    names = [n for n in vars(proof) if isinstance(getattr(proof, n), np.ndarray) and getattr(proof, n).size]
    name = data.draw(st.sampled_from(names))
    array = getattr(proof, name).copy()
    k = data.draw(st.integers(0, array.size - 1))
    if array.dtype.kind == "f":
        array.flat[k] = data.draw(st.sampled_from([0.0, -1.0, 1.0, 1e30, np.nan, np.inf, 0.37]))
    elif array.dtype.kind == "b":
        array.flat[k] = not array.flat[k]
    else:
        array.flat[k] += data.draw(st.sampled_from([-100, -1, 1, 100]))
    altered = replace(proof, **{name: array})
    with np.errstate(all="ignore"):
        assert judgement(altered, query) in ("right", "refused")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_no_proof_of_a_false_statement_passes(seed: int, by_relus: bool) -> None:
    """The proof of a true property, offered for one that a sample refutes."""
    query, proof = kept(SEARCHES[by_relus])
    rng = np.random.default_rng(seed)
    x = query.box.sample(1, rng)
    y = query.network.forward(x).reshape(1, -1)
    disjunct = int(rng.integers(len(query.disjuncts)))
    met = replace(
        query.disjuncts[disjunct],
        bound=np.maximum(query.disjuncts[disjunct].bound, query.disjuncts[disjunct].y_rows @ y[0] + 1e-9),
    )
    false = replace(query, disjuncts=tuple(met if k == disjunct else c for k, c in enumerate(query.disjuncts)))
    bound = np.concatenate([c.bound for c in false.disjuncts])
    with pytest.raises(ProofError, match=rf"disjunct {disjunct} is not refuted"):
        check_proof(replace(proof, bound=bound), false)


# -- files -------------------------------------------------------------------------------------------------------
def test_damaged_files_are_refused(tmp_path: Path) -> None:
    _, proof = kept("input splitting")
    path = tmp_path / "proof.npz"
    proof.save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ProofError, match=r"proof\.npz"):
            load_proof(path)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read = load_proof(path)
        except ProofError:
            continue
        for name, value in vars(proof).items():  # a byte that says nothing, of a date say
            assert np.array_equal(getattr(read, name), value)
    path.write_bytes(rng.bytes(100))
    with pytest.raises(ProofError, match=r"not an \.npz file"):
        load_proof(path)
    with pytest.raises(ProofError, match="cannot be read"):
        load_proof(tmp_path / "none.npz")
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ProofError, match="no header of a proof"):
        load_proof(path)


def test_altered_arrays_and_other_versions_are_refused(tmp_path: Path) -> None:
    _, proof = kept("input splitting")
    path = tmp_path / "proof.npz"
    proof.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "value": arrays["value"] + 1e-3})
    with pytest.raises(ProofError, match="array 'value' was altered"):
        load_proof(path)
    newer = arrays["header"].tobytes().replace(b'"version": 1', b'"version": 9')
    np.savez(path, **{**arrays, "header": np.frombuffer(newer, dtype=np.uint8)})
    with pytest.raises(ProofError, match="is of version 9"):
        load_proof(path)
    np.savez(path, **{n: a for n, a in arrays.items() if n != "weights"})
    with pytest.raises(ProofError, match="missing or unknown: weights"):
        load_proof(path)


def test_a_property_of_acas_xu(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "vnncomp" / "acasxu"
    network = verifier.load(next(folder.glob("onnx/*_1_1_*")))
    query = verifier.read_vnnlib(next(folder.glob("vnnlib/prop_3.vnnlib*")), network)
    verdict = verifier.verify(query, engine="native", timeout=60, proof=True)
    assert verdict.status is Status.HOLDS
    verdict.proof.save(tmp_path / "proof.npz")
    checked = check_proof(load_proof(tmp_path / "proof.npz"), query)
    assert checked.leaves > 50
