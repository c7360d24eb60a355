"""Concept labels from the rules: what a class implies is positive, everything else is negative."""

from __future__ import annotations

import numpy as np

from neurosym.logic.formula import And, Formula, Iff, Implies, Not, Var
from neurosym.logic.knowledge import KnowledgeBase


def _literals(formula: Formula) -> list[tuple[str, bool]] | None:
    """The literals of a conjunction, or None when the formula is something else."""
    if isinstance(formula, Var):
        return [(formula.name, True)]
    if isinstance(formula, Not) and isinstance(formula.arg, Var):
        return [(formula.arg.name, False)]
    if isinstance(formula, And):
        parts = [_literals(arg) for arg in formula.args]
        return None if any(part is None for part in parts) else [lit for part in parts if part for lit in part]
    return None


def class_concept_matrix(kb: KnowledgeBase) -> np.ndarray:
    """Concept labels of each class, bool ``[K, L]``: the closure of the class under the implications among the rules.

    Forward chaining over rules ``conjunction -> conjunction`` (and both directions of ``<->``),
    from the class being true and, as labels exclude each other, the other classes false. Other rules do not assign
    labels. A concept that nothing implies is labelled negative, the convention of COLEP's data sets.
    """
    implications = []
    for rule in kb.rules:
        formula = rule.formula
        if not isinstance(formula, Implies | Iff):
            continue
        body, head = _literals(formula.left), _literals(formula.right)
        if body is not None and head is not None:
            implications.append((body, head))
            if isinstance(formula, Iff):
                implications.append((head, body))
    matrix = np.zeros((len(kb.classes), len(kb.concepts)), dtype=bool)
    for row, name in enumerate(kb.classes):
        known = {(other, other == name) for other in kb.classes}
        size = 0
        while size != len(known):
            size = len(known)
            for body, head in implications:
                if all(literal in known for literal in body):
                    known.update(head)
        matrix[row] = [(concept, True) in known for concept in kb.concepts]
    return matrix
