"""Checks of what was typed, all made before any work starts."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from neurosym.errors import InputError


def choice(option: str, value: str, known: Sequence[str]) -> str:
    """``value`` if it is one of ``known``.

    Raises:
        InputError: naming the nearest known value and all of them.
    """
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"{option}: {value!r} is unknown; {hint}choose one of {', '.join(known)}")


def level(option: str, value: str) -> str:
    """Exact decimal text of a miscoverage strictly between 0 and 1.

    Raises:
        InputError: not a number, or outside (0, 1).
    """
    from neurosym.certify import exact

    amount = exact.decimal(value, option)
    if not 0 < amount < 1:
        raise InputError(f"{option}: {value} is not between 0 and 1; write a miscoverage such as 0.1")
    return exact.to_text(amount)


def size(option: str, value: str) -> str:
    """Exact decimal text of a number >= 0.

    Raises:
        InputError: not a number, or negative.
    """
    from neurosym.certify import exact

    amount = exact.decimal(value, option)
    if amount < 0:
        raise InputError(f"{option}: {value} is negative; write a number >= 0 such as 0.25")
    return exact.to_text(amount)


def share(option: str, value: str) -> float:
    """A share at least 0 and below 1.

    Raises:
        InputError: not a number, or outside [0, 1).
    """
    from neurosym.certify import exact

    amount = exact.decimal(value, option)
    if not 0 <= amount < 1:
        raise InputError(f"{option}: {value} is not a share; write a number >= 0 and < 1 such as 0.2")
    return float(amount)


def whole(option: str, value: int, least: int) -> int:
    """``value`` if it is at least ``least``.

    Raises:
        InputError: it is smaller.
    """
    if value < least:
        raise InputError(f"{option}: {value} is too small; write a whole number >= {least}")
    return value


def existing_file(path: Path, mend: str) -> Path:
    """``path`` if it is a file that can be read.

    Raises:
        InputError: it is not; ``mend`` says what to give.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; {mend}")
    if not path.exists():
        raise InputError(f"{path}: no such file; {mend}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: cannot be read (permission denied); {mend}")
    return path


def existing_folder(path: Path, mend: str) -> Path:
    """``path`` if it is a folder.

    Raises:
        InputError: it is not; ``mend`` says what to give.
    """
    if not path.is_dir():
        raise InputError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}; {mend}")
    return path


def writable_folder(path: Path, option: str = "--out") -> Path:
    """``path`` if it is a folder one can write into, or could be made; nothing is made yet.

    Raises:
        InputError: a file is in the way, or the place cannot be written.
    """
    place = path.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{option} {path}: {place} is not a folder; give another place")
    try:
        # An anonymous file: the only question with a sure answer is whether writing works.
        with tempfile.TemporaryFile(dir=place):
            return path
    except OSError as error:
        raise InputError(f"{option} {path}: {place} cannot be written ({error.strerror}); give another place") from None


def writable_file(path: Path, option: str) -> Path:
    """``path`` if a file could be written there.

    Raises:
        InputError: it is a folder, or its folder is missing or cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; give the name of a file")
    existing_folder(path.absolute().parent, f"make it first, or give another {option}")
    writable_folder(path.absolute().parent, option)
    return path


def only_with(form: str, given: Mapping[str, object]) -> None:
    """Refuse options that have no effect in this form of a command.

    Args:
        form: what the options belong to, e.g. ``CONFIG.yaml or --demo``.
        given: option name to its value; None or False where it was not typed.

    Raises:
        InputError: naming the first option that was typed.
    """
    for option, value in given.items():
        if value is not None and value is not False:
            raise InputError(f"{option}: has an effect only with {form}; leave it out")
