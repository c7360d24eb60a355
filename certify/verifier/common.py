"""What every check works on, and how a check says no."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import numpy as np

from neurosym.certify.schema import Certificate, Real
from neurosym.certify.verifier.rules import NotRederivable, Unreadable


class Refused(Exception):
    """A check failed; the message says why in plain words."""


@dataclass(frozen=True)
class Check:
    """One check: its name, its verdict, and the reason (or what was re-derived)."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Run:
    """A certificate, the document it was read from, and the arrays beside it."""

    certificate: Certificate
    document: dict[str, Any]
    text: str
    arrays: dict[str, np.ndarray]


def attempt(name: str, work: Callable[[Run], str], run: Run) -> Check:
    """Run one check. Anything it cannot handle is a no with a reason, never a pass."""
    try:
        return Check(name, True, work(run))
    except Refused as error:
        return Check(name, False, str(error))
    except NotRederivable as error:
        return Check(name, False, f"not re-derivable: {error}")
    except Unreadable as error:
        return Check(name, False, str(error))
    except (ArithmeticError, ValueError, TypeError, LookupError, OverflowError) as error:
        first = (str(error).splitlines() or [""])[0]
        return Check(name, False, f"cannot be evaluated ({type(error).__name__}: {first})")


def fraction(text: str, what: str) -> Fraction:
    """A decimal, or ``p/q``, exactly."""
    top, slash, bottom = text.partition("/")
    try:
        values = [Decimal(part) for part in ((top, bottom) if slash else (top,))]
    except InvalidOperation:
        raise Refused(f"{what} {text!r} is not a decimal number") from None
    if not all(value.is_finite() for value in values) or any(abs(value.adjusted()) > 400 for value in values):
        raise Refused(f"{what} {text!r} is not a finite number of reasonable size")
    if slash and values[1] == 0:
        raise Refused(f"{what} {text!r} divides by zero")
    return Fraction(values[0]) / (Fraction(values[1]) if slash else 1)


def budget(run: Run) -> dict[str, Fraction]:
    """Budget items by name."""
    return {item.name: fraction(item.value, f"budget item {item.name}") for item in run.certificate.budget}


def integer(run: Run, name: str) -> int:
    """A derived integer."""
    value = run.certificate.derived.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(f"derived.{name} is missing or not an integer")
    return value


def real(run: Run, name: str) -> float:
    """A derived float."""
    value = run.certificate.derived.get(name)
    if not isinstance(value, Real) or not math.isfinite(value.value):
        raise Refused(f"derived.{name} is missing or not a finite number")
    return value.value


def hex_value(text: str, what: str) -> float:
    """A float written in hexadecimal (``inf`` is allowed)."""
    try:
        value = float.fromhex(text)
    except (ValueError, OverflowError):
        raise Refused(f"{what} {text!r} is not a hexadecimal float") from None
    if math.isnan(value):
        raise Refused(f"{what} is not a number")
    return value


def array(run: Run, name: str, columns: int | None, kind: str) -> np.ndarray:
    """An array of ``sets.npz`` of the right shape and kind (numpy kind characters)."""
    if name not in run.arrays:
        raise Refused(f"sets.npz lacks {name}")
    found, n = run.arrays[name], run.certificate.test.n
    shape = (n,) if columns is None else (n, columns)
    if found.shape != shape:
        raise Refused(f"sets.npz: {name} has shape {found.shape}, not {shape}")
    if found.dtype.kind not in kind:
        raise Refused(f"sets.npz: {name} has dtype {found.dtype}")
    if found.dtype.kind == "f" and np.isnan(found).any():
        raise Refused(f"sets.npz: {name} holds NaN in row {int(np.argwhere(np.isnan(found))[0][0])}")
    return found


def ratio(run: Run) -> Fraction:
    """radius / sigma; 0 at radius 0."""
    radius = fraction(run.certificate.radius, "radius")
    sigma = fraction(run.certificate.sigma, "sigma")
    if radius == 0:
        return Fraction(0)
    if sigma <= 0:
        raise Refused("sigma must be positive where an attack radius is claimed")
    return radius / sigma


def compare_sets(run: Run, expected: np.ndarray, optional: np.ndarray | None = None) -> str:
    """Sets against what they must be; names the first row and label that differ.

    Args:
        expected: bool ``[n, K]``, labels that belong; optional: bool ``[n, K]``, labels that may be kept besides.
    """
    names = run.certificate.classes
    sets = array(run, "sets", len(names), "b")
    removed = expected & ~sets
    added = sets & ~expected if optional is None else sets & ~expected & ~optional
    wrong = np.argwhere(removed | added)
    if len(wrong):
        row, label = (int(value) for value in wrong[0])
        verb = "was removed" if removed[row, label] else "was added"
        more = f" ({len(wrong)} differences in all)" if len(wrong) > 1 else ""
        raise Refused(f"row {row}: label {names[label]} {verb}{more}")
    return f"all {sets.shape[0]} sets follow from the observed statistics"
