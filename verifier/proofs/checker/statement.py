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
from fractions import Fraction
from typing import Any

import numpy as np

from .claim import Claim, Disjunct, Row
from .gradient import Transposed, add_gradient
from .graph import CheckError, Graph

MAPS, DISTANCES = ("gradient", "absolute", "difference", "gradient-input"), ("linf", "l1", "l2")


def number(value: Any) -> Fraction:
    """The rational that a JSON value says."""
    if isinstance(value, str) and "x" in value:
        return Fraction(float.fromhex(value))
    return Fraction(value)


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
        ends = [_numbers(end, inputs) for end in said["domain"]]
        low, high = (
            [max(a, b) for a, b in zip(low, ends[0], strict=True)],
            [min(a, b) for a, b in zip(high, ends[1], strict=True)],
        )
    words = f"every input within {float(epsilon):g} of the given one"
    asked: list[Row] = []
    if "delta" in said:
        asked = _similar(said, graph, x, low, high)
        name, distance, delta = (
            said.get("map", "gradient"),
            said.get("similarity", "linf"),
            float(number(said["delta"])),
        )
        words += f" whose {name} map differs ({distance}) by at most {delta:g} from its own"
        words += "" if asked else " (and every other)"
    others = [j for j in range(outputs) if j != label]
    rows = [Row({"y": {label: Fraction(1), j: Fraction(-1)}}, Fraction(0)) for j in others]
    return Claim([Disjunct(low, high, [row, *asked]) for row in rows], f"{words} has label {label}")


def _similar(said: Any, graph: Graph, x: list[Fraction], low: list[Fraction], high: list[Fraction]) -> list[Row]:
    """What follows for the gradient from a map that is similar to the one at x; nothing where nothing is known."""
    name, delta, output = (
        said.get("map", "gradient"),
        number(said["delta"]),
        np.zeros(graph.nodes[graph.outputs["y"]].size),
    )
    if name not in MAPS or said.get("similarity", "linf") not in DISTANCES:
        return []
    output[int(said["label"])] = 1.0
    if name == "difference":
        if not 0 <= int(said["other"]) < len(output) or int(said["other"]) == int(said["label"]):
            raise CheckError("a map of the difference to no other output")
        output[int(said["other"])] = -1.0
    node = add_gradient(graph, output)
    g = _values(graph, x)[node]
    ends: list[tuple[Fraction | None, Fraction | None]] = [(v - delta, v + delta) for v in g]
    if name == "absolute":
        ends = [(-abs(v) - delta, abs(v) + delta) for v in g]
    if name == "gradient-input":
        ends = [_quotients(v * w - delta, v * w + delta, a, b) for v, w, a, b in zip(g, x, low, high, strict=True)]
    return _asked(graph, node, *(list(end) for end in zip(*ends, strict=True)))


def _quotients(a: Fraction, b: Fraction, c: Fraction, d: Fraction) -> tuple[Fraction | None, Fraction | None]:
    """Between what lies q if ``q r`` is in [a, b] for an r in [c, d]; None: anywhere."""
    if c <= 0 <= d:
        return None, None
    found = [v / w for v in (a, b) for w in (c, d)]
    return min(found), max(found)


def _conditions(said: Any, graph: Graph) -> Claim:
    sizes = {"x": graph.nodes[0].size, "y": graph.nodes[graph.outputs["y"]].size, "g": graph.nodes[0].size}
    low, high = _numbers(said["low"], sizes["x"]), _numbers(said["high"], sizes["x"])
    asked: list[Row] = []
    if said["gradient"] is not None:
        output = _numbers(said["gradient"]["output"], sizes["y"])
        if [Fraction(float(v)) for v in output] != output:
            raise CheckError("a gradient of a combination whose coefficients are no float64 numbers")
        node = add_gradient(graph, np.array([float(v) for v in output]))
        ends = (_numbers(said["gradient"][end], sizes["g"]) for end in ("low", "high"))
        asked = _asked(graph, node, *ends)

    def rows(parts: Any) -> list[Row]:
        found = []
        for part in parts:
            named = {name: {int(k): number(c) for k, c in part.get(name, {}).items()} for name in sizes}
            if any(not 0 <= k < sizes[name] for name, entries in named.items() for k in entries):
                raise CheckError("a row speaks of an entry that does not exist")
            if named["g"] and not asked:
                raise CheckError("a row speaks of the gradient of nothing")
            found.append(Row({n: e for n, e in named.items() if e}, number(part["bound"]), bool(part.get("strict"))))
        return found

    common = [*rows(said["common"]), *asked]
    words = "no input between the given ends meets the given conditions"
    return Claim([Disjunct(low, high, [*rows(part), *common]) for part in said["disjuncts"]], words)


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


def _values(graph: Graph, x: list[Fraction]) -> dict[int, list[Fraction]]:
    """The values of all nodes at an input, exactly: integers over a common denominator, by node."""
    weights = [n.constant for n in graph.nodes if n.constant is not None]
    for node in graph.nodes:
        weights += [getattr(m.of if isinstance(m, Transposed) else m, "weight", None) for _, m in node.terms]
        weights += [getattr(m.of if isinstance(m, Transposed) else m, "factor", None) for _, m in node.terms]
    used = [w[w != 0] for w in map(np.asarray, (w for w in weights if w is not None))]
    shift = 53 + max([0, *(-int(np.frexp(w)[1].min()) for w in used if w.size)])

    def whole(values: Any) -> Any:
        ratios = [w.as_integer_ratio() for w in np.asarray(values, dtype=np.float64).ravel().tolist()]
        found = np.array([(n << shift) // d for n, d in ratios] + [None], dtype=object)[:-1]
        return found.reshape(np.shape(values))

    below = math.lcm(*(v.denominator for v in x))
    found: dict[int, tuple[Any, int]] = {0: (np.array([int(v * below) for v in x], dtype=object), below)}
    for k, node in enumerate(graph.nodes[1:], start=1):
        if node.kind == "affine":
            parts = [(m.exact(whole).apply(found[s][0][None])[0], found[s][1] << shift) for s, m in node.terms]
            parts += [] if node.constant is None else [(whole(node.constant), 1 << shift)]
            common = math.lcm(*(d for _, d in parts))
            found[k] = sum(v * (common // d) for v, d in parts), common
            continue
        z, common = found[node.terms[0][0]]
        sign = z if node.kind == "relu" else found[graph.nodes[node.relu].terms[0][0]][0]
        found[k] = np.where(sign > 0, z, 0), common
    return {k: [Fraction(int(v), d) for v in values] for k, (values, d) in found.items()}
