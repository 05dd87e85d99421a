"""Replay: a proposed witness is checked again on the original network.

Two checks, of different weight. *Exact rational arithmetic* decides: box, gradient by the strict convention,
condition, no tolerance. *onnxruntime*, which rounds to float32 as a rule, is the second opinion that VNN-COMP
and a user's own deployment rely on; where the two differ, the remarks say how.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from verifier.arguments import checked
from verifier.errors import InputError, NetworkError
from verifier.limits import Deadline
from verifier.network.enclosure import EnclosedNetwork
from verifier.network.exact import ExactNetwork
from verifier.network.graph import Network
from verifier.network.operators import Array, Dense
from verifier.network.runtime import RuntimeModel, rounded
from verifier.properties.numbers import Point
from verifier.properties.query import Query
from verifier.properties.sets import Box
from verifier.verdict import Witness

START, ENTRIES_A_SECOND = 0.05, 4e7
"""Seconds that onnxruntime takes to start, and entries of matrices that it reads in one."""


@checked
def replay(query: Query, x: Point, exact_network: ExactNetwork | None = None) -> Witness:
    """Check a point exactly: in the box, the gradient by the strict convention, the condition, no tolerance.

    Args:
        x: flattened input. A float64 one stands for the point of the box that `Box.point` says; a rational one is taken
            as it is; where the network's inputs are integers, either is rounded to such.
        exact_network: the query's network in exact form, if it is at hand.

    Returns:
        a `Witness` whose ``exact`` says whether the point refutes the property.

    Raises:
        TypeError: x is no array of numbers; InputError: it is of another size.

    Source:
        the gradient at kinks as in Le et al., ACML 2023, Equations 10 and 11; exact arithmetic is this
        package's own.

    Example:
        >>> import numpy as np, verifier
        >>> network = verifier.feedforward([[[1, -1], [-1, 1]], np.eye(2)], [np.zeros(2), np.zeros(2)])
        >>> query = verifier.robustness(network, [0.6, 0.5], epsilon=0.1)
        >>> verifier.replay(query, np.array([0.5, 0.6])).confirmed, verifier.replay(query, np.array([0.6, 0.5])).confirmed
        (True, False)
    """
    size = len(x) if isinstance(x, tuple) else np.size(x)
    if size != query.box.size:
        raise InputError(f"the point has {size} numbers and the network {query.box.size} inputs", fix="a flat input")
    if isinstance(x, tuple):
        whole = query.network.integer_inputs
        xs = _exact_point(query, np.array([float(v) for v in x])) if whole else list(x)
    else:
        xs = _exact_point(query, x)
    point = np.array([float(v) for v in xs])
    allowed = not query.network.integer_inputs or all(v.denominator == 1 for v in xs)
    exact_network = exact_network or ExactNetwork(query.network)
    values, above = {}, None
    if query.network.is_curved:
        try:
            y, above = EnclosedNetwork(query.network, exact_network).output(xs)
        except NetworkError as error:  # a function is not defined there: the point refutes nothing
            nothing = np.full(query.network.output_size, np.nan)
            return Witness(input=point, output=nothing, exact=False, remarks=(error.problem,))
    else:
        values = exact_network.values(xs)
        y = values[query.network.output].fractions()
    g: list[Fraction] | None = None
    inside = query.box.contains_exactly(xs)
    if query.gradient is not None:
        g = exact_network.gradient(xs, query.gradient.output, values)
        inside = inside and query.gradient.contains_exactly(g)
    shown, saliency = y, None
    if query.condition is not None:
        # on the original network: the query's own may carry copies of it behind the original outputs
        shown = y[: query.condition.network.output_size]
        found = query.condition.exact_map(xs)
        inside = inside and query.condition.admits(found)
        saliency = np.array([float(v) for v in found])
    confirmed = inside and allowed and query.met_exactly(xs, y, g, above)
    rational = [k for k, v in enumerate(xs) if Fraction(float(point[k])) != v]
    return Witness(
        input=point,
        exact_input=tuple(xs) if rational else None,
        remarks=() if not rational else (_rational_remark(rational, xs),),
        output=np.array([float(v) for v in shown]),
        gradient=None if g is None else np.array([float(v) for v in g]),
        map=saliency,
        exact=confirmed,
        shape=query.network.input_shape,
    )


def _rational_remark(rational: list[int], xs: list[Fraction]) -> str:
    value = str(xs[rational[0]])
    shown = f"input {rational[0]} is exactly {value}" if len(value) <= 40 else f"input {rational[0]} is a rational"
    others = f", {len(rational) - 1} more are rationals too" if len(rational) > 1 else ""
    return f"{shown}{others}; the nearest float64 numbers are shown"


def _exact_point(query: Query, x: Array) -> list[Fraction]:
    """The point of the box that a float64 point stands for."""
    point = query.box.clip(np.asarray(x, dtype=np.float64).reshape(-1))
    if query.network.integer_inputs:
        point = nearest(point, query.box, np.dtype(np.int64))
    return query.box.point(point)


def confirm(
    query: Query,
    x: Point,
    exact_network: ExactNetwork | None = None,
    runtime: RuntimeModel | None = None,
    seconds: float = 10.0,
    most_trials: int = 4,
) -> Witness:
    """Check a point exactly and in onnxruntime, and prefer a point near it that passes both.

    A point that refutes the property exactly is looked at through the runtime's eyes: rounded to its precision
    inside the box, then moved by small steps to where the condition holds with more room. The first point that
    passes both checks becomes the witness. If there is none, the exact witness stays, with a remark.

    Args:
        exact_network, runtime: if they are at hand.
        seconds: wall-clock limit of the search for a point that passes both; where less than half of what
            onnxruntime needs to start is left, it is not asked.
        most_trials: float32 points near the witness that are replayed exactly, at most.

    Raises:
        TypeError: x is no array of numbers.

    Source:
        the competition's rule that a witness holds in onnxruntime: VNN-COMP, rules.
    """
    deadline = Deadline.after(seconds)
    exact_network = exact_network or ExactNetwork(query.network)
    witness = replay(query, x, exact_network)
    if not witness.exact:
        return witness
    if runtime is None and 2 * seconds < _start_seconds(query.network):
        return replace(witness, remarks=(*witness.remarks, "not replayed in onnxruntime: the time was over"))
    try:
        runtime = runtime or RuntimeModel(query.network if query.condition is None else query.condition.network)
    except (NetworkError, ImportError) as error:
        return replace(witness, remarks=(*witness.remarks, f"not replayed in onnxruntime: {error}"))
    trials = 0
    for point in _neighbours(query, witness.input, runtime.dtype):
        if not holds_in_runtime(query, point, runtime):
            if deadline.passed:
                break
            continue
        same = np.array_equal(point, witness.input)
        found = witness if same else replay(query, point, exact_network)
        if found.exact:
            moved = () if same else _moved(witness.input, point, runtime.dtype)
            return replace(found, onnxruntime=True, runtime_output=runtime.run(point), remarks=(*found.remarks, *moved))
        trials += 1
        if trials >= most_trials or deadline.passed:
            break
    return replace(
        witness,
        onnxruntime=holds_in_runtime(query, witness.input, runtime),
        runtime_output=runtime.run(witness.input),
        remarks=(*witness.remarks, *_difference(query, witness, runtime)),
    )


def _start_seconds(network: Network) -> float:
    """About how long onnxruntime takes to read a model, by the entries of its dense matrices."""
    entries = sum(prod(n.operator.weight.shape) for n in network.nodes if isinstance(n.operator, Dense))
    return START + entries / ENTRIES_A_SECOND


def holds_in_runtime(query: Query, x: Array, runtime: RuntimeModel) -> bool:
    """Whether the condition holds for onnxruntime's output at ``x`` as the runtime rounds it, with no tolerance.

    Shapes: x ``(n,)``.

    The runtime gives no gradients: rows that speak of the gradient, the gradient box and the condition on the map
    use the network's own.
    """
    seen = rounded(x, runtime.dtype).astype(np.float64)
    y = runtime.run(x)[None]
    if not np.isfinite(y).all():
        return False
    if query.condition is not None:
        if query.condition.margin(seen[None])[0] < 0:
            return False
        # further outputs of the query's network serve the map alone: no row speaks of them
        y = np.pad(y, ((0, 0), (0, query.network.output_size - y.shape[1])))
    g = None
    if query.gradient is not None:
        g = query.network.gradient(seen, query.gradient.output).reshape(1, -1)
        if not query.gradient.contains(g)[0]:
            return False
    return bool(query.met(seen[None], y, g)[0])


def nearest(x: Array, box: Box, dtype: np.dtype[Any]) -> Array:
    """The nearest values of a type inside the box (as float64); where an interval has none, ``x`` itself.

    Shapes: x ``(…, n)``.
    """
    least, most = box.inside
    if dtype.kind == "f":
        close = rounded(x, dtype)
        low, high = np.nextafter(close, dtype.type(np.inf)), np.nextafter(close, dtype.type(-np.inf))
        inside = np.where(close < least, low, np.where(close > most, high, close)).astype(np.float64)
    else:
        inside = np.clip(np.rint(x), np.ceil(least), np.floor(most))
    return np.where((inside >= least) & (inside <= most), inside, x)


def _neighbours(query: Query, x: Array, dtype: np.dtype[Any]) -> Iterator[Array]:
    """The point as the runtime can hold it, the point itself, and points near it with more room."""
    from verifier.falsify.attack import ascend

    coarse = dtype != np.float64
    if coarse:
        yield nearest(x, query.box, dtype)
    yield x
    for point in ascend(query, x):
        yield nearest(point, query.box, dtype) if coarse else point


def _moved(before: Array, after: Array, dtype: np.dtype[Any]) -> tuple[str, ...]:
    distance = float(np.abs(before - after).max())
    held = dtype != np.float64 and np.array_equal(after, rounded(after, dtype))
    kind = f"a {dtype} point" if held else "a point"
    return (f"moved by {distance:.3g} (L∞) to {kind} where exact arithmetic and onnxruntime agree",)


def _difference(query: Query, witness: Witness, runtime: RuntimeModel) -> tuple[str, ...]:
    seen = rounded(witness.input, runtime.dtype).astype(np.float64)
    remarks = []
    if not np.array_equal(seen, witness.input):
        place = "inside" if query.box.contains(seen) else "outside"
        remarks.append(f"the input is no {runtime.dtype} point; rounded to one it lies {place} the box")
    gap = float(np.abs(runtime.run(witness.input) - witness.output).max())
    remarks.append(f"onnxruntime's output differs from the exact one by at most {gap:.3g}")
    if not holds_in_runtime(query, witness.input, runtime):
        remarks.append("exact arithmetic refutes the property here and onnxruntime's rounding does not")
    return tuple(remarks)


def first_confirmed(query: Query, points: Array, most: int = 8) -> Array | None:
    """The first point of a batch ``(batch, n)`` that is a witness in exact arithmetic, among the ``most`` likeliest.

    A point that meets the condition in float64 only by rounding is passed over.
    """
    for x in points[query.holds(points)][:most]:
        if replay(query, x).exact:
            return np.asarray(x)
    return None
