"""One circuit in one ``.npz`` file: its arrays and their digest; nothing is unpickled."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.formats.files import write_atomically
from neurosym.circuits.formats.graph import find_misfit
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.circuits.circuit import Circuit

FORMAT = "neurosym-circuit-arrays"
VERSION = 1
ARRAYS = {
    "kind": np.int8,
    "literal": np.int64,
    "log_constant": np.float64,
    "offsets": np.int64,
    "children": np.int64,
    "level_offsets": np.int64,
}
"""Arrays of :class:`CircuitIR` and their types."""


def circuit_digest(ir: CircuitIR) -> str:
    """SHA-256 of the number of variables and all arrays, little-endian: equal for equal circuits on any machine."""
    total = hashlib.sha256(f"{VERSION} {ir.num_variables}".encode())
    for name, kind in ARRAYS.items():
        array = np.ascontiguousarray(getattr(ir, name), dtype=np.dtype(kind).newbyteorder("<"))
        total.update(f" {name} {array.size} ".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def save_circuit(circuit: CircuitIR | Circuit, path: str | Path) -> None:
    """Write one circuit; see :func:`load_circuit`. The file appears only when complete."""
    ir = circuit if isinstance(circuit, CircuitIR) else circuit.ir
    header = {"format": FORMAT, "version": VERSION, "num_variables": ir.num_variables, "digest": circuit_digest(ir)}
    arrays: dict[str, NDArray[Any]] = {name: getattr(ir, name) for name in ARRAYS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
    write_atomically(Path(path), buffer.getvalue())


def load_circuit(path: str | Path) -> CircuitIR:
    """Read what :func:`save_circuit` wrote: the same circuit, bit for bit.

    Raises:
        InputError: not such a file, another version, damaged, or not a smooth and decomposable circuit.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"])) if "header" in archive.files else None
            found = {name: archive[name] for name in archive.files if name in ARRAYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as a circuit: {reason}; give a file of save_circuit") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: not one circuit; compiled rules are read with circuits.load")
    if header.get("version") != VERSION:
        raise InputError(f"{path}: format version {header.get('version')}, expected {VERSION}; save the circuit again")
    count = header.get("num_variables")
    fault = "no number of variables" if type(count) is not int or count < 0 else _type_fault(found)
    if fault is None:
        ir = CircuitIR(num_variables=int(count), **found)  # type: ignore[arg-type]
        fault = find_fault(ir) or (None if circuit_digest(ir) == header.get("digest") else "the digest does not fit")
        fault = fault or find_misfit(ir)
    if fault is not None:
        raise InputError(f"{path}: {fault}; save the circuit again")
    return ir


def _type_fault(found: dict[str, NDArray[Any]]) -> str | None:
    for name, kind in ARRAYS.items():
        if name not in found:
            return f"array {name!r} is missing"
        if found[name].dtype != kind or found[name].ndim != 1:
            return f"array {name!r} is not one row of {np.dtype(kind).name}"
    return None


def find_fault(ir: CircuitIR) -> str | None:
    """What is wrong with the arrays of a circuit, or None: indices in range, children on lower levels."""
    n, e = ir.kind.size, ir.children.size
    if n == 0 or not np.isin(ir.kind, (LITERAL, CONSTANT, PRODUCT, SUM)).all():
        return "unknown node kinds"
    if ir.literal.shape != (n,) or ir.log_constant.shape != (n,) or ir.offsets.shape != (n + 1,):
        return "arrays of different lengths"
    if ir.offsets[0] != 0 or ir.offsets[-1] != e or (np.diff(ir.offsets) < 0).any():
        return "broken child offsets"
    tops = ir.level_offsets
    if tops.size < 2 or tops[0] != 0 or tops[-1] != n or (np.diff(tops) <= 0).any():
        return "broken level offsets"
    level = np.searchsorted(tops, np.arange(n), side="right")
    parents = np.repeat(np.arange(n), np.diff(ir.offsets))
    if e and (ir.children.min() < 0 or ir.children.max() >= n or (level[ir.children] >= level[parents]).any()):
        return "a child is not on a lower level"
    leaf = (ir.kind == LITERAL) | (ir.kind == CONSTANT)
    if (leaf != (np.diff(ir.offsets) == 0)).any() or (leaf != (level == 1)).any():
        return "leaves with children or inner nodes without"
    literal = np.abs(ir.literal[ir.kind == LITERAL])
    if literal.size and (literal.min() < 1 or literal.max() > ir.num_variables):
        return "literals of unknown variables"
    if np.unique(ir.literal[ir.kind == LITERAL]).size != literal.size:
        return "two nodes of one literal"
    if np.isnan(ir.log_constant).any() or (ir.log_constant == np.inf).any():
        return "a constant that is not the log of a weight"
    return None
