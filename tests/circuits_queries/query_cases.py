"""Circuits to ask: random clauses, and the degenerate ones."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neurosym.circuits import Circuit, part_circuit
from neurosym.circuits.ir import CircuitBuilder
from neurosym.logic.formula import Not, Or, Var
from neurosym.logic.knowledge import KnowledgeBase, Rule

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracles"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "circuits"))

import fraction_worlds

Clauses = list[tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """A circuit with, for every world i (variable j true iff bit j of i), the value of its constants in that world."""

    name: str
    circuit: Circuit
    worlds: tuple[Fraction, ...]

    @property
    def num_variables(self) -> int:
        return self.circuit.num_variables

    def grid(self) -> np.ndarray:
        """bool[2^m, m]."""
        return np.array(fraction_worlds.all_worlds(self.num_variables)).reshape(len(self.worlds), -1)

    def weights(self, pos: list[Fraction], neg: list[Fraction]) -> list[Fraction]:
        """Exact weight of every world."""
        return [
            value * fraction_worlds.literal_product(world, pos, neg)
            for value, world in zip(self.worlds, fraction_worlds.all_worlds(self.num_variables), strict=True)
        ]

    def masses(self, pos: Tensor, neg: Tensor) -> np.ndarray:
        """float64[B, 2^m]: the same for rows of float weights, computed in fractions and rounded once."""
        rows = [[[Fraction(x) for x in row] for row in w.tolist()] for w in (pos, neg)]
        return np.array([[float(w) for w in self.weights(a, b)] for a, b in zip(*rows, strict=True)])


def random_clauses(rng: np.random.Generator, m: int, count: int) -> Clauses:
    """Clauses of 1 to 3 literals, DIMACS style."""
    found = []
    for _ in range(count):
        width = min(m, int(rng.integers(2, 4)))
        chosen = rng.choice(m, width, replace=False)
        found.append(tuple(int(v + 1) * (1 if rng.random() < 0.5 else -1) for v in chosen))
    return found


def satisfied(clauses: Clauses, world: tuple[bool, ...]) -> bool:
    return all(any(world[abs(x) - 1] == (x > 0) for x in clause) for clause in clauses)


def clause_knowledge(clauses: Clauses, m: int, weights: list[float] | None = None) -> KnowledgeBase:
    rules = []
    for h, clause in enumerate(clauses):
        literals = [Var(f"x{abs(x) - 1}") if x > 0 else Not(Var(f"x{abs(x) - 1}")) for x in clause]
        formula = literals[0] if len(literals) == 1 else Or(tuple(literals))
        rules.append(Rule(formula, math.inf if weights is None else weights[h]))
    return KnowledgeBase(tuple(f"x{i}" for i in range(m)), (), tuple(rules))


def clause_case(seed: int, soft: bool = False) -> Case:
    """Random clauses over 3 to 7 variables; soft ones have weights n log 2, so that constants are powers of 2."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(3, 8))
    clauses = random_clauses(rng, m, int(rng.integers(1, 2 * m)))
    halvings = [int(n) for n in rng.integers(1, 4, len(clauses))]
    kb = clause_knowledge(clauses, m, [n * math.log(2) for n in halvings] if soft else None)
    values = []
    for world in fraction_worlds.all_worlds(m):
        broken = [n for clause, n in zip(clauses, halvings, strict=True) if not satisfied([clause], world)]
        values.append(Fraction(1, 2 ** sum(broken)) if soft else Fraction(int(not broken)))
    return Case(f"{'soft' if soft else 'hard'} clauses {seed}", part_circuit(kb), tuple(values))


def power_of_two(log_value: float) -> Fraction:
    """The exact value of a constant of a soft clause case."""
    return Fraction(0) if log_value == -math.inf else Fraction(2) ** round(log_value / math.log(2))


def degenerate_cases() -> list[Case]:
    """True and False over three and over no variables, one literal, a constant alone and beside a free variable."""
    found = []
    for name, m, make, value in (
        ("true over 3", 3, lambda b: b.conj([b.free(j) for j in range(3)]), lambda w: Fraction(1)),
        ("false over 3", 3, lambda b: b.zero, lambda w: Fraction(0)),
        ("true over none", 0, lambda b: b.one, lambda w: Fraction(1)),
        ("false over none", 0, lambda b: b.zero, lambda w: Fraction(0)),
        ("half over none", 0, lambda b: b.constant(-math.log(2)), lambda w: Fraction(1, 2)),
        ("one literal", 1, lambda b: b.lit(0, True), lambda w: Fraction(int(w[0]))),
        ("one negative literal", 1, lambda b: b.lit(0, False), lambda w: Fraction(int(not w[0]))),
        ("free", 1, lambda b: b.free(0), lambda w: Fraction(1)),
        (
            "half times free",
            1,
            lambda b: b.conj([b.constant(-math.log(2)), b.free(0)]),
            lambda w: Fraction(1, 2),
        ),
        (
            "a world in two",
            2,
            lambda b: b.disj(
                [b.conj([b.lit(0, True), b.lit(1, True)]), b.conj([b.lit(0, False), b.lit(1, False), b.constant(1.0)])]
            ),
            lambda w: Fraction(0) if w[0] != w[1] else Fraction(1) if w[0] else Fraction(math.e),
        ),
    ):
        builder = CircuitBuilder()
        circuit = Circuit(builder.finish(make(builder), m))
        found.append(Case(name, circuit, tuple(value(w) for w in fraction_worlds.all_worlds(m))))
    return found


def random_weights(rng: np.random.Generator, rows: int, m: int) -> tuple[Tensor, Tensor]:
    """Un-normalised weights with zeros and ones among them."""
    both = 2 * rng.random((2, rows, m))
    both = np.where(rng.random(both.shape) < 0.15, rng.integers(0, 2, both.shape), both)
    return torch.from_numpy(both[0]), torch.from_numpy(both[1])


def random_evidence(rng: np.random.Generator, rows: int, m: int) -> Tensor:
    return torch.from_numpy(np.where(rng.random((rows, m)) < 0.3, rng.integers(0, 2, (rows, m)), -1))


def allowed(case: Case, evidence: Tensor) -> np.ndarray:
    """bool[B, 2^m]: worlds that agree with each row of evidence."""
    grid, known = case.grid()[None], evidence.numpy()[:, None]
    return ((known == -1) | (grid == known)).all(axis=-1)


CASES = [clause_case(seed) for seed in range(8)] + [clause_case(seed, soft=True) for seed in range(8, 14)]
EVERY = CASES + degenerate_cases()
