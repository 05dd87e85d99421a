"""Similarity of saliency maps as constraints on the gradient's variables.

For maps that are the gradient of F or its absolute value (`verifier.properties.maps`): an absolute value is a
disjunction of two signs, where bounds leave both; the L1 norm gets one variable per entry above both signs of its
difference; "the same k largest entries" a threshold between the two sets. All coefficients are 0 and ±1.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf

import numpy as np
import scipy.sparse as sp

from verifier.encodings.model import Atom, Disjunction, ExactAtom, Indices, Model
from verifier.encodings.widening import slack
from verifier.errors import EngineError
from verifier.network.operators import Array
from verifier.properties.map_condition import MapCondition
from verifier.properties.similarity import L1, Linf, Similarity, TopK


def encode_condition(model: Model, condition: MapCondition, g: Indices, relax: float) -> None:
    """Write a condition on the map into a model.

    Args:
        g: the gradient's variables, with finite bounds.
        relax: the condition is widened by this much (see `encodings.widening.slack`); 0 for exact proofs.

    Raises:
        EngineError: for maps that are multiplied by the input, and for the L2 norm: neither is linear.

    Source:
        Le et al., ACML 2023, Equation 12; absolute values by two rows each.
    """
    write = _ROWS.get(type(condition.similarity))
    if condition.map.baseline is not None or write is None:
        raise EngineError(f"{condition.map.name!r} with {condition.similarity.name!r} similarity is not linear")
    write(model, condition, _absolute(model, g) if condition.map.absolute else g, relax)


def _absolute(model: Model, g: Indices) -> Indices:
    """Variables for the absolute values of others."""
    low, high = model.lower[g], model.upper[g]
    columns = model.add_variables(
        np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high))),
        np.maximum(np.abs(low), np.abs(high)),
    )
    for p, v, a, b in zip(columns.tolist(), g.tolist(), low.tolist(), high.tolist(), strict=True):
        same, opposite = Atom((p, v), (1.0, -1.0), 0.0, 0.0), Atom((p, v), (1.0, 1.0), 0.0, 0.0)
        if a >= 0:
            model.add_atoms([same])
        elif b <= 0:
            model.add_atoms([opposite])
        else:
            positive = [Atom((v,), (1.0,), 0.0, inf), same]
            negative = [Atom((v,), (1.0,), -inf, 0.0), opposite]
            model.disjunctions.append(Disjunction([positive, negative], "sign of a gradient entry"))
    return columns


def _box(model: Model, condition: MapCondition, m: Indices, relax: float) -> None:
    """``|m - reference| <= delta``, entry by entry."""
    model.confine(m, *condition.ends, slack(relax, model.upper[m] - model.lower[m]))


def _sum_of_differences(model: Model, condition: MapCondition, m: Indices, relax: float) -> None:
    """``Σ |m - reference| <= delta``, and what follows for each entry."""
    margin = float(slack(relax, model.upper[m] - model.lower[m]).sum())
    _box(model, condition, m, relax)
    low, high = model.lower[m], model.upper[m]
    reference = condition.exact_reference
    reach = np.maximum(
        np.abs(np.nextafter(high - reference.below, inf)), np.abs(np.nextafter(low - reference.above, -inf))
    )
    e = model.add_variables(np.zeros(len(m)), reach)
    n = len(m)
    for sign, ends in ((1.0, -reference), (-1.0, reference)):  # e >= ±(m - reference)
        for k, columns in enumerate(zip(e.tolist(), m.tolist(), strict=True)):
            signs, low_end = (1.0, -sign), float(ends.below[k])
            exact = (
                None if ends.above[k] == low_end else ExactAtom(columns, (Fraction(1), Fraction(-sign)), ends[k], inf)
            )
            model.add_atoms([Atom(columns, signs, low_end, inf, exact=exact)])
    ones = np.ones(n)
    limit = condition.delta + margin
    model.add_rows(sp.csr_array((ones, (np.zeros(n, dtype=int), e)), shape=(1, model.size)), *_ends(-inf, limit))


def _threshold(model: Model, condition: MapCondition, m: Indices, relax: float) -> None:
    """``m_i + delta >= τ`` for i in the set, ``m_j <= τ`` outside of it."""
    assert isinstance(condition.similarity, TopK)
    top = condition.similarity.top
    outside = m[~top]
    low, high = float(model.lower[outside].max()), float(model.upper[outside].max())
    (threshold,) = model.add_variables(np.array([low]), np.array([high])).tolist()
    margin = float(slack(relax, np.asarray(high - low)))
    atoms = [Atom((i, threshold), (1.0, -1.0), -condition.delta - margin, inf) for i in m[top].tolist()]
    atoms += [Atom((j, threshold), (1.0, -1.0), -inf, margin) for j in outside.tolist()]
    model.add_atoms(atoms)


_ROWS: dict[type[Similarity], Callable[[Model, MapCondition, Indices, float], None]] = {
    Linf: _box,
    L1: _sum_of_differences,
    TopK: _threshold,
}
"""How a similarity is written; what is not here is not linear."""


def _ends(low: float, high: float) -> tuple[Array, Array]:
    return np.array([low]), np.array([high])
