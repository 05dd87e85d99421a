"""Certificates of questions about the gradient: whoever says HOLDS, and what the checker's bounds of gradients say."""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import verifier
from verifier import Options, Status
from verifier.cli import main
from verifier.network.convolution import Conv
from verifier.network.exact import ExactNetwork
from verifier.network.graph import NetworkBuilder, feedforward
from verifier.network.onnx_writer import write_onnx
from verifier.network.operators import Dense, Reshape, Sum
from verifier.network.piecewise import MaxPool, leaky_relu, relu
from verifier.proofs.checker.backward import Regions
from verifier.proofs.checker.check import digest
from verifier.proofs.checker.graph import CheckError, through
from verifier.proofs.checker.kernel import Kernel
from verifier.proofs.checker.onnx_file import read_bytes, read_network
from verifier.proofs.checker.statement import read_statement
from verifier.proofs.checking import ProofError, check_proof
from verifier.properties.builders import condition_at
from verifier.properties.query import Query

KINDS = ("relu", "leaky", "convolutional", "pooling")


def small(seed: int) -> verifier.Network:
    rng = np.random.default_rng(seed)
    sizes = (4, 8, 8, 3)
    weights = [rng.normal(size=(b, a)).astype(np.float32).astype(float) for a, b in pairwise(sizes)]
    biases = [rng.normal(size=len(w)).astype(np.float32).astype(float) / 4 for w in weights]
    return feedforward(weights, biases)


def network_of(kind: str, rng: np.random.Generator) -> verifier.Network:
    """A small network of float32 numbers; "convolutional" is residual, "pooling" has a MaxPool."""

    def short(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32).astype(float) / 2

    if kind in ("relu", "leaky"):
        bent = relu() if kind == "relu" else leaky_relu(0.125)
        return feedforward(
            [short(10, 3), short(10, 10), short(3, 10)], [short(10), short(10), short(3)], activation=bent
        )
    builder = NetworkBuilder((1, 4, 4))
    hidden = builder.add(relu(), builder.add(Conv(short(2, 1, 3, 3), short(2), padding=(1, 1, 1, 1))))
    if kind == "convolutional":
        second = builder.add(Conv(short(2, 2, 3, 3), short(2), padding=(1, 1, 1, 1)), hidden)
        builder.add(relu(), builder.add(Sum((1, -1)), second, hidden))
    else:
        builder.add(MaxPool((3, 3), (1, 1)))
    size = 32 if kind == "convolutional" else 8
    builder.add(Reshape((size,)))
    return builder.build(builder.add(Dense(short(3, size), short(3))))


def asked(
    network: verifier.Network, folder: Path, seed: int, delta: float, epsilon: float = 0.75
) -> tuple[Query, Path]:
    """A saliency question about a network that was read from a file; δ as a share of the map's largest entry."""
    path = folder / f"{seed}.onnx"
    write_onnx(network, path)
    network = verifier.load(path)
    x = np.round(np.random.default_rng(seed).uniform(-1, 1, network.input_size) * 64) / 64
    size = np.abs(network.gradient(x, int(np.argmax(network.forward(x))))).max()
    return verifier.saliency_robustness(network, x, epsilon=epsilon, delta=float(delta * size), domain=None), path


@pytest.mark.parametrize("engine", ["saliency", "highs"])
def test_whoever_says_holds_the_certificate_is_accepted(engine: str, tmp_path: Path) -> None:
    proved = divided = 0
    for seed in (0, 1, 7, 12):
        query, path = asked(small(seed), tmp_path, seed, 0.05)
        verdict = verifier.verify(query, options=Options(engine=engine, timeout=20), proof=tmp_path / "p")
        assert verdict.status is Status.HOLDS, verdict.reason
        assert verdict.proof is not None, verdict.no_certificate
        report = check_proof(tmp_path / "p", path, jobs=1)
        assert report.margin > 0
        assert report.words.startswith("every input within 0.75")
        proved += 1
        divided += report.leaves > 1
    assert proved == 4
    assert divided >= 1


ALL_MAPS = ("gradient", "absolute", "difference", "gradient-input", "integrated", "integrated-exact", "smooth")


@pytest.mark.parametrize("similarity", ["linf", "l1", "l2", "top-k"])
@pytest.mark.parametrize("name", ALL_MAPS)
def test_every_map_and_similarity_has_certificates(name: str, similarity: str, tmp_path: Path) -> None:
    write_onnx(small(1), tmp_path / "n.onnx")
    network = verifier.load(tmp_path / "n.onnx")
    x = np.round(np.random.default_rng(1).uniform(0.5, 1, network.input_size) * 64) / 64
    top = 2 if similarity == "top-k" else 0
    query = verifier.saliency_robustness(
        network, x, epsilon=0.02, delta=0.01, map=name, similarity=similarity, top_k=top
    )
    verdict = verifier.verify(query, timeout=60, proof=tmp_path / "p")
    assert verdict.status is Status.HOLDS
    assert verdict.proof is not None, verdict.no_certificate
    words = check_proof(tmp_path / "p", tmp_path / "n.onnx", jobs=1).words
    assert f"whose {name} map differs ({similarity})" in words


