"""SDD and vtree text, with pysdd as the oracle in both directions."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from circuit_values import count, random_clauses, value

from neurosym.circuits.errors import CompileLimit
from neurosym.circuits.formats.nnf import read_nnf
from neurosym.circuits.formats.sdd import read_sdd, read_vtree, write_sdd
from neurosym.circuits.ir import CircuitBuilder, check_properties
from neurosym.errors import InputError


def from_pysdd(folder: Path, seed: int) -> tuple[Any, list[list[int]], int]:
    """A random formula as an SDD in ``a.sdd`` and ``a.vtree``."""
    from pysdd.sdd import SddManager, Vtree

    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 11))
    kind = ("balanced", "right", "left", "vertical")[seed % 4]
    manager = SddManager.from_vtree(Vtree(var_count=n, vtree_type=kind))
    manager.auto_gc_and_minimize_off()
    clauses = random_clauses(rng, n, int(rng.integers(0, 2 * n)))
    root = manager.true()
    for clause in clauses:
        either = manager.false()
        for literal in clause:
            either = either | manager.literal(literal)
        root = root & either
    root.save(str(folder / "a.sdd").encode())
    manager.vtree().save(str(folder / "a.vtree").encode())
    return root, clauses, n


def pysdd_value(root: Any, pos: list[float], neg: list[float]) -> float:
    wmc = root.wmc(log_mode=False)
    for i, (on, off) in enumerate(zip(pos, neg, strict=True), start=1):
        wmc.set_literal_weight(root.manager.literal(i), on)
        wmc.set_literal_weight(root.manager.literal(-i), off)
    return 0.0 if root.is_false() else float(wmc.propagate())


@pytest.mark.parametrize("seed", range(16))
def test_read(tmp_path: Path, seed: int) -> None:
    root, clauses, n = from_pysdd(tmp_path, seed)
    circuits = [
        read_sdd(tmp_path / "a.sdd", tmp_path / "a.vtree"),
        read_sdd(tmp_path / "a.sdd", num_variables=n),
    ]
    rng = np.random.default_rng(seed)
    pos, neg = ([float(x) for x in rng.uniform(0, 2, n)] for _ in range(2))
    exact = [Fraction(x) for x in pos], [Fraction(x) for x in neg]
    for ir in circuits:
        assert ir.num_variables == n
        assert value(ir, *exact) == count(clauses, *exact)
        assert value(ir, pos, neg) == pytest.approx(pysdd_value(root, pos, neg), rel=1e-9)
        found = check_properties(ir)
        assert found.smooth
        assert found.decomposable
        assert found.deterministic


@pytest.mark.parametrize("seed", [2, 5, 8, 11])
def test_written_with_its_vtree_it_is_the_same_diagram(tmp_path: Path, seed: int) -> None:
    from pysdd.sdd import SddManager, Vtree

    root, clauses, n = from_pysdd(tmp_path, seed)
    ir = read_sdd(tmp_path / "a.sdd", tmp_path / "a.vtree")
    write_sdd(ir, tmp_path / "b.sdd", tmp_path / "b.vtree", vtree=tmp_path / "a.vtree")
    manager = SddManager.from_vtree(Vtree.from_file(str(tmp_path / "b.vtree").encode()))
    again = manager.read_sdd_file(str(tmp_path / "b.sdd").encode())
    assert (again.size(), again.count()) == (root.size(), root.count())
    pos, neg = [0.3 + 0.1 * i for i in range(n)], [1.1] * n
    assert pysdd_value(again, pos, neg) == pytest.approx(count(clauses, pos, neg), rel=1e-9)


def test_a_circuit_from_elsewhere_is_written_with_a_balanced_vtree(tmp_path: Path) -> None:
    (tmp_path / "or.nnf").write_text("nnf 5 4 3\nL 1\nL -1\nL 2\nA 2 1 2\nO 1 2 0 3\n")
    ir = read_nnf(tmp_path / "or.nnf")
    write_sdd(ir, tmp_path / "x.sdd", tmp_path / "x.vtree")
    back = read_sdd(tmp_path / "x.sdd", tmp_path / "x.vtree")
    assert value(back, [2, 3, 1], [5, 7, 0]) == value(ir, [2, 3, 1], [5, 7, 0]) == 35


def test_what_cannot_be_written(tmp_path: Path) -> None:
    builder = CircuitBuilder()
    soft = builder.conj([builder.lit(0, True), builder.constant(-1.5)])
    with pytest.raises(InputError, match="no constants"):
        write_sdd(builder.finish(soft, 1), tmp_path / "x.sdd", tmp_path / "x.vtree")
    plain = builder.finish(builder.lit(0, True), 1)
    from_pysdd(tmp_path, 7)
    with pytest.raises(InputError, match="not a vtree of the circuit's 1 variables"):
        write_sdd(plain, tmp_path / "x.sdd", tmp_path / "x.vtree", vtree=tmp_path / "a.vtree")
    with pytest.raises(CompileLimit, match="passed"):
        write_sdd(plain, tmp_path / "x.sdd", tmp_path / "x.vtree", max_seconds=1e-3)
    assert not (tmp_path / "x.sdd").exists()


VTREE = "vtree 3\nL 0 1\nL 2 2\nI 1 0 2\n"
XOR = "sdd 6\nL 0 0 1\nL 1 0 -1\nL 2 2 2\nL 3 2 -2\nD 5 1 2 0 3 1 2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no 'vtree' line"),
        ("vtree 3\nL 0 1\nL 2 2\n", "promises 3 nodes"),
        (VTREE.replace("I 1 0 2", "I 1 0 0"), ":4: a child has a parent already"),
        (VTREE.replace("I 1 0 2", "I 1 0 9"), ":4: children must be nodes 0..2"),
        (VTREE.replace("I 1 0 2", "I 1 0 1"), "not one tree"),
        (VTREE.replace("L 2 2", "L 2 1"), ":3: the variable has a leaf already"),
        (VTREE.replace("L 2 2", "L 2 3"), ":3: expected the variables 1..2"),
        (VTREE.replace("L 2 2", "L 0 2"), ":3: a second node"),
        (VTREE.replace("L 2 2", "L 2"), ":3: expected 'L NODE VARIABLE'"),
        (VTREE.replace("L 2 2", "D 2 2"), ":3: unknown line"),
        (VTREE.replace("L 2 2", "2 2"), ":3: unknown line"),
    ],
)
def test_bad_vtrees(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.vtree").write_text(text)
    with pytest.raises(InputError, match=message):
        read_vtree(tmp_path / "x.vtree")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no 'sdd' line"),
        (XOR.replace("sdd 6", "sdd 7"), "promises 7 nodes"),
        (XOR.replace("sdd 6", "sdd 5").replace("D 5 1 2", "D 5 1 3"), ":6: the number of elements"),
        (XOR.replace("sdd 6", "sdd 5").replace("D 5 1 2 0", "D 5 1 2 7"), ":6: a prime or sub must be an earlier"),
        (XOR.replace("sdd 6", "sdd 5").replace("D 5 1 2 0", "D 5 1 2 5"), ":6: a prime or sub must be an earlier"),
        (XOR.replace("sdd 6", "sdd 5").replace("0 3 1 2", "3 0 1 2"), ":6: .*wrong side"),
        (XOR.replace("sdd 6", "sdd 5").replace("0 3 1 2", "0 2 0 2"), "not deterministic"),
        (XOR.replace("sdd 6", "sdd 5").replace("D 5 1 2", "D 5 0 2"), ":6: a decision at a leaf"),
        (XOR.replace("sdd 6", "sdd 5").replace("D 5 1 2", "D 5 8 2"), ":6: a vtree node that"),
        (XOR.replace("sdd 6", "sdd 5").replace("L 2 2 2", "L 2 0 2"), ":4: the literal's variable"),
        (XOR.replace("sdd 6", "sdd 5").replace("L 2 2 2", "L 2 2 5"), ":4: expected a literal of 1..2"),
        (XOR.replace("sdd 6", "sdd 5").replace("L 2 2 2", "L 2 2"), ":4: expected 'L NODE VTREE LITERAL'"),
        (XOR.replace("sdd 6", "sdd 5").replace("L 2 2 2", "L 0 2 2"), ":4: a second node"),
        (XOR.replace("sdd 6", "sdd 5").replace("L 2 2 2", "L 999999999 2 2"), ":4: a node number"),
    ],
)
def test_bad_sdds(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.vtree").write_text(VTREE)
    (tmp_path / "x.sdd").write_text(text)
    with pytest.raises(InputError, match=message):
        read_sdd(tmp_path / "x.sdd", tmp_path / "x.vtree")


def test_damaged_diagrams_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    texts = {"x.sdd": XOR.replace("sdd 6", "sdd 5"), "x.vtree": VTREE}
    refused: list[str] = []
    for turn in range(300):
        for name, text in texts.items():
            data = bytearray(text.encode())
            if (name == "x.sdd") == (turn % 3 > 0):
                data[rng.integers(len(data))] = rng.choice(np.frombuffer(b"0123456789 -\nLTFDIsc\xff", dtype=np.uint8))
            (tmp_path / name).write_bytes(bytes(data))
        try:
            found = check_properties(read_sdd(tmp_path / "x.sdd", tmp_path / "x.vtree"))
        except InputError as error:
            refused.append(str(error))
        else:
            assert found.smooth
            assert found.decomposable
            assert found.deterministic
    assert 0 < len(refused) < 300
    assert not any("\n" in message for message in refused)
