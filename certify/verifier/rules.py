"""An independent reader of the knowledge base inside a certificate: formulas, factors, parts of the mixture.

Formulas: loosest first ``<->`` (left-associative), ``->`` (right-associative), ``|``, ``&``, ``~``; names, ``true``,
``false``, parentheses. A world that breaks a rule of weight w is worth ``e^-w`` of one that obeys it (the common factor
``e^w`` cancels in every probability); a hard rule or a group gives such a world no weight at all.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from neurosym.certify.verifier.numbers import WORK, as_decimal

MAX_TABLE = 14  # variables of one factor that is written out as a table


class NotRederivable(Exception):
    """The verifier lacks an independent way to check this, and says so instead of passing it."""


class Unreadable(Exception):
    """The knowledge base in the certificate is malformed."""


Truth = Callable[[Mapping[str, bool]], bool]
_TOKEN = re.compile(r"\s*(<->|->|[|&~()]|[A-Za-z_][A-Za-z0-9_]*)")


def tokens(text: str) -> list[str]:
    """Split a formula; anything that is not a token is an error."""
    found, position = [], 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise Unreadable(f"rule {text!r}: cannot read {stripped[position : position + 10]!r}")
        found.append(match.group(1))
        position = match.end()
    return found


class _Reader:
    """Recursive descent over the tokens of one formula, building a function of the world."""

    def __init__(self, text: str) -> None:
        self.text, self.items, self.at = text, tokens(text), 0
        self.names: dict[str, None] = {}

    def peek(self) -> str:
        return self.items[self.at] if self.at < len(self.items) else ""

    def accept(self, token: str) -> bool:
        if self.peek() == token:
            self.at += 1
            return True
        return False

    def equivalence(self) -> Truth:
        left = self.implication()
        while self.accept("<->"):
            left = _same(left, self.implication())
        return left

    def implication(self) -> Truth:
        left = self.many("|")
        if self.accept("->"):
            return _implied(left, self.implication())
        return left

    def many(self, token: str) -> Truth:
        below = self.negation if token == "&" else lambda: self.many("&")
        args = [below()]
        while self.accept(token):
            args.append(below())
        if len(args) == 1:
            return args[0]
        return _all(args) if token == "&" else _any(args)

    def negation(self) -> Truth:
        if self.accept("~"):
            return _not(self.negation())
        if self.accept("("):
            inside = self.equivalence()
            if not self.accept(")"):
                raise Unreadable(f"rule {self.text!r}: a parenthesis is not closed")
            return inside
        token = self.peek()
        self.at += 1
        if token in ("true", "false"):
            return _constant(token == "true")
        if not token or not (token[0].isalpha() or token[0] == "_"):
            raise Unreadable(f"rule {self.text!r}: a name is missing before {token!r}")
        self.names[token] = None
        return _name(token)


def _same(a: Truth, b: Truth) -> Truth:
    return lambda world: a(world) == b(world)


def _implied(a: Truth, b: Truth) -> Truth:
    return lambda world: not a(world) or b(world)


def _all(args: Sequence[Truth]) -> Truth:
    return lambda world: all(arg(world) for arg in args)


def _any(args: Sequence[Truth]) -> Truth:
    return lambda world: any(arg(world) for arg in args)


def _not(a: Truth) -> Truth:
    return lambda world: not a(world)


def _constant(value: bool) -> Truth:
    return lambda world: value


def _name(name: str) -> Truth:
    return lambda world: world[name]


def read_formula(text: str) -> tuple[Truth, tuple[str, ...]]:
    """Truth function and names (first-seen order) of a formula."""
    reader = _Reader(text)
    try:
        truth = reader.equivalence()
    except RecursionError:
        raise Unreadable(f"rule {text[:40]!r}...: nested too deeply") from None
    if reader.at != len(reader.items):
        raise Unreadable(f"rule {text!r}: {reader.peek()!r} is out of place")
    return truth, tuple(reader.names)


@dataclass(frozen=True)
class Factor:
    """Weights of the worlds of ``scope`` (predicate numbers): ``table[world]``, bit i of the index = scope[i]."""

    scope: tuple[int, ...]
    table: tuple[Decimal, ...]


@dataclass(frozen=True)
class Cardinality:
    """Exactly one, or at most one, of ``members`` is true; kept apart from tables because it can be large."""

    members: tuple[int, ...]
    exactly: bool


@dataclass(frozen=True)
class Part:
    """One circuit of the mixture, with its share ``beta`` (not normalised)."""

    beta: Decimal
    factors: tuple[Factor, ...]
    groups: tuple[Cardinality, ...]

    @property
    def mentions(self) -> frozenset[int]:
        scopes = [factor.scope for factor in self.factors] + [group.members for group in self.groups]
        return frozenset(itertools.chain.from_iterable(scopes))


@dataclass(frozen=True)
class Knowledge:
    classes: int
    predicates: tuple[str, ...]
    parts: tuple[Part, ...]
    rules: tuple[tuple[Truth, tuple[str, ...]], ...]


def _rule_factor(item: Mapping[str, Any], index: Mapping[str, int], scale: Fraction) -> tuple[Factor, Any]:
    truth, names = read_formula(str(item["rule"]))
    unknown = [name for name in names if name not in index]
    if unknown:
        raise Unreadable(f"rule {item['rule']!r}: {unknown[0]!r} is not a predicate")
    if len(names) > MAX_TABLE:
        raise NotRederivable(f"rule {item['rule']!r} has {len(names)} predicates; the verifier writes out {MAX_TABLE}")
    weight = item["weight"]
    if weight == "inf":
        broken = Decimal(0)
    else:
        if isinstance(weight, str | bool) or not 0 <= float(weight) < float("inf"):
            raise Unreadable(f"rule {item['rule']!r}: weight {weight!r}")
        with localcontext(WORK):
            broken = (-as_decimal(Fraction(float(weight)) * scale)).exp()
    table = []
    for world in range(2 ** len(names)):
        values = {name: bool(world >> place & 1) for place, name in enumerate(names)}
        table.append(Decimal(1) if truth(values) else broken)
    return Factor(tuple(index[name] for name in names), tuple(table)), (truth, names)


def _shares(circuits: Sequence[Mapping[str, Any]], rest: bool) -> list[Fraction]:
    """Mixture weights: those without one share equally what the given ones leave."""
    betas = [None if item.get("beta") is None else Fraction(float(item["beta"])) for item in circuits]
    betas += [None] if rest else []
    given = sum((beta for beta in betas if beta is not None), Fraction(0))
    missing = sum(beta is None for beta in betas)
    if missing and given >= 1:
        raise Unreadable("the circuits' betas leave nothing for the remaining circuit")
    return [(1 - given) / missing if beta is None else beta for beta in betas]


def _split(
    document: Mapping[str, Any], scopes: Sequence[Sequence[int]], members: Sequence[Sequence[int]]
) -> list[tuple[list[int], list[int], Fraction]]:
    """(rules, groups, beta) of each part; groups join every part they are connected to."""
    circuits = document.get("circuits", [])
    named = {int(rule) for circuit in circuits for rule in circuit["rules"]}
    left = [rule for rule in range(len(scopes)) if rule not in named]
    chosen = [[int(rule) for rule in circuit["rules"]] for circuit in circuits] + ([left] if left else [])
    betas = _shares(circuits, bool(left))
    result, used = [], set()
    for rules, beta in zip(chosen, betas, strict=True):
        touched = {name for rule in rules for name in scopes[rule]}
        joined: list[int] = []
        grew = True
        while grew:
            fresh = [g for g, who in enumerate(members) if g not in joined and touched.intersection(who)]
            joined += fresh
            touched |= {name for g in fresh for name in members[g]}
            grew = bool(fresh)
        used |= set(joined)
        result.append((rules, joined, beta))
    lonely = [g for g in range(len(members)) if g not in used]
    if lonely and left:
        result[-1][1].extend(lonely)
    elif lonely:
        result.append(([], lonely, Fraction(1)))  # shares no predicate with the others: any weight will do
    return result


def read_knowledge(document: Mapping[str, Any], circuit: str, scale: Fraction) -> Knowledge:
    """Predicates and parts of the canonical knowledge base; ``exclusive`` joins all and adds one true class.

    Raises:
        Unreadable: malformed. NotRederivable: a rule too large to write out.
    """
    try:
        classes, concepts = list(document["classes"]), list(document["concepts"])
        predicates = tuple(str(name) for name in classes + concepts)
        index = {name: number for number, name in enumerate(predicates)}
        made = [_rule_factor(item, index, scale) for item in document["rules"]]
        groups = [
            Cardinality(tuple(index[name] for name in item["members"]), item["kind"] == "exactly_one")
            for item in document["groups"]
        ]
        if any(item["kind"] not in ("exactly_one", "at_most_one") for item in document["groups"]):
            raise Unreadable("a group is neither exactly_one nor at_most_one")
        factors = [factor for factor, _ in made]
        if circuit == "exclusive":
            one_class = Cardinality(tuple(range(len(classes))), True)
            parts = [Part(Decimal(1), tuple(factors), (*groups, one_class))]
        else:
            split = _split(document, [factor.scope for factor in factors], [group.members for group in groups])
            parts = [
                Part(as_decimal(beta), tuple(factors[r] for r in rules), tuple(groups[g] for g in joined))
                for rules, joined, beta in split
            ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Unreadable(f"the knowledge base is malformed ({type(error).__name__}: {error})") from None
    return Knowledge(len(classes), predicates, tuple(parts), tuple(rule for _, rule in made))
