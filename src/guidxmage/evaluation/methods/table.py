"""All methods by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidxmage.errors import InputError
from guidxmage.evaluation.methods.cams import cam
from guidxmage.evaluation.methods.controls import centre, edges, random_map
from guidxmage.evaluation.methods.gradients import STEPS, captum
from guidxmage.evaluation.methods.method import Attribute, Method
from guidxmage.evaluation.methods.ours import contributions
from guidxmage.evaluation.methods.relevance import epsilon_plus
from guidxmage.evaluation.methods.whole import LAST, sigma_of, whole_map


def _cam(name: str, title: str, call: str) -> Method:
    return Method(name, title, "grad-cam", cam(call), signed=False, package="pytorch_grad_cam")


def _whole(name: str, title: str, depth: Any) -> Method:
    return Method(
        name,
        title,
        "guid-xmage",
        whole_map(depth),
        signed=True,
        total="score",
        sigma=sigma_of(depth),
    )


def _captum(name: str, title: str, attribute: Attribute) -> Method:
    return Method(name, title, "captum", attribute, signed=True, package="captum")


_ALL = (
    Method(
        "guid-xmage", "guid-Xmage", "guid-xmage", contributions, signed=True, total="score - bias"
    ),
    _whole("whole", "whole, input", "input"),
    _whole("depth-8", "whole, stride 8", 8),
    _whole("depth", "whole, default", "default"),
    _whole("signed-cam", "signed CAM", LAST),
    _cam("grad-cam", "grad-CAM", "GradCAM"),
    _cam("grad-cam++", "grad-CAM++", "GradCAMPlusPlus"),
    Method(
        "score-cam",
        "score-CAM",
        "grad-cam",
        cam("ScoreCAM"),
        signed=False,
        passes=lambda subject: subject.channels,
        package="pytorch_grad_cam",
    ),
    _cam("hirescam", "HiResCAM", "HiResCAM"),
    _cam("layercam", "LayerCAM", "LayerCAM"),
    _cam("fullgrad", "FullGrad", "FullGrad"),
    Method(
        "input-x-gradient",
        "input × gradient",
        "captum",
        captum("InputXGradient"),
        signed=True,
        total="score",
        package="captum",
    ),
    Method(
        "integrated-gradients",
        "integrated gradients",
        "captum",
        captum("IntegratedGradients", n_steps=STEPS, internal_batch_size=8),
        signed=True,
        total="score - score of black",
        passes=lambda _: 2 * STEPS,
        package="captum",
    ),
    Method(
        "deeplift",
        "DeepLift",
        "captum",
        captum("DeepLift"),
        signed=True,
        total="score - score of black",
        passes=lambda _: 4,
        package="captum",
    ),
    _captum("guided-backprop", "guided backprop", captum("GuidedBackprop")),
    Method(
        "lrp",
        "LRP (EpsilonPlus)",
        "zennit",
        epsilon_plus,
        signed=True,
        total="score",
        package="zennit",
    ),
    Method("random", "random map", "control", random_map, signed=True, passes=lambda _: 0),
    Method("centre", "centre prior", "control", centre, signed=False, passes=lambda _: 0),
    Method("edges", "edges", "control", edges, signed=False, passes=lambda _: 0),
)
METHODS = {method.name: method for method in _ALL}
"""guid-Xmage, class activation maps, gradient methods, relevance, and controls."""


def choose_methods(names: Sequence[str]) -> list[Method]:
    """Methods by their names. Raises InputError for one that there is not."""
    for name in names:
        if name not in METHODS:
            raise InputError(f"there is no method {name!r}; choose from {', '.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names)]
