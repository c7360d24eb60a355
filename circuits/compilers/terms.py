"""Knowledge that is a disjunction of few terms, no two of which hold in one world: found in clauses, and as circuits.

A term fixes some variables and leaves the others free. With K disjoint terms the weighted model count is a sum of K
products, so that evaluation is a matrix product, marginals are a softmax, and all bounds over boxes have closed forms.
Exactly-one classes with rules from classes to attributes, hierarchies with exclusive siblings, and mixtures of both
are of this kind, although their clauses do not look it. :func:`find_terms` detects it without search.

How and why it is right. Let => be the closure of the clauses (-a | b) under transitivity, and # the pairs (a, b) such
that a => x and b => y for some clause (-x | -y). Let S be variables of which any two are related by => or #. In a model
no two true variables are related by #, so those of S that are true form a chain for =>, and whatever a true one implies
is true. Hence they are all those of S that the least of the chain implies; or none is true. This gives |S| + 1 candidate
rows (one variable for each class of equivalent ones), every model agrees with exactly one of them on S, and rows
differ on S. Unit propagation below a row fixes further variables without losing a model. If then every clause has a
true literal in a row, the models of the row are exactly the completions of the variables still free. If some clause
of some row has neither a true literal nor a conflict, the answer is None.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compilers.clauses import Cnf, Ints, distinct
from neurosym.circuits.compilers.forest import find_forest
from neurosym.circuits.compilers.runs import TermRuns, runs_of_terms, runs_to_ir
from neurosym.circuits.factors import Factor
from neurosym.circuits.ir import CircuitIR
from neurosym.errors import InputError

MAX_DENSE_VARIABLES = 3_000
"""Largest number of variables for which the closure of the implications is a dense matrix."""
MAX_ENTRIES = 2_000_000
"""Largest dense matrix of terms, in entries."""
MAX_WORK = 600_000_000
"""Largest sum over the steps of the propagation of rows times literals: a second or two."""
MAX_STEP = 4_000_000
"""Clauses times rows handled at once."""
MAX_ROUNDS = 64
"""Steps of the propagation: as deep as rules follow from one another outside S."""


@dataclass(frozen=True, eq=False)
class DisjointTerms:
    """K terms over m variables; no world satisfies two of them.

    Attributes:
        terms: int8[K, m]: 1 true, 0 false, -1 free.
        log_constants: float64[K], the log of a factor of each term (0 where rules are hard).
    """

    terms: NDArray[np.int8]
    log_constants: NDArray[np.float64]

    @property
    def num_terms(self) -> int:
        """K; zero for a contradiction."""
        return int(self.terms.shape[0])

    @property
    def num_variables(self) -> int:
        """m."""
        return int(self.terms.shape[1])

    def are_disjoint(self) -> bool:
        """Whether every two terms contradict each other in some variable; O(K^2 m)."""
        on, off = (self.terms == 1).astype(np.float32), (self.terms == 0).astype(np.float32)
        clash = (on @ off.T) > 0
        clash |= clash.T
        np.fill_diagonal(clash, True)
        return bool(clash.all())


def find_terms(cnf: Cnf, max_entries: int = MAX_ENTRIES) -> DisjointTerms | None:
    """The clauses as disjoint terms, or None where this detection does not succeed.

    Args:
        max_entries: largest number of rows times variables of the result.
    """
    runs = find_forest(cnf)
    if runs is None:
        return _find_dense(cnf, max_entries)
    if runs.num_terms * runs.num_variables > max_entries:
        return None
    return DisjointTerms(runs.dense(), np.zeros(runs.num_terms))


def find_runs(cnf: Cnf, deadline: float = math.inf) -> TermRuns | None:
    """Like :func:`find_terms`, with the terms run-length encoded: hierarchies of any size.

    None also where the propagation is not finished at the deadline (``time.monotonic``).
    """
    runs = find_forest(cnf)
    if runs is not None:
        return runs
    terms = _find_dense(cnf, MAX_DENSE_VARIABLES * (MAX_DENSE_VARIABLES + 1), deadline)
    return None if terms is None else runs_of_terms(terms.terms, terms.log_constants)


def hard_terms(
    factors: Sequence[Factor], members: Sequence[int], max_entries: int = MAX_ENTRIES
) -> DisjointTerms | None:
    """The worlds of hard factors as disjoint terms; column i is predicate ``members[i]``.

    None where a factor is soft or too large for clauses, or this detection does not succeed. Linear time for the usual
    rules, so that it may be asked before any other compiler is.
    """
    if not all(factor.hard for factor in factors):
        return None
    try:
        cnf = Cnf.from_factors(factors, members)
    except InputError:
        return None
    return find_terms(cnf, max_entries)


def terms_to_ir(terms: DisjointTerms) -> CircuitIR:
    """Smooth circuit of disjoint terms: one sum of products while small, otherwise shared by blocks of terms.

    Raises:
        InputError: two terms hold in one world.
    """
    if terms.num_terms <= 1024 and not terms.are_disjoint():
        raise InputError("the terms are not disjoint: two of them hold in one world")
    return runs_to_ir(runs_of_terms(terms.terms, terms.log_constants))


def _find_dense(cnf: Cnf, max_entries: int, deadline: float = math.inf) -> DisjointTerms | None:
    m = cnf.num_variables
    lengths = cnf.lengths
    if (lengths == 0).any():
        return DisjointTerms(np.zeros((0, m), dtype=np.int8), np.zeros(0))
    if m > MAX_DENSE_VARIABLES:
        return None
    start = cnf.offsets[:-1][lengths == 2]
    first, second = cnf.literals[start], cnf.literals[start + 1]
    implied, excluded = _relations(m, first, second)
    chosen = _related_set(implied, excluded)
    if (chosen.size + 1) * m > max_entries:
        return None
    rows = _candidates(m, chosen, implied, excluded)
    inside = np.zeros(m + 1, dtype=bool)
    inside[chosen + 1] = True
    # true by construction: (-a | ...) with a in S, since rows hold what a true a implies and excludes
    settled = np.zeros(cnf.num_clauses, dtype=bool)
    settled[lengths == 2] = (inside[np.abs(first)] & (first < 0)) | (inside[np.abs(second)] & (second < 0))
    done = _propagate(rows, cnf.select(~settled), deadline)
    if done is None:
        return None
    return DisjointTerms(np.ascontiguousarray(done.T), np.zeros(done.shape[1]))


def _relations(m: int, first: Ints, second: Ints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Closed implications (reflexive) and exclusions among m variables, bool[m, m] each, from clauses of two literals."""
    forward, backward = (first < 0) & (second > 0), (first > 0) & (second < 0)
    tail = np.concatenate([-first[forward], -second[backward]]) - 1
    head = np.concatenate([second[forward], first[backward]]) - 1
    count, label = m, np.arange(m)
    order, successors = _successors_first(count, tail, head)
    if len(order) < m:  # a cycle: variables that imply each other become one
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        graph = coo_array((np.ones(tail.size, dtype=np.int8), (tail, head)), shape=(m, m))
        count, label = connected_components(graph, connection="strong")
        edges = np.unique(label[tail].astype(np.int64) * count + label[head])
        edges = edges[edges // count != edges % count]
        order, successors = _successors_first(count, edges // count, edges % count)
    both = (first < 0) & (second < 0)
    excluded = np.zeros((count, count), dtype=bool)
    excluded[label[-first[both] - 1], label[-second[both] - 1]] = True
    excluded |= excluded.T
    implied = np.eye(count, dtype=bool)
    for v in order:
        if successors[v]:
            implied[v] |= np.logical_or.reduce(implied[successors[v]], axis=0)
    for _ in range(2):
        for v in order:
            if successors[v]:
                excluded[v] |= np.logical_or.reduce(excluded[successors[v]], axis=0)
        excluded = np.ascontiguousarray(excluded.T)
    return (implied, excluded) if count == m else (implied[label][:, label], excluded[label][:, label])


def _successors_first(count: int, tail: Ints, head: Ints) -> tuple[list[int], list[list[int]]]:
    """A topological order, successors before predecessors (short if there is a cycle), and the successors."""
    successors: list[list[int]] = [[] for _ in range(count)]
    predecessors: list[list[int]] = [[] for _ in range(count)]
    for a, b in zip(tail.tolist(), head.tolist(), strict=True):
        successors[a].append(b)
        predecessors[b].append(a)
    left = [len(s) for s in successors]
    order = [v for v in range(count) if not left[v]]
    for v in order:
        for u in predecessors[v]:
            left[u] -= 1
            if not left[u]:
                order.append(u)
    return order, successors


def _related_set(implied: NDArray[np.bool_], excluded: NDArray[np.bool_]) -> Ints:
    """Variables, pairwise related, the best connected first; one of each class of equivalent ones."""
    related = implied | implied.T
    related |= excluded
    degree = related.sum(axis=1)
    equal = implied & implied.T
    twins = equal.sum(axis=1) > 1
    open_ = degree > 1
    if twins.any():
        open_ &= ~(np.tril(equal, -1).any(axis=1))
    chosen = []
    for v in np.argsort(-degree, kind="stable").tolist():
        if open_[v]:
            chosen.append(v)
            open_ &= related[v]
    return np.array(sorted(chosen), dtype=np.int64)


def _candidates(m: int, chosen: Ints, implied: NDArray[np.bool_], excluded: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Values of the candidate rows, int8[m, |S| + 1]: the row without any variable of S comes first."""
    alive = chosen[~excluded[chosen, chosen]]
    rows = np.full((m, alive.size + 1), -1, dtype=np.int8)
    true = implied[alive].T
    rows[:, 1:][true] = 1
    rows[:, 1:][excluded[alive].T & ~true] = 0
    rows[chosen, 0] = 0
    inner = rows[chosen, 1:]
    inner[~true[chosen]] = 0
    rows[chosen, 1:] = inner
    return rows


def _propagate(rows: NDArray[np.int8], cnf: Cnf, deadline: float) -> NDArray[np.int8] | None:
    """Unit propagation in every column of ``rows`` (int8[m, K], changed), columns with a conflict removed.

    None if some clause stays undecided in some column, or is at the deadline.
    """
    lengths = cnf.lengths
    step = max(1, MAX_STEP // rows.shape[1])
    groups = []
    for n in distinct(lengths).tolist():
        starts = cnf.offsets[:-1][lengths == n][:, None]
        groups += [cnf.literals[starts[i : i + step] + np.arange(n)] for i in range(0, starts.size, step)]
    work = 0
    for _ in range(MAX_ROUNDS):
        work += rows.shape[1] * sum(clauses.size for clauses in groups)
        if work > MAX_WORK:
            return None
        changed = undecided = False
        dead = np.zeros(rows.shape[1], dtype=bool)
        kept = []
        for clauses in groups:
            if time.monotonic() > deadline:
                return None
            open_clauses, loose, moved = _step(rows, clauses, dead)
            undecided, changed = undecided or loose, changed or moved
            if open_clauses.size:
                kept.append(open_clauses)
        if dead.any():
            rows, changed = rows[:, ~dead], True
        groups = kept
        if not groups or not rows.shape[1]:
            return rows
        if not changed:
            return None if undecided else rows
    return None


def _step(rows: NDArray[np.int8], clauses: Ints, dead: NDArray[np.bool_]) -> tuple[Ints, bool, bool]:
    """One step for clauses of one length, int64[C, n]; marks conflicts in ``dead`` and sets units in ``rows``.

    Returns:
        The clauses not true in all columns; whether one is left with two free literals; whether a unit was set.
    """
    shape = (clauses.shape[0], rows.shape[1])
    true = np.zeros(shape, dtype=bool)
    free = np.zeros(shape, dtype=np.int16)
    for position in range(clauses.shape[1]):
        literal = clauses[:, position]
        value = rows[np.abs(literal) - 1]
        true |= value == (literal > 0)[:, None]
        free += value == -1
    still = ~true.all(axis=1)
    true, free, clauses = true[still], free[still], clauses[still]
    dead |= (~true & (free == 0)).any(axis=0)
    unit = ~true & (free == 1)
    moved = bool(unit.any())
    if moved:
        number, column = np.nonzero(unit)
        literal = clauses[number]
        hit = rows[np.abs(literal) - 1, column[:, None]] == -1
        literal = literal[hit.argmax(axis=1)[:, None] == np.arange(literal.shape[1])]
        # two units that contradict each other: one stays, and the other's clause is in conflict in the next step
        rows[np.abs(literal) - 1, column] = literal > 0
    return clauses, bool((~true & (free > 1)).any()), moved
