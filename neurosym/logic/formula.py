"""The one formula type: an immutable syntax tree of propositional logic.

Every tree that can be constructed prints to text that parses back to the same tree,
``parse(to_text(f)) == f``: conjunctions and disjunctions have at least two arguments and keep their nesting, and
names are identifiers. The depth is bounded so that recursive functions over formulas never exhaust the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from neurosym.errors import InputError

MAX_DEPTH = 100
"""Deepest nesting of connectives; wide formulas (``a | b | c | ...``) are not limited by it."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = frozenset({"true", "false"})


def check_name(name: object, what: str = "name") -> str:
    """Return ``name`` if it can name a predicate, else raise :class:`InputError` saying what is wrong."""
    if not isinstance(name, str):
        raise InputError(f"{what} must be text, not {name!r}; put it in quotes")
    if name in RESERVED:
        raise InputError(f"{what} {name!r} is a reserved word of the rule language; choose another")
    if _IDENTIFIER.fullmatch(name) is None:
        raise InputError(f"{what} {name!r} must be letters, digits and _ and not start with a digit")
    return name


@dataclass(frozen=True)
class Var:
    """The predicate ``name``."""

    name: str

    def __post_init__(self) -> None:
        check_name(self.name, "predicate name")


@dataclass(frozen=True)
class Const:
    """The truth value ``true`` or ``false``."""

    value: bool

    def __post_init__(self) -> None:
        if not isinstance(self.value, bool):
            raise InputError(f"Const needs True or False, not {self.value!r}")


@dataclass(frozen=True)
class Not:
    """Negation."""

    arg: Formula

    def __post_init__(self) -> None:
        _set_depth(self, (self.arg,))


@dataclass(frozen=True)
class And:
    """Conjunction of two or more arguments."""

    args: tuple[Formula, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", _check_args(self.args, "And"))
        _set_depth(self, self.args)


@dataclass(frozen=True)
class Or:
    """Disjunction of two or more arguments."""

    args: tuple[Formula, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", _check_args(self.args, "Or"))
        _set_depth(self, self.args)


@dataclass(frozen=True)
class Implies:
    """Material implication: ``left -> right``."""

    left: Formula
    right: Formula

    def __post_init__(self) -> None:
        _set_depth(self, (self.left, self.right))


@dataclass(frozen=True)
class Iff:
    """Equivalence: ``left <-> right``."""

    left: Formula
    right: Formula

    def __post_init__(self) -> None:
        _set_depth(self, (self.left, self.right))


Formula: TypeAlias = Var | Const | Not | And | Or | Implies | Iff


def _check_args(args: object, kind: str) -> tuple[Formula, ...]:
    if not isinstance(args, (tuple, list)):
        raise InputError(f"{kind} needs a tuple of formulas, not {type(args).__name__}")
    if len(args) < 2:
        raise InputError(f"{kind} needs at least two arguments, not {len(args)}")
    return tuple(args)


def _set_depth(node: Formula, args: tuple[Formula, ...]) -> None:
    """Record the depth of ``node`` outside its fields, so that it plays no part in comparison or printing."""
    for arg in args:
        if not isinstance(arg, Formula):
            raise InputError(f"{type(node).__name__} needs formulas as arguments, not {type(arg).__name__}")
    level = 1 + max(depth(arg) for arg in args)
    if level > MAX_DEPTH:
        raise InputError(f"formula nests deeper than {MAX_DEPTH} levels; split it into several rules")
    object.__setattr__(node, "_depth", level)


def depth(formula: Formula) -> int:
    """Number of connectives on the longest path from the root to a leaf; 0 for names and constants."""
    return getattr(formula, "_depth", 0)


def children(formula: Formula) -> tuple[Formula, ...]:
    """Direct arguments of the root connective, left to right."""
    match formula:
        case And(args) | Or(args):
            return args
        case Implies(left, right) | Iff(left, right):
            return (left, right)
        case Not(arg):
            return (arg,)
        case _:
            return ()


def subformulas(formula: Formula) -> Iterator[Formula]:
    """Every node, root first, left to right; shared nodes as often as they occur."""
    stack = [formula]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def variables(formula: Formula) -> tuple[str, ...]:
    """Names in the formula, each once, in the order in which they are first met reading left to right."""
    return tuple(dict.fromkeys(node.name for node in subformulas(formula) if isinstance(node, Var)))


def rebuild(formula: Formula, args: tuple[Formula, ...]) -> Formula:
    """The same root connective over other arguments (as many as before)."""
    match formula:
        case And():
            return And(args)
        case Or():
            return Or(args)
        case Implies():
            return Implies(args[0], args[1])
        case Iff():
            return Iff(args[0], args[1])
        case Not():
            return Not(args[0])
        case _:
            return formula


def substitute(formula: Formula, mapping: Mapping[str, Formula]) -> Formula:
    """Replace names by formulas, all at once (what is put in is not looked at again)."""
    if isinstance(formula, Var):
        return mapping.get(formula.name, formula)
    args = children(formula)
    if not args:
        return formula
    return rebuild(formula, tuple(substitute(arg, mapping) for arg in args))


# Binding strength, loosest first. An argument that binds less tightly than its place needs gets parentheses.
_IFF, _IMPLIES, _OR, _AND, _NOT, _ATOM = range(6)
_LEVEL: dict[type, int] = {
    Iff: _IFF,
    Implies: _IMPLIES,
    Or: _OR,
    And: _AND,
    Not: _NOT,
    Var: _ATOM,
    Const: _ATOM,
}


def to_text(formula: Formula) -> str:
    """Text with the fewest parentheses that parses back to exactly this tree."""
    match formula:
        case Var(name):
            return name
        case Const(value):
            return "true" if value else "false"
        case Not(arg):
            return "~" + _wrapped(arg, _NOT)
        case And(args):
            # one level tighter than itself: an And inside an And keeps its parentheses and so its nesting
            return " & ".join([_wrapped(arg, _NOT) for arg in args])
        case Or(args):
            return " | ".join([_wrapped(arg, _AND) for arg in args])
        case Implies(left, right):
            return f"{_wrapped(left, _OR)} -> {_wrapped(right, _IMPLIES)}"
        case Iff(left, right):
            return f"{_wrapped(left, _IFF)} <-> {_wrapped(right, _IMPLIES)}"
    raise InputError(f"not a formula: {formula!r}")


def _wrapped(formula: Formula, needed: int) -> str:
    text = to_text(formula)
    return text if _LEVEL[type(formula)] >= needed else f"({text})"
