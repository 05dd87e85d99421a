"""The networks whose decisions `benchmarks/explain.py` explains, trained by us: `python benchmarks/explain_networks.py [NAME ...]`.

| name | layers | ReLUs |
|---|---|---|
| dense-10x2 | 2 × dense 10 (the dense network of VeriX and its successors) | 20 |
| dense-30x2 | 2 × dense 30 | 60 |
| conv-4x2 | 2 × conv 4 (3×3, stride 2), dense 20 (the convolutional network of VeriX+) | 840 |
| conv-10k | conv 12 (3×3, padded), conv 6 (4×4, stride 3), dense 106 | 10,000 |

Each is trained on MNIST's 60,000 training images, scaled to [0, 1], with a fixed seed on one thread, and stored in float32
as ``benchmarks/networks/explain-NAME.onnx``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attention_networks import train_mnist

FOLDER = Path(__file__).resolve().parent / "networks"
NAMES = ("dense-10x2", "dense-30x2", "conv-4x2", "conv-10k")
EPOCHS = {"dense-10x2": 8, "dense-30x2": 8, "conv-4x2": 5, "conv-10k": 2}


def path(name: str) -> Path:
    """Where a network is stored."""
    return FOLDER / f"explain-{name}.onnx"


def module(name: str) -> Any:
    """The untrained torch module, for inputs ``(batch, 1, 28, 28)``."""
    from torch import nn

    kind, size = name.split("-")
    if kind == "dense":
        width = int(size.split("x")[0])
        middle = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *middle, nn.Linear(width, 10))
    if name == "conv-4x2":
        parts = [nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*parts, nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 10))
    parts = [nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 6, 4, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(486, 106), nn.ReLU(), nn.Linear(106, 10))


def main() -> None:
    """Train the named networks (all, without names)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(NAMES))
    for name in parser.parse_args().names or NAMES:
        print({"network": name, **train_mnist(lambda n=name: module(n), path(name), EPOCHS[name])}, flush=True)


if __name__ == "__main__":
    main()
