"""Errors that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class InputError(ValueError):
    """Bad input from outside: one line that names the file, field and row at fault and how to mend it."""


def field_message(error: Mapping[str, Any], fields: Iterable[str]) -> str:
    """One line for one of pydantic's ``ValidationError.errors()``: the field, what is wrong and the mend.

    ``fields`` are the top-level fields of the configuration.
    """
    place = ".".join(str(part) for part in error["loc"]) or "document"
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        text = "is missing; add it"
    elif error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place, list(fields), n=1)
        text = "is unknown; " + (f"did you mean {near[0]!r}?" if near else "remove it or correct its name")
    elif error["type"] in ("model_type", "model_attributes_type"):
        text = f"holds {error['input']!r} where fields of its own are expected; see the command's --help"
    return f"field {place}: {text}"
