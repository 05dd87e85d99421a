"""Repairs of MNIST networks: polygons of corrupted images, and the images of a corrupted test set."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from common import data_folder

import verifier
from verifier.network.graph import Network
from verifier.network.operators import Array
from verifier.repair import (
    FrozenNetwork,
    PointRegion,
    PolygonRegion,
    RepairResult,
    Requirement,
    Specification,
    drawdown,
    output_class,
    repair,
    repairable_layers,
)

POLYGONS = """## MNIST, polygons of corrupted images (fog and blur)

ERAN's mnist_relu_3_100 without the ReLU on its outputs (a class whose output is cut off there could not be raised by
any patch, which leaves the regions alone). The first three test images that are classified rightly and for which the
triangle (image, 60 % towards a bright gradient, fully blurred by a 5x5 mean) has a wrong corner; the whole triangle must
have the true label by a margin of 0.001. Each layer is tried (counted from the end). Drawdown: accuracy lost on the
10,000 test images, in percentage points.
"""

IMAGES = """## MNIST, images of a corrupted test set: beside architecture-preserving repair

The published kind of task (architecture-preserving provable repair, as its figures were given to us: MNIST 9x200,
drawdown 1.38 %, generalisation 24.7 %, 455 s): the network must be right on corrupted images of the repair set, and is then
measured on the clean test set (drawdown: accuracy lost, percentage points) and on the other corrupted images
(generalisation: accuracy gained, percentage points). Here: ERAN's networks without the ReLU on the outputs; corruption by
60 % fog (a bright gradient); repair set: the first 100 fogged test images that are misclassified while the clean image is
not; each must have its label by a margin of 0.001. A repair of the last layer folds back into a network of the same
architecture; one of an earlier layer is a frozen network (both channels). The corruption and the networks are not the
published ones, so the figures stand beside each other only as to their kind.
"""

IMAGE_COLUMNS = (
    "network", "layers that may change", "answer", "same architecture", "checked", "weights", "L1", "seconds",
    "accuracy clean before %", "drawdown", "accuracy fog before %", "generalisation",
)  # fmt: skip
POLYGON_COLUMNS = (
    "image", "label", "layer", "answer", "key points", "met before %", "met after %", "weights", "L1", "proved least L1",
    "LP seconds", "seconds", "labels changed of 10,000", "drawdown",
)  # fmt: skip

PUBLISHED = ("MNIST 9x200", "published", "repaired", "yes", "", "", "", "455", "", "+1.38", "", "+24.7")


def load(name: str) -> tuple[Network, Array, Array]:
    """One of ERAN's networks without the ReLU on its outputs, and the test images ``(10000, 28, 28)`` with labels."""
    loaded = verifier.load(data_folder() / "eran_nets" / f"{name}.onnx")
    network = Network(loaded.nodes[:-1], loaded.nodes[-2].name, loaded.source)
    with np.load(data_folder() / "mnist" / "mnist.npz") as data:
        return network, data["x_test"] / 255.0, data["y_test"].astype(int)


def corruptions(images: Array) -> tuple[Array, Array]:
    """Two directions from images ``(…, 28, 28)``: towards fog (a bright gradient), and towards their blur."""
    fog = np.linspace(0.9, 0.4, 28)[:, None] * np.ones((1, 28))
    edges = [(0, 0)] * (images.ndim - 2) + [(2, 2), (2, 2)]
    padded = np.pad(images, edges, mode="edge")
    blurred = sum(padded[..., i : i + 28, j : j + 28] for i in range(5) for j in range(5)) / 25
    return 0.6 * (fog - images), np.asarray(blurred) - images


def classes(network: Network, x: Array) -> Array:
    return np.asarray(network.forward(x).reshape(len(x), -1).argmax(axis=1))


