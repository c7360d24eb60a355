"""One circuit in an ``.npz`` file: bit for bit, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurosym.circuits.formats.arrays import ARRAYS, circuit_digest, load_circuit, save_circuit
from neurosym.circuits.ir import PRODUCT, CircuitBuilder, CircuitIR
from neurosym.errors import InputError


@pytest.fixture
def ir() -> CircuitIR:
    """x1 & x2 with weight e^-1.5, or not x1."""
    builder = CircuitBuilder()
    x, y = ([builder.lit(v, side) for side in (False, True)] for v in (0, 1))
    both = builder.conj([x[1], y[1], builder.constant(-1.5)])
    return builder.finish(builder.disj([both, builder.conj([x[0], builder.free(1)])]), 2)


def test_round_trip(tmp_path: Path, ir: CircuitIR) -> None:
    save_circuit(ir, tmp_path / "x.npz")
    back = load_circuit(tmp_path / "x.npz")
    assert back.num_variables == ir.num_variables
    for name in ARRAYS:
        assert np.array_equal(getattr(back, name), getattr(ir, name))
        assert getattr(back, name).dtype == getattr(ir, name).dtype
    assert circuit_digest(back) == circuit_digest(ir)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_digest_sees_every_array(ir: CircuitIR) -> None:
    seen = {circuit_digest(ir), circuit_digest(replace(ir, num_variables=3))}
    for name in ARRAYS:
        changed = getattr(ir, name).copy()
        changed[0] += 1
        seen.add(circuit_digest(replace(ir, **{name: changed})))
    assert len(seen) == 2 + len(ARRAYS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"header": np.array("{}")}, "not one circuit"),
        ({"header": np.array("[")}, "cannot be read"),
        ({"header": np.array([{"a": 1}], dtype=object)}, "cannot be read"),
        ({"children": np.array([99] * 9)}, "lower level|offsets"),
        ({"literal": np.zeros(3, dtype=np.int64)}, "different lengths"),
        ({"literal": np.zeros(3)}, "one row of int64"),
        ({"log_constant": None}, "'log_constant' is missing"),
    ],
)
def test_damage(tmp_path: Path, ir: CircuitIR, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "x.npz"
    save_circuit(ir, path)
    with np.load(path) as archive:
        arrays = {**{name: archive[name] for name in archive.files}, **change}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match=message) as error:
        load_circuit(path)
    assert "\n" not in str(error.value)


def test_any_changed_weight_is_noticed(tmp_path: Path, ir: CircuitIR) -> None:
    path = tmp_path / "x.npz"
    save_circuit(ir, path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["log_constant"] = arrays["log_constant"] * 2
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="digest"):
        load_circuit(path)


def test_a_circuit_that_is_not_smooth_or_decomposable_is_refused(tmp_path: Path, ir: CircuitIR) -> None:
    builder = CircuitBuilder()
    rough = builder.finish(builder.disj([builder.lit(0, True), builder.lit(1, True)]), 2)
    save_circuit(rough, tmp_path / "x.npz")
    with pytest.raises(InputError, match="not smooth"):
        load_circuit(tmp_path / "x.npz")
    save_circuit(replace(rough, kind=np.where(rough.kind > 1, PRODUCT, rough.kind).astype(np.int8)), tmp_path / "y.npz")
    assert load_circuit(tmp_path / "y.npz").num_nodes == 3
    shared = builder.finish(
        builder.conj([builder.free(0), builder.conj([builder.lit(0, True), builder.lit(1, True)])]), 2
    )
    save_circuit(shared, tmp_path / "z.npz")
    with pytest.raises(InputError, match="not decomposable"):
        load_circuit(tmp_path / "z.npz")


def test_truncated_files(tmp_path: Path, ir: CircuitIR) -> None:
    path = tmp_path / "x.npz"
    save_circuit(ir, path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"x\.npz"):
            load_circuit(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_circuit(tmp_path / "none.npz")
