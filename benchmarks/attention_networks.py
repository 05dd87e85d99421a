"""The attention paper's networks (Table 1), trained by us: `python benchmarks/attention_networks.py [NAME ...]`.

| name | layers | neurons |
|---|---|---|
| fnn-100 … fnn-800 | 2, 4, 8, 16 dense layers of 50 | 100, 200, 400, 800 |
| cnn-s | conv 8 (4×4, stride 2), conv 24 (4×4, stride 2), dense 76 | 2,028 |
| cnn-m | conv 16 (3×3), conv 27 (4×4, stride 2), dense 120 | 14,824 |
| cnn-pool | conv 8 (5×5), ReLU, MaxPool 2×2, conv 12 (3×3), ReLU, MaxPool 2×2, dense 40 | MaxPool, beyond the paper |

The paper gives neuron counts, not channel counts: ours give the same totals. Each network is trained on
the training images of MNIST (60,000) or Fashion-MNIST (the 20,000 at hand), never on a test image, with a
fixed seed on one thread, and stored in float32 under ``benchmarks/networks/attention/``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import data_folder

from verifier.network.convolution import Conv
from verifier.network.graph import Network, NetworkBuilder
from verifier.network.operators import Dense, Reshape
from verifier.network.piecewise import MaxPool, relu

FOLDER = Path(__file__).resolve().parent / "networks" / "attention"
DATASETS = ("mnist", "fashion_mnist")

# Layers: an int is a dense layer, (channels, kernel, stride) a convolution, "pool" a 2×2 MaxPool; a ReLU
# follows every dense layer and convolution but the last (the ten outputs).
Layers = tuple[int | tuple[int, int, int] | str, ...]
ARCHITECTURES: dict[str, Layers] = {
    "fnn-100": (50,) * 2,
    "fnn-200": (50,) * 4,
    "fnn-400": (50,) * 8,
    "fnn-800": (50,) * 16,
    "cnn-s": ((8, 4, 2), (24, 4, 2), 76),
    "cnn-m": ((16, 3, 1), (27, 4, 2), 120),
    "cnn-pool": ((8, 5, 1), "pool", (12, 3, 1), "pool", 40),
}
PAPER = ("fnn-100", "fnn-200", "fnn-400", "fnn-800", "cnn-s", "cnn-m")
EPOCHS = {"fnn-800": 16, "fnn-400": 10, "cnn-s": 5, "cnn-m": 3, "cnn-pool": 4}


def images(dataset: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] (float64, ``(count, 28, 28)``) and labels; ``part`` is "train" or "test"."""
    with np.load(data_folder() / dataset / f"{dataset}.npz") as data:
        return data[f"x_{part}"].astype(np.float64) / 255.0, data[f"y_{part}"].astype(np.int64)


def load(name: str, dataset: str) -> Network:
    """The trained network, for inputs of shape ``(1, 28, 28)``, in the framework's own form."""
    path = FOLDER / f"{name}-{dataset}.npz"
    with np.load(path) as data:
        weights = {k: data[k].astype(np.float64) for k in data.files}
    builder = NetworkBuilder((1, 28, 28), source=path.stem)
    k, last = 0, "input"
    for layer in (*ARCHITECTURES[name], 10):
        shape = builder.shape(last)
        if layer == "pool":
            last = builder.add(MaxPool((2, 2), (2, 2)))
            continue
        if isinstance(layer, int):
            if len(shape) == 3:
                last = builder.add(Reshape((int(np.prod(shape)),)))
            last = builder.add(Dense(weights[f"w{k}"], weights[f"b{k}"]))
        else:
            last = builder.add(Conv(weights[f"w{k}"], weights[f"b{k}"], stride=(layer[2], layer[2])))
        k += 1
        if f"w{k}" in weights:
            last = builder.add(relu())
    return builder.build()


