"""The circuits benchmark: its knowledge bases, its checks, and a quick run of all of it on two tiny cases."""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.circuits import compilation, evaluate_one, report, run, suite  # noqa: E402
from benchmarks.circuits.contenders import Contender, tolerance, traffic, weights  # noqa: E402
from neurosym.circuits.formats.sdd import read_vtree  # noqa: E402
from neurosym.circuits.ir import CircuitBuilder  # noqa: E402


def models(case: suite.Case) -> int:
    """Model count by trying every world."""
    return sum(
        all(any(world[abs(x) - 1] == (x > 0) for x in clause) for clause in case.clauses)
        for world in itertools.product((False, True), repeat=case.num_variables)
    )


def test_class_rules_say_what_the_table_says() -> None:
    table = [[1, 0, 1], [0, 1, 1], [1, 1, 0]]
    found = {variant: models(suite.class_rules("t", table, variant, "")) for variant in suite.VARIANTS}
    # one attribute of three is free for each class; or none; "both" rules out attributes that only other classes have
    assert found == {"oneway": 6, "exact": 3, "both": 3}


def test_hierarchies_and_their_vtrees(tmp_path: Path) -> None:
    for closed in (False, True):
        case = suite.hierarchy(12, closed)
        leaves = sum(not kids for kids in case.tree)
        # a world is a path from the root (or nothing), down to a leaf when the hierarchy is closed
        assert models(case) == (leaves + 1 if closed else 13)
        (tmp_path / "x.vtree").write_text(case.vtree() or "")
        assert read_vtree(tmp_path / "x.vtree").num_variables == 12


def test_other_families() -> None:
    assert models(suite.exactly_k(8, 3)) == math.comb(8, 3)
    assert models(suite.grid(3, 3)) == 63  # independent sets of the 3 x 3 grid, OEIS A006506
    case = suite.random_cnf(30, 1.5)
    assert case == suite.random_cnf(30, 1.5)
    assert len(case.clauses) == 45
    assert all(len({abs(x) for x in clause}) == 3 for clause in case.clauses)


def test_every_case_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEUROSYM_DATA", raising=False)
    suite.awa2_table.cache_clear()
    assert {*suite.EVALUATED, *suite.QUICK} <= set(suite.makers())
    case = suite.case("awa2-oneway")
    suite.awa2_table.cache_clear()
    assert (case.name, case.num_variables, case.source) == ("awa2-oneway", 135, "random, seed 85")
    assert len(case.clauses) == 1 + 50 * 49 // 2 + 1562
    first, *rest = case.dimacs().splitlines()
    assert first == f"p cnf 135 {len(case.clauses)}"
    assert [[int(x) for x in line.split()][:-1] for line in rest] == case.clauses


def test_disagreement_is_reported() -> None:
    good = {"a/x": {"log_wmc": -1.5, "models": "3"}, "a/y": {"log_wmc": -1.5 - 1e-12}, "b/x": {"failed": "too long"}}
    assert compilation.disagreements(good) == []
    assert "log weighted counts differ" in compilation.disagreements({**good, "a/z": {"log_wmc": -1.4999}})[0]
    assert "model counts differ" in compilation.disagreements({**good, "a/z": {"log_wmc": -1.5, "models": "4"}})[0]


def test_traffic_counts_a_sum_of_products() -> None:
    """x1 x2 + ~x1 ~x2: four reads below the products and five stored nodes."""
    builder = CircuitBuilder()
    on, off = ([builder.lit(v, side) for v in (0, 1)] for side in (True, False))
    assert traffic(builder.finish(builder.disj([builder.conj(on), builder.conj(off)]), 2)) == 4 + 5


def test_wrong_engines_stop_the_run_and_wrong_peers_are_not_timed() -> None:
    item = suite.case("tiny-classes")
    pos, neg = weights(4, item.num_variables, torch.float64)
    values = torch.tensor(evaluate_one.enumerated(item, pos, neg), dtype=torch.float64)
    truth = evaluate_one.Truth(pos, neg, values, torch.zeros_like(pos), values)
    liar = Contender("klay log", lambda operation, p, q: values + 1e-3, ("forward",))
    assert evaluate_one.error_of(liar, "forward", truth) == pytest.approx(1e-3, rel=1e-6)
    assert evaluate_one.error_of(replace(liar, run=lambda *_: values), "forward", truth) == 0
    assert tolerance(torch.float64, 10, 100.0) == pytest.approx(1e-7)
    assert 1e-6 < tolerance(torch.float32, 10, 100.0) < 1e-3


