"""One template for every page: complete in itself (no network), readable on a phone, and fit to be printed."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from verifier.report.style import FAILS, HOLDS, OPEN
from verifier.shown import named

STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{font-family:system-ui,sans-serif;color:#22313f;background:#fff;max-width:62rem;margin:2rem auto;padding:0 1rem;line-height:1.5;
overflow-wrap:anywhere}
h1{font-size:1.7rem;margin:0 0 .2rem;line-height:1.2}
h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #ddd}
a{color:#1f5f8b}
.lead{color:#4a5560;margin-top:0}
.cards{display:flex;gap:1rem;flex-wrap:wrap}
.card{flex:1 1 17rem;border:1px solid #ccc;border-radius:.5rem;padding:1rem;min-width:0}
.card h3{margin:0 0 .3rem;font-size:1rem}
.answer{font-size:1.35rem;font-weight:600;margin:.2rem 0}
.yes{color:#1b6b33}.no{color:#a51d2d}.open{color:#6b5500}
.bar{display:flex;height:1rem;border-radius:.3rem;overflow:hidden;margin:.5rem 0;border:1px solid #bbb}
.bar span{display:block;height:100%}
.small{color:#4a5560;font-size:.9rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #eee}
.facts th{width:30%;font-weight:600}
.wide th,.wide td{overflow-wrap:normal}
@media screen and (max-width:40rem){figure .wide img{max-width:none;width:42rem}}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
img{max-width:100%;height:auto}
figure{margin:1rem 0}
figcaption{color:#4a5560;font-size:.9rem}
code,pre{font-family:ui-monospace,monospace;font-size:.9em}
pre{background:#f5f6f7;padding:.6rem;overflow-x:auto;white-space:pre-wrap}
dt{font-weight:600}dd{margin:0 0 .5rem}
footer{margin-top:2.5rem;border-top:1px solid #ddd;color:#4a5560;font-size:.85rem}
@media (max-width:30rem){body{margin:1rem auto}.facts,.facts tbody,.facts tr,.facts th,.facts td{display:block;width:auto;border:0}
.facts tr{border-bottom:1px solid #eee;padding:.2rem 0}.facts td,.facts th{padding:0}}
@media print{body{margin:0;max-width:none;font-size:10pt}h2{break-after:avoid}figure,.card,tr{break-inside:avoid}.wide{overflow:visible}
.bar{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


WIDE = 1.6
"""A picture that is wider than this share of its height scrolls by itself on a phone, and keeps a size that can be read."""


@dataclass(frozen=True)
class Section:
    """A part of a page: a headline, and its content as HTML made by this module's functions."""

    title: str
    body: str


def page(title: str, lead: str, parts: Iterable[Section], *, head: str = "", foot: str = "") -> str:
    """A page.

    Args:
        title: the headline, plain text.
        lead: what the page is about, plain text.
        parts: the sections, in order.
        head: HTML between the lead and the first section (cards with the answers, say).
        foot: who wrote this, plain text; this package and its version by default.
    """
    body = "\n".join(f"<section><h2>{text(part.title)}</h2>\n{part.body}</section>" for part in parts)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>
<header><h1>{text(title)}</h1>
<p class="lead">{text(lead)}</p></header>
<main>
{head}
{body}
</main>
<footer><p>{text(foot or f"Written by pwl-verifier {named('verifier:__version__')}.")}</p></footer>
</body></html>
"""


def text(words: object) -> str:
    """Plain text as HTML."""
    return html.escape(str(words))


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Names and what there is to say of each, as a table of two columns."""
    body = "".join(f'<tr><th scope="row">{text(name)}</th><td>{text(fact)}</td></tr>' for name, fact in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = ()) -> str:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        numbers: the columns that are set to the right.
    """

    def cells(kind: str, row: Sequence[object]) -> str:
        marked = (' class="number"' if k in numbers else "" for k in range(len(row)))
        return "".join(f"<{kind}{mark}>{text(cell)}</{kind}>" for mark, cell in zip(marked, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'


def shares(holds: float, fails: float, undecided: float) -> str:
    """A bar of what holds, fails and is open, as shares of 1."""
    words = f"holds {holds:.1%}, fails {fails:.1%}, open {undecided:.1%}"
    parts = "".join(
        f'<span style="width:{100 * value:.4f}%;background:{colour}"></span>'
        for value, colour in ((holds, HOLDS), (fails, FAILS), (undecided, OPEN))
        if value > 0
    )
    return f'<div class="bar" role="img" aria-label="{words}">{parts}</div>'


def answer(title: str, kind: str, words: str, body: str = "") -> str:
    """A card with an answer.

    Args:
        kind: "yes", "no" or "open".
        words: the answer, plain text.
        body: HTML below it.
    """
    return f'<div class="card"><h3>{text(title)}</h3><p class="answer {kind}">{text(words)}</p>{body}</div>'


def cards(parts: Iterable[str]) -> str:
    """Several `answer` side by side."""
    return f'<div class="cards">{"".join(parts)}</div>'


def paragraph(words: object, *, small: bool = False) -> str:
    """Plain text as a paragraph."""
    return f"<p{' class=small' if small else ''}>{text(words)}</p>"


def bullets(rows: Iterable[object]) -> str:
    """Plain texts as a list."""
    return f"<ul>{''.join(f'<li>{text(row)}</li>' for row in rows)}</ul>"


def picture(figure: Any, words: str, caption: str = "") -> str:
    """A matplotlib figure within the page.

    Args:
        words: what it shows, for those who cannot see it.
        caption: plain text below it.
    """
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    image = f'<img alt="{text(words)}" src="data:image/png;base64,{_png(figure)}">'
    width, height = figure.get_size_inches()
    if width > WIDE * height:
        image = f'<div class="wide" tabindex="0">{image}</div>'
    return f"<figure>{image}{below}</figure>"


def card(shown: Any) -> str:
    """What a notebook shows of an object (`verifier.shown.Shown`): facts, and its picture where it has one."""
    title, rows = shown._facts()
    drawn = ""
    if shown._drawn_by:
        try:
            figure = shown.plot()
        except ValueError:  # there is nothing to draw here, or nothing to draw with
            figure = None
        drawn = "" if figure is None else picture(figure, title)
    lines = "".join(
        f'<tr><th style="text-align:left">{text(name)}</th><td style="text-align:left">{text(fact)}</td></tr>'
        for name, fact in rows.items()
    )
    return f"<div><strong>{text(title)}</strong><table>{lines}</table>{drawn}</div>"


def _png(figure: Any) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return base64.b64encode(stream.getvalue()).decode()
