"""d-DNNF circuits as text: the ``.nnf`` format of the c2d compiler, written and read, and that of d4, read.

c2d::

    c any comment
    nnf V E N            nodes, edges, variables
    L 3                  literal (variables are 1..N, negative for not)
    A 2 0 1              product of nodes 0 and 1;  A 0 is true
    O 5 2 3 4            sum of nodes 3 and 4, which decide variable 5 (0: not told);  O 0 0 is false

The format has no constants. A soft rule's constant becomes a positive literal of an extra variable, declared in a
comment ``c constant VARIABLE HEXFLOAT`` with its log; without such comments other tools see an ordinary d-DNNF.

d4 (no header; the nodes in any order, the root is node 1)::

    o 1 0                node 1 is a sum; a: a product, t: true, f: false
    1 2 -3 5 0           node 2 is a child of node 1, multiplied by the literals -3 and 5
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.formats.files import Rows, read_rows, write_atomically
from neurosym.circuits.formats.graph import Graph, csr, smooth_circuit, spans
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR, check_properties
from neurosym.errors import InputError

MOST_VARIABLES = 1_000_000
"""A larger number is taken for a damaged file: memory grows with the variables."""
CHECKED_VARIABLES = 14
"""Determinism is checked by enumeration up to so many variables."""


def write_nnf(ir: CircuitIR, path: str | Path, names: Sequence[str] = ()) -> None:
    """Write a circuit in c2d's format; the file appears only when complete.

    Args:
        names: of the variables, written as comments ``c variable NUMBER NAME``.
    """
    constants = sorted({float(c) for c in ir.log_constant[ir.kind == CONSTANT] if math.isfinite(c) and c != 0.0})
    extra = {c: ir.num_variables + 1 + i for i, c in enumerate(constants)}
    lines = [f"c variable {i} {name}" for i, name in enumerate(names, start=1)]
    lines += [f"c constant {variable} {c.hex()}" for c, variable in extra.items()]
    lines.append(f"nnf {ir.num_nodes} {ir.num_edges} {ir.num_variables + len(extra)}")
    offsets, children = ir.offsets.tolist(), ir.children.tolist()
    kinds, literals, values = ir.kind.tolist(), ir.literal.tolist(), ir.log_constant.tolist()
    for node, kind in enumerate(kinds):
        kids = children[offsets[node] : offsets[node + 1]]
        if kind == LITERAL:
            lines.append(f"L {literals[node]}")
        elif kind == CONSTANT:
            value = values[node]
            lines.append("A 0" if value == 0.0 else "O 0 0" if value == -math.inf else f"L {extra[value]}")
        else:
            tag = "A" if kind == PRODUCT else "O 0"
            lines.append(" ".join((tag, str(len(kids)), *map(str, kids))))
    write_atomically(Path(path), ("\n".join(lines) + "\n").encode())


def read_nnf(path: str | Path, num_variables: int | None = None) -> CircuitIR:
    """Read a d-DNNF of c2d's or, when there is no ``nnf`` line, of d4's format.

    The circuit is made smooth over all its variables, so any literal weights may be used.

    Args:
        num_variables: variables of a d4 file, which does not tell; its largest literal when left out.

    Raises:
        InputError: the file is in neither format, a product is not decomposable, or (up to 14 variables, where it is
            checked) a sum is not deterministic.
    """
    rows = read_rows(path, "LAOoatf", "nnf")
    if not rows.line.size:
        raise InputError(f"{path}: no 'nnf' line or no nodes; is this a c2d or d4 .nnf file?")
    if rows.headers or rows.tagged("LAO").size:
        graph, count = _c2d(rows)
    else:
        graph, count = _d4(rows, num_variables)
    if num_variables is not None and count != num_variables:
        raise InputError(f"{path}: has {count} variables, expected {num_variables}")
    ir = smooth_circuit(graph, count, lambda node, why: rows.fail(int(graph.line[node]), why))
    check_deterministic(ir, path)
    return ir


def check_deterministic(ir: CircuitIR, path: str | Path) -> None:
    """Enumerate the worlds of a circuit of few variables.

    Raises:
        InputError: two children of a sum hold in one world.
    """
    if ir.num_variables <= CHECKED_VARIABLES and check_properties(ir).deterministic is False:
        raise InputError(f"{path}: not deterministic: two children of a sum hold in one world, counts would be wrong")


def _constants(rows: Rows) -> dict[int, float]:
    found: dict[int, float] = {}
    for line, words in rows.comments:
        if words[:1] == ["constant"]:
            try:
                variable, value = int(words[1]), float.fromhex(words[2])
            except (ValueError, IndexError, OverflowError):
                raise rows.fail(line, "expected 'c constant VARIABLE HEXFLOAT'") from None
            if math.isnan(value) or value == math.inf:
                raise rows.fail(line, f"the constant {words[2]} is not the log of a weight")
            found[variable] = value
    return found


def _c2d(rows: Rows) -> tuple[Graph, int]:
    """Nodes of a file with a header, and the number of variables."""
    header = rows.header(3, "nnf NODES EDGES VARIABLES")
    if header is None:
        raise rows.fail(int(rows.line[0]), "a node before the line 'nnf NODES EDGES VARIABLES'")
    rows.check(~np.isin(rows.tag, np.frombuffer(b"LAO", dtype=np.uint8)), "unknown line; nodes are L, A and O")
    constants, n = _constants(rows), rows.tag.size
    literals, products = rows.tagged("L"), rows.tagged("A")
    skip = np.where(rows.tag == ord("O"), 2, 1)
    short = rows.counts < skip
    announced = rows.padded(rows.offsets[:-1] + skip - 1)
    rows.check(
        (rows.tag != ord("L")) & (short | (announced != rows.counts - skip)), "the number of children does not fit"
    )
    most = header[2]
    if most > MOST_VARIABLES:
        raise rows.fail(rows.headers[0][0], f"{most} variables are more than {MOST_VARIABLES}; is the file damaged?")
    value = np.zeros(n, dtype=np.int64)
    rows.check((rows.tag == ord("L")) & (rows.counts != 1), f"expected one literal of the variables 1..{most}")
    value[literals] = rows.column(literals, 0)
    out = (rows.tag == ord("L")) & ((value == 0) | (np.abs(value) > most))
    rows.check(out, f"expected one literal of the variables 1..{most}")
    negated = np.isin(value, [-variable for variable in constants])
    rows.check(negated, "a variable that is a constant may not be negated")
    inner = np.flatnonzero(rows.tag != ord("L"))
    places, _ = spans(np.stack([rows.offsets[:-1] + skip, rows.offsets[1:]], axis=1).ravel(), 2 * inner)
    children, counts = rows.values[places], np.where(rows.tag == ord("L"), 0, rows.counts - skip)
    parents = np.repeat(np.arange(n), counts)
    bad = np.zeros(n, dtype=bool)
    bad[parents[(children < 0) | (children >= parents)]] = True
    rows.check(bad, "a child must be an earlier node")
    if n != header[0] or children.size != header[1]:
        raise InputError(
            f"{rows.path}: the header promises {header[0]} nodes and {header[1]} edges, the file has {n} and "
            f"{children.size}; it may be cut short"
        )
    count = most - len(constants)
    if any(not count < variable <= most for variable in constants):
        raise InputError(f"{rows.path}: constants must be the last variables")
    kind = np.full(n, SUM, dtype=np.int8)
    kind[literals], kind[products] = LITERAL, PRODUCT
    log_constant = np.zeros(n)
    for variable, log_value in constants.items():
        kind[value == variable], log_constant[value == variable] = CONSTANT, log_value
    value[kind != LITERAL] = 0
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Graph(kind, value, log_constant, offsets, children, n - 1, rows.line), count


def _d4_nodes(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that declare nodes, ordered by the node's number, and the numbers."""
    nodes = np.flatnonzero(rows.tag != 0)
    rows.check((rows.tag != 0) & (rows.counts != 2), "expected a node's number and 0")
    numbers = rows.column(nodes, 0)
    order = np.argsort(numbers, kind="stable")
    nodes, numbers = nodes[order], numbers[order]
    twice = np.zeros(rows.tag.size, dtype=bool)
    twice[nodes[1:][numbers[1:] == numbers[:-1]]] = True
    rows.check(twice, "a second node of this number")
    if not numbers.size or 1 not in numbers:
        raise InputError(f"{rows.path}: no node 1, the root of d4's files; for c2d's format the 'nnf' line is missing")
    return nodes, numbers


