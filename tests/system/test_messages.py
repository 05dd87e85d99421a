"""Messages that help where they are read: on the command line, about the very thing that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import verifier
from verifier.cli import main
from verifier.network.onnx_writer import write_onnx


def model(path: Path, node: onnx.NodeProto, shape: list[int | str], domains: tuple[str, ...] = ()) -> str:
    """A file with one node from x to y."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return str(path)


def said(words: list[str], capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    assert main(words) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out


def test_an_open_input_shape_has_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path / "open.onnx", helper.make_node("Relu", ["x"], ["y"]), ["batch", "channels", "h", "w"])
    assert "--input-shape 1,3,32,32" in said(["inspect", path], capsys)
    assert "input (2, 3, 4)" in said(["inspect", path, "--input-shape", "1,2,3,4"], capsys, 0)
    assert "must be at least 1" in said(["inspect", path, "--input-shape", "1,0"], capsys)


def test_a_foreign_operator_is_not_confused_with_its_namesake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain="com.custom")
    text = said(["inspect", model(tmp_path / "custom.onnx", node, [1, 2], ("com.custom",))], capsys)
    assert "'Relu' of the domain 'com.custom' is not one of ONNX's own" in text


def test_a_head_that_jumps_gets_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path / "head.onnx", helper.make_node("ArgMax", ["x"], ["y"]), [1, 2])
    assert "export the scores before it" in said(["inspect", path], capsys)


def test_a_folder_is_called_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.onnx").mkdir()
    assert "d.onnx: is a folder" in said(["inspect", str(tmp_path / "d.onnx")], capsys)


def test_a_table_without_a_column_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "instances.csv").write_text("a.onnx,b.vnnlib,5\n")
    (tmp_path / "tools.csv").write_text("tool@year,unsat,sat,total_time_solved_s\na@2023,1,1,3\n")
    assert "tools.csv: has no column 'wrong'" in said(["vnncomp", "run", str(tmp_path)], capsys)


def test_a_corner_is_named_as_it_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its number: inputs in many dimensions have no other name that fits on a line."""
    write_onnx(verifier.feedforward([np.eye(3)], [np.zeros(3)]), tmp_path / "net.onnx")
    words = ["plane", str(tmp_path / "net.onnx")]
    for k, corner in enumerate([(0, 0, 7), (4, 0, 7), (1, 1, 7), (0, 4, 7)]):
        np.save(tmp_path / f"{k}.npy", np.array(corner, dtype=float))
        words.append(str(tmp_path / f"{k}.npy"))
    assert "not convex at corner 3 of those given" in said(words, capsys)
    assert "not convex at corner 2 of those given" in said([*words[:2], *words[2:][::-1]], capsys)


def test_a_misspelled_choice_is_answered_with_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'doctor'?" in said(["dcotor"], capsys)
    assert "did you mean 'crown'? else see verifier verify --help" in said(
        ["verify", "a", "b", "--bounds", "crwon"], capsys
    )
    assert "unrecognized arguments: --jsn (see verifier inspect --help)" in said(["inspect", "a.onnx", "--jsn"], capsys)


def test_a_data_set_that_is_none_is_refused_with_the_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, data = str(tmp_path / "net.onnx"), tmp_path / "data.npz"
    write_onnx(verifier.feedforward([np.eye(2)], [np.zeros(2)]), net)
    words, images = ["certify", net, str(data), "--epsilon", "0.1"], np.array([[0.1, 0.9], [0.8, 0.2]])
    for labels, wanted in (
        ([1, 2], "label 2 of image 1 does not exist"),
        ([0.5, 0], "label 0.5 of image 0 does not exist"),
        ([1], "1 labels for 2 images"),
    ):
        np.savez(data, images=images, labels=np.array(labels))
        assert wanted in said(words, capsys)
    np.savez(data, images=images)
    assert "--first 2, but there are 2 inputs" in said([*words, "--first", "2"], capsys)
    np.savez(data, images=images * 1j)
    assert "holds no numbers, but complex128" in said(words, capsys)


def test_complex_numbers_are_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They would lose their imaginary parts, and the verdict would be one about another input."""
    write_onnx(verifier.feedforward([np.eye(2)], [np.zeros(2)]), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.array([0.2, 0.7 + 1j]))
    words = ["robustness", str(tmp_path / "net.onnx"), str(tmp_path / "x.npy"), "--epsilon", "0.1"]
    assert "holds no numbers, but complex128" in said(words, capsys)


def test_corners_are_counted_as_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_onnx(verifier.feedforward([np.eye(2)], [np.zeros(2)]), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.array([0.2, 0.7]))
    assert "got 1" in said(["plane", str(tmp_path / "net.onnx"), *[str(tmp_path / "x.npy")] * 3], capsys)
