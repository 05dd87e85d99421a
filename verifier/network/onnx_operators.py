"""The table of ONNX operators that are read: one converter for each, and what of it is not."""

from __future__ import annotations

from verifier.network.onnx_curved import CURVED
from verifier.network.onnx_elementwise import ELEMENTWISE
from verifier.network.onnx_linear import LINEAR
from verifier.network.onnx_ml import ML
from verifier.network.onnx_movement import MOVEMENTS
from verifier.network.onnx_quantised import QUANTISED
from verifier.network.onnx_step import Converter

CONVERTERS: dict[str, Converter] = {**CURVED, **ELEMENTWISE, **LINEAR, **ML, **MOVEMENTS, **QUANTISED}
"""The converter of every operator type; ``If`` is read apart."""

SMOOTH = {
    *("Acos", "Acosh", "Asin", "Asinh", "Atanh", "Cosh", "GroupNormalization", "LpNormalization", "LRN"),
    *("MeanVarianceNormalization", "ReduceProd", "Sinh", "Tan"),
}
"""Curved operators of which no bounds are known."""

STEPPING = {"Ceil", "ConvInteger", "DynamicQuantizeLinear", "Floor", "MatMulInteger", "Mod", "Round"}
"""Operators that jump without end, or whose steps depend on the input."""

NOTES = {
    "BatchNormalization": "in its form for inference",
    "Cast": "between types of floats; truth values to numbers; not to integers",
    "CastLike": "as Cast",
    "Conv": "over one to three axes, constant weights",
    "ConvTranspose": "over one to three axes, constant weights",
    "CumSum": "constant axis",
    "Einsum": "of one or two tensors and constants",
    "GlobalLpPool": "p = 1",
    "If": "with a constant condition",
    "LinearClassifier": "of ai.onnx.ml, without its label; no post_transform, SOFTMAX or LOGISTIC",
    "LinearRegressor": "of ai.onnx.ml; no post_transform, SOFTMAX or LOGISTIC",
    "LpPool": "p = 1",
    "MaxPool": "without its second output",
    "Normalizer": "of ai.onnx.ml",
    "Pad": "constant, reflect, edge and wrap",
    "PRelu": "constant slopes",
    "QLinearConv": "constant weights; at most 8 bits, one zero point",
    "QLinearMatMul": "a constant second matrix; at most 8 bits, one zero point",
    "QuantizeLinear": "at most 8 bits, one zero point",
    "Resize": "every mode but tf_crop_and_resize and keeping the aspect ratio",
    "Scaler": "of ai.onnx.ml",
    "Scatter": "constant positions, no reduction",
    "ScatterElements": "constant positions, no reduction",
    "ScatterND": "constant positions, no reduction",
    "Pow": "one constant exponent, or a positive constant base",
    "ZipMap": "of ai.onnx.ml, as the last operator",
}
"""What of an operator is read, where that is not all of it."""


WHAT_IS_READ = "`verifier inspect --operators` lists what is supported"
"""What to do about an operator that is not."""


def operators() -> list[tuple[str, str]]:
    """Every supported operator of ONNX, and what of it."""
    names = {*CONVERTERS, "If", "ZipMap"}
    return [(name, NOTES.get(name, "")) for name in sorted(names)]


def refusal(kind: str) -> tuple[str, str]:
    """Why an operator is not supported, and what to do."""
    listed = WHAT_IS_READ
    if kind in SMOOTH:
        return f"operator {kind!r} is curved, and no bounds of it are known", (
            f"export the part before it, or train with another one; {listed}"
        )
    if kind in ("ArgMax", "ArgMin", "TopK"):
        return f"operator {kind!r} gives positions, which jump", (
            "export the scores before it (onnx.utils.extract_model): properties compare them"
        )
    if kind in STEPPING:
        return (
            f"operator {kind!r} jumps at every whole number",
            f"quantise statically (QuantizeLinear is read), or export the network before quantisation; {listed}",
        )
    import onnx

    if not any(onnx.defs.has(kind, domain) for domain in ("", "ai.onnx.ml")):
        return (
            f"operator {kind!r} is none of ONNX's: the exporter left it as it was, and nothing else runs this file",
            (f"export with other layers (of Keras's gelu: approximate=True); {listed}"),
        )
    return f"operator {kind!r} is not supported", f"{listed}; anything that depends on constants alone is, too"


def foreign(kind: str, domain: str) -> tuple[str, str]:
    """Why an operator of another domain is not supported, and what to do."""
    return f"operator {kind!r} of the domain {domain!r} is not one of ONNX's own", (
        "export with ONNX's own operators, or with a function of the file's own (onnx.FunctionProto) that says it in them"
    )
