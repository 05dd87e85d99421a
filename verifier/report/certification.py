"""Certified accuracy as a curve, as pictures of counterexamples, and as a page."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.report import html
from verifier.report.html import Section
from verifier.report.style import FAILS, HOLDS, INK, OPEN, figure_of, picture_of, plain_axes

if TYPE_CHECKING:
    from verifier.certification import Certification
    from verifier.network.operators import Array, Shape

MOST_PICTURES = 8
"""Counterexamples on a page."""


def certified_curve(found: Certification) -> Any:
    """Certified accuracy over the radius, and above it the share that is not refuted: the truth lies between."""
    figure = figure_of(7, 4)
    axes = figure.add_subplot()
    radii = [0.0, *(float(Fraction(e)) for e in found.radii)]
    lower = [found.accuracy, *(found.certified(e) for e in found.radii)]
    upper = [found.accuracy, *(found.not_refuted(e) for e in found.radii)]
    # between two radii: what is proved at the larger one holds, and what is refuted at the smaller one stays refuted
    ends = np.repeat(radii, 2)[1:-1]
    low, high = np.repeat(lower[1:], 2), np.repeat(upper[:-1], 2)
    axes.fill_between(ends, 0, low, color=HOLDS, alpha=0.45, linewidth=0, label="proved")
    axes.fill_between(ends, low, high, color=OPEN, linewidth=0, label="not decided, or not asked")
    axes.fill_between(ends, high, 1, color=FAILS, alpha=0.25, linewidth=0, label="refuted or misclassified")
    axes.plot(radii, lower, "o", color="#1b6b33", markersize=5, clip_on=False)
    axes.plot(radii, upper, "o", color="#a51d2d", markersize=3, clip_on=False)
    axes.set_xlim(0, max(radii) * 1.02 or 1.0)
    axes.set_ylim(0, 1)
    axes.set_xlabel("radius (L∞, in the data's units)", color=INK)
    axes.set_ylabel(f"share of {found.count} inputs", color=INK)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    plain_axes(axes)
    return figure


def counterexamples_figure(found: Certification, images: Array, shape: Shape) -> Any | None:
    """Inputs beside the counterexamples to them, each at the smallest radius that has one; None if there are none.

    Args:
        images: ``(N, …)`` the inputs in the data's units.
        shape: of one of them.
    """
    first = {}
    for line in found.lines:
        if line.witness is not None and line.index not in first and not line.reason:
            first[line.index] = line
    chosen = list(first.values())[:MOST_PICTURES]
    if not chosen:
        return None
    figure = figure_of(2.2 * len(chosen) + 0.4, 5)
    grid = figure.subplots(2, len(chosen), squeeze=False)
    for column, line in zip(grid.T, chosen, strict=True):
        pair = [np.asarray(images[line.index], dtype=np.float64).reshape(-1), np.asarray(line.witness)]
        ends = (min(0.0, *(float(p.min()) for p in pair)), max(1.0, *(float(p.max()) for p in pair)))
        titles = (f"input {line.index}, label {line.label}", f"within {line.epsilon}: {line.other}")
        for axes, x, title in zip(column, pair, titles, strict=True):
            picture_of(axes, x, shape, title=title, ends=ends)
    return figure


def certification_page(
    found: Certification, images: Array, shape: Shape, *, model: str, data: str, record: list[tuple[str, object]]
) -> str:
    """The page of a certified data set.

    Args:
        images, shape: as for `counterexamples_figure`.
        model, data: what they are called.
        record: what was asked, with digests, for those who file it.
    """
    last = found.radii[-1]
    cards = []
    for epsilon in found.radii:
        proved, upper = found.certified(epsilon), found.not_refuted(epsilon)
        body = html.shares(proved, 1 - upper, upper - proved)
        share = f"{proved:.1%}" if proved == upper else f"between {proved:.1%} and {upper:.1%}"
        body += html.paragraph(f"{share} of the inputs have the right label, and keep it", small=True)
        kind = "yes" if proved == found.accuracy else "no" if upper < found.accuracy else "open"
        cards.append(html.answer(f"within {epsilon}", kind, f"{proved:.1%} certified", body))
    columns, rows = found.figures()
    drawn = counterexamples_figure(found, images, shape)
    shown = (
        html.paragraph("No counterexample was found.")
        if drawn is None
        else html.picture(drawn, "inputs above, counterexamples below", "Above: inputs; below: counterexamples.")
    )
    parts = [
        Section(
            "How it falls with the radius", html.picture(certified_curve(found), "certified accuracy over the radius")
        ),
        Section("Figures", html.table(columns, rows, numbers=range(len(columns)))),
        Section("Counterexamples", shown),
        Section("How certain this is", html.paragraph(_certain(found))),
        Section("For the record", html.facts(record)),
    ]
    lead = (
        f"{model} on {found.count} inputs of {data}: for how many is it proved that no change of any entry by at most the "
        f"radius (up to {last}) changes the label? Accuracy without changes: {found.accuracy:.1%}."
    )
    return html.page("Certified accuracy", lead, parts, head=html.cards(cards))


def _certain(found: Certification) -> str:
    kinds = sorted({line.certainty for line in found.lines if line.certainty})
    return (
        f"Certified inputs were proved ({', '.join(kinds) or 'none'}: 'exact' is rational arithmetic, 'rigorous' floating "
        "point with all rounding errors bounded, 'numerical' a solver with tolerances). Counterexamples were evaluated again "
        "on the original network in exact rational arithmetic. Inputs that were not decided count as not certified."
    )
