"""One HTML page on an attention map that needs no knowledge of the field: question, answers, pictures, what is open."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.attention import Answer, AreaMap, AspectAnswer, RegionMap
from verifier.attention.table import Aspect
from verifier.network.operators import Array
from verifier.report.attention_notes import notes

STYLE = """
body{font-family:system-ui,sans-serif;color:#222;max-width:62rem;margin:2rem auto;padding:0 1rem;line-height:1.5}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #ddd}
.lead{color:#555;margin-top:0}.cards{display:flex;gap:1rem;flex-wrap:wrap}
.card{flex:1 1 20rem;border:1px solid #ddd;border-radius:.5rem;padding:1rem}
.card h3{margin:0 0 .3rem 0;font-size:1rem}.answer{font-size:1.35rem;font-weight:600;margin:.2rem 0}
.yes{color:#1b7837}.no{color:#b2182b}.open{color:#8a6d00}
.bar{display:flex;height:1rem;border-radius:.3rem;overflow:hidden;margin:.5rem 0;border:1px solid #ccc}
.bar div{height:100%}.small{color:#555;font-size:.9rem}
table{border-collapse:collapse}td,th{text-align:left;vertical-align:top;padding:.15rem 1rem .15rem 0}
img{max-width:100%}figure{margin:0}dt{font-weight:600}dd{margin:0 0 .5rem 0}
"""
SEEN = {
    Answer.ROBUST: ("yes", "Yes, everywhere"),
    Answer.NOT_ROBUST: ("no", "No, not everywhere"),
    Answer.TIMEOUT: ("open", "Not decided in the time given"),
    Answer.UNDECIDED: ("open", "Not decided"),
}
PLAIN = {
    "brightness": "every pixel gets brighter (or darker) by this amount; 1 is the step from black to white",
    "patch": "the pixels of a small rectangle get brighter by this amount",
    "translation": "the image moves by so many pixels",
    "contrast": "light and dark are pulled apart by this factor",
    "blur": "the image is blended with a blurred copy of itself by this share",
    "rotation": "the image turns by so many degrees",
    "zoom": "the image grows by this factor",
    "shear": "the image is slanted by this factor",
    "blend": "the image is blended with another by this share",
}


@dataclass(frozen=True)
class Shares:
    """How much of all changes an answer covers: holds, fails, open; as shares of 1."""

    holds: float
    fails: float
    open: float


def shares(m: RegionMap | AreaMap, aspect: Aspect) -> Shares:
    """What is known of one aspect."""
    if isinstance(m, AreaMap):
        return Shares(*m.shares.get(aspect, (0.0, 0.0, 1.0)))
    s = m.summary
    unseen = max(0.0, 1.0 - s.covered)
    unseen = 0.0 if unseen < 1e-6 else unseen
    if aspect == "label":
        return Shares(s.label_share, max(0.0, 1.0 - unseen - s.label_share), unseen)
    return Shares(s.volumes["AR"], s.volumes["IR"], unseen + s.volumes["AB"])


def page(m: RegionMap | AreaMap, rows: list[tuple[str, str]], figure: Any) -> str:
    """The page, complete in itself.

    Args:
        figure: the map's picture.
        rows: figures for those who want them, as pairs of words.
    """
    cards = "\n".join(_card(m, aspect) for aspect in ("label", "attention") if aspect in m.answers)  # type: ignore[arg-type]
    figures = "\n".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Attention robustness</title><style>{STYLE}</style></head><body>
<h1>Does the network keep its answer, and its reasons?</h1>
<p class="lead">{_lead(m)}</p>
<div class="cards">{cards}</div>
<h2>What was asked</h2>
{_asked(m)}
<h2>Where it holds</h2>
{_picture(m, figure)}
<h2>The worst case found</h2>
{_worst(m)}
<h2>What remains open</h2>
<p>{_open(m)}</p>
<h2>How certain this is</h2>
<p>{_certain(m)}</p>
<h2>Words</h2>
<dl>{_words(m)}</dl>
<h2>Figures for the record</h2>
<table class="small">{figures}</table>
</body></html>
"""


def _percent(value: float) -> str:
    """A share in words that never round to "all" or "nothing" what is not."""
    if value <= 0:
        return "0 %"
    if value >= 1 - 1e-12:
        return "100 %"
    if value < 0.0005:
        return "less than 0.05 %"
    return "more than 99.9 %" if value > 0.999 else f"{100 * value:.1f} %"


def _lead(m: RegionMap | AreaMap) -> str:
    name = html.escape(m.perturbed.original.source or "the network")
    return (
        f"{name} sees an image as class {m.label}. The image is changed in {m.perturbed.dimension} "
        f"way{'s' * (m.perturbed.dimension > 1)} at once. For which strengths of the changes is the answer still class "
        f"{m.label}, and does the network still look at the same parts of the image?"
    )


def _card(m: RegionMap | AreaMap, aspect: Aspect) -> str:
    found, part = m.answers[aspect], shares(m, aspect)
    kind, words = SEEN[found.answer]
    title = {"label": "Is the answer always the same class?", "attention": "Does it always look at the same things?"}[
        aspect
    ]
    measured = not isinstance(m, AreaMap) or aspect in m.shares
    bar = "".join(
        f'<div style="width:{100 * value:.4f}%;background:{color}"></div>'
        for value, color in ((part.holds, "#7fbf7b"), (part.fails, "#d6604d"), (part.open, "#e8e8e8"))
    )
    text = f"holds on {_percent(part.holds)} of all changes, fails on {_percent(part.fails)}"
    text += f", open on {_percent(part.open)}" if part.open > 0 else ""
    shown = f'<div class="bar">{bar}</div><div class="small">{text}</div>' if measured else ""
    return (
        f'<div class="card"><h3>{title}</h3><div class="answer {kind}">{words}</div>{shown}'
        f'<div class="small">{html.escape(_why(found))}</div></div>'
    )


def _why(found: AspectAnswer) -> str:
    if found.answer is Answer.NOT_ROBUST:
        return "A change at which it fails was found and computed again exactly."
    return found.reason[:1].upper() + found.reason[1:] + "."


def _asked(m: RegionMap | AreaMap) -> str:
    rows = []
    for name, p in zip(m.perturbed.labels, m.perturbed.perturbations, strict=True):
        meaning = PLAIN.get(type(p).__name__.lower(), "the image is moved in a direction that was given")
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{p.low:g} to {p.high:g}</td><td>{meaning}</td></tr>")
    return (
        f"<table>{''.join(rows)}</table><p>All combinations of these changes count. 'Looks at the same things' means: the "
        f"difference between the saliency map and the one expected is at most {m.delta:g} "
        f"(see <i>inconsistency</i> below; 0 is 'exactly the same').</p>"
        + "".join(f"<p>Note: {html.escape(text)}.</p>" for text in notes(m))
    )


def _picture(m: RegionMap | AreaMap, figure: Any) -> str:
    what = (
        "small rectangles of changes" if isinstance(m, AreaMap) else "regions on which the network computes one formula"
    )
    more = " More than two changes: the picture shows the first two, averaged over the others." * (
        m.perturbed.dimension > 2
    )
    legend = (
        "green: holds, red: fails, grey: open" if isinstance(m, AreaMap)
        else "green: holds, grey: fails everywhere in the region, orange: in a part of it; red outline: the edge of "
        "what holds around the unchanged image"
    )  # fmt: skip
    return (
        f"<figure>{_image(figure, 'map of the changes')}</figure><p class='small'>Every point is one combination of "
        f"changes; the unchanged image is where all of them are 0. The plane is cut into {what}: {legend}.{more}</p>"
    )


def _points(m: RegionMap | AreaMap) -> list[tuple[str, Array]]:
    """The worst parameters, with what they are: an exact witness where there is one."""
    found = []
    for aspect, words in (("label", "the answer changes"), ("attention", "the largest difference of the maps")):
        answer = m.answers.get(aspect)  # type: ignore[call-overload]
        theta = answer.theta if answer is not None else None
        worst = m.worst.get(aspect)
        if aspect == "attention" and worst is not None:
            theta = np.asarray(worst)[:, : m.perturbed.dimension].mean(axis=0)
        if theta is not None:
            found.append((words, np.asarray(theta)))
    return found


def _worst(m: RegionMap | AreaMap) -> str:
    points = _points(m)
    if not points:
        return "<p>No failure was found, and no combination of changes is worse than the others.</p>"
    theta = np.stack([t for _, t in points])
    outputs = m.perturbed.network.forward(theta).reshape(len(theta), -1)
    values = m.settings(m.perturbed, theta, m.label)
    parts = []
    for (words, point), output, value in zip(points, outputs, values, strict=True):
        where = ", ".join(f"{n} {v:.4g}" for n, v in zip(m.perturbed.labels, point, strict=True))
        parts.append(
            f"<li><b>{words}</b> ({where}): the network says class {int(output.argmax())}; inconsistency {value:.4g}.</li>"
        )
    return f"<ul>{''.join(parts)}</ul><figure>{_image(worst_figure(m, theta), 'images and saliency maps')}</figure>"


def worst_figure(m: RegionMap | AreaMap, theta: Array) -> Any:
    """The image as it was and changed, the map expected and the map found, for each parameter ``(k, d)``."""
    from matplotlib.figure import Figure

    which = list(m.settings.outputs(m.perturbed, m.label)).index(m.label)
    actual = m.settings.maps(m.perturbed, theta, m.label)[:, which].sum(axis=1)
    expected = m.settings.expected(m.perturbed, theta, m.label)[:, which].sum(axis=1)
    images = m.perturbed.images(theta)
    figure = Figure(figsize=(11, 2.9 * len(theta)), layout="constrained")
    top = max(float(np.abs(actual).max()), float(np.abs(expected).max()), 1e-12)
    for row in range(len(theta)):
        for column, (title, picture) in enumerate(
            (
                ("the image", m.perturbed.image),
                ("changed", images[row]),
                ("where it should look", expected[row]),
                ("where it looks", actual[row]),
            )
        ):
            axes = figure.add_subplot(len(theta), 4, 4 * row + column + 1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(title, fontsize=10)
            if column < 2:
                shown = np.clip(np.moveaxis(picture, 0, -1), 0, 1)
                axes.imshow(shown if shown.shape[-1] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)
            else:
                axes.imshow(picture, cmap="seismic", vmin=-top, vmax=top)
    return figure


def _open(m: RegionMap | AreaMap) -> str:
    parts = []
    for aspect, words in (("label", "the class"), ("attention", "the attention")):
        if aspect in m.answers and (left := shares(m, aspect).open) > 0:  # type: ignore[arg-type]
            parts.append(f"For {words}, {_percent(left)} of all changes are not decided.")
    if m.reason:
        parts.append(f"Why: {html.escape(m.reason)}.")
    return " ".join(parts) or "Nothing: every combination of changes is decided."


def _certain(m: RegionMap | AreaMap) -> str:
    witness = "Every failure that is named was computed again on the original network in exact arithmetic, without any rounding."
    if isinstance(m, AreaMap):
        return (
            "What is green or red is proved for all of the infinitely many changes in it; the proof takes every rounding "
            f"error of the computer into account. {witness}"
        )
    return (
        "All regions were computed one by one in ordinary floating point (about 15 digits), and their areas add up to "
        f"{m.summary.covered:.9g} of the whole; regions that hang on rounding were looked at exactly or are counted as "
        f"not decided ({m.summary.near_delta + m.summary.tied}). This is not a formal proof against rounding; the "
        f"method 'areas' gives one. {witness}"
    )


def _words(m: RegionMap | AreaMap) -> str:
    kind = {
        "gradient": "how strongly the network's score for a class reacts to a small change of each pixel",
        "integrated": "each pixel's contribution to the score, collected on the way from a blank image (Integrated Gradients)",
        "smooth": "how strongly the score reacts to each pixel, averaged over noisy copies of the image (SmoothGrad)",
    }[m.settings.map]
    entries = {
        "saliency map": f"A picture of where the network looks: {kind}. Red raises the score, blue lowers it.",
        "expected map": "The saliency map of the unchanged image, moved along where a change moves the image.",
        "inconsistency": "The distance between the map and the expected map, added up "
        + ("over all classes." if m.settings.classes == "all" else "for this class alone."),
        "changes, Θ": "A combination of strengths, one for each kind of change; Θ stands for all of them, and the shares "
        "above are shares of it.",
    }
    return "".join(f"<dt>{a}</dt><dd>{html.escape(b)}</dd>" for a, b in entries.items())


def _image(figure: Any, words: str) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return f'<img alt="{words}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
