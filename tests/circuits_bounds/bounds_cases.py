"""Random knowledge bases and boxes for the tests of bounds."""

from __future__ import annotations

import math

import numpy as np

from neurosym.logic.formula import And, Formula, Iff, Implies, Not, Or, Var
from neurosym.logic.knowledge import CircuitSpec, Group, KnowledgeBase, Rule
from neurosym.logic.parser import parse


def knowledge(
    classes: str,
    concepts: str,
    *rules: str,
    groups: tuple[Group, ...] = (),
    circuits: tuple[CircuitSpec, ...] = (),
) -> KnowledgeBase:
    """Rules as ``text`` or ``text @ weight``."""
    made = []
    for rule in rules:
        text, _, weight = rule.partition("@")
        made.append(Rule(parse(text), float(weight or 1.5)))
    return KnowledgeBase(tuple(classes.split()), tuple(concepts.split()), tuple(made), groups, circuits)


def literal(rng: np.random.Generator, name: str) -> Formula:
    return Not(Var(name)) if rng.random() < 0.35 else Var(name)


def random_rule(rng: np.random.Generator, names: list[str], hard: float) -> Rule:
    size = min(len(names), int(rng.choice([2, 2, 2, 3, 4])))
    chosen = [literal(rng, str(n)) for n in rng.choice(names, size, replace=False)]
    kind = rng.random()
    if size == 2:
        formula: Formula = Implies(*chosen) if kind < 0.8 else Iff(*chosen)
    elif kind < 0.35:
        formula = Implies(chosen[0], And(tuple(chosen[1:])))
    elif kind < 0.6:
        formula = Implies(And(tuple(chosen[1:])), chosen[0])
    elif kind < 0.8:
        formula = Implies(chosen[0], Or(tuple(chosen[1:])))
    else:
        formula = Iff(chosen[0], And(tuple(chosen[1:])))
    return Rule(formula, math.inf if rng.random() < hard else float(rng.uniform(0.05, 4)))


def random_knowledge(rng: np.random.Generator, most: int = 9) -> KnowledgeBase:
    """Anything: cycles, conjunctions, hard rules, groups, mixtures."""
    v = int(rng.integers(2, most + 1))
    k = int(rng.integers(1, min(v, 4) + 1))
    names = [f"p{i}" for i in range(v)]
    hard = float(rng.choice([0.0, 0.0, 0.2]))
    rules = tuple(random_rule(rng, names, hard) for _ in range(int(rng.integers(1, v + 2))))
    groups: tuple[Group, ...] = ()
    if rng.random() < 0.3:
        members = rng.choice(v, int(rng.integers(2, min(v, 4) + 1)), replace=False)
        kind = "exactly_one" if rng.random() < 0.5 else "at_most_one"
        groups = (Group("g", kind, tuple(names[i] for i in members)),)
    circuits: tuple[CircuitSpec, ...] = ()
    if len(rules) > 1 and rng.random() < 0.45:
        cut = int(rng.integers(1, len(rules)))
        circuits = (CircuitSpec("one", tuple(range(cut)), float(rng.uniform(0.1, 0.9))),)
    return KnowledgeBase(tuple(names[:k]), tuple(names[k:]), rules, groups, circuits)


def random_class_knowledge(rng: np.random.Generator) -> KnowledgeBase:
    """Rules class -> literal(s): what the exclusive closed form is for."""
    k, length = int(rng.integers(1, 5)), int(rng.integers(0, 5))
    classes, concepts = [f"c{i}" for i in range(k)], [f"q{i}" for i in range(length)]
    shared = float(rng.uniform(0.2, 4)) if rng.random() < 0.5 else None
    rules = []
    for c in classes:
        for q in concepts:
            if rng.random() < 0.55:
                weight = shared or float(rng.uniform(0.05, 4))
                target = literal(rng, q) if rng.random() < 0.4 else Var(q)
                formula: Formula = Iff(Var(c), target) if rng.random() < 0.05 else Implies(Var(c), target)
                rules.append(Rule(formula, math.inf if rng.random() < 0.1 else weight))
        if length > 2 and rng.random() < 0.25:
            members = rng.choice(concepts, 2, replace=False)
            both = tuple(literal(rng, str(q)) for q in members)
            body: Formula = And(both) if rng.random() < 0.7 else Or(both)
            rules.append(Rule(Implies(Var(c), body), math.inf if rng.random() < 0.2 else float(rng.uniform(0.1, 3))))
    return KnowledgeBase(tuple(classes), tuple(concepts), tuple(rules))


