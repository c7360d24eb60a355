"""Compiled knowledge in one ``.npz`` file: the rules as text and the circuits as arrays; nothing is unpickled."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compile import CompiledKnowledge, component_from_circuit, part_specs
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

FORMAT = "neurosym-circuit"
VERSION = 1
_ARRAYS = ("kind", "literal", "log_constant", "offsets", "children", "level_offsets")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def save(compiled: CompiledKnowledge, path: str | Path) -> None:
    """Write compiled knowledge; see :func:`load`."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "circuit": compiled.circuit,
        "class_kind": compiled.class_kind,
        "rules": compiled.kb.to_yaml(),
        "digest": compiled.kb.digest(),
        "kinds": [[component.kind for component in part.components] for part in compiled.parts],
    }
    arrays: dict[str, NDArray[Any]] = {"header": np.array(json.dumps(header))}
    for r, part in enumerate(compiled.parts):
        for i, component in enumerate(part.components):
            for name in _ARRAYS:
                arrays[f"{r}.{i}.{name}"] = getattr(component.ir, name)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(Path(path), buffer.getvalue())


def load(path: str | Path) -> CompiledKnowledge:
    """Read what :func:`save` wrote.

    Raises:
        InputError: not such a file, another version, or damaged.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays["header"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a compiled circuit: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: not a compiled circuit; write one with neurosym compile")
    if header.get("version") != VERSION:
        raise InputError(f"{path}: format version {header.get('version')}, expected {VERSION}; compile the rules again")
    kb = KnowledgeBase.from_text(header["rules"], name=str(path))
    if kb.digest() != header["digest"]:
        raise InputError(f"{path}: the rules do not match their digest; compile them again")
    parts = []
    for r, spec in enumerate(part_specs(kb, header["circuit"])):
        components = []
        for i, (factors, members) in enumerate(spec.blocks):
            ir = _read_ir(path, arrays, f"{r}.{i}", len(members))
            components.append(component_from_circuit(factors, members, ir, header["kinds"][r][i]))
        parts.append(spec.part(tuple(components)))
    return CompiledKnowledge(kb=kb, circuit=header["circuit"], class_kind=header["class_kind"], parts=tuple(parts))


def _read_ir(path: Path, arrays: dict[str, NDArray[Any]], prefix: str, num_variables: int) -> CircuitIR:
    try:
        found = {name: arrays[f"{prefix}.{name}"] for name in _ARRAYS}
    except KeyError as missing:
        raise InputError(f"{path}: array {missing} is missing; compile the rules again") from None
    ir = CircuitIR(num_variables=num_variables, **found)
    fault = find_fault(ir)
    if fault:
        raise InputError(f"{path}: circuit {prefix}: {fault}; compile the rules again")
    return ir


def find_fault(ir: CircuitIR) -> str | None:
    """What is wrong with the arrays of a circuit, or None: indices in range, children on lower levels."""
    n, e = ir.kind.size, ir.children.size
    if n == 0 or not np.isin(ir.kind, (LITERAL, CONSTANT, PRODUCT, SUM)).all():
        return "unknown node kinds"
    if ir.literal.shape != (n,) or ir.log_constant.shape != (n,) or ir.offsets.shape != (n + 1,):
        return "arrays of different lengths"
    if ir.offsets[0] != 0 or ir.offsets[-1] != e or (np.diff(ir.offsets) < 0).any():
        return "broken child offsets"
    levels = ir.level_offsets
    if levels.size < 2 or levels[0] != 0 or levels[-1] != n or (np.diff(levels) <= 0).any():
        return "broken level offsets"
    level = np.searchsorted(levels, np.arange(n), side="right")
    parents = np.repeat(np.arange(n), np.diff(ir.offsets))
    if e and (ir.children.min() < 0 or ir.children.max() >= n or (level[ir.children] >= level[parents]).any()):
        return "a child is not on a lower level"
    leaf = (ir.kind == LITERAL) | (ir.kind == CONSTANT)
    if (leaf != (np.diff(ir.offsets) == 0)).any() or (leaf != (level == 1)).any():
        return "leaves with children or inner nodes without"
    literal = np.abs(ir.literal[ir.kind == LITERAL])
    if literal.size and (literal.min() < 1 or literal.max() > ir.num_variables):
        return "literals of unknown variables"
    return None
