"""Whole categories through the command line: answers, journal, kill -9, reports, scripts."""

from __future__ import annotations

import csv
import gzip
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from verifier.network.graph import feedforward
from verifier.network.loading import load
from verifier.network.onnx_writer import write_onnx
from verifier.network.runtime import RuntimeModel
from verifier.properties.vnnlib import read_vnnlib
from verifier.properties.vnnlib2 import variables
from verifier.vnncomp.answer import read_answer, read_counterexample

ROOT = Path(__file__).parents[2]
RUN = ROOT / "vnncomp_scripts" / "run_instance.sh"
ENGINES = Path(__file__).parents[1] / "engines"

PROPERTY = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 {low})) (assert (<= X_0 2))
(assert (>= X_1 {low})) (assert (<= X_1 2))
(assert (<= Y_0 Y_1))
"""
PROPERTY_2 = """(vnnlib-version <2.0>)
(declare-network f
  (declare-input X float32 [1,2])
  (declare-output Y float32 [1,2])
)
(assert (>= X[0,0] {low})) (assert (<= X[0,0] 2.0))
(assert (>= X[0,1] {low})) (assert (<= X[0,1] 2.0))
(assert (<= Y[0,0] Y[0,1]))
"""
TRUTH = {"holds.vnnlib": "unsat", "violated.vnnlib": "sat", "holds2.vnnlib": "unsat", "violated2.vnnlib": "sat"}


@pytest.fixture
def category(tmp_path: Path) -> Path:
    """A tiny category: (relu(x₀) + relu(x₁), 1); label 0 is lost where x₀ + x₁ <= 1."""
    folder = tmp_path / "tiny"
    (folder / "onnx").mkdir(parents=True)
    (folder / "vnnlib").mkdir()
    network = feedforward([np.eye(2), [[1.0, 1.0], [0.0, 0.0]]], [np.zeros(2), [0.0, 1.0]])
    write_onnx(network, folder / "onnx" / "net.onnx.gz")
    for low, name in ((0.75, "holds"), (0.25, "violated")):
        packed = gzip.compress(PROPERTY.format(low=low).encode())
        (folder / "vnnlib" / f"{name}.vnnlib.gz").write_bytes(packed)
        (folder / "vnnlib" / f"{name}2.vnnlib").write_text(PROPERTY_2.format(low=low))
    rows = [f"onnx/net.onnx,vnnlib/{name},20" for name in TRUTH]
    (folder / "instances.csv").write_text("\n".join(rows) + "\n")
    truth = [f"onnx/net.onnx,vnnlib/{name},20,{verdict}" for name, verdict in TRUTH.items()]
    (folder / "ground_truth.csv").write_text("\n".join(["onnx,vnnlib,timeout,verdict", *truth]) + "\n")
    (folder / "tools.csv").write_text(
        "tool@year,unsat,sat,solved,wrong,total_time_solved_s,instances_matched\nother@2024,2,1,3,0,12.5,4\n"
    )
    return folder


def vnncomp(category: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "verifier.cli", "vnncomp", "run", str(category)]
    words += ["--out", str(category / "out"), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def results(category: Path) -> dict[str, str]:
    with (category / "out" / "results.csv").open() as file:
        return {Path(row[2]).name: row[4] for row in csv.reader(file)}


def table(category: Path, query: str) -> list[tuple[object, ...]]:
    database = sqlite3.connect(category / "out" / "journal.sqlite")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def test_a_category_from_start_to_report(category: Path) -> None:
    done = vnncomp(category, "--workers", "2")
    assert results(category) == TRUTH
    assert "4 of 4 solved (2 unsat, 2 sat)" in done.stdout
    assert "0 wrong" in done.stdout
    assert "other@2024" in done.stdout
    assert "score 40" in done.stdout
    assert "4/4" in done.stderr
    assert (category / "out" / "cactus.png").stat().st_size > 1000
    witnesses = table(category, "SELECT witness FROM result WHERE result = 'sat'")
    assert witnesses == [("valid",), ("valid",)]
    files = sorted((category / "out" / "counterexamples").iterdir())
    network = load(category / "onnx" / "net.onnx.gz")
    assert [file.name for file in files] == [f"net_{p}.counterexample.gz" for p in ("violated", "violated2")]
    for file in files:
        declared = variables(PROPERTY_2.format(low=0.25), network) if "violated2" in file.name else ()
        x, y = read_counterexample(gzip.decompress(file.read_bytes()).decode(), declared)
        assert np.array_equal(x, x.astype(np.float32))
        assert ((x >= 0.25) & (x <= 2)).all()
        assert x.sum() <= 1
        assert y == pytest.approx([x.sum(), 1.0])

    again = vnncomp(category, "--workers", "2")
    assert "4 of them done before" in again.stderr
    assert table(category, "SELECT COUNT(*) FROM start") == [(4,)]
    assert "begun with settings" in vnncomp(category, "--workers", "2", "--seed", "5", code=2).stderr
    vnncomp(category, "--seed", "5", "--fresh", "--only", "holds2", "--quiet")
    assert results(category) == {"holds2.vnnlib": "unsat"}


def test_a_wrong_answer_is_loud(category: Path) -> None:
    text = (category / "ground_truth.csv").read_text()
    (category / "ground_truth.csv").write_text(text.replace("violated.vnnlib,20,sat", "violated.vnnlib,20,unsat"))
    done = vnncomp(category, "--only", "violated.vnnlib", code=1)
    assert "!!! WRONG" in done.stderr
    assert "!!! WRONG" in done.stdout
    assert "score -150" in done.stdout


def test_killed_runs_resume_and_run_nothing_twice(category: Path) -> None:
    """kill -9 in the middle: what was done stays done, what was running is run again, no process is left."""
    rows = [f"onnx/net.onnx,vnnlib/{name},20" for name in TRUTH] * 2
    (category / "instances.csv").write_text("\n".join(rows) + "\n")
    words = [sys.executable, "-m", "verifier.cli", "vnncomp", "run", str(category), "--out", str(category / "out")]
    runner = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    for _ in range(1200):
        time.sleep(0.05)
        journal = category / "out" / "journal.sqlite"
        if journal.exists() and table(category, "SELECT name FROM sqlite_master WHERE name = 'result'"):
            starts = table(category, "SELECT COUNT(*) FROM start")[0][0]
            if starts == 4:
                break
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    before = table(category, "SELECT number, result, seconds FROM result ORDER BY number")
    assert 3 <= len(before) < 8
    vnncomp(category)
    after = table(category, "SELECT number, result, seconds FROM result ORDER BY number")
    assert after[: len(before)] == before
    assert [row[1] for row in after] == list(TRUTH.values()) * 2
    starts_by = dict(table(category, "SELECT number, COUNT(*) FROM start GROUP BY number"))
    assert all(starts_by[number] == 1 for number, _, _ in before)
    assert sorted(starts_by.values()) in ([1] * 7 + [2], [1] * 8)


def test_two_runs_on_one_journal_are_refused(category: Path) -> None:
    import fcntl

    (category / "out").mkdir()
    with (category / "out" / "journal.sqlite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run" in vnncomp(category, code=2).stderr


def test_bad_categories_are_errors(category: Path) -> None:
    assert "instances.csv" in vnncomp(category / "onnx", code=2).stderr
    (category / "instances.csv").write_text("onnx/net.onnx,vnnlib/holds.vnnlib,20\nonnx/net.onnx,x\n")
    assert "line 2" in vnncomp(category, code=2).stderr
    (category / "instances.csv").write_text("onnx/none.onnx,vnnlib/holds.vnnlib,20\n")
    assert "1 errors" in vnncomp(category).stdout
    reason = table(category, "SELECT reason FROM result")[0][0]
    assert "none.onnx" in str(reason)


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes ``--engine hangs`` known to every Python started from here; the file where it leaves its ids."""
    site, pids = tmp_path / "site", tmp_path / "pids"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(ENGINES)!r})\n"
        "import verifier.engines.registry as r\nr.ENGINES = {**r.ENGINES, 'hangs': 'misbehaving:Hangs'}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("MISBEHAVING_PIDS", str(pids))
    return pids


