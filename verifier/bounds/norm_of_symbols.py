"""How large the L1 or L2 norm of ``c + Σ ε_k G_k``, every ε_k in [-1, 1], can get: a bound by a semidefinite relaxation.

The sum of the entries' own bounds takes every ε at its worst for every entry at once; with a hundred symbols that is several
times too much. Here each entry's size is put below a convex function of at most second degree,

- its chord, which is exact where the entry has one sign, or
- ``|v| <= a v² + 1/(4a)``, which is exact at ``|v| = 1/(2a)``,

so that the norm is at most ``const + zᵀ A z`` with ``z = (1, ε)``, convex in ε and therefore largest where all ``z_k² = 1``. There
for every diagonal D it is ``const + Σ D_k + zᵀ (A - D) z <= const + Σ D_k + (p + 1) λ_max(A - D)``. D comes from the mixing
method (Wang, Chang, Kolter, *The Mixing Method: low-rank coordinate descent for semidefinite programming with diagonal
constraints*, 2017), whose Gram matrix of unit vectors also says where the entries are likely to be: the second round takes
``a`` from it.

**Rounding.** What a quadratic function is off by is bounded by γ times the sum of its terms' sizes. The eigenvalue is proved by a
Cholesky factorisation of ``μ I - (A - D)``: where one exists in float64, no eigenvalue is below ``-γ tr`` (Higham, *Accuracy and
Stability of Numerical Algorithms*, Theorem 10.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.network.operators import Array
from verifier.rounding import SPACING, gamma

SWEEPS = (6, 12)
"""Of the mixing method, in the first and the second round."""


@dataclass(frozen=True, eq=False)
class NormBound:
    """What is known of the norm.

    Attributes:
        above: it is at most this.
        shares: ``(p,)`` what each symbol contributes to the bound, about.
        signs: ``(p,)`` ±1: symbols for which the norm is large.
    """

    above: float
    shares: Array
    signs: Array


def norm_of_symbols(terms: Array, error: Array, norm: str) -> NormBound:
    """At least the largest norm of ``terms[0] + Σ ε_k terms[k] ± error``.

    Args:
        terms: ``(1 + p, n)``.
        error: ``(n,)``.
        norm: "l1" or "l2".
    """
    count, n = terms.shape
    slack = gamma(n + count + 32)
    if not (np.isfinite(terms).all() and np.isfinite(error).all()):
        return NormBound(np.inf, np.zeros(count - 1), np.ones(count - 1))
    off = float(error.sum() if norm == "l1" else np.sqrt((error**2).sum())) * (1 + 2 * slack) + 1e-250
    c, symbols = terms[0], terms[1:]
    spread = np.abs(symbols).sum(axis=0) * (1 + slack)
    size = np.abs(c) + spread
    plain = float(size.sum() if norm == "l1" else np.sqrt((size**2).sum())) * (1 + 2 * slack)
    if count == 1:
        return NormBound(plain + off, np.zeros(0), np.ones(0))
    vectors = _start(count)
    above, shares = plain, np.abs(symbols).sum(axis=1)
    for sweeps in SWEEPS:
        slope, square, constants = _majorants(c, symbols, spread, vectors, norm)
        form = np.zeros((count, count))
        form[1:, 1:] = (symbols * square) @ symbols.T
        form[0, 1:] = form[1:, 0] = symbols @ (slope / 2 + square * c)
        constant = float((constants + slope * c + square * c**2).sum())
        constant += 4 * slack * float((np.abs(constants) + np.abs(slope) * size + square * size**2).sum())
        vectors, diagonal = _mixed(form, vectors, sweeps)
        found = constant + _largest_form(form, diagonal)
        if norm == "l2":
            found = float(np.sqrt(max(found, 0.0))) * (1 + 2 * SPACING)
        if found < above:
            above, shares = found, diagonal[1:]
        if norm == "l2":  # nothing to choose a second time
            break
    return NormBound(above + off, np.maximum(shares, 0.0), np.where(vectors[1:] @ vectors[0] < 0, -1.0, 1.0))


def _majorants(c: Array, symbols: Array, spread: Array, vectors: Array, norm: str) -> tuple[Array, Array, Array]:
    """For every entry ``(slope, square, constant)`` with ``|v| <= constant + slope v + square v²`` (of L2: its square)."""
    if norm == "l2":
        return np.zeros_like(c), np.ones_like(c), np.zeros_like(c)
    low, high = np.nextafter(c - spread, -np.inf), np.nextafter(c + spread, np.inf)
    width = np.where(high > low, high - low, 1.0)
    slope = np.where(low >= 0, 1.0, np.where(high <= 0, -1.0, np.clip((high + low) / width, -1.0, 1.0)))
    # |v| - slope v is convex: the larger end counts, whatever the slope
    ends = np.maximum(np.abs(low) - slope * low, np.abs(high) - slope * high)
    chord = np.maximum(ends, 0.0) + 8 * SPACING * (np.abs(low) + np.abs(high))
    mean = c + (vectors[1:] @ vectors[0]) @ symbols
    likely = np.sqrt((((vectors.T[:, :1] * c) + vectors[1:].T @ symbols) ** 2).sum(axis=0))  # root mean square
    square = 0.5 / np.maximum(likely, 1e-9 * (np.abs(c) + spread).max(initial=1e-200))
    curved = likely < chord + slope * mean
    zeros = np.zeros_like(c)
    constants = np.where(curved, 0.25 / square * (1 + 4 * SPACING), chord)
    return np.where(curved, zeros, slope), np.where(curved, square, zeros), constants


def _start(count: int) -> Array:
    """Unit vectors as rows; the first one is what the others' signs are measured by."""
    rank = int(np.ceil(np.sqrt(2 * count))) + 1
    vectors = np.random.default_rng(count).normal(size=(count, rank))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _mixed(form: Array, vectors: Array, sweeps: int) -> tuple[Array, Array]:
    """Unit vectors that make ``Σ A_kl v_k · v_l`` large, and the diagonal of multipliers that belongs to them."""
    off, vectors = form - np.diag(np.diag(form)), vectors.copy()
    for _ in range(sweeps):
        for k in range(len(form)):
            pull = off[k] @ vectors
            length = float(np.sqrt(pull @ pull))
            if length > 0:
                vectors[k] = pull / length
    return vectors, np.diag(form) + np.linalg.norm(off @ vectors, axis=1)


def _largest_form(form: Array, diagonal: Array) -> float:
    """At least ``zᵀ A z`` for every z of signs; see the module. Rounding included."""
    count = len(form)
    rest = form - np.diag(diagonal)
    plain = float(np.abs(form).sum()) * (1 + gamma(count * count))
    scale = float(np.abs(np.diag(rest)).max() + np.abs(rest).sum(axis=1).max())
    try:
        top = float(np.linalg.eigvalsh(rest)[-1]) + 1e-12 * scale
        np.linalg.cholesky(top * np.eye(count) - rest)
    except np.linalg.LinAlgError:
        return plain
    trace = float(np.abs(top - np.diag(rest)).sum())
    above = top + 2 * gamma(count + 8) * trace + 8 * SPACING * (scale + abs(top))
    total = float(diagonal.sum()) + 2 * gamma(count) * float(np.abs(diagonal).sum())
    return min(plain, total + count * above + 8 * SPACING * (abs(total) + count * abs(above)))
