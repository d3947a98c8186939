"""A kind of output in words, as on the command line."""

from __future__ import annotations

from typing import Any

from guidxmage.errors import InputError
from guidxmage.outputs.kinds import KINDS, Boxes, Output, Scores
from guidxmage.outputs.reading import Pick

_FORM = (
    "write a kind (scores, regression, segmentation, boxes, embedding), or one with what it is "
    'read from, such as "segmentation:out", "embedding:image_embeds" or '
    '"boxes:boxes=pred_boxes,scores=logits,form=cxcywh,unit=share,overlap=none,background=-1"'
)
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


def output_of(text: str) -> Output:
    """The output that is meant: a key or index of class scores, a kind, or a kind with settings.

    Raises InputError.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        if "=" in text or not text.strip():
            raise InputError(f"output {text!r} is not understood; {_FORM}")
        return Scores(_pick(text))
    given = [_setting(part, text) for part in rest.split(",") if part]
    settings = dict(given)
    if len(settings) < len(given):
        raise InputError(f"output {text!r} has a setting twice; join several names by +")
    if kind == "boxes":
        return Boxes(**{name: _of_boxes(name, value, text) for name, value in settings.items()})
    allowed = {"pick", *(("names", "units") if kind == "regression" else ())}
    if kind == "scores":
        allowed |= {"multi_label"}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in allowed:
            raise InputError(f"output {kind} has no {name!r}; it has {', '.join(sorted(allowed))}")
        found[name] = _of_one(name, value)
    made: Output = KINDS[kind](**found)
    return made


def _setting(part: str, text: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if not equals:
        return "pick", name.strip()
    if not name.strip() or not value.strip():
        raise InputError(f"{part!r} in the output {text!r} is not understood; {_FORM}")
    return name.strip(), value.strip()


def _pick(text: str) -> Pick:
    """A key, or an index where it is a number."""
    number = text.removeprefix("-")
    return int(text) if number.isascii() and number.isdigit() and len(number) < 10 else text


def _of_one(name: str, value: str) -> Any:
    if name == "pick":
        return _pick(value)
    if name == "multi_label":
        if value.lower() not in _YES + _NO:
            raise InputError(f"multi_label={value} is neither true nor false")
        return value.lower() in _YES
    return tuple(value.split("+"))


def _of_boxes(name: str, value: str, text: str) -> Any:
    """A setting of `Boxes`."""
    if name in ("boxes", "scores"):
        return _pick(value)
    if name in ("form", "unit"):
        return value
    if value.lower() == "none" and name in ("overlap", "background"):
        return None
    numbers: dict[str, Any] = {
        "threshold": float,
        "overlap": float,
        "most": int,
        "background": int,
    }
    if name not in numbers:
        known = ", ".join(("boxes", "scores", "form", "unit", *numbers))
        raise InputError(f"boxes have no {name!r}; they have {known}")
    try:
        return numbers[name](value)
    except ValueError as error:
        raise InputError(f"{name}={value} in the output {text!r} is no number") from error
