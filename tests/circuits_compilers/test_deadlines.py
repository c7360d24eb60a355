"""Steps of compile_cnf that run in this process look at the clock."""

from __future__ import annotations

import random
import time

import pytest
from cnf_cases import exactly_one, three_cnf

from neurosym.circuits import CompileLimit
from neurosym.circuits.compilers import width
from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.portfolio import compile_cnf
from neurosym.circuits.compilers.terms import find_runs


@pytest.mark.parametrize("ticks", [0, 1, 2, 5])
def test_the_order_of_variables_is_broken_off(ticks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock passes the deadline at one of the looks at it: before, while reading clauses, while eliminating."""
    clock = iter([0.0] * ticks + [2.0])
    monkeypatch.setattr(width.time, "monotonic", lambda: next(clock))
    cnf = Cnf.from_clauses([[i, i + 1] for i in range(1, 3500)])
    with pytest.raises(CompileLimit, match="time limit"):
        list(width.minimum_degrees(cnf, 1.0))


def test_propagation_is_broken_off() -> None:
    cnf = Cnf.from_clauses([*exactly_one(range(1, 9)), *([-i, 9, 10] for i in range(1, 9)), [-9, -10]])
    assert find_runs(Cnf.from_clauses(exactly_one(range(1, 9))), time.monotonic() - 1.0) is not None  # no propagation
    assert find_runs(cnf, time.monotonic() - 1.0) is None


def test_a_hundred_thousand_variables() -> None:
    cnf = Cnf.from_clauses(three_cnf(random.Random(0), 100_000, 3.0))
    start = time.monotonic()
    with pytest.raises(CompileLimit, match="time limit"):
        compile_cnf(cnf, max_seconds=1.0)
    assert time.monotonic() - start < 4.0  # 1.1 s on an idle machine
