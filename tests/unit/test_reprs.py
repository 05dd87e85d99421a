"""What Python prints of the main objects fits in a few lines."""

from __future__ import annotations

import numpy as np

import verifier
from verifier.commands.verdicts import in_words
from verifier.verdict import Status, Verdict


def test_reprs_are_short_and_say_what_it_is() -> None:
    rng = np.random.default_rng(0)
    network = verifier.feedforward(
        [rng.normal(size=(50, 784)), rng.normal(size=(10, 50))], [np.zeros(50), np.zeros(10)]
    )
    assert repr(network) == "<Network built in Python: 784 → 10, 4 nodes, 50 neurons>"
    query = verifier.robustness(network, np.full(784, 0.5), 0.5)
    assert "784 of 784 inputs vary, 9 cases" in repr(query)
    verdict = verifier.verify(query, timeout=20)
    assert verdict.status is Status.VIOLATED
    text = repr(verdict)
    assert text.startswith("<Verdict VIOLATED, by ")
    assert "<Witness input [" in text
    assert "; 784], output [" in text
    assert max(len(repr(thing)) for thing in (network, query, verdict, verdict.witness)) < 400


def test_words_say_the_new_class_and_what_to_try() -> None:
    network = verifier.feedforward([np.eye(2)], [np.zeros(2)])
    verdict = verifier.verify(verifier.robustness(network, [1.0, 0.5], 0.4, domain=None))
    assert verdict.witness is not None
    lead = verdict.witness.output[1] - verdict.witness.output[0]
    assert f"largest: output 1, by {lead:.6g} over output 0" in in_words(verdict, "")
    for status in (Status.UNKNOWN, Status.TIMEOUT, Status.ERROR):
        assert "to try next: " in in_words(Verdict(status=status, reason="none"), "")
