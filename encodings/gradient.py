"""The backward pass as constraints (Le et al., ACML 2023, Equations 9 to 11), for every layer of any network.

With g the gradient of one output combination with respect to a node's value: an affine operator multiplies
by its transposed matrix; an elementwise neuron with preactivation z and value h passes back
``dz = derivative · dh``, which becomes one more equation in each disjunct of the neuron's disjunction (for a ReLU:
``[z <= 0, h = 0, dz = 0]`` or ``[z >= 0, h = z, dz = dh]``); a MaxPool window passes dh to its winner.

At ``z = 0`` Equation 11 has ``dz = 0``; here both disjuncts hold, a closed superset for proofs (a witness is replayed with the
paper's convention). Nothing is left out: the paper's Equations 15 and 16 exclude ``0 < z < 1e-6`` unless ``dh = 0``.
The outputs' condition, Equation 14, is not made here but in `verifier.properties.query.larger_output_disjuncts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from verifier.bounds.bound import Bound
from verifier.encodings.model import Atom, Expressions, Model
from verifier.encodings.network import ForwardPass, Neuron, Window, as_variables, combine, selects
from verifier.network.graph import Node
from verifier.network.operators import AffineOperator, Array, Input
from verifier.rounding import SPACING


def encode_gradient(forward: ForwardPass, output: Array, bounds: Mapping[str, Bound]) -> dict[str, Expressions]:
    """Write the backward pass of ``output · y`` into the model of a forward pass.

    Args:
        output: ``(m,)`` coefficients of the outputs.
        bounds: valid bounds on the gradient with respect to every node (padded, see `encodings.padding`).

    Returns:
        for every node the gradient with respect to its flattened value.

    Source:
        Le et al., ACML 2023, Equations 9 to 11, 15 and 16.
    """
    network, model = forward.network, forward.model
    parts: dict[str, list[Expressions]] = {n.name: [] for n in network.nodes}
    parts[network.output].append(Expressions.of_constants(output))
    result: dict[str, Expressions] = {}
    readers = Counter(name for node in network.nodes for name in node.inputs)
    for node in reversed(network.nodes):
        own = _total(forward, node, parts[node.name], bounds[node.name])
        if isinstance(node.operator, AffineOperator):
            shapes = [network[i].shape for i in node.inputs]
            matrices = [sp.csr_array(m.T) for m in node.operator.matrices(*shapes)]
            if not all(selects((m,)) for m in matrices) and not _is_unit(own):
                own = as_variables(model, own, bounds[node.name])
            for name, matrix in zip(node.inputs, matrices, strict=True):
                zero = np.zeros(matrix.shape[0])
                parts[name].append(combine((matrix,), [own], zero, model.size))
        elif isinstance(node.operator, Input):
            pass
        elif forward.neurons[node.name] and isinstance(forward.neurons[node.name][0], Window):
            own, back = _through_windows(forward, node, own, bounds[node.name])
            parts[node.inputs[0]].append(back)
        else:
            own, back = _through_neurons(forward, node, own, bounds[node.name])
            if readers[node.inputs[0]] == 1:
                _tighten(model, back, bounds[node.inputs[0]])
            parts[node.inputs[0]].append(back)
        result[node.name] = own
    return result


def _tighten(model: Model, expressions: Expressions, bound: Bound) -> None:
    """Valid bounds, for those expressions that are variables."""
    columns = expressions.variables()
    rows = np.flatnonzero(columns >= 0)
    model.tighten(columns[rows], bound.lower.reshape(-1)[rows], bound.upper.reshape(-1)[rows])


def _is_unit(expressions: Expressions) -> bool:
    """Whether at most one expression is not zero, and that one is ±1: a matrix times it is one of its columns."""
    values = expressions.constant
    signs = bool(np.isin(values, (-1, 0, 1)).all())
    return signs and expressions.matrix.nnz == 0 and int(np.count_nonzero(values)) <= 1


def _total(forward: ForwardPass, node: Node, parts: list[Expressions], bound: Bound) -> Expressions:
    """The sum of what all users of a node pass back to it."""
    if not parts:
        return Expressions.of_constants(np.zeros(node.size))
    if len(parts) == 1:
        return parts[0]
    plain = [as_variables(forward.model, part, _hull(forward, part)) for part in parts]
    eye = sp.csr_array(sp.eye_array(node.size))
    total = combine((eye,) * len(plain), plain, np.zeros(node.size), forward.model.size)
    return as_variables(forward.model, total, bound)


def _hull(forward: ForwardPass, expressions: Expressions) -> Bound:
    """Bounds on expressions by interval arithmetic over the variables' bounds, rounded outwards."""
    model = forward.model
    matrix = expressions.widened(model.size)
    positive, negative = matrix.maximum(0), matrix.minimum(0)
    lower, upper = model.lower, model.upper
    low = positive @ lower + negative @ upper + expressions.constant
    high = positive @ upper + negative @ lower + expressions.constant
    size = abs(matrix) @ np.maximum(abs(lower), abs(upper)) + abs(expressions.constant)
    slack = 4.0 * (np.diff(matrix.indptr) + 4) * SPACING * size
    return Bound(low - slack, high + slack)


