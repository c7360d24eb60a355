"""Weighted sums over worlds, as plans: condition on a group, split into components, eliminate variables.

A plan is the sum over the worlds of some predicates of the product of their literal weights and of all factors. It is
built once for a knowledge base and then evaluated in 65-digit decimals for many sensor values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from neurosym.certify.verifier.rules import MAX_TABLE, Cardinality, Factor, NotRederivable

Literals = Mapping[int, tuple[Decimal, Decimal]]
"""Predicate number -> (weight when true, weight when false)."""
SMALL_GROUP = 3  # groups up to this size become tables; larger ones are split by which member is true


class Plan:
    """A sum over worlds; ``value`` evaluates it."""

    def value(self, literals: Literals) -> Decimal:
        raise NotImplementedError


@dataclass(frozen=True)
class Single(Plan):
    """``pos * when_true + neg * when_false`` for one predicate."""

    variable: int
    when_true: Decimal
    when_false: Decimal

    def value(self, literals: Literals) -> Decimal:
        pos, neg = literals[self.variable]
        return pos * self.when_true + neg * self.when_false


@dataclass(frozen=True)
class Product(Plan):
    """Fixed literals times independent plans."""

    constant: Decimal
    fixed: tuple[tuple[int, bool], ...]
    children: tuple[Plan, ...]

    def value(self, literals: Literals) -> Decimal:
        result = self.constant
        for variable, truth in self.fixed:
            result *= literals[variable][0 if truth else 1]
        for child in self.children:
            if not result:
                return result
            result *= child.value(literals)
        return result


@dataclass(frozen=True)
class Sum(Plan):
    """Mutually exclusive cases."""

    cases: tuple[Plan, ...]

    def value(self, literals: Literals) -> Decimal:
        return sum((case.value(literals) for case in self.cases), Decimal(0))


@dataclass(frozen=True)
class _Step:
    """Sum out one variable: its bit is the lowest of the joined scope; ``maps`` index the tables that mention it."""

    variable: int
    sources: tuple[int, ...]
    maps: tuple[tuple[int, ...], ...]
    size: int


@dataclass(frozen=True)
class Eliminate(Plan):
    """Variable elimination over tables."""

    tables: tuple[tuple[Decimal, ...], ...]
    steps: tuple[_Step, ...]
    variables: frozenset[int] = field(default=frozenset())

    def value(self, literals: Literals) -> Decimal:
        tables: list[Sequence[Decimal]] = list(self.tables)
        result = Decimal(1)
        for step in self.steps:
            pos, neg = literals[step.variable]
            joined = [tables[step.sources[0]][i] for i in step.maps[0]]
            for source, places in zip(step.sources[1:], step.maps[1:], strict=True):
                table = tables[source]
                joined = [value * table[i] for value, i in zip(joined, places, strict=True)]
            summed = [neg * joined[i] + pos * joined[i + 1] for i in range(0, step.size, 2)]
            if len(summed) == 1:
                result *= summed[0]
            tables.append(summed)
        return result


def _reduce(factor: Factor, fixed: Mapping[int, bool]) -> Factor:
    """The factor with some of its variables fixed."""
    if not any(variable in fixed for variable in factor.scope):
        return factor
    keep = [place for place, variable in enumerate(factor.scope) if variable not in fixed]
    base = sum(1 << place for place, variable in enumerate(factor.scope) if fixed.get(variable, False))
    table = []
    for world in range(2 ** len(keep)):
        table.append(factor.table[base + sum(1 << place for bit, place in enumerate(keep) if world >> bit & 1)])
    return Factor(tuple(factor.scope[place] for place in keep), tuple(table))


def group_table(group: Cardinality) -> Factor:
    """A group written out as a factor of zeros and ones."""
    if len(group.members) > MAX_TABLE:
        raise NotRederivable(f"a group of {len(group.members)} members is too large to write out")
    counts = [bin(world).count("1") for world in range(2 ** len(group.members))]
    good = (1,) if group.exactly else (0, 1)
    return Factor(group.members, tuple(Decimal(int(count in good)) for count in counts))


def components(scopes: Sequence[Sequence[int]], alone: Iterable[int] = ()) -> list[tuple[set[int], list[int]]]:
    """Connected components: (variables, indices of the scopes)."""
    found: list[tuple[set[int], list[int]]] = [({variable}, []) for variable in alone]
    for number, scope in enumerate(scopes):
        touching = [item for item in found if not item[0].isdisjoint(scope)]
        found = [item for item in found if item[0].isdisjoint(scope)]
        variables = set(scope).union(*(item[0] for item in touching))
        found.append((variables, [index for item in touching for index in item[1]] + [number]))
    return found


def _propagate(
    groups: Sequence[Cardinality], fixed: dict[int, bool]
) -> tuple[list[Cardinality], dict[int, bool]] | None:
    """Consequences of fixed members; None when a group is broken."""
    left = list(groups)
    changed = True
    while changed:
        changed, remaining = False, []
        for group in left:
            true = [member for member in group.members if fixed.get(member)]
            free = tuple(member for member in group.members if member not in fixed)
            if len(true) > 1 or (group.exactly and not true and not free):
                return None
            if true or len(free) <= (1 if group.exactly else 0):
                fixed.update({member: not true for member in free})
                changed = changed or bool(free)
            elif len(free) > 1 or not group.exactly:
                remaining.append(Cardinality(free, group.exactly))
        left = remaining
    return left, fixed


def build(
    factors: Sequence[Factor], groups: Sequence[Cardinality], variables: Iterable[int], given: Mapping[int, bool]
) -> Plan:
    """Plan of the sum over ``variables``; those in ``given`` are fixed beforehand and contribute no literal weight."""
    outcome = _propagate(groups, dict(given))
    if outcome is None:
        return Product(Decimal(0), (), ())
    left, fixed = outcome
    free = [variable for variable in variables if variable not in fixed]
    forced = tuple((variable, truth) for variable, truth in fixed.items() if variable not in given)
    constant, tables = Decimal(1), []
    for factor in factors:
        reduced = _reduce(factor, fixed)
        if reduced.scope:
            tables.append(reduced)
        else:
            constant *= reduced.table[0]
    scopes = [table.scope for table in tables] + [group.members for group in left]
    children = []
    for members, numbers in components(scopes, free):
        mine = [tables[i] for i in numbers if i < len(tables)]
        mine_groups = [left[i - len(tables)] for i in numbers if i >= len(tables)]
        children.append(_component(mine, mine_groups, members))
    return Product(constant, forced, tuple(children))


def _component(tables: list[Factor], groups: list[Cardinality], members: set[int]) -> Plan:
    large = max(groups, key=lambda group: len(group.members), default=None)
    if large is not None and len(large.members) > SMALL_GROUP:
        cases: list[dict[int, bool]] = [
            {member: member == chosen for member in large.members} for chosen in large.members
        ]
        if not large.exactly:
            cases.append(dict.fromkeys(large.members, False))
        return Sum(tuple(_case(tables, groups, members, case) for case in cases))
    tables = tables + [group_table(group) for group in groups]
    if len(members) == 1:
        (variable,) = members
        values = [Decimal(1), Decimal(1)]
        for table in tables:
            values = [values[0] * table.table[0], values[1] * table.table[1]]
        return Single(variable, values[1], values[0])
    return _elimination(tables, members)


def _case(tables: list[Factor], groups: list[Cardinality], members: set[int], case: Mapping[int, bool]) -> Plan:
    """One case of a split: as :func:`build`, but the fixed literals count."""
    inside = build(tables, groups, sorted(members), case)
    assert isinstance(inside, Product)
    return Product(inside.constant, (*case.items(), *inside.fixed), inside.children)


def _elimination(tables: list[Factor], members: set[int]) -> Plan:
    scopes: list[tuple[int, ...]] = [table.scope for table in tables]
    live, left, steps = set(range(len(scopes))), set(members), []
    while left:
        joined = {v: set().union(*(scopes[i] for i in live if v in scopes[i])) for v in left}
        variable = min(sorted(left), key=lambda v: len(joined[v]))
        others = sorted(joined[variable] - {variable})
        if len(others) >= MAX_TABLE:
            raise NotRederivable(f"the rules are too entangled: a sum over {len(others) + 1} predicates at once")
        order = [variable, *others]
        sources = tuple(sorted(i for i in live if variable in scopes[i]))
        maps = tuple(
            tuple(
                sum(1 << bit for bit, v in enumerate(scopes[i]) if world >> order.index(v) & 1)
                for world in range(2 ** len(order))
            )
            for i in sources
        )
        steps.append(_Step(variable, sources, maps, 2 ** len(order)))
        live = (live - set(sources)) | ({len(scopes)} if others else set())
        scopes.append(tuple(others))
        left.remove(variable)
    return Eliminate(tuple(table.table for table in tables), tuple(steps), frozenset(members))


def dependence(plan: Plan) -> list[dict[int, tuple[Decimal, Decimal] | None]] | None:
    """The plan as a sum of products: for each case, predicate -> (weight if true, weight if false).

    None stands for a predicate that is tied to others within the case. Returns None when the plan is a nested sum.
    """
    if isinstance(plan, Sum):
        flat = [dependence(case) for case in plan.cases]
        return [item for cases in flat if cases is not None for item in cases] if None not in flat else None
    if isinstance(plan, Single):
        return [{plan.variable: (plan.when_true, plan.when_false)}]
    if isinstance(plan, Eliminate):
        return [dict.fromkeys(plan.variables)]
    assert isinstance(plan, Product)
    if plan.constant == 0:
        return []
    one, zero = Decimal(1), Decimal(0)
    cases: list[dict[int, tuple[Decimal, Decimal] | None]] = [
        {variable: (one, zero) if truth else (zero, one) for variable, truth in plan.fixed}
    ]
    for child in plan.children:
        inner = dependence(child)
        if inner is None or len(cases) * len(inner) > 4096:
            return None
        cases = [{**case, **extra} for case in cases for extra in inner]
    return cases
