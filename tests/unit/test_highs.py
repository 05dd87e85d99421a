"""HiGHS greets on standard output from 1.16 on; ours does not."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from verifier import highs


class Greeting:
    """An instance of HiGHS as 1.16 makes it: the first one in a process prints."""

    greeted = False

    def __init__(self) -> None:
        self.options: dict[str, object] = {}
        if not Greeting.greeted:
            os.write(1, b"Running HiGHS\n")
            Greeting.greeted = True

    def setOptionValue(self, name: str, value: object) -> None:
        self.options[name] = value


def test_nothing_is_printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "highspy", SimpleNamespace(Highs=Greeting))
    monkeypatch.setattr(highs, "_greeted", False)
    solver = highs.new_highs()
    assert Greeting.greeted
    assert solver.options == {"output_flag": False}
    print("said by us", flush=True)
    assert capfd.readouterr().out == "said by us\n"


def test_the_installed_one_is_quiet_too(capfd: pytest.CaptureFixture[str]) -> None:
    solver = highs.new_highs()
    solver.addVar(0.0, 1.0)
    solver.run()
    assert capfd.readouterr().out == ""