def gone(pid: int) -> bool:
    """Whether a process is dead, or a zombie that its new parent has yet to collect."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_time_limits_hold_for_engines_that_hang(category: Path, hanging: Path) -> None:
    """The limit is the instance's own; the answer is a time-out, never unsat."""
    (category / "instances.csv").write_text("onnx/net.onnx,vnnlib/holds.vnnlib,8\n")
    vnncomp(category, "--engine", "hangs")
    ((result, seconds),) = table(category, "SELECT result, seconds FROM result")
    assert result == "timeout"
    assert 7 < float(str(seconds)) < 8.5
    assert all(gone(int(pid)) for pid in hanging.read_text().split())


def test_the_watchdog_leaves_with_all_that_was_started() -> None:
    """An engine that overlooks its deadline, with a process of its own in a group of its own."""
    script = """
import subprocess, time
import verifier.engines.process
from verifier.vnncomp.run_instance import _leave_at
print(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid, flush=True)
answering = _leave_at(time.monotonic() + 0.2)
time.sleep(100)
"""
    found = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=60)
    assert found.returncode == 0
    assert gone(int(found.stdout))


def test_an_interrupted_run_leaves_no_process(category: Path, hanging: Path) -> None:
    words = [sys.executable, "-m", "verifier.cli", "vnncomp", "run", str(category), "--engine", "hangs"]
    (category / "instances.csv").write_text("onnx/net.onnx,vnnlib/holds.vnnlib,500\n")
    runner = subprocess.Popen([*words, "--out", str(category / "out")], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):
            if hanging.exists() and len(hanging.read_text().split()) == 2:
                break
            time.sleep(0.05)
        runner.send_signal(signal.SIGINT)
        _, stderr = runner.communicate(timeout=30)
    finally:
        runner.kill()
        runner.wait()
    assert runner.returncode == 130
    assert "Traceback" not in stderr
    assert all(gone(int(pid)) for pid in hanging.read_text().split())
    assert table(category, "SELECT COUNT(*) FROM result") == [(0,)]


