"""Tables as text, and where pictures and files of this user go."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from verifier.cli import main
from verifier.commands.vnncomp import Live
from verifier.compiled import _folders
from verifier.events import Event, Note, Progress
from verifier.report import html
from verifier.report.style import figure_of
from verifier.report.tables import text_table
from verifier.report.witness import witness_plot
from verifier.verdict import Witness
from verifier.vnncomp.category import Instance
from verifier.vnncomp.journal import Record
from verifier.vnncomp.runner import InstanceFinished, InstanceStarted


def test_columns_stand_below_their_names() -> None:
    """Cells are text: what a library could take for markup is shown as it is."""
    rows = [("native", 1.5, "[bold]a[/bold] in [0, 1]"), ("z", 12, ":smile:")]
    assert text_table(("engine", "s", "why"), rows, numbers=(1,), indent=2).splitlines() == [
        "  engine    s  why",
        "  native  1.5  [bold]a[/bold] in [0, 1]",
        "  z        12  :smile:",
    ]
    assert text_table((), [("a", "b"), ("long", "c")]) == "a     b\nlong  c"
    assert text_table((), []) == ""


def test_long_cells_are_folded_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("z3", "word " * 60)]
    assert len(text_table((), rows).splitlines()) == 1
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    lines = text_table((), rows, indent=2).splitlines()
    assert len(lines) > 4
    assert max(map(len, lines)) <= 60


def test_journals_and_caches_are_in_the_folders_that_the_system_has_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert _folders()[-1] == tmp_path / "cache" / "pwl-verifier"
    category = tmp_path / "tiny"
    category.mkdir()
    (category / "instances.csv").write_text("onnx/net.onnx,vnnlib/a.vnnlib,5\n")
    assert main(["vnncomp", "report", str(category)]) == 2
    assert f"{tmp_path / 'data' / 'pwl-verifier' / 'vnncomp' / 'tiny'}: there is no journal" in capsys.readouterr().err


def test_a_run_of_a_category_is_told_by_the_common_progress() -> None:
    heard: list[Event] = []
    live = Live(heard.append)
    instance = Instance(number=0, onnx="onnx/net.onnx", vnnlib="vnnlib/a.vnnlib", timeout=5.0)
    live(InstanceStarted(seconds=0.1, instance=instance))
    record = Record(number=0, result="sat", seconds=0.5, engine="native", witness="")
    live(InstanceFinished(seconds=0.6, instance=instance, record=record, expected="unsat", done=1, total=2))
    started, finished = heard
    assert isinstance(started, Progress)
    assert (started.stage, started.done, started.left) == ("net.onnx a.vnnlib", 0, None)
    assert isinstance(finished, Note)
    assert "1/2 sat" in finished.text
    assert "!!! WRONG: agreed is unsat" in finished.text
    assert live.left == 1


def test_wide_pictures_scroll_on_a_phone() -> None:
    assert 'class="wide"' in html.picture(figure_of(8, 3), "wide")
    assert 'class="wide"' not in html.picture(figure_of(4, 3), "not so")


def test_a_counterexample_stands_beside_the_input_that_was_asked_about() -> None:
    witness = Witness(input=np.array([0.5, 0.0, 1.0, 0.25]), output=np.array([1.0, 2.0]), shape=(1, 2, 2), exact=True)
    titles = [axes.get_title(loc="left") for axes in witness_plot(witness, np.array([0.25, 0.0, 1.0, 0.25])).axes]
    assert titles[:3] == ["the input", "the counterexample", "change, at most 0.25"]
    assert next(axes.get_title(loc="left") for axes in witness_plot(witness).axes) == "the counterexample"
