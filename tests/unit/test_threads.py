"""The numerical libraries get one thread each, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import verifier
from verifier.engines.process import ChildProcess
from verifier.lazy import sp
from verifier.options import Options
from verifier.threads import VARIABLES


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def query() -> verifier.Query:
    network = verifier.feedforward([np.eye(2), [[1.0, 1.0], [0.0, 0.0]]], [np.zeros(2), [0.0, 1.0]])
    return verifier.robustness(network, np.ones(2), 0.25, domain=None)


def test_verify_limits_them_and_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(2):
        assert threads() == {2}
        seen: list[set[int]] = []
        verifier.verify(query(), listener=lambda event: seen.append(threads()))
        assert seen
        assert all(found == {1} for found in seen)
        assert threads() == {2}


def test_children_get_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    child = ChildProcess.__new__(ChildProcess)
    child.folder, child.options = "folder", Options(threads=4)
    assert VARIABLES.items() <= child._environment().items()


def test_the_command_line_needs_no_variable() -> None:
    code = "import os, verifier.cli\ntry: verifier.cli.main(['--version'])\nfinally: print(dict(os.environ))"
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert VARIABLES.items() <= eval(done.stdout.splitlines()[-1]).items()


def test_a_package_that_another_thread_is_importing_has_no_arrays_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse", ModuleType("scipy.sparse"))
    assert not sp.issparse(1.0)


@pytest.mark.skipif("OPENBLAS_CORETYPE" not in os.environ, reason="set by `make kernels`")
def test_the_processor_that_was_asked_for_is_used() -> None:
    """Else `make kernels` would try one and the same arithmetic several times."""
    known = {"Prescott": "Katmai", "Zen": "Haswell"}
    wanted = os.environ["OPENBLAS_CORETYPE"]
    used = {library["architecture"] for library in threadpool_info() if library["internal_api"] == "openblas"}
    assert used <= {wanted, known.get(wanted)}
    assert used
