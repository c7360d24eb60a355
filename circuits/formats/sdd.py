"""Sentential decision diagrams (Darwiche 2011) and vtrees as text, in libsdd's ``.sdd`` and ``.vtree`` formats.

::

    c any comment                         c any comment
    sdd 5                                 vtree 3
    L 1 0 2      node 1, vtree 0, x2      L 0 1        leaf 0 holds variable 1
    T 2          node 2 is true           L 2 2
    F 3          node 3 is false          I 1 0 2      node 1 has the children 0 and 2
    D 0 1 2 1 2 4 3
                 node 0, vtree 1, 2 elements: (1, 2), (4, 3); each is a prime and a sub

Children stand before parents, and the last node is the root.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.errors import CompileLimit
from neurosym.circuits.formats import sdd_worker
from neurosym.circuits.formats.files import Rows, read_rows, write_atomically
from neurosym.circuits.formats.graph import Graph, csr, levels, smooth_circuit, spans
from neurosym.circuits.formats.nnf import MOST_VARIABLES, check_deterministic
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR
from neurosym.errors import InputError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Vtree:
    """A full binary tree over the variables; node k of the file is row k.

    Attributes:
        variable: int64[n], the variable (from 1) of a leaf, 0 inside.
        left, right: int64[n], children of an inner node, -1 at leaves.
        first, last: int64[n], the leaves below a node are first..last in left-to-right order.
    """

    variable: Ints
    left: Ints
    right: Ints
    first: Ints
    last: Ints

    @property
    def num_variables(self) -> int:
        """Number of leaves."""
        return int((self.variable > 0).sum())

    def below(self, node: Ints, top: Ints) -> NDArray[np.bool_]:
        """``node`` is ``top`` or one of its descendants, entry by entry."""
        return (self.first[top] <= self.first[node]) & (self.last[node] <= self.last[top])


def read_vtree(path: str | Path) -> Vtree:
    """Read a vtree.

    Raises:
        InputError: not in the format, or not one full binary tree over the variables 1..n; names the line.
    """
    rows = read_rows(path, "LI", "vtree")
    header = rows.header(1, "vtree NODES")
    if header is None or not rows.line.size:
        raise InputError(f"{path}: no 'vtree' line or no nodes; is this a .vtree file?")
    rows.check((rows.tag == ord("L")) & (rows.counts != 2), "expected 'L NODE VARIABLE'")
    rows.check((rows.tag == ord("I")) & (rows.counts != 3), "expected 'I NODE LEFT RIGHT'")
    rows.check(rows.tag == 0, "unknown line; nodes are L and I")
    n = rows.line.size
    if n != header[0]:
        raise InputError(f"{path}: the header promises {header[0]} nodes, the file has {n}; it may be cut short")
    own = rows.column(np.arange(n), 0)
    rows.check((own < 0) | (own >= n), f"expected node numbers 0..{n - 1}")
    rows.check(_repeated(own), "a second node of this number")
    leaves, inner = rows.tagged("L"), rows.tagged("I")
    sides = np.stack([rows.column(inner, place) for place in (1, 2)], axis=1)
    wrong = np.zeros(n, dtype=bool)
    wrong[inner[((sides < 0) | (sides >= n)).any(axis=1)]] = True
    rows.check(wrong, f"children must be nodes 0..{n - 1}")
    wrong[inner[_repeated(sides.ravel()).reshape(-1, 2).any(axis=1)]] = True
    rows.check(wrong, "a child has a parent already")
    variable, left, right = np.zeros(n, dtype=np.int64), np.full(n, -1), np.full(n, -1)
    variable[own[leaves]] = rows.column(leaves, 1)
    wrong[leaves[(rows.column(leaves, 1) < 1) | (rows.column(leaves, 1) > leaves.size)]] = True
    rows.check(wrong, f"expected the variables 1..{leaves.size}, each at one leaf")
    wrong[leaves[_repeated(rows.column(leaves, 1))]] = True
    rows.check(wrong, "the variable has a leaf already")
    left[own[inner]], right[own[inner]] = sides[:, 0], sides[:, 1]
    return _with_order(rows, variable, left, right)


def _repeated(numbers: Ints) -> NDArray[np.bool_]:
    """Which entries stand earlier in the array already."""
    first = np.zeros(numbers.size, dtype=bool)
    first[np.unique(numbers, return_index=True)[1]] = True
    return ~first


def _with_order(rows: Rows, variable: Ints, left: Ints, right: Ints) -> Vtree:
    n = variable.size
    inner = np.flatnonzero(left >= 0)
    offsets, children = csr(np.repeat(inner, 2), np.stack([left[inner], right[inner]], axis=1).ravel(), n)
    level = levels(offsets, children)
    roots = np.setdiff1d(np.arange(n), children)
    # every node has at most one parent: one root and no cycle make one tree
    if (level < 0).any() or roots.size != 1:
        raise rows.fail(int(rows.headers[0][0]), "the nodes are not one tree")
    size = (left < 0).astype(np.int64)
    order = inner[np.argsort(level[inner], kind="stable")]
    for node in order:
        size[node] = size[left[node]] + size[right[node]]
    first = np.zeros(n, dtype=np.int64)
    for node in order[::-1]:
        first[left[node]], first[right[node]] = first[node], first[node] + size[left[node]]
    return Vtree(variable, left, right, first, first + size - 1)


def read_sdd(path: str | Path, vtree: str | Path | None = None, num_variables: int | None = None) -> CircuitIR:
    """Read an SDD as a circuit that is smooth over all its variables.

    Args:
        vtree: its ``.vtree`` file. With it, every node is checked to respect the vtree: the primes of a node mention
            variables of the left subtree only, the subs of the right one.
        num_variables: number of variables where no vtree tells it; the largest literal when left out.

    Raises:
        InputError: not in the format; a node that the vtree does not allow, or whose elements share a variable; or
            (up to 14 variables, where it is checked) primes that do not exclude each other. Names the line.
    """
    rows = read_rows(path, "LTFD", "sdd")
    header = rows.header(1, "sdd NODES")
    if header is None or not rows.line.size:
        raise InputError(f"{path}: no 'sdd' line or no nodes; is this an .sdd file?")
    tree = None if vtree is None else read_vtree(vtree)
    rows.check(rows.tag == 0, "unknown line; nodes are L, T, F and D")
    for tags, count, form in (("TF", 1, "T NODE' or 'F NODE"), ("L", 3, "L NODE VTREE LITERAL")):
        wrong = np.zeros(rows.line.size, dtype=bool)
        some = rows.tagged(tags)
        wrong[some] = rows.counts[some] != count
        rows.check(wrong, f"expected '{form}'")
    n, deep = rows.line.size, rows.tag == ord("D")
    elements = rows.padded(rows.offsets[:-1] + 2)
    rows.check(deep & ((rows.counts < 5) | (rows.counts != 3 + 2 * elements)), "the number of elements does not fit")
    if n != header[0]:
        raise InputError(f"{path}: the header promises {header[0]} nodes, the file has {n}; it may be cut short")
    place = _places(rows)
    decisions = np.flatnonzero(deep)
    at, _ = spans(np.stack([rows.offsets[:-1] + 3, rows.offsets[1:]], axis=1).ravel(), 2 * decisions)
    numbers = rows.values[at]
    parents = np.repeat(decisions, rows.counts[decisions] - 3)
    known = (numbers >= 0) & (numbers < place.size)
    kids = np.where(known, place[np.where(known, numbers, 0)], n)
    wrong = np.zeros(n, dtype=bool)
    wrong[parents[(kids < 0) | (kids >= parents)]] = True
    rows.check(wrong, "a prime or sub must be an earlier node")
    value = np.zeros(n, dtype=np.int64)
    literals = rows.tagged("L")
    value[literals] = rows.column(literals, 2)
    count = _variables(rows, value, tree, num_variables)
    if tree is not None:
        _check_vtree(rows, tree, value, parents, kids)
    ir = smooth_circuit(
        _graph(rows, value, parents, kids), count, lambda k, why: rows.fail(int(rows.line[min(k, n)]), why)
    )
    check_deterministic(ir, path)
    return ir


def _places(rows: Rows) -> Ints:
    """Row of each node number, -1 for numbers that are no node's."""
    n = rows.line.size
    own = rows.column(np.arange(n), 0)
    rows.check((own < 0) | (own > 100 * n + 1000), "a node number that is negative or far above the number of nodes")
    rows.check(_repeated(own), "a second node of this number")
    place = np.full(int(own.max()) + 1, -1, dtype=np.int64)
    place[own] = np.arange(n)
    return place


