"""Is there a world that obeys all hard rules and groups, and if not, which of them are in each other's way?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurosym.errors import InputError
from neurosym.logic.cnf import Clause, Cnf, to_cnf_direct, to_cnf_tseitin
from neurosym.logic.formula import Formula, variables
from neurosym.logic.naming import FieldError, FieldPath
from neurosym.logic.sat import satisfiable

if TYPE_CHECKING:
    from neurosym.logic.knowledge import Group, KnowledgeBase

_DIRECT_LIMIT = 64
"""Clauses of a rule before Tseitin's transformation takes over."""
_PAIRWISE_LIMIT = 8
"""Members of a group before the quadratic encoding gives way to a sequential one."""
_SHOWN = 6


@dataclass(frozen=True)
class Constraint:
    """One hard rule or group: its label in messages, its place in the file, its predicates and clauses."""

    label: str
    path: FieldPath
    predicates: tuple[str, ...]
    clauses: tuple[Clause, ...]


class _Undecided(Exception):
    """A subset of the constraints could not be settled within the solver's limits."""


def check_consistent(kb: KnowledgeBase) -> None:
    """Refuse hard constraints that no world obeys.

    A set that the solver cannot settle within its limits is let through; compiling it then finds the truth.

    Raises:
        FieldError: names an irreducible set of rules and groups that exclude each other.
    """
    conflict = find_conflict(kb)
    if not conflict:
        return
    shown = ", ".join(item.label for item in conflict[:_SHOWN])
    more = f" and {len(conflict) - _SHOWN} more" if len(conflict) > _SHOWN else ""
    if len(conflict) == 1:
        message = f"no world obeys {shown}; correct it or give it a finite weight"
    else:
        message = f"no world obeys all of {shown}{more}; correct one or give a rule a finite weight"
    raise FieldError(message, conflict[0].path)


def find_conflict(kb: KnowledgeBase, extra_groups: Sequence[Group] = ()) -> tuple[Constraint, ...]:
    """An irreducible set of hard constraints without a world, or () if there is a world (or none was excluded).

    Args:
        extra_groups: enforced beside the knowledge base's own, e.g. exactly one of all classes.
    """
    for component in _components(hard_constraints(kb, extra_groups)):
        try:
            if not _consistent(component):
                return _minimal(component)
        except _Undecided:
            continue
    return ()


def check_some_class(kb: KnowledgeBase) -> None:
    """The exclusive circuit needs a world with exactly one true class.

    Raises:
        InputError: the hard rules and groups leave none; names the constraints at fault.
    """
    from neurosym.logic.knowledge import Group

    conflict = find_conflict(kb, (Group("classes", "exactly_one", kb.classes),) if len(kb.classes) > 1 else ())
    if conflict:
        names = ", ".join(item.label for item in conflict[:_SHOWN])
        raise InputError(
            f"circuit 'exclusive': no world has exactly one true class ({names}); correct a hard rule or give it a "
            "finite weight"
        )


def hard_constraints(kb: KnowledgeBase, extra_groups: Sequence[Group] = ()) -> tuple[Constraint, ...]:
    """Hard rules, then groups, as clauses over predicates 1 .. V (in order) and auxiliary variables above."""
    encoder = _Encoder(kb)
    result = []
    for i, rule in enumerate(kb.rules):
        if rule.hard:
            where = "" if rule.line is None else f" (line {rule.line})"
            label = f"rules[{i}] '{rule.text}'{where}"
            result.append(Constraint(label, ("rules", i), variables(rule.formula), encoder.rule(rule.formula)))
    for group in (*kb.groups, *extra_groups):
        label = f"groups.{group.name} ({group.kind})"
        result.append(Constraint(label, ("groups", group.name), group.members, encoder.group(group)))
    return tuple(result)


class _Encoder:
    """Clauses of constraints; hands out auxiliary variables that no other constraint uses."""

    def __init__(self, kb: KnowledgeBase) -> None:
        self.index = {name: i + 1 for i, name in enumerate(kb.predicates)}
        self.count = kb.num_predicates

    def rule(self, formula: Formula) -> tuple[Clause, ...]:
        try:
            cnf = to_cnf_direct(formula, max_clauses=_DIRECT_LIMIT)
        except InputError:  # too many clauses for the direct form
            cnf = to_cnf_tseitin(formula)
        return self._renumbered(cnf)

    def _renumbered(self, cnf: Cnf) -> tuple[Clause, ...]:
        number = [0, *(self.index[name] for name in cnf.names)]
        number += [self.count + 1 + i for i in range(cnf.num_auxiliary)]
        self.count += cnf.num_auxiliary
        return tuple(tuple(number[abs(x)] if x > 0 else -number[abs(x)] for x in c) for c in cnf.clauses)

    def group(self, group: Group) -> tuple[Clause, ...]:
        members = [self.index[name] for name in group.members]
        clauses = self._at_most_one(members)
        if group.kind == "exactly_one":
            clauses.append(tuple(members))
        return tuple(clauses)

    def _at_most_one(self, members: list[int]) -> list[Clause]:
        """Pairwise for few members, else the sequential counter of C. Sinz, 2005."""
        if len(members) <= _PAIRWISE_LIMIT:
            return [(-a, -b) for i, a in enumerate(members) for b in members[i + 1 :]]
        clauses: list[Clause] = []
        before = None  # true if one of the members so far is true
        for member in members:
            if before is not None:
                clauses.append((-before, -member))
            self.count += 1
            clauses.append((-member, self.count))
            if before is not None:
                clauses.append((-before, self.count))
            before = self.count
        return clauses


def _components(constraints: Sequence[Constraint]) -> list[list[Constraint]]:
    """Constraints that share predicates, directly or through others; in order of first appearance."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for constraint in constraints:
        for name in constraint.predicates:
            parent[root(name)] = root(constraint.predicates[0])
    found: dict[str, list[Constraint]] = {}
    for i, constraint in enumerate(constraints):
        key = root(constraint.predicates[0]) if constraint.predicates else f"constant {i}"
        found.setdefault(key, []).append(constraint)
    return list(found.values())


def _consistent(constraints: Sequence[Constraint]) -> bool:
    answer = satisfiable([clause for constraint in constraints for clause in constraint.clauses])
    if answer is None:
        raise _Undecided
    return answer


def _minimal(constraints: list[Constraint]) -> tuple[Constraint, ...]:
    """Shrink an inconsistent set until every proper subset is consistent.

    QuickXplain (U. Junker, 2004): few checks when few of many constraints are at fault. If a check cannot be
    settled, the whole set is returned.
    """

    def explain(base: list[Constraint], changed: bool, rest: list[Constraint]) -> list[Constraint]:
        if changed and not _consistent(base):
            return []
        if len(rest) == 1:
            return rest
        first, second = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        from_second = explain(base + first, True, second)
        from_first = explain(base + from_second, bool(from_second), first)
        return from_first + from_second

    try:
        return tuple(explain([], False, constraints))
    except _Undecided:
        return tuple(constraints)
