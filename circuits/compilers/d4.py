"""Compilation with d4 (Lagniez and Marquis, "An improved decision-DNNF compiler", IJCAI 2017), for clauses without
structure; an optional dependency.

The Python package is d4Solver (module ``py_d4``, extra ``neurosym[d4]``). Its metadata carry the MIT licence classifier
("License :: OSI Approved :: MIT License"); earlier releases of d4 itself were LGPL, so look before you redistribute it.
It runs in a process of its own, which is killed at the time limit. Its decision-DNNF is made smooth while it is read: a
branch that leaves variables out gets a product of free variables, shared between all branches that leave out the same.

d4's text differs from that of c2d: nodes are ``o`` (or), ``a`` (and), ``t`` and ``f`` with numbers from 1, the first one
the root, and edges are lines ``parent child literal literal ... 0``: the child, with literals that hold beside it.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compilers import d4_worker
from neurosym.circuits.compilers.arrays import ZERO, Draft, Ints, levels_of, stable_order
from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.process import run_worker
from neurosym.circuits.compilers.width import minimum_degrees
from neurosym.circuits.errors import CompileLimit
from neurosym.circuits.ir import PRODUCT, SUM, CircuitIR
from neurosym.errors import InputError

MEMORY_BYTES = 4 << 30
"""Address space of the compiler process."""
UNIFORM_VARIABLES = 400
"""Only so few variables are worth the question whether their clauses look random."""
MAX_SCOPE_BYTES = 1 << 30
"""Memory for the sets of variables below each node, which smoothing needs."""

Words = NDArray[np.uint64]


def d4_installed() -> bool:
    """Whether the optional package is there."""
    return importlib.util.find_spec("py_d4") is not None


def compile_d4(
    cnf: Cnf,
    *,
    max_seconds: float = 60.0,
    max_nodes: int = 2_000_000,
    memory_bytes: int = MEMORY_BYTES,
    stop: threading.Event | None = None,
) -> CircuitIR:
    """Smooth circuit of the clauses.

    Args:
        stop: gives up when it is set.

    Raises:
        InputError: py_d4 is not installed.
        CompileLimit: time, memory or node limit.
    """
    if not d4_installed():
        raise InputError("the compiler d4 needs the package d4Solver; install neurosym[d4]")
    stats: dict[str, object] = {"compiler": "d4", "variables": cnf.num_variables, "clauses": cnf.num_clauses}
    if (cnf.lengths == 0).any():
        return Draft(cnf.num_variables).finish(ZERO)
    deadline = time.monotonic() + max_seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.cnf").write_bytes(dimacs(cnf))
        changed = settings(cnf)
        left = deadline - time.monotonic()
        problem = {
            "max_seconds": max(left, 0.0),
            "memory_bytes": memory_bytes,
            "max_edges": 8 * max_nodes,
            "settings": changed,
        }
        (folder / "problem.json").write_text(json.dumps(problem))
        _run(folder, left, memory_bytes, stats, stop)
        text = (folder / "out.nnf").read_bytes()
    ir = read_d4(text, cnf.num_variables)
    if ir.num_nodes > max_nodes:
        raise CompileLimit(f"the limit of {max_nodes} nodes was reached", {**stats, "nodes": ir.num_nodes})
    return ir


def settings(cnf: Cnf) -> dict[str, str | int]:
    """What to change of d4's own settings, by their places.

    Its tests of satisfiability are small and many, for which MiniSat takes less time than Glucose. Where a bag of a tree
    decomposition would hold half of the variables, and no clause is short, the decomposition misleads the choice of
    variables: conflicts and occurrences alone choose better, and cached formulas are told apart by the numbers of their
    clauses in less time. Other ways to store formulas are no choice here: ``sym`` and ``combi`` take formulas as equal
    that are so up to the names of their variables, right for counts but not for circuits, and ``not-binary`` takes
    different ones as equal.
    """
    changed: dict[str, str | int] = {"solver.solverName": "minisat"}
    if looks_random(cnf):
        changed["branching.branchingHeuristicType"] = "classic"
        changed["branching.freqDecay"] = 10
        changed["cache.bucket.clauseRepresentation"] = "index"
    return changed


def looks_random(cnf: Cnf) -> bool:
    """Whether all clauses have three literals or more, and the primal graph has no small separators to be found."""
    if cnf.num_variables > UNIFORM_VARIABLES or cnf.lengths.min(initial=3) < 3:
        return False
    return any(2 * degree >= cnf.num_variables for degree in minimum_degrees(cnf))


def dimacs(cnf: Cnf) -> bytes:
    """The clauses as a DIMACS file."""
    body = "".join(f"{' '.join(map(str, clause))} 0\n" for clause in cnf.clauses())
    return f"p cnf {cnf.num_variables} {cnf.num_clauses}\n{body}".encode()


def _run(
    folder: Path, max_seconds: float, memory_bytes: int, stats: dict[str, object], stop: threading.Event | None
) -> None:
    """Run the worker and turn its failures into :class:`CompileLimit`."""
    done = run_worker(str(d4_worker.__file__), [str(folder)], max_seconds, stop)
    if done.status == 0:
        return
    stats["seconds"] = round(done.seconds, 2)
    if done.status is None:
        why = (
            "another component failed"
            if done.stopped
            else f"the time limit of {max(max_seconds, 0.0):.3g} s was reached"
        )
        raise CompileLimit(why, stats)
    words = done.stderr.split()
    if done.status == d4_worker.TOO_MANY_EDGES and words[2:3] == [b"edges"]:
        stats["edges"] = int(words[3])
        raise CompileLimit("the node limit was reached", stats)
    raise CompileLimit(f"d4 stopped (status {done.status}, memory limit {memory_bytes >> 20} MiB)", stats)


@dataclass(frozen=True, eq=False)
class _Nnf:
    """d4's circuit: tags of the nodes (bytes, node i at i - 1) and edges with literals in CSR form."""

    tags: NDArray[np.uint8]
    parents: Ints
    children: Ints
    literals: Ints
    counts: Ints

    @property
    def edge_of(self) -> Ints:
        """Edge of each literal."""
        return np.repeat(np.arange(self.parents.size), self.counts)


