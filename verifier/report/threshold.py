"""The page of a threshold: up to where the property is proved, from where on a counterexample refutes it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from verifier.report import html
from verifier.report.html import Section
from verifier.report.verdict import CERTAIN

if TYPE_CHECKING:
    from verifier.saliency import Threshold


def threshold_page(found: Threshold, asked: str, *, record: list[tuple[str, object]], figure: Any = None) -> str:
    """The page.

    Args:
        asked: what was searched, in a sentence without its end ("the largest δ for which …").
        record: what was asked, with digests, for those who file it.
        figure: the input and the counterexample at the upper end with their maps; None if there is none.
    """
    everywhere, decided = math.isinf(found.lower), found.proved is not None and found.witness is not None
    if everywhere:
        words = "It holds for every value"
    else:
        proved = "Nothing is proved" if found.proved is None else f"Proved up to {found.lower:.12g}"
        words = f"{proved}, " + (
            f"refuted from {found.upper:.12g} on" if found.witness else "refuted at no value asked"
        )
    kind = "yes" if everywhere or (decided and not found.undecided) else "open"
    rest = f"{found.questions} questions, {found.undecided} undecided"
    parts = [
        Section(
            "What was asked",
            html.paragraph(
                f"Searched was {asked}. What is proved at one value holds at every smaller one, and a counterexample refutes "
                "every larger one: in between nothing is claimed."
            ),
        )
    ]
    if figure is not None:
        words_of = "the input, and the counterexample at the upper end, with their saliency maps"
        parts.append(Section("The counterexample at the upper end", html.picture(figure, words_of)))
    certain = []
    if everywhere:
        certain.append("No input in range has another label, so that the map does not matter.")
    if found.proved is not None and found.proved.certainty is not None:
        certain.append(f"The lower end: {CERTAIN[found.proved.certainty.value]}")
    if found.witness is not None:
        certain.append(
            "The upper end: the counterexample was evaluated on the original network in exact rational arithmetic."
        )
    parts.append(Section("How certain this is", html.bullets(certain or ["Nothing is claimed."])))
    ends = [("proved up to", repr(found.lower)), ("refuted from", repr(found.upper)), ("questions", rest)]
    parts.append(Section("For the record", html.facts([*ends, *record])))
    card = html.answer("Up to where does it hold?", kind, words, html.paragraph(rest, small=True))
    return html.page("A threshold of a network", f"{asked[0].upper()}{asked[1:]}.", parts, head=html.cards([card]))
