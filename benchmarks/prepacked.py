"""Whether convolutions with prepacked weights could be recorded: how much faster, and the same?

    python benchmarks/prepacked.py [--network resnet50] [--batch 1] [--threads 1]

Every ungrouped convolution of a network is run on the input it gets, as it is and with its weight
in oneDNN's own order. A trail is the user's own only if both agree to the last bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from compiled import milliseconds
from torch import Tensor, nn

from guidxmage import load_model


def inputs_of(model: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, Tensor]]:
    """Each ungrouped convolution with what it is given."""
    found: list[tuple[nn.Conv2d, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda own, args: found.append((own, args[0].clone())))
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == 1
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return found


def prepacked(layer: nn.Conv2d, x: Tensor) -> Callable[[], Tensor]:
    """The same convolution with a weight that lies ready."""
    assert not isinstance(layer.padding, str)
    padding, stride, dilation = list(layer.padding), list(layer.stride), list(layer.dilation)
    ready = torch.ops.aten.mkldnn_reorder_conv2d_weight(
        layer.weight.to_mkldnn(), padding, stride, dilation, 1, list(x.shape)
    )
    return lambda: torch.ops.mkldnn._convolution_pointwise(
        x, ready, layer.bias, padding, stride, dilation, 1, "none", [], ""
    )


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet50", help="a network's name")
    parser.add_argument("--batch", type=int, default=1, help="images at once (default 1)")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default 9)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.network, weights="none").model.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch, 3, 224, 224, generator=generator)
    own, ready, same = 0.0, 0.0, 0
    with torch.no_grad():
        layers = inputs_of(model, images)
        for layer, x in layers:
            packed = prepacked(layer, x)
            same += torch.equal(layer(x), packed())
            own += milliseconds(lambda layer=layer, x=x: layer(x), arguments.rounds)  # type: ignore[misc]
            ready += milliseconds(packed, arguments.rounds)
    print(f"{len(layers)} convolutions, {same} of them the same to the last bit")
    print(
        f"{own:.0f} ms as they are, {ready:.0f} ms prepacked: {100 * (1 - ready / own):.0f} % less"
    )


if __name__ == "__main__":
    main()
