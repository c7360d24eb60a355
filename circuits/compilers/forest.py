"""Hierarchies: every variable implies its parent, siblings exclude each other; recognised in linear time.

The true variables of a model form a path from a root downwards (or there are none), so that the models are the nodes
of the forest, and the empty world. In depth-first order a variable is true in a run of consecutive models: its subtree.
Clauses may also demand, for some variables, that one of their children is true, and that one of the roots is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compilers.arrays import grouped
from neurosym.circuits.compilers.clauses import Cnf, Ints, distinct
from neurosym.circuits.compilers.runs import TermRuns


def find_forest(cnf: Cnf) -> TermRuns | None:
    """The models of the clauses if they are those of a hierarchy over all the variables, one term each; or None."""
    lengths = cnf.lengths
    if not cnf.num_clauses or (lengths < 2).any():
        return None
    start = cnf.offsets[:-1][lengths == 2]
    first, second = cnf.literals[start], cnf.literals[start + 1]
    parent = _parents(cnf.num_variables, first, second)
    if parent is None:
        return None
    depth = _depths(parent)
    if depth is None or not _siblings_exclude(parent, first, second):
        return None
    positive = (first > 0) & (second > 0)
    closed = _closed_nodes(cnf, parent, lengths > 2, start[positive])
    return None if closed is None else _runs(parent, depth, closed)


def _parents(m: int, first: Ints, second: Ints) -> Ints | None:
    """Parent of each variable (from 0; m for a root), int64[m + 1], or None where one has two."""
    forward, backward = (first < 0) & (second > 0), (first > 0) & (second < 0)
    tail = np.concatenate([-first[forward], -second[backward]]) - 1
    head = np.concatenate([second[forward], first[backward]]) - 1
    edges = distinct(tail * m + head)
    tail, head = edges // m, edges % m
    if (np.diff(tail) == 0).any():  # sorted
        return None
    parent = np.full(m + 1, m, dtype=np.int64)
    parent[tail] = head
    return parent


def _depths(parent: Ints) -> Ints | None:
    """Number of proper ancestors of each variable, by pointer doubling; None where variables imply each other."""
    m = parent.size - 1
    depth = (parent < m).astype(np.int64)
    jump = parent
    for _ in range(m.bit_length() + 1):
        if (jump == m).all():
            return depth
        depth = depth + depth[jump]
        jump = jump[jump]
    return None


def _siblings_exclude(parent: Ints, first: Ints, second: Ints) -> bool:
    """Whether the clauses of two negative literals are those between siblings, and all of those."""
    m = parent.size - 1
    both = (first < 0) & (second < 0)
    a, b = -first[both] - 1, -second[both] - 1
    if (parent[a] != parent[b]).any():
        return False
    children = np.bincount(parent[:m], minlength=m + 1)
    return distinct(np.minimum(a, b) * m + np.maximum(a, b)).size == int((children * (children - 1) // 2).sum())


def _closed_nodes(cnf: Cnf, parent: Ints, long: NDArray[np.bool_], pairs: Ints) -> NDArray[np.bool_] | None:
    """Nodes that cannot be the last of a path, bool[m + 1] (m: the empty path); None if a clause says something else.

    Args:
        long: marks the clauses of three literals or more.
        pairs: places of the clauses of two positive literals.
    """
    m = parent.size - 1
    children = np.bincount(parent[:m], minlength=m + 1)
    closed = np.zeros(m + 1, dtype=bool)
    rows = [cnf.literals[a:b] for a, b in zip(cnf.offsets[:-1][long], cnf.offsets[1:][long], strict=True)]
    rows += [cnf.literals[place : place + 2] for place in pairs]
    for clause in rows:
        negative = clause[clause < 0]
        positive = clause[clause > 0] - 1
        if negative.size > 1 or not positive.size:
            return None
        top = -int(negative[0]) - 1 if negative.size else m
        if (parent[positive] != top).any() or positive.size != children[top]:
            return None
        closed[top] = True
    return closed


def _runs(parent: Ints, depth: Ints, closed: NDArray[np.bool_]) -> TermRuns:
    m = parent.size - 1
    bottom_up = np.argsort(-depth[:m], kind="stable").tolist()
    above = parent.tolist()
    size = [1] * (m + 1)
    for v in bottom_up:
        size[above[v]] += size[v]
    offsets, order = grouped(parent[:m], np.arange(m), m + 1)
    ends, below = offsets.tolist(), order.tolist()
    start = [0] * (m + 1)
    for v in [m, *reversed(bottom_up)]:  # the empty path is row 0, then depth first
        place = start[v] + 1
        for child in below[ends[v] : ends[v + 1]]:
            start[child] = place
            place += size[child]
    first = np.array(start, dtype=np.int64)
    live = np.ones(m + 1, dtype=bool)
    live[first[closed]] = False
    row = np.concatenate([[0], np.cumsum(live)]).astype(np.int64)
    begin, end = row[first[:m]], row[first[:m] + np.array(size[:m], dtype=np.int64)]
    return TermRuns.from_intervals(begin, end, int(row[-1]))
