"""Repair of an explanation: a network that looks at the digit, and no more at the frame around it, on whole boxes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from patching_mnist import classes, load

import verifier
from verifier.properties.query import GradientBox
from verifier.properties.sets import Box
from verifier.repair import gradient_bounds, repair_explanation

NETWORK, EPSILON, FRAME, SHARE, KEPT = "mnist_relu_3_50", 0.01, 4, 0.5, 500
EXPLANATIONS = f"""## Repair of an explanation

MNIST's digits stand in a field of 20 x 20 pixels, around which a frame of {FRAME} pixels is empty; ERAN's {NETWORK} (without
the ReLU on its outputs) pays attention to the frame all the same. Demanded of every input within {EPSILON:g} (L-infinity, in
[0, 1]) of an image: no pixel of the frame moves the label's output by more than {SHARE:g} times what the strongest of them
does at the image, a bound on {28 * 28 - (28 - 2 * FRAME) ** 2} entries of the gradient. Weights of the last layer may change, as few as the L1
norm makes them; {KEPT} test images keep their class. *Repaired* means that the verifier proves the demand for the whole
box. Images: the first test images that are classified rightly. Drawdown: accuracy lost on the 10,000 test images, in
percentage points.
"""
COLUMNS = (
    "image", "label", "strongest frame pixel before", "allowed", "strongest after, of 1,000 samples", "answer", "proved by",
    "counterexamples", "weights", "L1", "accuracy before %", "drawdown", "seconds", "CPU s",
)  # fmt: skip


def explanation(number: int, timeout: float) -> dict[str, Any]:
    """The repair for one image, as a row of the table."""
    network, images, labels = load(NETWORK)
    flat = images.reshape(len(images), -1)
    right = np.flatnonzero(classes(network, flat) == labels)
    k = int(right[number])
    x, label = flat[k], int(labels[k])
    inner = np.zeros((28, 28), dtype=bool)
    inner[FRAME:-FRAME, FRAME:-FRAME] = True
    frame = ~inner.reshape(-1)
    before = float(np.abs(network.gradient(x, label).reshape(-1)[frame]).max())
    allowed = SHARE * before
    ends = np.where(frame, allowed, np.inf)
    bounds = GradientBox(output=network.output_weights(label), lower=-ends, upper=ends)
    box = Box(np.maximum(x - EPSILON, 0.0), np.minimum(x + EPSILON, 1.0))
    began, cpu = time.perf_counter(), time.process_time()
    result = repair_explanation(
        gradient_bounds(network, box, bounds),
        lambda query: verifier.verify(query, timeout=timeout / 4),
        keep=flat[right[right != k][:KEPT]],
        timeout=timeout,
    )
    took = time.perf_counter() - began, time.process_time() - cpu
    points = box.sample(1000, np.random.default_rng(0))
    after = float(np.abs(result.network.gradient(points, label).reshape(len(points), -1)[:, frame]).max())
    accuracy = [100 * float((classes(n, flat) == labels).mean()) for n in (network, result.network)]
    row = (
        k, label, f"{before:.3f}", f"{allowed:.3f}", f"{after:.3f}", result.status.value, result.verdict.stage,
        len(result.counterexamples), len(result.changes), f"{sum(map(abs, result.changes.values())):.3g}",
        f"{accuracy[0]:.2f}", f"{accuracy[0] - accuracy[1]:+.2f}", f"{took[0]:.1f}", f"{took[1]:.1f}",
    )  # fmt: skip
    return {"row": row, "reason": result.reason}
