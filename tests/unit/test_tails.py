"""Increasing functions at a network's end: left out where a property carries over, refused where it does not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import verifier
from verifier.errors import PropertyError, UnsupportedOperatorError
from verifier.network.runtime import RuntimeModel
from verifier.network.tails import Tail
from verifier.properties import vnnlib1
from verifier.verdict import Status

RNG = np.random.default_rng(5)
WEIGHT, BIAS = RNG.normal(size=(2, 3)).astype(np.float32), RNG.normal(size=3).astype(np.float32)


def saved(folder: Path, kind: str, outputs: int = 3, opset: int = 13, **attributes) -> Path:
    """``kind(relu(x) @ W + b)`` as a file."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "b"], ["z"]),
        helper.make_node(kind, ["z"], ["y"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "tail",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(WEIGHT[:, :outputs], "w"), numpy_helper.from_array(BIAS[:outputs], "b")],
    )
    path = folder / "net.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def asked(network, body: str):
    declared = "".join(
        f"(declare-const {v} Real)" for v in ("X_0", "X_1", *(f"Y_{k}" for k in range(network.output_size)))
    )
    return vnnlib1.parse(f"{declared}(assert (<= -1 X_0 1)) (assert (<= -1 X_1 1)) {body}", network, place="p")


KINDS = ["Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Exp"]


@pytest.mark.parametrize("kind", KINDS)
def test_comparisons_of_outputs_are_those_of_the_scores(tmp_path, kind):
    path = saved(tmp_path, kind)
    assert verifier.load(path).is_curved
    network = verifier.load(path, ordered=True)
    assert network.tail == Tail(kind, "z")
    points = RNG.uniform(-1, 1, (300, 2))
    outputs = RuntimeModel(path).run(points)
    np.testing.assert_allclose([network.tail.values(z) for z in network.forward(points)], outputs, rtol=1e-5, atol=1e-6)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        verdict = verifier.verify(asked(network, f"(assert (<= Y_{i} Y_{j}))"), timeout=20)
        met = (outputs[:, i] < outputs[:, j] - 1e-6).any()
        assert verdict.status is (Status.VIOLATED if met else Status.HOLDS)
        assert any(kind in note for note in verdict.notes)
        if met:
            assert verdict.witness.onnxruntime
    assert verifier.robustness(network, [0.5, 0.5], 0.1).description.startswith("label")


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "Exp"])
def test_thresholds_carry_over_through_elementwise_functions(tmp_path, kind):
    network = verifier.load(saved(tmp_path, kind), ordered=True)
    points = RNG.uniform(-1, 1, (3000, 2))
    outputs = np.array([network.tail.values(z) for z in network.forward(points)])
    seen = set()
    for t in (-0.4, 0.0, 0.3, 0.5, 0.7, 1.0, 1.5):
        for sign in ("<=", ">="):
            verdict = verifier.verify(asked(network, f"(assert ({sign} Y_0 {t}))"), timeout=20)
            met = (outputs[:, 0] <= t).any() if sign == "<=" else (outputs[:, 0] >= t).any()
            assert verdict.status.decided
            if met:
                assert verdict.status is Status.VIOLATED
            if verdict.status is Status.VIOLATED:
                y = network.tail.values(verdict.witness.output)[0]
                assert y <= t + 1e-12 if sign == "<=" else y >= t - 1e-12
            seen.add(verdict.status)
    assert seen == {Status.VIOLATED, Status.HOLDS}


def test_thresholds_are_enclosed_and_only_inner_points_refute():
    below, above = Tail("Sigmoid").threshold(Fraction(3, 4))
    assert below < above
    assert abs(float(below) - np.log(3)) < 1e-15
    assert above - below < Fraction(1, 10**38)
    assert Tail("Sigmoid").threshold(Fraction(1, 2)) == (0, 0)
    assert Tail("Sigmoid").threshold(Fraction(1)) is True
    assert Tail("Sigmoid").threshold(Fraction(0)) is False
    assert Tail("Tanh").threshold(Fraction(0)) == (0, 0)
    near = 1 - Fraction(1, 10**100)
    below, above = Tail("Sigmoid").threshold(near)
    assert below < Fraction(230259, 1000) < above + 1