@pytest.mark.parametrize("similarity", ["linf", "l1", "l2"])
@pytest.mark.parametrize("name", ALL_MAPS[:4])
def test_what_is_asked_of_the_gradient_follows_from_similar_maps(name: str, similarity: str, tmp_path: Path) -> None:
    similar = 0
    for seed in range(4):
        write_onnx(small(seed), tmp_path / "n.onnx")
        network, rng = verifier.load(tmp_path / "n.onnx"), np.random.default_rng(seed)
        x = np.round(rng.uniform(-1, 1, network.input_size) * 64) / 64
        query = verifier.saliency_robustness(
            network, x, epsilon=0.25, delta=0.5, map=name, similarity=similarity, domain=None
        )
        condition = condition_at(network, x, 0.5, map=name, similarity=similarity)
        graph = read_network(read_bytes(tmp_path / "n.onnx"))
        assert query.statement is not None
        read_statement(query.statement.text, graph)
        low, high = graph.asked[graph.outputs["g"]]
        points = np.concatenate([query.box.sample(300, rng), x + rng.normal(size=(300, network.input_size)) / 50])
        points = points[condition.margin(points) > 1e-9]
        gradients = network.gradient(points, condition.output).reshape(len(points), -1)
        similar += len(points)
        assert ((gradients >= low - 1e-9) & (gradients <= high + 1e-9)).all()
    assert similar > 100


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_values_and_gradients_are_bounds_at_every_solution(kind: str, tmp_path: Path) -> None:
    seen = 0
    for seed in range(6):
        query, path = asked(network_of(kind, np.random.default_rng(seed)), tmp_path, seed, 0.3)
        assert query.statement is not None
        graph = read_network(read_bytes(path))
        read_statement(query.statement.text, graph)
        box = query.box
        with np.errstate(invalid="ignore"):
            kernel = Kernel(graph)
            phases = np.zeros((1, graph.relus), dtype=np.int8)
            found = kernel.bounds(Regions(box.lower[None], box.upper[None], phases), kernel.nothing())
        low, high = graph.asked[graph.outputs["g"]]
        rng = np.random.default_rng(seed)
        near = box.center + (box.sample(300, rng) - box.center) * rng.uniform(size=(300, 1)) ** 3
        for x in near:
            values = {0: x}
            z = np.zeros(graph.units)
            for number, node in enumerate(graph.nodes[1:], start=1):
                if node.kind == "affine":
                    values[number] = node.constant + sum(through(m, values[s][None])[0] for s, m in node.terms)
                    continue
                source = values[node.terms[0][0]]
                z[node.part] = source
                relu = node if node.kind == "relu" else graph.nodes[node.relu]
                values[number] = np.where(values[relu.terms[0][0]] > 0, source, 0.0)
            g = values[graph.outputs["g"]]
            if not ((g >= low) & (g <= high)).all():
                continue
            seen += 1
            assert not found.empty[0]
            assert (found.low[0] <= z + 1e-9).all()
            assert (z <= found.high[0] + 1e-9).all()
            on = z[: graph.relus] > 0
            assert (on[found.phases[0] > 0] | (np.abs(z[: graph.relus][found.phases[0] > 0]) < 1e-9)).all()
            assert not (z[: graph.relus][found.phases[0] < 0] > 1e-9).any()
    assert seen > 20


@pytest.mark.parametrize("kind", KINDS)
def test_the_statement_s_gradient_is_the_exact_one(kind: str, tmp_path: Path) -> None:
    query, path = asked(network_of(kind, np.random.default_rng(5)), tmp_path, 5, 0.5)
    assert query.statement is not None
    assert query.gradient is not None
    graph = read_network(read_bytes(path))
    claim = read_statement(query.statement.text, graph)
    said = json.loads(query.statement.text)
    label = said["label"]
    exact = ExactNetwork(query.network).gradient([Fraction(v) for v in query.start.tolist()], label)
    delta = Fraction(float.fromhex(said["delta"])) if "x" in said["delta"] else Fraction(said["delta"])
    rows = claim.disjuncts[0].rows[1:]
    assert [row.bound for row in rows[::2]] == [g + delta for g in exact]
    assert [row.bound for row in rows[1::2]] == [delta - g for g in exact]


def forged(data: bytes, statement: str, network: bytes) -> bytes:
    """The same tree as a proof of something else."""
    head, _, body = lzma.decompress(data).partition(b"\n")
    header = json.loads(head) | {
        "statement": statement,
        "property": digest(statement.encode()),
        "network": digest(network),
    }
    return lzma.compress(json.dumps(header).encode() + b"\n" + body)


