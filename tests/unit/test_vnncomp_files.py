"""Instance lists, result files, journals and summaries of benchmark categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.errors import InputError
from verifier.properties.vnnlib2 import Variable
from verifier.vnncomp.answer import (
    counterexample_1,
    counterexample_2,
    read_answer,
    read_counterexample,
    write_answer,
)
from verifier.vnncomp.category import Category, Instance, Tool, network_files, read_category, resolve
from verifier.vnncomp.journal import Journal, Record
from verifier.vnncomp.runner import Executor, InstanceLost, WorkerLostError, run_category
from verifier.vnncomp.summary import in_words, summarize, write_csv

floats = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5).map(np.array)


@given(floats, floats)
def test_counterexamples_read_back_exactly(x: np.ndarray, y: np.ndarray) -> None:
    places = np.arange(len(x)), np.arange(len(y))
    variables = [
        Variable("X", "input", "float32", (1, len(x)), places[0]),
        Variable("Y", "output", "float32", (len(y),), places[1]),
    ]
    for text in (counterexample_1(x, y), counterexample_2(x, y, variables)):
        again = read_counterexample(text, variables)
        assert again[0].tolist() == x.tolist()
        assert again[1].tolist() == y.tolist()


def test_the_competitions_syntax() -> None:
    x, y = np.array([0.5, -1e-9]), np.array([2.0])
    assert counterexample_1(x, y) == "((X_0 0.5)\n(X_1 -1e-09)\n(Y_0 2.0))\n"
    variables = [
        Variable("in", "input", "float32", (1, 2), np.arange(2)),
        Variable("out", "output", "float32", (1, 1), np.arange(1)),
    ]
    assert counterexample_2(x, y, variables) == "in float32 [1,2]\n0.5\n-1e-09\nout float32 [1,1]\n2.0\n"


@pytest.mark.parametrize("text", ["((X_0 1)(X_2 1)(Y_0 1))", "((X_0 one)(Y_0 1))", "1.0\n2.0\n", "X float32 [1]\n1\n"])
def test_broken_counterexamples_are_errors(text: str) -> None:
    with pytest.raises(InputError):
        read_counterexample(text)


def test_answers(tmp_path: Path) -> None:
    file = tmp_path / "out"
    write_answer(file, "sat", "((X_0 1))\n")
    assert read_answer(file.read_text()) == ("sat", "((X_0 1))\n")
    write_answer(file, "unsat", "ignored")
    assert file.read_text() == "unsat\n"
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    with pytest.raises(InputError):
        write_answer(file, "holds")
    with pytest.raises(InputError):
        read_answer("violated\n")


def test_networks_of_a_row() -> None:
    assert network_files("onnx/a.onnx") == ["onnx/a.onnx"]
    assert network_files("[('f','onnx/a.onnx'),('g','onnx/b.onnx')]") == ["onnx/a.onnx", "onnx/b.onnx"]
    with pytest.raises(InputError):
        network_files("[('f', open('x'))]")


def test_gz_files_stand_in(tmp_path: Path) -> None:
    (tmp_path / "a.onnx.gz").touch()
    assert resolve(tmp_path / "a.onnx").name == "a.onnx.gz"
    assert resolve(tmp_path / "b.onnx").name == "b.onnx"


def test_shared_categories(shared_data: Path) -> None:
    sizes = {}
    for folder in sorted((shared_data / "vnncomp").iterdir()):
        if (folder / "instances.csv").exists():
            category = read_category(folder)
            sizes[category.name] = len(category.instances)
            assert all(resolve(folder / i.onnx).exists() for i in category.instances)
            assert all(resolve(folder / i.vnnlib).exists() for i in category.instances)
            assert all(category.expected(i) in ("sat", "unsat", "unknown") for i in category.instances)
            assert len(category.truth) == len({(i.onnx, i.vnnlib) for i in category.instances})
            assert category.tools
    assert sizes["acasxu"] == 186
    assert sizes["rl_benchmarks"] == 296


# -- the journal -----------------------------------------------------------------------------------------
def tiny(count: int = 4) -> Category:
    instances = tuple(Instance(k, "n.onnx", f"p{k}.vnnlib", 10.0) for k in range(count))
    truth = {("n.onnx", f"p{k}.vnnlib"): ("sat", "unsat", "unknown")[k % 3] for k in range(count)}
    return Category("tiny", Path("tiny"), instances, truth, {}, (Tool("other@2024", 1, 1, 0, 5.0),))


def test_results_are_kept_once(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "journal.sqlite"
    with Journal(file, tiny(), {"engine": "auto"}) as journal:
        journal.started(1)
        assert journal.finished(Record(number=1, result="sat", seconds=1.0))
        assert not journal.finished(Record(number=1, result="unsat", seconds=2.0))
        with pytest.raises(InputError, match="another run"):
            Journal(file, tiny())
    with Journal(file, tiny(), {"engine": "auto"}) as journal:
        assert journal.records() == {1: Record(number=1, result="sat", seconds=1.0)}
        assert [i.number for i in journal.open_instances(tiny().instances)] == [0, 2, 3]
        journal.finished(Record(number=2, result="timeout", seconds=1.0))
        assert journal.forget_unsolved() == 1
        assert set(journal.records()) == {1}


def test_another_category_or_other_settings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    Journal(file, tiny(), {"engine": "auto"}).close()
    with pytest.raises(InputError, match="other instances"):
        Journal(file, tiny(5), {"engine": "auto"})
    with pytest.raises(InputError, match="begun with settings"):
        Journal(file, tiny(), {"engine": "z3"})
    file.write_bytes(b"nonsense" * 1000)
    with pytest.raises(InputError, match="not a journal"):
        Journal(file, tiny())


class Unreliable(Executor):
    """Loses the worker of instance 1 once and of instance 2 always; cannot start instance 3."""

    def __init__(self) -> None:
        self.running: list[Instance] = []
        self.lost: set[int] = set()
        self.closed = False

    @property
    def free(self) -> int:
        return 2 - len(self.running)

    def submit(self, instance: Instance) -> None:
        if instance.number == 3:
            raise FileNotFoundError("p3.vnnlib")
        self.running.append(instance)

    def wait(self) -> list[tuple[Instance, Record | WorkerLostError]]:
        instance = self.running.pop()
        if instance.number == 2 or (instance.number == 1 and 1 not in self.lost):
            self.lost.add(instance.number)
            return [(instance, WorkerLostError("node died"))]
        return [(instance, Record(number=instance.number, result="unsat", seconds=1.0))]

    def close(self) -> None:
        self.closed = True


def test_lost_instances_are_run_again_and_in_the_end_given_up(tmp_path: Path) -> None:
    executor, events = Unreliable(), []
    with Journal(tmp_path / "journal.sqlite", tiny()) as journal:
        records = run_category(tiny(), tiny().instances, journal, executor, events.append)
        assert journal.starts() == {0: 1, 1: 2, 2: 3, 3: 1}
    assert {k: r.result for k, r in records.items()} == {0: "unsat", 1: "unsat", 2: "error", 3: "error"}
    assert "node died" in records[2].reason
    assert "p3.vnnlib" in records[3].reason
    assert sum(isinstance(e, InstanceLost) for e in events) == 4
    assert executor.closed


# -- summaries -------------------------------------------------------------------------------------------
def test_wrong_answers_and_invalid_counterexamples_cost(tmp_path: Path) -> None:
    records = {
        0: Record(number=0, result="unsat", seconds=1.0, engine="z3"),  # agreed: sat
        1: Record(number=1, result="unsat", seconds=2.0),  # right
        2: Record(number=2, result="sat", seconds=3.0, witness="valid"),  # nobody knows
        3: Record(number=3, result="sat", seconds=4.0, witness="INVALID: outside"),
    }
    summary = summarize(tiny(), records)
    assert summary.solved == 2
    assert summary.score == 2 * 10 - 2 * 150
    assert len(summary.wrong) == len(summary.invalid) == len(summary.new) == 1
    assert not summary.is_clean
    words = in_words(summary)
    assert words.count("!!!") == 2
    assert "answered unsat, agreed is sat (by z3)" in words
    assert "other@2024" in words
    write_csv(tmp_path / "r.csv", tiny(), records)
    assert (tmp_path / "r.csv").read_text().splitlines()[1] == "tiny,n.onnx,p1.vnnlib,0.0,unsat,2.000"


def test_unsolved_and_unrun_instances_are_told_apart() -> None:
    summary = summarize(tiny(), {0: Record(number=0, result="timeout", seconds=10.0)})
    assert (summary.finished, summary.total, summary.solved) == (1, 4, 0)
    assert len(summary.missed) == 1
    assert summary.is_clean
    assert "3 instances have not been run" in in_words(summary)
