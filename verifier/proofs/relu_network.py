"""The network that a proof speaks of: affine operators and ReLUs only, exactly equal to the network given."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from verifier.errors import UnsupportedOperatorError
from verifier.lazy import sp
from verifier.network.graph import Network, NetworkBuilder, Node
from verifier.network.operators import AffineOperator, Dense, Scale, Sum
from verifier.network.piecewise import PiecewiseLinear, relu
from verifier.network.simplify import maxpool_to_relu


def relu_network(network: Network) -> Network:
    """The same function over the reals, with every activation as ReLUs; its ReLUs have the numbers that proofs use.

    MaxPool is a knockout of ``max(a, b) = a + relu(b - a)``. An elementwise function with slopes ``s_0, s_1, …`` and
    breaks ``b_1, …`` is ``s_0 z + t_0 + Σ s_k relu(z - b_k) - Σ s_{k-1} relu(z - b_k)``: nothing is rounded.

    Raises:
        UnsupportedOperatorError: a function whose pieces do not meet exactly, so that it has no such form.
    """
    reduced = maxpool_to_relu(network).network
    if reduced.is_relu_only:
        return reduced
    builder = NetworkBuilder(reduced.input_shape, input_name=reduced.input, source=reduced.source)
    names = {reduced.input: reduced.input}
    for node in reduced.nodes[1:]:
        inputs = [names[i] for i in node.inputs]
        operator = node.operator
        if isinstance(operator, PiecewiseLinear) and not operator.is_relu:
            names[node.name] = _hinges(builder, node, operator, inputs[0])
        else:
            names[node.name] = builder.add(operator, *inputs, name=node.name)
    return builder.build(names[reduced.output])


def _hinges(builder: NetworkBuilder, node: Node, operator: PiecewiseLinear, source: str) -> str:
    pieces = list(zip(operator.slopes, operator.intercepts, strict=True))
    for b, (left, right) in zip(operator.breaks, pairwise(pieces), strict=True):
        ends = [Fraction(slope) * Fraction(b) + Fraction(intercept) for slope, intercept in (left, right)]
        if ends[0] != ends[1]:
            raise UnsupportedOperatorError(
                f"the pieces of {operator.label} do not meet exactly at {b}",
                place=f"node {node.name!r}",
                fix="proofs can be kept of networks without this operator",
            )

    def scaled(factor: float, shift: float, of: str, name: str) -> str:
        full = Scale(np.full(node.shape, factor), np.full(node.shape, shift))
        return builder.add(full, of, name=f"{node.name}/{name}")

    parts, signs = [scaled(operator.slopes[0], operator.intercepts[0], source, "line")], [1]
    for k, b in enumerate(operator.breaks):
        hinge = builder.add(relu(), scaled(1.0, -b, source, f"from{k}"), name=f"{node.name}/hinge{k}")
        for factor, sign in ((operator.slopes[k + 1], 1), (operator.slopes[k], -1)):
            if factor:
                parts.append(scaled(factor, 0.0, hinge, f"{'in' if sign > 0 else 'out'}{k}"))
                signs.append(sign)
    return builder.add(Sum(tuple(signs)), *parts, name=node.name)


def fingerprint(network: Network) -> str:
    """A SHA-256 of the network's operators, numbers and connections (not of names)."""
    digest = hashlib.sha256()
    places = {node.name: k for k, node in enumerate(network.nodes)}
    for node in network.nodes:
        links = [places[i] for i in node.inputs]
        digest.update(f"{type(node.operator).__name__} {links} {node.shape} {node.name == network.output}".encode())
        for field in fields(node.operator):  # type: ignore[arg-type]
            digest.update(field.name.encode())
            sparse = node.operator.sparse_weight if isinstance(node.operator, Dense) else None
            held = sparse if field.name == "weight" and sparse is not None else getattr(node.operator, field.name)
            for part in _plain(held):
                digest.update(part)
    return digest.hexdigest()


def operators(network: Network) -> list[str]:
    """The kinds of operators in a network, for the proof's header."""
    kinds = {
        type(n.operator).__name__ if isinstance(n.operator, AffineOperator) else getattr(n.operator, "label", "MaxPool")
        for n in network.nodes[1:]
    }
    return sorted(kinds)


def _plain(value: Any) -> list[bytes]:
    if sp.issparse(value):
        csr = sp.csr_array(value)
        return [part for a in (csr.indptr, csr.indices, csr.data) for part in _plain(np.asarray(a))]
    if isinstance(value, np.ndarray):
        kind = "<f8" if value.dtype.kind == "f" else "<i8"
        return [str(value.shape).encode(), np.ascontiguousarray(value, dtype=kind).tobytes()]
    return [repr(value).encode()]
