"""d-DNNF text of c2d and d4: values against enumeration, strictness, damage, speed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from circuit_values import count, random_clauses, value

from neurosym.circuits.formats.nnf import read_nnf, write_nnf
from neurosym.circuits.ir import CircuitBuilder, check_properties
from neurosym.errors import InputError


def fractions(rng: np.random.Generator, n: int) -> list[Fraction]:
    return [Fraction(int(a), int(b)) for a, b in rng.integers([0, 1], 9, (n, 2))]


@pytest.mark.parametrize("seed", range(12))
def test_d4_files_count_exactly(tmp_path: Path, seed: int) -> None:
    py_d4 = pytest.importorskip("py_d4")
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 11))
    clauses = random_clauses(rng, n, int(rng.integers(0, 3 * n)))
    path = tmp_path / "x.nnf"
    path.write_text(py_d4.Solver(clauses, n).compile().getNNFString())
    ir = read_nnf(path, n)
    pos, neg = fractions(rng, n), fractions(rng, n)
    assert value(ir, pos, neg) == count(clauses, pos, neg)
    found = check_properties(ir)
    assert found.decomposable
    assert found.smooth
    assert found.deterministic
    write_nnf(ir, path)
    assert value(read_nnf(path), pos, neg) == count(clauses, pos, neg)


def test_d4_by_hand(tmp_path: Path) -> None:
    """x1 & x3, or not x1 & x2; nodes out of order, x4 in no clause."""
    path = tmp_path / "x.nnf"
    path.write_text("t 9 0\no 1 0\n\n1 9 1 3 0\nc a comment\n1 9 -1 2 0\n")
    pos, neg = [Fraction(2), Fraction(3), Fraction(5), Fraction(7)], [Fraction(11)] * 4
    assert value(read_nnf(path, 4), pos, neg) == (2 * 5 * (3 + 11) + 11 * 3 * (5 + 11)) * 18
    assert read_nnf(path).num_variables == 3


def test_true_and_false(tmp_path: Path) -> None:
    path = tmp_path / "x.nnf"
    pos, neg = [Fraction(2), Fraction(3)], [Fraction(5), Fraction(7)]
    for text, expected in (
        ("t 1 0\n", 70), ("f 1 0\n", 0), ("o 1 0\na 2 0\n1 2 0\n", 70), ("a 1 0\no 2 0\n1 2 1 0\n", 0),
        ("nnf 1 0 2\nA 0\n", 70), ("nnf 1 0 2\nO 0 0\n", 0), ("nnf 2 1 2\nO 0 0\nA 1 0\n", 0),
        ("nnf 2 1 2\nL -2\nO 0 1 0\n", 49), ("nnf 4 4 2\nL 1\nA 0\nA 2 0 1\nO 0 1 2\n", None),
    ):  # fmt: skip
        path.write_text(text)
        if expected is None:
            with pytest.raises(InputError, match="promises"):
                read_nnf(path, 2)
        else:
            assert value(read_nnf(path, 2), pos, neg) == expected, text


def test_constants_survive(tmp_path: Path) -> None:
    builder = CircuitBuilder()
    on, off = builder.lit(0, True), builder.lit(0, False)
    root = builder.disj([builder.conj([on, builder.constant(-1.5)]), builder.conj([off, builder.constant(0.25)])])
    write_nnf(builder.finish(root, 1), tmp_path / "x.nnf")
    found = value(read_nnf(tmp_path / "x.nnf"), [3.0], [5.0])
    assert found == pytest.approx(3 * np.exp(-1.5) + 5 * np.exp(0.25), rel=1e-15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("o 1 0\n", None),
        ("o 2 0\n", "no node 1"),
        ("o 1 0\no 1 0\n", ":2: a second node"),
        ("o 1 0\n1 2 0\n", ":2: an edge between nodes that are not declared"),
        ("o 1 0\nt 2 0\n1 2 3\n", ":3: expected a line that ends with 0"),
        ("o 1 0\nt 2 0\n1 0\n", ":3: expected 'PARENT CHILD"),
        ("o 1 0\nt 2 0\n1 2 0 0\n", ":3: expected literals"),
        ("o 1 0\nt 2 0\n1 2 9 0\n", ":3: expected literals of the variables 1..2"),
        ("o 1 0\nt 2 0\n2 1 1 0\n", ":3: true and false have no children"),
        ("o 1 0\no 2 0\n1 2 1 0\n2 1 2 0\n", "cycle"),
        ("a 1 0\nt 2 0\n1 2 1 0\n1 2 1 0\n", "not decomposable"),
        ("o 1 0\nt 2 0\n1 2 1 0\n1 2 2 0\n", "not deterministic"),
        ("o 1\n", ":1: expected"),
        ("1 2 0\n", "no node 1"),
        ("o one 0\n", "whole numbers"),
        ("o 1 -0-1\n", "whole numbers"),
        ("o 99999999999999999999 0\n", "whole numbers"),
        ("1 o 0\n", "whole numbers"),
        ("nnf 1 0 2\nnnf 1 0 2\nL 1\n", ":2: expected one line"),
        ("nnf 1 0 9999999999\nL 1\n", "variables are more than"),
        ("nnf 1 0 2\no 1 0\n", ":2: unknown line"),
        ("nnf 1 0 2\nA\n", ":2: the number of children"),
        ("c constant 2 inf\nnnf 1 0 2\nL 2\n", ":1: the constant"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str | None) -> None:
    path = tmp_path / "bad.nnf"
    path.write_text(text)
    if message is None:
        assert value(read_nnf(path, 2), [1, 1], [1, 1]) == 0
        return
    with pytest.raises(InputError, match=message):
        read_nnf(path, 2)


GOOD = (
    "c constant 4 -0x1.8p+0\nnnf 7 6 4\nL 1\nL -1\nL 2\nL 4\nA 2 1 2\nO 1 2 0 4\nA 2 5 3\n",
    "o 1 0\na 2 0\no 3 0\nt 4 0\n3 4 -1 2 0\n3 4 1 3 0\n2 3 0\n1 2 0\n",
)


@pytest.mark.parametrize("good", GOOD)
def test_damaged_files_are_read_or_refused(tmp_path: Path, good: str) -> None:
    """Whatever bytes change, the answer is a sound circuit or one line that names the file."""
    rng = np.random.default_rng(1)
    path = tmp_path / "x.nnf"
    refused: list[str] = []
    for _ in range(400):
        data = bytearray(good.encode())
        for _ in range(int(rng.integers(1, 4))):
            data[rng.integers(len(data))] = rng.choice(
                np.frombuffer(b"0123456789 -\nLAOoatfnc\x00\xff", dtype=np.uint8)
            )
        path.write_bytes(bytes(data))
        try:
            found = check_properties(read_nnf(path))
        except InputError as error:
            refused.append(str(error))
        else:
            assert found.decomposable
            assert found.smooth
    assert 0 < len(refused) < 400
    assert all(str(path) in message and "\n" not in message for message in refused)


def test_a_large_file(tmp_path: Path) -> None:
    """About 200,000 edges with two literals each, as d4 writes them; every world counts once."""
    layers, width = 50, 1000
    lines = ["o 1 0", "t 2 0"]
    number = np.arange(layers * width).reshape(layers, width) + 3
    lines += [f"o {k} 0" for k in number.ravel()]
    lines += [f"1 {k} {'-' if i % 2 else ''}{layers + 1} 0" for i, k in enumerate(number[0][:2])]
    rng = np.random.default_rng(0)
    for layer in range(layers):
        x = layer + 1
        below = rng.integers(0, width, (width, 2))
        for i, k in enumerate(number[layer]):
            low, high = (2, 2) if layer == layers - 1 else number[layer + 1][below[i]]
            lines += [f"{k} {low} {x} {60 + x} 0", f"{k} {low} {x} -{60 + x} 0"]
            lines += [f"{k} {high} -{x} {60 + x} 0", f"{k} {high} -{x} -{60 + x} 0"]
    path = tmp_path / "large.nnf"
    path.write_text("\n".join(lines) + "\n")
    ir = read_nnf(path)
    assert ir.num_edges > 100_000
    ones = [1] * ir.num_variables
    assert value(ir, ones, ones) == 2**ir.num_variables
