"""Compilation to sentential decision diagrams (Darwiche, "SDD: a new canonical representation of propositional
knowledge bases", 2011) with pysdd, for rules that variable elimination cannot take.

A soft rule h gets an indicator variable theta_h with theta_h <-> formula_h, weight 1 when true and exp(-w_h) when false;
hard rules and groups are conjoined. In the finished circuit the indicators are constants.

Nearly all depends on the vtree. It is read off the rules: an elimination tree of the factor graph, the members of the
largest group at the top, each indicator beside the deepest predicate of its rule. For a hierarchy that is the hierarchy
itself. The search for other vtrees that pysdd does by default is off.
"""

from __future__ import annotations

import heapq
import json
import math
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurosym.circuits.compilers import sdd_worker
from neurosym.circuits.compilers.arrays import finish_builder
from neurosym.circuits.compilers.process import run_worker
from neurosym.circuits.errors import CompileLimit
from neurosym.circuits.factors import Factor
from neurosym.circuits.ir import CircuitBuilder, CircuitIR, CircuitTooLarge
from neurosym.logic.formula import And, Const, Formula, Iff, Implies, Not, Or, Var

MEMORY_BYTES = 4 << 30
"""Address space of the compiler process."""
COLLECT_ABOVE = 2_000_000
"""Garbage is collected when dead nodes reach this size: bounds memory between constraints."""
MAX_FILL = 10_000_000
"""Largest number of edges (both directions) of the graph while an order is sought: about a gigabyte."""


@dataclass(frozen=True)
class _Indicator:
    """Variable (from 1) of a soft rule and the log weight of its negative literal."""

    variable: int
    log_off: float


@dataclass(frozen=True)
class _Problem:
    """What the worker has to do, and its limits."""

    predicates: int
    constraints: int
    max_seconds: float
    max_nodes: int
    memory_bytes: int
    minimise_seconds: float


