"""compile_cnf: every compiler against enumeration, limits, killed processes, large inputs, fuzz."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cnf_cases import (
    all_worlds,
    class_rules,
    count_models,
    exactly_one,
    mixture,
    random_cnf,
    three_cnf,
    tree,
    truth,
    world_values,
)

from neurosym.circuits import CompileLimit
from neurosym.circuits.compilers import d4, portfolio, process, sdd_worker
from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.d4 import compile_d4, d4_installed, read_d4
from neurosym.circuits.compilers.portfolio import compile_cnf
from neurosym.circuits.ir import check_properties
from neurosym.errors import InputError
from neurosym.logic.cnf import Cnf as NamedCnf
from neurosym.logic.knowledge import KnowledgeBase, Rule
from neurosym.logic.semantics import evaluate

needs_d4 = pytest.mark.skipif(not d4_installed(), reason="needs the optional package d4Solver")


def check(clauses: list[list[int]], m: int, compiler: str) -> str:
    """Compile and compare with all worlds; returns the compiler used."""
    done = compile_cnf(Cnf.from_clauses(clauses, m), compiler=compiler, max_seconds=20.0)  # type: ignore[arg-type]
    expected = truth(clauses, m)
    assert (world_values(done.ir) == expected).all()
    assert count_models(done.ir) == int(expected.sum())
    properties = check_properties(done.ir)
    assert properties.decomposable
    assert properties.smooth
    assert properties.deterministic
    if done.terms is not None:
        assert done.terms.are_disjoint()
        assert sum(2 ** int((row == -1).sum()) for row in done.terms.terms) == int(expected.sum())
    return done.compiler


def test_in_process_compilers_on_random_clauses() -> None:
    for seed in range(250):
        rng = random.Random(seed)
        m = rng.randint(1, 8)
        clauses = random_cnf(rng, m, rng.randint(0, 3 * m)) if seed % 2 else mixture(rng, max(m, 3))
        check(clauses, max(m, 3), "elimination")


@pytest.mark.parametrize("compiler", ["sdd", pytest.param("d4", marks=needs_d4), "auto"])
def test_compilers_in_processes_on_random_clauses(compiler: str) -> None:
    for seed in range(16):
        rng = random.Random(1000 + seed)
        m = rng.randint(4, 10)
        clauses = three_cnf(rng, m, rng.uniform(0.5, 4.0)) if seed % 2 else random_cnf(rng, m, 2 * m)
        check(clauses, m, compiler)


@needs_d4
def test_d4_on_what_auto_leaves_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portfolio, "ELIMINATION_WIDTH", 1)
    used = {check(three_cnf(random.Random(seed), 11, 2.5), 11, "auto") for seed in range(5)}
    assert "d4" in used


def test_without_d4_the_sdd_compiler_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portfolio, "ELIMINATION_WIDTH", 1)
    monkeypatch.setattr(portfolio, "d4_installed", lambda: False)
    assert check(three_cnf(random.Random(3), 11, 2.5), 11, "auto") == "sdd"
    with pytest.raises(InputError, match=r"neurosym\[d4\]"):
        compile_cnf([[1]], compiler="d4")


def test_minimisation_gives_an_equal_circuit() -> None:
    clauses = three_cnf(random.Random(4), 12, 2.0)
    plain = compile_cnf(clauses, compiler="sdd")
    small = compile_cnf(clauses, compiler="sdd", minimise=True, max_seconds=10.0)
    assert (world_values(small.ir) == world_values(plain.ir)).all()
    assert small.ir.num_edges <= plain.ir.num_edges


MATRIX = np.random.default_rng(7).random((43, 40)) < 0.35
FAMILIES = {
    "one_way": (class_rules(MATRIX, "one_way"), 83, sum(2 ** int(n) for n in (~MATRIX).sum(axis=1))),
    "negative": (class_rules(MATRIX, "negative"), 83, 43),
    "both": (class_rules(MATRIX, "both"), 83, 43),
    "tree": (tree(random.Random(0), 1000), 1000, 1001),
    "chain": (tree(random.Random(0), 300, chain=True), 300, 301),
    "two groups": (exactly_one(range(1, 8)) + exactly_one(range(8, 20)), 19, 7 * 12),
    "path": ([[i, i + 1] for i in range(1, 90)], 90, None),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    clauses, m, expected = FAMILIES[name]
    done = compile_cnf(Cnf.from_clauses(clauses, m))
    if expected is None:  # vertex covers of a path are counted by Fibonacci numbers
        a, b = 1, 2
        for _ in range(m - 1):
            a, b = b, a + b
        expected = b
    assert count_models(done.ir) == expected
    assert done.ir.num_variables == m


@needs_d4
def test_random_3cnf_is_fast_and_agrees_between_compilers() -> None:
    clauses = three_cnf(random.Random(1), 24, 3.0)
    counts = {count_models(compile_cnf(clauses, compiler=name).ir) for name in ("d4", "sdd")}  # type: ignore[arg-type]
    assert len(counts) == 1
    start = time.process_time()
    done = compile_cnf(three_cnf(random.Random(1), 75, 3.0))
    assert time.process_time() - start < 3.0  # 0.04 s beside d4's own 0.1 s
    assert done.compiler == "d4"
    assert count_models(done.ir) == 198674260  # d4's own count of this instance


@pytest.mark.data
def test_the_class_rules_of_animals_with_attributes() -> None:
    place = os.environ.get("NEUROSYM_DATA")
    if not place:
        pytest.skip("needs NEUROSYM_DATA, the folder of the data sets")
    path = Path(place) / "awa2" / "predicate-matrix-binary.txt"
    if not path.exists():
        pytest.skip(f"NEUROSYM_DATA = {place} holds no awa2/predicate-matrix-binary.txt")
    matrix = np.loadtxt(path, dtype=int) > 0
    done = compile_cnf(Cnf.from_clauses(class_rules(matrix, "one_way"), 135))
    assert count_models(done.ir) == 24813074728206991360  # more than 2^64
    assert done.terms is not None
    assert done.terms.num_terms == 50


def test_many_components_and_variables() -> None:
    n = 100_000
    done = compile_cnf(Cnf.from_clauses([[1], [-2], [3, 4], *([i, i + 1] for i in range(11, 2011, 2))], n))
    assert done.statistics["forced"] == 2
    assert done.statistics["components"] == 1001
    assert done.statistics["free"] == n - 2 - 2002
    assert count_models(done.ir) == 3**1001 * 2 ** (n - 2 - 2002)
    assert done.ir.depth <= 8


def test_a_hundred_thousand_implications() -> None:
    n = 100_000
    done = compile_cnf(Cnf.from_clauses([[-i, i + 1] for i in range(1, n)], n))
    assert count_models(done.ir) == n + 1
    assert done.ir.depth < 50


def test_hard_components_run_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portfolio, "ELIMINATION_WIDTH", 1)
    first, second = three_cnf(random.Random(0), 11, 2.5), three_cnf(random.Random(1), 11, 2.5)
    shifted = [[x + 11 if x > 0 else x - 11 for x in clause] for clause in second]
    done = compile_cnf(first + shifted)
    assert count_models(done.ir) == int(truth(first, 11).sum()) * int(truth(second, 11).sum())


@pytest.mark.parametrize("compiler", ["sdd", pytest.param("d4", marks=needs_d4), "auto"])
def test_the_time_limit_holds(compiler: str) -> None:
    clauses = three_cnf(random.Random(0), 130, 2.0)
    start = time.monotonic()
    with pytest.raises(CompileLimit, match="limit") as caught:
        compile_cnf(clauses, compiler=compiler, max_seconds=0.6)  # type: ignore[arg-type]
    assert time.monotonic() - start < 6.0
    assert "seconds" in caught.value.stats
    assert "\n" not in str(caught.value)


@needs_d4
def test_node_and_memory_limits() -> None:
    cnf = Cnf.from_clauses(three_cnf(random.Random(1), 50, 2.0), 50)
    with pytest.raises(CompileLimit, match="node"):
        compile_cnf(cnf, compiler="d4", max_nodes=50)
    with pytest.raises(CompileLimit, match="memory limit"):
        compile_cnf(cnf, compiler="d4", max_memory=30 << 20)
    with pytest.raises(CompileLimit, match="limit"):
        compile_cnf(cnf, compiler="elimination")


def test_a_killed_worker_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "dies.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(sdd_worker, "__file__", str(script))
    with pytest.raises(CompileLimit, match="status -9"):
        compile_cnf(three_cnf(random.Random(0), 9, 2.0), compiler="sdd")
    if d4_installed():
        monkeypatch.setattr(d4.d4_worker, "__file__", str(script))
        with pytest.raises(CompileLimit, match="status -9"):
            compile_d4(Cnf.from_clauses([[1, 2]]))


def test_a_worker_is_stopped_on_demand(tmp_path: Path) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text("import time\ntime.sleep(60)\n")
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()
    done = process.run_worker(str(script), [], 50.0, stop)
    assert done.stopped
    assert time.monotonic() - start < 10.0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"f 1 0\n", 0),
        (b"o 1 0\nt 2 0\n1 2 0\n", 8),
        (b"o 1 0\nt 2 0\n1 2 1 -3 0\n", 2),
        (b"o 1 0\nt 2 0\n1 2 1 0\n1 2 -1 2 0\n", 6),
        (b"a 1 0\no 2 0\nt 3 0\n2 3 1 0\n2 3 -1 2 0\n1 2 3 0\n", 3),
    ],
)
def test_the_dialect_of_d4(text: bytes, count: int) -> None:
    ir = read_d4(text, 3)
    assert count_models(ir) == count
    assert check_properties(ir).smooth


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello\n",
        b"o 1 0\n1 2 0\n",
        b"o 1 0\nt 2 0\n1 2 9 0\n",
        b"o 1 0\nt 2 0\n1 2 1",
        b"o 1 0\no 2 0\n1 2 0\n2 1 0\n",
        b"a 1 0\nt 2 0\n1 2 1 0\n1 2 1 0\n",
        b"o 2 0\n",
        b"o 1 0\nf 2 0\nt 3 0\n1 3 1 0\n2 3 2 0\n",
    ],
)
def test_damaged_output_of_d4_is_a_limit_not_a_wrong_circuit(text: bytes) -> None:
    with pytest.raises(CompileLimit, match="output of d4"):
        read_d4(text, 3)


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="compiler 'cudd'"):
        compile_cnf([[1]], compiler="cudd")  # type: ignore[arg-type]
    for limits in ({"max_seconds": 0}, {"max_seconds": math.nan}, {"max_nodes": 0}, {"max_memory": -1}):
        with pytest.raises(InputError, match="must be positive"):
            compile_cnf([[1]], **limits)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="from_dimacs"):
        compile_cnf("p cnf 1 0")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not disjoint terms"):
        compile_cnf([[1, 2, 3], [-1, 4, 5]], compiler="terms")


def test_clauses_of_formulas_are_taken() -> None:
    done = compile_cnf(NamedCnf(3, ((1, -2), (2,)), ("a", "b")))
    assert count_models(done.ir) == 2
    assert done.circuit.num_variables == 3


NAMES = ("a", "b", "c", "d", "e", "f")


def random_rule(rng: random.Random, depth: int) -> str:
    """A formula in the syntax of rules files."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(["", "~"]) + rng.choice([*NAMES, "true", "false"])
    left, right = random_rule(rng, depth - 1), random_rule(rng, depth - 1)
    return f"({left} {rng.choice(['->', '<->', '&', '|'])} {right})"


