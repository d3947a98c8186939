"""What is sent back: JSON without NaN, errors as one sentence each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from guidxmage.errors import GuidXmageError

_PLAIN = (str, int, type(None))
JSON_TYPE = "application/json; charset=utf-8"


class RefusedError(GuidXmageError):
    """A request that is not answered, with the HTTP status that says why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def json_bytes(document: Any) -> bytes:
    """As JSON in UTF-8; what is no finite number is null."""
    text = json.dumps(_finite(document), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return value if isinstance(value, _PLAIN) else str(value)
