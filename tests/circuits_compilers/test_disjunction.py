"""One clause of any length against closed forms: 2^n - 1 models, Z = prod(p + n) - prod(weights of the false literals)."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from cnf_cases import count_models, truth, world_values

from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.portfolio import compile_cnf
from neurosym.circuits.ir import check_properties


def signed(n: int, seed: int) -> list[int]:
    """A clause of n literals, about half of them negative."""
    signs = np.random.default_rng(seed).choice((-1, 1), n)
    return (signs * np.arange(1, n + 1)).tolist()


@pytest.mark.parametrize("n", range(2, 13))
def test_small_clauses_in_every_world(n: int) -> None:
    clause = signed(n, n)
    done = compile_cnf([clause])
    assert done.compiler == "terms"
    assert (world_values(done.ir) == truth([clause], n)).all()
    properties = check_properties(done.ir)
    assert properties.decomposable
    assert properties.smooth
    assert properties.deterministic


@pytest.mark.parametrize("n", [1000, 2047, 3001])
def test_counts(n: int) -> None:
    assert count_models(compile_cnf([signed(n, 0)]).ir) == 2**n - 1


def test_a_clause_of_a_hundred_thousand_literals() -> None:
    n = 100_000
    rng = np.random.default_rng(1)
    clause = signed(n, 1)
    start = time.process_time()
    done = compile_cnf([clause])
    assert time.process_time() - start < 5.0  # 0.4 s
    assert done.ir.num_edges <= 12 * n
    assert done.ir.depth <= 2 * 17 + 1
    positive = np.array(clause) > 0
    true = rng.random(n) * 3 / n  # so that no literal of the clause holds with a probability of about e^-1.5
    false = 1.0 + rng.random(n)
    pos, neg = np.where(positive, true, false), np.where(positive, false, true)
    total, none = np.log(pos + neg).sum(), np.log(false).sum()
    expected = total + np.log(-np.expm1(none - total))
    found = done.circuit.log_wmc(torch.from_numpy(pos), torch.from_numpy(neg))
    assert abs(float(found) - expected) < 1e-9 * abs(expected)
    assert none - total > -5.0  # what is taken away matters


def test_long_clauses_among_others() -> None:
    """Two long clauses, a pair, a forced and a free variable."""
    m = 5000
    clauses = [list(range(1, 2001)), [-v for v in range(2001, 4501)], [4501, 4502], [4503], [-4503, *range(1, 9), 4503]]
    done = compile_cnf(Cnf.from_clauses(clauses, m))
    assert done.statistics["components"] == 3
    assert count_models(done.ir) == (2**2000 - 1) * (2**2500 - 1) * 3 * 2 ** (m - 4503)
