"""VNN-LIB 2.0, read through the ``vnnlib`` package's typed syntax tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from verifier.errors import PropertyError
from verifier.limits import poll
from verifier.network.graph import Network
from verifier.properties.formula import And, Formula, Or, Term, less, to_query
from verifier.properties.query import Query


@dataclass(frozen=True)
class Variable:
    """A declared tensor of a VNN-LIB 2.0 file.

    Attributes:
        name: as declared.
        kind: "input" or "output".
        type_name: the element type as written, ``float32`` say.
        shape: as declared, with the batch axis.
    """

    name: str
    kind: str
    type_name: str
    shape: tuple[int, ...]


def parse(text: str, network: Network, *, place: str = "") -> Query:
    """The query of a VNN-LIB 2.0 text about one network with one input and one output tensor.

    Raises:
        PropertyError: a syntax error (as the ``vnnlib`` package words it), several networks, hidden variables,
            sizes that are not the network's, a condition that is not linear.
    """
    tree = _tree(text, place)
    declared = variables_of(tree, place)
    for kind, size in (("input", network.input_size), ("output", network.output_size)):
        tensors = [v for v in declared if v.kind == kind]
        if len(tensors) != 1:
            raise PropertyError(
                f"{len(tensors)} {kind} tensors are declared; networks with one input and one output are supported",
                place=place,
            )
        if prod(tensors[0].shape) != size:
            raise PropertyError(
                f"{kind} {tensors[0].name} has shape {list(tensors[0].shape)}, and the network's {kind} has {size}",
                place=place,
                fix="is the property meant for another network?",
            )
    assertions = [_formula(assertion.expr, place) for assertion in tree.assertions]
    return to_query(network, assertions, place=place)


def variables(text: str, *, place: str = "") -> tuple[Variable, ...]:
    """The declared tensors of a VNN-LIB 2.0 text, in order (counterexample files repeat them).

    Raises:
        PropertyError: a syntax error, several networks, hidden variables.
    """
    return variables_of(_tree(text, place), place)


def variables_of(tree: Any, place: str) -> tuple[Variable, ...]:
    """The declared tensors of a parsed file."""
    if len(tree.networks) != 1:
        names = ", ".join(n.name for n in tree.networks)
        raise PropertyError(
            f"the property speaks of {len(tree.networks)} networks ({names}); one is supported", place=place
        )
    (declaration,) = tree.networks
    if declaration.hidden:
        raise PropertyError(
            f"hidden variables ({declaration.hidden[0].name}) are not supported",
            place=place,
            fix="cut the network at that node, or state the property over inputs and outputs",
        )
    result = [
        Variable(v.name, kind, _TYPES.get(v.dtype.name, v.dtype.name.lower()), tuple(v.shape))
        for kind, group in (("input", declaration.inputs), ("output", declaration.outputs))
        for v in group
    ]
    return tuple(result)


_TYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "Real": "real", "Unknown": "real"}
"""Names in counterexample files, by the package's own; a tensor declared ``real`` is "Unknown" to the package."""


def _tree(text: str, place: str) -> Any:
    try:
        import vnnlib
    except ImportError:
        raise PropertyError(
            "reading VNN-LIB 2.0 needs the package vnnlib", place=place, fix="pip install vnnlib"
        ) from None
    try:
        return vnnlib.parse_query_string(text)
    except Exception as error:
        raise PropertyError(f"not valid VNN-LIB 2.0: {error}", place=place) from None


def _formula(node: Any, place: str) -> Formula:
    poll("while the property was read")
    kind = type(node).__name__
    if kind in ("And", "Or"):
        parts = [_formula(part, place) for part in node.args]
        return And(parts) if kind == "And" else Or(parts)
    left, right = _term(node.lhs, place), _term(node.rhs, place)
    match kind:
        case "LessEqual":
            return less(left, right)
        case "GreaterEqual":
            return less(right, left)
        case "LessThan":
            return less(left, right, True)
        case "GreaterThan":
            return less(right, left, True)
        case "Equal":
            return And((less(left, right), less(right, left)))
        case "NotEqual":
            return Or((less(left, right, True), less(right, left, True)))
    raise PropertyError(f"{kind} is not supported: {node}", place=place)


def _term(node: Any, place: str) -> Term:
    kind = type(node).__name__
    if kind == "Var":
        index = int(np.ravel_multi_index(tuple(node.indices), tuple(node.shape))) if node.shape else 0
        unit = {index: Fraction(1)}
        if node.kind.name == "Input":
            return Term(x=unit)
        if node.kind.name == "Output":
            return Term(y=unit)
        raise PropertyError(f"hidden variable {node.name} is not supported", place=place)
    if hasattr(node, "lexeme"):
        return Term(constant=Fraction(node.lexeme))
    if kind == "Negate":
        return _term(node.expr, place).times(Fraction(-1))
    if kind == "Plus":
        return _sum([_term(a, place) for a in node.args], Fraction(1))
    if kind == "Minus":
        return _sum([_term(node.head, place), *(_term(a, place) for a in node.rest)], Fraction(-1))
    if kind == "Multiply":
        parts = [_term(a, place) for a in node.args]
        terms = [p for p in parts if not p.is_constant]
        if len(terms) > 1:
            raise PropertyError(f"a product of variables is not linear: {node}", place=place)
        total = terms[0] if terms else Term(constant=Fraction(1))
        for factor in (p.constant for p in parts if p.is_constant):
            total = total.times(factor)
        return total
    raise PropertyError(f"{kind} is not supported in a term: {node}", place=place)


def _sum(parts: Sequence[Term], sign: Fraction) -> Term:
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part, sign)
    return total
