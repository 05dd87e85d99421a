"""Beyond the attention paper: three to five parameters, other maps, large networks, by tiles of Θ.

Called by `attention.py beyond`; a finished question is a line of its journal.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from attention import in_child, note, perturbation
from attention_networks import images, load
from attention_tables import journal
from common import data_folder

import verifier
from verifier.attention import AreaSettings, Inconsistency, attention_areas
from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape, Scale
from verifier.network.piecewise import MaxPool, relu

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The normalisation in front of VNN-COMP's cifar_biasfield networks."""


VGG = {
    "vgg-11": (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    "vgg-16": (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0),
}
"""The channels of VGG's convolutions (Simonyan, Zisserman, ICLR 2015, Table 1, columns A and D); 0 is a pool."""


def vgg(name: str, seed: int = 0) -> Network:
    """A network of VGG's shape for 32 × 32 images, with random weights: 152,064 or 276,992 ReLUs."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder((3, 32, 32))
    channels = 3
    for layer in VGG[name]:
        if not layer:
            builder.add(MaxPool((2, 2), (2, 2)))
            continue
        weight = rng.normal(size=(layer, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        builder.add(Conv(weight, np.zeros(layer), padding=(1, 1, 1, 1)))
        builder.add(relu())
        channels = layer
    builder.add(Reshape((512,)))
    builder.add(Dense(rng.normal(size=(512, 512)) / 16, np.zeros(512)))
    builder.add(relu())
    builder.add(Dense(rng.normal(size=(10, 512)) / 16, np.zeros(10)))
    return builder.build()


def eight_convolutions() -> Network:
    """The trained CIFAR-10 network behind VNN-COMP's cifar_biasfield: eight convolutional layers, 45,056 ReLUs.

    In the benchmark's files it stands behind a field of 16 parameters, in place of which it gets its images here.
    """
    whole = verifier.load(data_folder() / "vnncomp" / "cifar_biasfield" / "onnx" / "cifar_bias_field_0.onnx.gz")
    first = next(k for k, node in enumerate(whole.nodes) if isinstance(node.operator, Conv))
    builder = NetworkBuilder((3, 32, 32))
    factor = np.array([1 / s for s in STD])[:, None, None] * np.ones((3, 32, 32))
    shift = np.array([-m / s for m, s in zip(MEAN, STD, strict=True)])[:, None, None] * np.ones((3, 32, 32))
    builder.add(Scale(factor, shift))
    for node in whole.nodes[first:]:
        builder.add(node.operator)
    return builder.build()


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question: a network and an image by name, the perturbations by letter over [0, width], δ, and how."""

    network: str
    letters: str
    width: float
    delta: float
    settings: Inconsistency = field(default_factory=Inconsistency)
    how: AreaSettings = field(default_factory=AreaSettings)


LABEL = Inconsistency(classes="label")
FEW = AreaSettings(grid=3, piece=4, batch=16)
QUESTIONS = {
    "fnn-100, 3 parameters": Question(network="fnn-100", letters="BPT", width=0.2, delta=30.0),
    "fnn-100, 5 parameters": Question(network="fnn-100", letters="BPTDC", width=0.1, delta=30.0),
    "fnn-100, Integrated Gradients": Question(
        network="fnn-100", letters="BP", width=0.2, delta=10.0, settings=Inconsistency(map="integrated")
    ),
    "fnn-100, SmoothGrad": Question(
        network="fnn-100", letters="BP", width=0.2, delta=30.0, settings=Inconsistency(map="smooth")
    ),
    "cnn-m": Question(network="cnn-m", letters="BP", width=1.0, delta=60.0),
    "cnn-pool (MaxPool)": Question(network="cnn-pool", letters="TP", width=1.0, delta=60.0),
    "CIFAR-10 convSmall": Question(network="convSmall", letters="BP", width=0.05, delta=30.0, settings=LABEL),
    "CIFAR-10, 8 convolutions, 3 parameters": Question(
        network="eight", letters="BPT", width=0.02, delta=60.0, settings=LABEL, how=FEW
    ),
    "CIFAR-10, 8 convolutions, 3 parameters, wider": Question(
        network="eight", letters="BPT", width=0.05, delta=60.0, settings=LABEL, how=FEW
    ),
    "CIFAR-10, 8 convolutions, 5 parameters": Question(
        network="eight", letters="BPTDC", width=0.005, delta=40.0, settings=LABEL, how=FEW
    ),
    "CIFAR-10, 8 convolutions, 5 parameters, wider": Question(
        network="eight", letters="BPTDC", width=0.01, delta=60.0, settings=LABEL, how=FEW
    ),
    "VGG-11's shape, 3 parameters": Question(
        network="vgg-11", letters="BPT", width=1e-5, delta=0.05, settings=LABEL,
        how=AreaSettings(grid=2, piece=1, batch=2),
    ),
    "VGG-16's shape, 3 parameters": Question(
        network="vgg-16", letters="BPT", width=1e-5, delta=0.05, settings=LABEL,
        how=AreaSettings(grid=2, piece=1, batch=2),
    ),
}  # fmt: skip
"""The questions, by title."""


def subject(name: str) -> tuple[Network, np.ndarray]:
    """A network and the image that is asked about."""
    if name in ("convSmall", "eight", *VGG):
        with np.load(data_folder() / "cifar10" / "cifar10.npz") as data:
            image = data["x_test"][0].astype(np.float64) / 255.0
        if name == "convSmall":
            return verifier.load(data_folder() / "eran_nets" / "cifar10_convSmallRELU__Point.onnx"), image
        return (vgg(name) if name in VGG else eight_convolutions()), image
    return load(name, "mnist"), images("mnist", "test")[0][-10]


def shares(question: Question, limit: float, threads: int) -> dict[str, Any]:
    """One question by tiles, with the share of each answer."""
    network, image = subject(question.network)
    kinds = [perturbation(c, question.width) for c in question.letters]
    began, cpu = time.perf_counter(), time.process_time()
    how = replace(question.how, threads=threads)
    m = attention_areas(network, image, kinds, question.delta, settings=question.settings, how=how, timeout=limit)
    return {
        "answers": {a: found.answer.value for a, found in m.answers.items()},
        "shares": {a: list(s) for a, s in m.shares.items()},
        "parameters": {n: [p.low, p.high] for n, p in zip(m.perturbed.labels, kinds, strict=True)},
        "delta": question.delta,
        "units": m.perturbed.network.neurons,
        "tiles": m.bounded,
        "reason": m.reason,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu": round(time.process_time() - cpu, 1),
        "limit": limit,
        "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def beyond(limit: float, until: float | None, threads: int, only: str) -> None:
    """Of the questions whose title has the text ``only``, ask what the journal has not, or has open with less time.

    No further question is begun after ``until`` seconds.
    """
    began, done = time.monotonic(), journal()
    for title, question in QUESTIONS.items():
        known = done.get(f"beyond/{title}")
        if only not in title or (known is not None and (known.get("limit", 0.0) >= limit or not known["reason"])):
            continue
        if until is not None and time.monotonic() - began > until:
            return
        note(f"beyond/{title}", in_child(lambda q=question: shares(q, limit, threads)))  # type: ignore[misc]