def _variables(rows: Rows, value: Ints, tree: Vtree | None, num_variables: int | None) -> int:
    literal = rows.tag == ord("L")
    if tree is not None:
        if num_variables not in (None, tree.num_variables):
            raise InputError(f"{rows.path}: its vtree has {tree.num_variables} variables, expected {num_variables}")
        num_variables = tree.num_variables
    if num_variables is None:
        num_variables = min(int(np.abs(value).max()), MOST_VARIABLES)
    rows.check(literal & ((value == 0) | (np.abs(value) > num_variables)), f"expected a literal of 1..{num_variables}")
    return num_variables


def _check_vtree(rows: Rows, tree: Vtree, value: Ints, parents: Ints, kids: Ints) -> None:
    """Every node stands where the vtree allows it."""
    known = np.flatnonzero(np.isin(rows.tag, np.frombuffer(b"LD", dtype=np.uint8)))
    at = np.full(rows.line.size, -1, dtype=np.int64)
    at[known] = rows.column(known, 1)
    wrong = np.zeros(rows.line.size, dtype=bool)
    wrong[known] = (at[known] < 0) | (at[known] >= tree.variable.size)
    rows.check(wrong, "a vtree node that the vtree file lacks")
    leaf = rows.tag == ord("L")
    wrong[leaf] = tree.variable[at[leaf]] != np.abs(value[leaf])
    rows.check(wrong, "the literal's variable is not at its vtree leaf")
    deep = rows.tag == ord("D")
    wrong[deep] = tree.left[at[deep]] < 0
    rows.check(wrong, "a decision at a leaf of the vtree")
    # entries are prime, sub, prime, sub, ...; true and false stand nowhere
    side = np.where(np.arange(kids.size) % 2 == 0, tree.left[at[parents]], tree.right[at[parents]])
    placed = at[kids] >= 0
    wrong[parents[placed][~tree.below(at[kids][placed], side[placed])]] = True
    rows.check(wrong, "a prime or sub mentions variables of the wrong side of the vtree")


