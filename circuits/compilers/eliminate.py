"""Compilation by variable elimination: the sum-product algorithm, recorded as a circuit.

Eliminating x replaces the factors that mention x by their product summed over x (Dechter, "Bucket elimination", 1999);
recording each sum and product gives a smooth, deterministic, decomposable circuit (Darwiche, "A differential approach
to inference in Bayesian networks", 2003). Trees of implications have width one, so hierarchies compile in linear time.
A large exactly-one or at-most-one group is not tabulated: the circuit branches on its members first, after which the
remaining factors usually fall apart. Soft factors are constants of the circuit, so no extra variables are needed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from neurosym.circuits.compilers.arrays import finish_builder
from neurosym.circuits.factors import MAX_TABLE_VARIABLES, Factor, connected_components, restrict
from neurosym.circuits.ir import CircuitBuilder, CircuitIR, CircuitTooLarge
from neurosym.logic.formula import And, Const, Formula, Not, Var
from neurosym.logic.formula import variables as formula_variables
from neurosym.logic.knowledge import Group

MAX_BAG = 13
"""Largest set of variables that one elimination step may join."""
MAX_CALLS = 20_000
"""Largest number of different residual problems below the branches."""
BRANCH_ABOVE = 5
"""Groups with more members than this are branched on instead of tabulated."""
DEEP = 100
"""Deeper circuits are compiled a second time in rounds: chains of n rules get depth 2 log2 n instead of 2 n."""
LARGE = 2_000
"""More variables than this are eliminated in rounds at once."""
ROUND_BAG = 3
"""Bags up to this size count as equally good in rounds; a chain needs 3, with twice the nodes of plain elimination."""
MAX_GROWTH = 4
"""A shallower circuit may have so many times the edges: levels are steps one after the other, edges run in parallel."""


@dataclass(frozen=True)
class _Table:
    """A message: node ids for every assignment of ``scope`` (last variable fastest)."""

    scope: tuple[int, ...]
    nodes: tuple[int, ...]


class _Eliminator:
    """Records an elimination.

    Args:
        smallest_bag: bags up to this size count as equally good, and variables that stand beside those just eliminated
            come later among equals: the order proceeds in rounds of independent variables. 0 for plain minimum degree.
    """

    def __init__(self, local: Mapping[int, int], max_nodes: int, deadline: float, smallest_bag: int = 0) -> None:
        self.local = local
        self.smallest_bag = smallest_bag
        self.builder = CircuitBuilder(max_nodes)
        self.deadline = deadline
        self.known: dict[tuple[Factor, ...], int] = {}
        self.calls = 0

    def solve(self, factors: Sequence[Factor], free: Sequence[int]) -> int:
        """Node for the product of all factors, summed over the variables in ``free``."""
        parts: list[int] = []
        covered: set[int] = set()
        factors = [factor for factor in factors if factor.formula != Const(True)]
        for members, numbers in connected_components([factor.scope for factor in factors]):
            covered.update(members)
            parts.append(self._component([factors[i] for i in numbers], members))
        for factor in factors:
            if not factor.scope:
                parts.append(self.builder.constant(float(factor.log_table())))
        parts.extend(self.builder.free(self.local[v]) for v in free if v not in covered)
        return self.builder.conj(parts)

    def _component(self, factors: Sequence[Factor], members: Sequence[int]) -> int:
        key = tuple(factors)
        if key not in self.known:
            self.calls += 1
            if self.calls > MAX_CALLS or time.monotonic() > self.deadline:
                raise CircuitTooLarge
            self.known[key] = self._connected(factors, members)
        return self.known[key]

    def _connected(self, factors: Sequence[Factor], members: Sequence[int]) -> int:
        large = [f for f in factors if f.group is not None and len(f.scope) > BRANCH_ABOVE]
        if large:
            return self._branch(max(large, key=lambda f: len(f.scope)), factors, members)
        if any(len(factor.scope) > MAX_TABLE_VARIABLES for factor in factors):
            raise CircuitTooLarge
        return self._eliminate([self._table(factor) for factor in factors], set(members))

    def _branch(self, group: Factor, factors: Sequence[Factor], members: Sequence[int]) -> int:
        """One child for each member that may be true, and one for none in an at-most-one group."""
        assert group.group is not None
        choices: list[int | None] = list(group.scope)
        if group.group.kind == "at_most_one":
            choices.append(None)
        rest = [factor for factor in factors if factor is not group]
        free = [v for v in members if v not in set(group.scope)]
        none = dict.fromkeys(group.scope, False)
        # most constraints mention few members, and look the same whichever of the others is true
        without = [condition(factor, none) for factor in rest]
        children = []
        for chosen in choices:
            values = {v: v == chosen for v in group.scope}
            literals = [self.builder.lit(self.local[v], value) for v, value in values.items()]
            below = self.solve(
                [
                    condition(factor, values) if chosen in factor.scope else base
                    for factor, base in zip(rest, without, strict=True)
                ],
                free,
            )
            children.append(self.builder.conj([*literals, below]))
        return self.builder.disj(children)

    def _table(self, factor: Factor) -> _Table:
        return _Table(factor.scope, tuple(self.builder.constant(float(x)) for x in factor.log_table().ravel()))

    def _eliminate(self, tables: list[_Table], members: set[int]) -> int:
        neighbours: dict[int, set[int]] = {v: set() for v in members}
        holding: dict[int, list[_Table]] = {v: [] for v in members}
        for table in tables:
            for v in table.scope:
                neighbours[v].update(table.scope)
                holding[v].append(table)
        rounds = dict.fromkeys(members, 0)
        heap = [self._priority(neighbours[v], 0, v) for v in members]
        heapq.heapify(heap)
        done: set[int] = set()
        constants = []
        while heap:
            entry = heapq.heappop(heap)
            x = entry[-1]
            if x in done or entry != self._priority(neighbours[x], rounds[x], x):
                continue  # an outdated entry; the right one is in the heap as well
            done.add(x)
            message = self._sum_out(x, holding[x])
            for table in holding.pop(x):
                for v in table.scope:
                    if v != x:
                        holding[v] = [other for other in holding[v] if other is not table]
            if not message.scope:
                constants.append(message.nodes[0])
            for v in message.scope:
                holding[v].append(message)
                neighbours[v] |= set(message.scope)
                neighbours[v].discard(x)
                rounds[v] = max(rounds[v], rounds[x] + 1)
                heapq.heappush(heap, self._priority(neighbours[v], rounds[v], v))
        return self.builder.conj(constants)

    def _priority(self, bag: set[int], number: int, x: int) -> tuple[int, int, int, int]:
        """Order of elimination of ``x``, whose table would have the variables ``bag``, in round ``number``."""
        if not self.smallest_bag:
            return (len(bag), 0, 0, x)
        return (max(len(bag), self.smallest_bag), number, len(bag), x)

    def _sum_out(self, x: int, tables: Sequence[_Table]) -> _Table:
        bag = tuple(sorted(set().union(*(table.scope for table in tables)) - {x}))
        if len(bag) + 1 > MAX_BAG or time.monotonic() > self.deadline:
            raise CircuitTooLarge
        place = {v: i for i, v in enumerate(bag)}
        strides = []
        for table in tables:
            k = len(table.scope)
            weights = [1 << (k - 1 - i) for i in range(k)]
            on_x = sum(w for v, w in zip(table.scope, weights, strict=True) if v == x)
            rest = [(place[v], w) for v, w in zip(table.scope, weights, strict=True) if v != x]
            strides.append((table.nodes, on_x, rest))
        nodes = []
        builder, variable = self.builder, self.local[x]
        for values in itertools.product((0, 1), repeat=len(bag)):
            sides: list[list[int]] = [[], []]
            for entries, on_x, rest in strides:
                base = sum(w for i, w in rest if values[i])
                sides[0].append(entries[base])
                sides[1].append(entries[base + on_x])
            nodes.append(self._choice(builder.conj(sides[0]), builder.conj(sides[1]), variable))
        return _Table(bag, tuple(nodes))

    def _choice(self, low: int, high: int, variable: int) -> int:
        """Sum over one variable; when both sides agree the variable is free."""
        builder = self.builder
        if low == high:
            return builder.conj([builder.free(variable), low])
        parts = [builder.conj([builder.lit(variable, side), node]) for side, node in ((False, low), (True, high))]
        return builder.disj(parts)


def condition(factor: Factor, values: Mapping[int, bool]) -> Factor:
    """The factor with some predicates (global ids) fixed."""
    fixed = [v for v in factor.scope if v in values]
    if not fixed:
        return factor
    if factor.group is not None:
        return _condition_group(factor, values)
    assert factor.formula is not None
    by_id = dict(zip(factor.scope, factor.names, strict=True))
    formula = restrict(factor.formula, {by_id[v]: values[v] for v in fixed})
    used = set(formula_variables(formula))
    kept = [(v, name) for v, name in by_id.items() if name in used]
    return replace(factor, formula=formula, scope=tuple(v for v, _ in kept), names=tuple(n for _, n in kept))


def _condition_group(factor: Factor, values: Mapping[int, bool]) -> Factor:
    """A group with fixed members is a smaller group, or a formula that rules the other members out."""
    assert factor.group is not None
    true = sum(values[v] for v in factor.scope if v in values)
    kept = [(v, name) for v, name in zip(factor.scope, factor.names, strict=True) if v not in values]
    scope, names = tuple(v for v, _ in kept), tuple(n for _, n in kept)
    if true == 0 and len(kept) > 1:
        return replace(factor, scope=scope, names=names, group=Group(factor.group.name, factor.group.kind, names))
    if true == 0 and (not kept or factor.group.kind == "at_most_one"):
        return Factor((), Const(factor.group.kind == "at_most_one"), None, -math.inf)
    if true > 1:
        return Factor((), Const(False), None, -math.inf)
    if true == 0:
        return Factor(scope, Var(names[0]), None, -math.inf, names)
    outs = tuple(Not(Var(name)) for name in names)
    formula: Formula = Const(True) if not outs else outs[0] if len(outs) == 1 else And(outs)
    return Factor(scope, formula, None, -math.inf, names)


def compile_elimination(
    factors: Sequence[Factor], variables: Sequence[int], max_nodes: int, deadline: float = math.inf
) -> CircuitIR:
    """Circuit of the product of ``factors`` over ``variables`` (global ids, ascending; local ids are their places).

    Raises:
        CircuitTooLarge: a step would join more than ``MAX_BAG`` variables, a rule is too large for a table, the node
            budget is spent or the deadline (``time.monotonic``) has passed.
    """
    local = {v: i for i, v in enumerate(variables)}
    split = [piece for factor in factors for piece in split_hard_conjunction(factor)]

    def compiled(smallest_bag: int) -> CircuitIR:
        work = _Eliminator(local, max_nodes, deadline, smallest_bag)
        return finish_builder(work.builder, work.solve(split, variables), len(local))

    if len(local) > LARGE:
        return compiled(ROUND_BAG)
    ir = compiled(0)
    if ir.depth <= DEEP:
        return ir
    try:
        other = compiled(ROUND_BAG)
    except CircuitTooLarge:
        return ir
    better = 3 * other.depth <= 2 * ir.depth and other.num_edges <= MAX_GROWTH * ir.num_edges
    return other if better else ir


def split_hard_conjunction(factor: Factor) -> list[Factor]:
    """A hard conjunction is the product of its parts, each over fewer predicates."""
    if not factor.hard or not isinstance(factor.formula, And):
        return [factor]
    by_name = dict(zip(factor.names, factor.scope, strict=True))
    pieces = []
    for part in factor.formula.args:
        names = tuple(sorted(formula_variables(part), key=by_name.__getitem__))
        piece = Factor(tuple(by_name[n] for n in names), part, None, factor.log_violation, names)
        pieces.extend(split_hard_conjunction(piece))
    return pieces