def module(name: str) -> Any:
    """The untrained torch module."""
    from torch import nn

    layers: list[nn.Module] = []
    channels, size = 1, 28
    for layer in (*ARCHITECTURES[name], 10):
        if layer == "pool":
            layers.append(nn.MaxPool2d(2))
            size //= 2
        elif isinstance(layer, tuple):
            layers += [nn.Conv2d(channels, layer[0], layer[1], layer[2]), nn.ReLU()]
            channels, size = layer[0], (size - layer[1]) // layer[2] + 1
        else:
            if size:
                layers.append(nn.Flatten())
                channels, size = channels * size * size, 0
            layers += [nn.Linear(channels, int(layer)), nn.ReLU()]
            channels = int(layer)
    for m in layers:
        if isinstance(m, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            nn.init.zeros_(m.bias)
    return nn.Sequential(*layers[:-1])


def fit(net: Any, dataset: str, epochs: int, peak: float, clip: float | None = None) -> float:
    """Train a torch module on a data set's training images by AdamW, batches of 128 and a one-cycle learning rate.

    Args:
        peak: the largest learning rate; clip: the largest norm of a step's gradient.

    Returns:
        the seconds it took.
    """
    import torch

    x, y = images(dataset, "train")
    inputs, labels = torch.tensor(x[:, None], dtype=torch.float32), torch.tensor(y)
    batch = 128
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    steps = epochs * (len(inputs) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps)
    began = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(inputs))
        for i in range(0, len(inputs) - batch + 1, batch):
            pick = order[i : i + batch]
            loss = torch.nn.functional.cross_entropy(net(inputs[pick]), labels[pick])
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            schedule.step()
    return time.perf_counter() - began


def train_mnist(module: Callable[[], Any], file: Path, epochs: int, seed: int = 0) -> dict[str, Any]:
    """Train a network on MNIST with AdamW (one-cycle learning rate), and store it in float32.

    Args:
        module: makes the untrained torch module, for inputs ``(batch, 1, 28, 28)``; called when the seed is set.
    """
    import torch

    import verifier

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net = module()
    seconds = fit(net, "mnist", epochs, 4e-3)
    guess, labels = guesses(net, "mnist")
    right = float((guess == labels).mean())
    network = verifier.load(net, input_shape=(1, 28, 28))
    verifier.write_onnx(network, file)
    return {"seconds": round(seconds, 1), "accuracy": round(right, 4), "neurons": network.neurons}


def guesses(net: Any, dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """What a torch module takes a data set's test images for, and their labels."""
    import torch

    x, y = images(dataset, "test")
    with torch.no_grad():
        return net(torch.tensor(x[:, None], dtype=torch.float32)).argmax(1).numpy(), y


def train(name: str, dataset: str, seed: int = 0) -> dict[str, Any]:
    """Train one network with Adam (batches of 128, one-cycle learning rate) and store it."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net = module(name)
    epochs = EPOCHS.get(name, 8)
    seconds = fit(net, dataset, epochs, 2e-3 if name != "fnn-800" else 1.5e-3, clip=1.0)
    arrays = {}
    for k, m in enumerate([m for m in net if hasattr(m, "weight")]):
        arrays[f"w{k}"] = m.weight.detach().numpy().astype(np.float32)
        arrays[f"b{k}"] = m.bias.detach().numpy().astype(np.float32)
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}-{dataset}.npz", **arrays)
    guess, test_y = guesses(net, dataset)
    record = {
        "network": name,
        "dataset": dataset,
        "seed": seed,
        "epochs": epochs,
        "seconds": round(seconds, 1),
        "accuracy": round(float((guess == test_y).mean()), 4),
        "right_of_last_ten": int((guess[-10:] == test_y[-10:]).sum()),
        "neurons": load(name, dataset).neurons,
    }
    path = FOLDER / "training.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    records[f"{name}-{dataset}"] = record
    path.write_text(json.dumps(dict(sorted(records.items())), indent=1) + "\n")
    return record


def main() -> None:
    """Train the named networks (all, without names) on both data sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES), choices=[[], *ARCHITECTURES])
    parser.add_argument("--missing", action="store_true", help="only those that are not stored yet")
    args = parser.parse_args()
    for name in args.names or ARCHITECTURES:
        for dataset in DATASETS:
            if not (args.missing and (FOLDER / f"{name}-{dataset}.npz").exists()):
                print(train(name, dataset), flush=True)


if __name__ == "__main__":
    main()
