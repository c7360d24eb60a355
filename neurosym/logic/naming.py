"""Names of predicates, groups and circuits, and errors that know which field they are about."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from neurosym.errors import InputError
from neurosym.logic.formula import check_name

FieldPath: TypeAlias = tuple[str | int, ...]


class FieldError(InputError):
    """An :class:`InputError` with the path of the field at fault, which a file reader turns into a line."""

    def __init__(self, message: str, path: FieldPath) -> None:
        super().__init__(message)
        self.path = path


def closest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known name nearest to ``word``, or nothing."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def named(name: Any, what: str, path: FieldPath) -> str:
    """A valid name, or a :class:`FieldError`."""
    if isinstance(name, bool):
        raise FieldError(f"{what} is read as a truth value ({str(name).lower()}); put the word in quotes", path)
    try:
        return check_name(name, what)
    except InputError as error:
        raise FieldError(str(error), path) from None


def distinct_names(names: Any, what: str, path: FieldPath) -> tuple[str, ...]:
    """A tuple of valid names without repetition, or a :class:`FieldError` at the first offender."""
    if isinstance(names, (str, bytes, Mapping)) or not isinstance(names, Iterable):
        raise FieldError(f"{what} must be a list of names, not {names!r}", path)
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        named(name, f"{what}[{i}]", (*path, i))
        if name in seen:
            raise FieldError(f"{what}[{i}] {name!r} repeats {what}[{seen[name]}]", (*path, i))
        seen[name] = i
    return tuple(seen)
