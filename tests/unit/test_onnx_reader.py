"""The ONNX reader against onnxruntime, operator by operator, and its errors."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import verifier.network.loading as loading
from verifier.errors import InputError, NetworkError, UnsupportedOperatorError
from verifier.network.convolution import Conv
from verifier.network.graph import Network
from verifier.network.operators import Dense, Scale
from verifier.network.runtime import RuntimeModel

RNG = np.random.default_rng(7)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def model(nodes, tensors=(), shape=(1, 6), opset=13, output="y"):
    """A model with input x and one output, shapes left to onnxruntime."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=output, type=onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=1)))],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in dict(tensors).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def agree(proto, count=20) -> Network:
    """Load, and compare with onnxruntime at random inputs; the network."""
    network = loading.load(proto)
    runtime = RuntimeModel(proto)
    x = RNG.normal(size=(count, network.input_size)).astype(np.float32).astype(np.float64)
    ours, theirs = network.forward(x).reshape(count, -1), runtime.run(x).reshape(count, -1)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert np.ptp(ours) > 0
    return network


def node(kind, *inputs, out="y", **attributes):
    return helper.make_node(kind, list(inputs), [out], **attributes)


I64 = np.int64
ONE_NODE = {
    "gemm": (node("Gemm", "x", "w", "b", transB=1, alpha=0.5, beta=2.0), {"w": weights(4, 6), "b": weights(4)}, (1, 6)),
    "gemm without bias": (node("Gemm", "x", "w"), {"w": weights(6, 3)}, (1, 6)),
    "gemm transposed input": (node("Gemm", "x", "w", transA=1), {"w": weights(3, 2)}, (3, 4)),
    "gemm constant left": (node("Gemm", "w", "x", "b"), {"w": weights(2, 3), "b": weights(2, 4)}, (3, 4)),
    "gemm column bias": (node("Gemm", "x", "w", "b"), {"w": weights(4, 2), "b": weights(3, 1)}, (3, 4)),
    "matmul": (node("MatMul", "x", "w"), {"w": weights(6, 4)}, (1, 6)),
    "matmul vector": (node("MatMul", "x", "w"), {"w": weights(6)}, (1, 5, 6)),
    "matmul stack of one": (node("MatMul", "x", "w"), {"w": weights(1, 6, 2)}, (1, 5, 6)),
    "matmul left": (node("MatMul", "w", "x"), {"w": weights(3, 4)}, (4, 5)),
    "matmul left column": (node("MatMul", "w", "x"), {"w": weights(3, 4)}, (1, 4, 1)),
    "conv": (
        node("Conv", "x", "w", "b", strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2], group=2),
        {"w": weights(4, 1, 3, 2), "b": weights(4)},
        (1, 2, 7, 6),
    ),
    "conv 1d": (node("Conv", "x", "w", pads=[1, 2], strides=[2]), {"w": weights(3, 2, 4)}, (1, 2, 9)),
    "conv same": (
        node("Conv", "x", "w", auto_pad="SAME_LOWER", strides=[2, 2]),
        {"w": weights(2, 1, 4, 3)},
        (1, 1, 7, 6),
    ),
    "relu": (node("Relu", "x"), {}, (1, 6)),
    "leaky": (node("LeakyRelu", "x", alpha=0.3), {}, (1, 6)),
    "prelu one slope": (node("PRelu", "x", "s"), {"s": np.float32([0.2])}, (1, 3, 2)),
    "prelu slopes": (node("PRelu", "x", "s"), {"s": weights(3, 1)}, (1, 3, 2)),
    "clip": (node("Clip", "x", "l", "h"), {"l": np.float32(-0.3), "h": np.float32(0.7)}, (1, 6)),
    "clip below": (node("Clip", "x", "l"), {"l": np.float32(-0.3)}, (1, 6)),
    "clip above": (node("Clip", "x", "", "h"), {"h": np.float32(0.2)}, (1, 6)),
    "hard sigmoid": (node("HardSigmoid", "x", alpha=0.4, beta=0.45), {}, (1, 6)),
    "abs": (node("Abs", "x"), {}, (1, 6)),
    "neg": (node("Neg", "x"), {}, (1, 6)),
    "max pool": (node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]), {}, (1, 2, 6, 7)),
    "max pool ceiling": (node("MaxPool", "x", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1), {}, (1, 2, 7, 6)),
    "max pool 1d": (node("MaxPool", "x", kernel_shape=[3], strides=[2]), {}, (1, 2, 9)),
    "average pool": (node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 1]), {}, (1, 3, 6, 5)),
    "average pool padded": (node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 0]), {}, (1, 2, 5, 5)),
    "average pool padding counted": (
        node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 0], count_include_pad=1),
        {},
        (1, 2, 5, 5),
    ),
    "average pool ceiling": (
        node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        {},
        (1, 2, 5, 5),
    ),
    "average pool 1d": (node("AveragePool", "x", kernel_shape=[3], pads=[1, 1]), {}, (1, 2, 7)),
    "global average": (node("GlobalAveragePool", "x"), {}, (1, 3, 4, 5)),
    "global max": (node("GlobalMaxPool", "x"), {}, (1, 3, 4, 5)),
    "reduce mean": (node("ReduceMean", "x", axes=[2, 3], keepdims=0), {}, (1, 3, 4, 5)),
    "reduce sum": (node("ReduceSum", "x", "a"), {"a": I64([1])}, (1, 3, 4)),
    "batch norm": (
        node("BatchNormalization", "x", "s", "b", "m", "v", epsilon=1e-3),
        {"s": weights(3), "b": weights(3), "m": weights(3), "v": np.abs(weights(3))},
        (1, 3, 2, 2),
    ),
    "add": (node("Add", "x", "c"), {"c": weights(3, 1)}, (1, 3, 4)),
    "add growing": (node("Add", "x", "c"), {"c": weights(3, 4)}, (1, 1, 4)),
    "sub constant first": (node("Sub", "c", "x"), {"c": weights(4)}, (1, 4)),
    "mul": (node("Mul", "c", "x"), {"c": weights(4)}, (1, 4)),
    "div": (node("Div", "x", "c"), {"c": weights(4) + 3}, (1, 4)),
    "residual": (node("Add", "x", "x"), {}, (1, 4)),
    "sum of three": (node("Sum", "x", "c", "x"), {"c": weights(4)}, (1, 4)),
    "max of constant": (node("Max", "x", "c"), {"c": np.float32([0.1, -0.2, 0.3, 0.0])}, (1, 4)),
    "min of constant": (node("Min", "x", "c"), {"c": np.float32(0.25)}, (1, 4)),
    "flatten": (node("Flatten", "x"), {}, (1, 3, 4)),
    "flatten whole": (node("Flatten", "x", axis=0), {}, (1, 3, 4)),
    "reshape": (node("Reshape", "x", "s"), {"s": I64([0, -1, 2])}, (1, 3, 4)),
    "squeeze": (node("Squeeze", "x", "a"), {"a": I64([1])}, (1, 1, 4)),
    "unsqueeze": (node("Unsqueeze", "x", "a"), {"a": I64([0, 3])}, (1, 4)),
    "transpose": (node("Transpose", "x", perm=[0, 3, 1, 2]), {}, (1, 2, 3, 4)),
    "transpose batch": (node("Transpose", "x", perm=[2, 1, 0]), {}, (1, 2, 3)),
    "pad": (node("Pad", "x", "p", "v"), {"p": I64([0, 0, 1, 2, 0, 1, 0, 0]), "v": np.float32(0.5)}, (1, 1, 3, 3)),
    "pad cutting": (node("Pad", "x", "p"), {"p": I64([0, -1, 0, 2])}, (1, 5)),
    "pad reflecting": (node("Pad", "x", "p", mode="reflect"), {"p": I64([0, 0, 1, 2, 0, 0, 1, 0])}, (1, 1, 3, 4)),
    "slice": (
        node("Slice", "x", "s", "e", "a", "t"),
        {"s": I64([5, 1]), "e": I64([-100, 3]), "a": I64([2, 1]), "t": I64([-2, 1])},
        (1, 4, 6),
    ),
    "gather": (node("Gather", "x", "i", axis=2), {"i": I64([[2, 0], [1, 1]])}, (1, 2, 3)),
    "expand": (node("Expand", "x", "s"), {"s": I64([1, 3, 4])}, (1, 1, 4)),
    "identity": (node("Identity", "x"), {}, (1, 4)),
    "dropout": (node("Dropout", "x"), {}, (1, 4)),
    "concat with constant": (node("Concat", "x", "c", "x", axis=2), {"c": weights(1, 2, 3)}, (1, 2, 2)),
    "depth to space": (node("DepthToSpace", "x", blocksize=2), {}, (1, 8, 2, 3)),
    "no batch": (node("Relu", "x"), {}, (5,)),
}


