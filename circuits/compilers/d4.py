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
import itertools
import json
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compilers import d4_worker
from neurosym.circuits.compilers.arrays import ONE, ZERO, Draft, Ints, levels_of, stable_order
from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.process import run_worker
from neurosym.circuits.errors import CompileLimit
from neurosym.circuits.ir import PRODUCT, SUM, CircuitIR
from neurosym.errors import InputError

MEMORY_BYTES = 4 << 30
"""Address space of the compiler process."""
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.cnf").write_bytes(dimacs(cnf))
        problem = {"max_seconds": max(max_seconds, 0.0), "memory_bytes": memory_bytes, "max_edges": 8 * max_nodes}
        (folder / "problem.json").write_text(json.dumps(problem))
        _run(folder, max_seconds, memory_bytes, stats, stop)
        text = (folder / "out.nnf").read_bytes()
    ir = read_d4(text, cnf.num_variables)
    if ir.num_nodes > max_nodes:
        raise CompileLimit(f"the limit of {max_nodes} nodes was reached", {**stats, "nodes": ir.num_nodes})
    return ir


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


def _parse(text: bytes) -> _Nnf:
    """Read d4's text.

    Raises:
        ValueError: it is not in d4's format.
    """
    if not text.endswith(b" 0\n"):
        raise ValueError("it is empty or cut short")
    raw = np.frombuffer(text, dtype=np.uint8)
    first = np.concatenate([[0], np.flatnonzero(raw == ord("\n"))[:-1] + 1])
    head = raw[first]
    numbers = np.fromstring(text.translate(bytes.maketrans(b"oatf", b"    ")), dtype=np.int64, sep=" ")
    ends = np.flatnonzero(numbers == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    is_node = head >= ord("a")
    length = ends - starts
    if ends.size != head.size or (length < np.where(is_node, 1, 2)).any():
        raise ValueError("not d4's format")
    ids = numbers[starts[is_node]]
    tags = np.zeros(ids.size, dtype=np.uint8)
    if (np.sort(ids) != np.arange(1, ids.size + 1)).any():
        raise ValueError("node numbers with gaps")
    tags[ids - 1] = head[is_node]
    edge = starts[~is_node]
    parents, children = numbers[edge] - 1, numbers[edge + 1] - 1
    if edge.size and (min(parents.min(), children.min()) < 0 or max(parents.max(), children.max()) >= ids.size):
        raise ValueError("an edge to an unknown node")
    is_literal = numbers != 0
    is_literal[starts] = False
    is_literal[edge + 1] = False
    return _Nnf(tags, parents, children, numbers[is_literal], length[~is_node] - 2)


def read_d4(text: bytes, num_variables: int) -> CircuitIR:
    """Smooth circuit over all variables from the text of d4.

    Raises:
        CompileLimit: the text is cut short, not decomposable, or its sets of variables take too much memory.
    """
    try:
        return _smooth(_parse(text), num_variables)
    except ValueError as error:
        raise CompileLimit(f"the output of d4 cannot be used: {error}", {"bytes": len(text)}) from None


def _smooth(nnf: _Nnf, m: int) -> CircuitIR:
    words = max(1, -(-m // 64))
    if (nnf.tags.size + 2 * nnf.parents.size) * words * 8 > MAX_SCOPE_BYTES:
        raise ValueError("too many nodes times variables to be made smooth")
    if nnf.literals.size and np.abs(nnf.literals).max() > m:
        raise ValueError("a literal of an unknown variable")
    beside = _literal_sets(nnf, words)
    scope = _scopes(nnf, beside)
    is_or = nnf.tags == ord("o")
    branch = np.flatnonzero(is_or[nnf.parents])
    gap = scope[nnf.parents[branch]] & ~(scope[nnf.children[branch]] | beside[branch])
    draft = Draft(m)
    node = np.where(nnf.tags == ord("f"), ZERO, ONE).astype(np.int64)
    node[is_or] = draft.nodes(SUM, int(is_or.sum()))
    conjunctions = nnf.tags == ord("a")
    node[conjunctions] = draft.nodes(PRODUCT, int(conjunctions.sum()))
    # an edge of a conjunction hangs its child and literals there; an edge of a disjunction is a product of its own
    holder = node[nnf.parents]
    holder[branch] = draft.nodes(PRODUCT, branch.size)
    draft.edges(node[nnf.parents[branch]], holder[branch])
    draft.edges(holder, node[nnf.children])
    draft.edges(holder[nnf.edge_of], draft.literal(np.abs(nnf.literals) - 1, (nnf.literals > 0).astype(np.int64)))
    every = np.frombuffer(np.packbits(np.arange(64 * words) < m, bitorder="little").tobytes(), dtype="<u8")
    root = draft.nodes(PRODUCT, 1)
    draft.edges(root, node[:1])
    _free_products(draft, np.append(holder[branch], root), np.vstack([gap, every & ~scope[0]]))
    return draft.finish(int(root[0]))


def _literal_sets(nnf: _Nnf, words: int) -> Words:
    """Variables of the literals beside each edge as bits, uint64[E, words]."""
    sets = np.zeros((nnf.parents.size, words), dtype="<u8")
    variable = np.abs(nnf.literals) - 1
    np.bitwise_or.at(sets, (nnf.edge_of, variable >> 6), np.uint64(1) << (variable & 63).astype(np.uint64))
    if int(np.bitwise_count(sets).sum()) != nnf.literals.size:
        raise ValueError("a repeated literal beside an edge")
    return sets


def _scopes(nnf: _Nnf, beside: Words) -> Words:
    """Variables below each node as bits, uint64[N, words]; checks that products are decomposable."""
    scope = np.zeros((nnf.tags.size, beside.shape[1]), dtype="<u8")
    level = levels_of(nnf.parents, nnf.children, nnf.tags.size)
    order = stable_order(nnf.parents, nnf.tags.size)
    order = order[stable_order(level[nnf.parents[order]], int(level.max(initial=0)) + 1)]
    parents, children, sets = nnf.parents[order], nnf.children[order], beside[order]
    bounds = np.searchsorted(level[parents], np.arange(1, int(level.max(initial=0)) + 2))
    is_and = nnf.tags == ord("a")
    for a, b in itertools.pairwise(bounds):
        below = scope[children[a:b]]
        if (below & sets[a:b]).any():
            raise ValueError("a product is not decomposable")
        below |= sets[a:b]
        first = np.flatnonzero(np.append(True, parents[a + 1 : b] != parents[a : b - 1]))
        owner = parents[a:b][first]
        scope[owner] = np.bitwise_or.reduceat(below, first, axis=0)
        parts = np.add.reduceat(np.bitwise_count(below).sum(axis=1, dtype=np.int64), first)
        whole = np.bitwise_count(scope[owner]).sum(axis=1, dtype=np.int64)
        if (is_and[owner] & (parts != whole)).any():
            raise ValueError("a product is not decomposable")
    return scope


def _free_products(draft: Draft, holders: Ints, sets: Words) -> None:
    """Give each holder the product of the free variables of its set; equal sets, and equal bytes of sets, are shared."""
    some = sets.any(axis=1)
    holders, octets = holders[some], np.ascontiguousarray(sets[some]).view(np.uint8)
    width = octets.shape[1]
    if not holders.size:
        return
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
