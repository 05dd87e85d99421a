"""Products of a tensor that depends on the input with constants of any number of axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from string import ascii_letters
from typing import Any

import numpy as np

from verifier.errors import UnsupportedOperatorError
from verifier.lazy import sp
from verifier.network.assembly import Assembler
from verifier.network.compositions import LARGEST_SUM
from verifier.network.convolution import Conv
from verifier.network.operators import Array
from verifier.network.tensors import Value, Weight


def matmul(b: Assembler, value: Value, matrix: Weight, name: str, *, left: bool) -> Value:
    """``matrix @ value`` if ``left``, else ``value @ matrix``.

    By numpy's rules: the last two axes are matrices (one axis alone: a vector), the others broadcast.
    """
    if matrix.ndim == 2 and len(value.shape) >= 2:
        if left:
            return b.matrix_times(matrix, value, name)
        return b.times_matrix(value, matrix.T.tocsr() if sp.issparse(matrix) else matrix.T, None, name)
    if sp.issparse(matrix):
        matrix = matrix.toarray()
    ranks = [len(value.shape), matrix.ndim]
    stack = ascii_letters[: max(0, *(r - 2 for r in ranks))]
    ours, theirs = (stack[len(stack) - max(0, r - 2) :] for r in ranks)
    ends = ("zJ", "Iz") if left else ("Iz", "zJ")
    ours, theirs = ours + (ends[0] if ranks[0] > 1 else "z"), theirs + (ends[1] if ranks[1] > 1 else "z")
    while 1 in matrix.shape[:-2]:  # such an axis meets any number
        axis = matrix.shape.index(1)
        matrix, theirs = matrix.squeeze(axis), theirs[:axis] + theirs[axis + 1 :]
    shape = [
        matrix.shape[theirs.index(c)] if n == 1 and c in theirs[:-2] else n
        for n, c in zip(value.shape, ours, strict=True)
    ]
    value = b.broadcast(value, tuple(shape), f"{name}/stack")
    wanted = "".join(c for c in (*stack, "I", "J") if c in ours + theirs)
    return contraction(b, value, matrix, (ours, theirs, wanted), name)


def matmul_of_two(b: Assembler, first: Value, second: Value, name: str) -> Value:
    """``first @ second`` of two tensors that depend on the input, by numpy's rules.

    Raises:
        UnsupportedOperatorError: it needs more than `LARGEST_SUM` products.
    """
    left = first.shape if len(first.shape) > 1 else (1, *first.shape)
    right = second.shape if len(second.shape) > 1 else (*second.shape, 1)
    stack = np.broadcast_shapes(left[:-2], right[:-2])
    full = (*stack, left[-2], right[-1], left[-1])
    if prod(full) > LARGEST_SUM:
        raise UnsupportedOperatorError(
            f"a product of two tensors of shapes {first.shape} and {second.shape} is too large"
        )
    rows = np.arange(first.size).reshape(left)[..., :, None, :]
    columns = np.arange(second.size).reshape(right).swapaxes(-1, -2)[..., None, :, :]
    factors = [
        b.select(value, np.broadcast_to(index, full), f"{name}/{side}")
        for value, index, side in ((first, rows, "rows"), (second, columns, "columns"))
    ]
    total = b.reduced(
        b.product(factors[0], factors[1], f"{name}/products"), [len(full) - 1], False, f"{name}/sums", kind="sum"
    )
    shape = [*stack, *(left[-2:-1] if len(first.shape) > 1 else ()), *(right[-1:] if len(second.shape) > 1 else ())]
    return Value(total.name, tuple(shape))


def einsum(b: Assembler, equation: str, operands: Sequence[Any], name: str) -> Value:
    """Einstein summation of one or two values and any number of constants.

    Raises:
        UnsupportedOperatorError: more than two values; two that need more than `LARGEST_SUM` products.
    """
    equation = equation.replace(" ", "")
    terms, arrow, result = equation.partition("->")
    letters = terms.split(",")
    values = [k for k, o in enumerate(operands) if isinstance(o, Value)]
    if len(values) > 2:
        raise UnsupportedOperatorError(
            f"einsum of {len(values)} tensors that depend on the network's input is not supported"
        )
    free = [c for c in ascii_letters if c not in equation]
    longest = 0
    for k, term in enumerate(letters):
        if "..." in term:
            missing = len(operands[k].shape) - len(term) + 3
            longest = max(longest, missing)
            letters[k] = term.replace("...", "".join(free[:missing][::-1]))
    dots = "".join(free[:longest][::-1])
    every = "".join(letters)
    if not arrow:
        result = "..." + "".join(sorted(c for c in set(every) - set(dots) if every.count(c) == 1))
    result = result.replace("...", dots)
    if len(values) == 2:
        return _einsum_of_two(b, letters, operands, values, result, name)
    (k,) = values
    constants = [np.asarray(o, dtype=np.float64) for j, o in enumerate(operands) if j != k]
    theirs = [part for j, part in enumerate(letters) if j != k]
    joint = "".join(dict.fromkeys(c for c in "".join(theirs) if c in letters[k] or c in result))
    constant = np.einsum(f"{','.join(theirs)}->{joint}", *constants) if constants else np.ones(())
    return contraction(b, operands[k], constant, (letters[k], joint, result), name)


def _einsum_of_two(
    b: Assembler, letters: list[str], operands: Sequence[Any], values: list[int], result: str, name: str
) -> Value:
    """Einstein summation of two values and constants: all products that it adds up, and their sums."""
    sizes: dict[str, int] = {}
    for term, operand in zip(letters, operands, strict=True):
        for letter, size in zip(term, operand.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    every = [*result, *(c for c in sizes if c not in result)]
    full = tuple(sizes[c] for c in every)
    if prod(full) > LARGEST_SUM:
        raise UnsupportedOperatorError(f"einsum of two tensors that needs {prod(full)} products is too large")

    def placed(k: int, array: Array) -> Array:
        """The entries of an operand by all letters."""
        term = "".join(dict.fromkeys(letters[k]))
        diagonal = np.einsum(f"{letters[k]}->{term}", array)
        kept = [c for c in every if c in term]
        spread = diagonal.transpose([term.index(c) for c in kept])
        return np.broadcast_to(spread.reshape([spread.shape[kept.index(c)] if c in term else 1 for c in every]), full)

    first, second = (b.move(operands[k], lambda index, k=k: placed(k, index), f"{name}/{k}") for k in values)  # type: ignore[misc]
    made = b.product(first, second, f"{name}/products")
    for k in range(len(letters)):
        if k not in values:
            made = b.affine(made, placed(k, np.asarray(operands[k], dtype=np.float64)), 0.0, f"{name}/by {k}")
    if len(every) == len(result):
        return made
    return b.reduced(made, range(len(result), len(every)), False, name, kind="sum")


def contraction(b: Assembler, value: Value, constant: Array, letters: tuple[str, str, str], name: str) -> Value:
    """``einsum("value,constant->result")`` for the letters of the three, none twice in the result.

    Letters that both share and the result keeps make groups, which a convolution of one position multiplies.
    """
    ours, theirs, wanted = letters
    single = "".join(dict.fromkeys(ours))
    if single != ours:
        value = b.move(value, lambda index: np.einsum(f"{ours}->{single}", index), f"{name}/diagonal")
    size = dict(zip(single, value.shape, strict=True)) | dict(zip(theirs, constant.shape, strict=True))
    groups = [c for c in single if c in theirs and c in wanted]
    inner = [c for c in single if c not in wanted]
    free = [c for c in single if c in wanted and c not in theirs]
    new = [c for c in dict.fromkeys(theirs) if c in wanted and c not in single]
    missing = [c for c in inner if c not in theirs]
    have = [c for c in inner if c in theirs]
    matrix = np.einsum(f"{theirs}->{''.join([*groups, *new, *have])}", constant.astype(np.float64))
    spread = matrix.reshape((*matrix.shape, *(1 for _ in missing)))
    spread = np.broadcast_to(spread, (*matrix.shape, *(size[c] for c in missing)))
    n_groups, n_new, n_inner, n_free = (prod(size[c] for c in part) for part in (groups, new, inner, free))
    flat = np.ascontiguousarray(spread).reshape(n_groups, n_new, n_inner)
    axes = [single.index(c) for c in (*groups, *have, *missing, *free)]
    if n_groups == 1:
        axes = axes[len(groups) + len(inner) :] + axes[: len(groups) + len(inner)]
    turned = b.move(value, lambda index: index.transpose(axes), f"{name}/turned")
    if n_groups == 1:
        made = b.times_matrix(Value(turned.name, (n_free, n_inner)), flat[0], None, f"{name}/product")
        held = [*free, *groups, *new]
    else:
        node = b.view(turned, (n_groups * n_inner, 1, n_free), name)
        kernel = flat.reshape(n_groups * n_new, n_inner, 1, 1)
        operator = Conv(kernel, np.zeros(len(kernel)), groups=n_groups)
        made = Value(b.add(operator, node, name=f"{name}/product"), ())
        held = [*groups, *new, *free]
    full = Value(made.name, tuple(size[c] for c in held))
    return b.move(full, lambda index: index.transpose([held.index(c) for c in wanted]), name)
