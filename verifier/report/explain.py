"""Formal explanations as text, JSON and a page: what was asked, what is proved, with the pictures that show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifier.explain import AbductiveExplanation, Contrast, Extreme, InfluenceTable, Radius
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.report import html
from verifier.report.style import FAILS, HOLDS, figure_of, image_shape, picture_of

MOST = 40
"""Names that are listed one by one."""


@dataclass(kw_only=True)
class Findings:
    """What one run found; None for what was not asked.

    Attributes:
        epsilon: the radius; None: the whole domain.
        norm: of the inputs, for the Lipschitz constant.
        stable: what the stability is of, in words.
        tops: by saliency map, how many of its largest entries contain the explanation.
    """

    network: Network
    input: Array
    epsilon: float | None
    explanation: AbductiveExplanation | None = None
    lipschitz: Extreme | None = None
    norm: str = "linf"
    influence: InfluenceTable | None = None
    stability: Radius | None = None
    stable: str = ""
    tops: dict[str, int] = field(default_factory=dict)

    @property
    def decided(self) -> bool:
        """Whether nothing that was asked stayed open."""
        return not (
            (self.explanation is not None and not self.explanation.irredundant)
            or (self.lipschitz is not None and self.lipschitz.reason)
            or (self.influence is not None and "unknown" in [c.influence for row in self.influence.cells for c in row])
            or (self.stability is not None and self.stability.undecided)
        )

    def record(self) -> dict[str, Any]:
        """Everything as JSON."""
        found: dict[str, Any] = {"epsilon": self.epsilon, "decided": self.decided}
        if self.explanation is not None:
            e = self.explanation
            found["features"] = {
                "label": e.label,
                "kept": list(e.names),
                "of": len(e.features),
                "irredundant": e.irredundant,
                "undecided": [e.features.names[k] for k in e.undecided],
                "contrast": None if e.contrast is None else _contrast(e, e.contrast),
                "certificate": None if e.verdict is None or e.verdict.proof is None else "written",
                "no_certificate": "" if e.verdict is None else e.verdict.no_certificate or "",
                "top_of_maps": dict(self.tops),
                "questions": e.questions,
                "seconds": e.seconds,
            }
        if self.lipschitz is not None:
            found["lipschitz"] = {"norm": self.norm, **_extreme(self.lipschitz)}
        if self.influence is not None:
            t = self.influence
            found["influence"] = {
                name: {f"output {o}": str(t.cells[r][c].influence) for r, o in enumerate(t.outputs)}
                for c, name in enumerate(t.names)
            }
        if self.stability is not None:
            s = self.stability
            found["stability"] = {
                "of": self.stable,
                "proved_up_to": s.lower,
                "refuted_from": None if s.witness is None else s.upper,
                "witness": None if s.witness is None else s.witness.tolist(),
                "undecided": s.undecided,
            }
        return found


def _contrast(explanation: AbductiveExplanation, contrast: Contrast) -> dict[str, Any]:
    return {
        "features": [explanation.features.names[k] for k in sorted(contrast.features)],
        "label": contrast.label,
        "irredundant": contrast.irredundant,
        "input": contrast.input.tolist(),
    }


def _extreme(found: Extreme) -> dict[str, Any]:
    return {
        "reached": found.lower,
        "at_most": found.upper,
        "input": None if found.input is None else found.input.tolist(),
        "subproblems": found.subproblems,
        "reason": found.reason,
    }


def facts(found: Findings) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headlines with what there is to say."""
    where = "within the whole domain" if found.epsilon is None else f"within {found.epsilon:g} of the input (L∞)"
    parts = []
    if found.explanation is not None:
        e = found.explanation
        rows = [
            ("label", str(e.label)),
            ("kept", f"{len(e.kept)} of {len(e.features)} features; the others may take any value {where}"),
            (
                "which",
                ", ".join(e.names[:MOST]) + (" …" if len(e.names) > MOST else "") or "none: the label cannot change",
            ),
            (
                "irredundant",
                "yes: each is needed, shown by a counterexample"
                if e.irredundant
                else f"not proved for {len(e.undecided)}",
            ),
        ]
        if e.contrast is not None:
            names = [e.features.names[k] for k in sorted(e.contrast.features)]
            shown = ", ".join(names[:MOST]) + (" …" if len(names) > MOST else "")
            some = "1 feature suffices" if len(names) == 1 else f"{len(names)} features suffice"
            least = "; proved that none of them can be left out" if e.contrast.irredundant else ""
            rows.append(("to change it", f"{some} ({shown}): label {e.contrast.label}{least}"))
        rows += [
            (f"map {name!r}", f"its largest {top} of {len(e.features)} contain the {len(e.kept)} kept")
            for name, top in found.tops.items()
        ]
        if e.verdict is not None and (e.verdict.proof is not None or e.verdict.no_certificate):
            rows.append(
                ("certificate", "written" if e.verdict.proof is not None else f"none: {e.verdict.no_certificate}")
            )
        rows.append(("took", f"{e.questions} questions, {e.seconds:.1f} s"))
        parts.append(("Features that fix the label", rows))
    if found.lipschitz is not None:
        extreme = found.lipschitz
        rows = [("reached", f"{extreme.lower:.6g}"), ("proved at most", f"{extreme.upper:.6g} (gap {extreme.gap:.2%})")]
        rows += [("ended", extreme.reason)] if extreme.reason else []
        parts.append((f"Lipschitz constant, inputs by {found.norm}", rows))
    if found.influence is not None:
        t = found.influence
        rows = [
            (name, ", ".join(f"output {o} {t.cells[r][c].influence}" for r, o in enumerate(t.outputs)))
            for c, name in enumerate(t.names)
        ]
        parts.append((f"Influence {where}", rows))
    if found.stability is not None:
        s = found.stability
        rows = [("cannot change up to", f"{s.lower:.6g}")]
        rows.append(
            ("changes from", "no change found" if s.witness is None else f"{s.upper:.6g} on (an input that shows it)")
        )
        parts.append((f"Stability: {found.stable}", rows))
    return parts


