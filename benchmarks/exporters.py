"""Models as today's exporters write them, beside onnxruntime.

PyTorch's newer exporter (with onnxscript), Keras and tf2onnx, skl2onnx, and the graphs of `onnx_graphs/` after onnxsim and onnxslim.
None of them is needed by this package, and some do not go with each other: ``python benchmarks/exporters.py write KIND FOLDER``
writes the models of one kind (`KINDS`) wherever that exporter is installed, and
``python benchmarks/exporters.py compare FOLDER`` loads all of them and writes benchmarks/results/exporters.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Made = Iterator[tuple[str, Callable[[], Any]]]
"""Names of models, and what gives each as a ``ModelProto``."""


def torch_dynamo() -> Made:
    """PyTorch modules by ``torch.onnx.export(…, dynamo=True)``; every third leaves the batch open."""
    import torch
    from onnx_graphs import curved_modules, modules

    def export(module: Any, shape: tuple[int, ...], opset: int, dynamic: bool) -> Any:
        torch.manual_seed(0)
        shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
        x = torch.randn(2 if dynamic else 1, *shape)
        return torch.onnx.export(
            module.eval(), (x,), opset_version=opset, dynamo=True, verbose=False, dynamic_shapes=shapes
        ).model_proto

    for k, (name, (module, shape)) in enumerate({**modules(), **curved_modules()}.items()):
        opset, dynamic = (18, 20, 22)[k % 3], k % 3 == 0
        yield (
            f"{name}, opset {opset}{', open batch' if dynamic else ''}",
            lambda m=module, s=shape, o=opset, d=dynamic: export(m, s, o, d),
        )


def _keras_layers() -> dict[str, tuple[list[Any], tuple[int, ...]]]:
    from keras import layers as k

    image, row = (8, 6, 3), (6,)
    activations = (
        "relu",
        "tanh",
        "sigmoid",
        "softmax",
        "elu",
        "selu",
        "gelu",
        "silu",
        "softplus",
        "softsign",
        "hard_sigmoid",
        "hard_silu",
        "relu6",
        "leaky_relu",
        "mish",
    )
    return {
        **{f"dense {a}": ([k.Dense(5, activation=a), k.Dense(3)], row) for a in activations},
        "classifier": ([k.Conv2D(4, 3, activation="relu"), k.MaxPooling2D(2), k.Flatten(), k.Dense(5, activation="softmax")], image),
        "same padding": ([k.Conv2D(4, 3, strides=2, padding="same"), k.BatchNormalization(), k.ReLU(), k.Conv2D(2, 4, padding="same")], image),
        "valid and dilated": ([k.Conv2D(4, 2, dilation_rate=2), k.LeakyReLU(), k.AveragePooling2D(2, strides=1, padding="same")], image),
        "depthwise": ([k.DepthwiseConv2D(3), k.ReLU(6.0), k.SeparableConv2D(4, 3, padding="same")], image),
        "grouped": ([k.Conv2D(6, 3, groups=3), k.PReLU(shared_axes=[1, 2])], image),
        "generator": ([k.Dense(24), k.Reshape((2, 3, 4)), k.Conv2DTranspose(3, 4, strides=2, padding="same"), k.ReLU(), k.UpSampling2D(2), k.Conv2DTranspose(1, 3)], row),
        "bilinear": ([k.UpSampling2D(2, interpolation="bilinear"), k.Conv2D(1, 3)], image),
        "global pools": ([k.Conv2D(4, 3), k.GlobalMaxPooling2D(), k.Dense(3)], image), "global average": ([k.Conv2D(4, 3), k.GlobalAveragePooling2D()], image),
        "padding and cropping": ([k.ZeroPadding2D((1, 2)), k.Conv2D(2, 3), k.Cropping2D((1, 1))], image),
        "one axis": ([k.Conv1D(4, 3, padding="causal"), k.ReLU(), k.MaxPooling1D(2), k.Flatten()], (7, 2)),
        "three axes": ([k.Conv3D(3, 2), k.ReLU(), k.AveragePooling3D((1, 2, 1)), k.Flatten()], (3, 4, 5, 2)),
        "rescaled": ([k.Rescaling(1 / 255.0, offset=-0.5), k.Permute((3, 1, 2)), k.Flatten(), k.Dropout(0.5), k.Dense(3)], image),
        "threshold": ([k.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.5)], row), "layer normalisation": ([k.LayerNormalization(), k.Dense(3)], row),
        "group normalisation": ([k.GroupNormalization(3), k.Conv2D(2, 1)], (4, 4, 6)),
    }  # fmt: skip


def keras() -> Made:
    """Keras's own ``model.export(…, format="onnx")``: Sequential models channels-last, and functional ones."""
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import onnx
    from keras import Input, Model, Sequential, layers, utils

    def written(build: Callable[[], Any]) -> Any:
        utils.set_random_seed(0)
        model = build()
        model(
            [np.zeros((1, *i.shape[1:]), np.float32) for i in model.inputs]
            if len(model.inputs) > 1
            else np.zeros((1, *model.inputs[0].shape[1:]), np.float32)
        )
        path = Path("/tmp") / f"keras-{os.getpid()}.onnx"
        model.export(str(path), format="onnx", verbose=False)
        made = onnx.load(path)
        path.unlink()
        return made

    for name, (stack, shape) in _keras_layers().items():
        yield name, lambda s=stack, i=shape: written(lambda: Sequential([Input(i), *s]))

    def residual() -> Any:
        x = Input((8, 8, 3))
        y = layers.Conv2D(3, 3, padding="same", activation="relu")(x)
        y = layers.Add()([x, layers.Conv2D(3, 3, padding="same")(y)])
        return Model(x, layers.Dense(4)(layers.Flatten()(layers.ReLU()(layers.BatchNormalization()(y)))))

    def two_inputs() -> Any:
        image, mask = Input((4, 4, 2), name="image"), Input((5,), name="mask")
        y = layers.Concatenate()([layers.Flatten()(layers.Conv2D(2, 3)(image)), mask])
        y = layers.Dense(6, activation="relu")(y)
        return Model([image, mask], [layers.Dense(3, name="scores")(y), layers.Dense(1, name="value")(y)])

    def attention() -> Any:
        x = Input((3, 4))
        return Model(x, layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 2)(x, x)])))

    def merged() -> Any:
        x = Input((6,))
        a, b = layers.Dense(4)(x), layers.Dense(4)(x)
        parts = [
            layers.Maximum()([a, b]),
            layers.Minimum()([a, b]),
            layers.Subtract()([a, b]),
            layers.Multiply()([a, b]),
        ]
        return Model(x, layers.Concatenate()([*parts, layers.Average()([a, b]), layers.Dot(1)([a, b])]))

    for name, build in (
        ("residual", residual),
        ("two inputs and outputs", two_inputs),
        ("attention", attention),
        ("merged", merged),
    ):
        yield name, lambda b=build: written(b)


