"""Random knowledge bases for the circuit tests: cycles, conjunctions, hard rules, groups, mixtures."""

from __future__ import annotations

import math

import numpy as np

from neurosym.logic.formula import And, Const, Formula, Iff, Implies, Not, Or, Var, variables
from neurosym.logic.knowledge import CircuitSpec, Group, KnowledgeBase, Rule


def random_formula(rng: np.random.Generator, names: list[str], depth: int) -> Formula:
    if depth == 0 or rng.random() < 0.2:
        if rng.random() < 0.03:
            return Const(bool(rng.integers(2)))
        leaf: Formula = Var(str(rng.choice(names)))
        return Not(leaf) if rng.random() < 0.3 else leaf
    kind = rng.integers(5)
    if kind == 0:
        return Not(random_formula(rng, names, depth - 1))
    if kind in (1, 2):
        args = tuple(random_formula(rng, names, depth - 1) for _ in range(int(rng.integers(2, 4))))
        return And(args) if kind == 1 else Or(args)
    left, right = random_formula(rng, names, depth - 1), random_formula(rng, names, depth - 1)
    return Implies(left, right) if kind == 3 else Iff(left, right)


def random_knowledge(rng: np.random.Generator, max_predicates: int = 12) -> KnowledgeBase:
    v = int(rng.integers(2, max_predicates + 1))
    k = int(rng.integers(1, v + 1))
    names = [f"a{i}" for i in range(v)]
    rules = []
    for _ in range(int(rng.integers(0, 9))):
        if rng.random() < 0.5:
            a, b = rng.choice(v, 2, replace=False)
            target: Formula = Var(names[b])
            formula: Formula = Implies(Var(names[a]), Not(target) if rng.random() < 0.3 else target)
        else:
            formula = random_formula(rng, names, int(rng.integers(1, 4)))
        hard = rng.random() < 0.15
        rules.append(Rule(formula, math.inf if hard else float(rng.uniform(0, 4))))
    if rules and rng.random() < 0.2:
        rules.append(rules[0])
    groups = []
    for number in range(int(rng.integers(0, 3))):
        size = int(rng.integers(1, min(v, 8) + 1))
        members = tuple(names[i] for i in rng.choice(v, size, replace=False))
        kind = "exactly_one" if rng.random() < 0.5 else "at_most_one"
        groups.append(Group(f"g{number}", kind, members))
    circuits = []
    if len(rules) >= 2 and rng.random() < 0.6:
        cut = int(rng.integers(1, len(rules)))
        circuits = [CircuitSpec("one", tuple(range(cut)), float(rng.uniform(0.1, 0.9)))]
        if rng.random() < 0.5:
            circuits.append(CircuitSpec("two", tuple(range(max(cut - 1, 0), len(rules) - 1)) or (0,), None))
    return KnowledgeBase(tuple(names[:k]), tuple(names[k:]), tuple(rules), tuple(groups), tuple(circuits))


def random_mixture(rng: np.random.Generator) -> tuple[KnowledgeBase, bool]:
    """Classes that imply literals or conjunctions of them, at times with rules between classes; True: exclusive."""
    k, c = int(rng.integers(2, 6)), int(rng.integers(1, 6))
    classes, concepts = [f"c{i}" for i in range(k)], [f"k{i}" for i in range(c)]

    def literal(j: int) -> Formula:
        return Not(Var(concepts[j])) if rng.random() < 0.4 else Var(concepts[j])

    rules = []
    for name in classes:
        left = list(rng.permutation(c))
        while left:
            size = min(int(rng.integers(1, 4)), len(left))
            body = [literal(int(left.pop())) for _ in range(size)]
            target: Formula = body[0] if size == 1 else And(tuple(body))
            rules.append(Rule(Implies(Var(name), target), math.inf if rng.random() < 0.2 else float(rng.uniform(0, 4))))
            if size == 1 and rng.random() < 0.3:
                rules.append(Rule(Implies(Var(name), literal(0)), float(rng.uniform(0, 4))))
    if rng.random() < 0.5:
        rules.append(Rule(Or((Var(classes[0]), Not(Var(concepts[0])))), float(rng.uniform(0, 4))))
    if rng.random() < 0.5:
        rules.append(Rule(Implies(Var(classes[0]), Var(classes[1])), float(rng.uniform(0, 4))))
    keep = rng.random(len(rules)) < 0.7
    chosen = tuple(rule for rule, kept in zip(rules, keep, strict=True) if kept)
    exclusive = bool(rng.random() < 0.5)
    groups = () if exclusive else (Group("g", "at_most_one", tuple(classes)),)
    return KnowledgeBase(tuple(classes), tuple(concepts), chosen, groups), exclusive


def random_star(rng: np.random.Generator) -> KnowledgeBase:
    """Rules that mention the centre k and at most one other predicate each."""
    names = [f"c{i}" for i in range(int(rng.integers(1, 10)))]
    rules = []
    for name in names:
        for _ in range(int(rng.integers(1, 3))):
            formula = random_formula(rng, ["k", name], 2)
            while len(variables(formula)) < 2:
                formula = random_formula(rng, ["k", name], 2)
            rules.append(Rule(formula, math.inf if rng.random() < 0.15 else float(rng.uniform(0, 4))))
    rules.append(Rule(Not(Var("k")), float(rng.uniform(0, 2))))
    return KnowledgeBase(tuple(names), ("k",), tuple(rules))
