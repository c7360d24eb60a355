"""Exact decimals: levels and failure probabilities are rational numbers, never binary floats."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fractions import Fraction

from neurosym.errors import InputError

Number = str | float | int | Fraction | Decimal


def decimal(value: Number, name: str = "value") -> Fraction:
    """Exact rational value of a decimal number.

    Text and ``Decimal`` are read digit by digit; a float is read as its shortest decimal text, so that ``0.1``
    means one tenth and not the nearest binary number.

    Raises:
        InputError: not a finite decimal number.
    """
    if isinstance(value, Fraction):
        return value
    text = repr(value) if isinstance(value, float) else str(value)
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise InputError(f"{name}: {value!r} is not a number; write a decimal such as 0.1") from None
    if not number.is_finite():
        raise InputError(f"{name}: {value!r} is not finite; write a decimal such as 0.1")
    return Fraction(number)


def to_text(value: Fraction) -> str:
    """Shortest exact text: a decimal where the expansion ends, otherwise ``p/q``."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    if denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = 0
    while (value * 10**digits).denominator != 1:
        digits += 1
    scaled = abs((value * 10**digits).numerator)
    sign = "-" if value < 0 else ""
    if digits == 0:
        return f"{sign}{scaled}"
    text = f"{scaled:0{digits + 1}d}"
    return f"{sign}{text[:-digits]}.{text[-digits:]}"


def from_text(text: str, name: str = "value") -> Fraction:
    """Inverse of :func:`to_text`.

    Raises:
        InputError: neither a decimal nor ``p/q``.
    """
    if "/" in text:
        top, _, bottom = text.partition("/")
        try:
            return Fraction(int(top), int(bottom))
        except (ValueError, ZeroDivisionError):
            raise InputError(f"{name}: {text!r} is not a fraction p/q") from None
    return decimal(text, name)
