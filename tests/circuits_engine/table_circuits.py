"""Circuits of known functions: tables over worlds, expanded variable by variable, and sums over them in fractions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from neurosym.circuits.ir import CircuitBuilder, CircuitIR


@dataclass(frozen=True)
class TableCircuit:
    """A circuit and the factor of every world, table float64[(2,)*m]; axis j is variable j, index 1 means true."""

    ir: CircuitIR
    table: np.ndarray

    def total(self, pos: np.ndarray, neg: np.ndarray, fixed: dict[int, bool] | None = None) -> Fraction:
        """Exact weighted sum over the worlds that agree with ``fixed``, without the fixed literals' weights."""
        fixed = fixed or {}
        total = Fraction(0)
        for world in np.ndindex(self.table.shape):
            if any(bool(world[j]) != value for j, value in fixed.items()):
                continue
            weight = Fraction(float(self.table[world]))
            for j, bit in enumerate(world):
                if j not in fixed and weight:
                    weight *= Fraction(float(pos[j] if bit else neg[j]))
            total += weight
        return total


def _expand(builder: CircuitBuilder, table: np.ndarray, variables: list[int]) -> int:
    if not variables:
        value = float(table)
        return builder.constant(math.log(value) if value else -math.inf)
    first, rest = variables[0], variables[1:]
    low, high = (_expand(builder, table[side], rest) for side in (0, 1))
    return builder.disj(
        [builder.conj([builder.lit(first, False), low]), builder.conj([builder.lit(first, True), high])]
    )


def random_circuit(rng: np.random.Generator, sizes: tuple[int, ...], values: tuple[float, ...]) -> TableCircuit:
    """The product of random tables over blocks of variables, with entries from ``values``."""
    builder, tables, nodes, start = CircuitBuilder(), [], [], 0
    for size in sizes:
        table = rng.choice(values, size=(2,) * size)
        variables = list(range(start, start + size))
        # constants are kept as logs: use the numbers that the circuit will see
        seen = np.array([math.exp(math.log(x)) if x else 0.0 for x in table.ravel()]).reshape(table.shape)
        nodes.append(_expand(builder, seen, variables))
        tables.append(seen)
        start += size
    whole = np.ones(())
    for table in tables:
        whole = np.multiply.outer(whole, table)
    return TableCircuit(builder.finish(builder.conj(nodes), start), whole)