def test_checks_use_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    item = suite.case("tiny-classes")
    pos, neg = weights(4, item.num_variables, torch.float64)
    values = torch.tensor(evaluate_one.enumerated(item, pos, neg), dtype=torch.float64)
    truth = evaluate_one.Truth(pos, neg, values, torch.zeros_like(pos), values)
    monkeypatch.setattr(evaluate_one, "truth_for", lambda *_: truth)
    builder = CircuitBuilder()
    ir = builder.finish(builder.lit(0, True), 1)
    own = type("Own", (), {"ir": ir})()
    subject = evaluate_one.Subject(ir, Path(), None, own)
    wrong = Contender("klay log", lambda *_: values + 1e-3, ("forward",))
    found = evaluate_one.check([wrong], item, subject, torch.float64)
    assert "wrong values in forward" in str(found["klay log"])
    with pytest.raises(evaluate_one.WrongValue, match="neurosym numba, forward"):
        evaluate_one.check([replace(wrong, name="neurosym numba")], item, subject, torch.float64)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], int]:
    """A quick run of everything on two tiny cases."""
    for module in ("klay", "py_d4", "pysdd"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("bench")
    words = ["--quick", "--work", str(folder / "work"), "--out", str(folder / "q.json")]
    return folder / "q.json", words, run.main(words)


def test_quick_run(quick: tuple[Path, list[str], int]) -> None:
    path, _, status = quick
    content = json.loads(path.read_text())
    assert status == 0
    assert set(content) == {"machine", "compile", "evaluate", "memory"}
    for name in suite.QUICK:
        case = suite.case(name)
        expected = evaluate_one.enumerated(case, *(torch.tensor([w]) for w in compiled_weights(case)))[0]
        for method in compilation.methods_for(name):
            found = content["compile"][f"{name}/{method}"]
            assert found["log_wmc"] == pytest.approx(expected, rel=1e-7)
            assert int(found.get("models", models(case))) == models(case)
        timed = content["evaluate"][name]
        assert max(e for e in timed["errors"]["float64"].values()) < 1e-9
        for operation, batch in itertools.product(("forward", "backward", "mpe"), (1, 16)):
            times = timed["times"][f"float32/{operation}/{batch}"]
            assert {"neurosym auto", "klay own circuit, mpe" if operation == "mpe" else "klay log"} <= set(times)
            assert all(0 < t["low"] <= t["seconds"] <= t["high"] for t in times.values())
    memory = content["memory"]
    assert all(m["peak"] >= m["before"] > 0 for m in memory.values())
    assert memory["neurosym"]["values"] == pytest.approx(memory["klay log"]["values"], rel=1e-4)
    assert memory["neurosym"]["slopes"] == pytest.approx(memory["klay log"]["slopes"], rel=1e-3, abs=1e-5)


def compiled_weights(case: suite.Case) -> tuple[list[float], list[float]]:
    from benchmarks.circuits.compile_one import weights as of_size

    return of_size(case.num_variables)


def test_a_second_run_measures_nothing_again(
    quick: tuple[Path, list[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, words, _ = quick

    def refuse(*_: Any) -> Any:
        raise AssertionError("measured again")

    for name in ("compile_case", "run_child"):
        monkeypatch.setattr(run, name, refuse)
    before = json.loads(path.read_text())
    assert run.main(words) == 0
    after = json.loads(path.read_text())
    assert all(before[part] == after[part] for part in ("compile", "evaluate", "memory"))
    assert not list(path.parent.glob("*.tmp"))


def test_report_shows_ratios(tmp_path: Path) -> None:
    def timed(seconds: float, rows: int = 10000) -> dict[str, float]:
        return {"seconds": seconds, "low": seconds, "high": seconds, "rows_timed": rows}

    times = {
        "neurosym auto": timed(0.02), "neurosym own circuit, auto": timed(0.01), "klay log": timed(0.2),
        "klay real": timed(0.1), "klay own circuit, log": timed(0.05), "pysdd loop": timed(2.0, 200),
    }  # fmt: skip
    entry = {"circuit": {"traffic": 1000}, "errors": {"float32": {"klay real": "wrong values in mpe"}}}
    content = {
        "machine": {
            "this": {"processor": "P", "cores": 2, "python": "3", "versions": {}, "copy_bytes_per_second": 1e10}
        },
        "compile": {"a/neurosym": {"seconds": 0.5, "limit": 3}, "a/d4": {"failed": "more than 3 CPU s", "limit": 3}},
        "evaluate": {"a": {**entry, "times": {"float32/forward/10000": times}}},
    }
    report.write_report(content, tmp_path / "r.json")
    text = (tmp_path / "r.md").read_text()
    assert "| a | 20 | 10 | 100 (real) | 50 (log) | 2e+03* | 5.0 | 10.0 | 5.0 | 200.0 | 0.20 |" in text
    assert "| a | 0.500 | - | - | - | more than 3 CPU s | - | - |" in text
    assert "klay real: wrong values in mpe" in text
    assert (tmp_path / "r_compile.png").stat().st_size > 1000
    assert (tmp_path / "r_evaluate.png").stat().st_size > 1000