@pytest.mark.parametrize("name", ONE_NODE)
def test_one_operator_agrees_with_onnxruntime(name):
    step, tensors, shape = ONE_NODE[name]
    agree(model([step], tensors, shape))


@pytest.mark.parametrize("opset", [9, 11])
def test_older_forms_with_attributes(opset):
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["u"], axes=[1]),
        helper.make_node("Squeeze", ["u"], ["q"], axes=[1]),
    ]
    if opset == 9:
        nodes += [
            helper.make_node("Slice", ["q"], ["s"], axes=[1], starts=[1], ends=[5]),
            helper.make_node("Clip", ["s"], ["c"], min=-0.5, max=0.5),
            helper.make_node("Pad", ["c"], ["y"], pads=[0, 1, 0, 0], value=2.0),
        ]
    else:
        nodes += [helper.make_node("Relu", ["q"], ["y"])]
    agree(model(nodes, {}, (1, 6), opset))


def test_shape_arithmetic_is_folded():
    """What PyTorch writes for ``x.view(x.size(0), -1)``."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Shape", ["r"], ["shape"]),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.int64(0))),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.int64([0]))),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["one"]),
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(np.int64([-1]))),
        helper.make_node("Concat", ["one", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["r", "target"], ["flat"]),
        helper.make_node("MatMul", ["flat", "m"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    proto = model(nodes, {"w": weights(2, 1, 2, 2), "m": weights(8, 3), "b": weights(3)}, ("N", 1, 3, 3))
    network = agree(proto)
    assert network.input_shape == (1, 3, 3)
    assert not any(isinstance(n.operator, Scale) for n in network), "the bias belongs to the dense layer"


def test_the_batch_may_be_merged_and_split_again():
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("MatMul", ["r", "m"], ["p"]),
        helper.make_node("Transpose", ["p"], ["t"], perm=[1, 0]),
        helper.make_node("Reshape", ["t", "back"], ["y"]),
    ]
    tensors = {"s": I64([4, 3]), "m": weights(3, 2), "back": I64([1, -1])}
    agree(model(nodes, tensors, (1, 12)))


def test_residual_broadcast_split_and_two_paths():
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Relu", ["a"], ["ra"]),
        helper.make_node("LeakyRelu", ["b"], ["rb"], alpha=0.1),
        helper.make_node("Sub", ["ra", "rb"], ["d"]),
        helper.make_node("Max", ["ra", "rb", "d"], ["m"]),
        helper.make_node("Concat", ["d", "m", "a"], ["y"], axis=1),
    ]
    agree(model(nodes, {}, (1, 2, 3)))


def test_weights_are_exact_float32_values():
    w = weights(4, 6)
    network = loading.load(model([node("Gemm", "x", "w", transB=1)], {"w": w}))
    (dense,) = [n.operator for n in network if isinstance(n.operator, Dense)]
    assert dense.weight.dtype == np.float64
    assert (dense.weight == w.astype(np.float64)).all()


def test_a_large_empty_weight_stays_sparse():
    w = np.zeros((1100, 1000), dtype=np.float32)
    w[np.arange(1000), np.arange(1000)] = weights(1000)
    nodes = [node("MatMul", "x", "w", out="p"), node("Relu", "p", out="r"), node("MatMul", "r", "v")]
    proto = model(nodes, {"w": w.T.copy(), "v": weights(1100, 2)}, (1, 1000))
    network = agree(proto, count=3)
    dense = network["p"].operator
    assert isinstance(dense, Dense)
    assert dense.sparse_weight is not None
    assert "weight" not in vars(dense)
    assert (dense.weight == w).all()
    pickled = __import__("pickle").loads(__import__("pickle").dumps(network))
    x = np.linspace(-1, 1, 1000)
    assert (pickled.forward(x) == network.forward(x)).all()


def test_nodes_that_the_output_does_not_need_are_left_out():
    network = agree(model([node("Softmax", "x", out="z"), node("Relu", "x")], {}))
    assert len(network.nodes) == 2


# -- errors ----------------------------------------------------------------------------------------------
def test_an_unsupported_operator_is_named():
    proto = model([helper.make_node("Det", ["x"], ["y"], name="the last one")])
    with pytest.raises(UnsupportedOperatorError) as caught:
        loading.load(proto)
    assert "the last one" in str(caught.value)
    assert "'Det'" in str(caught.value)
    assert "inspect --operators" in caught.value.fix


@pytest.mark.parametrize("kind", ["Mul", "MatMul", "Div"])
def test_a_product_of_computed_tensors_is_curved(kind):
    assert loading.load(model([node(kind, "x", "x")], {}, (3, 3))).is_curved


def test_nan_weights_are_refused():
    w = weights(6, 2)
    w[1, 1] = np.nan
    with pytest.raises(NetworkError, match="NaN"):
        loading.load(model([node("MatMul", "x", "w")], {"w": w}))
    with pytest.raises(NetworkError, match="NaN"):
        loading.load(model([node("Add", "x", "w")], {"w": w[:, 1]}))


def test_damaged_files(tmp_path: Path):
    data = model([node("MatMul", "x", "w")], {"w": weights(6, 2)}).SerializeToString()
    for cut in (0, 1, 17, len(data) // 2, len(data) - 3):
        file = tmp_path / f"cut{cut}.onnx"
        file.write_bytes(data[:cut])
        with pytest.raises(NetworkError, match=file.name):
            loading.load(file)
    packed = tmp_path / "cut.onnx.gz"
    packed.write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(NetworkError, match="gzip"):
        loading.load(packed)
    with pytest.raises(NetworkError, match="no such file"):
        loading.load(tmp_path / "absent.onnx")
    other = tmp_path / "network.bin"
    other.write_bytes(data)
    with pytest.raises(NetworkError, match="kind of network"):
        loading.load(other)
    with pytest.raises(InputError, match="int"):
        loading.load(3)


def test_open_shapes_want_an_input_shape():
    proto = model([node("Flatten", "x")], {}, (1, "channels", 3))
    with pytest.raises(NetworkError, match="channels"):
        loading.load(proto)
    assert loading.load(proto, (1, 2, 3)).input_shape == (2, 3)


def test_shapes_that_do_not_fit_name_the_node():
    with pytest.raises(NetworkError, match="'y'"):
        loading.load(model([node("MatMul", "x", "w")], {"w": weights(5, 2)}))


def test_plain_and_gzipped_files(tmp_path: Path):
    proto = model([node("Conv", "x", "w")], {"w": weights(2, 1, 2, 2)}, (1, 1, 3, 3))
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "a.onnx.gz").write_bytes(gzip.compress(proto.SerializeToString()))
    x = np.linspace(0, 1, 9)
    plain, packed = (loading.load(tmp_path / n) for n in ("a.onnx", "a.onnx.gz"))
    assert (plain.forward(x) == packed.forward(x)).all()
    assert isinstance(plain["y"].operator, Conv)
    assert plain.model_file == str(tmp_path / "a.onnx")
    assert np.allclose(RuntimeModel(packed).run(x), packed.forward(x).reshape(-1), atol=1e-6)


SAMPLE = [
    "vnncomp/acasxu/onnx/ACASXU_run2a_3_3_batch_2000.onnx.gz",
    "vnncomp/cifar10_resnet2021/onnx/resnet_2b.onnx",
    "vnncomp/collins_rul_cnn/onnx/NN_rul_small_window_20.onnx.gz",
    "vnncomp/mnist_fc/onnx/mnist-net_256x2.onnx.gz",
    "vnncomp/oval21/onnx/cifar_base_kw.onnx.gz",
    "vnncomp/reach_prob_density/onnx/vdp.onnx.gz",
    "vnncomp/rl_benchmarks/onnx/dubinsrejoin.onnx.gz",
    "vnncomp/tllverifybench/onnx/tllBench_n=2_N=M=32_m=1_instance_3_0.onnx.gz",
    "vnncomp/verivital2021/onnx/Convnet_avgpool.onnx",
    "vnncomp/verivital2021/onnx/Convnet_maxpool.onnx",
    "eran_nets/mnist_convSmallRELU__Point.onnx",
    "eran_nets/cifar10_convSmallRELU__PGDK.onnx",
    "eran_nets/mnist_relu_3_50.onnx",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_shared_networks_agree_with_onnxruntime(shared_data: Path, name: str):
    network = loading.load(shared_data / name)
    x = np.random.default_rng(1).random((10, network.input_size)).astype(np.float32).astype(np.float64)
    theirs = RuntimeModel(shared_data / name).run(x)
    difference = np.abs(network.forward(x).reshape(10, -1) - theirs).max()
    assert difference <= 1e-4 * max(1.0, np.abs(theirs).max())
