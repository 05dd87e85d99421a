"""``verifier inspect MODEL``: layers, shapes, neurons, and which engines can take the network."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result
    from verifier.network.graph import Network, Node


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import add_json, add_model

    parser = subparsers.add_parser(
        "inspect",
        description="Show the layers, shapes and neurons of a network as it is analysed (its operators rewritten "
        "into the small set of piecewise-linear ones), and which engines can take it.",
        epilog="exit status: 0; 2 if the model cannot be read",
    )
    add_model(parser, nargs="?")
    parser.add_argument("--operators", action="store_true", help="list the operators of ONNX and torch that are read")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    from verifier.commands.inputs import load_model
    from verifier.commands.result import Result
    from verifier.errors import InputError

    if args.operators:
        return Result(text=operators_in_words(), found={"operators": operators_in_words().splitlines()})
    if args.model is None:
        raise InputError("no model is named", fix="verifier inspect MODEL, or verifier inspect --operators")
    network = load_model(args, ordered=True)
    layers, engines, notes = [layer(network, node) for node in network], engine_table(network), notes_on(network)
    record = {
        "weights": sum(row["weights"] for row in layers),
        "layers": layers,
        "engines": engines,
        "notes": notes,
    }
    return Result(text=in_words(network, layers, engines, notes, str(args.model)), found=record, network=network)


def operators_in_words() -> str:
    """The operators that are read, as a list in Markdown; docs/formats.md holds the same text."""
    from verifier.network.onnx_model import OLDEST_OPSET
    from verifier.network.onnx_operators import operators
    from verifier.network.torch_operators import supported

    lines = [f"ONNX operators (opset {OLDEST_OPSET} and newer), and whatever depends on constants alone:", ""]
    lines += [f"- {name}{': ' + note if note else ''}" for name, note in operators()]
    lines += ["", "Operations of torch, as torch.export names them:", "", ", ".join(supported())]
    return "\n".join(lines)


def layer(network: Network, node: Node) -> dict[str, Any]:
    """One node: name, operator with its detail, shape, inputs, neurons, weights (non-zeros of a sparse one)."""
    from verifier.network.convolution import Conv
    from verifier.network.operators import AffineOperator, Dense
    from verifier.network.piecewise import MaxPool, PiecewiseLinear, PiecewiseOperator

    operator, detail, weights = node.operator, "", 0
    label = operator.label if isinstance(operator, PiecewiseLinear) else type(operator).__name__
    if isinstance(operator, Dense):
        detail = f"{operator.weight_shape[1]} → {operator.weight_shape[0]}"
        sparse = operator.sparse_weight
        weights = operator.bias.size + (operator.weight.size if sparse is None else sparse.nnz)
        detail += "" if sparse is None else f", sparse: {sparse.nnz:,} non-zeros"
    elif isinstance(operator, AffineOperator) and operator.coefficients is not None:
        weights = getattr(operator, operator.coefficients).size
        constant = operator.constant()
        weights += 0 if constant is None else constant.size
    if isinstance(operator, Conv):
        out, channels, height, width = operator.weight.shape
        detail = f"{channels * operator.groups} → {out} channels, kernel {height}×{width}, stride {operator.stride}"
        detail += f", {operator.groups} groups" if operator.groups > 1 else ""
    if isinstance(operator, MaxPool):
        detail = f"kernel {operator.kernel[0]}×{operator.kernel[1]}, stride {operator.stride}"
    if label in ("LeakyRelu", "Clip"):
        detail = f"slope {operator.slopes[0]:g}" if label == "LeakyRelu" else f"ends {operator.breaks}"  # type: ignore[attr-defined]
    return {
        "name": node.name,
        "operator": label,
        "detail": detail,
        "shape": list(node.shape),
        "inputs": list(node.inputs),
        "neurons": node.size if isinstance(operator, PiecewiseOperator) else 0,
        "weights": int(weights),
    }


def engine_table(network: Network) -> list[dict[str, Any]]:
    """For each engine: ``{engine, installed, takes, detail, gradient}``."""
    from verifier.engines import registry
    from verifier.errors import EngineError

    rows = []
    for name in registry.names():
        try:
            engine = registry.get(name)
        except EngineError as error:
            detail = str(error)
            rows.append({"engine": name, "installed": False, "takes": False, "detail": detail, "gradient": False})
            continue
        availability, problem = engine.availability(), engine.rejects(network)
        limit = engine.capabilities.max_neurons
        detail = f"cannot take {problem}" if problem else availability.detail
        if not problem and limit is not None and network.neurons > limit:
            detail += f"; hopeless above {limit} neurons"
        rows.append(
            {
                "engine": name,
                "installed": availability.installed,
                "takes": not problem,
                "detail": detail,
                "gradient": "gradient" in engine.capabilities.features,
            }
        )
    return rows


def notes_on(network: Network) -> list[str]:
    """What else there is to say of a network: how it was read, its input ranges, whether onnxruntime agrees."""
    from verifier.errors import NetworkError

    notes = list(network.remarks)
    if network.domain is not None:
        ends = [f"[{low:g}, {high:g}]" for low, high in zip(*network.domain, strict=True)]
        more = f" and {len(ends) - 8} more" if len(ends) > 8 else ""
        notes.append(f"the file's input ranges, the default box: {', '.join(ends[:8])}{more}")
    if network.model_file:
        from verifier.network.agreement import agreement
        from verifier.network.runtime import RuntimeModel

        try:
            found = agreement(network, RuntimeModel(network, fused=False))
        except (NetworkError, ImportError) as error:
            notes.append(f"not compared with onnxruntime: {error}")
        else:
            word = "agrees with" if found.close else "DIFFERS FROM"
            notes.append(f"{word} onnxruntime up to {found.gap:.1e} (relative) at {found.inputs} random inputs")
    return notes


def in_words(
    network: Network, layers: list[dict[str, Any]], engines: list[dict[str, Any]], notes: list[str], model: str
) -> str:
    """The findings for people."""
    from verifier.report.tables import text_table

    total = sum(row["weights"] for row in layers)
    lines = [
        f"{model}",
        f"input {network.input_shape}, output {network.output_shape}, "
        f"{network.neurons:,} piecewise-linear neurons, {total:,} weights",
        "",
    ]
    cells = []
    for k, row in enumerate(layers):
        source = "" if k and row["inputs"] == [layers[k - 1]["name"]] else ", ".join(row["inputs"])
        neurons = f"{row['neurons']:,}" if row["neurons"] else ""
        shape = "×".join(map(str, row["shape"])) or "scalar"
        cells.append((row["name"], row["operator"], shape, neurons, source, row["detail"]))
    lines.append(text_table(("layer", "operator", "shape", "neurons", "from", ""), cells, numbers=(3,)))
    lines += ["", *notes] if notes else []
    rows = []
    for row in engines:
        word = "takes it" if row["takes"] and row["installed"] else "cannot" if row["installed"] else "not installed"
        speaks = "values and gradients" if row["gradient"] else "values only"
        rows.append((row["engine"], word, speaks, row["detail"]))
    lines += ["", text_table(("engine", "", "speaks of", ""), rows)]
    return "\n".join(lines)
