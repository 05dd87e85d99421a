"""The page of a repair: what was asked, what was changed, what that does to given data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.report import html
from verifier.report.html import Section
from verifier.report.repair import changes_plot
from verifier.report.style import figure_of, picture_of

if TYPE_CHECKING:
    from verifier.network.graph import Network
    from verifier.network.operators import Array, Shape
    from verifier.repair import Drawdown, PropertyRepair, RepairResult

MOST_PICTURES = 8
"""Inputs with another label, on a page."""
SAID = {
    "repaired": ("yes", "Repaired, and proved"),
    "holds": ("yes", "It held already: nothing was changed"),
    "repaired up to rounding": ("open", "Repaired up to rounding errors, not proved"),
    "improved": ("open", "Better than before, not repaired"),
    "unchanged": ("open", "Not changed"),
    "infeasible": ("no", "Proved to be impossible in this way"),
    "unfinished": ("open", "Not finished"),
}


def repair_page(
    result: RepairResult | PropertyRepair,
    network: Network,
    *,
    words: Sequence[str],
    record: Sequence[tuple[str, object]],
    images: Array | None = None,
    effect: Drawdown | None = None,
    pictures: Mapping[str, Any] | None = None,
    conflicts: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The page.

    Args:
        network: as it was.
        words: what was found, as the command line says it.
        record: what was asked, with digests, for those who file it.
        images: the data on which the effect is told, ``(N, n)`` in the data's units.
        effect: on them.
        pictures: further figures by what they show.
        conflicts: requirements that cannot hold together, by layer.
    """
    kind, said = SAID[str(result.status)]
    _, facts = result._facts()
    head = html.cards(
        [
            html.answer(
                "Does the changed network do what it should?", kind, said, html.paragraph(result.reason, small=True)
            ),
            html.answer("What does it do elsewhere?", *_elsewhere(effect)),
        ]
    )
    parts = [Section("What was changed", html.facts(facts.items()) + _changes(result))]
    parts += [
        Section(title[:1].upper() + title[1:], html.picture(figure, title))
        for title, figure in (pictures or {}).items()
    ]
    for layer, names in (conflicts or {}).items():
        parts.append(Section(f"What cannot hold together (layer {layer})", html.bullets(names)))
    parts.append(Section("Effect on the data", _effect(effect, images, network.input_shape)))
    parts.append(Section("The figures", html.bullets(line.strip() for line in words)))
    parts.append(Section("For the record", html.facts(record)))
    lead = f"{network.source or 'A network'} was to be changed as little as possible so that it meets a specification."
    return html.page("Repair of a network", lead, parts, head=head)


def _changes(result: RepairResult | PropertyRepair) -> str:
    if not result.changes:
        return html.paragraph("No weight was changed.")
    rows = sorted(result.changes.items(), key=lambda item: -abs(item[1]))[:50]
    table = html.table(("weight", "change"), [(name, f"{delta:+.6g}") for name, delta in rows], numbers=(1,))
    return html.picture(changes_plot(result), "the largest changes of weights") + table


def _elsewhere(effect: Drawdown | None) -> tuple[str, str, str]:
    if effect is None:
        return "open", "Not looked at", html.paragraph("No data were given (--data).", small=True)
    words = f"{effect.changed:,} of {effect.total:,} labels changed"
    lost = effect.drawdown
    if lost is None:
        return ("yes" if not effect.changed else "open"), words, ""
    body = html.paragraph(effect._facts()[1]["accuracy"], small=True)
    return ("no" if lost > 0 else "yes"), words, f"<p>Accuracy: {html.text(f'{-lost:+.2%}')}</p>{body}"


def _effect(effect: Drawdown | None, images: Array | None, shape: Shape) -> str:
    if effect is None or images is None:
        return html.paragraph("No data were given, so nothing is known of the effect elsewhere.")
    body = html.facts(effect._facts()[1].items())
    chosen = np.flatnonzero(effect.before != effect.after)[:MOST_PICTURES]
    if not len(chosen):
        return body + html.paragraph("Every input keeps its label.")
    figure = figure_of(2.0 * len(chosen) + 0.4, 2.4)
    for axes, k in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen.tolist(), strict=True):
        picture_of(axes, images[k], shape, title=f"input {k}: {effect.before[k]} → {effect.after[k]}")
    return body + html.picture(figure, "inputs whose label changed", "Inputs whose label changed, with both labels.")
