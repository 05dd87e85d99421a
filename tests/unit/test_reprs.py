"""What Python prints of the main objects fits in a few lines."""

from __future__ import annotations

import numpy as np

import verifier
from verifier.commands.verdicts import in_words
from verifier.verdict import Status, Verdict, Witness


def test_reprs_are_short_and_say_what_it_is() -> None:
    rng = np.random.default_rng(0)
    network = verifier.feedforward(
        [rng.normal(size=(50, 784)), rng.normal(size=(10, 50))], [np.zeros(50), np.zeros(10)]
    )
    assert repr(network) == "<Network built in Python, shape 784 → 10, nodes 4, neurons 50>"
    query = verifier.robustness(network, np.full(784, 0.5), 0.5)
    assert "inputs 784 of 784 vary, disjuncts 9" in repr(query)
    verdict = verifier.verify(query, timeout=20)
    assert verdict.status is Status.VIOLATED
    text = repr(verdict)
    assert text.startswith("<Verdict VIOLATED, by ")
    assert "<Witness, input [" in text
    assert "; 784], output [" in text
    assert max(len(repr(thing)) for thing in (network, query, verdict, verdict.witness)) < 400


def test_words_say_the_new_class_and_what_to_try() -> None:
    for output, words in (([0.25, 1.0], "output 1, by 0.75 over output 0"), ([0.5, 0.5], "outputs 0 and 1, equal")):
        witness = Witness(input=np.zeros(2), output=np.array(output), exact=True)
        assert f"largest: {words}" in in_words(Verdict(status=Status.VIOLATED, witness=witness), "")
    for status in (Status.UNKNOWN, Status.TIMEOUT, Status.ERROR):
        assert "to try next: " in in_words(Verdict(status=status, reason="none"), "")
