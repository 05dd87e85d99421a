"""The scale set: deeper and convolutional MNIST networks, the first correctly classified test images."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import numpy as np
from common import data_folder, table
from saliency_common import HEADER, ask, journal, summary

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
    """The first correctly classified test images, ε ∈ {0.01, 0.03}, δ at 1, 10, 50 % of the map's largest entry."""
    with np.load(data_folder() / "mnist" / "mnist.npz") as arrays:
        images, labels = arrays["x_test"].reshape(-1, 784), arrays["y_test"]
    done = {(r["network"], r["image"], r["epsilon"], r["share"], r["engine"]) for r in journal() if r["set"] == "scale"}
    for name, network in networks(args.networks.split(",")):
        convolutional = name in ("Point", "PGDK", "DiffAI")
        shift, factor = (0.1307, 0.3081) if convolutional else (0.0, 1.0)
        low, high = (0.0 - shift) / factor, (1.0 - shift) / factor
        taken = 0
        for k in range(len(images)):
            if taken == args.images:
                break
            x = (images[k] / 255.0 - shift) / factor
            x = np.clip(x, low, high)
            if int(np.argmax(network.forward(x))) != int(labels[k]):
                continue
            taken += 1
            if (taken - 1) % args.every:
                continue
            size = float(np.abs(network.gradient(x, int(labels[k]))).max())
            for epsilon in (0.01, 0.03):
                for share in (0.01, 0.1, 0.5):
                    if (name, k, epsilon, share, args.engine) in done:
                        continue
                    query = verifier.saliency_robustness(
                        network, x, epsilon / factor, share * size, int(labels[k]), domain=(low, high)
                    )
                    record = {"set": "scale", "network": name, "image": k, "epsilon": epsilon, "share": share}
                    record["limit"] = args.timeout
                    options = Options(engine=args.engine, timeout=args.timeout)
                    ask(record | {"engine": args.engine}, query, options)


def section(records: list[dict[str, Any]]) -> list[str]:
    """The report's lines on this set."""
    mine = [r for r in records if r["set"] == "scale"]
    rows = []
    for name, epsilon, share, limit in sorted({_kind(r) for r in mine}):
        group = [r for r in mine if _kind(r) == (name, epsilon, share, limit)]
        cells = (*summary(group), max(r["peak_mb"] for r in group))
        rows.append((name, epsilon, f"{share:.0%}", f"{limit:g}", *cells))
    images = ", ".join(str(k) for k in sorted({r["image"] for r in mine}))
    return [
        "## Scale set\n",
        "With the pre-pass; where the query without its gradient is not refuted, the engine's own search takes up to 6 s "
        "more. While other work ran on both cores. The whole set has 20 images; a row has as many "
        f"queries as were run, on test images {images}.\n",
        table(["network", "ε", "δ / max abs map", "limit s", *HEADER, "peak MB"], rows),
    ]


def _kind(record: dict[str, Any]) -> tuple[str, float, float, float]:
    return record["network"], record["epsilon"], record["share"], record["limit"]


def add_parser(commands: Any) -> None:
    """The command ``scale``."""
    parser = commands.add_parser("scale")
    parser.add_argument("--networks", default="256x2,256x4,256x6,3_50,3_100,5_100,6_100,Point,PGDK,DiffAI")
    parser.add_argument("--engine", default="saliency")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="of these images take only each N-th")
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.set_defaults(run=run)