def tf2onnx() -> Made:
    """TensorFlow functions by ``tf2onnx.convert.from_function``, in opset 13 and 18."""
    import tensorflow as tf
    from tf2onnx import convert

    rng = np.random.default_rng(0)
    w = [rng.normal(size=s).astype(np.float32) for s in ((6, 4), (3, 3, 2, 4), (4, 3), (3, 3, 2, 1))]
    image, row = (1, 6, 6, 2), (1, 6)
    functions: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
        "matrix": (lambda x: tf.nn.relu(x @ w[0]) @ w[2], row), "clipped": (lambda x: tf.clip_by_value(x @ w[0], -0.5, 0.5), row),
        "convolution": (lambda x: tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, w[1], 1, "SAME")), 2, 2, "VALID"), image),
        "depthwise": (lambda x: tf.nn.depthwise_conv2d(x, w[3], [1, 1, 1, 1], "SAME"), image),
        "flattened": (lambda x: tf.reshape(tf.nn.conv2d(x, w[1], 2, "SAME"), (tf.shape(x)[0], -1)) , image),
        "shape arithmetic": (lambda x: tf.reshape(x, (-1, tf.shape(x)[1] * tf.shape(x)[2], 2))[:, ::2], image),
        "choice": (lambda x: tf.where(x > 0.0, x, 0.25 * x), row), "largest": (lambda x: tf.reduce_max(x, 1) - tf.reduce_min(x, 1), row),
        "resized": (lambda x: tf.image.resize(x, (9, 12)), image), "nearest": (lambda x: tf.image.resize(x, (12, 12), "nearest"), image),
        "mirrored": (lambda x: tf.pad(x, [[0, 0], [1, 2], [1, 1], [0, 0]], "REFLECT"), image), "parts": (lambda x: tf.concat(tf.split(x, 3, 1)[::-1], 1), row),
        "gathered": (lambda x: tf.gather(x, [4, 0, 2], axis=1) + tf.transpose(tf.stack([x[0, :3]]), (0, 1)), row), "one hot by sign": (lambda x: tf.sign(x) @ w[0], row),
        "einsum": (lambda x: tf.einsum("bi,ij->bj", x, w[0]), row), "softmax": (lambda x: tf.nn.softmax(x @ w[0]), row), "gelu": (lambda x: tf.nn.gelu(x), row),
        "swish": (lambda x: x * tf.sigmoid(x), row), "space to depth": (lambda x: tf.nn.space_to_depth(x, 2), image), "depth to space": (lambda x: tf.nn.depth_to_space(tf.nn.conv2d(x, w[1], 1, "SAME"), 2), image),
        "batch normalisation": (lambda x: tf.nn.batch_normalization(x, *(np.float32(v) for v in ([0.1, 0.2], [1.0, 2.0], [0.0, 1.0], [1.0, 0.5])), 1e-3), image), "cumulative": (lambda x: tf.cumsum(x, 1, exclusive=True), row),
        "maxima of two": (lambda x: tf.maximum(x @ w[0], tf.abs(x[:, :4])), row), "transposed": (lambda x: tf.nn.conv2d_transpose(tf.nn.conv2d(x, w[1], 1, "SAME"), w[1], (1, 12, 12, 2), 2, "SAME"), image),
    }  # fmt: skip

    def export(function: Callable[[Any], Any], shape: tuple[int, ...], opset: int) -> Any:
        signature = [tf.TensorSpec((None, *shape[1:]), tf.float32, name="x")]
        return convert.from_function(tf.function(function), signature, opset=opset)[0]

    for name, (function, shape) in functions.items():
        for opset in (13, 18):
            yield f"{name}, opset {opset}", lambda f=function, s=shape, o=opset: export(f, s, o)


