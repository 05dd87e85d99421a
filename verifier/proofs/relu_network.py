"""The network that a proof speaks of: affine operators and ReLUs only, exactly equal to the network given."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import numpy as np

from verifier.errors import UnsupportedOperatorError
from verifier.lazy import sp
from verifier.network.graph import Network
from verifier.network.operators import AffineOperator, Dense
from verifier.network.piecewise import PiecewiseLinear
from verifier.network.reduction import reduce
from verifier.network.relu_reductions import TO_HINGES


def relu_network(network: Network) -> Network:
    """The same function over the reals, with every activation as ReLUs; its ReLUs have the numbers that proofs use.

    MaxPool is a knockout of ``max(a, b) = a + relu(b - a)``. An elementwise function with slopes ``s_0, s_1, …`` and
    breaks ``b_1, …`` is ``s_0 z + t_0 + Σ (s_k - s_{k-1}) relu(z - b_k)``: nothing is rounded.

    Raises:
        UnsupportedOperatorError: a function whose pieces do not meet exactly, so that it has no such form.
    """
    for node in network.activations:
        if isinstance(node.operator, PiecewiseLinear):
            for b, gap in zip(node.operator.breaks, node.operator.gaps, strict=True):
                if gap:
                    raise UnsupportedOperatorError(
                        f"the pieces of {node.operator.label} do not meet exactly at {b}",
                        place=f"node {node.name!r}",
                        fix="proofs can be kept of networks without this operator",
                    )
    return reduce(network, TO_HINGES).network


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