# -- the competition's scripts ---------------------------------------------------------------------------
def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = ["bash", str(ROOT / "vnncomp_scripts" / name), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_scripts_answer_in_the_competitions_syntax(category: Path, tmp_path: Path) -> None:
    model, out = category / "onnx" / "net.onnx", tmp_path / "out"
    prop = category / "vnnlib" / "violated.vnnlib"
    assert script("prepare_instance.sh", "v1", "tiny", model, prop).returncode == 0
    assert script("run_instance.sh", "v1", "tiny", model, prop, out, "20").returncode == 0
    result, text = read_answer(out.read_text())
    assert result == "sat"
    assert text.startswith("((X_0 ")
    x, y = read_counterexample(text)
    network = load(category / "onnx" / "net.onnx.gz")
    query = read_vnnlib(category / "vnnlib" / "violated.vnnlib.gz", network)
    assert query.holds(x[None])[0]
    assert RuntimeModel(network).run(x).tolist() == y.tolist()

    second = category / "vnnlib" / "violated2.vnnlib"
    assert script("run_instance.sh", "v1", "tiny", model, second, out, "20").returncode == 0
    lines = out.read_text().splitlines()
    assert lines[:2] == ["sat", "X float32 [1,2]"]
    assert lines[4] == "Y float32 [1,2]"
    assert len(lines) == 7

    holds = category / "vnnlib" / "holds.vnnlib"
    assert script("run_instance.sh", "v1", "tiny", model, holds, out, "20").returncode == 0
    assert out.read_text() == "unsat\n"


def test_scripts_with_bad_input(category: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model, prop = category / "onnx" / "net.onnx", category / "vnnlib" / "holds.vnnlib"
    assert script("prepare_instance.sh", "v1", "tiny", "none.onnx", prop).returncode != 0
    assert script("prepare_instance.sh", "v2", "tiny", model, prop).returncode != 0
    assert script("run_instance.sh", "v1", "tiny", "none.onnx", prop, out, "5").returncode == 0
    assert out.read_text() == "error\n"
    pair = f"[('f','{model}'),('g','{model}')]"
    assert script("run_instance.sh", "v1", "tiny", pair, prop, out, "5").returncode == 0
    assert out.read_text() == "error\n"  # a property of version 1.0 is about one network
    assert script("run_instance.sh", "v1", "tiny", f"[('f','{model}')]", prop, out, "20").returncode == 0
    assert out.read_text() == "unsat\n"
    assert script("run_instance.sh", "v1", "tiny", model, prop, out, "0.2").returncode == 0
    assert out.read_text() == "timeout\n"
