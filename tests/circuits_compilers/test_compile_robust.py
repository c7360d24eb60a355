"""Limits that are infinite or no limits, clauses that are none, and cache entries damaged in unusual ways."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path

import numpy as np
import pytest
from cnf_cases import three_cnf, truth

from neurosym.circuits import model_count
from neurosym.circuits.compilers.d4 import d4_installed
from neurosym.circuits.compilers.portfolio import Compiler, compile_cnf
from neurosym.circuits.compilers.process import run_worker
from neurosym.errors import InputError

CLAUSES = three_cnf(random.Random(3), 10, 2.5)


@pytest.mark.parametrize(
    "compiler", ["sdd", pytest.param("d4", marks=pytest.mark.skipif(not d4_installed(), reason="py_d4 is missing"))]
)
def test_no_limit_at_all(compiler: Compiler) -> None:
    found = compile_cnf(CLAUSES, compiler=compiler, max_seconds=math.inf, max_nodes=math.inf)  # type: ignore[arg-type]
    assert found.compiler == compiler
    assert model_count(found.ir) == truth(CLAUSES, found.ir.num_variables).sum()


def test_a_worker_without_a_time_limit(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("print('done')\n")
    assert run_worker(str(script), [], math.inf).stdout == b"done\n"


@pytest.mark.parametrize("name", ["max_seconds", "max_nodes", "max_memory"])
@pytest.mark.parametrize("value", [None, "9", True, 0, -1.0, math.nan])
def test_limits_that_are_none_are_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match="must be positive"):
        compile_cnf(CLAUSES, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("clauses", [None, 5])
def test_clauses_that_are_no_list(clauses: object) -> None:
    with pytest.raises(InputError, match="lists of literals"):
        compile_cnf(clauses)  # type: ignore[arg-type]


def test_a_memory_limit_may_be_a_float() -> None:
    found = compile_cnf(CLAUSES, compiler="sdd", max_memory=2.5e9)  # type: ignore[arg-type]
    assert found.compiler == "sdd"


def _entry(folder: Path) -> Path:
    compile_cnf(CLAUSES, cache=folder)
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize(("offset", "value"), [(4, 251), (6, 1), (6, 32), (8, 99)])
def test_zip_headers_that_ask_for_what_is_not_there(tmp_path: Path, offset: int, value: int) -> None:
    path = _entry(tmp_path)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    # version needed, flags (encrypted, patched) and compression method, in the local and in the central header
    data[offset], data[central + offset + 2] = value, value
    path.write_bytes(bytes(data))
    assert compile_cnf(CLAUSES, cache=tmp_path).statistics["cached"] is False
    assert compile_cnf(CLAUSES, cache=tmp_path).statistics["cached"] is True


@pytest.mark.parametrize(
    "changed",
    [
        {"terms": np.zeros(3, dtype=np.int8), "term_constants": np.zeros(1)},
        {"terms": np.zeros((2, 10), dtype=np.int8), "term_constants": np.zeros(7)},
        {"terms": np.zeros((2, 10)), "term_constants": np.zeros(2)},
        {"terms": np.full((2, 10), 5, dtype=np.int8), "term_constants": np.zeros(2)},
        {"header": np.array("[]")},
        {"log_constant": np.full(10_000, np.nan)},
    ],
)
def test_entries_whose_arrays_do_not_fit(tmp_path: Path, changed: dict[str, np.ndarray]) -> None:
    path = _entry(tmp_path)
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        arrays = dict(archive)
    if "log_constant" in changed:
        changed = {"log_constant": changed["log_constant"][: arrays["kind"].size]}
    arrays.update(changed)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    assert compile_cnf(CLAUSES, cache=tmp_path).statistics["cached"] is False
