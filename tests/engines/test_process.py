"""Child processes that answer, crash, hang, eat memory and talk nonsense."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from verifier.engines.base import Answer, Engine
from verifier.engines.process import solve_in_child
from verifier.events import Event, Progress
from verifier.limits import Deadline
from verifier.network.graph import feedforward
from verifier.options import Options
from verifier.properties.builders import robustness
from verifier.properties.query import Query

HERE = Path(__file__).parent


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """Makes the misbehaving engines importable, here and in children; a function from class name to engine."""
    monkeypatch.syspath_prepend(str(HERE))
    import misbehaving

    return lambda name: getattr(misbehaving, name)()


def query(violated: bool) -> Query:
    """(relu(x₀) + relu(x₁), 1) around (1, 1): label 0 is lost where x₀ + x₁ <= 1."""
    network = feedforward([np.eye(2), [[1.0, 1.0], [0.0, 0.0]]], [np.zeros(2), [0.0, 1.0]])
    return robustness(network, np.ones(2), 0.75 if violated else 0.25, domain=None)


def solve(engine: Engine, violated: bool = True, seconds: float = 30.0, **options: object):  # type: ignore[no-untyped-def]
    return solve_in_child(engine, query(violated), Options(**options), Deadline.after(seconds))  # type: ignore[arg-type]


def test_right_answers_and_events_come_back(engine) -> None:  # type: ignore[no-untyped-def]
    events: list[Event] = []
    sat = solve_in_child(engine("Right"), query(True), Options(), Deadline.after(30), events.append)
    assert sat.answer is Answer.SAT
    assert query(True).holds(sat.x[None])[0]
    assert [type(e) for e in events] == [Progress]
    assert solve(engine("Right"), violated=False).answer is Answer.UNSAT


def test_what_a_solver_prints_does_not_disturb(engine) -> None:  # type: ignore[no-untyped-def]
    assert solve(engine("Noisy")).answer is Answer.SAT


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Aborts", "SIGABRT"),
        ("Segfaults", "SIGSEGV"),
        ("Exits", "exit status 3"),
        ("KilledHalfway", "SIGKILL"),
        ("Raises", "status 17"),
        ("SaysTrue", "no engine result"),
        ("SaysNan", "without a usable point"),
        ("SaysUnsatBare", "how certain"),
        ("Garbage", "unreadable"),
    ],
)
def test_failures_are_errors_with_a_reason(engine, name: str, words: str) -> None:  # type: ignore[no-untyped-def]
    result = solve(engine(name), violated=False)
    assert result.answer is Answer.ERROR
    assert words in result.reason


def test_the_last_words_of_a_crash_are_kept(engine) -> None:  # type: ignore[no-untyped-def]
    assert "terminate called" in solve(engine("Aborts")).reason


def gone(pid: int) -> bool:
    """Whether a process is dead (or a zombie that its new parent has yet to collect)."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_hanging_engine_is_killed_with_all_that_it_started(engine, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("MISBEHAVING_PIDS", str(tmp_path / "pids"))
    for seconds in (1.5, 6.0, 24.0, 96.0):
        began = time.monotonic()
        result = solve(engine("Hangs"), seconds=seconds)
        assert result.answer is Answer.TIMEOUT
        assert time.monotonic() - began < seconds + 20
        if (tmp_path / "pids").exists():  # on a busy machine it takes a while to start
            break
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_a_memory_eating_engine_is_stopped(engine) -> None:  # type: ignore[no-untyped-def]
    result = solve(engine("EatsMemory"), memory=0.4)
    assert result.answer is Answer.ERROR
    assert "memory" in result.reason.lower()


def test_no_folder_is_left_behind(engine, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    solve(engine("Right"))
    solve(engine("Aborts"))
    assert list(tmp_path.iterdir()) == []


PARENT = """
import sys
sys.path[:0] = {path!r}
import misbehaving
from test_process import query
from verifier.limits import Deadline
from verifier.engines.process import solve_in_child
from verifier.options import Options
print("started", flush=True)
solve_in_child(misbehaving.Hangs(), query(True), Options(), Deadline.after(1000))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_caller_leaves_no_children(tmp_path: Path, how: signal.Signals) -> None:
    pids = tmp_path / "pids"
    script = tmp_path / "parent.py"
    root = str(HERE.parents[1])
    script.write_text(textwrap.dedent(PARENT.format(path=[str(HERE), root])))
    environment = {**os.environ, "MISBEHAVING_PIDS": str(pids)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL)
    try:
        for _ in range(400):
            if pids.exists() and len(pids.read_text().split()) == 2:
                break
            time.sleep(0.05)
        child, grandchild = (int(p) for p in pids.read_text().split())
        parent.send_signal(how)
        parent.wait(timeout=20)
        assert gone(child)
        if how is signal.SIGINT:
            assert gone(grandchild)
    finally:
        parent.kill()
        for pid in (int(p) for p in pids.read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