def test_no_edit_makes_a_proof_of_something_false(tmp_path: Path) -> None:
    rng, tried, refused, stood = np.random.default_rng(0), 0, 0, 0
    for seed in (0, 1, 7):
        query, path = asked(small(seed), tmp_path, seed, 0.05)
        verdict = verifier.verify(query, options=Options(engine="saliency", timeout=30), proof=True)
        false, _ = asked(small(seed), tmp_path, seed, 2.0, epsilon=3.0)
        other = verifier.verify(false, options=Options(engine="saliency", timeout=30))
        assert verdict.proof is not None, verdict.no_certificate
        assert other.status is Status.VIOLATED, other.reason
        assert false.statement is not None
        assert query.statement is not None
        stood += 1
        data, network = verdict.proof.data, read_bytes(path)
        wider = forged(data, false.statement.text, network)
        plain = lzma.decompress(wider)
        start = plain.index(b"\n") + 1
        edits = [wider]
        for _ in range(40):  # the forged proof, and each with another edit of its tree
            edit = bytearray(plain)
            at = int(rng.integers(start, len(edit)))
            match int(rng.integers(4)):
                case 0:
                    edit[at] ^= 1 << int(rng.integers(8))
                case 1:
                    del edit[at : at + int(rng.integers(1, 12))]
                case 2:
                    edit[at:at] = edit[at : at + int(rng.integers(1, 12))]
                case _:
                    del edit[at:]
            edits.append(lzma.compress(bytes(edit)))
        for edit in edits:
            tried += 1
            (tmp_path / "edited").write_bytes(edit)
            with pytest.raises((ProofError, CheckError, verifier.VerifierError)):
                check_proof(tmp_path / "edited", path, jobs=1)
            refused += 1
        # an edited proof of what is true may still be one; never of another network or statement
        changed = small(seed)
        nodes = list(changed.nodes)
        nodes[1] = replace(nodes[1], operator=replace(nodes[1].operator, weight=nodes[1].operator.weight * 1.5))
        write_onnx(replace(changed, nodes=tuple(nodes)), tmp_path / "other.onnx")
        (tmp_path / "true").write_bytes(data)
        with pytest.raises(ProofError):
            check_proof(tmp_path / "true", tmp_path / "other.onnx", jobs=1)
        (tmp_path / "said.json").write_text(false.statement.text)
        with pytest.raises(ProofError):
            check_proof(tmp_path / "true", path, tmp_path / "said.json", jobs=1)
    assert stood == 3
    assert tried == refused > 120


def test_what_depends_on_a_map_that_the_checker_does_not_know_says_so(tmp_path: Path) -> None:
    """The label holds where the map is similar, and not everywhere."""
    path = tmp_path / "n.onnx"
    write_onnx(feedforward([np.array([[1.0, -1], [-1, 1]]), np.eye(2)], [np.zeros(2), np.array([0.25, 0])]), path)
    network = verifier.load(path)
    asked = {"epsilon": 1.0, "delta": 0.5, "domain": None}
    for name, known in (("gradient", True), ("smooth", False)):
        query = verifier.saliency_robustness(network, np.array([0.9, 0.1]), map=name, **asked)
        verdict = verifier.verify(query, options=Options(timeout=30), proof=True)
        assert verdict.status is Status.HOLDS, (name, verdict)
        assert (verdict.proof is not None) == known, (name, verdict.no_certificate)
        assert known or "no conditions on such a map" in verdict.no_certificate


def test_the_command_writes_a_certificate_that_carries_its_claim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query, path = asked(small(12), tmp_path, 12, 0.05)
    assert query.condition is None
    np.save(tmp_path / "x.npy", query.start)
    words = ["saliency", str(path), str(tmp_path / "x.npy"), "--epsilon", "0.75", "--domain", "none"]
    assert main([*words, "--delta", "0.01", "--proof", str(tmp_path / "p")]) == 0
    capsys.readouterr()
    assert main(["check-proof", str(tmp_path / "p"), str(path)]) == 0
    assert "whose gradient map differs (linf) by at most 0.01 from its own has label" in capsys.readouterr().out
    assert main([*words, "--find", "delta", "--proof", str(tmp_path / "p")]) == 2


@pytest.mark.parametrize(
    "wrong", ['"delta": Infinity', '"delta": "x"', '"label": 7', '"input": [0]', '"epsilon": "1/0"']
)
def test_a_statement_that_makes_no_sense_is_refused(wrong: str, tmp_path: Path) -> None:
    query, path = asked(small(1), tmp_path, 1, 0.05)
    assert query.statement is not None
    said = json.loads(query.statement.text) | json.loads("{" + wrong + "}")
    with pytest.raises(CheckError):
        read_statement(json.dumps(said), read_network(read_bytes(path)))
