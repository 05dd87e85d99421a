"""The scale set: deeper and convolutional MNIST networks, the first correctly classified test images."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from common import data_folder
from saliency_common import SHARES, agreement, ask_images, image_rows

import verifier
from verifier.options import Options


def networks(names: Iterable[str]) -> Iterable[tuple[str, verifier.Network]]:
    """The scale set's networks by short name: 256x2, 256x4, 3_50 …, convSmall Point …"""
    data = data_folder()
    for name in names:
        path = data / "vnncomp" / "mnist_fc" / "onnx" / f"mnist-net_{name}.onnx.gz"
        if not path.exists():
            path = data / "eran_nets" / f"mnist_relu_{name}.onnx"
        if not path.exists():
            path = data / "eran_nets" / f"mnist_convSmallRELU__{name}.onnx"
        yield name, verifier.load(path)


def run(args: argparse.Namespace) -> None:
    """Ask about every network that is named."""
    for name, network in networks(args.networks.split(",")):
        shift, factor = (0.1307, 0.3081) if name in ("Point", "PGDK", "DiffAI") else (0.0, 1.0)
        options = Options(
            engine=args.engine, timeout=args.timeout, prepass=not args.no_prepass, propagate=args.propagate
        )
        shares = tuple(map(float, args.shares.split(",")))
        ask_images("scale", name, network, options, args.images, args.every, shift, factor, shares)


def section(records: list[dict[str, Any]]) -> list[str]:
    """The report's lines on this set."""
    everything = [r for r in records if r["set"] == "scale"]
    mine = [r for r in everything if r["engine"] == "saliency"]
    return [
        "## Scale set\n",
        "The first correctly classified test images, with the pre-pass; where the query without its gradient is not "
        "refuted, the engine's own search takes up to 6 s more. While other work ran on both cores. The whole set has "
        "20 images; a row has as many queries as were run. Peak memory is that of the process up to then.\n",
        image_rows(mine),
        "\n" + agreement(everything, ("network", "image", "epsilon"), "share") + "\n",
    ]


def add_parser(commands: Any) -> None:
    """The command ``scale``."""
    parser = commands.add_parser("scale")
    parser.add_argument("--networks", default="256x2,256x4,256x6,3_50,3_100,5_100,6_100,Point,PGDK,DiffAI")
    parser.add_argument("--engine", default="saliency")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="of these images take only each N-th")
    parser.add_argument(
        "--shares", default=",".join(f"{s:g}" for s in SHARES), help="δ as shares of the map's largest entry"
    )
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--no-prepass", action="store_true")
    parser.add_argument("--propagate", action="store_true", help="solvers get what propagation finds")
    parser.set_defaults(run=run)
