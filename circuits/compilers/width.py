"""How far the variables of clauses stand from a tree."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from neurosym.circuits.compilers.clauses import Cnf


def minimum_degrees(cnf: Cnf) -> Iterator[int]:
    """Number of neighbours of each variable as the variables are eliminated by minimum degree; stop when enough is seen.

    Their maximum bounds the treewidth of the primal graph from above.
    """
    near: dict[int, set[int]] = {v: set() for v in range(1, cnf.num_variables + 1)}
    for clause in cnf.clauses():
        for literal in clause:
            near[abs(literal)].update(map(abs, clause))
    for v, around in near.items():
        around.discard(v)
    heap = [(len(around), v) for v, around in near.items()]
    heapq.heapify(heap)
    while heap:
        degree, v = heapq.heappop(heap)
        if v not in near or degree != len(near[v]):
            continue  # an outdated entry; the right one is in the heap as well
        yield degree
        around = near.pop(v)
        for u in around:
            near[u] |= around
            near[u] -= {u, v}
            heapq.heappush(heap, (len(near[u]), u))