def test_fuzzed_rule_texts() -> None:
    """Rules as text: the count of their worlds, or an error of one line."""
    worlds = all_worlds(6)
    columns = {name: worlds[:, i] for i, name in enumerate(NAMES)}
    broken = 0
    for seed in range(200):
        rng = random.Random(seed)
        texts = [random_rule(rng, rng.randint(0, 3)) for _ in range(rng.randint(1, 6))]
        if rng.random() < 0.25:
            place = rng.randrange(len(texts))
            texts[place] += rng.choice([" ->", " & zebra", " )", " ? a", " a"])
            with pytest.raises(InputError) as caught:
                KnowledgeBase(classes=NAMES, rules=tuple(Rule.from_text(text, math.inf) for text in texts))
            assert "\n" not in str(caught.value)
            broken += 1
            continue
        kb = KnowledgeBase(classes=NAMES, rules=tuple(Rule.from_text(text, math.inf) for text in texts))
        expected = np.ones(len(worlds), dtype=bool)
        for rule in kb.rules:
            expected &= np.asarray(evaluate(rule.formula, columns), dtype=bool)
        done = compile_cnf(Cnf.from_knowledge(kb))
        assert (world_values(done.ir) == expected).all()
    assert broken > 20


def test_fuzz() -> None:
    """A thousand inputs, sound and broken: the right count, or an error of one line that says where."""
    errors = 0
    for seed in range(1000):
        rng = random.Random(seed)
        m = rng.randint(1, 7)
        clauses: list[list[object]] = [list(c) for c in random_cnf(rng, m, rng.randint(0, 2 * m), 5)]
        if rng.random() < 0.1:
            clauses.insert(rng.randint(0, len(clauses)), [])
        if rng.random() < 0.25:
            bad = rng.choice([0, m + 1, -m - 5, 2**70, 1.5, "x", None, True])
            clauses.insert(rng.randint(0, len(clauses)), [1, bad, -1])
            with pytest.raises(InputError, match=r"clause \d+: literal") as caught:
                compile_cnf(Cnf.from_clauses(clauses, m))  # type: ignore[arg-type]
            assert "\n" not in str(caught.value)
            errors += 1
            continue
        done = compile_cnf(Cnf.from_clauses(clauses, m))  # type: ignore[arg-type]
        assert count_models(done.ir) == int(truth(clauses, m).sum())  # type: ignore[arg-type]
    assert errors > 100
