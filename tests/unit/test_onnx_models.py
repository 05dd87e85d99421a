"""ONNX files as they lie about: external data, sparse tensors, old opsets, narrow types; and onnxruntime beside them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import verifier
import verifier.network.loading as loading
from verifier.errors import NetworkError, PropertyError, UnsupportedOperatorError
from verifier.network.runtime import RuntimeModel
from verifier.properties.conjunction import Conjunction
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Status


def model(nodes, tensors=(), shape=(1, 4), opset=13, kind=TensorProto.FLOAT, out=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [onnx.ValueInfoProto(name="y", type=onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=out)))],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in dict(tensors).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(kind, *inputs, out="y", **attributes):
    return helper.make_node(kind, list(inputs), [out] if isinstance(out, str) else out, **attributes)


# -- external data ---------------------------------------------------------------------------------------
def external(folder: Path, weight: np.ndarray, packed: bool = False) -> Path:
    """A network of one matrix, whose weight lies in ``weights.bin`` beside it."""
    proto = model([node("MatMul", "x", "w")], {"w": weight})
    path = folder / "net.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if packed:
        (folder / "net.onnx.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        path = folder / "net.onnx.gz"
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_external_data_lies_beside_the_model_and_nowhere_else(tmp_path, monkeypatch, packed):
    right, wrong = np.full((4, 1), 2.0, np.float32), np.full((4, 1), -3.0, np.float32)
    for name, weight in (("right", right), ("wrong", wrong)):
        (tmp_path / name).mkdir()
        path = external(tmp_path / name, weight, packed)
    monkeypatch.chdir(tmp_path / "wrong")
    path = tmp_path / "right" / path.name
    network = loading.load(path)
    assert network.forward(np.ones(4)).item() == 8.0
    assert RuntimeModel(network).run(np.ones(4)).item() == 8.0
    assert RuntimeModel(path).run(np.ones(4)).item() == 8.0
    (tmp_path / "right" / "weights.bin").unlink()
    with pytest.raises(NetworkError, match="external data"):
        loading.load(path)


def test_a_counterexample_of_a_model_with_external_data_is_replayed(tmp_path):
    network = loading.load(external(tmp_path, np.full((4, 1), 2.0, np.float32), packed=True))
    query = Query(network=network, box=Box(np.zeros(4), np.ones(4)), disjuncts=(row([-1.0], -7.0),))
    verdict = verifier.verify(query, timeout=20)
    assert verdict.status is Status.VIOLATED
    assert verdict.witness.onnxruntime


def test_a_model_in_memory_takes_no_data_from_the_current_folder(tmp_path, monkeypatch):
    path = external(tmp_path, np.ones((4, 1), np.float32))
    monkeypatch.chdir(tmp_path)
    proto = onnx.load_model(path, load_external_data=False)
    with pytest.raises(NetworkError, match="was not read"):
        loading.load(proto)
    with pytest.raises(NetworkError, match="was not read"):
        RuntimeModel(proto)


def row(coefficients, bound):
    """The condition ``coefficients · y <= bound``."""
    return Conjunction(y_rows=np.array([coefficients]), bound=np.array([bound]))


# -- sparse tensors --------------------------------------------------------------------------------------
@pytest.mark.parametrize("flat", [False, True])
def test_sparse_initialisers(flat):
    proto = model([node("MatMul", "x", "w")])
    places = np.array([1, 6, 11]) if flat else np.array([[0, 1], [2, 0], [3, 2]])
    values = numpy_helper.from_array(np.float32([1.5, -2.0, 3.0]), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64), "places"), [4, 3])
    proto.graph.sparse_initializer.append(sparse)
    network = loading.load(proto)
    x = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(network.forward(x), [-6.0, 1.5, 12.0])


def test_a_damaged_sparse_initialiser_is_one_line():
    proto = model([node("MatMul", "x", "w")])
    places = numpy_helper.from_array(np.int64([99]), "places")
    values = numpy_helper.from_array(np.float32([1.5]), "w")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 3]))
    with pytest.raises(NetworkError, match="damaged"):
        loading.load(proto)


# -- old and new opsets ----------------------------------------------------------------------------------
NORM = {k: np.float32(v) for k, v in {"s": [2, 3], "b": [1, 0], "m": [0.5, 0], "v": [1, 4]}.items()}


def test_batch_normalisation_in_its_training_form_is_refused():
    names = ["y", "mean", "var", "saved_mean", "saved_var"]
    with pytest.raises(UnsupportedOperatorError, match="training"):
        loading.load(model([node("BatchNormalization", "x", *NORM, out=names)], NORM, (1, 2, 3), opset=9))
    with pytest.raises(UnsupportedOperatorError, match="training"):
        loading.load(model([node("BatchNormalization", "x", *NORM)], NORM, (1, 2, 3), opset=6))
    inference = loading.load(
        model([node("BatchNormalization", "x", *NORM, is_test=1, epsilon=0.0)], NORM, (1, 2, 3), opset=6)
    )
    np.testing.assert_allclose(inference.forward(np.ones((2, 3))), [[2.0] * 3, [1.5] * 3])


def test_batch_normalisation_of_each_entry():
    tensors = {k: np.arange(1, 7, dtype=np.float32).reshape(2, 3) * (k != "m") for k in NORM}
    proto = model([node("BatchNormalization", "x", *NORM, spatial=0)], tensors, (1, 2, 3), opset=7)
    network = loading.load(proto)
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    s = tensors["s"].astype(float)
    np.testing.assert_allclose(network.forward(x), s * x / np.sqrt(s + 1e-5) + s)


def test_broadcasting_before_opset_7_starts_at_an_axis():
    c = np.float32([1, 2, 3])
    x = np.arange(9.0).reshape(3, 3)
    for constant in (True, False):
        nodes = [] if constant else [node("Identity", "c0", out="c")]
        tensors = {"c" if constant else "c0": c}
        for kind, function in (("Add", np.add), ("Mul", np.multiply), ("Sub", np.subtract), ("Div", np.divide)):
            proto = model([*nodes, node(kind, "x", "c", broadcast=1, axis=1)], tensors, (1, 3, 3), opset=6)
            np.testing.assert_allclose(loading.load(proto).forward(x), function(x, c[:, None]))
            proto = model([*nodes, node(kind, "x", "c", broadcast=1)], tensors, (1, 3, 3), opset=6)
            np.testing.assert_allclose(loading.load(proto).forward(x), function(x, c))
    with pytest.raises(NetworkError, match="broadcast=1"):
        loading.load(model([node("Add", "x", "c")], {"c": c}, (1, 3, 3), opset=6))
    with pytest.raises(NetworkError, match="axis 2"):
        loading.load(model([node("Add", "x", "c", broadcast=1, axis=2)], {"c": c[:2]}, (1, 3, 3), opset=6))


def test_constants_meet_by_the_old_rules_too():
    tensors = {"a": np.arange(9, dtype=np.float32).reshape(3, 3), "c": np.float32([1, 2, 3])}
    proto = model([node("Add", "a", "c", out="w", broadcast=1, axis=0), node("MatMul", "x", "w")], tensors, (1, 3), 6)
    expected = np.ones(3) @ (tensors["a"] + tensors["c"][:, None])
    np.testing.assert_allclose(loading.load(proto).forward(np.ones(3)), expected)


def test_slopes_before_opset_7_belong_to_channels():
    slopes = np.float32([0.1, 0.2, 0.3])
    proto = model([node("PRelu", "x", "s")], {"s": slopes}, (1, 3, 3), opset=6)
    np.testing.assert_allclose(loading.load(proto).forward(-np.ones((3, 3))), -np.repeat(slopes, 3).reshape(3, 3))


def test_opsets_that_are_not_known_are_refused():
    with pytest.raises(NetworkError, match="opset 999"):
        loading.load(model([node("Relu", "x")], opset=999))
    with pytest.raises(NetworkError, match="opset 5"):
        loading.load(model([node("Relu", "x")], opset=5))


# -- types -----------------------------------------------------------------------------------------------
W = {"w": np.float32([[1], [1], [1], [1]])}


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_a_counterexample_of_any_type_of_input(kind):
    nodes = [node("Cast", "x", out="f", to=1), node("MatMul", "f", "w")]
    network = loading.load(model(nodes, W, kind=kind))
    query = Query(network=network, box=Box(np.zeros(4), np.full(4, 2.7)), disjuncts=(row([-1.0], -7.6),))
    verdict = verifier.verify(query, timeout=20)
    assert verdict.status is Status.VIOLATED
    x = verdict.witness.input
    integers = kind in (TensorProto.INT64, TensorProto.UINT8)
    assert x.sum() >= 7.6
    assert (x == np.rint(x)).all() or not integers
    assert any("integers" in note for note in verdict.notes) == integers
    assert any("FLOAT16" in note for note in verdict.notes) == (kind == TensorProto.FLOAT16)


def test_a_real_point_refutes_nothing_where_inputs_are_integers():
    nodes = [
        node("Cast", "x", out="f", to=1),
        node("MatMul", "f", "w"),
    ]
    network = loading.load(model(nodes, W, kind=TensorProto.INT64))
    # integers reach 2 each at most, reals 2.7
    query = Query(network=network, box=Box(np.zeros(4), np.full(4, 2.7)), disjuncts=(row([-1.0], -8.5),))
    for engine in ("auto", "native", "z3"):
        assert verifier.verify(query, engine=engine, timeout=5).status is not Status.VIOLATED
    with pytest.raises(PropertyError, match="integers"):
        verifier.saliency_robustness(network, np.ones(4), epsilon=1, delta=1, domain=None)


def test_a_box_without_integers_holds():
    nodes = [node("Cast", "x", out="f", to=1), node("MatMul", "f", "w")]
    network = loading.load(model(nodes, W, kind=TensorProto.INT64))
    query = Query(network=network, box=Box(np.full(4, 0.25), np.full(4, 0.75)), disjuncts=(row([-1.0], 100.0),))
    verdict = verifier.verify(query, timeout=20)
    assert verdict.status is Status.HOLDS
    assert any("integers" in note for note in verdict.notes)
    tight = Query(network=network, box=Box(np.full(4, 0.25), np.full(4, 2.5)), disjuncts=(row([-1.0], 100.0),))
    assert (tight.box.lower.tolist(), tight.box.upper.tolist()) == ([1.0] * 4, [2.0] * 4)


def test_arithmetic_on_integers_that_depend_on_the_input_is_refused():
    nodes = [node("Div", "x", "c", out="d"), node("Cast", "d", to=1)]
    with pytest.raises(UnsupportedOperatorError, match="integers"):
        loading.load(model(nodes, {"c": np.int64([2])}, kind=TensorProto.INT64))
    moved = [node("Transpose", "x", out="t"), node("Cast", "t", to=1)]
    assert loading.load(model(moved, kind=TensorProto.INT64)).integer_inputs


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.BOOL, TensorProto.INT4])
def test_inputs_that_are_no_numbers_are_refused(kind):
    with pytest.raises(NetworkError, match="of type"):
        loading.load(model([node("Identity", "x")], kind=kind))


def test_weights_in_bfloat16_are_numbers():
    proto = model([node("Cast", "w", out="f", to=1), node("MatMul", "x", "f")])
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.BFLOAT16, [4, 1], [1.5, 2, -3, 0.25]))
    assert loading.load(proto).forward(np.ones(4)).item() == 0.75


def test_a_model_that_computes_in_half_precision_says_so():
    nodes = [node("Cast", "x", out="h", to=10), node("MatMul", "h", "w", out="z"), node("Cast", "z", to=1)]
    network = loading.load(model(nodes, {"w": np.float16([[1], [2], [3], [4]])}))
    assert any("FLOAT16" in remark for remark in network.remarks)
    plain = [node("Cast", "w", out="f", to=1), node("MatMul", "x", "f")]
    assert not loading.load(model(plain, {"w": np.float16([[1], [2], [3], [4]])})).remarks


# -- onnxruntime beside ----------------------------------------------------------------------------------
def test_a_network_that_differs_from_its_model_is_refused_on_demand(tmp_path, monkeypatch):
    import verifier.network.onnx_operators as table

    path = tmp_path / "net.onnx"
    onnx.save_model(model([node("Relu", "x")]), path)
    assert loading.load(path, check=True).neurons == 4
    monkeypatch.setitem(table.CONVERTERS, "Relu", lambda step: step.value())
    assert loading.load(path).neurons == 0
    with pytest.raises(NetworkError, match="differs from onnxruntime"):
        loading.load(path, check=True)


def test_inspect_compares_with_onnxruntime(tmp_path, capsys, monkeypatch):
    import verifier.network.onnx_operators as table
    from verifier.cli import main

    path = tmp_path / "net.onnx"
    onnx.save_model(model([node("Relu", "x")]), path)
    assert main(["inspect", str(path)]) == 0
    assert "agrees with onnxruntime" in capsys.readouterr().out
    monkeypatch.setitem(table.CONVERTERS, "Relu", lambda step: step.value())
    assert main(["inspect", str(path)]) == 0
    assert "DIFFERS FROM onnxruntime" in capsys.readouterr().out


def test_verify_compares_with_onnxruntime_on_demand(tmp_path, capsys, monkeypatch):
    import verifier.network.onnx_operators as table
    from verifier.cli import main

    path, text = tmp_path / "net.onnx", tmp_path / "p.vnnlib"
    onnx.save_model(model([node("Relu", "x")]), path)
    names = [f"{letter}_{k}" for letter in "XY" for k in range(4)]
    box = " ".join(f"(assert (<= 0 X_{k} 1))" for k in range(4))
    text.write_text(" ".join(f"(declare-const {n} Real)" for n in names) + box + "(assert (<= Y_0 -1))")
    assert main(["verify", str(path), str(text), "--quiet", "--check-model"]) == 0
    monkeypatch.setitem(table.CONVERTERS, "Relu", lambda step: step.value())
    capsys.readouterr()
    assert main(["verify", str(path), str(text), "--quiet", "--check-model"]) == 2
    assert "differs from onnxruntime" in capsys.readouterr().err


def test_inspect_says_the_input_ranges_of_nnet_files(tmp_path, capsys):
    from verifier.cli import main

    path = tmp_path / "net.nnet"
    path.write_text("1,2,1,2,\n2,1,\n0,\n-3.0,0.5,\n4.0,7.5,\n0,0,0,\n1,1,1,\n1,1,\n0,\n")
    assert main(["inspect", str(path)]) == 0
    assert "[-3, 4], [0.5, 7.5]" in capsys.readouterr().out
    lower, upper = loading.load(path).domain
    assert (lower.tolist(), upper.tolist()) == ([-3.0, 0.5], [4.0, 7.5])


def test_the_input_ranges_of_nnet_files_are_the_default_domain(tmp_path):
    path = tmp_path / "net.nnet"
    path.write_text("1,2,2,2,\n2,2,\n0,\n-3.0,0.5,\n4.0,7.5,\n0,0,0,\n1,1,1,\n1,0,\n0,1,\n0,\n0,\n")
    network = loading.load(path)
    query = verifier.robustness(network, [3.5, 1.0], epsilon=2.0)
    assert (query.box.lower.tolist(), query.box.upper.tolist()) == ([1.5, 0.5], [4.0, 3.0])
    whole = verifier.robustness(network, [3.5, 1.0], epsilon=2.0, domain=None)
    assert whole.box.lower.tolist() == [1.5, -1.0]
    with pytest.raises(PropertyError, match="outside the domain"):
        verifier.robustness(network, [5.0, 1.0], epsilon=2.0)
    with pytest.raises(PropertyError, match="no domain"):
        verifier.robustness(network, [3.5, 1.0], epsilon=2.0, domain="images")
    images = verifier.robustness(loading.load(model([node("Relu", "x")])), np.full(4, 0.5), epsilon=2.0)
    assert (images.box.lower == 0).all()
    assert (images.box.upper == 1).all()


# -- whole numbers between layers ------------------------------------------------------------------------
def test_weights_in_integers_are_compared_without_onnxruntimes_own_rounding(tmp_path):
    """Fused with its matrix, DequantizeLinear computes with inputs rounded to 8 bits: no fault of the reader."""
    tensors = {"q": np.random.default_rng(0).integers(-9, 9, (4, 3)).astype(np.int8), "s": np.float32(0.25)}
    path = tmp_path / "net.onnx"
    onnx.save(model([node("DequantizeLinear", "q", "s", out="w"), node("MatMul", "x", "w")], tensors), path)
    network = loading.load(path, check=True)
    assert RuntimeModel(network, fused=False).run(np.ones((1, 4))) == pytest.approx(network.forward(np.ones((1, 4))))


def test_inputs_of_integers_may_be_dequantised():
    nodes = [node("DequantizeLinear", "x", "s", "z", out="r"), node("Relu", "r")]
    tensors = {"s": np.float32(0.5), "z": np.uint8(7)}
    network = loading.load(model(nodes, tensors, kind=TensorProto.UINT8))
    assert network.forward(np.array([0.0, 7.0, 8.0, 255.0])).tolist() == [0.0, 0.0, 0.5, 124.0]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"s": np.float32(0.5), "z": np.uint16(7)}, "more than 8 bits"),
        ({"s": np.float32([0.5, 1, 2, 4]), "z": np.uint8([1, 2, 3, 4])}, "zero point for each channel"),
        ({"s": np.float32(-0.5), "z": np.uint8(7)}, "not positive"),
    ],
)
def test_what_is_not_read_of_quantisation_is_one_line(tensors, words):
    with pytest.raises(UnsupportedOperatorError, match=words) as caught:
        loading.load(model([node("QuantizeLinear", "x", "s", "z")], tensors, opset=21, out=TensorProto.UINT8))
    assert "\n" not in str(caught.value)


def test_initialisers_may_be_listed_among_the_inputs():
    found = model([node("MatMul", "x", "w")], {"w": np.ones((4, 2), np.float32)})
    found.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (4, 2)))
    assert loading.load(found).forward(np.ones(4)).tolist() == [4.0, 4.0]
