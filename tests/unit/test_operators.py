"""Every operator: forward and gradient against torch, sparse matrices against the operator itself."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from verifier.bounds import bounds
from verifier.errors import NetworkError
from verifier.network.convolution import Conv
from verifier.network.graph import NetworkBuilder
from verifier.network.operators import AffineOperator, Array, Concat, Dense, Reshape, Scale, Select, Shape, Sum
from verifier.network.piecewise import (
    MaxPool,
    PiecewiseLinear,
    PiecewiseOperator,
    absolute,
    clip,
    leaky_relu,
    relu,
)
from verifier.properties.sets import Box
from verifier.rounding import UNIT_ROUNDOFF

rng = np.random.default_rng(7)


def normal(*shape: int) -> Array:
    return rng.normal(size=shape)


AFFINE: list[tuple[AffineOperator, tuple[Shape, ...]]] = [
    (Dense(normal(4, 6), normal(4)), ((6,),)),
    (Dense(normal(4, 6), normal(4)), ((3, 6),)),
    (Conv(normal(4, 2, 3, 3), normal(4)), ((2, 7, 6),)),
    (Conv(normal(4, 2, 3, 2), normal(4), stride=(2, 1), padding=(1, 0, 2, 1)), ((2, 7, 6),)),
    (Conv(normal(6, 2, 2, 2), normal(6), groups=3, dilation=(2, 1), padding=(1, 1, 1, 1)), ((6, 5, 5),)),
    (Conv(normal(2, 1, 3, 3), normal(2), stride=(3, 3)), ((1, 8, 8),)),
    (Scale(normal(2, 3), normal(2, 3)), ((2, 3),)),
    (Sum((1, -1, 1)), ((2, 3), (2, 3), (2, 3))),
    (Concat(1), ((2, 3, 2), (2, 1, 2))),
    (Reshape((3, 2)), ((6,),)),
    (Select(np.array([[2, -1], [0, 2]]), fill=3.5), ((2, 2),)),
]


@pytest.mark.parametrize(("operator", "shapes"), AFFINE, ids=lambda v: type(v).__name__)
def test_affine_parts_agree(operator: AffineOperator, shapes: tuple[Shape, ...]) -> None:
    output = operator.output_shape(*shapes)
    inputs = [normal(3, *s) for s in shapes]
    value = operator.forward(*inputs)
    assert value.shape == (3, *output)
    matrices = operator.matrices(*shapes)
    flat = sum((m @ x.reshape(3, -1).T).T for m, x in zip(matrices, inputs, strict=True))
    constant = operator.constant()
    constant = np.zeros(output) if constant is None else np.broadcast_to(constant, output)
    assert np.allclose(value.reshape(3, -1), flat + constant.reshape(1, -1), atol=1e-12)
    grad = normal(3, *output)
    parts = operator.transpose(grad, *shapes)
    for part, matrix, shape in zip(parts, matrices, shapes, strict=True):
        assert part.shape == (3, *shape)
        assert np.allclose(part.reshape(3, -1), (matrix.T @ grad.reshape(3, -1).T).T, atol=1e-12)


@dataclass(frozen=True, eq=False)
class CumSum(AffineOperator):
    """An operator with nothing but what the interface asks for."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def linear(self, *inputs: Array) -> Array:
        total: Array = inputs[0].cumsum(axis=-1)
        return total

    def transpose(self, grad: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (grad[..., ::-1].cumsum(axis=-1)[..., ::-1],)


@pytest.mark.parametrize(("operator", "shapes"), [*AFFINE, (CumSum(), ((2, 5),))], ids=lambda v: type(v).__name__)
def test_sizes_and_numbers_of_terms_are_those_of_the_matrices(operator, shapes):
    matrices = operator.matrices(*shapes)
    sizes = operator.absolute().matrices(*shapes)
    raised = operator.absolute(0.5).matrices(*shapes)
    for matrix, size, floored in zip(matrices, sizes, raised, strict=True):
        assert (np.abs(matrix.toarray()) == size.toarray()).all()
        assert (np.where(size.toarray() > 0, np.maximum(size.toarray(), 0.5), 0.0) == floored.toarray()).all()
    rows = sum((m.toarray() != 0).sum(axis=1) for m in matrices)
    assert operator.terms(False, *shapes) >= rows.max()
    assert operator.terms(True, *shapes) >= max((m.toarray() != 0).sum(axis=0).max() for m in matrices)


def test_bounds_of_an_operator_that_no_analysis_names_are_rounded_by_its_length():
    """Interval bounds took every unknown operator for one that adds nothing up, and so lost the rounding of long sums."""
    size = 2000
    builder = NetworkBuilder((size,))
    network = builder.build(builder.add(CumSum()))
    x = np.random.default_rng(0).uniform(0.1, 0.3, size)
    exact = sum(map(Fraction, x.tolist()))
    box = Box(x, x)
    for method in ("interval", "crown"):
        found = bounds(network, box, method)[network.output]
        assert Fraction(float(found.lower[-1])) <= exact <= Fraction(float(found.upper[-1]))
        assert (found.upper - found.lower)[-1] >= size * UNIT_ROUNDOFF * float(exact)


def test_conv_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    for operator, shapes in AFFINE:
        if not isinstance(operator, Conv):
            continue
        channels, height, width = shapes[0]
        x = normal(2, channels, height, width)
        top, left, bottom, right = operator.padding
        padded = torch.nn.functional.pad(torch.tensor(x), (left, right, top, bottom))
        expected = torch.nn.functional.conv2d(
            padded,
            torch.tensor(operator.weight),
            torch.tensor(operator.bias),
            stride=operator.stride,
            dilation=operator.dilation,
            groups=operator.groups,
        )
        assert np.allclose(operator.forward(x), expected.numpy(), atol=1e-12)


def test_large_sparse_dense_layer_is_applied_sparsely_with_the_same_result() -> None:
    weight = np.zeros((1001, 1000))
    weight[rng.integers(0, 1001, 300), rng.integers(0, 1000, 300)] = normal(300)
    operator = Dense(weight, normal(1001))
    assert operator.sparse_weight is not None
    x, grad = normal(4, 1000), normal(4, 1001)
    assert np.allclose(operator.forward(x), x @ weight.T + operator.bias, atol=1e-12)
    assert np.allclose(operator.transpose(grad, (1000,))[0], grad @ weight, atol=1e-12)


def kinked(shape: Shape) -> Array:
    """Values with many exact zeros, ones and ties, where the gradient convention shows."""
    return rng.choice([-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 3.0], size=shape)


PIECEWISE = [
    (relu(), lambda t, x: t.relu(x), (5,)),
    (leaky_relu(0.1), lambda t, x: t.nn.functional.leaky_relu(x, 0.1), (5,)),
    (clip(-1.0, 1.0), lambda t, x: t.nn.functional.hardtanh(x, -1.0, 1.0), (5,)),
    (absolute(), lambda t, x: t.abs(x), (5,)),
    (MaxPool((2, 2), (2, 2)), lambda t, x: t.nn.functional.max_pool2d(x, 2), (2, 4, 6)),
    (
        MaxPool((3, 2), (1, 2), padding=(1, 1, 1, 1)),
        lambda t, x: t.nn.functional.max_pool2d(x, (3, 2), (1, 2), padding=(1, 1)),
        (2, 5, 6),
    ),
]


@pytest.mark.parametrize(("operator", "reference", "shape"), PIECEWISE)
def test_piecewise_equals_torch_at_kinks_too(operator: PiecewiseOperator, reference: object, shape: Shape) -> None:
    torch = pytest.importorskip("torch")
    x = kinked((40, *shape))
    tensor = torch.tensor(x, requires_grad=True)
    expected = reference(torch, tensor)  # type: ignore[operator]
    value = operator.forward(x)
    assert value.shape == (40, *operator.output_shape(shape))
    assert np.array_equal(value, expected.detach().numpy())
    grad = normal(*value.shape)
    expected.backward(torch.tensor(grad))
    assert np.allclose(operator.vjp(grad, x), tensor.grad.numpy(), atol=1e-15)
    pattern = operator.pattern(x)
    assert np.array_equal(operator.on_piece(x, pattern), value)
    far = normal(40, *shape)
    directional = (operator.on_piece_vjp(grad, pattern, shape) * far).sum()
    difference = operator.on_piece(x + far, pattern) - operator.on_piece(x, pattern)
    assert np.allclose(directional, (grad * difference).sum(), atol=1e-9)


def test_a_general_function_has_its_pieces() -> None:
    hat = PiecewiseLinear((0.0, 1.0, 2.0), (0.0, 1.0, -1.0, 0.0), (0.0, 0.0, 2.0, 0.0), (0.0, 0.0, 0.0), "Hat")
    x = np.array([[-1.0, 0.0, 0.25, 1.0, 1.75, 2.0, 5.0]])
    assert hat.forward(x).tolist() == [[0.0, 0.0, 0.25, 1.0, 0.25, 0.0, 0.0]]
    assert hat.pattern(x).tolist() == [[0, 0, 1, 1, 2, 2, 3]]


def test_discontinuous_functions_and_wrong_shapes_are_rejected() -> None:
    with pytest.raises(NetworkError, match="not continuous at 0"):
        PiecewiseLinear((0.0,), (0.0, 1.0), (0.0, 1.0), (0.0,))
    with pytest.raises(NetworkError, match="breakpoints must increase"):
        PiecewiseLinear((1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0))
    with pytest.raises(NetworkError, match="cannot take an input of shape"):
        Dense(normal(4, 6), normal(4)).output_shape((5,))
    with pytest.raises(NetworkError, match="does not fit an image"):
        Conv(normal(1, 1, 5, 5), normal(1)).output_shape((1, 3, 3))
    with pytest.raises(NetworkError, match="low < high"):
        clip(2.0, 1.0)
