"""Knowledge bases: predicates, weighted rules, groups, and the circuits that the rules are split into.

Semantics: a world is mu in {0,1}^V. A rule of weight w contributes the factor ``exp(w [mu |= rule])``; a rule
of infinite weight and every group is an indicator (Kang, Gürel, Li, Li, "COLEP", ICLR 2024).
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neurosym.errors import InputError
from neurosym.logic.formula import And, Const, Formula, Not, Or, Var, to_text, variables
from neurosym.logic.naming import FieldError, closest, distinct_names, named
from neurosym.logic.parser import parse
from neurosym.logic.semantics import truth

DEFAULT_WEIGHT = 1.5
REST = "rest"
"""Name of the part that holds the rules of no named circuit."""
GROUP_KINDS = ("exactly_one", "at_most_one")


@dataclass(frozen=True)
class Rule:
    """A formula and its weight, finite and >= 0, ``inf`` for a hard rule; ``line`` is where it was read."""

    formula: Formula
    weight: float = DEFAULT_WEIGHT
    line: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.formula, Formula):
            raise FieldError(f"rule must be a formula, not {self.formula!r}; use Rule.from_text", ("rule",))
        object.__setattr__(self, "weight", _check_weight(self.weight))

    @classmethod
    def from_text(cls, text: str, weight: float = DEFAULT_WEIGHT, line: int | None = None) -> Rule:
        """Parse ``text``, e.g. ``"stop -> octagon"``."""
        return cls(parse(text), weight, line)

    @property
    def hard(self) -> bool:
        return math.isinf(self.weight)

    @property
    def text(self) -> str:
        return to_text(self.formula)


@dataclass(frozen=True)
class Group:
    """A hard constraint on how many of ``members`` are true."""

    name: str
    kind: Literal["exactly_one", "at_most_one"]
    members: tuple[str, ...]

    def __post_init__(self) -> None:
        named(self.name, "group name", ())
        if self.kind not in GROUP_KINDS:
            raise FieldError(f"unknown kind {self.kind!r}{closest(str(self.kind), GROUP_KINDS)}", ())
        object.__setattr__(self, "members", distinct_names(self.members, self.kind, (self.kind,)))
        if not self.members:
            raise FieldError(f"{self.kind} has no members", (self.kind,))

    @property
    def formula(self) -> Formula:
        """The constraint as a formula; quadratic in the number of members."""
        names = [Var(name) for name in self.members]
        parts: list[Formula] = [Not(And((a, b))) for i, a in enumerate(names) for b in names[i + 1 :]]
        if self.kind == "exactly_one":
            parts.insert(0, names[0] if len(names) == 1 else Or(tuple(names)))
        if not parts:
            return Const(True)
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def holds(self, world: Mapping[str, Any]) -> Any:
        """Whether the worlds obey the group: bool for scalar values, bool ndarray for arrays."""
        count = np.asarray(sum(truth(world, name).astype(np.int64) for name in self.members))
        result = count == 1 if self.kind == "exactly_one" else count <= 1
        return bool(result) if np.ndim(result) == 0 else result


@dataclass(frozen=True)
class CircuitSpec:
    """A named circuit over some rules (0-based); ``beta`` is its mixture weight, None for an equal share."""

    name: str
    rules: tuple[int, ...]
    beta: float | None = None

    def __post_init__(self) -> None:
        named(self.name, "circuit name", ())
        if self.name == REST:
            raise FieldError(f"circuit name {REST!r} is kept for the rules in no circuit; choose another", ())
        object.__setattr__(self, "rules", _check_rule_indices(self.rules))
        if self.beta is not None:
            object.__setattr__(self, "beta", _check_beta(self.beta))


@dataclass(frozen=True)
class PartSpec:
    """Rules and groups (by index) compiled into one circuit, with its share ``beta`` of the mixture."""

    name: str
    rules: tuple[int, ...]
    groups: tuple[int, ...]
    beta: float


@dataclass(frozen=True)
class KnowledgeBase:
    """Predicates and what is known about them. Immutable and validated.

    Predicates are numbered classes first, then concepts. That hard rules and groups leave a world is checked
    when a knowledge base is read (:meth:`from_text`, :meth:`from_yaml`) and by :meth:`check_consistent`.
    """

    classes: tuple[str, ...]
    concepts: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    groups: tuple[Group, ...] = ()
    circuits: tuple[CircuitSpec, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", distinct_names(self.classes, "classes", ("classes",)))
        object.__setattr__(self, "concepts", distinct_names(self.concepts, "concepts", ("concepts",)))
        for name, kind in (("rules", Rule), ("groups", Group), ("circuits", CircuitSpec)):
            object.__setattr__(self, name, _check_items(getattr(self, name), kind, name))
        if not self.classes:
            raise FieldError("classes is empty; name at least one class", ("classes",))
        for i, name in enumerate(self.concepts):
            if name in self.classes:
                raise FieldError(f"concepts[{i}] {name!r} is also a class; rename one", ("concepts", i))
        self._check_references()

    def _check_references(self) -> None:
        for i, rule in enumerate(self.rules):
            for name in variables(rule.formula):
                self._check_known(name, f"rules[{i}] '{rule.text}'", ("rules", i, "rule"))
        for group in self.groups:
            for j, name in enumerate(group.members):
                path = ("groups", group.name, group.kind, j)
                self._check_known(name, f"groups.{group.name}.{group.kind}[{j}]", path)
        for what, items in (("groups", self.groups), ("circuits", self.circuits)):
            distinct_names([item.name for item in items], what, (what,))
        for circuit in self.circuits:
            for j, index in enumerate(circuit.rules):
                if not 0 <= index < len(self.rules):
                    have = f"0 to {len(self.rules) - 1}" if self.rules else "none"
                    raise FieldError(
                        f"circuits.{circuit.name}.rules[{j}] = {index} is not a rule; rules are numbered "
                        f"from 0 and there are {have}",
                        ("circuits", circuit.name, "rules", j),
                    )
        self._part_specs  # noqa: B018  computed now so that betas without a solution are refused here

    def _check_known(self, name: str, place: str, path: tuple[str | int, ...]) -> None:
        if name not in self._position:
            mend = closest(name, self.predicates) or "; add it to classes or concepts"
            raise FieldError(f"{place}: unknown predicate {name!r}{mend}", path)

    @cached_property
    def predicates(self) -> tuple[str, ...]:
        """All names: classes, then concepts."""
        return self.classes + self.concepts

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.predicates)}

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def num_predicates(self) -> int:
        return len(self.predicates)

    def index(self, name: str) -> int:
        """Number of the predicate ``name``."""
        if name not in self._position:
            raise InputError(f"unknown predicate {name!r}{closest(name, self.predicates)}")
        return self._position[name]

    @cached_property
    def _part_specs(self) -> tuple[PartSpec, ...]:
        from neurosym.logic.parts import split

        return split(self)

    def parts(self) -> tuple[PartSpec, ...]:
        """The circuits of the mixture, betas summing to one; see :func:`neurosym.logic.parts.split`."""
        return self._part_specs

    def scaled(self, s: float) -> KnowledgeBase:
        """The same knowledge with every finite weight times ``s`` >= 0; hard rules and groups stay hard."""
        if not (isinstance(s, (int, float, np.floating, np.integer)) and math.isfinite(s) and s >= 0):
            raise InputError(f"scale must be a finite number >= 0, not {s!r}")
        rules = tuple(r if r.hard else replace(r, weight=r.weight * float(s)) for r in self.rules)
        return replace(self, rules=rules)

    def canonical(self) -> dict[str, Any]:
        """JSON-able content; groups and circuits sorted by name: their order in a file does not count."""
        groups = sorted(self.groups, key=lambda g: g.name)
        circuits = sorted(self.circuits, key=lambda c: c.name)
        return {
            "classes": list(self.classes),
            "concepts": list(self.concepts),
            "rules": [{"rule": r.text, "weight": "inf" if r.hard else r.weight} for r in self.rules],
            "groups": [{"name": g.name, "kind": g.kind, "members": list(g.members)} for g in groups],
            "circuits": [{"name": c.name, "rules": list(c.rules), "beta": c.beta} for c in circuits],
        }

    @classmethod
    def from_canonical(cls, content: dict[str, Any]) -> KnowledgeBase:
        """Inverse of :meth:`canonical`.

        Raises:
            InputError: a field is missing or not what :meth:`canonical` writes.
        """
        try:
            return cls(
                tuple(content["classes"]),
                tuple(content["concepts"]),
                tuple(Rule.from_text(r["rule"], float(r["weight"])) for r in content["rules"]),
                tuple(Group(g["name"], g["kind"], tuple(g["members"])) for g in content["groups"]),
                tuple(CircuitSpec(c["name"], tuple(c["rules"]), c["beta"]) for c in content["circuits"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"knowledge base: not in canonical form ({error!r}); make it with canonical()") from None

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical content."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def check_consistent(self) -> None:
        """Raise :class:`InputError` naming the constraints at fault if no world obeys all hard ones."""
        from neurosym.logic.satisfiable import check_consistent

        check_consistent(self)

    @classmethod
    def from_yaml(cls, path: str | Path) -> KnowledgeBase:
        """Read a rules file; errors are one line that begins ``path:line:``."""
        from neurosym.logic.rules_file import load_path

        return load_path(path)

    @classmethod
    def from_text(cls, text: str, name: str = "<rules>") -> KnowledgeBase:
        """Read the text of a rules file; ``name`` stands for the file in errors."""
        from neurosym.logic.rules_file import load_text

        return load_text(text, name)

    def to_yaml(self) -> str:
        """Text of a rules file that reads back to an equal knowledge base."""
        from neurosym.logic.rules_file import dump

        return dump(self)


def _check_items(items: Any, kind: type, what: str) -> tuple[Any, ...]:
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise FieldError(f"{what} must be a sequence of {kind.__name__}, not {type(items).__name__}", (what,))
    result = tuple(items)
    for i, item in enumerate(result):
        if not isinstance(item, kind):
            raise FieldError(f"{what}[{i}] must be a {kind.__name__}, not {type(item).__name__}", (what, i))
    return result


def _number(value: Any, what: str, path: tuple[str | int, ...]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise FieldError(f"{what} must be a number, not {value!r}{_number_hint(value)}", path)
    try:
        return float(value)
    except OverflowError:
        raise FieldError(f"{what} is too large; write .inf for a hard rule", path) from None


def _number_hint(value: Any) -> str:
    """YAML 1.1 reads ``1e3`` and ``inf`` as text."""
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if math.isinf(number) and number > 0:
        return "; write .inf"
    return f"; write {number!r} without quotes" if math.isfinite(number) else ""


def _check_weight(value: Any) -> float:
    weight = _number(value, "weight", ("weight",))
    if math.isnan(weight):
        raise FieldError("weight is not a number (NaN); give one >= 0, or .inf for a hard rule", ("weight",))
    if weight < 0:
        how = ".inf" if math.isinf(weight) else f"{-weight:g}"
        raise FieldError(f"weight {weight:g} is negative; write ~(rule) with weight {how} instead", ("weight",))
    return weight + 0.0  # -0.0 becomes 0.0: one text for one value


def _check_beta(value: Any) -> float:
    beta = _number(value, "beta", ("beta",))
    if not (math.isfinite(beta) and beta > 0):
        raise FieldError(f"beta must be a finite number > 0, not {beta:g}", ("beta",))
    return beta


def _check_rule_indices(values: Any) -> tuple[int, ...]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise FieldError(f"rules must be a list of rule numbers, not {values!r}", ("rules",))
    result: list[int] = []
    for i, value in enumerate(values):
        if isinstance(value, (bool, str, float)) or not hasattr(value, "__index__"):
            raise FieldError(f"rules[{i}] must be the number of a rule (from 0), not {value!r}", ("rules", i))
        number = operator.index(value)
        if number in result:
            raise FieldError(f"rules[{i}] names rule {number} a second time", ("rules", i))
        result.append(number)
    if not result:
        raise FieldError("rules is empty; list at least one rule number", ("rules",))
    return tuple(result)