def polygon(number: int, which: int, timeout: float) -> dict[str, Any]:
    """Repair one polygon of corrupted images of one test image, and what that does to all test images."""
    network, images, labels = load("mnist_relu_3_100")
    flat = images.reshape(len(images), -1)
    right = classes(network, flat) == labels
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    wrong = []
    for index in np.flatnonzero(right).tolist():
        u, v = (d.reshape(-1) for d in corruptions(images[index]))
        if (classes(network, flat[index] + triangle @ np.stack([u, v])) != labels[index]).any():
            wrong.append((index, u, v))
            if len(wrong) > number:
                break
    index, u, v = wrong[number]
    demand = output_class(network.output_size, int(labels[index]), margin=1e-3)
    requirement = Requirement(PolygonRegion(flat[index], u, v, triangle), demand, f"image {index}")
    layer = repairable_layers(network)[which]
    result = repair(network, Specification((requirement,)), layers=[layer], timeout=timeout)
    effect = drawdown(result.frozen, flat, labels)
    attempt = result.attempts[layer]
    row = [
        index, int(labels[index]), which, result.status, result.total, f"{100 * result.met_before / result.total:.1f}",
        f"{100 * result.met_after / result.total:.1f}", f"{result.norms['weights']:.0f}", f"{result.norms['l1']:.4g}",
        f"{attempt.least:.4g}", f"{attempt.program.seconds:.1f}", f"{result.seconds:.1f}", effect.changed,
        f"{100 * (effect.drawdown or 0.0):+.2f}",
    ]  # fmt: skip
    return {"row": row}


def fogged(name: str, which: str, timeout: float) -> dict[str, Any]:
    """Repair 100 fogged images; drawdown on the clean test set, generalisation on the other fogged images."""
    network, images, labels = load(name)
    clean = images.reshape(len(images), -1)
    foggy = (images + corruptions(images)[0]).reshape(len(images), -1)
    ours = np.flatnonzero((classes(network, clean) == labels) & (classes(network, foggy) != labels))[:100]
    requirements = [
        Requirement(PointRegion(foggy[ours[labels[ours] == k]]), output_class(10, int(k), margin=1e-3), f"digit {k}")
        for k in np.unique(labels[ours])
    ]
    known = repairable_layers(network)
    layers = list(known) if which == "all" else [known[int(which)]]
    method = "layers" if which == "all" else "lp"
    start = time.perf_counter()
    result = repair(network, Specification(tuple(requirements)), method=method, layers=layers, timeout=timeout)
    seconds = time.perf_counter() - start
    others = np.setdiff1d(np.arange(len(labels)), ours)
    before, after = (drawdown(result.frozen, x, labels[chosen]) for x, chosen in _sets(clean, foggy, others))
    row = [
        name, "all, alternating" if which == "all" else which, result.status, "yes" if folds(result) else "no",
        "exactly" if result.check.exact else "float64", f"{result.norms['weights']:.0f}", f"{result.norms['l1']:.3g}",
        f"{seconds:.1f}", f"{100 * (before.right_before or 0) / before.total:.2f}",
        f"{100 * (before.drawdown or 0.0):+.2f}", f"{100 * (after.right_before or 0) / after.total:.2f}",
        f"{-100 * (after.drawdown or 0.0):+.2f}",
    ]  # fmt: skip
    return {"row": row}


def _sets(clean: Array, foggy: Array, others: Array) -> list[tuple[Array, Array]]:
    return [(clean, np.arange(len(clean))), (foggy[others], others)]


def folds(result: RepairResult) -> bool:
    """Whether the repaired network has the original's architecture."""
    from verifier.errors import NetworkError

    try:
        result.frozen.fold()
    except NetworkError:
        return False
    return True


def differences(name: str = "mnist_relu_6_100") -> dict[str, Any]:
    """What the value channel costs: a second evaluation, or the difference alone (Appendix C); CPU seconds."""
    network, images, _ = load(name)
    x = images.reshape(len(images), -1)[:2000]
    known = network.values(x)
    rng = np.random.default_rng(0)
    rows = []
    for which in (0, len(repairable_layers(network)) - 2, len(repairable_layers(network)) - 1):
        layer = repairable_layers(network)[which]
        for count in (1, 5):
            change = np.zeros(sum(p.size for p in (network[layer].operator.weight, network[layer].operator.bias)))
            change[rng.integers(0, len(change), count)] = 0.1
            frozen = FrozenNetwork(network).patched(layer, change)
            pattern = network.pattern(x)
            plain, both, less = (
                cpu(lambda: network.values(x)),
                cpu(lambda f=frozen, p=pattern: f.forward(x, p)),  # type: ignore[misc]
                cpu(lambda f=frozen: f.difference(x, known)),  # type: ignore[misc]
            )
            rows.append([name, f"{which + 1} of {len(repairable_layers(network))}", count, f"{1000 * plain:.1f}",
                         f"{100 * both / plain:.0f}", f"{100 * less / plain:.0f}"])  # fmt: skip
    return {"rows": rows}


def cpu(work: Any, times: int = 5) -> float:
    """The least CPU seconds of some runs."""
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)
