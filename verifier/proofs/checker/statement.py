"""Properties of our own kinds as JSON text, and what they claim.

Numbers are JSON numbers and strings ("0.1", "1/3", "0x1.8p-4"): each the rational that it says.

* ``{"kind": "saliency", "input": [...], "label": k, "epsilon": e, "delta": d, "domain": [low, high] or null}``: every input
  within L∞ distance e of this one, in the domain (numbers, or one for each entry), at which no entry of the gradient of
  output k is further than d from what it is at this input, has larger output k than any other. Without "delta": every input
  within that distance. The gradient of ReLU at 0 is 0.
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
        delta, output = number(said["delta"]), np.zeros(outputs)
        output[label] = 1.0
        node = add_gradient(graph, output)
        g = _values(graph, x)[node]
        asked = _asked(graph, node, [v - delta for v in g], [v + delta for v in g])
        words += f" whose gradient map differs by at most {float(delta):g} from its own"
    others = [j for j in range(outputs) if j != label]
    rows = [Row({"y": {label: Fraction(1), j: Fraction(-1)}}, Fraction(0)) for j in others]
    return Claim([Disjunct(low, high, [row, *asked]) for row in rows], f"{words} has label {label}")


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


def _asked(graph: Graph, node: int, low: list[Fraction], high: list[Fraction]) -> list[Row]:
    """Rows ``low <= g <= high``, the upper end of each entry first; the graph knows them too, rounded outwards."""
    graph.outputs["g"] = node
    ends = [np.array([float(v) for v in end]) for end in (low, high)]
    graph.asked[node] = np.nextafter(ends[0], -np.inf), np.nextafter(ends[1], np.inf)
    rows = []
    for k, (a, b) in enumerate(zip(low, high, strict=True)):
        rows += [Row({"g": {k: Fraction(1)}}, b), Row({"g": {k: Fraction(-1)}}, -a)]
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
