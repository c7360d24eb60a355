"""Class probabilities of the reasoning layer, and sound bounds of them over boxes of sensor values.

For class c and one circuit, ``P(c) = pos_c A1 / (pos_c A1 + neg_c A0)`` where A1 and A0 are the sums over the other
predicates of its component with c true and false. Both are linear in every single sensor, so

* P(c) never falls in its own sensor;
* if all factors are log-supermodular after flipping some predicates, P(c) is monotone in every sensor (Holley 1974;
  Fortuin, Kasteleyn, Ginibre 1971): one corner is the exact bound;
* where A1 is a product and A0 a sum of products, the direction in a sensor is a sign that can be read off;
* otherwise the extremes lie on vertices, because a ratio of linear functions has no interior extremum.

A mixture is bounded by the beta-weighted sum of the bounds of its circuits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext

from neurosym.certify.verifier.numbers import WORK
from neurosym.certify.verifier.plans import Plan, build, components, dependence, group_table
from neurosym.certify.verifier.rules import Factor, Knowledge, NotRederivable, Part

MAX_VERTICES = 256  # vertices of one box that are tried before a looser bound is used
SMALL = 12  # predicates of a component of which a producer can be expected to try every corner
MAX_LATTICE = 7  # variables of a factor whose lattice condition is checked on all pairs of worlds
RISES, FALLS, FLAT, UNKNOWN = 1, -1, 0, 2


@dataclass(frozen=True)
class Box:
    """Sensor intervals, one pair of decimals for each predicate."""

    lower: Sequence[Decimal]
    upper: Sequence[Decimal]


@dataclass(frozen=True)
class Term:
    """Class c in one circuit: its two sums, and the direction of P(c) in each other predicate of its component.

    ``rivals`` (exclusive circuit of a softmax only) are the sums with class d true instead, without its weight.
    """

    beta: Decimal
    target: int
    with_class: Plan
    without: Plan
    directions: dict[int, int]
    rivals: tuple[tuple[int, Plan], ...] = ()


def _pair_sign(factor: Factor, a: int, b: int) -> int:
    """Interaction of two places of a factor: RISES (attract), FALLS (repel), FLAT, UNKNOWN (both)."""
    attract = repel = False
    bit_a, bit_b = 1 << a, 1 << b
    for world in range(len(factor.table)):
        if world & bit_a or world & bit_b:
            continue
        same = factor.table[world] * factor.table[world | bit_a | bit_b]
        cross = factor.table[world | bit_a] * factor.table[world | bit_b]
        attract, repel = attract or same > cross, repel or same < cross
    return UNKNOWN if attract and repel else int(attract) - int(repel)


def _lattice(factor: Factor, signs: dict[int, int]) -> bool:
    """``f(x or y) f(x and y) >= f(x) f(y)`` for all worlds after the flips."""
    flip = sum(1 << place for place, variable in enumerate(factor.scope) if signs[variable] < 0)
    table = [factor.table[world ^ flip] for world in range(len(factor.table))]
    return all(table[x | y] * table[x & y] >= table[x] * table[y] for x in range(len(table)) for y in range(x))


def balance(factors: Sequence[Factor], variables: Sequence[int]) -> dict[int, int] | None:
    """Flips (+1/-1) that make every factor log-supermodular, or None if there are none."""
    edges: dict[int, list[tuple[int, int]]] = {variable: [] for variable in variables}
    for factor in factors:
        if len(factor.scope) > MAX_LATTICE:
            return None
        for a, b in itertools.combinations(range(len(factor.scope)), 2):
            sign = _pair_sign(factor, a, b)
            if sign == UNKNOWN:
                return None
            if sign != FLAT:
                edges[factor.scope[a]].append((factor.scope[b], sign))
                edges[factor.scope[b]].append((factor.scope[a], sign))
    signs: dict[int, int] = {}
    for start in variables:
        if start in signs:
            continue
        signs[start], queue = 1, [start]
        while queue:
            here = queue.pop()
            for other, sign in edges[here]:
                if other not in signs:
                    signs[other] = signs[here] * sign
                    queue.append(other)
                elif signs[other] != signs[here] * sign:
                    return None
    return signs if all(_lattice(factor, signs) for factor in factors) else None


def _ratio_directions(term_true: Plan, term_false: Plan, variables: Sequence[int]) -> dict[int, int]:
    """Direction of A1/A0 in each predicate where A1 is one product and A0 a sum of products."""
    top, bottom = dependence(term_true), dependence(term_false)
    if top is None or bottom is None or len(top) != 1:
        return dict.fromkeys(variables, UNKNOWN)
    result = {}
    for variable in variables:
        signs, tied = set(), False
        mine = top[0].get(variable)
        for case in bottom:
            theirs = case.get(variable)
            if mine is None or theirs is None:
                tied = True
                break
            gap = mine[0] * theirs[1] - mine[1] * theirs[0]
            signs.add(0 if gap == 0 else 1 if gap > 0 else -1)
        signs.discard(0)
        result[variable] = UNKNOWN if tied or len(signs) == 2 else signs.pop() if signs else FLAT
    return result


def _term(part: Part, target: int, softmax_classes: int) -> Term:
    scopes = [factor.scope for factor in part.factors] + [group.members for group in part.groups]
    members, numbers = next(item for item in components(scopes) if target in item[0])
    count = len(part.factors)
    factors = [part.factors[i] for i in numbers if i < count]
    groups = [part.groups[i - count] for i in numbers if i >= count]
    others = sorted(members - {target})
    plans = [build(factors, groups, others, {target: truth}) for truth in (True, False)]
    directions = _ratio_directions(plans[0], plans[1], others)
    if UNKNOWN in directions.values() and all(len(group.members) <= MAX_LATTICE for group in groups):
        signs = balance(factors + [group_table(group) for group in groups], sorted(members))
        if signs is not None:
            for variable, direction in directions.items():
                if direction == UNKNOWN:
                    directions[variable] = signs[target] * signs[variable]
    rivals = []
    for rival in (d for d in range(softmax_classes) if d != target):
        one_hot = {d: d == rival for d in range(softmax_classes)}
        rivals.append((rival, build(factors, groups, sorted(members - set(one_hot)), one_hot)))
    return Term(part.beta, target, plans[0], plans[1], directions, tuple(rivals))


@dataclass(frozen=True)
class Bounded:
    """A bound of a class probability.

    Attributes:
        exact: each circuit by itself attains it. ``closed``: it is one corner of the box or a closed form, which every
            sound producer reaches too; elsewhere a search may stop early and keep a label that it could drop.
    """

    value: Decimal
    exact: bool
    closed: bool


class Circuits:
    """Class probabilities of a reasoning layer. ``circuit`` is ``none``, ``rules`` or ``exclusive``.

    ``simplex`` says that both sides of all sensors are paid for, so that bounds may use that a softmax sums to one.
    """

    def __init__(self, knowledge: Knowledge | None, circuit: str, class_kind: str, classes: int) -> None:
        self.circuit, self.class_kind, self.classes = circuit, class_kind, classes
        self.knowledge = knowledge
        self._terms: dict[int, list[Term]] = {}
        self._known: dict[tuple[int, int, int, tuple[tuple[Decimal, Decimal], ...]], Bounded] = {}
        self.softmax = class_kind == "categorical"
        self.simplex = True
        self.hard = False
        if knowledge is not None and circuit != "none":
            inner = [group for part in knowledge.parts for group in part.groups]
            own = circuit == "exclusive"  # the one-class constraint itself cannot make evidence impossible by rules
            zero = any(0 in factor.table for part in knowledge.parts for factor in part.factors)
            self.hard = zero or len(inner) > int(own)

    def terms(self, target: int) -> list[Term]:
        """The circuits that mention the class (none for ``circuit="none"``)."""
        if target not in self._terms:
            parts = [] if self.circuit == "none" or self.knowledge is None else self.knowledge.parts
            row = self.classes if self.circuit == "exclusive" and self.softmax else 0
            with localcontext(WORK):
                self._terms[target] = [_term(part, target, row) for part in parts if target in part.mentions]
        return self._terms[target]

    def sides(self, target: int) -> set[tuple[int, int]]:
        """Sensor sides that an upper bound of P(class) can use: (predicate, RISES or FALLS)."""
        result = {(target, RISES)}
        if self.circuit == "none" and self.softmax:
            result |= {(other, FALLS) for other in range(self.classes) if other != target}
        for term in self.terms(target):
            for variable, direction in term.directions.items():
                found = (RISES, FALLS) if direction == UNKNOWN else (direction,) if direction else ()
                result |= {(variable, side) for side in found}
        return result

    @property
    def one_corner(self) -> bool:
        """Every direction of every class is known, so that each upper bound is one corner of the box."""
        return all(UNKNOWN not in term.directions.values() for c in range(self.classes) for term in self.terms(c))

    def _weights(self, variable: int, value: Decimal) -> tuple[Decimal, Decimal]:
        if self.circuit == "exclusive" and self.softmax and variable < self.classes:
            return value, Decimal(1)
        return value, 1 - value

    def probability(self, target: int, sensors: Sequence[Decimal]) -> Decimal:
        """P(class) at one point.

        Raises:
            NotRederivable: the rules leave no world for these sensor values.
        """
        found = self.bound(target, Box(sensors, sensors), RISES)
        if found is None:
            raise NotRederivable("the hard rules leave no world for a row")
        return found.value

    def bound(self, target: int, box: Box, side: int) -> Bounded | None:
        """Upper (RISES) or lower (FALLS) bound of P(class) over the box; None where no world is left."""
        with localcontext(WORK):
            if self.circuit == "none":
                return Bounded(self._plain(target, box, side), True, True)
            terms = self.terms(target)
            if not terms:
                return Bounded((box.upper if side > 0 else box.lower)[target], True, True)
            total, weight, exact, closed = Decimal(0), Decimal(0), True, True
            for number, term in enumerate(terms):
                found = self._term_bound(number, term, box, side)
                if found is None:
                    return None
                total, weight = total + term.beta * found.value, weight + term.beta
                exact, closed = exact and found.exact, closed and found.closed
            return Bounded(total / weight, exact, closed)

    def _plain(self, target: int, box: Box, side: int) -> Decimal:
        mine, others = (box.upper, box.lower) if side > 0 else (box.lower, box.upper)
        if not self.softmax:
            return mine[target]
        total = mine[target] + sum((others[c] for c in range(self.classes) if c != target), Decimal(0))
        return mine[target] / total if total else Decimal(0)

    def _term_bound(self, number: int, term: Term, box: Box, side: int) -> Bounded | None:
        names = (term.target, *term.directions)
        key = (term.target, number, side, tuple((box.lower[v], box.upper[v]) for v in names))
        if key not in self._known:
            found = self._compute(term, box, side)
            if found is None:
                return None
            self._known[key] = found
        return self._known[key]

    def _compute(self, term: Term, box: Box, side: int) -> Bounded | None:
        corner: dict[int, Decimal] = {}
        open_sides: list[int] = []
        for variable, direction in term.directions.items():
            low, high = box.lower[variable], box.upper[variable]
            if direction == UNKNOWN and low != high:
                open_sides.append(variable)
            corner[variable] = high if direction * side > 0 else low
        own = self._weights(term.target, (box.upper if side > 0 else box.lower)[term.target])
        if term.rivals and self.simplex and len(open_sides) <= MAX_VERTICES.bit_length() - 1:
            return self._simplex(term, box, side, corner, open_sides)
        if 2 ** len(open_sides) > MAX_VERTICES:
            return Bounded(self._loose(term, box, side, corner, open_sides, own), False, False)
        best: Decimal | None = None
        for choice in itertools.product((box.lower, box.upper), repeat=len(open_sides)):
            for variable, ends in zip(open_sides, choice, strict=True):
                corner[variable] = ends[variable]
            literals = {variable: self._weights(variable, value) for variable, value in corner.items()}
            value = _ratio(own, term.with_class.value(literals), term.without.value(literals))
            if value is None:
                return None
            best = value if best is None or (value - best) * side > 0 else best
        return None if best is None else Bounded(best, True, not open_sides or len(term.directions) < SMALL)

    def _simplex(
        self, term: Term, box: Box, side: int, corner: dict[int, Decimal], open_sides: Sequence[int]
    ) -> Bounded | None:
        """Exact over box and simplex: c takes all (or the least) mass it may, its rivals share the rest greedily."""
        rows = range(self.classes)
        least, most = sum(box.lower[c] for c in rows), sum(box.upper[c] for c in rows)
        whole = min(max(Decimal(1), least), most)
        mine = c = term.target
        if side > 0:
            own = min(box.upper[c], whole - (least - box.lower[c]))
        else:
            own = max(box.lower[c], whole - (most - box.upper[c]))
        concepts = [v for v in open_sides if v >= self.classes]
        best: Decimal | None = None
        for choice in itertools.product((box.lower, box.upper), repeat=len(concepts)):
            for variable, ends in zip(concepts, choice, strict=True):
                corner[variable] = ends[variable]
            literals = {v: (value, 1 - value) for v, value in corner.items() if v >= self.classes}
            one_hot = {v: (Decimal(1), Decimal(1)) for v in rows if v != mine}
            costs = sorted(((plan.value(literals), d) for d, plan in term.rivals), reverse=side < 0)
            spare, rest = whole - own - sum(box.lower[d] for _, d in costs), Decimal(0)
            for cost, d in costs:
                extra = min(max(spare, Decimal(0)), box.upper[d] - box.lower[d])
                spare -= extra
                rest += cost * (box.lower[d] + extra)
            # with every rival false the class literals are constant
            value = _ratio((own, Decimal(1)), term.with_class.value({**literals, **one_hot}), rest)
            if value is None:
                return None
            best = value if best is None or (value - best) * side > 0 else best
        return None if best is None else Bounded(best, True, not open_sides)

    def _loose(
        self,
        term: Term,
        box: Box,
        side: int,
        corner: dict[int, Decimal],
        open_sides: Sequence[int],
        own: tuple[Decimal, Decimal],
    ) -> Decimal:
        """Bound A1 and A0 apart: all their coefficients are >= 0, so each literal weight goes to its own end."""
        big = {variable: self._weights(variable, value) for variable, value in corner.items()}
        small = dict(big)
        for variable in open_sides:
            low = self._weights(variable, box.lower[variable])
            high = self._weights(variable, box.upper[variable])
            big[variable], small[variable] = (high[0], low[1]), (low[0], high[1])
        top, bottom = (big, small) if side > 0 else (small, big)
        value = _ratio(own, term.with_class.value(top), term.without.value(bottom))
        return (Decimal(1) if side > 0 else Decimal(0)) if value is None else value


def _ratio(own: tuple[Decimal, Decimal], with_class: Decimal, without: Decimal) -> Decimal | None:
    top = own[0] * with_class
    total = top + own[1] * without
    return top / total if total else None
