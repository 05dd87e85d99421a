"""Properties of our own kinds as text, for those who check a proof by themselves (docs/proofs.md has the kinds)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from verifier.network.operators import Array
from verifier.properties.conjunction import Conjunction
from verifier.properties.map_condition import MapCondition
from verifier.properties.query import Query, Statement


def number(value: float | Fraction) -> str:
    """A number as text that says it exactly."""
    exact = Fraction(value)
    return str(exact) if exact.denominator in (1, 2, 4, 5, 10, 100, 1000) else _short(exact)


def _short(value: Fraction) -> str:
    near = float(value)
    return near.hex() if Fraction(near) == value else str(value)


def numbers(values: Iterable[float | Fraction]) -> list[str]:
    """Several."""
    return [number(v) for v in values]


def around_input(
    point: Array, epsilon: float | Fraction, domain: Any, label: int, condition: MapCondition | None = None
) -> Statement:
    """That the label holds around an input, or where its map is similar.

    Shapes: point ``(n,)``.
    """
    said: dict[str, Any] = {"kind": "saliency", "label": label, "epsilon": number(epsilon)}
    if condition is not None:
        chosen = condition.map
        shifted = chosen.baseline is not None and bool(np.any(chosen.baseline))
        said["delta"] = number(condition.delta)
        said["map"] = chosen.name + (" (from a baseline)" if shifted else "")
        said["similarity"] = condition.similarity.name
        if chosen.name == "difference":
            said["other"] = int(np.asarray(condition.output).argmin())
    if domain is None:
        said["domain"] = None
    else:
        ends = [np.asarray(end, dtype=np.float64).reshape(-1) for end in domain]
        said["domain"] = [numbers(end.tolist()) if end.size > 1 else number(float(end[0])) for end in ends]
    said["input"] = numbers(point.tolist())
    return Statement(text=json.dumps(said), is_vnnlib=False)


def conditions(query: Query) -> Statement | None:
    """A query as it stands: its box, rows and gradient box; None where it has more than these."""
    if query.condition is not None or query.clauses or query.vacuous:
        return None
    low, high = query.box.ends
    said: dict[str, Any] = {"kind": "conditions", "disjuncts": [_rows(disjunct) for disjunct in query.disjuncts]}
    said["common"] = [] if query.common is None else _rows(query.common)
    said["gradient"] = None
    if query.gradient is not None:
        ends = query.gradient.ends
        if not all(np.isfinite(end).all() for end in (query.gradient.lower, query.gradient.upper)):
            return None
        said["gradient"] = {
            "output": numbers(query.gradient.output.tolist()),
            "low": numbers(ends[0].fractions()),
            "high": numbers(ends[1].fractions()),
        }
    said |= {"low": numbers(low.fractions()), "high": numbers(high.fractions())}
    return Statement(text=json.dumps(said), is_vnnlib=False)


def _rows(part: Conjunction) -> list[dict[str, Any]]:
    found = []
    for k in range(len(part)):
        row = part.exact_row(k)
        said: dict[str, Any] = {
            name: {str(j): number(c) for j, c in entries.items() if c}
            for name, entries in (("x", row.x), ("y", row.y), ("g", row.g))
            if entries
        }
        found.append(said | {"bound": number(row.bound), "strict": bool(part.strict[k])})
    return found