def random_box(rng: np.random.Generator, v: int) -> tuple[np.ndarray, np.ndarray]:
    """[V] twice: inner boxes, points, boxes that touch 0 and 1."""
    a = np.sort(rng.random((2, v)), axis=0)
    width = rng.choice([1.0, 0.2, 0.02])
    lower, upper = a[0], a[0] + (a[1] - a[0]) * width
    lower[rng.random(v) < 0.08] = 0.0
    upper[rng.random(v) < 0.08] = 1.0
    fixed = rng.random(v) < 0.1
    upper[fixed] = lower[fixed]
    return lower, upper


def random_simplex_box(rng: np.random.Generator, kb: KnowledgeBase) -> tuple[np.ndarray, np.ndarray]:
    """A box whose class part contains a probability vector."""
    lower, upper = random_box(rng, kb.num_predicates)
    centre = rng.dirichlet(np.ones(kb.num_classes))
    width = rng.random(kb.num_classes) * rng.choice([0.05, 0.3, 1.0])
    lower[: kb.num_classes] = np.clip(centre - width, 0, 1)
    upper[: kb.num_classes] = np.clip(centre + width, 0, 1)
    if rng.random() < 0.1:
        lower[: kb.num_classes] = upper[: kb.num_classes] = centre
    return lower, upper


def random_balanced(rng: np.random.Generator, size: int, extra: int) -> tuple[KnowledgeBase, np.ndarray]:
    """A random tree of rules on literals plus ``extra`` edges that close balanced cycles, and its signs."""
    signs = rng.choice([-1, 1], size)
    names = [f"p{i}" for i in range(size)]
    pairs = [(int(rng.integers(max(0, i - 6), i)), i) for i in range(1, size)]
    # chords are short, so that the circuit stays narrow
    for _ in range(extra):
        i = int(rng.integers(2, size))
        pairs.append((int(rng.integers(max(0, i - 4), i)), i))
    rules = []
    for i, j in pairs:
        a, b = (i, j) if rng.random() < 0.5 else (j, i)
        left, right = (Var(names[x]) if signs[x] > 0 else Not(Var(names[x])) for x in (a, b))
        hard = rng.random() < 0.1
        rules.append(Rule(Implies(left, right), math.inf if hard else float(rng.uniform(0.1, 4))))
    k = max(1, size // 3)
    return KnowledgeBase(tuple(names[:k]), tuple(names[k:]), tuple(rules)), signs * signs[0]


def random_frustrated(rng: np.random.Generator, size: int) -> KnowledgeBase:
    """Clauses over two to four literals with random signs, soft or hard, that link all predicates."""
    names = [f"p{i}" for i in range(size)]
    hard = float(rng.choice([0.0, 0.3, 1.0]))
    order = rng.permutation(size)
    scopes = [[int(v) for v in order[i : i + 3]] for i in range(0, size - 1, 2)]
    scopes += [[int(v) for v in rng.choice(size, int(rng.integers(2, 5)), replace=False)] for _ in range(size // 2)]
    rules = []
    for scope in scopes:
        clause = Or(tuple(Not(Var(names[v])) if rng.random() < 0.5 else Var(names[v]) for v in scope))
        rules.append(Rule(clause, math.inf if rng.random() < hard else float(rng.uniform(0.2, 4))))
    return KnowledgeBase(tuple(names[:2]), tuple(names[2:]), tuple(rules))
