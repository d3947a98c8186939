"""Exported graphs that need not be traced a second time to be free of writes.

`run_decompositions` makes any graph functional, at more than twice the cost of the export. The
graphs of most convolutional networks hold nothing to translate but batch-norms and in-place
operators on values of their own; those are read as they are.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten

# What writes over its first argument, and the same without writing.
_WRITES = {
    aten.relu_.default: aten.relu.default,
    aten.hardtanh_.default: aten.hardtanh.default,
    aten.leaky_relu_.default: aten.leaky_relu.default,
    aten.add_.Tensor: aten.add.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
    aten.dropout_.default: aten.dropout.default,
}
# What returns memory of its own.
_FRESH = frozenset(
    [
        *_WRITES.values(),
        aten.conv1d.default,
        aten.conv2d.default,
        aten.conv3d.default,
        aten.batch_norm.default,
        aten.linear.default,
        aten.sub.Tensor,
        aten.div.Tensor,
        aten.cat.default,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.mean.dim,
    ]
)
# What may return a view of its argument, or the argument itself.
_VIEWS = frozenset(
    [
        aten.view.default,
        aten.flatten.using_ints,
        aten.transpose.int,
        aten.permute.default,
        aten.contiguous.default,
        aten.chunk.default,
        aten.dropout.default,
        aten.adaptive_avg_pool2d.default,
        aten.pad.default,
        operator.getitem,
    ]
)
# The place of `training` among the arguments of a batch-norm.
_TRAINING = 5


def is_plain(graph: Graph) -> bool:
    """Whether `translated` and `written` say all there is to know of a graph as it was exported."""
    owner: dict[Node, Node] = {}  # the fresh value that lies in a node's memory
    viewed: set[Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or isinstance(node.meta.get("val"), torch.SymInt):
            continue
        if node.target in _WRITES:
            own = owner.get(node.args[0])
            if own is None or own in viewed:
                return False
            owner[node] = own
        elif node.target in _VIEWS:
            viewed.update(owner[read] for read in node.all_input_nodes if read in owner)
        elif node.target not in _FRESH or _is_training(node):
            return False
        else:
            owner[node] = node
    return True


def _is_training(node: Node) -> bool:
    return node.target is aten.batch_norm.default and node.args[_TRAINING] is not False


def translated(target: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], int | None]:
    """A call as its functional counterpart: operator, arguments, and which output is meant."""
    if target is aten.batch_norm.default:
        # What it calls on a CPU; without `training` and the wish for cuDNN.
        own = (*args[:_TRAINING], *args[_TRAINING + 1 : _TRAINING + 3])
        return aten._native_batch_norm_legit_no_training.default, own, 0
    return _WRITES.get(target, target), args, None


def written(node: Node) -> Iterable[Node]:
    """The earlier nodes whose memory a node writes over: they too have its value from now on."""
    while node.target in _WRITES:
        node = cast(Node, node.args[0])
        yield node
