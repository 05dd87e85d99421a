"""One HTML page on an attention map that needs no knowledge of the field: question, answers, pictures, what is open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.attention import Answer, AreaMap, AspectAnswer, RegionMap
from verifier.attention.table import Aspect
from verifier.network.operators import Array
from verifier.report import html
from verifier.report.attention_notes import notes
from verifier.report.html import Section
from verifier.report.style import figure_of, picture_of, signed_map

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


def page(m: RegionMap | AreaMap, rows: Sequence[tuple[str, object]], figure: Any) -> str:
    """The page, complete in itself.

    Args:
        figure: the map's picture.
        rows: figures for those who want them, as pairs of words.
    """
    head = html.cards(_card(m, aspect) for aspect in ("label", "attention") if aspect in m.answers)  # type: ignore[arg-type]
    parts = [
        Section("What was asked", _asked(m)),
        Section("Where it holds", _picture(m, figure)),
        Section("The worst case found", _worst(m)),
        Section("What remains open", html.paragraph(_open(m))),
        Section("How certain this is", html.paragraph(_certain(m))),
        Section("Words", _words(m)),
        Section("Figures for the record", html.facts(rows) + _record_words(rows)),
    ]
    return html.page("Does the network keep its answer, and its reasons?", _lead(m), parts, head=head)


def _percent(value: float) -> str:
    """A share in words that never round to "all" or "nothing" what is not."""
    if value <= 0:
        return "0\N{NO-BREAK SPACE}%"
    if value >= 1 - 1e-12:
        return "100\N{NO-BREAK SPACE}%"
    if value < 0.0005:
        return "less than 0.05\N{NO-BREAK SPACE}%"
    return "more than 99.9\N{NO-BREAK SPACE}%" if value > 0.999 else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _lead(m: RegionMap | AreaMap) -> str:
    name = m.perturbed.original.source or "the network"
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
    text = f"holds on {_percent(part.holds)} of all changes, fails on {_percent(part.fails)}"
    text += f", open on {_percent(part.open)}" if part.open > 0 else ""
    shown = html.shares(part.holds, part.fails, part.open) + html.paragraph(text, small=True) if measured else ""
    return html.answer(title, kind, words, shown + html.paragraph(_why(found), small=True))


def _why(found: AspectAnswer) -> str:
    if found.answer is Answer.NOT_ROBUST:
        return "A change at which it fails was found and computed again exactly."
    return found.reason[:1].upper() + found.reason[1:] + "."


def _asked(m: RegionMap | AreaMap) -> str:
    rows = []
    for name, p in zip(m.perturbed.labels, m.perturbed.perturbations, strict=True):
        meaning = PLAIN.get(type(p).__name__.lower(), "the image is moved in a direction that was given")
        rows.append((name, f"{p.low:g} to {p.high:g}", meaning))
    words = (
        "All combinations of these changes count. 'Looks at the same things' means: the difference between the saliency map "
        f"and the one expected is at most {m.delta:g} (see 'inconsistency' below; 0 is 'exactly the same')."
    )
    remarks = "".join(html.paragraph(f"Note: {text}.") for text in notes(m))
    return html.table(("change", "strength", "meaning"), rows) + html.paragraph(words) + remarks


def _picture(m: RegionMap | AreaMap, figure: Any) -> str:
    what = (
        "small rectangles of changes" if isinstance(m, AreaMap) else "regions on which the network computes one formula"
    )
    more = " More than two changes: the picture shows the first two, averaged over the others." * (
        m.perturbed.dimension > 2
    )
    legend = (
        "green: holds, red: fails, grey: open" if isinstance(m, AreaMap)
        else "green: holds, red: fails everywhere in the region, orange: in a part of it; dark outline: the edge of "
        "what holds around the unchanged image"
    )  # fmt: skip
    cases = " 1" + " and 2" * (len(marked(m)) > 2) + ": the worst cases below." if len(marked(m)) > 1 else ""
    caption = (
        f"Every point is one combination of changes. 0: the unchanged image.{cases} The plane is cut into {what}: "
        f"{legend}.{more}"
    )
    return html.picture(figure, "map of the changes: where label and attention hold", caption)


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


def marked(m: RegionMap | AreaMap) -> Array:
    """The parameters that the page marks in the map, ``(k, d)``: the unchanged image (or its nearest), the worst cases."""
    box = m.perturbed.box
    return np.stack([np.clip(np.zeros(box.size), box.lower, box.upper), *(point for _, point in _points(m))])


def _worst(m: RegionMap | AreaMap) -> str:
    points = _points(m)
    if not points:
        return html.paragraph("No failure was found, and no combination of changes is worse than the others.")
    theta = np.stack([t for _, t in points])
    outputs = m.perturbed.network.forward(theta).reshape(len(theta), -1)
    values = m.settings(m.perturbed, theta, m.label)
    parts = []
    for number, ((words, point), output, value) in enumerate(zip(points, outputs, values, strict=True), start=1):
        where = ", ".join(f"{n} {v:.4g}" for n, v in zip(m.perturbed.labels, point, strict=True))
        says = f"the network says class {int(output.argmax())}; inconsistency {value:.4g}."
        parts.append(f"{number}: {words} ({where}): {says}")
    caption = "Maps: red raises the score of the class, blue lowers it; all have the same scale."
    shown = html.picture(
        worst_figure(m, theta), "the image, the changed image, the map expected and the map found", caption
    )
    return html.bullets(parts) + shown


def worst_figure(m: RegionMap | AreaMap, theta: Array) -> Any:
    """The image as it was and changed, the map expected and the map found, for each parameter ``(k, d)``."""
    which = list(m.settings.outputs(m.perturbed, m.label)).index(m.label)
    actual = m.settings.maps(m.perturbed, theta, m.label)[:, which].sum(axis=1)
    expected = m.settings.expected(m.perturbed, theta, m.label)[:, which].sum(axis=1)
    images = m.perturbed.images(theta)
    figure = figure_of(11, 2.9 * len(theta))
    top = max(float(np.abs(actual).max()), float(np.abs(expected).max()), 1e-12)
    grid = figure.subplots(len(theta), 4, squeeze=False)
    for row, axes in enumerate(grid):
        picture_of(axes[0], m.perturbed.image, m.perturbed.image.shape, title="the image")
        picture_of(axes[1], images[row], m.perturbed.image.shape, title="changed")
        signed_map(axes[2], expected[row], expected[row].shape, size=top, title="where it should look", bar=False)
        signed_map(axes[3], actual[row], actual[row].shape, size=top, title="where it looks")
    return figure


def _open(m: RegionMap | AreaMap) -> str:
    parts = []
    for aspect, words in (("label", "the class"), ("attention", "the attention")):
        if aspect in m.answers and (left := shares(m, aspect).open) > 0:  # type: ignore[arg-type]
            parts.append(f"For {words}, {_percent(left)} of all changes are not decided.")
    if m.reason:
        parts.append(f"Why: {m.reason}.")
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
    body = "".join(f"<dt>{html.text(a)}</dt><dd>{html.text(b)}</dd>" for a, b in entries.items())
    return f"<dl>{body}</dl>"


RECORD_WORDS = {
    r"\bθ": "θ, Θ: one combination of changes, and all that were asked about; θ = 0 is the unchanged image.",
    r"\bCR\b": "CR, MR, CB: regions in which the class is kept everywhere, nowhere, in a part.",
    r"\bAR\b": "AR, IR, AB: the same of 'looks at the same things'.",
    r"\bboth\b": "both: class and attention together.",
    "NotRobust": "NotRobust: at some combination of changes it fails. Robust: at none. Otherwise the reason is given.",
    r"\bdelta\b": "delta: the largest inconsistency that counts as looking at the same things.",
    r"\bL2\b": "L2: differences of pixels are squared, added up, and the root is taken.",
    r"\bL1\b": "L1: the sizes of the differences of pixels are added up.",
    r"identity filter": "identity filter: maps are compared as they are.",
    r"absolute filter": "absolute filter: the sign of a pixel's effect is left out before maps are compared.",
    r"mean3 filter": "mean3 filter: every pixel is averaged with its neighbours before maps are compared.",
    r"\bexhaustive\b": "exhaustive: all regions were computed, not samples.",
    r"\bgbs\b": "gbs: only the edge of what holds around the unchanged image was followed.",
    r"\bareas\b": "areas: rectangles of changes were proved or refuted as wholes, and cut in two where neither was possible.",
    "outermost boundary": "outermost boundary: the regions at the edge of what holds around the unchanged image.",
    "enclaves": "enclaves: places surrounded by what holds, in which it does not.",
    "close calls": "close calls: regions so near to delta that rounding might decide.",
}
"""What the words of the record mean, by a pattern that finds them."""


def _record_words(rows: Sequence[tuple[str, object]]) -> str:
    said = "\n".join(f"{name} {text}" for name, text in rows)
    return html.bullets(words for pattern, words in RECORD_WORDS.items() if re.search(pattern, said))
