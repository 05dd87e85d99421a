"""VNN-LIB 2.0: several networks, hidden tensors, products, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import verifier
from verifier.errors import PropertyError
from verifier.falsify.replay import replay
from verifier.network.graph import Network, feedforward
from verifier.network.loading import load
from verifier.network.onnx_writer import write_onnx
from verifier.properties.query import Query
from verifier.properties.vnnlib import read_vnnlib
from verifier.properties.vnnlib2 import variables
from verifier.verdict import Status

pytest.importorskip("vnnlib")

HEADER = "(vnnlib-version <2.0>)\n"
BOX = "".join(f"(assert (>= X[{k}] -1.0)) (assert (<= X[{k}] 1.0))\n" for k in (0, 1))
EQUAL = "(assert (and (== X[0] U[0]) (== U[1] X[1])))\n"


def declared(name: str, x: str, y: str, outputs: int = 2, extra: str = "", hidden: str = "") -> str:
    """A network of two inputs."""
    return f"""(declare-network {name} {extra}
  (declare-input {x} float32 [2]) {hidden}
  (declare-output {y} float32 [{outputs}])
)
"""


def net(seed: int, outputs: int = 2) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(6, 2)), rng.normal(size=(outputs, 6)) / 3]
    return feedforward(weights, [rng.normal(size=6) / 2, np.zeros(outputs)])


def read(folder: Path, text: str, networks: Network | Mapping[str, Network]) -> Query:
    file = folder / "p.vnnlib"
    file.write_text(HEADER + text)
    return read_vnnlib(file, networks)


TWINS = declared("f", "X", "Y") + declared("g", "U", "V", extra="(isomorphic-to f)") + BOX + EQUAL


def test_equal_inputs_of_two_networks_are_one(tmp_path: Path) -> None:
    text = TWINS + "(assert (or (>= (- Y[0] V[0]) 0.5) (!= Y[1] (+ V[1] Y[1] -1.5))))"
    query = read(tmp_path, text, {"f": net(0), "g": net(1)})
    assert query.box.size == 2
    x = np.array([0.25, -0.5])
    y, v = net(0).forward(x), net(1).forward(x)
    assert np.allclose(query.network.forward(x), [*y, *v])
    met = y[0] - v[0] >= 0.5 or v[1] != 1.5
    assert replay(query, x).exact == met
    assert [(t.name, t.kind, t.places.tolist()) for t in variables(HEADER + text, query.network)] == [
        ("X", "input", [0, 1]),
        ("Y", "output", [0, 1]),
        ("U", "input", [0, 1]),
        ("V", "output", [2, 3]),
    ]


def test_the_difference_of_twins_is_bounded_as_one(tmp_path: Path) -> None:
    """Two boxes of outputs overlap by far more than the twins differ."""
    f = net(0)
    weights = [np.where(np.arange(12).reshape(6, 2) == 3, w + 0.01, w) for w in [f.nodes[1].operator.weight]]
    g = feedforward([weights[0], f.nodes[3].operator.weight], [f.nodes[1].operator.bias, np.zeros(2)])
    text = TWINS + "(assert (or (>= (- Y[0] V[0]) 0.05) (<= (- Y[0] V[0]) -0.05)))"
    query = read(tmp_path, text, {"f": f, "g": g})
    assert verifier.verify(query, timeout=60).status is Status.HOLDS
    assert np.ptp(f.forward(query.box.sample(100, np.random.default_rng(0)))[:, 0]) > 0.2


def test_monotone_in_an_input_and_not(tmp_path: Path) -> None:
    rising = feedforward([np.array([[1.0, -1.0], [2.0, 1.0]]), np.ones((1, 2))], [np.zeros(2), np.zeros(1)])
    text = declared("f", "X", "Y", 1) + declared("g", "U", "V", 1, extra="(equal-to f)") + BOX
    text += "(assert (<= U[0] 1.0)) (assert (== U[1] X[1])) (assert (<= X[0] U[0]))"
    holds = read(tmp_path, text + "(assert (> Y[0] V[0]))", {"f": rising})
    assert holds.box.size == 3
    assert verifier.verify(holds, timeout=60).status is not Status.VIOLATED
    strict = read(tmp_path, text + "(assert (>= (- Y[0] V[0]) 0.001))", {"f": rising})
    assert verifier.verify(strict, timeout=60).status is Status.HOLDS
    falling = read(tmp_path, text + "(assert (< Y[0] V[0]))", rising)
    assert verifier.verify(falling, timeout=60).status is Status.VIOLATED


@pytest.mark.parametrize("share", [0.98, 1.02])
def test_a_quadratic_condition_of_a_controller(tmp_path: Path, share: float) -> None:
    network = net(4, 1)
    text = declared("c", "X", "U", 1) + BOX
    x = np.stack(np.meshgrid(*[np.linspace(-1, 1, 401)] * 2), axis=-1).reshape(-1, 2)
    u = network.forward(x)[:, 0]
    most = float((u * u + 0.5 * x[:, 0] * x[:, 1] * u - x[:, 0]).max())
    text += f"(assert (>= (- (+ (* U[0] U[0]) (* 0.5 X[0] X[1] U[0])) X[0]) {share * most:.6f}))"
    query = read(tmp_path, text, network)
    verdict = verifier.verify(query, timeout=60)
    assert verdict.status is (Status.VIOLATED if share < 1 else Status.HOLDS)
    if verdict.witness is not None:
        a, b = verdict.witness.point
        value = Fraction(verdict.witness.output[0])
        assert value * value + a * b * value / 2 - a >= Fraction(f"{share * most:.6f}") - Fraction(1, 10**9)


def test_hidden_tensors_are_outputs_of_the_file(tmp_path: Path) -> None:
    write_onnx(net(0), tmp_path / "net.onnx")
    network = load(tmp_path / "net.onnx")
    relu = next(n.name for n in network if getattr(n.operator, "is_relu", False))
    text = declared("f", "X", "Y", hidden=f'(declare-hidden H float32 [1,6] "{relu}")') + BOX
    query = read(tmp_path, text + "(assert (> H[0,2] 0.4)) (assert (<= Y[0] 9.0))", network)
    x = np.array([0.5, 0.75])
    hidden = network.values(x)[relu].reshape(-1)
    assert np.allclose(query.network.forward(x), [*network.forward(x), *hidden])
    verdict = verifier.verify(query, timeout=60)
    assert verdict.status is Status.VIOLATED
    assert network.values(verdict.witness.input)[relu].reshape(-1)[2] > 0.4


def test_numbers_may_have_exponents(tmp_path: Path) -> None:
    text = declared("f", "X", "Y") + BOX + "(assert (<= Y[0] 2.5e-1)) (assert (>= Y[1] +.5))"
    (disjunct,) = read(tmp_path, text, net(0)).disjuncts
    assert disjunct.bound.tolist() == [0.25, -0.5]


@pytest.mark.parametrize(
    ("text", "networks", "words"),
    [
        (TWINS, "f", "speaks of 2 networks .f, g., and one is given .*--network f=FILE --network g=FILE"),
        (TWINS, {"f": 0}, "no file is given for the network 'g' .*--network g=FILE"),
        (TWINS, {"f": 0, "g": 1, "h": 2}, "declares no network 'h' .*f, g"),
        (TWINS, {"f": 0, "g": "wide"}, "g is declared isomorphic to f, and is not"),
        (TWINS.replace("isomorphic", "equal"), {"f": 0, "g": 1}, "g is declared equal to f, and its file is another"),
        (declared("f", "X", "Y", 3) + BOX, {"f": 0}, "output Y has shape .3., and the network's output .* has 2"),
        (declared("f", "X", "Y") + BOX + "(assert (<= Y[0] 1))", {"f": 0}, "line 8: .*a number of .* needs a point: 1.0"),
        (declared("f", "X", "Y") + BOX + "(assert (<= Y[7] 1.0))", {"f": 0}, "line 8: .*Index 7 is out of bounds"),
        (declared("f", "X", "Y", hidden='(declare-hidden H float32 [6] "r")') + BOX, {"f": 0}, "hidden tensor 'r'"),
        (declared("f", "X", "Y") + BOX + "(assert (<= (* Y[0] Y[0] Y[0] Y[0] Y[0] Y[0] Y[0] Y[0] Y[1]) 1.0))", {"f": 0}, "9"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, networks: str | dict[str, int | str], words: str) -> None:
    wide = feedforward([np.ones((7, 2)), np.ones((2, 7))], [np.zeros(7), np.zeros(2)])
    given = net(0) if isinstance(networks, str) else {
        name: wide if seed == "wide" else net(int(seed)) for name, seed in networks.items()
    }  # fmt: skip
    with pytest.raises(PropertyError, match=words) as caught:
        read(tmp_path, text, given)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "p.vnnlib") in str(caught.value)


def test_the_command_takes_named_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from verifier.cli import main

    for name, seed in (("f", 0), ("g", 0)):
        write_onnx(net(seed), tmp_path / f"{name}.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    for tensor in model.graph.initializer:
        if tensor.dims[:] == [2]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.25), tensor.name))
    onnx.save(model, tmp_path / "g.onnx")
    (tmp_path / "p.vnnlib").write_text(HEADER + TWINS + "(assert (>= V[0] (+ Y[0] 0.1)))")
    files = [f"--network={name}={tmp_path / name}.onnx" for name in "fg"]
    status = main(["verify", *files, str(tmp_path / "p.vnnlib"), "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)
    assert status == 1
    assert found["verdict"] == "violated"
    witness = found["result"]["witness"]
    y = witness["output"]
    assert y[2] >= y[0] + 0.1
    assert witness["onnxruntime"]
    assert main(["verify", files[0], str(tmp_path / "p.vnnlib")]) == 2
    assert main(["verify", *files, files[0], str(tmp_path / "p.vnnlib")]) == 2
