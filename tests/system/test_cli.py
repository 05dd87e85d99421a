"""The command line from outside: exit status, words, JSON, progress, bad files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from verifier.cli import main
from verifier.network.graph import feedforward
from verifier.network.onnx_writer import write_onnx

PROPERTY = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 {low})) (assert (<= X_0 2))
(assert (>= X_1 {low})) (assert (<= X_1 2))
(assert (<= Y_0 Y_1))
"""


def run(*arguments: str | Path, code: int | None = None) -> subprocess.CompletedProcess[str]:
    """``verifier`` with these arguments; checks the exit status if given."""
    words = [sys.executable, "-m", "verifier.cli", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model (relu(x₀) + relu(x₁), 1), and properties with and without a counterexample."""
    folder = tmp_path_factory.mktemp("files")
    network = feedforward([np.eye(2), [[1.0, 1.0], [0.0, 0.0]]], [np.zeros(2), [0.0, 1.0]])
    write_onnx(network, folder / "net.onnx")
    (folder / "holds.vnnlib").write_text(PROPERTY.format(low=0.75))
    (folder / "violated.vnnlib").write_text(PROPERTY.format(low=0.25))
    (folder / "broken.vnnlib").write_text(PROPERTY.format(low="one"))
    (folder / "other.vnnlib").write_text(PROPERTY.format(low=0.25).replace("_1", "_2"))
    (folder / "truncated.onnx").write_bytes((folder / "net.onnx").read_bytes()[:100])
    np.save(folder / "x.npy", np.ones(2))
    (folder / "x.txt").write_text("1.0, 1.0\n")
    np.save(folder / "nan.npy", np.array([1.0, np.nan]))
    np.save(folder / "long.npy", np.ones(3))
    return folder


def test_a_proof_is_written_and_checked(files: Path, tmp_path: Path) -> None:
    proof, model, holds = tmp_path / "proof.npz", files / "net.onnx", files / "holds.vnnlib"
    done = run("verify", model, holds, "--proof", proof, code=0)
    assert done.stdout.startswith("HOLDS: proved in floating point with all rounding errors bounded")
    assert "a certificate of" in done.stderr
    assert "the proof is right" in run("check-proof", proof, model, holds, code=0).stdout
    assert json.loads(run("check-proof", proof, model, holds, "--json", code=0).stdout)["result"]["right"] is True
    done = run("check-proof", proof, model, files / "violated.vnnlib", code=1)
    assert "is a proof about another property" in done.stdout
    proof.write_bytes(proof.read_bytes()[:-30])
    assert "damaged" in run("check-proof", proof, model, holds, code=2).stderr
    run("verify", model, files / "violated.vnnlib", "--proof", tmp_path / "none.npz", code=1)
    assert not (tmp_path / "none.npz").exists()
    assert (
        "its folder does not exist" in run("verify", model, holds, "--proof", tmp_path / "no" / "p.npz", code=2).stderr
    )
    run("verify", model, holds, "--engine", "z3", "--proof", proof, code=0)  # proved again by the native engine
    assert "the proof is right" in run("check-proof", proof, model, holds, code=0).stdout


def test_holds_is_0(files: Path) -> None:
    done = run("verify", files / "net.onnx", files / "holds.vnnlib", code=0)
    assert done.stdout.startswith("HOLDS: proved")
    assert "search" in done.stderr


def test_violated_is_1_and_shows_the_witness(files: Path, tmp_path: Path) -> None:
    witness = tmp_path / "w.npy"
    done = run("verify", files / "net.onnx", files / "violated.vnnlib", "--witness", witness, code=1)
    assert done.stdout.startswith("VIOLATED: a counterexample")
    assert "exact rational arithmetic" in done.stdout
    x = np.load(witness)
    assert ((x >= 0.25) & (x <= 2)).all()
    assert np.maximum(x, 0).sum() <= 1


def test_json(files: Path) -> None:
    done = run("verify", files / "net.onnx", files / "violated.vnnlib", "--json", "--quiet", code=1)
    record = json.loads(done.stdout)
    assert record["verdict"] == "violated"
    assert record["result"]["witness"]["exact"] is True
    assert sum(record["result"]["witness"]["input"]) <= 1
    assert record["times"]["total"] > 0
    assert done.stderr == ""
    holds = json.loads(run("verify", files / "net.onnx", files / "holds.vnnlib", "--json", "--quiet", code=0).stdout)
    assert holds["verdict"] == "holds"
    assert holds["result"]["witness"] is None
    assert holds["result"]["certainty"] in ("exact", "rigorous", "numerical")


def test_saliency(files: Path) -> None:
    common = ("saliency", files / "net.onnx", "--delta", 0.5, "--domain=none")
    run(*common, files / "x.npy", "--epsilon", 0.25, code=0)
    done = run(*common, files / "x.txt", "--epsilon", 0.75, "--json", code=1)
    assert json.loads(done.stdout)["result"]["witness"]["gradient"] == [1.0, 1.0]
    run("saliency", files / "net.onnx", files / "x.npy", "--epsilon", 5, "--delta", 0.1, code=1)


def test_saliency_with_another_map(files: Path) -> None:
    common = ("saliency", files / "net.onnx", files / "x.npy", "--domain=none", "--epsilon", 0.75)
    done = run(*common, "--delta", 0.5, "--map", "gradient-input", "--similarity", "l1", "--json", code=0)
    assert "gradient-input" in json.loads(done.stdout)["question"]["text"]
    done = run(*common, "--map", "absolute", "--similarity", "top-k", "--top-k", 1, "--json", code=1)
    assert len(json.loads(done.stdout)["result"]["witness"]["map"]) == 2


def test_saliency_finds_the_threshold(files: Path) -> None:
    common = ("saliency", files / "net.onnx", files / "x.npy", "--domain=none")
    picture = files / "map.png"
    done = run(*common, "--epsilon", 0.75, "--find", "delta", "--json", "--picture", picture, code=0)
    found = json.loads(done.stdout)["result"]
    assert found["refuted_from"] == pytest.approx(found["holds_up_to"], abs=1e-8)
    assert picture.stat().st_size > 1000
    done = run(*common, "--delta", 0.5, "--find", "epsilon", "--json", code=0)
    found = json.loads(done.stdout)["result"]
    assert found["holds_up_to"] <= found["refuted_from"] <= found["holds_up_to"] + 1e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("verify", "missing.onnx", "holds.vnnlib"), "missing.onnx"),
        (("verify", "net.onnx", "missing.vnnlib"), "missing.vnnlib"),
        (("verify", "truncated.onnx", "holds.vnnlib"), "truncated.onnx"),
        (("verify", "net.onnx", "broken.vnnlib"), "line 5"),
        (("verify", "net.onnx", "other.vnnlib"), "X_1 is not declared"),
        (("verify", "net.onnx", "net.onnx"), "net.onnx"),
        (("verify", "net.onnx", "holds.vnnlib", "--engine", "cplex"), "no engine 'cplex'"),
        (("verify", "net.onnx", "holds.vnnlib", "--timeout", "-3"), "positive"),
        (("verify", "net.onnx"), "PROPERTY"),
        (("saliency", "net.onnx", "x.npy", "--epsilon", "-1", "--delta", "1"), "epsilon"),
        (("saliency", "net.onnx", "x.npy", "--epsilon", "1", "--delta", "-1"), "delta"),
        (("saliency", "net.onnx", "nan.npy", "--epsilon", "1", "--delta", "1"), "NaN"),
        (
            ("saliency", "net.onnx", "long.npy", "--epsilon", "1", "--delta", "1"),
            "long.npy: holds 3 numbers",
        ),
        (("saliency", "net.onnx", "net.onnx", "--epsilon", "1", "--delta", "1"), "not an array"),
        (("saliency", "net.onnx", "x.npy", "--epsilon", "1", "--delta", "1", "--label", "7"), "label 7"),
        (("saliency", "net.onnx", "x.npy", "--epsilon", "1", "--delta", "1", "--domain=3"), "LOW,HIGH"),
        (("saliency", "net.onnx", "x.npy", "--epsilon", "1", "--delta", "1", "--domain=2,3"), "outside"),
        (("nonsense",), "nonsense"),
        ((), "COMMAND"),
    ],
)
def test_bad_usage_and_bad_files_are_2(
    files: Path, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(files / a) if a.endswith((".onnx", ".vnnlib", ".npy")) else a for a in arguments]
    try:
        status = main(paths)
    except SystemExit as leaving:  # argparse
        status = leaving.code
    printed = capsys.readouterr()
    assert status == 2
    assert words in printed.err
    assert printed.out == ""


def test_an_error_from_outside(files: Path) -> None:
    done = run("verify", files / "net.onnx", files / "broken.vnnlib", code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("verifier: error: ")


def test_doctor_finds_working_engines() -> None:
    done = run("doctor", "--json")
    record = json.loads(done.stdout)
    states = {found["engine"]: found["state"] for found in record["result"]["engines"]}
    assert set(states.values()) <= {"works", "not installed"}, record["result"]["engines"]
    assert done.returncode == 0
    assert states["z3"] == states["highs"] == "works"


def test_interrupt_is_130_and_says_so(files: Path, tmp_path: Path) -> None:
    """Ctrl-C while an engine hangs: no traceback, no child left."""
    helper = tmp_path / "main.py"
    engines = Path(__file__).parents[1] / "engines"
    helper.write_text(
        f"import sys\nsys.path.insert(0, {str(engines)!r})\nsys.path.insert(1, {str(engines.parents[1])!r})\n"
        "from verifier.engines import registry\n"
        "registry.ENGINES = {'hangs': 'misbehaving:Hangs'}\n"
        "from verifier.cli import main\nsys.exit(main())\n"
    )
    pids = tmp_path / "pids"
    words = ["verify", files / "net.onnx", files / "holds.vnnlib", "--engine", "hangs", "--timeout", "1000"]
    process = subprocess.Popen(
        [sys.executable, str(helper), *map(str, words), "--no-prepass"],
        env={**os.environ, "MISBEHAVING_PIDS": str(pids)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(600):
            if pids.exists() and len(pids.read_text().split()) == 2:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "interrupted" in stderr
        assert "Traceback" not in stderr
    finally:
        process.kill()
        process.wait()
    for pid in pids.read_text().split():
        path = Path(f"/proc/{pid}/stat")
        for _ in range(100):
            if not path.exists() or path.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"process {pid} was left behind")