def _graph(rows: Rows, value: Ints, parents: Ints, kids: Ints) -> Graph:
    """Decisions as sums of products of prime and sub."""
    n, elements = rows.line.size, kids.size // 2
    owner = parents[::2]
    pair = n + np.arange(elements)
    kind = np.full(n + elements, PRODUCT, dtype=np.int8)
    kind[:n][rows.tag == ord("L")] = LITERAL
    kind[:n][rows.tag == ord("D")] = SUM
    kind[:n][rows.tag == ord("F")] = CONSTANT
    log_constant = np.zeros(n + elements)
    log_constant[:n][rows.tag == ord("F")] = -np.inf
    offsets, children = csr(np.concatenate([owner, np.repeat(pair, 2)]), np.concatenate([pair, kids]), n + elements)
    literal = np.concatenate([value, np.zeros(elements, dtype=np.int64)])
    line = np.concatenate([rows.line, rows.line[owner]])
    return Graph(kind, literal, log_constant, offsets, children, n - 1, line)


def write_sdd(
    ir: CircuitIR,
    path: str | Path,
    vtree_path: str | Path,
    *,
    vtree: str | Path | None = None,
    max_seconds: float = 60.0,
    memory_bytes: int = 4 << 30,
) -> None:
    """Write a circuit as an SDD and its vtree.

    A circuit does not remember that it came from an SDD. Its nodes are conjoined and disjoined anew by pysdd, in a
    process of its own that can be stopped. SDDs are canonical, so a circuit read from an SDD and written with that
    SDD's vtree gives the same SDD; any other circuit may become much larger.

    Args:
        path, vtree_path: where the SDD and its vtree are written.
        vtree: the vtree to use; balanced over the variables in their order when left out.

    Raises:
        InputError: the circuit has constants (soft rules), which an SDD cannot hold; or a vtree of other variables.
        CompileLimit: time or memory limit.
    """
    constant = ir.log_constant[ir.kind == CONSTANT]
    if not np.isin(constant, (0.0, -np.inf)).all():
        raise InputError(f"{path}: an SDD has no constants and this circuit has (a rule's weight); write .nnf or .npz")
    if ir.num_variables == 0:
        raise InputError(f"{path}: an SDD needs at least one variable and this circuit has none; write .nnf or .npz")
    if vtree is not None and read_vtree(vtree).num_variables != ir.num_variables:
        raise InputError(f"{vtree}: not a vtree of the circuit's {ir.num_variables} variables")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if vtree is not None:
            (folder / "in.vtree").write_bytes(Path(vtree).read_bytes())
        job = {
            "num_variables": ir.num_variables,
            "nodes": [
                [int(kind), int(literal), bool(value > -np.inf), ir.children_of(node).tolist()]
                for node, (kind, literal, value) in enumerate(zip(ir.kind, ir.literal, ir.log_constant, strict=True))
            ],
            "max_seconds": max_seconds,
            "memory_bytes": memory_bytes,
        }
        (folder / "circuit.json").write_text(json.dumps(job))
        _run(folder, max_seconds, {"nodes": ir.num_nodes, "variables": ir.num_variables})
        write_atomically(Path(vtree_path), (folder / "out.vtree").read_bytes())
        write_atomically(Path(path), (folder / "out.sdd").read_bytes())


def _run(folder: Path, max_seconds: float, stats: dict[str, object]) -> None:
    command = [sys.executable, "-P", str(Path(sdd_worker.__file__)), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
    try:
        done = subprocess.run(command, capture_output=True, timeout=max_seconds, check=False, env=environment)
    except subprocess.TimeoutExpired:
        raise CompileLimit(f"{max_seconds:g} s passed", stats) from None
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise CompileLimit(f"pysdd ended with status {done.returncode}: {last}", stats)
