"""Which part of each node a neuron can see: rectangles of images, followed back through convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from verifier.network.convolution import Conv
from verifier.network.graph import Network, Node
from verifier.network.operators import Concat, Shape


@dataclass(frozen=True)
class Window:
    """Rows ``top <= y < bottom`` and columns ``left <= x < right`` of an image ``(channels, H, W)``."""

    top: int
    left: int
    bottom: int
    right: int

    @staticmethod
    def whole(shape: Shape) -> Window | None:
        """All of an image; None for a node that is no image, of which every part sees all."""
        return Window(0, 0, shape[1], shape[2]) if len(shape) == 3 else None

    def union(self, other: Window) -> Window:
        """The smallest rectangle about both."""
        return Window(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def shape(self, node: Shape) -> Shape:
        """Shape of this part of a node."""
        return (node[0], self.bottom - self.top, self.right - self.left)


def seen(network: Network, node: Node, window: Window | None, source: str) -> Window | None:
    """The part of an input that this part of a node is computed from."""
    shape, operator = network[source].shape, node.operator
    if window is None or len(shape) != 3:
        return Window.whole(shape)
    if operator.elementwise or (isinstance(operator, Concat) and operator.axis == 0):
        return window
    if isinstance(operator, Conv):
        (top, left, _, _), kernel = operator.padding, operator.weight.shape[2:]
        (sy, sx), (dy, dx) = operator.stride, operator.dilation
        first = (window.top * sy - top, window.left * sx - left)
        last = (
            (window.bottom - 1) * sy - top + dy * (kernel[0] - 1) + 1,
            (window.right - 1) * sx - left + dx * (kernel[1] - 1) + 1,
        )
        found = Window(max(first[0], 0), max(first[1], 0), min(last[0], shape[1]), min(last[1], shape[2]))
        # a window that lies in the padding sees nothing; one row is kept so that no tensor is empty
        y, x = min(found.top, shape[1] - 1), min(found.left, shape[2] - 1)
        return Window(y, x, max(found.bottom, y + 1), max(found.right, x + 1))
    return Window.whole(shape)


def windows_from(network: Network, start: str, window: Window | None) -> dict[str, Window | None]:
    """The part of every node that a part of one of them is computed from, in topological order (that one included)."""
    parts: dict[str, Window | None] = {start: window}
    for node in reversed(network.nodes):
        if node.name not in parts:
            continue
        for source in node.inputs:
            part = seen(network, node, parts[node.name], source)
            known = parts.get(source)
            parts[source] = part.union(known) if part is not None and known is not None else part
    return {n.name: parts[n.name] for n in network.nodes if n.name in parts}
