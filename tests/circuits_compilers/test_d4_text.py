"""Reading d4's text: generated diagrams with shared conjunctions against their truth tables; its settings."""

from __future__ import annotations

import random

import numpy as np
import pytest
from cnf_cases import all_worlds, count_models, three_cnf, world_values

from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.d4 import compile_d4, d4_installed, looks_random, read_d4
from neurosym.circuits.ir import check_properties


class Writer:
    """Decision diagram of a truth table in d4's text; equal tables share nodes, as conjunctions now and then."""

    def __init__(self, rng: random.Random, m: int) -> None:
        self.rng, self.m = rng, m
        self.lines: list[str] = []
        self.edges: list[str] = []
        self.known: dict[tuple[int, bytes], int] = {}
        self.count = 0

    def node(self, tag: str) -> int:
        self.count += 1
        self.lines.append(f"{tag} {self.count} 0\n")
        return self.count

    def edge(self, parent: int, child: int, *literals: int) -> None:
        self.edges.append(" ".join(map(str, (parent, child, *literals, 0))) + "\n")

    def build(self, variable: int, table: np.ndarray) -> int:
        """Node for a table over the variables from ``variable`` on (from 1; the first halves the table)."""
        key = (variable, table.tobytes())
        if key in self.known:
            return self.known[key]
        if not table.any() or table.all():
            made = self.node("t" if table.all() else "f")
        elif (table[: table.size // 2] == table[table.size // 2 :]).all() and self.rng.random() < 0.7:
            return self.build(variable + 1, table[: table.size // 2])
        else:
            made = self.node("o")
            for literal, half in zip((-variable, variable), np.split(table, 2), strict=True):
                self.edge(made, self.build(variable + 1, half), literal)
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            above = self.node("a")
            self.edge(above, made)
            made = above
        self.known[key] = made
        return made

    def text(self, table: np.ndarray) -> bytes:
        root = self.node("o" if self.rng.random() < 0.5 else "a")
        self.edge(root, self.build(1, table))
        self.rng.shuffle(self.edges)
        return "".join(self.lines + self.edges).encode()


@pytest.mark.parametrize("seed", range(60))
def test_generated_diagrams(seed: int) -> None:
    rng = random.Random(seed)
    m = rng.randint(1, 7)
    worlds = all_worlds(m)
    table = np.random.default_rng(seed).random(2**m) < rng.choice((0.1, 0.5, 0.9))
    if seed % 3 == 0:  # variables that do not matter, and many equal parts
        table = np.array([bool((w[: m // 2 + 1].sum() % 3) == 1) for w in worlds])
    order = (worlds * (1 << np.arange(m)[::-1])).sum(axis=1)  # the writer halves tables by the first variable
    ir = read_d4(Writer(rng, m).text(np.ascontiguousarray(table[np.argsort(order)])), m)
    assert (world_values(ir) == table).all()
    properties = check_properties(ir)
    assert properties.decomposable
    assert properties.smooth
    assert properties.deterministic


def test_which_clauses_look_random() -> None:
    assert looks_random(Cnf.from_clauses(three_cnf(random.Random(0), 75, 3.0)))
    chain = [[i, i + 1, i + 2] for i in range(1, 70)]
    assert not looks_random(Cnf.from_clauses(chain))
    assert not looks_random(Cnf.from_clauses([*three_cnf(random.Random(0), 75, 3.0), [1, 2]]))
    assert not looks_random(Cnf.from_clauses([]))


@pytest.mark.skipif(not d4_installed(), reason="needs the optional package d4Solver")
def test_the_settings_for_random_clauses_keep_the_circuit() -> None:
    """A cache that mixed up formulas would show in some world."""
    for seed in range(6):
        clauses = three_cnf(random.Random(seed), 16, 2.0)
        cnf = Cnf.from_clauses(clauses, 16)
        assert looks_random(cnf)
        values = world_values(compile_d4(cnf))
        worlds = all_worlds(16)
        expected = np.ones(len(worlds), dtype=bool)
        for clause in clauses:
            expected &= np.logical_or.reduce([worlds[:, abs(x) - 1] == (x > 0) for x in clause])
        assert (values == expected).all()
    # counts of d4 itself with its own settings
    for seed, count in ((0, 3054103313), (2, 498030416)):
        rng = random.Random(seed)
        clauses = [[v * rng.choice((1, -1)) for v in rng.sample(range(1, 76), 3)] for _ in range(225)]
        assert count_models(compile_d4(Cnf.from_clauses(clauses, 75))) == count