def _through_neurons(
    forward: ForwardPass, node: Node, dh: Expressions, bound: Bound
) -> tuple[Expressions, Expressions]:
    """dh (as variables where needed) and what an elementwise node passes back."""
    model = forward.model
    neurons = [u for u in forward.neurons[node.name] if isinstance(u, Neuron)]
    zero = (np.diff(dh.matrix.indptr) == 0) & (dh.constant == 0.0)
    free = np.array([u.disjunction is not None for u in neurons], dtype=bool) & ~zero
    slope = np.array([0.0 if u.disjunction is not None else u.phases[0].derivative for u in neurons])
    scaled = ~np.isin(slope, (-1.0, 0.0, 1.0)) & ~zero
    plain = dh.variables() >= 0
    constant = np.diff(dh.matrix.indptr) == 0
    switches = np.array([all(p.derivative in (0.0, 1.0, -1.0) for p in u.phases) for u in neurons], dtype=bool)
    needed = (free & ~plain & ~(constant & switches)) | (scaled & ~plain)
    dh = as_variables(model, dh, bound, np.flatnonzero(needed))
    low, high = (_ends(dh, bound, end) for end in ("lower", "upper"))
    columns = np.full(len(neurons), -1)
    rows = np.flatnonzero(free)
    ends = [[p.derivative * end for p in neurons[k].phases for end in (low[k], high[k])] for k in rows.tolist()]
    if len(rows):
        # a product with a slope other than 0 and ±1 is rounded: one step outwards
        lows = np.array([min(e) for e in ends])
        highs = np.array([max(e) for e in ends])
        exact = switches[rows]
        columns[rows] = model.add_variables(
            np.where(exact, lows, np.nextafter(lows, -np.inf)), np.where(exact, highs, np.nextafter(highs, np.inf))
        )
    for k in rows.tolist():
        disjunction = neurons[k].disjunction
        assert disjunction is not None
        for disjunct, phase in zip(disjunction.disjuncts, neurons[k].phases, strict=True):
            disjunct.append(_product_atom(int(columns[k]), phase.derivative, dh, k))
    fixed = sp.csr_array(sp.diags_array(np.where(zero, 0.0, slope)) @ dh.widened(model.size))
    matrix = sp.csr_array(fixed + Expressions.of_variables(columns).widened(model.size))
    matrix.eliminate_zeros()
    return dh, Expressions(matrix, slope * dh.constant)


def _ends(expressions: Expressions, bound: Bound, end: str) -> Array:
    """One end of each expression: its own value where it is constant, else the bound."""
    constant = np.diff(expressions.matrix.indptr) == 0
    return np.where(constant, expressions.constant, getattr(bound, end).reshape(-1))


def _product_atom(dz: int, derivative: float, dh: Expressions, row: int) -> Atom:
    """``dz = derivative · dh[row]``."""
    h = dh.variable(row)
    if derivative == 0.0 or h < 0:
        value = derivative * float(dh.constant[row])
        return Atom((dz,), (1.0,), value, value)
    return Atom((dz, h), (1.0, -derivative), 0.0, 0.0)


def _through_windows(
    forward: ForwardPass, node: Node, dh: Expressions, bound: Bound
) -> tuple[Expressions, Expressions]:
    """dh (as variables where needed) and what a MaxPool node passes back: dh to each window's winner."""
    model = forward.model
    windows = [w for w in forward.neurons[node.name] if isinstance(w, Window)]
    zero = (np.diff(dh.matrix.indptr) == 0) & (dh.constant == 0.0)
    plain = dh.variables() >= 0
    constant = np.diff(dh.matrix.indptr) == 0
    free = np.array([w.disjunction is not None for w in windows], dtype=bool) & ~zero
    # several windows may share a winner: what they pass back is added, so it must be plain variables
    needed = np.flatnonzero(~plain & ~zero & ~(constant & free))
    dh = as_variables(model, dh, bound, needed)
    low, high = (_ends(dh, bound, end) for end in ("lower", "upper"))
    targets, columns = [], []
    for k, window in enumerate(windows):
        if zero[k]:
            continue
        if not free[k]:
            targets.append(window.candidates[0])
            columns.append(dh.variable(k))
            continue
        assert window.disjunction is not None
        count = len(window.candidates)
        routed = model.add_variables(np.full(count, min(low[k], 0.0)), np.full(count, max(high[k], 0.0)))
        for i, disjunct in enumerate(window.disjunction.disjuncts):
            for j, r in enumerate(routed.tolist()):
                disjunct.append(_product_atom(r, 1.0 if i == j else 0.0, dh, k))
        targets += list(window.candidates)
        columns += routed.tolist()
    size = forward.network[node.inputs[0]].size
    matrix = sp.csr_array((np.ones(len(targets)), (targets, columns)), shape=(size, model.size))
    return dh, Expressions(matrix, np.zeros(size))
