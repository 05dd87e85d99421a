"""Networks side by side, several inputs and outputs, and products of their values."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from verifier.errors import InputError, NetworkError
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network, feedforward
from verifier.network.joint import Model, same_function, same_structure, side_by_side, with_products
from verifier.network.loading import load
from verifier.network.operators import Dense
from verifier.network.runtime import RuntimeModel


def net(seed: int, *sizes: int) -> Network:
    """A random dense ReLU network with weights that are small fractions, so that sums of them are exact."""
    rng = np.random.default_rng(seed)
    weights = [rng.integers(-8, 9, (m, n)) / 4 for n, m in pairwise(sizes)]
    return feedforward(weights, [rng.integers(-8, 9, len(w)) / 4 for w in weights])


def two_ended(path: Path) -> Path:
    """A model with the inputs image (4) and extra (2) and the outputs y (2) and z (3), beside a label."""
    rng = np.random.default_rng(0)
    weights = {"W": rng.normal(size=(4, 3)), "V": rng.normal(size=(2, 5))}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["image", "W"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Concat", ["b", "extra"], ["c"], axis=1),
            helper.make_node("Gemm", ["c", "V"], ["y"], transB=1),
            helper.make_node("Neg", ["b"], ["z"]),
            helper.make_node("ArgMax", ["y"], ["label"], axis=1),
        ],
        "two",
        [value("image", 1, ["N", 4]), value("extra", 1, ["N", 2])],
        [value("y", 1, ["N", 2]), value("label", 7, ["N", 1]), value("z", 1, ["N", 3])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_several_inputs_and_outputs_are_ports_of_one_flat_network(tmp_path: Path) -> None:
    network = load(two_ended(tmp_path / "two.onnx"), check=True)
    assert [(p.name, p.shape) for p in network.input_ports] == [("image", (4,)), ("extra", (2,))]
    assert [(p.name, p.places.tolist()) for p in network.output_ports] == [("y", [0, 1]), ("z", [2, 3, 4])]
    assert any("label is left out" in remark for remark in network.remarks)
    x = {"image": [1.0, 2.0, 3.0, 4.0], "extra": [5.0, 6.0]}
    flat = np.array([1.0, 2, 3, 4, 5, 6])
    assert np.array_equal(network.forward(x), network.forward(flat))
    assert network.pack(x).tolist() == flat.tolist()
    assert network.input_ports[1].of(network.pack(x)).tolist() == [5.0, 6.0]
    assert np.allclose(RuntimeModel(network).run(flat), network.forward(flat), rtol=1e-5)


def test_inner_tensors_can_be_outputs(tmp_path: Path) -> None:
    path = two_ended(tmp_path / "two.onnx")
    network = load(path, outputs=["first", "y"], check=True)
    assert [p.name for p in network.output_ports] == ["a", "y"]
    with pytest.raises(NetworkError, match=r"no node or tensor is called 'relu7'.*outputs are y, label, z"):
        load(path, outputs=["relu7"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image": [0] * 4}, "'extra' is missing"),
        ({"image": [0] * 4, "extra": [0] * 3}, "'extra' has 3 entries, and 2 are wanted"),
        ({"image": [0] * 4, "extra": [0] * 2, "more": [1]}, "no tensor 'more'"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, given: dict[str, list[int]], words: str) -> None:
    network = load(two_ended(tmp_path / "two.onnx"))
    with pytest.raises(InputError, match=words):
        network.forward(given)


@pytest.mark.parametrize("second", [net(2, 2, 5, 3), net(2, 2, 4, 4, 4, 2)])
def test_side_by_side_is_exactly_both(second: Network) -> None:
    first = net(1, 2, 4, 3)
    joint = side_by_side([Model("f", first, np.array([0, 1])), Model("g", second, np.array([2, 0]))], 3)
    assert all(isinstance(n.operator, Dense) for n in joint.nodes[1::2])  # chains become one chain
    for x in np.random.default_rng(0).integers(-20, 21, (20, 3)) / 8:
        both = ExactNetwork(first).output(x[[0, 1]]) + ExactNetwork(second).output(x[[2, 0]])
        assert ExactNetwork(joint).output(x) == both
    assert [p.name for p in joint.output_ports] == [f"f.{first.output}", f"g.{second.output}"]
    x = np.array([0.5, -0.25, 1.0])
    theirs = np.concatenate([RuntimeModel(first).run(x[[0, 1]]), RuntimeModel(second).run(x[[2, 0]])])
    assert np.array_equal(RuntimeModel(joint).run(x), theirs)


def test_networks_that_are_no_chains_stand_side_by_side() -> None:
    first, second = net(1, 2, 3), net(3, 2, 3, 2)
    joint = side_by_side([Model("f", first, np.array([1, 1])), Model("g", second, np.array([0, 1]))], 2)
    for x in np.random.default_rng(0).integers(-20, 21, (10, 2)) / 8:
        both = ExactNetwork(first).output(x[[1, 1]]) + ExactNetwork(second).output(x)
        assert ExactNetwork(joint).output(x) == both


def test_products_are_further_outputs() -> None:
    network = net(5, 2, 4, 2)  # values 0 and 1 are the inputs, 2 and 3 the outputs
    products = [(0, 0), (0, 3), (1, 1, 2), (0, 0, 0, 1, 3, 3), (2, 2, 2, 2)]
    longer = with_products(network, products)
    for x in np.random.default_rng(0).integers(-16, 17, (10, 2)) / 4:
        values = [Fraction(v) for v in x.tolist()] + ExactNetwork(network).output(x)
        expected = values[2:]
        for product in products:
            total = Fraction(1)
            for k in product:
                total *= values[k]
            expected.append(total)
        assert np.allclose(longer.forward(x), [float(v) for v in expected], rtol=1e-12)
        assert np.allclose(RuntimeModel(longer).run(x), [float(v) for v in expected], rtol=1e-12)


def test_structure_and_function_are_compared() -> None:
    first, same, other = net(1, 2, 4, 3), net(1, 2, 4, 3), net(2, 2, 4, 3)
    assert same_function(first, same)
    assert not same_function(first, other)
    assert same_structure(first, other) == ""
    assert "4" in same_structure(first, net(1, 2, 5, 3))
    assert same_structure(first, net(1, 2, 4, 4, 3)) == "4 and 6 operators"
