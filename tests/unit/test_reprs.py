"""What Python prints of the main objects fits in a few lines."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_a_notebook_shows_networks_questions_and_counterexamples() -> None:
    """A table and a picture each; a verdict without a counterexample has no picture."""
    flat = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
    square = verifier.feedforward([np.eye(2, 9)], [np.zeros(2)])
    for network, x in ((flat, [0.9, 0.1]), (square, np.linspace(1, 0, 9))):
        query = verifier.robustness(network, x, 0.9)
        refuted = verifier.verify(query)
        assert refuted.status is Status.VIOLATED
        for shown in (network, query, refuted, refuted.witness):
            page = shown._repr_html_()
            assert "<table>" in page
            assert page.count("data:image/png;base64,") == 1, type(shown)
    proved = verifier.verify(verifier.robustness(flat, [0.9, 0.1], 0.1))
    assert "<img" not in proved._repr_html_()
    with pytest.raises(verifier.InputError, match="no counterexample to draw"):
        proved.plot()
