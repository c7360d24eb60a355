"""Compilers, limits, structural properties, files and edges of the public functions."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from neurosym.circuits import (
    CircuitLayer,
    CompileLimit,
    Component,
    InconsistentEvidence,
    compile,
    load,
    log_wmc,
    marginals,
    read_nnf,
    save,
    write_nnf,
)
from neurosym.circuits.circuit import Circuit
from neurosym.circuits.compilers.eliminate import compile_elimination
from neurosym.circuits.compilers.sdd import compile_sdd
from neurosym.circuits.factors import group_factor, restrict, rule_factor
from neurosym.circuits.ir import check_properties
from neurosym.errors import InputError
from neurosym.logic.formula import Formula, Implies, Not, Or, Var
from neurosym.logic.knowledge import CircuitSpec, Group, KnowledgeBase, Rule
from neurosym.logic.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracles"))

import worlds as oracle
from random_knowledge import random_knowledge


def _kb(*rules: str, weight: float = 1.5, classes: str = "a b c", concepts: str = "k l") -> KnowledgeBase:
    items = tuple(Rule(parse(rule), weight) for rule in rules)
    return KnowledgeBase(tuple(classes.split()), tuple(concepts.split()), items)


def _random_cnf(n: int, clauses: int, weight: float, seed: int = 0) -> KnowledgeBase:
    rng = np.random.default_rng(seed)
    rules = []
    for _ in range(clauses):
        literals: list[Formula] = [Var(f"a{i}") for i in rng.choice(n, 3, replace=False)]
        rules.append(Rule(Or(tuple(x if rng.random() < 0.5 else Not(x) for x in literals)), weight))
    return KnowledgeBase(tuple(f"a{i}" for i in range(n)), (), tuple(rules))


@pytest.mark.parametrize("seed", range(8))
def test_both_compilers_agree_and_are_well_formed(seed: int) -> None:
    rng = np.random.default_rng(500 + seed)
    kb = random_knowledge(rng, 10)
    for circuit in ("rules", "exclusive"):
        for part in compile(kb, circuit).parts:
            for c in part.components:
                sdd = Component(c.variables, c.factors, "sdd", compile_sdd(c.factors, c.variables))
                for ir in (c.ir, sdd.ir):
                    found = check_properties(ir)
                    assert (found.decomposable, found.smooth, found.deterministic) == (True, True, True)
                weights = torch.tensor(2 * rng.random((2, 6, len(c.variables))))
                weights[:, 0] = weights[:, 0].round()
                got, expected = (x.marginals(weights[0], weights[1]) for x in (sdd, c))
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-12, equal_nan=True)
                got, expected = (x.log_partition(weights[0].log(), weights[1].log()) for x in (sdd, c))
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_limits_are_kept() -> None:
    kb = _random_cnf(60, 130, math.inf)
    start = time.monotonic()
    with pytest.raises(CompileLimit, match="time limit") as caught:
        compile(kb, max_seconds=1.5)
    assert time.monotonic() - start < 4
    assert caught.value.stats["predicates"] >= 55
    assert 0 < caught.value.stats["constraints done"] < 130
    with pytest.raises(CompileLimit, match="limit of 2000 nodes"):
        compile(kb, max_nodes=2000)
    factors = [rule_factor(kb, h) for h in range(len(kb.rules))]
    with pytest.raises(CompileLimit, match="memory limit 200 MiB"):
        compile_sdd(factors, range(60), memory_bytes=200 << 20, max_seconds=20)
    with pytest.raises(CompileLimit, match="time limit"):
        compile(kb, max_seconds=0)


def test_wide_rules_go_to_an_sdd() -> None:
    """A clause over 20 predicates, soft: P(clause violated) in closed form."""
    names = [f"a{i}" for i in range(20)]
    kb = KnowledgeBase(tuple(names), (), (Rule(Or(tuple(Var(n) for n in names)), 2.0),))
    compiled = compile(kb)
    assert compiled.parts[0].components[0].kind == "sdd"
    p = torch.linspace(0.01, 0.2, 20, dtype=torch.float64)
    none = (1 - p).prod()
    z = 1 - none + none * math.exp(-2.0)
    assert log_wmc(compiled, p).item() == pytest.approx(math.log(z), abs=1e-13)
    torch.testing.assert_close(marginals(compiled, p), p / z, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", ["chain", "tree"])
@pytest.mark.parametrize("weight", [1.5, math.inf])
def test_hierarchies_compile_fast(shape: str, weight: float) -> None:
    rng = np.random.default_rng(0)
    parents = [i - 1 if shape == "chain" else int(rng.integers(0, i)) for i in range(1, 300)]
    rules = tuple(Rule(Implies(Var(f"n{i}"), Var(f"n{u}")), weight) for i, u in enumerate(parents, start=1))
    kb = KnowledgeBase(tuple(f"n{i}" for i in range(300)), (), rules)
    start = time.process_time()
    compiled = compile(kb)
    assert time.process_time() - start < 2
    p = rng.random(300)
    got = marginals(compiled, torch.tensor(p)).numpy()
    np.testing.assert_allclose(got, _tree_marginals(p, parents, math.exp(-weight)), rtol=0, atol=1e-11)


def _tree_marginals(p: np.ndarray, parents: list[int], t: float) -> np.ndarray:
    """Messages up and down a tree of rules child -> parent; factor t where child and not parent."""
    n = len(p)
    factor = np.array([[1.0, 1.0], [t, 1.0]])  # [child, parent]
    own = np.stack([1 - p, p], axis=1)
    up, sent = own.copy(), np.ones((n, 2))
    for i in range(n - 1, 0, -1):
        sent[i] = up[i] @ factor
        sent[i] /= sent[i].sum()
        up[parents[i - 1]] *= sent[i]
        up[parents[i - 1]] /= up[parents[i - 1]].sum()
    belief = up.copy()
    for i in range(1, n):
        outside = belief[parents[i - 1]] / sent[i]
        belief[i] = up[i] * (factor @ outside)
        belief[i] /= belief[i].sum()
    return belief[:, 1] / belief.sum(axis=1)


def test_closed_forms_are_found() -> None:
    kinds = {
        ("a -> k", "b -> k"): "star",
        ("a -> k", "a -> k", "b -> ~k"): "star",
        ("a -> k", "b -> k", "a -> l"): "elimination",
    }
    for rules, kind in kinds.items():
        assert compile(_kb(*rules)).parts[0].components[0].kind == kind
    exclusive = {("a -> k & l", "b -> ~k"): "exclusive", ("a -> k | l",): "elimination", (): "terms"}
    for rules, kind in exclusive.items():
        assert compile(_kb(*rules), "exclusive").parts[0].components[0].kind == kind


def test_large_exclusive_circuit_against_its_formula() -> None:
    """50 classes, 85 attributes, one weight for each rule: P(c) ~ odds_c prod_k (q_k + (1-q_k) e^-w_ck)."""
    rng = np.random.default_rng(4)
    weights = np.where(rng.random((50, 85)) < 0.37, rng.uniform(0.5, 3, (50, 85)), 0.0)
    rules = tuple(Rule(Implies(Var(f"c{c}"), Var(f"k{k}")), weights[c, k]) for c, k in np.argwhere(weights))
    kb = KnowledgeBase(tuple(f"c{c}" for c in range(50)), tuple(f"k{k}" for k in range(85)), rules)
    p = rng.random((20, 135))
    p[0, 3], p[1, 60], p[2, 60] = 0.0, 1.0, 0.0
    d = p[:, None, 50:] + (1 - p[:, None, 50:]) * np.exp(-weights)
    for kind in ("binary", "categorical"):
        score = p[:, :50] / (1 - p[:, :50] if kind == "binary" else 1) * d.prod(axis=2)
        share = score / score.sum(axis=1, keepdims=True)
        concept = (share[:, :, None] * p[:, None, 50:] / d).sum(axis=1)
        got = marginals(compile(kb, "exclusive", kind), torch.tensor(p)).numpy()
        np.testing.assert_allclose(got, np.concatenate([share, concept], axis=1), rtol=0, atol=1e-12)


def test_impossible_rows_are_named() -> None:
    kb = _kb("a -> k", "b -> k", weight=math.inf)
    p = torch.full((2, 3, 5), 0.5)
    p[1, 1, 0], p[1, 1, 3] = 1.0, 0.0
    with pytest.raises(InconsistentEvidence, match="row 4") as caught:
        marginals(kb, p)
    assert caught.value.row == 4
    p[1, 1, 3] = 1e-30
    assert bool(marginals(kb, p).isfinite().all())
    with pytest.raises(InconsistentEvidence):
        marginals(_kb("a & ~a", weight=math.inf), torch.full((5,), 0.5))


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (torch.full((2, 4), 0.5), "shape"),
        (torch.tensor(0.5), "shape"),
        (torch.tensor([[0.5] * 5, [0.5, 0.5, math.nan, 0.5, 0.5]]), "row 1, column 2 is nan"),
        (torch.tensor([0.5, 0.5, 1.5, 0.5, 0.5]), "column 2 is 1.5"),
    ],
)
def test_bad_probabilities(p: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        marginals(_kb("a -> k"), p)


def test_odd_rules() -> None:
    """Constants, tautologies, duplicates, cycles, no rules at all."""
    p = torch.rand((4, 5), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(marginals(_kb(), p), p)
    torch.testing.assert_close(marginals(_kb("true", "false"), p), p)
    assert log_wmc(_kb("true", "false"), p).tolist() == [-1.5] * 4
    torch.testing.assert_close(marginals(_kb("a | ~a"), p), p)
    twice = marginals(_kb("a -> k", "a -> k"), p)
    torch.testing.assert_close(twice, marginals(_kb("a -> k", weight=3.0), p), rtol=0, atol=1e-14)
    cycle = _kb("a -> b", "b -> c", "c -> a", "a <-> k & l")
    expected = np.stack([oracle.marginals(cycle, row) for row in p.numpy()])
    np.testing.assert_allclose(marginals(cycle, p).numpy(), expected, rtol=0, atol=1e-14)
    with pytest.raises(InputError, match="circuit"):
        compile(cycle, "both")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="class_kind"):
        compile(cycle, "rules", "softmax")  # type: ignore[arg-type]


def test_shapes_and_dtypes() -> None:
    kb = KnowledgeBase(
        ("a", "b"),
        ("k", "l"),
        tuple(Rule(parse(r)) for r in ("a -> k", "b -> l", "k -> ~l & b", "a | l")),
        circuits=(CircuitSpec("x", (0, 1), 0.3), CircuitSpec("y", (2, 3), 0.7)),
    )
    p = torch.rand((3, 1, 2, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    q = marginals(kb, p)
    assert q.shape == p.shape
    single = marginals(kb, p.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), q, rtol=0, atol=1e-6)
    torch.testing.assert_close(single, marginals(kb, p.float().double()).float(), rtol=0, atol=0)
    assert marginals(kb, p[:0]).shape == (0, 1, 2, 4)
    torch.testing.assert_close(marginals(kb, p[1, 0, 1]), q[1, 0, 1], rtol=0, atol=1e-15)
    layer = CircuitLayer(compile(kb)).to(torch.float32)
    assert torch.equal(layer(p.float()), single)
    assert not layer.state_dict()
    assert "nodes" in repr(layer)
    with pytest.raises(InputError):
        layer(p - 2)


def test_extreme_weights_do_not_underflow() -> None:
    """Twenty confident errors under heavy rules: far below the smallest float64 in the product."""
    n = 200
    kb = KnowledgeBase(
        tuple(f"c{i}" for i in range(n)),
        ("k",),
        tuple(Rule(Implies(Var(f"c{i}"), Var("k")), 30.0) for i in range(n)),
    )
    p = torch.full((n + 1,), 1 - 1e-9, dtype=torch.float64)
    p[-1] = 1e-12
    q = marginals(kb, p)
    assert q[-1].item() == pytest.approx(1.0, abs=1e-15)
    p[-1] = 0.0
    assert marginals(kb, p)[-1].item() == 0.0
    assert bool(marginals(kb, p).isfinite().all())


def test_nnf_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    for _ in range(5):
        kb = random_knowledge(rng, 8)
        for part in compile(kb).parts:
            for component in part.components:
                write_nnf(component.ir, tmp_path / "x.nnf")
                back = Circuit(read_nnf(tmp_path / "x.nnf"))
                w = torch.tensor(rng.random((2, 4, len(component.variables))))
                torch.testing.assert_close(back.log_wmc(w[0], w[1]), component.log_count(w[0], w[1]))


def test_nnf_from_elsewhere(tmp_path: Path) -> None:
    """A circuit of x1 | x2 that is not smooth: x1, or not x1 and x2; weights (2, 5), (3, 7) count 2*10 + 5*3."""
    path = tmp_path / "or.nnf"
    path.write_text("nnf 5 4 3\nL 1\nL -1\nL 2\nA 2 1 2\nO 1 2 0 3\n")
    circuit = Circuit(read_nnf(path))
    pos, neg = torch.tensor([[2.0, 3.0, 1.0]]).double(), torch.tensor([[5.0, 7.0, 0.0]]).double()
    assert circuit.wmc(pos, neg).item() == pytest.approx(35)
    assert circuit.marginals(pos, neg)[0, 0].item() == pytest.approx(20 / 35)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no 'nnf' line"),
        ("L 1\n", ":1: a node before"),
        ("nnf 1 0 1\nL 2\n", ":2: expected one literal"),
        ("nnf 1 0 1\nL x\n", "whole numbers"),
        ("nnf 2 1 1\nL 1\nA 2 0\n", ":3: the number of children"),
        ("nnf 2 1 1\nL 1\nA 1 5\n", "earlier node"),
        ("nnf 3 2 1\nL 1\nL -1\nA 2 0 1\n", "not decomposable"),
        ("nnf 3 2 2\nL 1\nL 2\nO 0 2 0 1\n", "not deterministic"),
        ("nnf 9 0 1\nL 1\n", "promises 9 nodes"),
        ("nnf 1 0 1\nX 1\n", "unknown line"),
    ],
)
def test_bad_nnf(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.nnf"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_nnf(path)


def test_save_and_load(tmp_path: Path) -> None:
    rules = ("a -> k", "b -> k & l", "c <-> a")
    kb = KnowledgeBase(
        ("a", "b", "c"),
        ("k", "l", "m"),
        tuple(Rule(parse(r), w) for r, w in zip(rules, (1.5, math.inf, 0.25), strict=True)),
        (Group("g", "at_most_one", ("l", "m")),),
        (CircuitSpec("z", (0,), 0.25), CircuitSpec("y", (1,), None)),
    )
    p = torch.rand((4, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for circuit, kind in (("rules", "binary"), ("exclusive", "categorical")):
        compiled = compile(kb, circuit, kind)
        save(compiled, tmp_path / "c.npz")
        back = load(tmp_path / "c.npz")
        assert back.kb == kb
        assert (back.circuit, back.class_kind, back.size) == (circuit, kind, compiled.size)
        assert [c.kind for x in back.parts for c in x.components] == [
            c.kind for x in compiled.parts for c in x.components
        ]
        assert torch.equal(marginals(back, p), marginals(compiled, p))
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    path.write_text("not a zip")
    with pytest.raises(InputError, match=r"c\.npz"):
        load(path)
    save(compile(_kb("a -> k", "b -> k")), path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, value, message in (
        ("0.0.children", np.full_like(arrays["0.0.children"], 99), "lower level"),
        ("0.0.offsets", arrays["0.0.offsets"][:-1], "lengths"),
        ("0.0.literal", arrays["0.0.literal"] * 50, "unknown variables"),
        ("header", np.array("{}"), "not a compiled circuit"),
    ):
        np.savez(path, **{**arrays, name: value})  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            load(path)


def test_restriction_folds_constants() -> None:
    formula = parse("(a -> b & c) <-> (d | ~a)")
    assert restrict(formula, {"a": False}) == parse("true")
    assert restrict(formula, {"a": True, "b": True}) == parse("c <-> d")
    kb = _kb(classes="a b", concepts="")
    group = group_factor(kb, Group("g", "at_most_one", ("a", "b")))
    assert group.satisfied().tolist() == [[True, True], [True, False]]
    ir = compile_elimination([group], (0, 1), 1000)
    assert check_properties(ir).deterministic


def test_the_package_is_light_and_the_function_wins_over_the_file() -> None:
    code = "import sys, neurosym.circuits; assert not {'torch', 'pysdd', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    package = importlib.import_module("neurosym.circuits")
    assert isinstance(importlib.import_module("neurosym.circuits.compile"), ModuleType)
    assert not isinstance(package.compile, ModuleType)
    assert not isinstance(package.bounds, ModuleType)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        kb = random_knowledge(rng, 10)
        p = torch.tensor(rng.uniform(0.05, 0.95, (7, kb.num_predicates)))
        for circuit in ("rules", "exclusive"):
            compiled = compile(kb, circuit)
            try:
                expected = marginals(compiled, p)
            except InconsistentEvidence:
                continue
            got = CircuitLayer(compiled).cuda()(p.cuda())
            torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-12)
