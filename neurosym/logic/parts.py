"""Split a knowledge base into the parts of the mixture of circuits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from neurosym.logic.formula import variables
from neurosym.logic.naming import FieldError

if TYPE_CHECKING:
    from neurosym.logic.knowledge import KnowledgeBase, PartSpec


def split(kb: KnowledgeBase) -> tuple[PartSpec, ...]:
    """Named circuits in their order, then ``rest`` for rules in no circuit and groups that no part mentions.

    A group joins every part that mentions one of its members, through a rule or through another group. Betas
    sum to one: circuits without a beta, and ``rest``, share equally what the given betas leave of one; when
    every circuit has a beta and there is no rest, the betas are divided by their sum.

    Raises:
        FieldError: the given betas leave nothing for a circuit without one.
    """
    from neurosym.logic.knowledge import REST, PartSpec

    named_rules = {index for circuit in kb.circuits for index in circuit.rules}
    leftover = tuple(i for i in range(len(kb.rules)) if i not in named_rules)
    names = [circuit.name for circuit in kb.circuits]
    rules = [circuit.rules for circuit in kb.circuits]
    betas = [circuit.beta for circuit in kb.circuits]
    if leftover:
        names.append(REST)
        rules.append(leftover)
        betas.append(None)
    shares = _shares(betas, names)
    groups = [_reachable_groups(kb, part) for part in rules]
    lonely = set(range(len(kb.groups))).difference(*groups)
    if lonely and leftover:
        groups[-1] |= lonely
    elif lonely:
        # no other part mentions these predicates, so this share changes no marginal: any positive one will do
        names.append(REST)
        rules.append(())
        groups.append(lonely)
        shares = [share * len(shares) / (len(shares) + 1) for share in shares] + [1 / (len(shares) + 1)]
    return tuple(
        PartSpec(name, part, tuple(sorted(joined)), share)
        for name, part, joined, share in zip(names, rules, groups, shares, strict=True)
    )


def _shares(betas: list[float | None], names: list[str]) -> list[float]:
    given = math.fsum(beta for beta in betas if beta is not None)
    missing = [name for name, beta in zip(names, betas, strict=True) if beta is None]
    if not missing:
        return [beta / given for beta in betas if beta is not None]
    if given >= 1:
        raise FieldError(
            f"the betas sum to {given:g} and leave nothing for {missing[0]!r}; lower them, or give every "
            "rule a circuit with a beta",
            ("circuits",),
        )
    return [(1 - given) / len(missing) if beta is None else beta for beta in betas]


def _reachable_groups(kb: KnowledgeBase, rules: tuple[int, ...]) -> set[int]:
    """Groups connected to the rules through shared predicates."""
    mentioned = {name for index in rules for name in variables(kb.rules[index].formula)}
    joined: set[int] = set()
    while True:
        fresh = {i for i, g in enumerate(kb.groups) if i not in joined and not mentioned.isdisjoint(g.members)}
        if not fresh:
            return joined
        joined |= fresh
        mentioned |= {name for i in fresh for name in kb.groups[i].members}