def test_a_point_between_the_two_ends_does_not_refute(tmp_path):
    network = verifier.load(saved(tmp_path, "Sigmoid"), ordered=True)
    disjunct = asked(network, "(assert (>= Y_0 0.75))").disjuncts[0]
    below, above = Tail("Sigmoid").threshold(Fraction(3, 4))
    xs = [Fraction(0)] * 2
    assert disjunct.holds_exactly(xs, [above, Fraction(0), Fraction(0)], None)
    assert not disjunct.holds_exactly(xs, [(below + above) / 2, Fraction(0), Fraction(0)], None)
    assert disjunct.exact_row(0).bound == -below  # proofs leave it in


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("Softmax", "(assert (>= Y_0 0.5))"),
        ("Softmax", "(assert (<= (+ Y_0 0.1) Y_1))"),
        ("Softmax", "(assert (<= (* 2 Y_0) Y_1))"),
        ("Sigmoid", "(assert (<= (+ Y_0 Y_1) 1))"),
        ("Sigmoid", "(assert (<= Y_0 X_0))"),
    ],
)
def test_what_does_not_carry_over_is_refused(tmp_path, kind, body):
    network = verifier.load(saved(tmp_path, kind), ordered=True)
    with pytest.raises(PropertyError, match=kind):
        asked(network, body)


@pytest.mark.parametrize(
    ("sign", "t"), [("<=", "0.2"), (">=", "0.4"), (">", "0.9"), ("<", "0"), (">=", "0"), ("<=", "1")]
)
def test_a_share_of_two_is_bounded_by_the_difference_of_the_scores(tmp_path, sign, t):
    path = saved(tmp_path, "Softmax", 2)
    network = verifier.load(path, ordered=True)
    points = np.random.default_rng(0).uniform(-1, 1, (3000, 2))
    for k in (0, 1):
        verdict = verifier.verify(asked(network, f"(assert ({sign} Y_{k} {t}))"), timeout=20)
        shares = RuntimeModel(path).run(points)[:, k]
        met = (shares < float(t) - 1e-3) if sign.startswith("<") else (shares > float(t) + 1e-3)
        assert verdict.status is (Status.VIOLATED if met.any() else Status.HOLDS)
        if met.any():
            share = network.tail.values(verdict.witness.output)[k]
            assert share <= float(t) + 1e-12 if sign.startswith("<") else share >= float(t) - 1e-12


def test_maps_of_a_network_without_its_tail_are_refused(tmp_path):
    network = verifier.load(saved(tmp_path, "Softmax"), ordered=True)
    with pytest.raises(PropertyError, match="gradient"):
        verifier.saliency_robustness(network, [0.5, 0.5], epsilon=0.1, delta=0.1)


def test_softmax_over_parts_of_the_outputs_is_refused(tmp_path):
    path = saved(tmp_path, "Softmax", axis=0)
    with pytest.raises(UnsupportedOperatorError, match="at a time"):
        verifier.load(path, ordered=True)
    assert verifier.load(saved(tmp_path, "Softmax", opset=11), ordered=True).tail is not None


def test_the_command_line_leaves_the_tail_out(tmp_path, capsys):
    from verifier.cli import main

    path = saved(tmp_path, "Softmax")
    text = "(declare-const X_0 Real)(declare-const X_1 Real)" + "".join(f"(declare-const Y_{k} Real)" for k in range(3))
    (tmp_path / "p.vnnlib").write_text(text + "(assert (<= 0 X_0 1)) (assert (<= 0 X_1 1)) (assert (<= Y_0 Y_1))")
    assert main(["verify", str(path), str(tmp_path / "p.vnnlib"), "--quiet"]) in (0, 1)
    assert "Softmax" in capsys.readouterr().out
    (tmp_path / "q.vnnlib").write_text(text + "(assert (<= 0 X_0 1)) (assert (<= 0 X_1 1)) (assert (<= Y_0 0.5))")
    # a bound on one of three shares: the whole model is asked
    assert main(["verify", str(path), str(tmp_path / "q.vnnlib"), "--quiet"]) in (0, 1)
    assert "left out" not in capsys.readouterr().out
