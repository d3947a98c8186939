"""GELU as one operator where exporters have written it out: x/2 · (1 + erf(x/√2)).

Written out it is a product of two things that depend on the image, which is made affine otherwise
than the activation that the network was built with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import GraphProto, NodeProto, numpy_helper

# Constants are rounded to float32 or float16.
_CLOSE = 2e-3


def fuse_gelu(graph: GraphProto) -> None:
    """Turn every written-out GELU into one node; what it was made of is left for nobody's use."""
    parts = _Parts(graph)
    for node in graph.node:
        if node.op_type != "Mul":
            continue
        scale, factors = parts.product(node.output[0])
        if len(factors) != 2 or abs(scale - 0.5) > _CLOSE:
            continue
        for x, other in (factors, factors[::-1]):
            if parts.is_one_plus_erf(other, x):
                node.op_type = "Gelu"
                del node.input[:]
                node.input.append(x)
                break


class _Parts:
    """What values of a graph are made of."""

    def __init__(self, graph: GraphProto) -> None:
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._numbers: Mapping[str, float] = {
            one.name: float(numpy_helper.to_array(one).item())
            for one in graph.initializer
            if math.prod(one.dims) == 1
        }
        # In the order of the nodes, so that each is looked at once.
        self._products: dict[str, tuple[float, list[str]]] = {}
        for node in graph.node:
            found = self._multiplied(node)
            if found is not None:
                self._products[node.output[0]] = found

    def product(self, name: str) -> tuple[float, list[str]]:
        """A value as a number times other values that are no products themselves."""
        if name in self._numbers:
            return self._numbers[name], []
        return self._products.get(name, (1.0, [name]))

    def _multiplied(self, node: NodeProto) -> tuple[float, list[str]] | None:
        """What a node gives as such a product; None where it is none, or one of many values."""
        if node.op_type not in ("Mul", "Div"):
            return None
        scale, factors = self.product(node.input[0])
        if node.op_type == "Div":
            under = self._numbers.get(node.input[1], 0.0)
            return (scale / under, factors) if under else None
        other, more = self.product(node.input[1])
        return (scale * other, [*factors, *more]) if len(factors) + len(more) <= 2 else None

    def is_one_plus_erf(self, name: str, x: str) -> bool:
        """Whether a value is 1 + erf(x/√2)."""
        added = self._of_kind(name, "Add")
        if added is None:
            return False
        for one, other in (added.input, added.input[::-1]):
            erf = self._of_kind(other, "Erf")
            if erf is not None and abs(self._numbers.get(one, 0.0) - 1) < _CLOSE:
                scale, factors = self.product(erf.input[0])
                return factors == [x] and abs(scale - math.sqrt(0.5)) < _CLOSE
        return False

    def _of_kind(self, name: str, kind: str) -> NodeProto | None:
        node = self._made_by.get(name)
        return node if node is not None and node.op_type == kind else None
