"""`load`: a network from whatever holds one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.arguments import checked
from verifier.errors import InputError, NetworkError
from verifier.network.graph import Network
from verifier.network.operators import Shape
from verifier.network.sklearn_reader import is_sklearn, read_sklearn

if TYPE_CHECKING:
    import torch


@checked
def load(
    source: str | Path | Network | torch.nn.Module | Any,
    input_shape: Shape | None = None,
    *,
    check: bool = False,
    ordered: bool = False,
    outputs: Sequence[str] | None = None,
) -> Network:
    """The network held by a file, a torch module, or an ONNX model in memory.

    Args:
        source: a path to ``.onnx``, ``.onnx.gz`` or ``.nnet``; a ``torch.nn.Module``; an
            ``onnx.ModelProto``; scikit-learn's ``MLPClassifier`` or ``MLPRegressor``, alone or after scalers in a
            ``Pipeline``; or a `Network`, which is returned as it is.
        input_shape: for a torch module the shape of one input without the batch, e.g. ``(1, 28, 28)``; for
            an ONNX model whose input shape is open, the full shape with the batch, e.g. ``(1, 1, 28, 28)``.
        check: whether an ONNX file's network is evaluated beside onnxruntime at random inputs (a torch module's is
            always evaluated beside the module).
        ordered: whether a last Softmax, LogSoftmax, Sigmoid, Tanh or Exp of an ONNX model may be left out, so
            that outputs are the scores before it (`Network.tail`): for properties that compare outputs (`robustness`,
            `read_vnnlib`, which refuses others). Not for gradients, lines, maps or repairs of the outputs themselves.

        outputs: of an ONNX model, names of the tensors (or nodes) that are to be the network's outputs, inner ones too;
            None: its own, a classifier's label left out.

    Raises:
        NetworkError: a file that is missing, damaged or not a network; NaN weights; shapes that do not fit; a network
            that differs from its model.
        UnsupportedOperatorError: an operator outside the piecewise-linear set, by node and type.
        InputError: a source of another kind, or a torch module without ``input_shape``.

    Source:
        which operators are read, and with what meaning: `docs/formats.md`.

    Example:
        >>> import numpy as np, pathlib, tempfile, verifier
        >>> path = pathlib.Path(tempfile.mkdtemp(), "network.onnx")
        >>> verifier.write_onnx(verifier.feedforward([np.eye(3), np.ones((2, 3))], [np.zeros(3), np.zeros(2)]), path)
        >>> network = verifier.load(path, check=True)
        >>> network.input_shape, network.output_shape, network.neurons
        ((3,), (2,), 3)
    """
    if isinstance(source, Network):
        return source
    if isinstance(source, (str, Path)):
        network = _load_file(Path(source), input_shape, ordered, outputs)
        if check and network.model_file:
            from verifier.network.agreement import check_against_runtime

            check_against_runtime(network)
        return network
    kinds = {f"{c.__module__}.{c.__qualname__}" for c in type(source).__mro__}
    if "torch.nn.modules.module.Module" in kinds:
        from verifier.network.torch_reader import read_torch

        if input_shape is None:
            raise InputError(
                "a torch module does not say the shape of its input", fix="pass input_shape=(...) without the batch"
            )
        return read_torch(source, input_shape)
    if is_sklearn(source):
        return read_sklearn(source, ordered)
    if type(source).__name__ == "ModelProto":
        from verifier.network.onnx_reader import network_of_model

        return network_of_model(source, "", input_shape, ordered=ordered, outputs=outputs)
    raise InputError(
        f"cannot load a network from {type(source).__name__}",
        fix="pass a path to .onnx, .onnx.gz or .nnet, a torch.nn.Module, scikit-learn's MLPClassifier, or a Network",
    )


def _load_file(path: Path, input_shape: Shape | None, ordered: bool, outputs: Sequence[str] | None) -> Network:
    name = path.name.lower()
    if path.is_dir():
        raise NetworkError("is a folder, and a model's file is expected", place=str(path), fix=_models_in(path))
    if name.endswith((".onnx", ".onnx.gz")):
        from verifier.network.onnx_reader import read_onnx

        return read_onnx(path, input_shape, ordered=ordered, outputs=outputs)
    if name.endswith((".nnet", ".nnet.gz")):
        from verifier.network.nnet import read_nnet

        return read_nnet(path)
    raise NetworkError(
        "cannot tell what kind of network file this is",
        place=str(path),
        fix="supported: .onnx, .onnx.gz, .nnet; a torch file holds no graph: load(module, input_shape=...)",
    )


def _models_in(folder: Path, most: int = 5) -> str:
    """Which models a folder holds, for whoever named the folder."""
    endings = (".onnx", ".onnx.gz", ".nnet", ".nnet.gz")
    found = sorted(file.name for file in folder.iterdir() if file.name.lower().endswith(endings))
    if not found:
        return "there is no .onnx or .nnet file in it"
    return f"name one of its files: {', '.join(found[:most])}" + f" and {len(found) - most} more" * (len(found) > most)
