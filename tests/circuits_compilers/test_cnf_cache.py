"""The cache of compiled clauses: hit, miss, damage, and a hash that is not believed alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from cnf_cases import count_models, three_cnf, tree

from neurosym.circuits.compilers import cache as cache_module
from neurosym.circuits.compilers import portfolio
from neurosym.circuits.compilers.cache import Cache, sound
from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.portfolio import CompiledCnf, compile_cnf
from neurosym.errors import InputError

CLAUSES = [[1, 2, 3], [-1, 4, 5], [-2, -5], [3, 4]]


def compiled(folder: Path, clauses: list[list[int]] = CLAUSES, **options: object) -> CompiledCnf:
    return compile_cnf(Cnf.from_clauses(clauses, 6), cache=folder, **options)  # type: ignore[arg-type]


def test_hit_and_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled(tmp_path)
    assert first.statistics["cached"] is False
    monkeypatch.setattr(portfolio, "_compile", lambda *_: pytest.fail("compiled again"))
    shuffled = [c[::-1] for c in reversed(CLAUSES)] + [CLAUSES[0]]
    again = compiled(tmp_path, shuffled)
    assert again.statistics["cached"] is True
    assert again.compiler == first.compiler
    for name in ("kind", "literal", "log_constant", "offsets", "children", "level_offsets"):
        assert (getattr(again.ir, name) == getattr(first.ir, name)).all()
    monkeypatch.undo()
    assert compiled(tmp_path, compiler="elimination").statistics["cached"] is False
    assert compiled(tmp_path, CLAUSES[:-1]).statistics["cached"] is False
    assert len(list(tmp_path.iterdir())) == 3


def test_terms_are_kept(tmp_path: Path) -> None:
    clauses = tree(random.Random(0), 6)
    first, again = compiled(tmp_path, clauses), compiled(tmp_path, clauses)
    assert again.statistics["cached"] is True
    assert first.terms is not None
    assert again.terms is not None
    assert (again.terms.terms == first.terms.terms).all()


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROSYM_CACHE", str(tmp_path / "c"))
    assert compile_cnf(CLAUSES).statistics["cached"] is False
    assert compile_cnf(CLAUSES).statistics["cached"] is True
    monkeypatch.delenv("NEUROSYM_CACHE")
    assert compile_cnf(CLAUSES).statistics["cached"] is False


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_damaged_entries_are_compiled_again(tmp_path: Path, damage: str) -> None:
    expected = count_models(compiled(tmp_path).ir)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        for place in range(60, len(data) - 60, 40):
            data[place] ^= 255
    elif damage == "empty":
        data = bytearray()
    else:
        data = bytearray(b"no archive")
    path.write_bytes(bytes(data))
    again = compiled(tmp_path)
    assert again.statistics["cached"] is False
    assert count_models(again.ir) == expected
    assert compiled(tmp_path).statistics["cached"] is True


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    done = compiled(tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        place = rng.randrange(len(good))
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << rng.randrange(8))]) + good[place + 1 :])
        assert count_models(compiled(tmp_path).ir) == count_models(done.ir)


def test_a_hash_collision_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "path", lambda self, canonical, options: self.folder / "same.npz")
    first = compiled(tmp_path)
    other = compiled(tmp_path, CLAUSES[:2])
    assert other.statistics["cached"] is False
    assert count_models(other.ir) != count_models(first.ir)


def test_unsound_arrays_are_refused(tmp_path: Path) -> None:
    ir = compiled(tmp_path).ir
    assert sound(ir)
    for name, place, value in (("children", 0, 10**6), ("kind", 0, 9), ("offsets", 1, -1), ("level_offsets", 0, 1)):
        array = getattr(ir, name).copy()
        array[place] = value
        fields = {**{field: getattr(ir, field) for field in cache_module._ARRAYS}, name: array}
        assert not sound(cache_module.CircuitIR(num_variables=ir.num_variables, **fields)), name


def test_a_cached_circuit_obeys_the_node_limit(tmp_path: Path) -> None:
    clauses = three_cnf(random.Random(0), 9, 2.0)
    nodes = compile_cnf(clauses, cache=tmp_path).ir.num_nodes
    with pytest.raises(portfolio.CompileLimit):
        compile_cnf(clauses, cache=tmp_path, max_nodes=nodes // 3)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="name another folder"):
        compile_cnf(CLAUSES, cache=tmp_path / "file")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    compiled(tmp_path)
    (path,) = tmp_path.iterdir()
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            assert archive[name].dtype != object


def test_a_folder_that_cannot_be_written_is_noticed_before_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(*_: object) -> None:
        raise AssertionError("compiled first")

    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(portfolio, "_compile", compiled)
    with pytest.raises(InputError, match="cannot be written") as caught:
        compile_cnf([[1, 2]], cache=blocked / "cache")
    assert "\n" not in str(caught.value)
    with pytest.raises(AssertionError, match="compiled first"):
        compile_cnf([[1, 2]], cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_hit_needs_no_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_cnf([[1, 2], [3, 4]], cache=tmp_path)
    monkeypatch.setattr(Cache, "require_writable", lambda _: pytest.fail("asked to write"))
    assert compile_cnf([[1, 2], [3, 4]], cache=tmp_path).statistics["cached"]
