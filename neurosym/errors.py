"""Errors that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from outside: one line that names the file, field and row at fault and how to mend it."""
