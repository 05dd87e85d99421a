"""Properties of our own kinds as JSON text, and what they claim.

Numbers are JSON numbers and strings ("0.1", "1/3", "0x1.8p-4"): each the rational that it says.

* ``{"kind": "saliency", "input": [...], "label": k, "epsilon": e, "delta": d, "domain": [low, high] or null, "map": "gradient",
  "similarity": "linf"}``: every input within L∞ distance e of this one, in the domain (numbers, or one for each entry), whose map is
  within distance d of the one at this input, has larger output k than any other. Without "delta": every input within that
  distance. Maps: "gradient" (of output k), "absolute" (of each of its entries), "difference" (the gradient of output k less output
  "other"), "gradient-input" (each entry times the input's). Distances: "linf", "l1", "l2". The gradient of ReLU at 0 is 0. Of
  distances this uses that each entry is within d; of other maps and similarities nothing, which claims more.
* ``{"kind": "conditions", "low": [...], "high": [...], "disjuncts": [[row, ...], ...], "common": [row, ...], "gradient":
  {"output": [...], "low": [...], "high": [...]} or null}``: no input between the ends meets all common rows, all rows of one
  disjunct, and has the gradient of ``output · y`` between its ends. Rows: ``{"x": {index: c}, "y": {}, "g": {}, "bound": b, "strict":
  false}``.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from .claim import Claim, Disjunct, Row
from .gradient import add_gradient
from .graph import CheckError, Graph, through

MAPS, DISTANCES = ("gradient", "absolute", "difference", "gradient-input"), ("linf", "l1", "l2")


def number(value: Any) -> Fraction:
    """The rational that a JSON value says."""
    return Fraction(float.fromhex(value)) if isinstance(value, str) and "x" in value else Fraction(value)


def _numbers(values: Any, count: int) -> list[Fraction]:
    found = [number(v) for v in values] if isinstance(values, list) else [number(values)] * count
    if len(found) != count:
        raise CheckError(f"the property has {len(found)} numbers where the network has {count}")
    return found


def read_statement(text: str, graph: Graph) -> Claim:
    """What a text claims; the gradient that it speaks of is added to the graph.

    Raises:
        CheckError: it is none of these kinds, or does not fit the network.
    """
    try:
        said = json.loads(text, parse_float=Fraction)
        return {"saliency": _saliency, "conditions": _conditions}[said["kind"]](said, graph)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
        raise CheckError(f"no property that can be read: {type(error).__name__} {error}") from None


def _saliency(said: Any, graph: Graph) -> Claim:
    inputs, outputs = graph.nodes[0].size, graph.nodes[graph.outputs["y"]].size
    x, epsilon, label = _numbers(said["input"], inputs), number(said["epsilon"]), int(said["label"])
    if not 0 <= label < outputs or epsilon < 0:
        raise CheckError("there is no such label, or epsilon is negative")
    low, high = [v - epsilon for v in x], [v + epsilon for v in x]
    if said["domain"] is not None:
        least, most = (_numbers(end, inputs) for end in said["domain"])
        low, high = list(map(max, low, least)), list(map(min, high, most))
    words, asked = f"every input within {float(epsilon):g} of the given one", list[Row]()
    if "delta" in said:
        asked = _similar(said, graph, x, low, high)
        name, distance = said.get("map", "gradient"), said.get("similarity", "linf")
        words += f" whose {name} map differs ({distance}) by at most {float(number(said['delta'])):g} from its own"
        words += "" if asked else " (and every other)"
    rows = [Row({"y": {label: Fraction(1), j: Fraction(-1)}}, Fraction(0)) for j in range(outputs) if j != label]
    return Claim([Disjunct(low, high, [row, *asked]) for row in rows], f"{words} has label {label}")


def _similar(said: Any, graph: Graph, x: list[Fraction], low: list[Fraction], high: list[Fraction]) -> list[Row]:
    """What follows for the gradient from a map that is similar to the one at x; nothing where nothing is known."""
    name, delta, outputs = said.get("map", "gradient"), number(said["delta"]), graph.nodes[graph.outputs["y"]].size
    if name not in MAPS or said.get("similarity", "linf") not in DISTANCES:
        return []
    output = np.eye(outputs)[int(said["label"])]
    if name == "difference":
        if not 0 <= int(said["other"]) < outputs or int(said["other"]) == int(said["label"]):
            raise CheckError("a map of the difference to no other output")
        output[int(said["other"])] = -1.0
    node = add_gradient(graph, output)
    g = values(graph, x)[node]
    ends: list[Any] = [(v - delta, v + delta) for v in g]
    if name == "absolute":
        ends = [(-abs(v) - delta, abs(v) + delta) for v in g]
    if name == "gradient-input":
        ends = [_quotients(v * w - delta, v * w + delta, a, b) for v, w, a, b in zip(g, x, low, high, strict=True)]
    return _asked(graph, node, *zip(*ends, strict=True))


def _quotients(a: Fraction, b: Fraction, c: Fraction, d: Fraction) -> tuple[Fraction | None, Fraction | None]:
    """Between what lies q if ``q r`` is in [a, b] for an r in [c, d]; None: anywhere."""
    found = [] if c <= 0 <= d else [v / w for v in (a, b) for w in (c, d)]
    return min(found, default=None), max(found, default=None)


def _conditions(said: Any, graph: Graph) -> Claim:
    sizes = {"x": graph.nodes[0].size, "y": graph.nodes[graph.outputs["y"]].size, "g": graph.nodes[0].size}
    low, high, asked = _numbers(said["low"], sizes["x"]), _numbers(said["high"], sizes["x"]), list[Row]()
    if said["gradient"] is not None:
        output = _numbers(said["gradient"]["output"], sizes["y"])
        if [Fraction(float(v)) for v in output] != output:
            raise CheckError("a gradient of a combination whose coefficients are no float64 numbers")
        node = add_gradient(graph, np.array(output, dtype=np.float64))
        asked = _asked(graph, node, *(_numbers(said["gradient"][end], sizes["g"]) for end in ("low", "high")))

    def row(part: Any) -> Row:
        named = {name: {int(k): number(c) for k, c in part.get(name, {}).items()} for name in sizes}
        if any(not 0 <= k < sizes[name] for name, entries in named.items() for k in entries):
            raise CheckError("a row speaks of an entry that does not exist")
        if named["g"] and not asked:
            raise CheckError("a row speaks of the gradient of nothing")
        return Row({n: e for n, e in named.items() if e}, number(part["bound"]), bool(part.get("strict")))

    common = [*map(row, said["common"]), *asked]
    words = "no input between the given ends meets the given conditions"
    return Claim([Disjunct(low, high, [*map(row, part), *common]) for part in said["disjuncts"]], words)


def _asked(graph: Graph, node: int, low: Any, high: Any) -> list[Row]:
    """Rows ``low <= g <= high``, the upper end of each entry first (without an end ``0 <= 0``); the graph knows them too, rounded
    outwards."""
    graph.outputs["g"] = node
    ends = [np.array([free if v is None else float(v) for v in end]) for end, free in ((low, -np.inf), (high, np.inf))]
    graph.asked[node] = np.nextafter(ends[0], -np.inf), np.nextafter(ends[1], np.inf)
    rows = []
    for k, (a, b) in enumerate(zip(low, high, strict=True)):
        rows.append(Row({}, Fraction(0)) if b is None else Row({"g": {k: Fraction(1)}}, b))
        rows.append(Row({}, Fraction(0)) if a is None else Row({"g": {k: Fraction(-1)}}, -a))
    return rows


def values(graph: Graph, x: list[Fraction]) -> list[list[Fraction]]:
    """The values of all nodes at an input, exactly: weights are whole numbers over one power of 2, `shift`."""
    maps = {id(m): m for node in graph.nodes for _, m in node.terms if m is not None}
    used = np.concatenate(
        [np.ravel(w) for w in [*(m.weight for m in maps.values()), *(n.constant for n in graph.nodes)]]
    )
    shift = 53 + max(0, -int(np.frexp(used[used != 0])[1].min(initial=0)))

    def whole(w: Any) -> Any:
        found = np.array(
            [(n << shift) // d for n, d in map(float.as_integer_ratio, np.ravel(w).tolist())], dtype=object
        )
        return found.reshape(np.shape(w))

    exact = {key: replace(m, weight=whole(m.weight)) for key, m in maps.items()}
    below = math.lcm(*(v.denominator for v in x))
    found: list[Any] = [(np.array([[int(v * below) for v in x]], dtype=object), below)]
    for node in graph.nodes[1:]:
        if node.kind == "affine":
            parts = [
                (through(exact[id(m)], found[s][0]), found[s][1] << shift) if m is not None else found[s]
                for s, m in node.terms
            ]
            parts.append((whole(node.constant)[None], 1 << shift))
            common = math.lcm(*(d for _, d in parts))
            found.append((sum(v * (common // d) for v, d in parts), common))
        else:
            z, sign = found[node.terms[0][0]], found[graph.nodes[node.relu].terms[0][0]][0]
            found.append((np.where(sign > 0, z[0], 0), z[1]))
    return [[Fraction(int(v), d) for v in np.ravel(w)] for w, d in found]
