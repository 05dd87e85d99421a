"""The ONNX writer's round trip, onnxruntime on networks that were not read from ONNX, and .nnet files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import verifier.network.loading as loading
from verifier.errors import InputError, NetworkError
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder, feedforward
from verifier.network.nnet import read_nnet
from verifier.network.onnx_writer import to_onnx, write_onnx
from verifier.network.operators import Concat, Dense, Reshape, Scale, Select, Sum
from verifier.network.piecewise import MaxPool, PiecewiseLinear, absolute, clip, leaky_relu, relu
from verifier.network.runtime import RuntimeModel

RNG = np.random.default_rng(3)


def everything() -> Network:
    """A small network with every operator."""
    b = NetworkBuilder((2, 5, 5), source="everything")
    conv = b.add(Conv(RNG.normal(size=(4, 1, 3, 3)), RNG.normal(size=4), (1, 1), (1, 0, 1, 1), (1, 1), 2))
    b.add(leaky_relu(0.1), conv)
    pooled = b.add(MaxPool((2, 2), (2, 2), (0, 0, 1, 0)))
    scaled = b.add(Scale(RNG.normal(size=b.shape(pooled)), RNG.normal(size=b.shape(pooled))))
    bounded = b.add(clip(-0.5, 1.5), scaled)
    total = b.add(Sum((-1, 1, 1)), bounded, pooled, scaled)
    joined = b.add(Concat(0), total, b.add(absolute(), pooled))
    index = np.arange(6).reshape(2, 3)[:, ::-1].copy()
    index[0, 1] = -1
    b.add(Select(index, 0.75), joined)
    b.add(Dense(RNG.normal(size=(4, 3)), RNG.normal(size=4)))
    b.add(clip(-np.inf, 0.3))
    b.add(Reshape((8,)))
    b.add(PiecewiseLinear((-1.0, 1.0), (-1.0, 0.5, 2.0), (-1.5, 0.0, -1.5), (0.5, 0.5)))
    b.add(Dense(RNG.normal(size=(3, 8)), RNG.normal(size=3)))
    b.add(relu())
    return b.build()


def same_function(a: Network, b: Network, tolerance: float, count: int = 50) -> None:
    x = RNG.normal(size=(count, a.input_size))
    np.testing.assert_allclose(
        a.forward(x).reshape(count, -1), b.forward(x).reshape(count, -1), rtol=tolerance, atol=tolerance
    )


def test_round_trip_in_float64_is_exact_up_to_summation(tmp_path: Path):
    network = everything()
    write_onnx(network, tmp_path / "n.onnx", "float64")
    again = loading.load(tmp_path / "n.onnx")
    assert (again.input_shape, again.output_shape) == (network.input_shape, network.output_shape)
    same_function(network, again, 1e-13)
    first, second = (next(n.operator for n in net if isinstance(n.operator, Conv)) for net in (network, again))
    assert (first.weight == second.weight).all()


def test_round_trip_in_float32(tmp_path: Path):
    network = everything()
    write_onnx(network, tmp_path / "n.onnx.gz")
    same_function(network, loading.load(tmp_path / "n.onnx.gz"), 1e-4)
    with pytest.raises(InputError, match="float16"):
        to_onnx(network, "float16")  # type: ignore[arg-type]


def test_onnxruntime_runs_what_was_never_onnx():
    dense = feedforward([RNG.normal(size=(6, 4)), RNG.normal(size=(2, 6))], [RNG.normal(size=6), RNG.normal(size=2)])
    runtime = RuntimeModel(dense)
    assert runtime.dtype == np.float64
    x = RNG.normal(size=(7, 4))
    np.testing.assert_allclose(runtime.run(x), dense.forward(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(runtime.run(x[0]), dense.forward(x[0]), rtol=1e-12, atol=1e-12)

    network = everything()
    runtime = RuntimeModel(network)
    assert "float32" in runtime.model or runtime.dtype == np.float64
    x = RNG.normal(size=(7, network.input_size)).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(runtime.run(x), network.forward(x).reshape(7, -1), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="shape"):
        runtime.run(np.zeros(3))


def test_a_network_without_layers():
    network = NetworkBuilder((3,)).build()
    assert (RuntimeModel(network).run([1.0, 2.0, 3.0]) == [1, 2, 3]).all()


NNET = """// a comment
2,2,1,3,
2,3,1,
0
-1,-2,
1,2,
0.5,1.0,10.0,
2.0,4.0,3.0,
1,2,
3,4,
-5,6,
0.1,
0.2,
0.3,
1,-1,2,
0.5,
"""


def test_nnet_with_and_without_its_normalisation(tmp_path: Path):
    path = tmp_path / "a.nnet"
    path.write_text(NNET)
    hidden = [[1.0, 2.0], [3.0, 4.0], [-5.0, 6.0]], [0.1, 0.2, 0.3]
    bare = feedforward([hidden[0], [[1.0, -1.0, 2.0]]], [hidden[1], [0.5]])
    same_function(read_nnet(path, normalize=False), bare, 1e-14)
    x = RNG.normal(size=(20, 2))
    expected = bare.forward((x - [0.5, 1.0]) / [2.0, 4.0]) * 3.0 + 10.0
    np.testing.assert_allclose(loading.load(path).forward(x), expected, rtol=1e-13, atol=1e-13)


def test_damaged_nnet_files_name_the_line(tmp_path: Path):
    path = tmp_path / "b.nnet"
    lines = NNET.splitlines()
    for cut in range(1, len(lines)):
        path.write_text("\n".join(lines[:cut]))
        with pytest.raises(NetworkError, match=r"b\.nnet"):
            loading.load(path)
    path.write_text(NNET.replace("3,4,\n", "3,four,\n"))
    with pytest.raises(NetworkError, match="line 10"):
        loading.load(path)
    path.write_text(NNET.replace("3,4,\n", "3,nan,\n"))
    with pytest.raises(NetworkError, match="line 10"):
        loading.load(path)
    path.write_text(NNET.replace("2,3,1,\n", "3,3,1,\n"))
    with pytest.raises(NetworkError, match="layer sizes"):
        loading.load(path)
