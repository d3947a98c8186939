"""What a page asks: data from outside, checked before anything is done with it."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from guidxmage.errors import InputError

Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]
MOST_GRADIENTS = 500
"""The largest budget of an attack: on a large network some minutes."""
_WORDS = 200
# Larger than any picture, so that sums of it stay small numbers.
_Count = Annotated[int, Field(ge=0, le=2**40)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Area(_Checked):
    """Pixels as run lengths: zeros, ones, zeros, … of the mask's rows."""

    runs: list[_Count] = Field(min_length=1)

    def mask(self, size: Size) -> Mask:
        """The area, bool (H, W). Raises InputError for one that does not fit or has no pixel."""
        height, width = size
        if len(self.runs) > height * width + 1 or sum(self.runs) != height * width:
            raise InputError(
                f"the area's {len(self.runs):,} runs do not make up {height} × {width} pixels"
            )
        if not any(self.runs[1::2]):
            raise InputError("the area has no pixel")
        ones = np.arange(len(self.runs)) % 2 == 1
        return np.repeat(ones, self.runs).reshape(size)


class Pixels(_Checked):
    """Pixels of another photo, laid into a box: top, left, height, width."""

    box: list[_Count] = Field(min_length=4, max_length=4)
    rgb: str

    def colours(self, area: Mask) -> npt.NDArray[np.uint8]:
        """The colours (H, W, 3) in the box, black elsewhere.

        Raises InputError where they are not as many as the box has, or do not cover the area.
        """
        top, left, height, width = self.box
        if top + height > area.shape[0] or left + width > area.shape[1] or not height * width:
            raise InputError(f"the photo's box {self.box} does not lie in the picture")
        if len(self.rgb) != 4 * height * width:  # three bytes are four characters
            raise InputError(
                f"the photo's pixels are {len(self.rgb):,} characters where a box of {height} × "
                f"{width} takes {4 * height * width:,}"
            )
        try:
            content = base64.b64decode(self.rgb, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"the photo's pixels are no base64: {error}") from error
        if len(content) != 3 * height * width:
            raise InputError("the photo's pixels are fewer than its box has")
        rows, columns = slice(top, top + height), slice(left, left + width)
        within = np.zeros_like(area)
        within[rows, columns] = True
        if bool((area & ~within).any()):
            raise InputError("the photo does not cover the area; move it, or make it larger")
        colours = np.zeros((*area.shape, 3), np.uint8)
        colours[rows, columns] = np.frombuffer(content, np.uint8).reshape(height, width, 3)
        return colours


class Erase(_Checked):
    """Fill an area with other pixels, and check."""

    kind: Literal["erase"]
    target: _Count
    area: Area
    fill: Literal["zero", "black", "blur", "photo"]
    photo: Pixels | None = None


class Attack(_Checked):
    """The smallest change, inside an area or anywhere, that changes the answer."""

    kind: Literal["attack"]
    target: _Count
    area: Area | None = None
    norm: Literal["l2", "linf", "l1", "l0"]
    budget: Annotated[int, Field(ge=1, le=MOST_GRADIENTS)] = 40


class Explain(_Checked):
    """One more class, or a class rather than another."""

    kind: Literal["explain"]
    target: _Count
    against: Annotated[int, Field(ge=-1, le=2**40)] = -1


Question = Erase | Attack | Explain
_QUESTIONS: TypeAdapter[Question] = TypeAdapter(Annotated[Question, Field(discriminator="kind")])


def read_question(question: Any) -> Question:
    """A question from the outside. Raises InputError for what is none."""
    try:
        return _QUESTIONS.validate_python(question)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:_WORDS]
        what = first["msg"][:_WORDS]
        words = f"{where}: {what}" if where else what
        raise InputError(f"the question is not understood: {words}") from error
    except RecursionError as error:
        raise InputError("the question is not understood: it is nested too deep") from error
