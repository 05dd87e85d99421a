"""MaxPool and residual networks: MNIST networks that we trained (`structure_networks.py`), and the attention paper's kind."""

from __future__ import annotations

import argparse
from typing import Any

import attention_networks
import structure_networks
from saliency_common import ask_images, image_rows

import verifier
from verifier.options import Options

NETWORKS = (*structure_networks.NAMES, "cnn-pool")


def network(name: str) -> verifier.Network:
    """A network of this set by name."""
    if name in structure_networks.NAMES:
        return verifier.load(structure_networks.path(name))
    return attention_networks.load(name, "mnist")


def run(args: argparse.Namespace) -> None:
    """Ask about every network that is named."""
    for name in args.networks.split(","):
        options = Options(engine=args.engine, timeout=args.timeout)
        ask_images("structures", name, network(name), options, args.images, args.every)


def section(records: list[dict[str, Any]]) -> list[str]:
    """The report's lines on this set."""
    mine = [r for r in records if r["set"] == "structures"]
    if not mine:
        return []
    named = [name for name in NETWORKS if any(r["network"] == name for r in mine)]
    sizes = ", ".join(f"{name} {network(name).neurons:,}" for name in named)
    images = ", ".join(str(k) for k in sorted({r["image"] for r in mine}))
    return [
        "## MaxPool and residual networks\n",
        "Our own MNIST networks (`benchmarks/structure_networks.py`, `attention_networks.py`): pool and cnn-pool with "
        f"MaxPool, residual with skip connections. Units (ReLUs and pools): {sizes}. Test images {images}; with the "
        "pre-pass; peak memory is that of the process up to then.\n",
        image_rows(mine),
    ]


def add_parser(commands: Any) -> None:
    """The command ``structures``."""
    parser = commands.add_parser("structures")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--engine", default="saliency")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--every", type=int, default=1, help="of these images take only each N-th")
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.set_defaults(run=run)
