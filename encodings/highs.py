"""A model without disjunctions, rendered for HiGHS (`highspy`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from verifier.encodings.model import Model
from verifier.network.operators import Array


def highs_program(model: Model, cost: Array | None = None) -> Any:
    """The model as a `highspy.HighsLp` that minimises ``cost @ v`` (0 by default).

    Shapes: cost ``(variables,)``.
    """
    import highspy

    matrix, row_lower, row_upper, _ = model.system()
    columns = matrix.tocsc()
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = model.size, matrix.shape[0]
    program.col_cost_ = np.zeros(model.size) if cost is None else cost
    program.col_lower_, program.col_upper_ = model.lower, model.upper
    program.row_lower_, program.row_upper_ = row_lower, row_upper
    program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    program.a_matrix_.num_col_, program.a_matrix_.num_row_ = model.size, matrix.shape[0]
    program.a_matrix_.start_ = columns.indptr.astype(np.int32)
    program.a_matrix_.index_ = columns.indices.astype(np.int32)
    program.a_matrix_.value_ = columns.data
    kinds = highspy.HighsVarType
    program.integrality_ = [kinds.kInteger if b else kinds.kContinuous for b in model.binary.tolist()]
    return program
