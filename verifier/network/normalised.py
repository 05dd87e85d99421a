"""A network with its normalisation in front: a function of the data."""

from __future__ import annotations

from dataclasses import replace

from verifier.network.graph import Network, Node
from verifier.network.operators import Array, Scale


def normalised(network: Network, mean: Array, std: Array) -> Network:
    """``x -> network((x - mean) / std)``, with scale and shift rounded to float64 once.

    What is proved of it is proved of these float64 numbers. It has no model file, so that onnxruntime cannot be asked.

    Args:
        mean, std: ``(n,)``, one number an entry; no std is 0.
    """
    shape = network.input_shape
    scale = Scale((1.0 / std).reshape(shape), (-mean / std).reshape(shape))
    first = network.nodes[0]
    name = next(n for n in ("data", *(f"data_{k}" for k in range(len(network.nodes) + 1))) if n not in network)
    front = (replace(first, name=name), Node(first.name, scale, (name,), shape))
    remark = "the network's normalisation, (x - mean) / std, is part of what is analysed"
    return Network(
        nodes=(*front, *network.nodes[1:]),
        output=network.output,
        source=network.source,
        tail=network.tail,
        remarks=(*network.remarks, remark),
    )
