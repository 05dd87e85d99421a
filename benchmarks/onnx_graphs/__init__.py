"""ONNX graphs of every operator that is read, in the form that each opset has for it, and torch modules as exported.

`GRAPHS` maps a name to a `Graph`: what writes it into a `Builder`, and the opsets that it exists in. The tests load each
and compare it with onnxruntime; `onnx_agreement.py` does so for all opsets.
"""

from __future__ import annotations

from onnx_graphs.builder import OPSETS, Builder, Graph
from onnx_graphs.curved import curved, jumping
from onnx_graphs.elementwise import elementwise, machine_learning, spelled_out, two_paths
from onnx_graphs.linear import matrices, over_axes, quantised, resizes, windows
from onnx_graphs.movement import movements, structures
from onnx_graphs.torch_modules import curved_modules, exported, modules

GRAPHS: dict[str, Graph] = {}
for _part in (
    elementwise,
    machine_learning,
    spelled_out,
    two_paths,
    matrices,
    windows,
    resizes,
    over_axes,
    quantised,
    movements,
    structures,
):
    GRAPHS.update(_part())
SINGLE = ("curved: gelu by tanh", "jumps: hard shrink")
GRAPHS.update(
    {
        name: Graph(write, first, rough=1e-6 if name in SINGLE else 0.0)
        for name, (write, first) in {**curved(), **jumping()}.items()
    }
)

MET: dict[str, tuple[str, ...]] = {
    "ReduceMax: amax, max(dim), AdaptiveMaxPool2d(1)": ("ReduceMax", "ReduceMax flat", "module: amax", "module: max of rows", "module: adaptive max"),
    "ReduceMin, ReduceL1, Mean": ("ReduceMin", "ReduceL1", "mean", "mean of two", "module: l1 norm"),
    "ConvTranspose": ("transposed", "transposed odd", "transposed groups", "transposed 3d", "module: generator"),
    "Upsample, Resize": ("upsample nearest", "upsample linear", "resize cubic", "resize nearest as tf2onnx writes it", "module: bilinear"),
    "CumSum, Trilu": ("cumulative sum", "cumulative sum reverse", "triangle", "lower triangle"),
    "LpPool": ("sum of magnitudes in windows", "global sum of magnitudes"),
    "MatMul of stacks, Einsum with constants": ("matmul stack", "matmul two stacks", "einsum heads", "module: curved: einsum of heads"),
    "If with a constant condition, local functions": ("if", "local function"),
    "ThresholdedRelu, Softshrink, Sign": ("thresholded relu at 0", "jumps: thresholded relu", "soft shrink", "module: soft shrink", "jumps: binarised"),
    "Scaler, LinearClassifier, Normalizer of ai.onnx.ml": ("scaler", "linear classifier", "linear regressor", "curved: rows over their L2 norm"),
    "Where and comparisons: a leaky ReLU spelled out": ("leaky by where", "leaky by where, not", "module: where leaky", "jumps: choice"),
    "Where with a constant condition": ("where constant",),
    "classifiers with a label, in channels-last layout": ("classifier", "channels last"),
    "LayerNormalization, InstanceNormalization": ("curved: layer norm", "curved: instance norm", "module: curved: group norm"),
    "Elu, Gelu, HardSwish, SiLU, Mish, Softplus": ("curved: elu", "curved: gelu", "curved: hard swish", "curved: silu spelled out", "curved: mish", "curved: softplus"),
    "Softmax, Sigmoid, Tanh, Exp": ("curved: softmax", "curved: sigmoid", "curved: tanh", "curved: exp"),
    "Pow, products and quotients of tensors, Sin, Cos": ("curved: cube", "curved: product", "curved: quotient", "curved: sin", "curved: cos"),
    "attention": ("curved: attention", "module: curved: encoder layer", "module: curved: masked attention"),
    "Conv3d, grouped and depthwise convolutions": ("conv 3d", "conv 3d groups", "conv depthwise", "module: conv 3d"),
    "Cast to float16": ("cast to half",),
    "QuantizeLinear, DequantizeLinear, QLinearConv, QLinearMatMul": ("dequantised channels", "jumps: quantised layers", "jumps: quantised convolution", "jumps: quantised matrix"),
    "MaxPool whose second output is unused, ceil_mode, dilation, padding": ("max pool positions unused", "max pool ceiling", "max pool dilated", "max pool same"),
    "static batches of two": ("dense batch of two", "conv batch of two", "max pool batch"),
    "Hardsigmoid, ReflectionPad2d, PixelShuffle, unpacking of torch.split": ("module: hard sigmoid", "module: reflection", "module: pixel shuffle", "module: unpacked split"),
    "Split, Slice, Gather, Pad": ("split", "slice", "gather", "pad reflect", "pad wrap"),
}  # fmt: skip
"""What files and modules hold that people have, and what of the corpus stands for it."""

__all__ = ["GRAPHS", "MET", "OPSETS", "Builder", "Graph", "curved_modules", "exported", "modules"]
