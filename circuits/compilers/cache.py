"""Compiled circuits on disk, found by the content of their clauses.

An entry is one ``.npz`` file whose name is the SHA-256 of the sorted clauses, the options and the version of the format.
A hit is believed only if the clauses stored in it are the ones asked for; a damaged entry counts as absent. Files
are written atomically, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.terms import DisjointTerms
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR
from neurosym.errors import InputError

FORMAT = "neurosym-cnf-circuit"
VERSION = 1
"""Entries of other versions are not looked at: the version is part of the name."""
VARIABLE = "NEUROSYM_CACHE"
_ARRAYS = {
    "kind": np.int8,
    "literal": np.int64,
    "log_constant": np.float64,
    "offsets": np.int64,
    "children": np.int64,
    "level_offsets": np.int64,
}


# among them what zipfile says of damaged headers: an unknown version or compression, a password
_DAMAGE = (
    OSError, ValueError, LookupError, EOFError, TypeError, AttributeError, RuntimeError, MemoryError, zipfile.BadZipFile,
    zlib.error, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What is kept of a compilation."""

    ir: CircuitIR
    terms: DisjointTerms | None
    compiler: str
    statistics: dict[str, object]


@dataclass(frozen=True)
class Cache:
    """A folder of compiled circuits; safe for several processes at once."""

    folder: Path

    @staticmethod
    def at(folder: str | Path | None) -> Cache | None:
        """The cache in ``folder``, or in NEUROSYM_CACHE if that is None; None if neither is given."""
        place = folder if folder is not None else os.environ.get(VARIABLE) or None
        return None if place is None else Cache(Path(place))

    def path(self, canonical: Cnf, options: Mapping[str, object]) -> Path:
        """File of an entry."""
        head = json.dumps([FORMAT, VERSION, canonical.num_variables, dict(options)], sort_keys=True)
        digest = hashlib.sha256(head.encode() + b"\n")
        for array in (canonical.offsets, canonical.literals):
            digest.update(array.astype("<i8").tobytes())
        return self.folder / f"{digest.hexdigest()}.npz"

    def get(self, canonical: Cnf, options: Mapping[str, object]) -> Entry | None:
        """The entry for these clauses (:meth:`Cnf.canonical`) and options, or None if there is no sound one."""
        try:
            with np.load(self.path(canonical, options), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            return _entry(arrays, canonical, options)
        except _DAMAGE:
            return None

    def require_writable(self) -> None:
        """Make the folder, and a file in it that goes at once: better an error before a long compilation than after it.

        Raises:
            InputError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise _unwritable(self.folder, error) from None

    def put(
        self,
        canonical: Cnf,
        options: Mapping[str, object],
        ir: CircuitIR,
        terms: DisjointTerms | None,
        compiler: str,
        statistics: Mapping[str, object],
    ) -> None:
        """Keep an entry.

        Raises:
            InputError: the folder cannot be written.
        """
        header = {"options": dict(options), "compiler": compiler, "statistics": dict(statistics)}
        arrays: dict[str, NDArray[Any]] = {name: getattr(ir, name) for name in _ARRAYS}
        arrays["header"] = np.array(json.dumps(header, sort_keys=True))
        arrays["cnf_literals"], arrays["cnf_offsets"] = canonical.literals, canonical.offsets
        arrays["num_variables"] = np.array(ir.num_variables)
        if terms is not None:
            arrays["terms"], arrays["term_constants"] = terms.terms, terms.log_constants
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        path = self.path(canonical, options)
        try:
            _write(path, buffer.getvalue())
        except OSError as error:
            raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written: {error.strerror}; name another folder as cache")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:16]}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _entry(arrays: Mapping[str, NDArray[Any]], canonical: Cnf, options: Mapping[str, object]) -> Entry | None:
    header = json.loads(str(arrays["header"]))
    same = (
        int(arrays["num_variables"]) == canonical.num_variables
        and np.array_equal(arrays["cnf_literals"], canonical.literals)
        and np.array_equal(arrays["cnf_offsets"], canonical.offsets)
        and header["options"] == dict(options)
    )
    if not same:
        return None
    for name, dtype in _ARRAYS.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            return None
    ir = CircuitIR(num_variables=canonical.num_variables, **{name: arrays[name] for name in _ARRAYS})
    terms = DisjointTerms(arrays["terms"], arrays["term_constants"]) if "terms" in arrays else None
    if not sound(ir) or (terms is not None and not _sound_terms(terms, ir.num_variables)):
        return None
    return Entry(ir, terms, str(header["compiler"]), dict(header["statistics"]))


def _sound_terms(terms: DisjointTerms, num_variables: int) -> bool:
    """Whether the arrays of disjoint terms fit together and hold nothing but what they may."""
    matrix, constants = terms.terms, terms.log_constants
    return bool(
        matrix.dtype == np.int8
        and matrix.ndim == 2
        and matrix.shape[1] == num_variables
        and constants.dtype == np.float64
        and constants.shape == matrix.shape[:1]
        and np.isin(matrix, (-1, 0, 1)).all()
    )


def sound(ir: CircuitIR) -> bool:
    """Whether the arrays of a circuit fit together: indices in range, children on lower levels, leaves on level 0."""
    n, edges, levels = ir.kind.size, ir.children.size, ir.level_offsets
    shapes = ir.literal.size == ir.log_constant.size == n == ir.offsets.size - 1
    if (
        not n
        or not shapes
        or np.isnan(ir.log_constant).any()
        or not np.isin(ir.kind, (LITERAL, CONSTANT, PRODUCT, SUM)).all()
    ):
        return False
    if ir.offsets[0] != 0 or ir.offsets[-1] != edges or (np.diff(ir.offsets) < 0).any():
        return False
    if levels.size < 2 or levels[0] != 0 or levels[-1] != n or (np.diff(levels) <= 0).any():
        return False
    if edges and not 0 <= ir.children.min() <= ir.children.max() < n:
        return False
    level = np.searchsorted(levels, np.arange(n), side="right")
    owner = np.repeat(np.arange(n), np.diff(ir.offsets))
    leaf = (ir.kind == LITERAL) | (ir.kind == CONSTANT)
    variable = np.abs(ir.literal[ir.kind == LITERAL])
    return bool(
        (level[ir.children] < level[owner]).all()
        and (leaf == (level == 1)).all()
        and (leaf == (np.diff(ir.offsets) == 0)).all()
        and ((variable >= 1) & (variable <= ir.num_variables)).all()
    )
