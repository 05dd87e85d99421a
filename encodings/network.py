"""The forward pass as constraints: every value of the network as an affine expression over a model.

Affine operators become sparse rows, one new variable per entry only where the operator multiplies by real
weights; reshapes, transposes, slices and concatenations cost nothing. A neuron whose bounds fix its phase is
affine too; each other unit is one disjunction over its phases (for a ReLU: ``[z <= 0, h = 0]`` or
``[z >= 0, h = z]``), to which `encodings.gradient` adds the derivatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from verifier.bounds.bound import Bound
from verifier.encodings.model import Atom, Disjunction, Expressions, Indices, Model
from verifier.encodings.phases import Phase, possible_phases
from verifier.network.affine import adds_exactly
from verifier.network.graph import Network, Node
from verifier.network.operators import AffineOperator
from verifier.network.piecewise import MaxPool, PiecewiseLinear


@dataclass(frozen=True, eq=False)
class Neuron:
    """One elementwise neuron of an activation node.

    Attributes:
        phases: those it can be on; one if its bounds fix it.
        disjunction: its disjuncts, in the order of ``phases``; None if it is fixed.
    """

    phases: tuple[Phase, ...]
    disjunction: Disjunction | None = None


@dataclass(frozen=True, eq=False)
class Window:
    """One window of a MaxPool node.

    Attributes:
        candidates: flat input indices that can be its maximum, in window order.
        positions: their positions in the window.
        disjunction: its disjuncts, in the order of ``candidates``; None if only one can win.
    """

    candidates: tuple[int, ...]
    positions: tuple[int, ...]
    disjunction: Disjunction | None = None


@dataclass(eq=False)
class ForwardPass:
    """A network's values over a model, as `encode_forward` writes them.

    Attributes:
        known: per activation node the phase of each neuron that is known beyond its bounds, see `encode_forward`.
        values: every node's flattened value.
        neurons: for each activation node its neurons or windows, in the order of its flattened output.
    """

    model: Model
    network: Network
    bounds: Mapping[str, Bound]
    x: Indices
    known: Mapping[str, Indices]
    values: dict[str, Expressions] = field(default_factory=dict)
    neurons: dict[str, list[Neuron | Window]] = field(default_factory=dict)


UNKNOWN = -1
"""Stands for a phase that is not known."""


def encode_forward(
    model: Model,
    network: Network,
    bounds: Mapping[str, Bound],
    *,
    gradient: bool,
    known: Mapping[str, Indices] | None = None,
    negligible: float = 0.0,
) -> ForwardPass:
    """Write the forward pass of a network into a model.

    Args:
        bounds: valid bounds on the value of every node (padded, see `encodings.padding`).
        known: per elementwise activation node the index of the phase (`encodings.phases`) that each neuron has in every
            solution that counts, or `UNKNOWN`. Such a neuron is fixed, and its preactivation confined to the phase.
        gradient: whether derivatives will be added, so that at a kink both neighbours must stay possible.
        negligible: see `encodings.phases.possible_phases`; 0 for exact proofs.

    Source:
        Le et al., ACML 2023, Equations 1 to 3; phases as disjuncts: Katz et al., CAV 2017.
    """
    box = bounds[network.input]
    x = model.add_variables(box.lower, box.upper)
    result = ForwardPass(model, network, bounds, x, {} if known is None else known)
    result.values[network.input] = Expressions.of_variables(x)
    for node in network.nodes[1:]:
        if isinstance(node.operator, AffineOperator):
            result.values[node.name] = _affine(result, node, node.operator)
        elif isinstance(node.operator, MaxPool):
            result.values[node.name] = _maxpool(result, node, node.operator, gradient)
        else:
            assert isinstance(node.operator, PiecewiseLinear)
            result.values[node.name] = _elementwise(result, node, node.operator, gradient, negligible)
    return result


def _affine(state: ForwardPass, node: Node, operator: AffineOperator) -> Expressions:
    shapes = [state.network[i].shape for i in node.inputs]
    constant = operator.constant()
    flat = (
        np.zeros(node.size)
        if constant is None
        else np.broadcast_to(constant, node.shape).astype(np.float64).reshape(-1)
    )
    matrices = operator.matrices(*shapes)
    if not selects(matrices) or not adds_exactly(flat, _shift(matrices, [state.values[i] for i in node.inputs])):
        for name in dict.fromkeys(node.inputs):
            state.values[name] = as_variables(state.model, state.values[name], state.bounds[name])
    return combine(matrices, [state.values[i] for i in node.inputs], flat, state.model.size)


def selects(matrices: tuple[sp.csr_array, ...]) -> bool:
    """Whether every output is one input, up to its sign, or zero: then expressions are combined without rounding."""
    entries = sum(np.diff(m.indptr) for m in matrices)
    return bool(np.all(entries <= 1)) and all(np.all(np.abs(m.data) == 1.0) for m in matrices)


def _shift(matrices: tuple[sp.csr_array, ...], inputs: list[Expressions]) -> npt.NDArray[np.float64]:
    """What the constants of the inputs add; exact if the matrices select."""
    return np.asarray(sum(matrix @ expressions.constant for matrix, expressions in zip(matrices, inputs, strict=True)))


def combine(
    matrices: tuple[sp.csr_array, ...], inputs: list[Expressions], constant: npt.NDArray[np.float64], size: int
) -> Expressions:
    """``Σ matrices[k] @ inputs[k] + constant``; exact if each matrix selects or each input is plain variables.

    Shapes: matrices ``(size of the result, size of the input)``; constant ``(size of the result,)``.
    """
    total = sp.csr_array((len(constant), size))
    for matrix, expressions in zip(matrices, inputs, strict=True):
        total = total + matrix @ expressions.widened(size)
        constant = constant + matrix @ expressions.constant
    return Expressions(_clean(total), np.asarray(constant))


def as_variables(model: Model, expressions: Expressions, bound: Bound, rows: Indices | None = None) -> Expressions:
    """The same expressions with new variables defined for some of them.

    Args:
        bound: valid bounds on the expressions.
        rows: which; by default all that are neither zero nor, up to its sign, a variable that no earlier one
            is: after that a weight matrix can be applied without adding up two weights of one variable.
    """
    rows = _not_plain(expressions) if rows is None else rows
    if not len(rows):
        return expressions
    chosen = Expressions(sp.csr_array(expressions.matrix[rows]), expressions.constant[rows])
    columns = model.define(chosen, bound.lower.reshape(-1)[rows], bound.upper.reshape(-1)[rows])
    keep = np.ones(len(expressions))
    keep[rows] = 0.0
    kept = sp.csr_array(sp.diags_array(keep) @ expressions.widened(model.size))
    neurons = sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(expressions), model.size))
    return Expressions(_clean(kept + neurons), np.where(keep > 0, expressions.constant, 0.0))


def _clean(matrix: sp.csr_array) -> sp.csr_array:
    """The matrix in CSR form without stored zeros, indices sorted."""
    result = sp.csr_array(matrix)
    result.eliminate_zeros()
    result.sort_indices()
    return result


def _not_plain(expressions: Expressions) -> Indices:
    """Rows that are neither zero nor ± a variable that no earlier row is."""
    matrix = expressions.matrix
    entries = np.diff(matrix.indptr)
    plain = (entries <= 1) & (expressions.constant == 0.0)
    single = np.flatnonzero(plain & (entries == 1))
    plain[single] = np.abs(matrix.data[matrix.indptr[single]]) == 1.0
    single = single[plain[single]]
    columns = matrix.indices[matrix.indptr[single]]
    _, first = np.unique(columns, return_index=True)
    again = np.ones(len(single), dtype=bool)
    again[first] = False
    plain[single[again]] = False
    return np.flatnonzero(~plain)


def _elementwise(
    state: ForwardPass, node: Node, operator: PiecewiseLinear, gradient: bool, negligible: float
) -> Expressions:
    model, (source,) = state.model, node.inputs
    lower, upper = (end.reshape(-1) for end in (state.bounds[source].lower, state.bounds[source].upper))
    options = [
        possible_phases(operator, low, high, gradient=gradient, negligible=negligible)
        for low, high in zip(lower.tolist(), upper.tolist(), strict=True)
    ]
    known = state.known.get(node.name, np.full(node.size, UNKNOWN))
    settled = np.array([len(p) > 1 for p in options], dtype=bool) & (known != UNKNOWN)
    for k in np.flatnonzero(settled).tolist():
        options[k] = tuple(p for p in options[k] if p.index == known[k])
    free = np.array([len(p) > 1 for p in options], dtype=bool)
    slope, intercept = (np.where(free, 0.0, [getattr(p[0], name) for p in options]) for name in ("slope", "intercept"))
    z = state.values[source]
    plain = z.variables() >= 0
    scaled = ~np.isin(slope, (-1.0, 0.0, 1.0)) | ((slope != 0) & (intercept != 0))
    z = state.values[source] = as_variables(
        model, z, state.bounds[source], np.flatnonzero((free | scaled | settled) & ~plain)
    )
    confined = [(z.variable(k), options[k][0]) for k in np.flatnonzero(settled).tolist()]
    columns = np.array([column for column, _ in confined], dtype=np.int64)
    model.tighten(columns, np.array([p.lower for _, p in confined]), np.array([p.upper for _, p in confined]))
    model.add_atoms(atom for column, p in confined for atom in _phase_atoms(column, p) if atom.strict)
    value = state.bounds[node.name]
    h = np.full(node.size, -1)
    h[free] = model.add_variables(value.lower.reshape(-1)[free], value.upper.reshape(-1)[free])
    neurons = state.neurons[node.name] = []
    for k, possible in enumerate(options):
        if not free[k]:
            neurons.append(Neuron(possible))
            continue
        disjunction = Disjunction([_value_atoms(z.variable(k), int(h[k]), p) for p in possible], f"{node.name}[{k}]")
        model.disjunctions.append(disjunction)
        neurons.append(Neuron(possible, disjunction))
    fixed = sp.diags_array(slope) @ z.widened(model.size)
    return Expressions(_clean(fixed + Expressions.of_variables(h).widened(model.size)), slope * z.constant + intercept)


def _phase_atoms(z: int, phase: Phase) -> list[Atom]:
    """``z`` is on the phase."""
    if phase.lower == phase.upper:
        return [Atom((z,), (1.0,), phase.lower, phase.upper)]
    atoms = []
    if phase.lower > -inf:
        atoms.append(Atom((z,), (1.0,), phase.lower, inf, phase.lower_open))
    if phase.upper < inf:
        atoms.append(Atom((z,), (1.0,), -inf, phase.upper, phase.upper_open))
    return atoms


def _value_atoms(z: int, h: int, phase: Phase) -> list[Atom]:
    """``z`` is on the phase, and ``h = slope * z + intercept``."""
    atoms = _phase_atoms(z, phase)
    if phase.slope == 0.0:
        atoms.append(Atom((h,), (1.0,), phase.intercept, phase.intercept))
    else:
        atoms.append(Atom((h, z), (1.0, -phase.slope), phase.intercept, phase.intercept))
    return atoms


def _maxpool(state: ForwardPass, node: Node, operator: MaxPool, gradient: bool) -> Expressions:
    model, (source,) = state.model, node.inputs
    lower, upper = (end.reshape(-1) for end in (state.bounds[source].lower, state.bounds[source].upper))
    windows = operator.windows(state.network[source].shape)
    contenders = [_contenders(window, lower, upper, gradient) for window in windows]
    needed = np.unique([j for found in contenders if len(found) > 1 for _, j in found]).astype(np.int64)
    z = state.values[source]
    rows = np.array([j for j in needed.tolist() if z.variable(j) < 0], dtype=np.int64)
    z = state.values[source] = as_variables(model, z, state.bounds[source], rows)
    value = state.bounds[node.name]
    free = np.array([len(found) > 1 for found in contenders], dtype=bool)
    h = np.full(node.size, -1)
    h[free] = model.add_variables(value.lower.reshape(-1)[free], value.upper.reshape(-1)[free])
    neurons = state.neurons[node.name] = []
    for k, found in enumerate(contenders):
        positions, candidates = tuple(p for p, _ in found), tuple(j for _, j in found)
        if not free[k]:
            neurons.append(Window(candidates, positions))
            continue
        columns = [z.variable(j) for j in candidates]
        disjuncts = [_winner_atoms(columns, i, int(h[k])) for i in range(len(columns))]
        disjunction = Disjunction(disjuncts, f"{node.name}[{k}]")
        model.disjunctions.append(disjunction)
        model.add_atoms(Atom((int(h[k]), c), (1.0, -1.0), 0.0, inf) for c in columns)
        neurons.append(Window(candidates, positions, disjunction))
    single = np.flatnonzero(~free)
    winners = np.array([contenders[k][0][1] for k in single.tolist()], dtype=np.int64)
    pick = sp.csr_array((np.ones(len(single)), (single, winners)), shape=(node.size, len(z)))
    fixed = pick @ z.widened(model.size)
    return Expressions(_clean(fixed + Expressions.of_variables(h).widened(model.size)), np.asarray(pick @ z.constant))


def _contenders(
    window: npt.NDArray[np.int64], lower: npt.NDArray[np.float64], upper: npt.NDArray[np.float64], gradient: bool
) -> list[tuple[int, int]]:
    """(position, flat index) of the entries of a window that can be its maximum."""
    entries = [(p, int(j)) for p, j in enumerate(window) if j >= 0]
    highest = max(entries, key=lambda e: lower[e[1]])
    if gradient:
        return [e for e in entries if upper[e[1]] >= lower[highest[1]]]
    return [e for e in entries if upper[e[1]] > lower[highest[1]] or e == highest]


def _winner_atoms(columns: list[int], winner: int, h: int) -> list[Atom]:
    """Candidate ``winner`` is a maximum (by the gradient convention the first one), and is the value."""
    atoms = [Atom((h, columns[winner]), (1.0, -1.0), 0.0, 0.0)]
    for i, c in enumerate(columns):
        if i != winner:
            atoms.append(Atom((c, columns[winner]), (1.0, -1.0), -inf, 0.0, strict=i < winner))
    return atoms
