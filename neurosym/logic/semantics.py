"""Truth of formulas in worlds, one world or arrays of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from neurosym.errors import InputError
from neurosym.logic.formula import And, Const, Formula, Iff, Implies, Not, Or, Var, variables

MAX_TABLE = 24
"""Most variables of a truth table: 2^24 entries are 16 MiB."""


def evaluate(formula: Formula, world: Mapping[str, Any]) -> Any:
    """Truth of ``formula`` in ``world``.

    Args:
        world: for each name a bool (or 0 / 1), or an array of them; arrays broadcast against each other.

    Returns:
        bool if every value is a scalar, else a bool ndarray of the common shape of all values in ``world``.

    Raises:
        InputError: a name has no value, a value is not 0 or 1, or shapes do not broadcast.
    """
    shape = _shape(world.values())
    values = {name: truth(world, name) for name in variables(formula)}
    result = _evaluate(formula, values)
    if not shape:
        return bool(result)
    return np.broadcast_to(np.asarray(result, dtype=bool), shape).copy()


def _shape(values: Iterable[Any]) -> tuple[int, ...]:
    shapes = {getattr(value, "shape", None) or np.shape(value) for value in values}
    try:
        return reduce(np.broadcast_shapes, shapes, ())
    except ValueError:
        raise InputError(f"the arrays of a world must share a shape; got {sorted(shapes)}") from None


def truth(world: Mapping[str, Any], name: str) -> np.ndarray:
    """The value of ``name`` as a bool ndarray, or :class:`InputError` if there is none or it is no truth value."""
    if name not in world:
        raise InputError(f"the world gives no value for {name!r}")
    value = np.asarray(world[name])
    if value.dtype != bool:
        if value.dtype.kind not in "iu" or ((value != 0) & (value != 1)).any():
            raise InputError(f"the value of {name!r} must be true / false or 0 / 1; threshold probabilities first")
        value = value.astype(bool)
    return value


def _evaluate(formula: Formula, values: Mapping[str, Any]) -> Any:
    match formula:
        case Var(name):
            return values[name]
        case Const(value):
            return np.asarray(value)
        case Not(arg):
            return ~_evaluate(arg, values)
        case And(args):
            return reduce(np.logical_and, [_evaluate(arg, values) for arg in args])
        case Or(args):
            return reduce(np.logical_or, [_evaluate(arg, values) for arg in args])
        case Implies(left, right):
            return ~_evaluate(left, values) | _evaluate(right, values)
        case Iff(left, right):
            return _evaluate(left, values) == _evaluate(right, values)
    raise InputError(f"not a formula: {formula!r}")


def truth_table(formula: Formula, names: Sequence[str] | None = None) -> np.ndarray:
    """All truth values of ``formula``.

    Args:
        names: the axes, in order; must contain every variable of the formula. Default: its variables.

    Returns:
        bool[(2,) * k]; index 1 along axis i stands for ``names[i]`` true.
    """
    axes = tuple(variables(formula) if names is None else names)
    if len(set(axes)) != len(axes):
        raise InputError("the names of a truth table must be distinct")
    if len(axes) > MAX_TABLE:
        raise InputError(f"a truth table over {len(axes)} names is too large; at most {MAX_TABLE}")
    missing = [name for name in variables(formula) if name not in axes]
    if missing:
        raise InputError(f"the formula mentions {missing[0]!r}, which is not among the names of the table")
    shapes = np.eye(len(axes), dtype=int) + 1
    world = {name: np.array([False, True]).reshape(shape) for name, shape in zip(axes, shapes, strict=True)}
    if not axes:
        return np.asarray(evaluate(formula, {}))
    return np.asarray(evaluate(formula, world))
