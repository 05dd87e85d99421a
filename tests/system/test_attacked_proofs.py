"""Certificates under attack: more than two thousand edits, and forged ones of false properties. None may be accepted.

The judge is not the checker: every edit is also presented as a certificate of a *false* property about the same network (one that
a point of the box violates, exactly), with digests that fit, and there nothing at all may be accepted. Edits that leave no
certificate whatever they hit (a leaf dropped, the end cut off, another network …) may not be accepted for the true one either.
"""

from __future__ import annotations

import json
import lzma
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import verifier
from verifier import Options
from verifier.cli import main
from verifier.engines.base import Answer
from verifier.engines.native import NativeEngine
from verifier.engines.native.settings import NativeSettings
from verifier.limits import Deadline
from verifier.network.exact import ExactNetwork
from verifier.network.graph import feedforward
from verifier.network.onnx_writer import write_onnx
from verifier.proofs.checker.check import Checker, digest
from verifier.proofs.checker.graph import CheckError, Graph
from verifier.proofs.checker.onnx_file import read_bytes, read_network
from verifier.proofs.checker.stream import Stream
from verifier.proofs.checker.vnnlib import read_property
from verifier.proofs.tree import ProofTree, Term, Weights
from verifier.proofs.writer import finish

CERTIFICATES, EDITS, FORGED = 20, 100, 300


@dataclass
class Case:
    """A network, a true and a false property of it (files), and the true one's certificate."""

    network: Path
    true: Path
    false: Path
    certificate: bytes
    graph: Graph

    @property
    def parts(self) -> tuple[dict[str, object], bytes]:
        """Header and body."""
        head, body = lzma.decompress(self.certificate).split(b"\n", 1)
        return json.loads(head), body

    def accepts(self, header: dict[str, object], body: bytes, claim: Path, folder: Path) -> bool:
        """What the checker says of an edited certificate of a property, the digests put right."""
        header = {**header, "network": digest(read_bytes(self.network)), "property": digest(claim.read_bytes())}
        path = folder / "edited"
        path.write_bytes(lzma.compress(json.dumps(header).encode() + b"\n" + body, preset=0))
        try:
            Checker(self.graph, read_property(claim.read_text(), 3, 2), Stream(path), (0, 1)).run()
        except CheckError:
            return False
        return True


def property_text(low: np.ndarray, row: np.ndarray, bound: float, width: float) -> str:
    lines = [f"(declare-const X_{k} Real)" for k in range(3)] + [f"(declare-const Y_{k} Real)" for k in range(2)]
    lines += [f"(assert (>= X_{k} {v!r})) (assert (<= X_{k} {v + width!r}))" for k, v in enumerate(low.tolist())]
    return "\n".join([*lines, f"(assert (<= (+ (* {float(row[0])!r} Y_0) (* {float(row[1])!r} Y_1)) {bound!r}))"])


