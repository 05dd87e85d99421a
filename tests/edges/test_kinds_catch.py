"""Edge kinds must notice what they guard: with the allowance for rounding taken out of a backend, they report wrong answers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from edge_kinds import beyond_pieces, cuts, paths, structured
from edge_kinds.kind import Outcome

from verifier.bab import LeafAnswer, Verdict
from verifier.bounds import step_relaxations
from verifier.bounds.condensed import CondensedNetwork, Start
from verifier.bounds.crown_slopes import linear
from verifier.bounds.curved_relaxations import ProductOfHalves
from verifier.bounds.structured import backward, condense
from verifier.engines.native.subproblem_search import SubproblemSearch


@pytest.mark.parametrize(("module", "engine"), [(condense, "condensed"), (backward, "windows")])
def test_bounds_without_their_slack_are_caught(module: object, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (kind,) = (k for k in structured.KINDS if "differences" in k.name)
    monkeypatch.setattr(module, "gamma", lambda *_: 0.0)
    trials = [trial for seed in range(40) for trial in kind.run(seed) if trial.engine == engine]
    assert any(trial.outcome is Outcome.WRONG for trial in trials)


def test_a_leaf_that_is_called_refuted_without_being_so_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    (kind,) = (k for k in paths.KINDS if "native" in k.name)
    chosen = {name: how for name, how in paths.NATIVE.items() if name.startswith("condensed")}
    monkeypatch.setattr(paths, "NATIVE", chosen)
    monkeypatch.setattr(SubproblemSearch, "_exactly", lambda *_: LeafAnswer(Verdict.REFUTED))
    trials = [trial for seed in range(8) for trial in kind.run(seed)]
    assert any(trial.outcome is Outcome.WRONG for trial in trials)


def test_cuts_without_their_slack_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(
        condensed: CondensedNetwork, row: Start, weights: np.ndarray, phases: np.ndarray
    ) -> tuple[np.ndarray, float]:
        constant, slope, _ = linear(condensed, row, weights.astype(np.float64), phases)
        return slope[:, 0], float(constant[0])

    monkeypatch.setattr(cuts, "below", bare)
    trials = [trial for seed in range(80) for trial in cuts.KINDS[0].run(seed)]
    assert any(trial.outcome is Outcome.WRONG for trial in trials)
    assert all(trial.outcome is Outcome.RIGHT for trial in trials if trial.engine == "cuts, one after the other")


def test_stairs_whose_inner_corners_are_left_out_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    (kind,) = (k for k in beyond_pieces.KINDS if k.name == "stairs")
    monkeypatch.setattr(step_relaxations, "_corners_of_stairs", lambda *_: [])
    trials = [trial for seed in range(20) for trial in kind.run(seed)]
    assert any(trial.outcome is Outcome.WRONG for trial in trials)


@pytest.mark.parametrize("name", ["products", "masks"])
def test_products_in_half_of_their_envelope_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (kind,) = (k for k in beyond_pieces.KINDS if k.name == name)
    whole = ProductOfHalves.linear

    def half(self: ProductOfHalves, *given: object) -> object:
        found = whole(self, *given)
        return replace(found, error=found.error / 2)

    monkeypatch.setattr(ProductOfHalves, "linear", half)
    trials = [next(iter(kind.run(seed))) for seed in range(60)]  # the bounds' own answers
    assert any(trial.outcome is Outcome.WRONG for trial in trials)