def compile_sdd(
    factors: Sequence[Factor],
    variables: Sequence[int],
    *,
    max_seconds: float = 60.0,
    max_nodes: int = 2_000_000,
    memory_bytes: int = MEMORY_BYTES,
    minimise_seconds: float = 0.0,
    stop: threading.Event | None = None,
) -> CircuitIR:
    """Circuit of the product of ``factors`` over ``variables`` (global ids, ascending).

    Args:
        minimise_seconds: search for a better vtree for so long when the diagram is finished (within ``max_seconds``
            in all); 0 leaves the vtree as it was read off the rules.
        stop: gives up when it is set.

    Raises:
        CompileLimit: time, memory or node limit; tells how many constraints were done.
    """
    deadline = time.monotonic() + max_seconds
    local = {v: i + 1 for i, v in enumerate(variables)}
    indicators, constraints = _constraints(factors, local)
    below = {number: indicator.variable for number, indicator in indicators.items()}
    vtree, position = build_vtree(factors, variables, local, below, deadline)
    # constraints low in the vtree first: intermediate results stay local
    constraints.sort(key=lambda c: -min((position[v] for v in factors[c[0]].scope), default=0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.vtree").write_text(vtree)
        left = deadline - time.monotonic()
        problem = _Problem(
            len(local), len(constraints), left, max_nodes, memory_bytes, max(min(minimise_seconds, left), 0.0)
        )
        limits = {
            "constraints": [body for _, body in constraints],
            "max_seconds": max(left, 0.0),
            "max_nodes": max_nodes,
            "memory_bytes": memory_bytes,
            "collect_above": COLLECT_ABOVE,
            "minimise_seconds": problem.minimise_seconds,
        }
        (folder / "problem.json").write_text(json.dumps(limits))
        _run(problem, folder, stop)
        better = (folder / "min.done").exists()
        kind = "min" if better else "out"
        sdd, tree = (folder / f"{kind}.sdd").read_text(), (folder / f"{kind}.vtree").read_text()
    weights = {indicator.variable: indicator.log_off for indicator in indicators.values()}
    try:
        return read_sdd(sdd, tree, len(local), weights, max_nodes)
    except CircuitTooLarge:
        stats = {"predicates": len(local), "constraints": len(constraints), "max_nodes": max_nodes}
        raise CompileLimit("the node limit was reached", stats) from None


def _constraints(
    factors: Sequence[Factor], local: Mapping[int, int]
) -> tuple[dict[int, _Indicator], list[tuple[int, list[Any]]]]:
    """The indicators of the soft factors, and every factor as (its number, prefix form for the worker)."""
    indicators: dict[int, _Indicator] = {}
    constraints: list[tuple[int, list[Any]]] = []
    for number, factor in enumerate(factors):
        body = _encode(factor, local)
        if factor.log_violation == 0.0:
            continue
        if not factor.hard:
            indicators[number] = _Indicator(len(local) + len(indicators) + 1, factor.log_violation)
            body = ["=", ["v", indicators[number].variable], body]
        constraints.append((number, body))
    return indicators, constraints


def _run(problem: _Problem, folder: Path, stop: threading.Event | None) -> None:
    """Run the worker and turn its failures into :class:`CompileLimit`."""
    done = run_worker(str(sdd_worker.__file__), [str(folder)], problem.max_seconds, stop)
    # a run that ends while it minimises leaves the diagram that it had before
    if done.status == 0 or (not done.stopped and (folder / "out.done").exists()):
        return
    progress = [line.split() for line in done.stdout.decode(errors="replace").splitlines()]
    last = next((line for line in reversed(progress) if len(line) == 3 and line[0] == "progress"), None)
    stats = {
        "predicates": problem.predicates,
        "constraints": problem.constraints,
        "constraints done": int(last[1]) if last else 0,
        "SDD size": int(last[2]) if last else 0,
        "seconds": round(done.seconds, 2),
    }
    if done.stopped:
        raise CompileLimit("another component failed", stats)
    if done.status is None:
        raise CompileLimit(f"the time limit of {max(problem.max_seconds, 0.0):.3g} s was reached", stats)
    if done.status == sdd_worker.TOO_MANY_NODES:
        raise CompileLimit(f"the limit of {problem.max_nodes} nodes was reached", stats)
    if b"ModuleNotFoundError" in done.stderr:
        raise CompileLimit("the SDD compiler is missing; install pysdd", stats)
    memory = problem.memory_bytes >> 20
    raise CompileLimit(f"the SDD compiler stopped (status {done.status}, memory limit {memory} MiB)", stats)


def _encode(factor: Factor, local: Mapping[int, int]) -> list[Any]:
    """Prefix form for the worker."""
    if factor.group is not None:
        return ["1" if factor.group.kind == "exactly_one" else "<", *(local[v] for v in factor.scope)]
    assert factor.formula is not None
    ids = {name: local[v] for name, v in zip(factor.names, factor.scope, strict=True)}
    return _prefix(factor.formula, ids)


def _prefix(formula: Formula, ids: Mapping[str, int]) -> list[Any]:
    if isinstance(formula, Var):
        return ["v", ids[formula.name]]
    if isinstance(formula, Const):
        return ["c", formula.value]
    if isinstance(formula, Not):
        return ["~", _prefix(formula.arg, ids)]
    if isinstance(formula, And | Or):
        return ["&" if isinstance(formula, And) else "|", *(_prefix(arg, ids) for arg in formula.args)]
    left, right = _prefix(formula.left, ids), _prefix(formula.right, ids)
    if isinstance(formula, Implies):
        return ["|", ["~", left], right]
    assert isinstance(formula, Iff)
    return ["=", left, right]


def elimination_order(factors: Sequence[Factor], variables: Sequence[int], deadline: float = math.inf) -> list[int]:
    """Minimum-degree order of the variables, the members of the largest group last.

    Raises:
        CompileLimit: the deadline (``time.monotonic``) has passed, or the graph becomes too dense.
    """
    near: dict[int, set[int]] = {v: set() for v in variables}
    for factor in factors:
        for v in factor.scope:
            near[v].update(factor.scope)
    for v in variables:
        near[v].discard(v)
    groups = [f for f in factors if f.group is not None]
    last = set(max(groups, key=lambda f: len(f.scope)).scope) if groups else set()
    order: list[int] = []
    heap = [(v in last, len(around), v) for v, around in near.items()]
    heapq.heapify(heap)
    edges = sum(map(len, near.values()))
    while heap:
        _, degree, v = heapq.heappop(heap)
        if v not in near or degree != len(near[v]):
            continue  # an outdated entry; the right one is in the heap as well
        order.append(v)
        around = near.pop(v)
        for u in around:
            before = len(near[u])
            near[u] |= around
            near[u] -= {u, v}
            edges += len(near[u]) - before
            if len(near[u]) != before:
                heapq.heappush(heap, (u in last, len(near[u]), u))
        if time.monotonic() > deadline or edges > MAX_FILL:
            stats = {"variables": len(near) + len(order), "ordered": len(order), "edges": edges}
            what = "memory" if edges > MAX_FILL else "time"
            raise CompileLimit(f"the {what} limit was reached while looking for a vtree", stats)
    return order


def build_vtree(
    factors: Sequence[Factor],
    variables: Sequence[int],
    local: Mapping[int, int],
    indicators: Mapping[int, int],
    deadline: float = math.inf,
) -> tuple[str, dict[int, int]]:
    """The vtree in libsdd's file format, and the depth-first position of each variable.

    Args:
        local: SDD variable of each predicate.
        indicators: SDD variable of the indicator of each soft factor.
    """
    order = elimination_order(factors, variables, deadline)
    when = {v: i for i, v in enumerate(order)}
    beside: dict[int, list[int]] = {v: [] for v in variables}
    for number, factor in enumerate(factors):
        if number in indicators:
            beside[min(factor.scope, key=when.__getitem__)].append(indicators[number])
    children = _elimination_tree(factors, order, when)
    lines: list[str] = []

    def node(text: str) -> int:
        lines.append(text)
        return len(lines) - 1

    def join(left: int, right: int) -> int:
        return node(f"I {len(lines)} {left} {right}")

    def balanced(items: list[int]) -> int:
        while len(items) > 1:
            items = [join(*items[i : i + 2]) if i + 1 < len(items) else items[i] for i in range(0, len(items), 2)]
        return items[0]

    made: dict[int, int] = {}
    for v in order:  # a vertex comes after all its descendants
        top = balanced([node(f"L {len(lines)} {x}") for x in [local[v], *beside[v]]])
        kids = [made.pop(child) for child in children[v]]
        made[v] = join(top, balanced(kids)) if kids else top
    balanced(list(made.values()))
    position: dict[int, int] = {}
    stack = [v for v in order if v in made]
    while stack:
        v = stack.pop()
        position[v] = len(position)
        stack.extend(children[v])
    return f"vtree {len(lines)}\n" + "\n".join(lines) + "\n", position


def _elimination_tree(factors: Sequence[Factor], order: Sequence[int], when: Mapping[int, int]) -> dict[int, list[int]]:
    """Children of each vertex: the parent is the earliest eliminated of the later neighbours in the filled graph."""
    above: dict[int, set[int]] = {v: set() for v in order}
    for factor in factors:
        for v in factor.scope:
            above[v].update(u for u in factor.scope if when[u] > when[v])
    children: dict[int, list[int]] = {v: [] for v in order}
    for v in order:
        if above[v]:
            parent = min(above[v], key=when.__getitem__)
            children[parent].append(v)
            above[parent] |= above[v] - {parent}
    return children


class _Vtree:
    """A vtree read back: parents, children, variables."""

    def __init__(self, text: str) -> None:
        self.parent: dict[int, int] = {}
        self.sides: dict[int, tuple[int, int]] = {}
        self.variable: dict[int, int] = {}
        for line in text.splitlines():
            tag, *rest = line.split() or ["c"]
            if tag == "L":
                self.variable[int(rest[0])] = int(rest[1])
            elif tag == "I":
                top, left, right = map(int, rest)
                self.sides[top] = (left, right)
                self.parent[left] = self.parent[right] = top
        self.root = next(n for n in (*self.variable, *self.sides) if n not in self.parent)

    def bottom_up(self) -> list[int]:
        """All nodes, children first."""
        order, stack = [], [self.root]
        while stack:
            node = stack.pop()
            order.append(node)
            stack.extend(self.sides.get(node, ()))
        return order[::-1]


class _Smoother:
    """Products with the free variables that a smaller diagram leaves out."""

    def __init__(self, vtree: _Vtree, builder: CircuitBuilder, predicates: int, log_off: Mapping[int, float]) -> None:
        self.vtree, self.builder, self.predicates, self.log_off = vtree, builder, predicates, log_off
        self.free: dict[int, int] = {}
        for node in vtree.bottom_up():
            if node in vtree.variable:
                variable = vtree.variable[node]
                if variable > predicates:
                    self.free[node] = builder.constant(float(np.logaddexp(0.0, log_off[variable])))
                else:
                    self.free[node] = builder.free(variable - 1)
            else:
                self.free[node] = builder.conj([self.free[side] for side in vtree.sides[node]])

    def literal(self, literal: int) -> int:
        """A predicate's literal, or the constant weight of an indicator's."""
        variable = abs(literal)
        if variable > self.predicates:
            return self.builder.constant(0.0 if literal > 0 else self.log_off[variable])
        return self.builder.lit(variable - 1, literal > 0)

    def lift(self, node: int, at: int | None, target: int) -> int:
        """``node``, a diagram for vtree node ``at`` (None: a constant), as one for ``target`` above it."""
        if node == self.builder.zero:
            return node
        if at is None:
            return self.builder.conj([node, self.free[target]])
        gaps = [node]
        while at != target:
            parent = self.vtree.parent[at]
            left, right = self.vtree.sides[parent]
            gaps.append(self.free[right if at == left else left])
            at = parent
        return self.builder.conj(gaps)


def read_sdd(
    text: str, vtree_text: str, predicates: int, log_off: Mapping[int, float], max_nodes: int = 2_000_000
) -> CircuitIR:
    """Smooth circuit from the text of an ``.sdd`` file and its vtree.

    Args:
        predicates: SDD variables 1..predicates become local variables 0..predicates-1.
        log_off: log weight of the negative literal of every other variable (the positive one weighs 1).
    """
    vtree, builder = _Vtree(vtree_text), CircuitBuilder(max_nodes)
    smoother = _Smoother(vtree, builder, predicates, log_off)
    found: dict[int, tuple[int, int | None]] = {}
    last = -1
    for line in text.splitlines():
        tag, *rest = line.split() or ["c"]
        if tag in ("c", "sdd"):
            continue
        last = int(rest[0])
        if tag in ("T", "F"):
            found[last] = (builder.one if tag == "T" else builder.zero, None)
        elif tag == "L":
            found[last] = (smoother.literal(int(rest[2])), int(rest[1]))
        else:
            at, elements = int(rest[1]), [int(x) for x in rest[3:]]
            left, right = vtree.sides[at]
            pairs = []
            for prime, sub in zip(elements[::2], elements[1::2], strict=True):
                low = smoother.lift(*found[prime], left)
                pairs.append(builder.conj([low, smoother.lift(*found[sub], right)]))
            found[last] = (builder.disj(pairs), at)
    root = smoother.lift(*found[last], vtree.root)
    return finish_builder(builder, root, predicates)
