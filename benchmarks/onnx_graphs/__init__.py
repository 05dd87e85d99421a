"""ONNX graphs of every operator that is read, in the form that each opset has for it, and torch modules as exported.

`GRAPHS` maps a name to a `Graph`: what writes it into a `Builder`, and the opsets that it exists in. The tests load each
and compare it with onnxruntime; `onnx_agreement.py` does so for all opsets.
"""

from __future__ import annotations

from onnx_graphs.builder import OPSETS, Builder, Graph
from onnx_graphs.curved import curved, jumping
from onnx_graphs.elementwise import elementwise, spelled_out, two_paths
from onnx_graphs.linear import matrices, over_axes, resizes, windows
from onnx_graphs.movement import movements, structures
from onnx_graphs.torch_modules import curved_modules, exported, modules

GRAPHS: dict[str, Graph] = {}
for _part in (
    elementwise,
    spelled_out,
    two_paths,
    matrices,
    windows,
    resizes,
    over_axes,
    movements,
    structures,
):
    GRAPHS.update(_part())
GRAPHS.update({name: Graph(write, first) for name, (write, first) in {**curved(), **jumping()}.items()})

__all__ = ["GRAPHS", "OPSETS", "Builder", "Graph", "curved_modules", "exported", "modules"]
