"""More than 150 graphs, made here, against onnxruntime: every operator that is read, and torch modules as exported."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import verifier
from verifier.errors import NetworkError, UnsupportedOperatorError
from verifier.network.enclosure import EnclosedNetwork
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.onnx_operators import SMOOTH, operators
from verifier.network.runtime import RuntimeModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from onnx_graphs import GRAPHS, MET, OPSETS, Builder, Graph, curved_modules, exported, modules


def both(name: str, opset: int):
    """A graph as a network and in onnxruntime, in float64 where that has kernels for it; and the allowed gap."""
    for kind, gap in (("float64", 1e-12), ("float32", 1e-5)):
        model = GRAPHS[name].model(opset, kind)
        try:
            return verifier.load(model), RuntimeModel(model, fused=False), gap
        except NetworkError as error:
            if kind == "float32" or "onnxruntime cannot" not in error.problem:
                raise
    raise AssertionError


def agree(network: Network, runtime: RuntimeModel, gap: float) -> None:
    x = np.random.default_rng(1).normal(size=(6, network.input_size)).astype(np.float32).astype(np.float64)
    ours, theirs = network.forward(x).reshape(6, -1), runtime.run(x).reshape(6, -1)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=gap, atol=gap)
    # the exact replay speaks of the same function
    ends = EnclosedNetwork(network).output(x[0].tolist())
    assert network.is_curved or ends[0] == ends[1] == ExactNetwork(network).output(x[0])
    for end in ends:
        np.testing.assert_allclose([float(v) for v in end], ours[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_agrees_with_onnxruntime_in_its_oldest_and_newest_form(name):
    graph = GRAPHS[name]
    if name == "center crop" and onnxruntime.__version__ < "1.19":
        pytest.skip("onnxruntime before 1.19 leaves an axis as it is")
    if name == "jumps: quantised matrix" and onnxruntime.__version__ < "1.20":
        pytest.skip("onnxruntime 1.18 has no QLinearMatMul of opset 21")
    for opset in {max(graph.first, OPSETS[0]), min(graph.last, OPSETS[-1])}:
        network, runtime, gap = both(name, opset)
        agree(network, runtime, max(gap, graph.rough))


MODULES = {**modules(), **curved_modules()}
NOT_EXPORTED = (
    "threshold",
    "shuffled channels",
    *(
        f"curved: {name}"
        for name in ("rms norm", "encoder layer", "matrix product of two", "stack of products", "powers of 2 and e")
    ),
)
"""What torch's older exporter does not write, or not for every version."""


@pytest.mark.parametrize("name", MODULES)
def test_a_torch_module_is_the_same_network_by_itself_and_exported(name):
    module, shape = MODULES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direct = verifier.load(module.eval(), shape)  # compared with the module as it is loaded
    assert direct.input_shape == shape
    model = exported(name, 18)
    if model is None:
        assert name in NOT_EXPORTED, "the exporter could write it before"
    else:
        agree(verifier.load(model), RuntimeModel(model, fused=False), 1e-4)


def test_the_corpus_covers_every_operator():
    written = set()
    for graph in GRAPHS.values():
        for opset in (graph.first, min(graph.last, 22)):
            builder = Builder(opset)
            graph.write(builder)
            written.update(node.op_type for node in builder.nodes)
    missing = {name for name, _ in operators()} - written
    assert missing == {"ZipMap", "RMSNormalization", "Swish"}  # the last two are of opsets 23 and 24
    assert len(GRAPHS) + len(MODULES) > 300


def test_the_corpus_holds_everything_that_people_have() -> None:
    """The parts of `MET` are read: each is compared with onnxruntime, or with torch, by the tests above."""
    known = {*GRAPHS, *(f"module: {name}" for name in MODULES)}
    assert [name for names in MET.values() for name in names if name not in known] == []


@pytest.mark.parametrize("kind", ["Tan", "Round", "Loop", "Nonsense"])
def test_a_refusal_is_one_sentence_with_a_way_out(kind):
    with pytest.raises(UnsupportedOperatorError, match=rf"{kind}.*inspect --operators") as caught:
        verifier.load(Graph(lambda b: b.op(kind, b.x(1, 3))).model(13))
    assert "\n" not in str(caught.value)
    assert ("curved" in str(caught.value)) == (kind in SMOOTH)
    assert ("none of ONNX's" in str(caught.value)) == (kind == "Nonsense")


def test_the_documented_operators_are_those_of_the_code(capsys):
    from verifier.cli import main

    assert main(["inspect", "--operators"]) == 0
    printed = capsys.readouterr().out.strip()
    document = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text()
    inside = document.split("<!-- operators -->")[1].split("<!-- end -->")[0].strip()
    assert inside == printed, "put what `verifier inspect --operators` prints into docs/formats.md"


def test_inspect_without_a_model_is_one_line(capsys):
    from verifier.cli import main

    assert main(["inspect"]) == 2
    assert "--operators" in capsys.readouterr().err


def test_a_last_argmax_is_refused_with_advice():
    with pytest.raises(UnsupportedOperatorError, match="scores"):
        verifier.load(Graph(lambda b: b.op("ArgMax", b.x(1, 3), axis=1)).model(13))


def test_zipmap_gives_the_scores():
    builder = Builder(13)
    scores = builder.op("Gemm", builder.x(1, 4), builder.numbers(4, 3), builder.numbers(3))
    zipped = builder.op("ZipMap", scores, domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    label = builder.op("ArgMax", scores, axis=1)
    model = builder.model(label)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=label, type=onnx.helper.make_tensor_type_proto(7, None)))
    keys = onnx.helper.make_map_type_proto(7, onnx.helper.make_tensor_type_proto(1, ()))
    model.graph.output.append(onnx.ValueInfoProto(name=zipped, type=onnx.helper.make_sequence_type_proto(keys)))
    network = verifier.load(model)
    assert any("left out" in remark for remark in network.remarks)
    agree(network, RuntimeModel(model, fused=False), 1e-5)