def sklearn() -> Made:
    """scikit-learn's models by ``skl2onnx.to_onnx``, alone and in pipelines, with and without ZipMap."""
    from skl2onnx import to_onnx
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler
    from sklearn.svm import LinearSVC, LinearSVR

    x, three = make_classification(200, 6, n_informative=4, n_classes=3, random_state=0)
    x, two = x.astype(np.float32), (three == 0).astype(int)
    models: dict[str, tuple[Any, Any]] = {
        **{f"mlp {a}, {n} classes": (MLPClassifier((8, 5), activation=a, max_iter=20, random_state=0), t) for a in ("relu", "tanh", "logistic", "identity") for n, t in (("two", two), ("three", three))},
        "mlp regressor": (MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0), x[:, 0] * x[:, 1]), "mlp regressor of two": (MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0), x[:, :2]),
        "text labels": (MLPClassifier((5,), max_iter=20, random_state=0), np.array(["a", "b", "c"])[three]),
        **{f"{type(s).__name__} and mlp": (make_pipeline(s, MLPClassifier((5,), max_iter=20, random_state=0)), three) for s in (StandardScaler(), MinMaxScaler(), MaxAbsScaler(), RobustScaler(), MinMaxScaler(clip=True), Normalizer())},
        "logistic regression": (LogisticRegression(), three), "logistic regression of two": (LogisticRegression(), two),
        "linear regression": (LinearRegression(), x[:, 0]), "ridge of two": (Ridge(), x[:, :2]), "linear svc": (LinearSVC(), three), "linear svr": (LinearSVR(), x[:, 0]),
    }  # fmt: skip
    models["MinMaxScaler that clips and mlp"] = (
        make_pipeline(MinMaxScaler(clip=True), MLPClassifier((5,), max_iter=20, random_state=0)),
        three,
    )

    def export(model: Any, target: Any, options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x, target)
        return to_onnx(model, x[:1], options=options)

    for name, (model, target) in models.items():
        yield name, lambda m=model, t=target: export(m, t, None)
        if "mlp" in name and "regressor" not in name and "and" not in name:
            yield f"{name}, scores as a table", lambda m=model, t=target: export(m, t, {"zipmap": False})


def _simplified(simplify: Callable[[Any], Any]) -> Made:
    import onnx
    from onnx_graphs import GRAPHS

    for name, graph in GRAPHS.items():
        opset = min(graph.last, 18)
        if opset >= graph.first:
            yield (
                f"{name}, opset {opset}",
                lambda g=graph, o=opset: simplify(onnx.shape_inference.infer_shapes(g.model(o))),
            )