def made(seed: int, folder: Path) -> Case:
    """One case; even ones by input splitting, odd ones by ReLU splitting."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    network = feedforward(
        [rng.normal(size=(8, 3)), rng.normal(size=(6, 8)) / 2, rng.normal(size=(2, 6))],
        [0.3 * rng.normal(size=8), 0.3 * rng.normal(size=6), np.zeros(2)],
    )
    write_onnx(network, folder / "n.onnx")
    network = verifier.load(folder / "n.onnx")
    low, row, width = np.round(rng.random(3), 3), np.round(rng.normal(size=2), 3), 0.75
    x = low + width * rng.random((20000, 3))
    x[::2] = np.where(rng.random(x[::2].shape) < 0.7, low + width * (x[::2] > low + width / 2), x[::2])
    values = network.forward(x) @ row
    least, spread = float(values.min()), float(np.ptp(values))
    (folder / "false.vnnlib").write_text(property_text(low, row, least + 1e-3 * spread, width))
    worst = ExactNetwork(network).output(x[values.argmin()])
    assert float(sum(float(a) * float(b) for a, b in zip(row, worst, strict=True))) < least + 1e-3 * spread
    engine = NativeEngine(NativeSettings(low_dimension=0 if seed % 2 else 16))
    for share in (0.03, 0.1, 0.3):
        (folder / "true.vnnlib").write_text(property_text(low, row, least - share * spread, width))
        query = verifier.read_vnnlib(folder / "true.vnnlib", network)
        found = engine.solve(query, Options(prepass=False, proof=True), Deadline.after(20))
        if found.answer is Answer.UNSAT:
            assert found.proof is not None
            certificate = finish(query, found.proof, "test").data
            graph = read_network(read_bytes(folder / "n.onnx"))
            return Case(folder / "n.onnx", folder / "true.vnnlib", folder / "false.vnnlib", certificate, graph)
    raise AssertionError("nothing was proved")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("attacked")
    return [made(seed, folder / str(seed)) for seed in range(CERTIFICATES)]


def edits(body: bytes, rng: random.Random) -> Iterator[bytes]:
    """Edited bodies: bytes, numbers, spans lost, doubled, swapped, reversed, tags changed."""
    for _ in range(EDITS):
        data, at = bytearray(body), rng.randrange(len(body))
        span = body[at : at + rng.choice([1, 2, 3, 8, 20])]
        match rng.randrange(9):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + len(span)]
            case 2:
                data[at:at] = span
            case 3:
                other = rng.randrange(len(body))
                data[at : at + len(span)] = body[other : other + len(span)]
            case 4:
                data[at : at + len(span)] = span[::-1]
            case 5:
                data[at] = rng.choice(b"BWRCXUD\0\1\2\3")
            case 6:
                at = min(at, max(0, len(body) - 8))
                (value,) = struct.unpack("<d", body[at : at + 8].ljust(8, b"\0"))
                data[at : at + 8] = struct.pack("<d", np.nextafter(value, rng.choice([-1e300, 1e300])))[
                    : len(body) - at
                ]
            case 7:
                data[at:at] = rng.randbytes(rng.randrange(1, 10))
            case 8:
                data[at] ^= 128  # signs of numbers, lengths of integers
        yield bytes(data)


def test_no_edit_proves_a_false_property(cases: list[Case], tmp_path: Path) -> None:
    tried = 0
    for k, case in enumerate(cases):
        header, body = case.parts
        assert case.accepts(header, body, case.true, tmp_path)
        assert not case.accepts(header, body, case.false, tmp_path)
        for edited in edits(body, random.Random(k)):
            tried += 1
            assert not case.accepts(header, edited, case.false, tmp_path)
    assert tried >= 2000


def test_what_is_cut_off_lost_or_of_something_else_is_refused(cases: list[Case], tmp_path: Path) -> None:
    for k, case in enumerate(cases):
        header, body = case.parts
        other = cases[(k + 1) % len(cases)]
        for end in {0, 1, len(body) // 2, len(body) - 1}:
            assert not case.accepts(header, body[:end], case.true, tmp_path)
        assert not case.accepts(header, body + b"B", case.true, tmp_path)
        assert not case.accepts(header, body + body, case.true, tmp_path)
        for groups in ([], [[0, 0]], [[0], [0]], [[1]], [0], "0", None, [[0, 1]]):
            assert not case.accepts({**header, "groups": groups}, body, case.true, tmp_path)
        for name, value in (("format", "another"), ("version", 1), ("version", None)):
            assert not case.accepts({**header, name: value}, body, case.true, tmp_path)
        (tmp_path / "c").write_bytes(case.certificate)
        for network, claim in ((other.network, case.true), (case.network, other.true), (case.network, case.false)):
            with pytest.raises(verifier.ProofError, match="another"):
                verifier.check_proof(tmp_path / "c", network, claim, jobs=1)
        text = case.true.read_text()
        wider = tmp_path / "wider.vnnlib"
        low = text.split("(>= X_0 ")[1].split(")")[0]
        wider.write_text(text.replace(f"(>= X_0 {low})", f"(>= X_0 {float(np.nextafter(float(low), -1))!r})"))
        with pytest.raises(verifier.ProofError, match="another property"):
            verifier.check_proof(tmp_path / "c", case.network, wider, jobs=1)


def forged(rng: random.Random, graph: Graph, root_low: np.ndarray) -> ProofTree:
    """A tree that is well formed and proves nothing: random divisions, bounds, weights and multipliers."""
    tree, numbers = ProofTree(), np.random.default_rng(rng.randrange(1 << 30))

    def terms(fixed: dict[int, int]) -> list[Term]:
        found = []
        for _ in range(rng.randrange(4)):
            units = np.flatnonzero(numbers.random(graph.relus) < 0.7)
            free = rng.random() < 0.5
            values = numbers.normal(size=len(units)) * 3 if free else numbers.random(len(units))
            multiplier = rng.choice([0.0, 1.0, 2.0**-30, 1e6])
            found.append(Term([0], [multiplier], rng.choice([None, Weights(units, values, free)])))
        return found

    def grow(node: int, depth: int, fixed: dict[int, int], case: int) -> None:
        if rng.random() < 0.6:
            tree.bounds(node)
        if depth and rng.random() < 0.7:
            if rng.random() < 0.5 and len(fixed) < graph.relus:
                unit = rng.choice([u for u in range(graph.relus) if u not in fixed])
                for part, sign in zip(tree.divide_neuron(node, unit), (1, -1), strict=True):
                    grow(part, depth - 1, {**fixed, unit: sign}, case)
            else:
                j = rng.randrange(3)
                for part in tree.divide_input(node, j, float(root_low[j]) + rng.uniform(-0.2, 1.0)):
                    grow(part, depth - 1, fixed, case)
        elif rng.random() < 0.15:
            tree.contradiction(node)
        else:
            tree.refute(node, case, terms(fixed))

    grow(tree.root([0]), rng.randrange(4), {}, 0)
    return tree


def test_no_forged_tree_proves_a_false_property(cases: list[Case], tmp_path: Path) -> None:
    for number in range(FORGED):
        case, rng = cases[number % len(cases)], random.Random(number)
        header, _ = case.parts
        ends = [part.split(")")[0].split(" ")[1] for part in case.false.read_text().split("(>= X_")[1:]]
        low = np.array([float(end) for end in ends])
        tree = forged(rng, case.graph, low)
        body = tree.write(0, [(0, 0)], lambda d, row: (row, 1))
        assert not case.accepts(header, body, case.false, tmp_path)


@pytest.mark.parametrize(
    "body",
    [b"BR\0\0", b"R\0\0", b"C", b"BC", b"BR\0\1\0\0\0", b"BD\0", b"BX\0\0\0CC"],
)
def test_nothing_refutes_nothing(cases: list[Case], body: bytes, tmp_path: Path) -> None:
    for case in cases[:4]:
        header, _ = case.parts
        for claim in (case.true, case.false):
            assert not case.accepts(header, body, claim, tmp_path)


def test_the_command_says_what_is_wrong_in_a_line(
    cases: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, path = cases[0], tmp_path / "c"
    codes = set()
    for seed in range(120):
        rng, data = random.Random(seed), bytearray(case.certificate)
        at = rng.randrange(len(data))
        if seed % 3 == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif seed % 3 == 1:
            del data[at:]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 100))
        path.write_bytes(data)
        capsys.readouterr()
        code = main(["check-proof", str(path), str(case.network), str(case.true), "--jobs", "1"])
        shown = capsys.readouterr()
        lines = (shown.out + shown.err).strip().splitlines()
        codes.add(code)
        assert code in (1, 2), lines
        assert len(lines) <= 2
    assert 2 in codes
    path.write_bytes(case.certificate)
    assert main(["check-proof", str(path), str(case.network), str(case.true)]) == 0
    assert "the proof is right" in capsys.readouterr().out
    assert main(["check-proof", str(path), str(tmp_path / "none"), str(case.true)]) == 2
