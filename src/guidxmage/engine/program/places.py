"""Where every value of a program lies on the picture, and where the program can be cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from guidxmage.engine.calls.call import Call, Frame, is_source
from guidxmage.engine.program.program import Program
from guidxmage.engine.rules import rule_of
from guidxmage.engine.rules.places import Places, as_input


@dataclass(frozen=True)
class Cut:
    """A place between two calls of a program: behind value `after`, 0 for the image.

    site: the call site of that value, "input" for the image. live: the values that are computed by
    then and needed behind it; usually one.
    """

    site: str
    after: int
    live: tuple[int, ...]


INPUT = "input"
# Words that mean a depth, and what layers of these names are called.
SPOKEN_FOR = {word: f"{word} (layer)" for word in (INPUT, "default", "all")}


def site_name(site: str) -> str:
    """A call site as cuts are named."""
    return SPOKEN_FOR.get(site, site)


def places_of(program: Program) -> dict[int, Places]:
    """Where the values of the symbolic calls lie, by value, for one image."""
    if program.bound_ids:  # what is put in for one image may say where things come from
        return _propagated(program)
    found: dict[int, Places] = program.once("places", lambda: _propagated(program))
    return found


def _propagated(program: Program) -> dict[int, Places]:
    shape = (1, *program.input_shape)
    like = torch.empty(0, dtype=program.dtype, device=program.device)
    known = {0: Places.of_picture(shape, like) if len(shape) > 2 else Places(shape)}
    shapes = program.shapes(1)
    for call in program.symbolic_calls:
        if is_source(call):
            known[call.id] = Places(shapes[call.id])
            continue
        rule = rule_of(call)
        frame = Frame(call, 1, shapes[call.id], {})
        if call.keeps or rule is None or rule.places is None:
            known[call.id] = as_input(frame, *[known[id_] for id_ in call.inputs])
        else:
            known[call.id] = rule.places(frame, *call.arguments(known, 1), **call.kwargs)
    return known


def live_behind(calls: Sequence[Call], result: int) -> list[tuple[int, ...]]:
    """For each call the values that are known behind it and needed later, the result among them."""
    last = {id_: number for number, call in enumerate(calls) for id_ in call.inputs}
    last[result] = len(calls)
    first = {call.id: number for number, call in enumerate(calls)} | {0: -1}
    return [
        tuple(id_ for id_, end in last.items() if first.get(id_, end) <= number < end)
        for number in range(len(calls))
    ]


def faithful(program: Program) -> frozenset[int]:
    """The values of which the symbolic calls compute the same as the user's own."""
    found: frozenset[int] = program.once("faithful", lambda: _faithful(program))
    return found


def _faithful(program: Program) -> frozenset[int]:
    own = {call.id: call for call in program.calls}
    same, scaled = {0}, set()
    for call in program.symbolic_calls:
        mine = own.get(call.id)
        added = mine is not None and "batch_norm" in mine.op and call.op == "aten.add.Tensor"
        # Folding moves a batch-norm's scale past the next ReLU into a convolution.
        if added or (call.op == "aten.relu.default" and call.inputs[0] in scaled):
            scaled.add(call.id)
        elif mine is not None:
            same.add(call.id)
    return frozenset(same)


def plain_cuts(program: Program) -> list[Cut]:
    """The cuts, from the image on, at which a single value is live that lies on the picture."""
    places, calls, known = places_of(program), program.symbolic_calls, faithful(program)
    sites = {call.id: call.site for call in program.calls}  # folding calls some otherwise
    found = [Cut(INPUT, 0, (0,))] if places[0].somewhere else []
    for call, live in zip(calls, live_behind(calls, program.result), strict=True):
        if live == (call.id,) and call.id in known and places[call.id].somewhere:
            found.append(Cut(site_name(sites[call.id]), call.id, live))
    return found