def _d4(rows: Rows, num_variables: int | None) -> tuple[Graph, int]:
    """Nodes of a d4 file, and the number of variables."""
    last = rows.padded(rows.offsets[1:] - 1)
    rows.check((rows.counts == 0) | (last != 0), "expected a line that ends with 0")
    nodes, numbers = _d4_nodes(rows)
    edges = np.flatnonzero(rows.tag == 0)
    rows.check((rows.tag == 0) & (rows.counts < 3), "expected 'PARENT CHILD LITERALS 0'")
    ends = np.stack([np.searchsorted(numbers, rows.column(edges, place)) for place in (0, 1)])
    ends = np.minimum(ends, numbers.size - 1)
    unknown = (numbers[ends] != np.stack([rows.column(edges, place) for place in (0, 1)])).any(axis=0)
    wrong = np.zeros(rows.tag.size, dtype=bool)
    wrong[edges[unknown]] = True
    rows.check(wrong, "an edge between nodes that are not declared")
    tag = rows.tag[nodes]
    wrong[edges[np.isin(tag[ends[0]], [ord("t"), ord("f")])]] = True
    rows.check(wrong, "true and false have no children")
    places, _ = spans(np.stack([rows.offsets[:-1] + 2, rows.offsets[1:] - 1], axis=1).ravel(), 2 * edges)
    literals, owner = rows.values[places], np.repeat(np.arange(edges.size), rows.counts[edges] - 3)
    count = int(np.abs(literals).max()) if literals.size else 0
    most = num_variables if num_variables is not None else min(count, MOST_VARIABLES)
    wrong[edges[owner[(literals == 0) | (np.abs(literals) > most)]]] = True
    rows.check(wrong, f"expected literals of the variables 1..{most}")
    count = most
    # a literal on an edge is a child beside the edge's child: of the parent, or of a product on the way when it is a sum
    known, leaf = np.unique(literals, return_inverse=True)
    n = nodes.size
    labelled = np.zeros(edges.size, dtype=bool)
    labelled[owner] = True
    via = np.flatnonzero(labelled & (tag[ends[0]] == ord("o")))
    carrier = ends[0].copy()
    carrier[via] = n + known.size + np.arange(via.size)
    parents = np.concatenate([ends[0][via], carrier, carrier[owner]])
    children = np.concatenate([carrier[via], ends[1], n + leaf.ravel()])
    kind = np.concatenate([np.zeros(n), np.full(known.size, LITERAL), np.full(via.size, PRODUCT)]).astype(np.int8)
    kind[:n] = np.where((tag == ord("a")) | (tag == ord("t")), PRODUCT, SUM)
    value = np.concatenate([np.zeros(n), known, np.zeros(via.size)]).astype(np.int64)
    line = np.concatenate([rows.line[nodes], np.zeros(known.size, dtype=np.int64), rows.line[edges[via]]])
    offsets, children = csr(parents, children, kind.size)
    root = int(np.searchsorted(numbers, 1))
    return Graph(kind, value, np.zeros(kind.size), offsets, children, root, line), count
