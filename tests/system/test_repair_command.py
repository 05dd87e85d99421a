"""``verifier repair`` through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import verifier
from verifier.cli import main


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s) for s in ((8, 2), (8, 8), (3, 8))]
    path = tmp_path / "net.onnx"
    verifier.write_onnx(verifier.feedforward(weights, [rng.normal(size=len(w)) for w in weights]), path)
    return path


def specification(folder: Path, label: int, margin: float = 0.01) -> Path:
    region = {"origin": [0, 0], "u": [1, 0], "v": [0, 1], "polygon": [[0, 0], [1, 0], [0, 1]]}
    path = folder / "spec.json"
    path.write_text(json.dumps({"requirements": [{"name": "tri", "region": region, "class": label, "margin": margin}]}))
    return path


@pytest.mark.parametrize("method", ["lp", "greedy"])
def test_repair_writes_a_network_that_meets_the_specification(
    model: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = verifier.load(model)
    label = int(np.argmin(network.forward([0.3, 0.3])))
    out = tmp_path / "out"
    arguments = ["repair", str(model), str(specification(tmp_path, label)), "--method", method, "--exact"]
    status = main([*arguments, "--steps", "20", "--out", str(out), "--quiet"])
    printed = capsys.readouterr().out
    assert status in ((0,) if method == "lp" else (0, 3))
    assert "key points met" in printed
    assert "in rational arithmetic" in printed
    assert (out / "classes.png").stat().st_size > 10_000
    record = json.loads((out / "report.json").read_text())
    assert record["met after"] >= record["met before"]
    if status == 0:
        points = np.random.default_rng(1).dirichlet([1, 1, 1], 200)[:, :2]
        assert (verifier.load(out / "repaired.onnx").forward(points).argmax(axis=1) == label).all()


def test_bad_specifications_are_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = specification(tmp_path, 7)
    assert main(["repair", str(model), str(path)]) == 2
    assert f"{path}: tri: class 7 does not exist" in capsys.readouterr().err
    path.write_text("{")
    assert main(["repair", str(model), str(path)]) == 2
    assert "not JSON" in capsys.readouterr().err
    path.write_text("{}")
    assert main(["repair", str(model), str(path)]) == 2
    assert f"{path}: a specification" in capsys.readouterr().err
    assert main(["repair", str(model)]) == 2
    assert "--example" in capsys.readouterr().err
    assert main(["repair", "--example"]) == 0
    assert "requirements" in json.loads(capsys.readouterr().out)
