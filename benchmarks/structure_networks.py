"""MNIST networks with MaxPool and with skip connections, trained by us: `python benchmarks/structure_networks.py [NAME ...]`.

| name | layers | ReLUs | pools |
|---|---|---|---|
| pool | conv 8 (5×5, stride 2), MaxPool 2×2, conv 16 (3×3), dense 50 | 1,458 | 288 |
| residual | conv 6 (4×4, stride 2), twice conv 6 (3×3) with a skip connection over both, dense 50 | 3,092 | 0 |

Each is trained on MNIST's 60,000 training images, scaled to [0, 1], with a fixed seed on one thread, and stored in float32
as ``benchmarks/networks/mnist-NAME.onnx``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attention_networks import train_mnist

FOLDER = Path(__file__).resolve().parent / "networks"
NAMES = ("pool", "residual")
EPOCHS = 3


def path(name: str) -> Path:
    """Where a network is stored."""
    return FOLDER / f"mnist-{name}.onnx"


def module(name: str) -> Any:
    """The untrained torch module, for inputs ``(batch, 1, 28, 28)``."""
    from torch import nn

    if name == "pool":
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, 2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 50),
            nn.ReLU(),
            nn.Linear(50, 10),
        )

    class Residual(nn.Module):
        """A convolution, one residual block, two dense layers."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 6, 4, 2)
            self.first = nn.Conv2d(6, 6, 3, padding=1)
            self.second = nn.Conv2d(6, 6, 3, padding=1)
            self.dense = nn.Linear(6 * 13 * 13, 50)
            self.out = nn.Linear(50, 10)
            self.relu = nn.ReLU()
            self.flatten = nn.Flatten()

        def forward(self, x: Any) -> Any:
            x = self.relu(self.stem(x))
            x = self.relu(self.second(self.relu(self.first(x))) + x)
            return self.out(self.relu(self.dense(self.flatten(x))))

    return Residual()


def main() -> None:
    """Train the named networks (all, without names)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(NAMES))
    for name in parser.parse_args().names or NAMES:
        print({"network": name, **train_mnist(lambda n=name: module(n), path(name), EPOCHS)}, flush=True)


if __name__ == "__main__":
    main()
