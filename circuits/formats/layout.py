"""Places for the nodes of a small circuit: layers from the root down, few crossings, short edges.

The usual steps of layered drawing (Sugiyama, Tagawa, Toda, "Methods for visual understanding of hierarchical system
structures", 1981): a layer for each node, dummy nodes on long edges, orders within layers by barycentres, then places.
The places of one layer are the least-squares solution that keeps order and distance (isotonic regression). Leaves are
drawn once for every layer that uses them, just below, because long edges to shared literals are what makes drawings of
circuits unreadable.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from neurosym.circuits.ir import CircuitIR

SWEEPS = 24
"""Times that the orders and the places are improved, downwards and upwards in turn."""


@dataclass(frozen=True)
class Spot:
    """A drawn node: the circuit's node (-1 for a bend of a long edge), its layer from the top, and its middle."""

    node: int
    layer: int
    x: float


@dataclass(frozen=True)
class Layout:
    """Spots, and every edge as a path of spot numbers from parent to child; ``width`` is from 0."""

    spots: tuple[Spot, ...]
    paths: tuple[tuple[int, ...], ...]
    width: float
    layers: int


class _Graph:
    """Layers of spots while they are being ordered; spots are numbers."""

    def __init__(self, ir: CircuitIR) -> None:
        self.node: list[int] = []
        self.layer: list[int] = []
        self.paths: list[tuple[int, ...]] = []
        depth = np.zeros(ir.num_nodes, dtype=np.int64)
        for node in range(ir.num_nodes - 1, -1, -1):
            for child in ir.children_of(node):
                depth[child] = max(depth[child], depth[node] + 1)
        inner = [node for node in range(ir.num_nodes - 1, -1, -1) if ir.children_of(node).size]
        spot = {node: self.add(node, int(depth[node])) for node in inner or [ir.num_nodes - 1]}
        leaves: dict[tuple[int, int], int] = {}
        for node in inner:
            for child in map(int, ir.children_of(node)):
                below = int(depth[node]) + 1
                if child in spot:
                    bends = [self.add(-1, layer) for layer in range(below, int(depth[child]))]
                    self.paths.append((spot[node], *bends, spot[child]))
                else:
                    if (child, below) not in leaves:
                        leaves[child, below] = self.add(child, below)
                    self.paths.append((spot[node], leaves[child, below]))
        self.rows: list[list[int]] = [[] for _ in range(max(self.layer) + 1)]
        for number, layer in enumerate(self.layer):
            self.rows[layer].append(number)
        self.up: list[list[int]] = [[] for _ in self.node]
        self.down: list[list[int]] = [[] for _ in self.node]
        for path in self.paths:
            for above, below in itertools.pairwise(path):
                self.down[above].append(below)
                self.up[below].append(above)

    def add(self, node: int, layer: int) -> int:
        self.node.append(node)
        self.layer.append(layer)
        return len(self.node) - 1

    def crossings(self, rows: Sequence[Sequence[int]]) -> int:
        """Pairs of edges between neighbouring layers that cross."""
        place = {spot: i for row in rows for i, spot in enumerate(row)}
        total = 0
        for row in rows[:-1]:
            ends = [place[below] for spot in row for below in sorted(self.down[spot], key=place.__getitem__)]
            later = np.array(ends)
            total += sum(int((later[i + 1 :] < end).sum()) for i, end in enumerate(ends))
        return total

    def ordered(self) -> list[list[int]]:
        """The rows in the order with the fewest crossings that the sweeps met."""
        rows = [list(row) for row in self.rows]
        best, fewest = rows, self.crossings(rows)
        for sweep in range(SWEEPS):
            downwards = sweep % 2 == 0
            rows = [list(row) for row in rows]
            place = {spot: float(i) for row in rows for i, spot in enumerate(row)}
            near = self.up if downwards else self.down
            for row in rows[1:] if downwards else rows[-2::-1]:
                means = {s: sum(place[t] for t in near[s]) / len(near[s]) if near[s] else place[s] for s in row}
                row.sort(key=lambda s: (means[s], place[s]))
                place.update((spot, float(i)) for i, spot in enumerate(row))
            found = self.crossings(rows)
            if found < fewest:
                best, fewest = rows, found
        return best


def _apart(wanted: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Closest places to the wanted ones (least squares) with at least ``gaps[i]`` between places i and i+1.

    With the gaps subtracted this is isotonic regression, by pooling adjacent violators.
    """
    shift = np.concatenate([[0.0], np.cumsum(gaps)]) if len(wanted) else np.zeros(0)
    blocks: list[tuple[float, int]] = []
    for value in np.asarray(wanted, dtype=float) - shift:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    level = [mean for mean, size in blocks for _ in range(size)]
    return [float(x) for x in np.asarray(level) + shift]


def layout(ir: CircuitIR, width_of: Callable[[int], float], gap: float = 14.0, bend: float = 10.0) -> Layout:
    """Lay out a circuit.

    Args:
        width_of: width of a node's shape.
        gap: least space between two shapes of one layer.
        bend: room that a passing edge takes.
    """
    graph = _Graph(ir)
    rows = graph.ordered()
    half = [(width_of(node) if node >= 0 else bend) / 2 for node in graph.node]
    gaps = [[half[a] + half[b] + gap for a, b in itertools.pairwise(row)] for row in rows]
    x = [0.0] * len(graph.node)
    for row, between in zip(rows, gaps, strict=True):
        places = _apart([0.0] * len(row), between)
        for spot, place in zip(row, places, strict=True):
            x[spot] = place
    for sweep in range(SWEEPS):
        order = range(len(rows)) if sweep % 2 == 0 else range(len(rows) - 1, -1, -1)
        for number in order:
            row = rows[number]
            wanted = []
            for spot in row:
                near = graph.up[spot] + graph.down[spot]
                wanted.append(sum(x[t] for t in near) / len(near) if near else x[spot])
            for spot, place in zip(row, _apart(wanted, gaps[number]), strict=True):
                x[spot] = place
    left = min(place - half[spot] for spot, place in enumerate(x))
    right = max(place + half[spot] for spot, place in enumerate(x))
    spots = tuple(Spot(graph.node[s], graph.layer[s], x[s] - left) for s in range(len(x)))
    return Layout(spots, tuple(graph.paths), right - left, len(rows))