def lines(found: Findings) -> list[str]:
    """For a terminal."""
    told = []
    for title, rows in facts(found):
        width = max((len(name) for name, _ in rows), default=0)
        told += [title, *(f"  {name:<{width}}  {words}" for name, words in rows)]
    return told


def explanation_page(found: Findings, model: str, source: str, record: list[tuple[str, object]]) -> str:
    """The page.

    Args:
        record: what was asked, with digests, for those who file it.
    """
    sections = []
    for title, rows in facts(found):
        body = html.facts(rows)
        drawn = title.startswith("Features") and image_shape(found.network.input_shape)[1] > 1
        if drawn and found.explanation is not None:
            body += html.picture(
                figure(found.explanation, found.input, found.network),
                "the input, the features that fix its label, and a counterexample that changes few",
                "Left: the input. Then: green features fix the label, whatever the others are. Right: changing the red features "
                "alone changes the label.",
            )
        sections.append(html.Section(title, body))
    sections.append(html.Section("How certain is this", html.bullets(WORDS)))
    sections.append(html.Section("For the record", html.facts(record)))
    lead = f"Model {model}, input {source}."
    return html.page("What the network provably depends on", lead, sections, head=html.cards(_answers(found)))


def _answers(found: Findings) -> list[str]:
    """One card for each question."""
    cards = []
    if (e := found.explanation) is not None:
        kind = "yes" if e.irredundant else "open"
        rest = "none can go" if e.irredundant else f"{len(e.undecided)} may not be needed"
        cards.append(html.answer("What fixes the label?", kind, f"{len(e.kept)} of {len(e.features)} features: {rest}"))
    if (x := found.lipschitz) is not None:
        kind, words = (
            ("open", f"between {x.lower:.4g} and {x.upper:.4g}") if x.reason else ("yes", f"{x.upper:.4g} at most")
        )
        cards.append(html.answer("How fast can the output change?", kind, words))
    if (t := found.influence) is not None:
        cells = [c.influence for row in t.cells for c in row]
        sure = sum(c in ("increasing", "decreasing", "constant") for c in cells)
        kind = "open" if "unknown" in cells else "yes"
        cards.append(html.answer("Which inputs have a sign?", kind, f"{sure} of {len(cells)} influences"))
    if (s := found.stability) is not None:
        cards.append(html.answer("How stable is the map?", "open" if s.undecided else "yes", f"up to {s.lower:.4g}"))
    return cards


WORDS = (
    "What is called proved was proved by a verifier with bounds on every rounding error, for every input of the region.",
    "What is called needed, reached or shown is an input that was evaluated in exact arithmetic on the network itself.",
    "What is not decided is said; it is never counted as proved.",
)


def figure(explanation: AbductiveExplanation, x: Array, network: Network) -> Any:
    """The input, the kept features on it, and the smallest contrast.

    Shapes: x ``(n,)``.
    """
    shape = network.input_shape
    channels, height, width = image_shape(shape)
    contrast = explanation.contrast
    drawn = figure_of(3.0 * (2 + (contrast is not None)), 3.2)
    axes = drawn.subplots(1, 2 + (contrast is not None))
    picture_of(axes[0], x, shape, title=f"input, label {explanation.label}")
    picture_of(axes[1], x, shape, title=f"{len(explanation.kept)} features fix it")
    _veil(axes[1], explanation.features.mask(explanation.kept), (channels, height, width), HOLDS)
    if contrast is not None:
        picture_of(axes[2], contrast.input, shape, title=f"label {contrast.label}: {len(contrast.features)} changed")
        _veil(axes[2], explanation.features.mask(contrast.features), (channels, height, width), FAILS)
    return drawn


def _veil(axes: Any, mask: Any, shape: tuple[int, int, int], colour: str) -> None:
    """Colour the pixels of a mask."""
    from matplotlib.colors import to_rgba

    chosen = np.asarray(mask).reshape(shape).any(axis=0)
    layer = np.zeros((*chosen.shape, 4))
    layer[chosen] = to_rgba(colour, 0.6)
    axes.imshow(layer, interpolation="nearest")