def onnxsim() -> Made:
    """The corpus of graphs after ``onnxsim.simplify``."""
    import onnxsim

    return _simplified(lambda model: onnxsim.simplify(model)[0])


def onnxslim() -> Made:
    """The corpus of graphs after ``onnxslim.slim``."""
    import onnxslim

    return _simplified(onnxslim.slim)


KINDS: dict[str, tuple[Callable[[], Made], tuple[str, ...]]] = {
    "torch": (torch_dynamo, ("torch", "onnxscript")),
    "keras": (keras, ("keras", "tensorflow-cpu", "tf2onnx")),
    "tf2onnx": (tf2onnx, ("tensorflow-cpu", "tf2onnx")),
    "sklearn": (sklearn, ("scikit-learn", "skl2onnx")),
    "onnxsim": (onnxsim, ("onnxsim",)),
    "onnxslim": (onnxslim, ("onnxslim",)),
}
"""What writes the models of each exporter, and the packages whose versions count."""


def write(kind: str, folder: Path) -> None:
    """Write the models of one kind, and what could not be exported."""
    import onnx

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    make, packages = KINDS[kind]
    target = folder / kind
    target.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"versions": {p: _version(p) for p in packages}, "models": {}, "not exported": {}}
    for k, (name, export) in enumerate(make()):
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                model = export()
        except Exception as error:  # whatever an exporter raises about what it does not export
            facts["not exported"][name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"
            )
            continue
        onnx.save(model, target / f"{k}.onnx")
        facts["models"][name] = f"{k}.onnx"
    (target / "facts.json").write_text(json.dumps(facts, indent=1))
    print(f"{kind}: {len(facts['models'])} models, {len(facts['not exported'])} not exported")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def compare(folder: Path) -> None:
    """Load all models, compare each with onnxruntime, and write the page."""
    from common import RESULTS, machine, table

    import verifier
    from verifier.errors import VerifierError
    from verifier.network.agreement import agreement
    from verifier.network.runtime import RuntimeModel

    rows, refused, failed = [], [], []
    for kind, (make, _) in KINDS.items():
        if not (folder / kind / "facts.json").is_file():
            continue
        facts = json.loads((folder / kind / "facts.json").read_text())
        gaps: list[float] = []
        for name, file in facts["models"].items():
            try:
                network = verifier.load(folder / kind / file)
                found = agreement(network, RuntimeModel(network, fused=False), inputs=6)
            except VerifierError as error:
                refused.append((kind, name, str(error).removeprefix(str(folder / kind / file)).lstrip(": ")))
                continue
            gaps.append(found.gap)
            if not found.close:
                failed.append((kind, name, f"{found.gap:.1e}"))
        versions = ", ".join(f"{p} {v}" for p, v in facts["versions"].items())
        what = (make.__doc__ or "").splitlines()[0]
        count = len(facts["models"])
        rows.append(
            (kind, versions, what, count, len(gaps), f"{max(gaps, default=0.0):.1e}", len(facts["not exported"]))
        )
        print(rows[-1], flush=True)
    header = ("kind", "by", "what", "models", "read", "worst relative difference", "what the exporter refused")
    text = (
        f"# Models as exporters write them\n\n{machine()}\n\n{' '.join((__doc__ or '').strip().splitlines()[2:6])}\n\n"
    )
    text += f"{sum(row[4] for row in rows)} of {sum(row[3] for row in rows)} models are read.\n\n"
    text += (
        table(header, rows)
        + "\nDifferences are those of float32: `max |ours - theirs| / max(1, max |theirs|)` over six random inputs.\n"
    )
    if failed:
        text += "\n## Different\n\n" + table(("kind", "model", "relative difference"), failed)
    if refused:
        text += "\n## Refused\n\n" + table(("kind", "model", "why"), refused)
    (RESULTS / "exporters.md").write_text(text)


def main() -> None:
    """Write the models of one exporter, or compare all that were written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    todo = parser.add_subparsers(required=True)
    writing = todo.add_parser("write")
    writing.add_argument("kind", choices=KINDS)
    comparing = todo.add_parser("compare")
    for sub in (writing, comparing):
        sub.add_argument("folder", type=Path)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    if "kind" in given:
        write(given.kind, given.folder)
    else:
        compare(given.folder)


if __name__ == "__main__":
    main()