@dataclass(frozen=True, eq=False)
class _Sums:
    """The same as sums of products: every node is a sum of branches, a branch a product of literals and nodes.

    Attributes:
        num_nodes: the root is node 0. A node without branches is 0, one with an empty branch 1.
        owner: int64[B], the node of each branch.
        holder, child: int64[E], branches and the nodes in them.
        literal_holder, literals: int64[L], branches and the literals in them.
    """

    num_nodes: int
    owner: Ints
    holder: Ints
    child: Ints
    literal_holder: Ints
    literals: Ints


def _parse(text: bytes) -> _Nnf:
    """Read d4's text.

    Raises:
        ValueError: it is not in d4's format.
    """
    if not text.endswith(b" 0\n"):
        raise ValueError("it is empty or cut short")
    raw = np.frombuffer(text, dtype=np.uint8)
    letters = raw[np.flatnonzero(raw >= ord("a"))]
    numbers = np.fromstring(text.translate(bytes.maketrans(b"oatf", b"    ")), dtype=np.int64, sep=" ")
    ends = np.flatnonzero(numbers == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts
    is_node = length == 1  # edges have two numbers or more
    ids = numbers[starts[is_node]]
    if not ends.size or length.min() < 1 or ids.size != letters.size:
        raise ValueError("not d4's format")
    if ids.min(initial=1) < 1 or ids.max(initial=0) > ids.size or (np.bincount(ids)[1:] != 1).any():
        raise ValueError("node numbers with gaps")
    tags = np.zeros(ids.size, dtype=np.uint8)
    tags[ids - 1] = letters
    edge = starts[~is_node]
    parents, children = numbers[edge] - 1, numbers[edge + 1] - 1
    if edge.size and (min(parents.min(), children.min()) < 0 or max(parents.max(), children.max()) >= ids.size):
        raise ValueError("an edge to an unknown node")
    if ((tags == ord("t")) | (tags == ord("f")))[parents].any():
        raise ValueError("a constant with children")
    is_literal = np.ones(numbers.size, dtype=bool)
    is_literal[ends] = is_literal[starts] = is_literal[edge + 1] = False
    return _Nnf(tags, parents, children, numbers[is_literal], length[~is_node] - 2)


def _sums(nnf: _Nnf) -> _Sums:
    """Each edge of a disjunction is a branch; a conjunction below such an edge alone is part of that branch."""
    size = nnf.tags.size
    branch = np.flatnonzero((nnf.tags == ord("o"))[nnf.parents])
    single = (nnf.tags == ord("a")) & (np.bincount(nnf.children, minlength=size) == 1)
    single[0] = False
    within = single[nnf.children[branch]]  # branches with the conjunction below them
    part = np.zeros(size, dtype=bool)
    part[nnf.children[branch[within]]] = True
    number = np.cumsum(~part) - 1
    alone = np.flatnonzero(~part & ((nnf.tags == ord("a")) | (nnf.tags == ord("t"))))
    own = np.zeros(size, dtype=np.int64)  # branch of each node that is a product
    own[nnf.children[branch[within]]] = np.flatnonzero(within)
    own[alone] = branch.size + np.arange(alone.size)
    holder = own[nnf.parents]
    holder[branch] = np.arange(branch.size)
    kept = ~part[nnf.children] & (nnf.tags[nnf.children] != ord("t"))
    owner = number[np.concatenate([nnf.parents[branch], alone])]
    num_nodes = int(number[-1]) + 1 if size else 0
    return _Sums(num_nodes, owner, holder[kept], number[nnf.children[kept]], holder[nnf.edge_of], nnf.literals)


def read_d4(text: bytes, num_variables: int) -> CircuitIR:
    """Smooth circuit over all variables from the text of d4.

    Raises:
        CompileLimit: the text is cut short, not decomposable, or its sets of variables take too much memory.
    """
    try:
        return _smooth(_sums(_parse(text)), num_variables)
    except ValueError as error:
        raise CompileLimit(f"the output of d4 cannot be used: {error}", {"bytes": len(text)}) from None


def _smooth(sums: _Sums, m: int) -> CircuitIR:
    words = max(1, -(-m // 64))
    if (sums.num_nodes + 2 * sums.owner.size + sums.child.size) * words * 8 > MAX_SCOPE_BYTES:
        raise ValueError("too many nodes times variables to be made smooth")
    if sums.literals.size and np.abs(sums.literals).max() > m:
        raise ValueError("a literal of an unknown variable")
    scope, below = _scopes(sums, words)
    draft = Draft(m)
    node = draft.nodes(SUM, sums.num_nodes)
    products = draft.nodes(PRODUCT, sums.owner.size)
    root = draft.nodes(PRODUCT, 1)
    draft.edges(root, node[:1])
    draft.edges(node[sums.owner], products)
    draft.edges(products[sums.holder], node[sums.child])
    literals = draft.literal(np.abs(sums.literals) - 1, (sums.literals > 0).astype(np.int64))
    draft.edges(products[sums.literal_holder], literals)
    every = np.frombuffer(np.packbits(np.arange(64 * words) < m, bitorder="little").tobytes(), dtype="<u8")
    gap = np.vstack([scope[sums.owner] & ~below, every & ~scope[0]])
    _free_products(draft, np.append(products, root), gap)
    return draft.finish(int(root[0]))


def _scopes(sums: _Sums, words: int) -> tuple[Words, Words]:
    """Variables below nodes and branches as bits, uint64[N, words] and uint64[B, words].

    Raises:
        ValueError: a product is not decomposable, or the edges have a cycle.
    """
    scope = np.zeros((sums.num_nodes, words), dtype="<u8")
    below = np.zeros((sums.owner.size, words), dtype="<u8")
    variable = np.abs(sums.literals) - 1
    place = sums.literal_holder * words + (variable >> 6)
    np.bitwise_or.at(below.ravel(), place, np.uint64(1) << (variable & 63).astype(np.uint64))
    level = levels_of(sums.owner[sums.holder], sums.child, sums.num_nodes)
    steps = np.arange(int(level.max(initial=0)) + 2)
    branches = _by_level(level[sums.owner], sums.owner, steps.size, sums.num_nodes)
    edges = _by_level(level[sums.owner[sums.holder]], sums.holder, steps.size, sums.owner.size)
    first_branch = np.searchsorted(level[sums.owner[branches]], steps)
    first_edge = np.searchsorted(level[sums.owner[sums.holder[edges]]], steps)
    for number in steps[:-1]:
        taken = edges[first_edge[number] : first_edge[number + 1]]
        if taken.size:
            holder, sets = _union(sums.holder[taken], scope[sums.child[taken]])
            below[holder] |= sets
        own = branches[first_branch[number] : first_branch[number + 1]]
        if own.size:
            owner, sets = _union(sums.owner[own], below[own])
            scope[owner] = sets
    parts = np.bincount(sums.holder, weights=_sizes(scope)[sums.child], minlength=sums.owner.size)
    parts += np.bincount(sums.literal_holder, minlength=sums.owner.size)
    if (parts != _sizes(below)).any():
        raise ValueError("a product is not decomposable")
    return scope, below


def _by_level(level: Ints, key: Ints, levels: int, size: int) -> Ints:
    """The order by level, then by key 0..size-1."""
    order = stable_order(key, size)
    return order[stable_order(level[order], levels)]


def _union(owner: Ints, sets: Words) -> tuple[Ints, Words]:
    """Owners, each once, and the union of the sets of each; those of one owner stand together."""
    first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    return owner[first], np.bitwise_or.reduceat(sets, first, axis=0)


def _sizes(sets: Words) -> Ints:
    return np.bitwise_count(sets).sum(axis=1, dtype=np.int64)


def _free_products(draft: Draft, holders: Ints, sets: Words) -> None:
    """Give each holder the free variables of its set: one variable as it is, several as a product.

    Equal sets, and equal bytes of sets, are shared.
    """
    octets = np.ascontiguousarray(sets).view(np.uint8)
    size = _sizes(sets)
    single = np.flatnonzero(size == 1)
    number, place = np.nonzero(octets[single])
    variable = place * 8 + np.bitwise_count(octets[single[number], place] - 1)
    draft.edges(holders[single[number]], draft.literal(variable, np.full(variable.size, -1)))
    several = size > 1
    holders, octets = holders[several], octets[several]
    if not holders.size:
        return
    width = octets.shape[1]
    distinct, which = np.unique(octets.view(f"V{width}").ravel(), return_inverse=True)
    octets = distinct.view(np.uint8).reshape(-1, width)
    gaps = draft.nodes(PRODUCT, len(octets))
    draft.edges(holders, gaps[which.ravel()])
    owner, place = np.nonzero(octets)
    keys, part = np.unique(place * 256 + octets[owner, place], return_inverse=True)
    parts = draft.nodes(PRODUCT, keys.size)
    draft.edges(gaps[owner], parts[part.ravel()])
    bits = np.unpackbits((keys % 256).astype(np.uint8)[:, None], axis=1, bitorder="little")
    number, bit = np.nonzero(bits)
    variable = (keys[number] // 256) * 8 + bit
    draft.edges(parts[number], draft.literal(variable, np.full(variable.size, -1)))
