"""Index arrays that turn a circuit into a few long vector steps, and their copies on each device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR, width_class

CHUNK_VALUES = {"cpu": 1_000_000, "cuda": 32_000_000}
"""Node values (nodes x rows) worked on at once: bounds the memory and, on a CPU, keeps them near the cache."""
MIN_ROWS = 16
"""Rows worked on at once however large the circuit is: fewer would only add overhead."""


@dataclass(frozen=True)
class UpStep:
    """One block of nodes ``start..stop`` of one kind; ``children`` int64[(stop-start)*width], padded."""

    product: bool
    start: int
    stop: int
    width: int
    children: Tensor


@dataclass(frozen=True)
class DownStep:
    """Nodes that pull from ``width`` parents each; ``product`` marks edges from products, padded edges are sums."""

    nodes: Tensor
    width: int
    parents: Tensor
    product: Tensor
    all_product: bool
    all_sum: bool


@dataclass(frozen=True)
class Steps:
    up: tuple[UpStep, ...]
    down: tuple[DownStep, ...]
    literal_nodes: Tensor
    literal_rows: Tensor
    constant_nodes: Tensor
    constant_values: Tensor
    positive: Tensor
    negative: Tensor


class Plan:
    """Index arrays for a circuit, moved to a device on first use there."""

    def __init__(self, ir: CircuitIR) -> None:
        self.num_variables = ir.num_variables
        self.num_nodes = ir.num_nodes
        self._host = _build_steps(ir)
        self._steps: dict[torch.device, Steps] = {torch.device("cpu"): self._host}

    def steps(self, device: torch.device) -> Steps:
        """The arrays on ``device``."""
        if device not in self._steps:
            self._steps[device] = _move(self._host, device)
        return self._steps[device]

    def chunk_rows(self, rows: int, device: torch.device) -> int:
        """Rows evaluated at once."""
        values = CHUNK_VALUES.get(device.type, CHUNK_VALUES["cpu"])
        return max(1, min(rows, max(MIN_ROWS, values // max(1, self.num_nodes))))


def _move(steps: Steps, device: torch.device) -> Steps:
    def one(item: Any) -> Any:
        if isinstance(item, Tensor):
            return item.to(device)
        if isinstance(item, tuple):
            return tuple(one(x) for x in item)
        if isinstance(item, UpStep | DownStep | Steps):
            return type(item)(**{name: one(value) for name, value in vars(item).items()})
        return item

    return one(steps)


def _build_steps(ir: CircuitIR) -> Steps:
    literal_nodes = np.flatnonzero(ir.kind == LITERAL)
    signed = ir.literal[literal_nodes]
    m = ir.num_variables
    # rows of the stacked weights [pos; neg]
    rows = np.where(signed > 0, signed - 1, m - signed - 1)
    place = np.full(2 * m, ir.num_nodes, dtype=np.int64)
    place[rows] = literal_nodes
    constants = np.flatnonzero(ir.kind == CONSTANT)
    return Steps(
        up=tuple(_up_steps(ir)),
        down=tuple(_down_steps(ir)),
        literal_nodes=torch.from_numpy(literal_nodes),
        literal_rows=torch.from_numpy(rows),
        constant_nodes=torch.from_numpy(constants),
        constant_values=torch.from_numpy(ir.log_constant[constants].copy()),
        positive=torch.from_numpy(place[:m].copy()),
        negative=torch.from_numpy(place[m:].copy()),
    )


def _up_steps(ir: CircuitIR) -> Iterator[UpStep]:
    """Row N of the value table is the empty sum (log 0), row N+1 the empty product (log 1)."""
    arity = np.diff(ir.offsets)
    first = int(ir.level_offsets[1])
    level = np.searchsorted(ir.level_offsets, np.arange(ir.num_nodes), side="right")
    key = [(int(level[n]), int(ir.kind[n]), width_class(int(arity[n]))) for n in range(ir.num_nodes)]
    start = first
    while start < ir.num_nodes:
        stop = start
        while stop < ir.num_nodes and key[stop] == key[start]:
            stop += 1
        product = key[start][1] == PRODUCT
        width = int(arity[start:stop].max())
        padded = np.full((stop - start, width), ir.num_nodes + product, dtype=np.int64)
        for row, node in enumerate(range(start, stop)):
            padded[row, : arity[node]] = ir.children_of(node)
        yield UpStep(product, start, stop, width, torch.from_numpy(padded.ravel()))
        start = stop


def _down_steps(ir: CircuitIR) -> Iterator[DownStep]:
    parent_of = np.repeat(np.arange(ir.num_nodes), np.diff(ir.offsets))
    order = np.argsort(ir.children, kind="stable")
    parents, bounds = parent_of[order], np.searchsorted(ir.children[order], np.arange(ir.num_nodes + 1))
    for level in range(ir.level_offsets.size - 2, -1, -1):
        groups: dict[tuple[int, int], list[int]] = {}
        for node in range(int(ir.level_offsets[level]), int(ir.level_offsets[level + 1])):
            above = parents[bounds[node] : bounds[node + 1]]
            if above.size:
                products = int((ir.kind[above] == PRODUCT).sum())
                mix = 0 if products == 0 else 2 if products == above.size else 1
                groups.setdefault((width_class(above.size), mix), []).append(node)
        for (_, mix), nodes in groups.items():
            width = int(max(bounds[n + 1] - bounds[n] for n in nodes))
            padded = np.full((len(nodes), width), ir.num_nodes, dtype=np.int64)
            for row, node in enumerate(nodes):
                padded[row, : bounds[node + 1] - bounds[node]] = parents[bounds[node] : bounds[node + 1]]
            product = _is_product(ir, padded)
            yield DownStep(
                nodes=torch.tensor(nodes),
                width=width,
                parents=torch.from_numpy(padded.ravel()),
                product=torch.from_numpy(product)[:, :, None],
                all_product=mix == 2,
                all_sum=mix == 0,
            )


def _is_product(ir: CircuitIR, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
    kind = np.append(ir.kind, np.int8(LITERAL))
    return np.asarray(kind[nodes] == PRODUCT)
