"""Limits in force hold for everything below, in all threads: no deadline reaches past them, no budget is another."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from verifier import Status, compiled, robustness, verify
from verifier.cli import TIMEOUT, main
from verifier.errors import TimeLimitError
from verifier.limits import GIB, NEVER, Deadline, MemoryBudget, deadline_in_force, in_force, poll, thread_pool
from verifier.network.exact import ExactNetwork
from verifier.network.graph import feedforward
from verifier.network.onnx_writer import write_onnx
from verifier.network.rationals import Rationals, dyadic

NETWORK = feedforward([np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)])


def test_no_deadline_reaches_past_the_one_in_force() -> None:
    outer = Deadline.after(5.0)
    with in_force(outer):
        assert Deadline.after(60.0) == Deadline.after(None) == outer
        assert Deadline.after(1.0).left <= 1.0
        assert outer.later(2.0).left > outer.left + 1.9
    assert Deadline.after(None) == NEVER == NEVER.later(1.0)


def test_a_budget_without_a_number_is_the_one_in_force() -> None:
    with in_force(NEVER, MemoryBudget.of(0.25)):
        assert MemoryBudget.of(None).limit == GIB / 4
        assert MemoryBudget.of(0.5).limit == GIB / 2
        with in_force(Deadline.after(9.0)):
            assert MemoryBudget.of(None).limit == GIB / 4, "a new deadline leaves the budget as it was"
    assert MemoryBudget.of(None).limit > GIB / 4


def test_threads_are_under_the_limits_of_whom_they_work_for() -> None:
    with in_force(Deadline.after(0.0), MemoryBudget.of(0.25)), thread_pool(2) as pool:
        held = list(pool.map(lambda _: (MemoryBudget.of(None).limit, deadline_in_force()), range(4)))
        assert held == 4 * [(GIB / 4, deadline_in_force())]
        with pytest.raises(TimeLimitError):
            pool.submit(poll, "in a thread").result()


def test_compiling_kernels_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "ensure", lambda *_: time.sleep(0.4))
    with in_force(Deadline.after(0.3)):
        assert verify(robustness(NETWORK, [0.9, 0.1], 0.1), timeout=20).status is Status.HOLDS


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A network, and a property of so many disjuncts that reading it takes a second."""
    write_onnx(NETWORK, tmp_path / "net.onnx")
    box = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1"))
    box += "".join(f"(assert (>= X_{k} 0)) (assert (<= X_{k} 1))" for k in range(2))
    many = " ".join(f"(and (>= Y_0 {2 + k}.1) (<= Y_1 {k}.3))" for k in range(5000))
    (tmp_path / "many.vnnlib").write_text(f"{box} (assert (or {many}))")
    return str(tmp_path / "net.onnx"), str(tmp_path / "many.vnnlib")


def test_reading_counts_from_the_start_of_the_command(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert main(["verify", *files, "--timeout", "0.1", "--json", "--quiet"]) == TIMEOUT
    assert time.monotonic() - began < 1.0
    record = json.loads(capsys.readouterr().out)
    assert (record["verdict"], record["result"]["stage"]) == ("timeout", "reading")
    assert main(["verify", *files, "--timeout", "60", "--json", "--quiet"]) == 0


def test_the_map_of_the_input_counts_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    sizes = [100, 200, 200, 2]
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
    write_onnx(feedforward(weights, [np.zeros(b) for b in sizes[1:]]), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", rng.random(100))
    line = ["saliency", str(tmp_path / "net.onnx"), str(tmp_path / "x.npy"), "--epsilon", "0.1"]
    line += ["--delta", "0.1", "--map", "integrated", "--steps", "500", "--timeout", "0.2", "--json", "--quiet"]
    began = time.monotonic()
    assert main(line) == TIMEOUT
    assert time.monotonic() - began < 1.2
    assert json.loads(capsys.readouterr().out)["result"]["stage"] == "reading"


def test_a_batch_evaluated_exactly_is_stopped_between_its_parts() -> None:
    rng = np.random.default_rng(0)
    exact = ExactNetwork(feedforward([rng.integers(-9, 9, (200, 200)) / 8], [np.ones(200)]))
    node = exact.network.nodes[-1]
    batch = dyadic(rng.integers(-9, 9, (120, 200)) / 4)
    whole = exact.affine(node, [batch])
    for k in (0, 60, 119):
        alone = exact.affine(node, [Rationals(batch.numerators[k : k + 1], batch.denominator)])
        assert alone.fractions() == Rationals(whole.numerators[k : k + 1], whole.denominator).fractions()
    with in_force(Deadline.after(-1.0)), pytest.raises(TimeLimitError, match="evaluated exactly"):
        exact.affine(node, [batch])
