"""Torch modules, and what torch's older exporter makes of them (the newer one needs onnxscript)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx


def of_function(function: Callable[[Any], Any]) -> Any:
    """A module that computes a function."""
    from torch import nn

    class Wrapped(nn.Module):
        def forward(self, x: Any) -> Any:
            return function(x)

    return Wrapped()


def _of_class(module: Any) -> Any:
    """A module after a layer, so that it meets numbers of every size."""
    from torch import nn

    return nn.Sequential(nn.Linear(6, 4), module)


def curved_modules() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Torch modules with curved functions, products of tensors and jumps, with the shape of one input."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    names = ("Sigmoid", "Tanh", "GELU", "SiLU", "Mish", "Softplus", "ELU", "CELU", "SELU", "Hardswish", "Softsign")
    names += ("LogSigmoid", "Tanhshrink", "GLU", "Hardshrink")
    found = {name.lower(): (_of_class(getattr(nn, name)()), (6,)) for name in names}
    tokens, image = (3, 4), (4, 3, 3)
    found |= {
        "softmax": (_of_class(nn.Softmax(1)), (6,)), "softmin": (_of_class(nn.Softmin(1)), (6,)), "log softmax": (nn.LogSoftmax(1), (6,)),
        "gelu by tanh": (nn.GELU("tanh"), (6,)), "softplus of another beta": (nn.Softplus(2.0), (6,)), "elu of 2": (nn.ELU(2.0), (6,)), "celu of 0.5": (nn.CELU(0.5), (6,)),
        "layer norm": (nn.LayerNorm(4), tokens), "layer norm of two axes": (nn.LayerNorm(tokens, elementwise_affine=False), tokens), "group norm": (nn.GroupNorm(2, 4), image),
        "instance norm": (nn.InstanceNorm2d(4, affine=True), image), "rms norm": (nn.RMSNorm(4, eps=1e-5), tokens),
        "encoder layer": (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), tokens),
        "masked attention": (of_function(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), tokens),
        "masked attention by hand": (of_function(lambda x: (x @ x.transpose(1, 2)).masked_fill(torch.ones(3, 3).triu(1) > 0, -torch.inf).softmax(-1) @ x), tokens),
        "binarised": (nn.Sequential(nn.Linear(6, 5), of_function(torch.sign), nn.Linear(5, 3)), (6,)),
        "matrix product of two": (of_function(lambda x: x @ x.mT), tokens), "stack of products": (of_function(lambda x: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.5, alpha=2)), tokens),
        "einsum of two": (of_function(lambda x: torch.einsum("bij,bkj->bik", x, x.relu())), tokens), "einsum of heads": (of_function(lambda x: torch.einsum("bhi,bhj,hj->bij", x, x.relu(), torch.ones(3, 4) / 3)), tokens),
        "powers": (of_function(lambda x: x * x + x**3 + x.square() + 2.0**x), (4,)), "quotients": (of_function(lambda x: x / (1 + x.exp()) + 1 / (1 + x.abs())), (4,)),
        "roots": (of_function(lambda x: torch.rsqrt(x.abs() + 1) + torch.sqrt(x.abs() + 1) + torch.reciprocal(x.abs() + 1)), (4,)),
        "logarithms": (of_function(lambda x: torch.log1p(x.abs()) + torch.log2(x.abs() + 1) + torch.log10(x.abs() + 1)), (4,)), "powers of 2 and e": (of_function(lambda x: torch.expm1(x) + torch.exp2(x)), (4,)),
        "periodic": (of_function(lambda x: torch.sin(x) + torch.cos(x) + torch.atan(x) + torch.erf(x)), (4,)), "variance": (of_function(lambda x: x.var(1) + x.std(1) + x.var(1, correction=0)), (4,)),
        "unit length": (of_function(lambda x: F.normalize(x, dim=1) * x.norm(dim=1, keepdim=True)), (4,)), "log of a sum": (of_function(lambda x: x.logsumexp(1)), (4,)),
        "choice by another": (of_function(lambda x: torch.where(x[:, :2] > 0, x[:, 2:], -x[:, 2:])), (4,)), "band": (of_function(lambda x: torch.where((x > -0.5) & ~(x >= 0.5), x, x * 0.5)), (4,)),
        "comparison of two": (of_function(lambda x: (x[:, :2] > x[:, 2:]).float() * 2 - (x[:, :2] != 0).float()), (4,)),
    }  # fmt: skip
    return {f"curved: {name}": entry for name, entry in found.items()}


def modules() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Torch modules by name, with the shape of one input."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def unpacked(x: Any) -> Any:
        a, b, c = torch.split(x, 2, dim=1)
        return torch.relu(a) + b - c

    weight = torch.tensor(np.random.default_rng(0).normal(size=(3, 4, 2)), dtype=torch.float32)
    image = (2, 6, 6)
    return {
        "mlp": (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (6,)),
        "cnn": (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)), image),
        "generator": (nn.Sequential(nn.Linear(5, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(3, 1, 3, 2, 1, output_padding=1)), (5,)),
        "transposed 1d": (nn.ConvTranspose1d(2, 3, 3, 2, dilation=2, groups=1), (2, 5)), "transposed groups": (nn.ConvTranspose2d(2, 4, 3, 2, groups=2), image),
        "conv 3d": (nn.Sequential(nn.Conv3d(1, 2, 3, padding=1, stride=(1, 2, 1)), nn.ReLU(), nn.MaxPool3d(2), nn.AvgPool3d((1, 1, 2))), (1, 4, 5, 6)),
        "upsample": (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 1, 3)), image), "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), image),
        "bilinear corners": (nn.Upsample(size=(9, 7), mode="bilinear", align_corners=True), image),
        "adaptive max": (nn.AdaptiveMaxPool2d(1), image), "adaptive average": (nn.AdaptiveAvgPool2d((3, 2)), image),
        "average ceiling": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), image), "max ceiling": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), image),
        "reflection": (nn.ReflectionPad2d((1, 2, 0, 1)), image), "replication": (nn.ReplicationPad2d(1), image), "circular": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), image),
        "pixel shuffle": (nn.Sequential(nn.Conv2d(2, 4, 1), nn.PixelShuffle(2)), image), "pixel unshuffle": (nn.PixelUnshuffle(2), image),
        "hard sigmoid": (nn.Hardsigmoid(), (6,)), "relu6": (nn.Sequential(nn.Linear(6, 6), nn.ReLU6()), (6,)), "hard tanh": (nn.Hardtanh(-0.5, 0.25), (6,)),
        "soft shrink": (nn.Softshrink(0.25), (6,)), "leaky": (nn.LeakyReLU(0.25), (6,)), "prelu": (nn.PReLU(2), image), "threshold": (nn.Threshold(0.5, 0.5), (6,)),
        "unpacked split": (of_function(unpacked), (6,)), "chunk": (of_function(lambda x: torch.cat(torch.chunk(x, 3, 1)[::-1], 1)), (6,)),
        "where leaky": (of_function(lambda x: torch.where(x > 0, x, 0.25 * x)), (6,)), "amax": (of_function(lambda x: x.amax((2, 3)) - x.amin((2, 3))), image),
        "max of rows": (of_function(lambda x: x.max(2)[0]), image), "mean": (of_function(lambda x: x - x.mean((2, 3), keepdim=True)), image), "l1 norm": (of_function(lambda x: x.abs().sum(1)), (6,)),
        "cumulative sum": (of_function(lambda x: x.cumsum(1)), (6,)), "triangle": (of_function(lambda x: torch.tril(x)), (4, 4)),
        "einsum": (of_function(lambda x: torch.einsum("bhi,hij->bhj", x, weight)), (3, 4)), "stack of matrices": (of_function(lambda x: torch.matmul(x.unsqueeze(2), weight).squeeze(2)), (3, 4)),
        "stack": (of_function(lambda x: torch.stack([x, -x, x.relu()], 1)), (4,)), "flip and roll": (of_function(lambda x: torch.roll(x.flip(1), 2, 1)), (6,)),
        "maximum": (of_function(lambda x: torch.maximum(x, x.flip(1)) + torch.minimum(x, torch.tensor(0.25))), (6,)), "clamp": (of_function(lambda x: x.clamp(min=-0.5) + x.clamp(max=0.25)), (6,)),
        "narrow and select": (of_function(lambda x: x.narrow(2, 1, 3) + x[:, :, 0:1] - x.select(2, 1).unsqueeze(2)), (6, 4)), "strided slice": (of_function(lambda x: x[:, ::2, 1::3]), (6, 6)),
        "repeat": (of_function(lambda x: x.repeat(1, 2).view(-1, 3, 4).transpose(1, 2)), (6,)), "dropout": (nn.Sequential(nn.Dropout(), nn.Linear(6, 2)), (6,)),
        "residual": (of_function(lambda x: F.relu(x + F.conv2d(F.relu(x), torch.ones(2, 2, 3, 3) / 9, padding=1))), image),
        "fully padded": (of_function(lambda x: F.pad(x, (1, 2), value=0.5)), (6,)), "shuffled channels": (nn.ChannelShuffle(2), (4, 3, 3)),
        "local norm of groups": (of_function(lambda x: F.avg_pool2d(x, 3, 1, 1, divisor_override=5)), image),
    }  # fmt: skip


def exported(name: str, opset: int) -> Any:
    """A torch module as torch's older exporter writes it (the newer one needs onnxscript); None where it cannot."""
    import torch

    module, shape = {**modules(), **curved_modules()}[name]
    torch.manual_seed(0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(module.eval(), torch.randn(1, *shape), file, opset_version=opset, dynamo=False)
        except (
            torch.onnx.errors.UnsupportedOperatorError,
            torch.onnx.errors.SymbolicValueError,
            RuntimeError,
            TypeError,
        ):
            return None
    return onnx.load_model_from_string(file.getvalue())
