"""Which components are monotone: the Holley / FKG test, factor by factor.

If every factor f satisfies f(x or y) f(x and y) >= f(x) f(y) for all x, y (log-supermodular, MTP2; Karlin and Rinott,
1980), so does the world distribution, and raising any sensor moves it up in the stochastic order (Holley, "Remarks on
the FKG inequalities", 1974): every marginal is nondecreasing in every sensor. Zeros are allowed, so for a hard rule the
test says that its satisfying set is closed under componentwise minimum and maximum. Flipping the sign of some variables
first extends this to rule graphs that are *balanced* (no cycle with an odd number of exclusions; Harary, 1953): then
P(x_j) moves with sensor i in the direction s_i s_j, and two corners of a box give all exact bounds.

Which signs to try comes from the pairwise covariances of each factor; what counts is the complete test that follows,
so a wrong guess can only lose the fast path, never the truth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neurosym.logic.formula import And, Formula, Implies, Not, Or, Var

if TYPE_CHECKING:
    from neurosym.circuits.factors import Factor

MAX_SCOPE = 12
"""Largest scope tested on the whole lattice: 4^12 pairs."""
COVARIANCE_TOLERANCE = 1e-13
"""Relative size below which a pair of a factor counts as uncorrelated (only used to guess signs)."""

Literal = tuple[str, bool]


def as_literal(formula: Formula) -> Literal | None:
    """(name, polarity) of a literal, else None."""
    if isinstance(formula, Var):
        return formula.name, True
    if isinstance(formula, Not) and isinstance(formula.arg, Var):
        return formula.arg.name, False
    return None


def _literals(formula: Formula, kind: type[And] | type[Or]) -> list[Literal] | None:
    """Literals of a literal or of an n-ary (nested) conjunction or disjunction of literals, else None."""
    single = as_literal(formula)
    if single is not None:
        return [single]
    if not isinstance(formula, kind):
        return None
    found: list[Literal] = []
    for arg in formula.args:
        inner = _literals(arg, kind)
        if inner is None:
            return None
        found += inner
    return found


def implied_literals(formula: Formula) -> tuple[Literal, tuple[Literal, ...]] | None:
    """(a, (l1, ..., lr)) if the formula is ``a -> l1 & ... & lr`` or ``~l1 | ... | ~lr -> ~a``, else None.

    All names must differ; then the rule is log-supermodular after flipping its negative literals, whatever r is: if
    x or y violates it, a holds in one of the two, which then violates it as well; the same for x and y; and if both
    x or y and x and y do, a holds in both and neither has all the literals.
    """
    if not isinstance(formula, Implies):
        return None
    head, body = as_literal(formula.left), _literals(formula.right, And)
    if head is None or body is None:
        tail, causes = as_literal(formula.right), _literals(formula.left, Or)
        if tail is None or causes is None:
            return None
        head, body = (tail[0], not tail[1]), [(name, not positive) for name, positive in causes]
    names = [head[0], *(name for name, _ in body)]
    return (head, tuple(body)) if len(set(names)) == len(names) else None


def pair_signs(log_table: NDArray[np.float64]) -> NDArray[np.int8]:
    """Signs of the covariances of all pairs of axes under the normalised factor; int8[k, k], 0 on the diagonal."""
    k = log_table.ndim
    finite = log_table[np.isfinite(log_table)]
    table = np.exp(log_table - (finite.max() if finite.size else 0.0))
    signs = np.zeros((k, k), dtype=np.int8)
    for i in range(k):
        for j in range(i + 1, k):
            m = table.sum(axis=tuple(a for a in range(k) if a not in (i, j)))
            same, cross = m[0, 0] * m[1, 1], m[0, 1] * m[1, 0]
            if abs(same - cross) > COVARIANCE_TOLERANCE * (same + cross):
                signs[i, j] = signs[j, i] = 1 if same > cross else -1
    return signs


def is_log_supermodular(log_table: NDArray[np.float64], signs: Sequence[int]) -> bool:
    """Whether log f(x|y) + log f(x&y) >= log f(x) + log f(y) for all x, y after flipping the axes with sign -1.

    Exact for tables of two values, where the sums compared are equal or differ by a whole violation.
    """
    k = log_table.ndim
    flipped = log_table[tuple(slice(None, None, -1) if s < 0 else slice(None) for s in signs)].reshape(-1)
    points = np.arange(1 << k)
    for x in points:
        if flipped[x] == -np.inf:
            continue
        right = flipped[x] + flipped
        if np.any(flipped[x | points] + flipped[x & points] < right):
            return False
    return True


def _factor_edges(factor: Factor) -> list[tuple[int, int, int]] | None:
    """Signed pairs (variable, variable, sign) that flips must satisfy; None if the factor is known not to fit."""
    scope = factor.scope
    if factor.log_violation == 0.0 or len(scope) < 2:
        return []
    if len(scope) > MAX_SCOPE:
        form = implied_literals(factor.formula) if factor.formula is not None else None
        if form is None or factor.log_violation > 0:
            return None
        (head, positive), body = form
        place = dict(zip(factor.names, scope, strict=True))
        return [(place[head], place[name], 1 if p == positive else -1) for name, p in body]
    signs = pair_signs(factor.log_table())
    return [(scope[i], scope[j], int(signs[i, j])) for i, j in zip(*np.nonzero(np.triu(signs)), strict=True)]


def _two_colour(variables: Sequence[int], edges: Sequence[tuple[int, int, int]]) -> dict[int, int] | None:
    neighbours: dict[int, list[tuple[int, int]]] = {v: [] for v in variables}
    for a, b, sign in edges:
        neighbours[a].append((b, sign))
        neighbours[b].append((a, sign))
    colour: dict[int, int] = {}
    for start in variables:
        if start in colour:
            continue
        colour[start] = 1
        queue = deque([start])
        while queue:
            a = queue.popleft()
            for b, sign in neighbours[a]:
                if b not in colour:
                    colour[b] = sign * colour[a]
                    queue.append(b)
                elif colour[b] != sign * colour[a]:
                    return None
    return colour


def table_signs(
    variables: Sequence[int], tables: Sequence[tuple[tuple[int, ...], NDArray[np.float64]]]
) -> NDArray[np.int8] | None:
    """:func:`monotone_signs` for factors given as (scope, log table) with at most MAX_SCOPE variables each."""
    edges = []
    for scope, table in tables:
        signs = pair_signs(table)
        edges += [(scope[i], scope[j], int(signs[i, j])) for i, j in zip(*np.nonzero(np.triu(signs)), strict=True)]
    colour = _two_colour(variables, edges)
    if colour is None or not all(is_log_supermodular(t, [colour[v] for v in scope]) for scope, t in tables):
        return None
    return np.array([colour[v] for v in variables], dtype=np.int8)


def monotone_signs(variables: Sequence[int], factors: Sequence[Factor]) -> NDArray[np.int8] | None:
    """Signs after which every factor is log-supermodular.

    Args:
        variables: global predicate ids of the component.
        factors: its factors.

    Returns:
        int8[m] of +-1 in the order of ``variables``, or None when there are no such signs (or none were found).
    """
    edges: list[tuple[int, int, int]] = []
    for factor in factors:
        own = _factor_edges(factor)
        if own is None:
            return None
        edges += own
    colour = _two_colour(variables, edges)
    if colour is None:
        return None
    for factor in factors:
        if 2 <= len(factor.scope) <= MAX_SCOPE and not is_log_supermodular(
            factor.log_table(), [colour[v] for v in factor.scope]
        ):
            return None
    return np.array([colour[v] for v in variables], dtype=np.int8)
