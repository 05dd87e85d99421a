"""Kernels are compiled once, ahead of the clock."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from verifier import compiled
from verifier.attention import Answer, attention_areas, attention_map
from verifier.encodings.perturbations import Brightness
from verifier.limits import Deadline
from verifier.network.graph import feedforward
from verifier.repair import LineRegion, RepairStatus, Requirement, Specification, output_class, repair
from verifier.saliency import largest_delta


@pytest.fixture
def cold(monkeypatch, tmp_path):
    """An installation in which nothing is compiled; the sample says that it ran."""
    ran = []
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiled, "_done", set())
    monkeypatch.setitem(compiled.SAMPLES, "part", lambda: ran.append(1))
    return ran


def test_once_per_process_and_installation(cold, monkeypatch):
    heard = []
    compiled.ensure("part", heard.append)
    assert "once after an installation" in heard[0].text
    compiled.ensure("part", heard.append)
    monkeypatch.setattr(compiled, "_done", set())  # a new process
    compiled.ensure("part", heard.append)
    assert (len(cold), len(heard)) == (1, 2)


def test_ctrl_c_while_compiling_waits_for_the_end_of_a_kernel(cold, monkeypatch):
    """Within a callback of LLVM it was a traceback, and ignored."""
    from numba.core import event

    reached = []

    def sample():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("within a kernel")
        event.broadcast(event.Event("numba:compile", event.EventStatus.END))
        reached.append("the next kernel")

    for work, wanted in ((sample, ["within a kernel"]), (lambda: os.kill(os.getpid(), signal.SIGINT), [])):
        reached.clear()
        with pytest.raises(KeyboardInterrupt):
            compiled.ensure("part", sample=work)
        assert reached == wanted
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    compiled.ensure("part")
    assert cold == [1], "what was interrupted is not taken for compiled"


def test_again_when_the_sources_change(cold, monkeypatch, tmp_path):
    compiled.ensure("part")
    monkeypatch.setattr(compiled, "_done", set())
    monkeypatch.setattr(compiled, "_fingerprint", lambda: "other")
    compiled.ensure("part")
    assert len(cold) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["compiled-part.json"]


def test_code_that_is_older_than_a_kernel_is_forgotten(cold, monkeypatch, tmp_path):
    """numba would go on with it where only a kernel that is compiled into it has changed."""
    newest = max(path.stat().st_mtime for path in compiled._kernel_sources())
    (tmp_path / "there").mkdir()
    stale, fresh, other = (tmp_path / "there" / name for name in ("a.nbi", "b.nbc", "c.txt"))
    for path, age in ((stale, -10.0), (fresh, 10.0), (other, -10.0)):
        path.write_text("")
        os.utime(path, (newest + age, newest + age))
    compiled.ensure("part")
    assert len(cold) == 1
    assert (stale.exists(), fresh.exists(), other.exists()) == (False, True, True)


KERNEL = """
import numba

@numba.njit(cache=True)
def double(x):
    return 2 * x
"""


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_again_when_the_cache_is_gone(monkeypatch, tmp_path, ending):
    """The files that numba itself names decide, not a mark beside them."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(folder))
    (tmp_path / "kernels_of_a_test.py").write_text(KERNEL)
    ran = []

    def sample():
        spec = importlib.util.spec_from_file_location("verifier.kernels_of_a_test", tmp_path / "kernels_of_a_test.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        ran.append(module.double(21))

    def ensure():
        monkeypatch.setattr(compiled, "_done", set())  # a new process
        compiled.ensure("part")
        return len(ran)

    monkeypatch.setitem(compiled.SAMPLES, "part", sample)
    assert ensure() == ensure() == 1
    made = list(folder.rglob(f"kernels_of_a_test.double*.{ending}"))
    assert len(made) == 1
    made[0].unlink()
    assert ensure() == ensure() == 2


def test_again_on_another_processor(cold, monkeypatch):
    compiled.ensure("part")
    monkeypatch.setattr(compiled, "_done", set())
    monkeypatch.setattr(compiled, "_processor", lambda: "another")
    compiled.ensure("part")
    assert len(cold) == 2


def test_an_interrupted_compilation_is_not_done(cold, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setitem(compiled.SAMPLES, "part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiled.ensure("part")
    monkeypatch.setitem(compiled.SAMPLES, "part", lambda: cold.append(1))
    compiled.ensure("part")
    assert len(cold) == 1


def test_bytecode_is_written_even_where_python_does_not(cold, monkeypatch, tmp_path):
    package = tmp_path / "package"
    (package / "encodings").mkdir(parents=True)
    for file in (package / "a.py", package / "encodings" / "b.py"):
        file.write_text("x = 1\n")
    monkeypatch.setattr(compiled, "__file__", str(package / "compiled.py"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(compiled, "_fingerprint", lambda: "state")
    compiled.ensure("part")
    assert {p.name.split(".")[0] for p in package.rglob("*.pyc")} == {"a", "b"}


def test_the_sample_of_the_saliency_engine_reaches_its_kernels() -> None:
    """Else they are compiled inside the first question's time limit."""
    from verifier.engines.saliency import leaf_kernels

    compiled.SAMPLES[compiled.SALIENCY]()
    kernels = [value for value in vars(leaf_kernels).values() if hasattr(value, "signatures")]
    assert len(kernels) > 4
    assert all(kernel.signatures for kernel in kernels)


@pytest.mark.parametrize("job", ["repair", "attention_map", "attention_areas", "largest_delta"])
def test_jobs_from_python_compile_before_their_clock_starts(monkeypatch, job):
    """As commands do; a limit of two seconds would otherwise be spent on compiling."""
    network = feedforward([np.eye(4), [[1, 1, 0, 0], [0, 0, 1, 1]]], [np.zeros(4), [0, 0]])
    compiled_now: list[str] = []

    def slowly(part, *_):
        compiled_now.append(part)
        time.sleep(0.7)

    monkeypatch.setattr(compiled, "ensure", slowly)
    if job == "repair":
        wanted = Requirement(LineRegion([0.4, 0.0, 0.0, 0.5], [0.2, 0.0, 0.0, 0.5]), output_class(2, 0, margin=0.01))
        found = repair(network, Specification((wanted,)), method="greedy", timeout=0.6)
        assert found.status is not RepairStatus.UNFINISHED
        assert found.met_before == 0
    elif job == "attention_map":
        found = attention_map(network, [[0.9, 0.8], [0.1, 0.2]], [Brightness(low=0, high=0.1)], timeout=0.6)
        assert found.answers["label"].answer is Answer.ROBUST
    elif job == "largest_delta":
        clock = SimpleNamespace(
            after=lambda seconds: Deadline.after(seconds) if compiled_now else pytest.fail("too early")
        )
        monkeypatch.setattr("verifier.saliency.Deadline", clock)
        assert largest_delta(network, [0.3, 0.2, 0.2, 0.1], 0.01, timeout=30, tolerance=0.5).lower > 0
    else:
        found = attention_areas(network, [[0.9, 0.8], [0.1, 0.2]], [Brightness(low=0, high=0.1)], timeout=0.6)
        assert found.answers["label"].answer is Answer.ROBUST
    assert compiled_now
