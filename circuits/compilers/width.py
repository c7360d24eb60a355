"""How far the variables of clauses stand from a tree."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterator

from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.errors import CompileLimit

CLOCK = 1_000
"""Steps between two looks at the clock."""


def minimum_degrees(cnf: Cnf, deadline: float = math.inf) -> Iterator[int]:
    """Number of neighbours of each variable as the variables are eliminated by minimum degree; stop when enough is seen.

    Their maximum bounds the treewidth of the primal graph from above.

    Raises:
        CompileLimit: the deadline (``time.monotonic``) has passed.
    """
    _look(cnf, deadline)
    near: dict[int, set[int]] = {v: set() for v in range(1, cnf.num_variables + 1)}
    for number, clause in enumerate(cnf.clauses()):
        if not number % CLOCK:
            _look(cnf, deadline)
        for literal in clause:
            near[abs(literal)].update(map(abs, clause))
    for v, around in near.items():
        around.discard(v)
    heap = [(len(around), v) for v, around in near.items()]
    heapq.heapify(heap)
    for step in itertools.count():
        if not heap:
            return
        if not step % CLOCK:
            _look(cnf, deadline)
        degree, v = heapq.heappop(heap)
        if v not in near or degree != len(near[v]):
            continue  # an outdated entry; the right one is in the heap as well
        yield degree
        around = near.pop(v)
        for u in around:
            near[u] |= around
            near[u] -= {u, v}
            heapq.heappush(heap, (len(near[u]), u))


def _look(cnf: Cnf, deadline: float) -> None:
    if time.monotonic() > deadline:
        stats = {"variables": cnf.num_variables, "clauses": cnf.num_clauses}
        raise CompileLimit("the time limit was reached while looking for an order of the variables", stats)
